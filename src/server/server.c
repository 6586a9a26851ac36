#include "server/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_impl.h"

#include <assert.h>
#include <event2/event.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define GIVE_UP_S 2.0 /* after the drain's end, for the last answers to be written */

void server_reply(struct server *s, struct http_request *r, int status, const char *type, const char *data, size_t n)
{
    metrics_response(&s->metrics, status);
    http_reply(r, status, type, data, n);
}

void server_reply_error(struct server *s, struct http_request *r, const struct api_error *e)
{
    metrics_response(&s->metrics, e->status);
    http_reply_error(r, e);
}

/* ---- Routes ---- */

struct route {
    const char *path;
    enum http_method method;
    bool needs_key;
    page_handler *handle;
};

static void refuse_draining(struct server *s, struct http_request *r)
{
    struct api_error e;
    api_error_set(&e, 503, "shutting_down", NULL, "the server is shutting down");
    e.retry_after_s = s->config.drain_timeout_s;
    server_reply_error(s, r, &e);
}

static void handle_completions(struct server *s, struct http_request *r, const struct auth_key *key)
{
    if (s->draining)
        refuse_draining(s, r);
    else
        call_begin(s, r, API_COMPLETION, key);
}

static void handle_chat(struct server *s, struct http_request *r, const struct auth_key *key)
{
    if (s->draining)
        refuse_draining(s, r);
    else
        call_begin(s, r, API_CHAT, key);
}

static void handle_tokenize(struct server *s, struct http_request *r, const struct auth_key *key)
{
    call_begin(s, r, API_TOKENIZE, key);
}

static void handle_detokenize(struct server *s, struct http_request *r, const struct auth_key *key)
{
    call_begin(s, r, API_DETOKENIZE, key);
}

static void handle_health(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    static const char ok[] = "{\"status\":\"ok\"}";
    server_reply(s, r, 200, "application/json", ok, sizeof ok - 1);
}

static void handle_ready(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    struct engine_stats stats;
    engine_stats(s->config.engine, &stats);
    const char *status = s->draining ? "draining" : stats.healthy ? "ready" : "engine failed";
    char body[64];
    int n = snprintf(body, sizeof body, "{\"status\":\"%s\"}", status);
    server_reply(s, r, s->draining || !stats.healthy ? 503 : 200, "application/json", body, (size_t)n);
}

static void handle_version(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    static const char version[] = "{\"version\":\"" WEIR_VERSION "\"}";
    server_reply(s, r, 200, "application/json", version, sizeof version - 1);
}

static void handle_metrics(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    struct api_error e;
    if (s->config.no_metrics) {
        api_error_set(&e, 404, "not_found", NULL, "this server shows no metrics (--no-metrics)");
        server_reply_error(s, r, &e);
        return;
    }
    if (!auth_check_metrics(s->config.auth, http_request_header(r, "Authorization"))) {
        api_error_set(&e, 401, "invalid_api_key", NULL,
                      "the key of /metrics is needed, as 'Authorization: Bearer KEY'");
        server_reply_error(s, r, &e);
        return;
    }
    monitor_look(&s->monitor, clock_monotonic_s());
    struct metrics_info info = {.info = &s->config.info,
                                .monitor = &s->monitor,
                                .connections = http_server_connections(s->http),
                                .busy_connections = http_server_busy(s->http) - 1, /* without this one */
                                .listeners = pages_listeners(s->pages),
                                .uptime_s = clock_monotonic_s() - s->started_s,
                                .hardware_source =
                                    s->config.counter ? bandwidth_counter_name(s->config.counter) : NULL};
    if (s->config.otlp) {
        info.has_otlp = true;
        info.otlp = otlp_counts(s->config.otlp);
    }
    bool open_metrics = metrics_wants_open(http_request_header(r, "Accept"));
    struct buf text;
    buf_init(&text, (size_t)4 << 20);
    metrics_render(&text, &s->metrics, &info, open_metrics);
    http_reply_header(r, "Vary", "Accept");
    server_reply(s, r, 200,
                 open_metrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                              : "text/plain; version=0.0.4; charset=utf-8",
                 text.data, text.len);
    buf_finish(&text);
}

