/* Private to http.c and http_pages.c: answers made without a request, and closing without losing them. */
#ifndef WEIR_SERVER_HTTP_IMPL_H
#define WEIR_SERVER_HTTP_IMPL_H

#include "base/buf.h"
#include "server/api_params.h"
#include "server/http.h"

struct lingerer;

const char *http_status_text(int status);

/* A whole response, head and JSON body, that closes the connection. */
void http_error_page(struct buf *out, int status);

/* Bytes that one connection may have received and not yet handled. */
size_t http_max_input(const struct http_config *c);

/* Keeps the socket open on a duplicate, reading and discarding for a moment, so that the answer isn't lost to the reset
 * that closing with unread input would send. */
void linger_on(struct lingerer **list, struct event_base *base, int fd);
void linger_finish(struct lingerer **list);

/* An error object as the answer to a request. */
void http_reply_error(struct http_request *r, const struct api_error *e);

#endif
