#include "server/http.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/api_reply.h"
#include "server/http_impl.h"

#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIPELINE_BYTES 65536 /* read ahead of the request that is being answered */
#define SEND_BUFFER_BYTES 262144
#define BYTES_PER_S 65536 /* the slowest sender that is put up with */

/* A connection, and the handle of the request that it carries. */
struct http_request {
    struct http_server *server;
    struct http_request *prev, *next;
    struct bufferevent *bev;
    struct evhttp_connection *evcon; /* NULL until adopted */
    struct evbuffer_cb_entry *in_cb, *out_cb;
    struct event *deadline;
    int fd;
    double began_s;   /* when the first byte of the request being received arrived */
    size_t received;  /* bytes of it */
    bool overload;    /* cut off for the sake of the others */
    bool rewriting;   /* the output callback is at work */
    size_t page_seen; /* bytes of an error page that evhttp has written so far */

    struct evhttp_request *request; /* NULL while receiving */
    bool answered;                  /* the answer is complete, perhaps not yet sent */
    char *path;
    void (*gone)(void *user);
    void *user;
};

struct http_server {
    struct http_config config;
    struct event_base *base;
    struct evhttp *evhttp;
    struct evconnlistener *listener;
    SSL_CTX *tls;
    struct http_request *connections; /* adopted and fresh */
    uint32_t n_connections, n_busy;
    struct http_request **by_fd;
    size_t n_by_fd;
    size_t receiving; /* bytes of requests that are not whole yet */
    struct event *adopt, *accept_again;
    struct lingerer *lingerers;
    struct evbuffer *scratch;
    uint16_t port;
    bool draining;
};

static struct timeval seconds(double s)
{
    s = fmin(fmax(s, 0.001), 1e9);
    return (struct timeval){.tv_sec = (time_t)s, .tv_usec = (suseconds_t)((s - floor(s)) * 1e6)};
}

/* ---- Connections ---- */

static void forget(struct http_request *c)
{
    struct http_server *s = c->server;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->connections = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_connections--;
    if (c->fd >= 0 && (size_t)c->fd < s->n_by_fd && s->by_fd[c->fd] == c)
        s->by_fd[c->fd] = NULL;
    event_free(c->deadline);
    free(c->path);
    free(c);
    if (s->listener && s->n_connections < s->config.max_connections)
        evconnlistener_enable(s->listener);
}

static void stop_receiving(struct http_request *c)
{
    event_del(c->deadline);
    c->server->receiving -= c->received;
    c->received = 0;
}

/* evhttp frees the connection: the last that we hear of it. */
static void on_close(struct evhttp_connection *evcon, void *arg)
{
    (void)evcon;
    struct http_request *c = arg;
    struct http_server *s = c->server;
    if (c->in_cb)
        evbuffer_remove_cb_entry(bufferevent_get_input(c->bev), c->in_cb);
    if (c->out_cb)
        evbuffer_remove_cb_entry(bufferevent_get_output(c->bev), c->out_cb);
    stop_receiving(c);
    if (c->request) {
        s->n_busy--;
        /* A request cut off from its connection is ours to free; one still on it goes with it. */
        if (!evhttp_request_get_connection(c->request))
            evhttp_request_free(c->request);
        c->request = NULL;
        if (!c->answered && c->gone)
            c->gone(c->user);
    }
    forget(c);
}

