/* Reports as one self-contained page: a template of the binary (EMBED in the Makefile), with the style and the script
 * that all pages share and the report's JSON written into it. The template holds the marks STYLE and SCRIPT, each in a
 * comment, and a REPORT mark before null, each once. */
#ifndef WEIR_CLI_PAGE_H
#define WEIR_CLI_PAGE_H

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>

/* A report as JSON text, indented, or as a page, with so many digits. Takes over the reference; WEIR_ENOMEM if it is
 * NULL or the page's template is not there; a full buffer fails there. */
int page_put_json(struct buf *b, json_t *report, unsigned digits);
int page_put(struct buf *b, const char *page, json_t *report, unsigned digits);

/* Writes a file whole; "-" is standard output. */
int page_write(const struct buf *b, const char *path, struct err *e);

#endif