static void put_model(struct server *s, struct buf *out, const char *name)
{
    buf_adds(out, "{\"id\":");
    json_put_cstr(out, name);
    buf_printf(out, ",\"object\":\"model\",\"created\":%.0f,\"owned_by\":\"weir\",\"max_model_len\":%u}",
               floor(clock_wall_s() - (clock_monotonic_s() - s->started_s)), s->config.info.max_context);
}

static void handle_models(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    struct buf out;
    buf_init(&out, (size_t)1 << 20);
    buf_adds(&out, "{\"object\":\"list\",\"data\":[");
    for (const char *const *m = s->config.models; *m; m++) {
        buf_adds(&out, m == s->config.models ? "" : ",");
        put_model(s, &out, *m);
    }
    buf_adds(&out, "]}");
    server_reply(s, r, 200, "application/json", out.data, out.len);
    buf_finish(&out);
}

static void handle_model(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    const char *name = http_request_path(r) + strlen("/v1/models/");
    for (const char *const *m = s->config.models; *m; m++) {
        if (strcmp(*m, name))
            continue;
        struct buf out;
        buf_init(&out, 65536);
        put_model(s, &out, name);
        server_reply(s, r, 200, "application/json", out.data, out.len);
        buf_finish(&out);
        return;
    }
    struct api_error e;
    api_error_set(&e, 404, "model_not_found", "model", "the model '%.200s' does not exist", name);
    server_reply_error(s, r, &e);
}

static void handle_dashboard(struct server *s, struct http_request *r, const struct auth_key *key)
{
    (void)key;
    dashboard_reply(s, r);
}

/* A path that ends with a slash is a prefix, but for "/" itself. */
static const struct route routes[] = {
    {"/", HTTP_GET, false, handle_dashboard},
    {"/ui/", HTTP_GET, false, handle_dashboard},
    {"/v1/chat/completions", HTTP_POST, true, handle_chat},
    {"/v1/completions", HTTP_POST, true, handle_completions},
    {"/v1/models", HTTP_GET, true, handle_models},
    {"/v1/models/", HTTP_GET, true, handle_model},
    {"/tokenize", HTTP_POST, true, handle_tokenize},
    {"/detokenize", HTTP_POST, true, handle_detokenize},
    {"/health", HTTP_GET, false, handle_health},
    {"/ready", HTTP_GET, false, handle_ready},
    {"/metrics", HTTP_GET, false, handle_metrics},
    {"/version", HTTP_GET, false, handle_version},
    {"/v1/weir/state", HTTP_GET, true, page_state},
    {"/v1/weir/stream", HTTP_GET, true, page_stream},
    {"/v1/weir/steps", HTTP_GET, true, page_steps},
    {"/v1/weir/requests", HTTP_GET, true, page_requests},
    {"/v1/weir/requests/", HTTP_GET, true, page_request},
    {"/v1/weir/usage", HTTP_GET, true, page_usage},
};

static const struct route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        size_t n = strlen(routes[i].path);
        bool prefix = n > 1 && routes[i].path[n - 1] == '/';
        if (prefix ? !strncmp(routes[i].path, path, n) && path[n] : !strcmp(routes[i].path, path))
            return &routes[i];
    }
    return NULL;
}

static const char *allowed_methods(const struct route *route)
{
    return route->method == HTTP_POST ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
}

/* Lets the configured origins' pages read our answers. */
static void add_cors(const struct server *s, struct http_request *r)
{
    const char *origin = http_request_header(r, "Origin");
    if (!origin || !*s->config.cors_origins)
        return;
    http_reply_header(r, "Vary", "Origin");
    for (const char *const *allowed = s->config.cors_origins; *allowed; allowed++) {
        if (strcmp(*allowed, "*") && strcmp(*allowed, origin))
            continue;
        http_reply_header(r, "Access-Control-Allow-Origin", strcmp(*allowed, "*") ? origin : "*");
        http_reply_header(r, "Access-Control-Expose-Headers",
                          "X-Request-Id, Retry-After, Server-Timing, traceparent, tracestate");
        if (http_request_method(r) == HTTP_OPTIONS) {
            const char *headers = http_request_header(r, "Access-Control-Request-Headers");
            http_reply_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
            http_reply_header(r, "Access-Control-Allow-Headers", headers ? headers : "Authorization, Content-Type");
            http_reply_header(r, "Access-Control-Max-Age", "600");
        }
        return;
    }
}