/* Answers by hand and closes: for requests that never became one. Under TLS the connection just closes. */
static void refuse(struct http_request *c, int status)
{
    struct buf page;
    buf_init(&page, 4096);
    http_error_page(&page, status);
    if (!c->server->tls && send(c->fd, page.data, page.len, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        linger_on(&c->server->lingerers, c->server->base, c->fd);
    buf_finish(&page);
    evhttp_connection_free(c->evcon);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct http_request *c = arg;
    double allowed = c->server->config.header_timeout_s + (double)c->received / BYTES_PER_S;
    double left = c->began_s + allowed - clock_monotonic_s();
    if (left > 0 && !c->overload) {
        struct timeval tv = seconds(left);
        event_add(c->deadline, &tv);
        return;
    }
    LOG(LOG_DEBUG, "request cut off", {"received_bytes", log_u64(c->received)}, {"overload", log_bool(c->overload)});
    if (c->received)
        refuse(c, c->overload ? 503 : 408);
    else
        evhttp_connection_free(c->evcon);
}

static void begin_receiving(struct http_request *c, size_t already)
{
    struct timeval tv = seconds(c->server->config.header_timeout_s);
    c->began_s = clock_monotonic_s();
    c->received = already;
    c->server->receiving += already;
    c->page_seen = 0;
    event_add(c->deadline, &tv);
}

/* Counts what arrives. Runs before evhttp sees it. */
static void on_input(struct evbuffer *in, const struct evbuffer_cb_info *info, void *arg)
{
    (void)in;
    struct http_request *c = arg;
    struct http_server *s = c->server;
    if (!info->n_added || c->request)
        return;
    if (!event_pending(c->deadline, EV_TIMEOUT, NULL))
        begin_receiving(c, 0);
    c->received += info->n_added;
    s->receiving += info->n_added;
    if (s->receiving > s->config.max_receiving_bytes) {
        c->overload = true;
        event_active(c->deadline, EV_TIMEOUT, 0);
    }
}

/* evhttp 2.1 answers malformed and oversized requests itself, in HTML, and unknown methods with the status 0. What it
 * writes while no request is with us is such a page (or "100 Continue"): once whole, it is replaced by ours. */
static void on_output(struct evbuffer *out, const struct evbuffer_cb_info *info, void *arg)
{
    static const char end[] = "</BODY></HTML>\n";
    struct http_request *c = arg;
    if (!info->n_added || c->request || c->rewriting)
        return;
    size_t n = evbuffer_get_length(out);
    char *page = (char *)evbuffer_pullup(out, -1);
    if (!page || (n > 12 && !memcmp(page + 9, "100", 3)))
        return;
    c->page_seen += info->n_added;
    if (n != c->page_seen || n < sizeof end || memcmp(page + n - (sizeof end - 1), end, sizeof end - 1))
        return; /* not whole yet, or partly sent: then it goes as it is */
    int status = n > 12 ? atoi(page + 9) : 0;
    if (status == 400 && c->received > c->server->config.max_header_bytes)
        status = 431;
    c->rewriting = true;
    struct buf ours;
    buf_init(&ours, 4096);
    http_error_page(&ours, status ? status : 501);
    if (!c->server->tls) /* only a plain bufferevent keeps its output's front frozen between writes */
        evbuffer_unfreeze(out, 1);
    evbuffer_drain(out, n);
    if (!c->server->tls)
        evbuffer_freeze(out, 1);
    evbuffer_add(out, ours.data, ours.len);
    buf_finish(&ours);
    linger_on(&c->server->lingerers, c->server->base, c->fd);
    c->rewriting = false;
    stop_receiving(c);
}

/* Gives a fresh connection its table entry, close callback and options: evhttp has none of this at accept time. */
static void adopt(struct http_request *c)
{
    struct http_server *s = c->server;
    void *evcon = NULL;
    bufferevent_getcb(c->bev, NULL, NULL, NULL, &evcon);
    c->fd = bufferevent_getfd(c->bev);
    if (!evcon || c->fd < 0) { /* evhttp had no memory for it */
        bufferevent_free(c->bev);
        forget(c);
        return;
    }
    size_t need = (size_t)c->fd + 1;
    if (need > s->n_by_fd) {
        struct http_request **grown = mem_resize(s->by_fd, need * 2, sizeof *grown);
        if (grown) {
            memset(grown + s->n_by_fd, 0, (need * 2 - s->n_by_fd) * sizeof *grown);
            s->by_fd = grown;
            s->n_by_fd = need * 2;
        }
    }
    c->evcon = evcon;
    evhttp_connection_set_closecb(c->evcon, on_close, c);
    c->in_cb = evbuffer_add_cb(bufferevent_get_input(c->bev), on_input, c);
    c->out_cb = evbuffer_add_cb(bufferevent_get_output(c->bev), on_output, c);
    if (need > s->n_by_fd || !c->in_cb || !c->out_cb) {
        evhttp_connection_free(c->evcon);
        return;
    }
    s->by_fd[c->fd] = c;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    /* Else the kernel grows it to megabytes for a client that does not read. */
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER_BYTES}, sizeof(int));
    bufferevent_setwatermark(c->bev, EV_READ, 0, http_max_input(&s->config));
    begin_receiving(c, 0);
}

