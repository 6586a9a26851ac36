/* The live state of a server, over HTTP(S) with libcurl: one snapshot, or its stream with reconnecting.
 *
 * States are the objects of GET /v1/weir/state (docs/observability.md). A server's answer is bounded
 * (TOP_MAX_STATE_BYTES) and parsed as hostile JSON. Redirects are not followed, so that a key goes nowhere else. One
 * thread; the strings that config points to must outlive the feed.
 */
#ifndef WEIR_CLI_TOP_FEED_H
#define WEIR_CLI_TOP_FEED_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>

#define TOP_MAX_STATE_BYTES ((size_t)8 << 20)

struct top_feed_config {
    const char *url;     /* of the server: http://127.0.0.1:8080 */
    const char *api_key; /* or NULL */
    const char *ca_file; /* PEM that certificates must follow from, or NULL: the system's */
};

struct top_feed;

int top_feed_create(struct top_feed **out, const struct top_feed_config *c, struct err *e);
void top_feed_destroy(struct top_feed *f);

/* One state, with its history; the caller json_decref's it. */
int top_feed_once(struct top_feed *f, json_t **state, struct err *e);

/* Works on the stream for up to timeout_s, less when a state came or fd (if >= 0) has input. A lost connection is tried
 * again by itself, at growing intervals. Fails only where trying again is no use: the server refuses the key, or
 * has no such endpoint. */
int top_feed_wait(struct top_feed *f, int fd, double timeout_s, struct err *e);

/* The newest state that was not taken yet, to be json_decref'd, or NULL. */
json_t *top_feed_take(struct top_feed *f);

/* Ends the stream, so that the server stops sending; the next top_feed_wait begins it anew. */
void top_feed_pause(struct top_feed *f);

/* One word or sentence: "live", "connecting", or what is wrong. */
const char *top_feed_status(const struct top_feed *f);

#endif