static void on_request(struct http_request *r, void *arg)
{
    struct server *s = arg;
    const char *path = http_request_path(r);
    const struct route *route = find_route(path);
    enum http_method method = http_request_method(r);
    struct api_error e;
    add_cors(s, r);
    if (!route) {
        api_error_set(&e, 404, "not_found", NULL, "there is nothing at '%.200s'", path);
        server_reply_error(s, r, &e);
        return;
    }
    if (method == HTTP_OPTIONS) {
        http_reply_header(r, "Allow", allowed_methods(route));
        server_reply(s, r, 204, NULL, "", 0);
        return;
    }
    if (method != route->method && !(method == HTTP_HEAD && route->method == HTTP_GET)) {
        http_reply_header(r, "Allow", allowed_methods(route));
        api_error_set(&e, 405, "method_not_allowed", NULL, "'%.200s' takes %s", path, allowed_methods(route));
        server_reply_error(s, r, &e);
        return;
    }
    const struct auth_key *key = auth_check(s->config.auth, http_request_header(r, "Authorization"));
    if (route->needs_key && !key) {
        api_error_set(&e, 401, "invalid_api_key", NULL,
                      "a valid API key is needed, as the header 'Authorization: Bearer KEY'");
        server_reply_error(s, r, &e);
        return;
    }
    route->handle(s, r, key);
}

/* ---- Events ---- */

static void on_prepared(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct server *s = arg;
    void *jobs[64];
    size_t n = ring_drain(&s->prepared, jobs, 64);
    for (size_t i = 0; i < n; i++)
        call_prepared(jobs[i]);
}

static void on_events(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct server *s = arg;
    void *calls[256];
    size_t n = ring_drain(&s->events, calls, 256);
    for (size_t i = 0; i < n; i++)
        call_flush(calls[i]);
}

void server_check_drained(struct server *s)
{
    if (s->draining && !s->n_calls && !http_server_busy(s->http))
        event_base_loopbreak(s->base);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct server *s = arg;
    double now = clock_monotonic_s();
    if (now - s->monitor_tick_s >= 0.45) { /* ticks come more often while draining */
        s->monitor_tick_s = now;
        if (s->config.counter)
            s->monitor.hardware_bytes = bandwidth_counter_bytes(s->config.counter);
        monitor_tick(&s->monitor, now, clock_wall_s());
        pages_tick(s->pages, now);
        if (++s->n_ticks % 2 == 0)
            ledger_flush(s->config.ledger);
    }
    for (struct call *c = s->calls, *next; c; c = next) {
        next = c->next;
        call_tick(c, now);
    }
    if (!s->draining)
        return;
    http_server_drain(s->http); /* those that have become idle */
    double drained_s = now - s->drain_began_s;
    if (drained_s > s->config.drain_timeout_s && !s->gave_up) {
        LOG(LOG_WARN, "drain timeout, cancelling what is left", {"requests", log_u64(s->n_calls)});
        s->gave_up = true;
        for (struct call *c = s->calls; c; c = c->next)
            call_cancel(c);
    }
    if (drained_s > s->config.drain_timeout_s + GIVE_UP_S)
        event_base_loopbreak(s->base);
    server_check_drained(s);
}

static void on_signal(evutil_socket_t signal, short what, void *arg)
{
    (void)what;
    struct server *s = arg;
    if (s->draining) {
        LOG(LOG_WARN, "second signal, exiting now");
        _exit(128 + (int)signal);
    }
    s->draining = true;
    s->drain_began_s = clock_monotonic_s();
    LOG(LOG_INFO, "draining", {"requests", log_u64(s->n_calls)}, {"timeout_s", log_f64(s->config.drain_timeout_s)});
    event_add(s->on_tick, &(struct timeval){.tv_usec = 50000});
    pages_drain(s->pages);
    http_server_drain(s->http);
    server_check_drained(s);
}

/* ---- Life ---- */

static void on_libevent_log(int severity, const char *msg)
{
    LOG(severity >= EVENT_LOG_WARN ? LOG_WARN : LOG_DEBUG, "libevent", {"message", log_str(msg)});
}