static void on_adopt(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct http_server *s = arg;
    for (struct http_request *c = s->connections, *next; c; c = next) {
        next = c->next;
        if (c->evcon)
            break; /* fresh ones stand in front */
        adopt(c);
    }
}

/* evhttp asks for the bufferevent of a connection that it has just accepted; the rest follows in on_adopt, which runs
 * before anything can arrive. */
static struct bufferevent *on_accept(struct event_base *base, void *arg)
{
    struct http_server *s = arg;
    struct http_request *c = mem_array(1, sizeof *c);
    if (!c)
        return NULL;
    c->server = s;
    c->fd = -1;
    c->deadline = evtimer_new(base, on_deadline, c);
    if (c->deadline && s->tls) {
        SSL *ssl = SSL_new(s->tls);
        c->bev = ssl ? bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE)
                     : NULL;
        if (c->bev)
            bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
    } else if (c->deadline) {
        c->bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    }
    if (!c->bev) {
        if (c->deadline)
            event_free(c->deadline);
        free(c);
        return NULL; /* evhttp makes a plain one, which on_request refuses to know */
    }
    c->next = s->connections;
    if (c->next)
        c->next->prev = c;
    s->connections = c;
    s->n_connections++;
    if (s->n_connections >= s->config.max_connections)
        evconnlistener_disable(s->listener);
    event_active(s->adopt, EV_TIMEOUT, 0);
    return c->bev;
}

/* ---- Requests ---- */

/* The answer is sent: the connection waits for the next request. */
static void on_sent(struct evhttp_request *req, void *arg)
{
    (void)req;
    struct http_request *c = arg;
    struct http_server *s = c->server;
    c->request = NULL;
    c->answered = false;
    c->gone = NULL;
    free(c->path);
    c->path = NULL;
    s->n_busy--;
    struct timeval idle = seconds(s->config.idle_timeout_s);
    bufferevent_set_timeouts(c->bev, &idle, &idle);
    bufferevent_setwatermark(c->bev, EV_READ, 0, http_max_input(&s->config));
    size_t waiting = evbuffer_get_length(bufferevent_get_input(c->bev));
    if (waiting)
        begin_receiving(c, waiting);
}

/* What evhttp lets through although two readers could frame it differently (request smuggling). */
static bool framing_is_ambiguous(const struct evhttp_request *req)
{
    int n_length = 0, n_encoding = 0;
    bool chunked = true;
    const struct evkeyval *h;
    for (h = req->input_headers->tqh_first; h; h = h->next.tqe_next) {
        if (!evutil_ascii_strcasecmp(h->key, "Content-Length"))
            n_length++;
        if (!evutil_ascii_strcasecmp(h->key, "Transfer-Encoding")) {
            n_encoding++;
            chunked = chunked && !evutil_ascii_strcasecmp(h->value, "chunked");
        }
    }
    return n_length > 1 || n_encoding > 1 || (n_length && n_encoding) || !chunked;
}

