/* Reports as one self-contained page: a template of the binary (EMBED in the Makefile), with the style and the script
 * that all pages share and the report's JSON written into it. The template holds the marks STYLE and SCRIPT, each in a
 * comment, and a REPORT mark before null, each once. */
#ifndef WEIR_CLI_PAGE_H
#define WEIR_CLI_PAGE_H

#include "base/buf.h"
#include "base/err.h"

/* Appends the page to b; a full buffer fails there. WEIR_ENOMEM if the template is not there. */
int page_render(struct buf *b, const char *page, const char *json);

/* Writes a file whole; "-" is standard output. */
int page_write(const struct buf *b, const char *path, struct err *e);

#endif
