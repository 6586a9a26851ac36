/* Stop strings in a stream of text, found across the borders of its pieces. What may be the beginning of a stop string
 * is held back; everything before it may be sent.
 */
#ifndef WEIR_ENGINE_STOP_H
#define WEIR_ENGINE_STOP_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define STOP_MAX_STRINGS 16
#define STOP_MAX_BYTES 512

struct stop_matcher {
    uint32_t n_strings;
    char *strings[STOP_MAX_STRINGS];
    size_t lengths[STOP_MAX_STRINGS];
    struct buf text; /* what was neither sent nor matched yet: append here, then scan */
};

/* Copies the strings. WEIR_EINVAL for one that is empty, too long or not UTF-8, or too many of them. */
int stop_init(struct stop_matcher *m, const char *const *strings, uint32_t n, size_t max_text_bytes, struct err *e);
void stop_finish(struct stop_matcher *m);

/* Looks for the first stop string in m->text (of several at one place the longest). Returns its index, *n_before the
 * bytes in front of it; or -1, *n_before the bytes that no stop string can begin in any more. */
int stop_scan(const struct stop_matcher *m, size_t *n_before);

#endif