static void on_evhttp_request(struct evhttp_request *req, void *arg)
{
    struct http_server *s = arg;
    struct evhttp_connection *evcon = evhttp_request_get_connection(req);
    struct bufferevent *bev = evhttp_connection_get_bufferevent(evcon);
    int fd = bufferevent_getfd(bev);
    struct http_request *c = fd >= 0 && (size_t)fd < s->n_by_fd ? s->by_fd[fd] : NULL;
    if (!c || c->bev != bev) {
        evhttp_connection_free(evcon);
        return;
    }
    stop_receiving(c);
    c->request = req;
    c->answered = false;
    c->gone = NULL;
    s->n_busy++;
    evhttp_request_set_on_complete_cb(req, on_sent, c);

    /* Go on reading, into a small buffer, to notice when the client leaves. */
    bufferevent_event_cb on_event;
    bufferevent_data_cb on_write;
    void *cb_arg;
    bufferevent_getcb(bev, NULL, &on_write, &on_event, &cb_arg);
    bufferevent_setcb(bev, NULL, on_write, on_event, cb_arg);
    struct timeval idle = seconds(s->config.idle_timeout_s);
    bufferevent_set_timeouts(bev, NULL, &idle);
    bufferevent_setwatermark(bev, EV_READ, 0, PIPELINE_BYTES);
    bufferevent_enable(bev, EV_READ);

    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    free(c->path);
    c->path = evhttp_uridecode(path ? path : "/", 0, NULL);
    bool ambiguous = framing_is_ambiguous(req);
    /* An HTTP/1.0 client that asks for keep-alive would get a stream without an end. */
    if (req->major < 1 || req->minor < 1)
        evhttp_remove_header(req->input_headers, "Connection");
    if (ambiguous || !c->path) {
        struct api_error e;
        api_error_set(&e, 400, "invalid_request", NULL, "the request's length is ambiguous");
        http_reply_header(c, "Connection", "close");
        http_reply_error(c, &e);
        return;
    }
    s->config.on_request(c, s->config.arg);
}

enum http_method http_request_method(const struct http_request *r)
{
    switch (evhttp_request_get_command(r->request)) {
    case EVHTTP_REQ_GET:
        return HTTP_GET;
    case EVHTTP_REQ_HEAD:
        return HTTP_HEAD;
    case EVHTTP_REQ_POST:
        return HTTP_POST;
    case EVHTTP_REQ_OPTIONS:
        return HTTP_OPTIONS;
    default:
        return HTTP_OTHER;
    }
}

const char *http_request_path(const struct http_request *r)
{
    return r->path;
}

const char *http_request_header(const struct http_request *r, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(r->request), name);
}

bool http_request_headers(const struct http_request *r, const char *name, char *out, size_t n)
{
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(r->request);
    size_t at = 0;
    bool found = false;
    for (const struct evkeyval *h = headers->tqh_first; h; h = h->next.tqe_next) {
        if (evutil_ascii_strcasecmp(h->key, name))
            continue;
        size_t len = strlen(h->value);
        if (at + found + len + 1 > n)
            return false;
        if (found)
            out[at++] = ',';
        memcpy(out + at, h->value, len + 1);
        at += len;
        found = true;
    }
    return found;
}

int http_request_query(const struct http_request *r, const char *name, char *out, size_t n)
{
    const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(r->request));
    struct evkeyvalq all;
    if (!query || !*query)
        return 0;
    if (evhttp_parse_query_str(query, &all))
        return -1;
    const char *value = evhttp_find_header(&all, name);
    int found = value ? strlen(value) < n ? 1 : -1 : 0;
    if (found > 0)
        strcpy(out, value);
    evhttp_clear_headers(&all);
    return found;
}

char *http_request_take_body(struct http_request *r, size_t *n)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(r->request);
    *n = evbuffer_get_length(in);
    char *body = malloc(*n + 1);
    if (!body)
        return NULL;
    evbuffer_remove(in, body, *n);
    body[*n] = 0;
    return body;
}

void http_request_on_gone(struct http_request *r, void (*gone)(void *user), void *user)
{
    r->gone = gone;
    r->user = user;
}

