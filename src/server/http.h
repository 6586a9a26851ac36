/* HTTP/1.1 for the API: libevent's evhttp with the limits and the manners that a public port needs.
 *
 * evhttp parses and frames; this layer adds what version 2.1 lacks: JSON error bodies, a deadline for slow senders,
 * a bound on connections and on unread output, TLS, notice of clients that leave while nothing is being written, and
 * draining. A client that closes its sending side counts as gone, as with most servers.
 *
 * One thread (the one that runs the event_base) owns everything here. A connection carries one request at a time;
 * pipelined ones wait in its input buffer. A request handle is valid from on_request until the answer is complete
 * (http_reply, http_stream_end, http_abort) or `gone` is called, whichever comes first, and never after.
 */
#ifndef WEIR_SERVER_HTTP_H
#define WEIR_SERVER_HTTP_H

#include "base/err.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_server;
struct http_request;

struct http_config {
    const char *host;               /* address or name to listen on */
    uint16_t port;                  /* 0: any; http_server_port tells */
    const char *tls_cert, *tls_key; /* PEM files; NULL: plain HTTP */
    size_t max_header_bytes, max_body_bytes;
    size_t max_output_bytes;    /* waiting to be read by one client */
    size_t max_receiving_bytes; /* of requests that have not arrived whole yet, all together */
    uint32_t max_connections;   /* more wait in the listen queue */
    double idle_timeout_s;      /* without a byte in either direction, except while a request is being answered */
    double header_timeout_s;    /* for a request to arrive, plus a second for each 64 KiB of it */
    void (*on_request)(struct http_request *r, void *arg);
    void *arg;
};

int http_server_create(struct http_server **out, struct event_base *base, const struct http_config *c, struct err *e);

/* Closes every connection (calling gone where a request is open) and the listener. */
void http_server_destroy(struct http_server *s);

uint16_t http_server_port(const struct http_server *s);
uint32_t http_server_connections(const struct http_server *s);
uint32_t http_server_busy(const struct http_server *s); /* connections with a request that is not fully answered */

/* From now on answers close their connections; idle connections are closed at once. */
void http_server_drain(struct http_server *s);

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OPTIONS, HTTP_OTHER };
enum http_method http_request_method(const struct http_request *r);
const char *http_request_path(const struct http_request *r);                     /* decoded, without the query */
const char *http_request_header(const struct http_request *r, const char *name); /* NULL if absent */

/* All headers of the name, joined by commas, into out[n]; false if there is none or they do not fit. */
bool http_request_headers(const struct http_request *r, const char *name, char *out, size_t n);

/* A parameter of the query, decoded, into out[n]: 1; 0 if absent; -1 if it does not fit or the query is malformed. */
int http_request_query(const struct http_request *r, const char *name, char *out, size_t n);

/* The body, to be freed by the caller; NULL without memory. Once. */
char *http_request_take_body(struct http_request *r, size_t *n);

/* Called when the client leaves before the answer is complete. */
void http_request_on_gone(struct http_request *r, void (*gone)(void *user), void *user);

void http_reply_header(struct http_request *r, const char *name, const char *value);

/* A whole answer. data is copied; content_type may be NULL. */
void http_reply(struct http_request *r, int status, const char *content_type, const char *data, size_t n);

/* A streamed answer. http_stream_write returns WEIR_ELIMIT when the client reads too slowly: then the caller
 * http_aborts. */
void http_stream_start(struct http_request *r, const char *content_type);
int http_stream_write(struct http_request *r, const char *data, size_t n);
void http_stream_end(struct http_request *r);

/* Closes the connection now; gone is not called. */
void http_abort(struct http_request *r);

#endif
