#include "base/mem.h"
#include "server/api_reply.h"
#include "server/http_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LINGER_S 2
#define LINGER_BYTES ((size_t)64 << 20)

struct lingerer {
    struct lingerer **list, *next;
    struct event *event;
    int fd;
    size_t discarded;
};

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {200, "OK"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {413, "Content Too Large"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].status == status)
            return table[i].text;
    }
    return "Error";
}

static void describe(struct api_error *e, int status)
{
    switch (status) {
    case 408:
        api_error_set(e, status, "request_timeout", NULL, "the request took too long to arrive");
        break;
    case 413:
        api_error_set(e, status, "request_too_large", NULL, "the request body is malformed or larger than allowed");
        break;
    case 431:
        api_error_set(e, status, "headers_too_large", NULL, "the request's headers are larger than allowed");
        break;
    case 501:
        api_error_set(e, status, "unknown_method", NULL, "this HTTP method is not known");
        break;
    case 417:
        api_error_set(e, status, "expectation_failed", NULL, "only 'Expect: 100-continue' is understood");
        break;
    case 503:
        api_error_set(e, status, "overloaded", NULL, "too much data is arriving at once, try again");
        break;
    default:
        api_error_set(e, status, "invalid_request", NULL, "this is not a valid HTTP request");
    }
}

void http_error_page(struct buf *out, int status)
{
    struct api_error e;
    describe(&e, status);
    struct buf body;
    buf_init(&body, 4096);
    reply_error(&body, &e);
    buf_printf(out,
               "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
               status, http_status_text(status), body.len);
    buf_add(out, body.data, body.len);
    buf_finish(&body);
}

void http_reply_error(struct http_request *r, const struct api_error *e)
{
    struct buf body;
    buf_init(&body, 8192);
    reply_error(&body, e);
    if (e->retry_after_s > 0) {
        char seconds[24];
        snprintf(seconds, sizeof seconds, "%.0f", fmin(ceil(e->retry_after_s), 86400));
        http_reply_header(r, "Retry-After", seconds);
    }
    if (e->status == 401)
        http_reply_header(r, "WWW-Authenticate", "Bearer");
    http_reply(r, e->status, "application/json", body.data, body.len);
    buf_finish(&body);
}

size_t http_max_input(const struct http_config *c)
{
    return c->max_header_bytes + c->max_body_bytes + 65536; /* and framing; evhttp takes whole chunks out */
}

static void linger_end(struct lingerer *l)
{
    for (struct lingerer **at = l->list; *at; at = &(*at)->next) {
        if (*at == l) {
            *at = l->next;
            break;
        }
    }
    event_free(l->event);
    close(l->fd);
    free(l);
}

static void on_linger(evutil_socket_t fd, short what, void *arg)
{
    struct lingerer *l = arg;
    char discard[16384];
    ssize_t n = what & EV_READ ? read(fd, discard, sizeof discard) : 0;
    if (n > 0)
        l->discarded += (size_t)n;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || l->discarded > LINGER_BYTES)
        linger_end(l);
}

void linger_on(struct lingerer **list, struct event_base *base, int fd)
{
    struct lingerer *l = mem_array(1, sizeof *l);
    int copy = l ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy >= 0)
        l->event = event_new(base, copy, EV_READ | EV_PERSIST, on_linger, l);
    if (copy < 0 || !l->event) { /* then the connection just closes */
        if (copy >= 0)
            close(copy);
        free(l);
        return;
    }
    l->fd = copy;
    l->list = list;
    l->next = *list;
    *list = l;
    event_add(l->event, &(struct timeval){.tv_sec = LINGER_S});
}

void linger_finish(struct lingerer **list)
{
    while (*list)
        linger_end(*list);
}