void http_reply_header(struct http_request *r, const char *name, const char *value)
{
    evhttp_add_header(evhttp_request_get_output_headers(r->request), name, value);
}

static void close_if_draining(struct http_request *r)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(r->request);
    if (r->server->draining && !evhttp_find_header(headers, "Connection"))
        evhttp_add_header(headers, "Connection", "close");
}

void http_reply(struct http_request *r, int status, const char *content_type, const char *data, size_t n)
{
    assert(!r->answered);
    r->answered = true;
    if (content_type)
        http_reply_header(r, "Content-Type", content_type);
    close_if_draining(r);
    struct evbuffer *body = r->server->scratch;
    if (http_request_method(r) != HTTP_HEAD) {
        evbuffer_add(body, data, n);
    } else { /* evhttp would send the body */
        char length[24];
        evutil_snprintf(length, sizeof length, "%zu", n);
        http_reply_header(r, "Content-Length", length);
    }
    evhttp_send_reply(r->request, status, http_status_text(status), body);
    evbuffer_drain(body, evbuffer_get_length(body));
}

void http_stream_start(struct http_request *r, const char *content_type)
{
    http_reply_header(r, "Content-Type", content_type);
    close_if_draining(r);
    evhttp_send_reply_start(r->request, 200, "OK");
}

int http_stream_write(struct http_request *r, const char *data, size_t n)
{
    struct evbuffer *chunk = r->server->scratch;
    evbuffer_add(chunk, data, n);
    evhttp_send_reply_chunk(r->request, chunk);
    evbuffer_drain(chunk, evbuffer_get_length(chunk));
    size_t unsent = evbuffer_get_length(bufferevent_get_output(r->bev));
    return unsent > r->server->config.max_output_bytes ? WEIR_ELIMIT : 0;
}

void http_stream_end(struct http_request *r)
{
    assert(!r->answered);
    r->answered = true;
    evhttp_send_reply_end(r->request);
}

void http_abort(struct http_request *r)
{
    r->answered = true;
    evhttp_connection_free(r->evcon);
}

/* ---- Server ---- */

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct http_server *s = arg;
    if (s->n_connections < s->config.max_connections)
        evconnlistener_enable(s->listener);
}

/* Out of file descriptors, most likely: try again shortly instead of spinning. */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
    struct http_server *s = arg;
    LOG(LOG_WARN, "accept failed", {"error", log_str(strerror(errno))});
    evconnlistener_disable(listener);
    struct timeval tv = seconds(0.1);
    event_add(s->accept_again, &tv);
}

static int tls_error(struct err *e, const char *what, const char *path)
{
    char text[256];
    ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
    ERR_clear_error();
    return err_set(e, WEIR_EINVAL, "%s %s: %s", what, path, text);
}