static int create_events(struct server *s, struct err *e)
{
    s->on_prepared = event_new(s->base, s->prepared.wake_fd, EV_READ | EV_PERSIST, on_prepared, s);
    s->on_events = event_new(s->base, s->events.wake_fd, EV_READ | EV_PERSIST, on_events, s);
    s->on_term = evsignal_new(s->base, SIGTERM, on_signal, s);
    s->on_int = evsignal_new(s->base, SIGINT, on_signal, s);
    s->on_tick = event_new(s->base, -1, EV_PERSIST, on_tick, s);
    if (!s->on_prepared || !s->on_events || !s->on_term || !s->on_int || !s->on_tick)
        return err_set(e, WEIR_ENOMEM, "no memory for the server's events");
    event_add(s->on_prepared, NULL);
    event_add(s->on_events, NULL);
    event_add(s->on_term, NULL);
    event_add(s->on_int, NULL);
    event_add(s->on_tick, &(struct timeval){.tv_usec = 500000});
    return 0;
}

static int create_parts(struct server *s, struct err *e)
{
    const struct server_config *c = &s->config;
    s->max_calls = c->http.max_connections + 1024;
    s->base = event_base_new();
    if (!s->base)
        return err_set(e, WEIR_ENOMEM, "no memory for the event loop");
    int r = ring_init(&s->prepared, s->max_calls, e);
    if (!r)
        r = ring_init(&s->events, s->max_calls, e);
    if (!r)
        r = create_events(s, e);
    struct prepare_config pc = {.n_threads = c->n_prepare_threads,
                                .max_jobs = s->max_calls,
                                .max_job_bytes = 8 * c->http.max_body_bytes + ((size_t)64 << 20),
                                .tokenizer = c->tokenizer,
                                .chat = c->chat,
                                .template_knows_developer = c->template_knows_developer,
                                .models = c->models,
                                .max_context = c->info.max_context,
                                .itl_target_min_s = c->itl_target_min_s,
                                .done = &s->prepared};
    if (!r)
        r = pages_create(&s->pages, s, e);
    if (!r)
        r = prepare_create(&s->prepare, &pc, e);
    s->config.http.on_request = on_request;
    s->config.http.arg = s;
    if (!r)
        r = http_server_create(&s->http, s->base, &s->config.http, e);
    return r;
}

static void on_step(void *user, const struct step_record *r)
{
    struct server *s = user;
    histogram_add(&s->metrics.step_rows, r->n_rows);
}

int server_create(struct server **out, const struct server_config *c, struct err *e)
{
    struct server *s = mem_array(1, sizeof *s);
    if (!s)
        return err_set(e, WEIR_ENOMEM, "no memory for the server");
    s->config = *c;
    s->started_s = clock_monotonic_s();
    monitor_init(&s->monitor, c->engine, &c->figures, s->started_s);
    metrics_init(&s->metrics, c->info.max_context);
    s->monitor.has_hardware = c->counter != NULL;
    s->monitor.on_step = on_step;
    s->monitor.user = s;
    event_set_log_callback(on_libevent_log);
    signal(SIGPIPE, SIG_IGN);
    if (getrandom(&s->rng.state, sizeof s->rng.state, 0) != sizeof s->rng.state)
        s->rng.state = (uint64_t)(clock_wall_s() * 1e9);
    int r = create_parts(s, e);
    if (r) {
        server_destroy(s);
        return r;
    }
    *out = s;
    return 0;
}

uint16_t server_port(const struct server *s)
{
    return http_server_port(s->http);
}

int server_run(struct server *s)
{
    event_base_dispatch(s->base);
    LOG(LOG_INFO, "stopped serving", {"abandoned_requests", log_u64(s->n_calls)});
    return 0;
}

static void free_event(struct event *ev)
{
    if (ev)
        event_free(ev);
}

void server_destroy(struct server *s)
{
    if (!s)
        return;
    for (struct call *c = s->calls; c; c = c->next) {
        if (c->http)
            http_request_on_gone(c->http, NULL, NULL); /* the engine is no more */
        c->http = NULL;
    }
    pages_destroy(s->pages);
    http_server_destroy(s->http);
    records_finish(&s->records);
    prepare_destroy(s->prepare);
    while (s->calls)
        call_free(s->calls);
    ring_finish(&s->prepared);
    ring_finish(&s->events);
    free_event(s->on_prepared);
    free_event(s->on_events);
    free_event(s->on_term);
    free_event(s->on_int);
    free_event(s->on_tick);
    if (s->base)
        event_base_free(s->base);
    free(s);
}
