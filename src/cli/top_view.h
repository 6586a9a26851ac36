/* What `weir top` shows of a state (docs/observability.md): a screen of lines, or one line for a log.
 *
 * Text from the server is hostile: control characters and what is not UTF-8 become '?', so that nothing of it reaches
 * the terminal as a command. Missing or null figures show as "-". No I/O here.
 */
#ifndef WEIR_CLI_TOP_VIEW_H
#define WEIR_CLI_TOP_VIEW_H

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TOP_HISTORY 512
#define TOP_MIN_WIDTH 40
#define TOP_MAX_WIDTH 1000

struct top_view {
    uint32_t width, height; /* columns and lines; height 0: as many as there is to show */
    bool utf8, colour;
    bool to_end;                /* each line ends by clearing the rest of it: for a terminal */
    uint32_t scroll;            /* requests that are skipped */
    float history[TOP_HISTORY]; /* bandwidth utilisation, the newest last */
    uint32_t n_history;
};

/* Remembers what the sparkline shows; a state with a history fills it whole. */
void top_view_remember(struct top_view *v, const json_t *state);

/* The screen: at most height lines of at most width columns. status: of the connection. */
void top_view_screen(struct top_view *v, const json_t *state, const char *status, struct buf *out);

/* One line of `name=value` pairs, ending in a newline. */
void top_view_line(const json_t *state, struct buf *out);

#endif