static int setup_tls(struct http_server *s, struct err *e)
{
    const struct http_config *c = &s->config;
    if (!c->tls_cert && !c->tls_key)
        return 0;
    if (!c->tls_cert || !c->tls_key)
        return err_set(e, WEIR_EINVAL, "TLS needs both --tls-cert and --tls-key");
    s->tls = SSL_CTX_new(TLS_server_method());
    if (!s->tls)
        return err_set(e, WEIR_ENOMEM, "no memory for TLS");
    SSL_CTX_set_min_proto_version(s->tls, TLS1_2_VERSION);
    SSL_CTX_set_options(s->tls, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(s->tls, SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(s->tls, c->tls_cert) != 1)
        return tls_error(e, "cannot use the TLS certificate", c->tls_cert);
    if (SSL_CTX_use_PrivateKey_file(s->tls, c->tls_key, SSL_FILETYPE_PEM) != 1)
        return tls_error(e, "cannot use the TLS key", c->tls_key);
    if (SSL_CTX_check_private_key(s->tls) != 1)
        return tls_error(e, "the TLS certificate does not belong to the key", c->tls_key);
    return 0;
}

static int listen_on(struct http_server *s, struct err *e)
{
    const struct http_config *c = &s->config;
    char port[8];
    evutil_snprintf(port, sizeof port, "%u", c->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    int gai = getaddrinfo(c->host, port, &hints, &list);
    if (gai)
        return err_set(e, WEIR_EINVAL, "cannot listen on '%s': %s", c->host, gai_strerror(gai));
    int saved = 0;
    for (struct addrinfo *a = list; a && !s->listener; a = a->ai_next) {
        s->listener = evconnlistener_new_bind(s->base, NULL, NULL,
                                              LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 511,
                                              a->ai_addr, (int)a->ai_addrlen);
        saved = errno;
    }
    freeaddrinfo(list);
    if (!s->listener)
        return err_set(e, WEIR_EIO, "cannot listen on %s port %u: %s", c->host, c->port, strerror(saved));
    if (!evhttp_bind_listener(s->evhttp, s->listener)) {
        evconnlistener_free(s->listener);
        s->listener = NULL;
        return err_set(e, WEIR_ENOMEM, "no memory for the listener");
    }
    evconnlistener_set_error_cb(s->listener, on_accept_error);
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    if (!getsockname(evconnlistener_get_fd(s->listener), (struct sockaddr *)&at, &n))
        s->port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                                 : ((struct sockaddr_in *)&at)->sin_port);
    return 0;
}

int http_server_create(struct http_server **out, struct event_base *base, const struct http_config *c, struct err *e)
{
    struct http_server *s = mem_array(1, sizeof *s);
    if (!s)
        return err_set(e, WEIR_ENOMEM, "no memory for the HTTP server");
    s->config = *c;
    s->base = base;
    int r = setup_tls(s, e);
    if (r)
        goto fail;
    r = WEIR_ENOMEM;
    err_set(e, r, "no memory for the HTTP server");
    s->evhttp = evhttp_new(base);
    s->scratch = evbuffer_new();
    s->adopt = event_new(base, -1, 0, on_adopt, s);
    s->accept_again = evtimer_new(base, on_accept_again, s);
    if (!s->evhttp || !s->scratch || !s->adopt || !s->accept_again)
        goto fail;
    struct timeval idle = seconds(c->idle_timeout_s);
    evhttp_set_timeout_tv(s->evhttp, &idle);
    evhttp_set_max_headers_size(s->evhttp, (ev_ssize_t)c->max_header_bytes);
    evhttp_set_max_body_size(s->evhttp, (ev_ssize_t)c->max_body_bytes);
    evhttp_set_allowed_methods(s->evhttp, 0x1ff); /* all that it knows; others get 501 */
    evhttp_set_default_content_type(s->evhttp, NULL);
    evhttp_set_bevcb(s->evhttp, on_accept, s);
    evhttp_set_gencb(s->evhttp, on_evhttp_request, s);
    r = listen_on(s, e);
    if (r)
        goto fail;
    *out = s;
    return 0;
fail:
    http_server_destroy(s);
    return r;
}

void http_server_destroy(struct http_server *s)
{
    if (!s)
        return;
    s->listener = NULL; /* evhttp frees it */
    if (s->evhttp)
        evhttp_free(s->evhttp);
    linger_finish(&s->lingerers);
    if (s->adopt)
        event_free(s->adopt);
    if (s->accept_again)
        event_free(s->accept_again);
    if (s->scratch)
        evbuffer_free(s->scratch);
    SSL_CTX_free(s->tls);
    free(s->by_fd);
    free(s);
}

uint16_t http_server_port(const struct http_server *s)
{
    return s->port;
}

uint32_t http_server_connections(const struct http_server *s)
{
    return s->n_connections;
}

uint32_t http_server_busy(const struct http_server *s)
{
    return s->n_busy;
}

void http_server_drain(struct http_server *s)
{
    s->draining = true;
    for (struct http_request *c = s->connections, *next; c; c = next) {
        next = c->next;
        if (c->evcon && !c->request && !c->received)
            evhttp_connection_free(c->evcon);
    }
}
