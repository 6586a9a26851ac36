#include "base/clock.h"
#include "base/mem.h"
#include "server/server_impl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAGE_BYTES ((size_t)64 << 20)
#define MAX_LIST 512
#define DEFAULT_LIST 100

enum page { PAGE_STATE, PAGE_REQUESTS, PAGE_REQUEST };

/* A request that waits for a view of the engine. */
struct waiter {
    struct pages *pages;
    struct waiter *prev, *next;
    struct http_request *http;
    const struct auth_key *key;
    enum page page;
    uint32_t limit;
    char id[64];
    double since_s;
};

struct listener {
    struct pages *pages;
    struct listener *prev, *next;
    struct http_request *http;
    bool fresh; /* has seen nothing yet */
};

/* What the server knows of a sequence of the view. */
struct seen {
    char id[48];
    const struct auth_key *key; /* NULL: it has ended since */
};

struct pages {
    struct server *server;
    struct event *on_view, *on_frame;
    struct waiter *waiters;
    struct listener *listeners;
    uint32_t n_waiters, n_listeners;
    bool frame_due;
    double frame_due_s;

    struct engine_view view; /* the last one */
    bool has_view;
    struct seen seen_running[ENGINE_VIEW_RUNNING], seen_queued[ENGINE_VIEW_QUEUED];
    struct state_seq running[ENGINE_VIEW_RUNNING], queued[ENGINE_VIEW_QUEUED];
    struct buf frame;
};

/* ---- Errors and parameters ---- */

static void refuse(struct server *s, struct http_request *r, int status, const char *code, const char *message)
{
    struct api_error e;
    api_error_set(&e, status, code, NULL, "%s", message);
    e.retry_after_s = status == 503 ? 5 : 0;
    server_reply_error(s, r, &e);
}

static bool is_admin(const struct server *s, const struct auth_key *key)
{
    return auth_is_admin(s->config.auth, key);
}

/* Keys of one name are one account. */
static bool may_see(const struct server *s, const struct auth_key *key, const struct auth_key *of)
{
    return is_admin(s, key) || !strcmp(key->name, of->name);
}

static bool need_admin(struct server *s, struct http_request *r, const struct auth_key *key)
{
    if (is_admin(s, key))
        return true;
    refuse(s, r, 403, "admin_required", "this page shows the whole server: it needs a key that is marked 'admin'");
    return false;
}

/* A whole number of the query; fallback if it is absent. False with the answer given. */
static bool query_i64(struct server *s, struct http_request *r, const char *name, int64_t min, int64_t max,
                      int64_t fallback, int64_t *out)
{
    char text[32], *end = text;
    struct api_error e;
    int found = http_request_query(r, name, text, sizeof text);
    *out = fallback;
    if (!found)
        return true;
    errno = 0;
    long long v = found > 0 ? strtoll(text, &end, 10) : 0;
    if (found > 0 && end != text && !*end && !errno && v >= min && v <= max) {
        *out = v;
        return true;
    }
    api_error_set(&e, 400, "invalid_value", name, "'%s' must be a whole number from %lld to %lld", name, (long long)min,
                  (long long)max);
    server_reply_error(s, r, &e);
    return false;
}

static void reply_json(struct server *s, struct http_request *r, struct buf *body)
{
    if (body->failed) {
        refuse(s, r, 500, "answer_too_large", "the answer is too large: ask for less");
        return;
    }
    http_reply_header(r, "Cache-Control", "no-store");
    server_reply(s, r, 200, "application/json", body->data, body->len);
}

/* ---- The state ---- */

static const char *health_of(const struct server *s)
{
    return !s->monitor.stats.healthy ? "failed" : s->draining ? "draining" : "ready";
}

/* Which requests the view's sequences are. */
static void recognise(struct pages *p)
{
    struct engine_view *v = &p->view;
    memset(p->seen_running, 0, sizeof p->seen_running);
    memset(p->seen_queued, 0, sizeof p->seen_queued);
    for (const struct call *c = p->server->calls; c; c = c->next) {
        for (uint32_t i = 0; i < c->n_choices; i++) {
            if (!c->choices[i].submitted || c->choices[i].done)
                continue;
            struct seen *seen = NULL;
            for (uint32_t k = 0; k < v->n_running && !seen; k++)
                seen = v->running[k].seq.id == c->choices[i].id ? &p->seen_running[k] : NULL;
            for (uint32_t k = 0; k < v->n_queued && !seen; k++)
                seen = v->queued[k].seq.id == c->choices[i].id ? &p->seen_queued[k] : NULL;
            if (!seen)
                continue;
            memcpy(seen->id, c->id, sizeof seen->id);
            seen->key = c->key;
        }
    }
}

static struct state_seq state_seq(const struct engine_seq *e, const struct seen *seen)
{
    return (struct state_seq){.seq = e, .id = seen->key ? seen->id : NULL, .key = seen->key ? seen->key->name : NULL};
}

static void render_state(struct pages *p, struct buf *out, bool with_history)
{
    struct server *s = p->server;
    const struct ledger_row *total = ledger_total(s->config.ledger);
    monitor_look(&s->monitor, clock_monotonic_s());
    for (uint32_t i = 0; i < p->view.n_running; i++)
        p->running[i] = state_seq(&p->view.running[i], &p->seen_running[i]);
    for (uint32_t i = 0; i < p->view.n_queued; i++)
        p->queued[i] = state_seq(&p->view.queued[i], &p->seen_queued[i]);
    struct state_frame f = {.info = &s->config.info,
                            .monitor = &s->monitor,
                            .view = p->has_view ? &p->view : NULL,
                            .running = p->running,
                            .queued = p->queued,
                            .health = health_of(s),
                            .hardware_source = s->config.counter ? bandwidth_counter_name(s->config.counter) : NULL,
                            .now_s = clock_monotonic_s(),
                            .wall_s = clock_wall_s(),
                            .interval_s = PAGES_INTERVAL_S,
                            .bandwidth_s_total = total->bandwidth_s,
                            .money_total = weir_money(&s->monitor.figures, total->bandwidth_s)};
    f.uptime_s = f.now_s - s->started_s;
    weir_json_state(out, &f, with_history);
}

/* ---- Requests ---- */

/* A live request's sums so far, as far as the view shows it; returns its state. */
static const char *live_record(const struct pages *p, const struct call *c, struct request_record *r,
                               struct choice_record *choices)
{
    const struct engine_view *v = &p->view;
    const char *state = c->preparing ? "preparing" : "queued";
    double now_s = clock_monotonic_s(), peak = p->server->monitor.figures.peak_bytes_per_s;
    *r = (struct request_record){.key = c->key,
                                 .kind = c->job.kind,
                                 .stream = !c->preparing && c->job.params.stream,
                                 .trace = c->trace,
                                 .arrived_wall_s = clock_wall_s() - (now_s - c->arrived_s),
                                 .prepare_s = c->preparing ? 0 : c->job.seconds,
                                 .ttft_s = call_ttft_s(c),
                                 .total_s = now_s - c->arrived_s,
                                 .n_choices = c->preparing ? 0 : c->n_choices,
                                 .choices = choices};
    memcpy(r->id, c->id, sizeof r->id);
    for (uint32_t i = 0; i < c->n_choices; i++) {
        const struct engine_seq *e = NULL;
        struct choice_record rec = {.finish = FINISH_NONE};
        bool runs = false;
        for (uint32_t k = 0; k < v->n_running && !e; k++)
            e = v->running[k].seq.id == c->choices[i].id ? &v->running[k] : NULL;
        runs = e != NULL;
        for (uint32_t k = 0; k < v->n_queued && !e; k++)
            e = v->queued[k].seq.id == c->choices[i].id ? &v->queued[k] : NULL;
        if (!c->choices[i].submitted)
            e = NULL;
        if (c->choices[i].noticed)
            rec = call_choice_record(&c->choices[i]);
        else if (e)
            rec = (struct choice_record){.n_output_tokens = e->seq.n_tokens - e->seq.n_prompt, .usage = e->usage};
        request_sums_add(&r->sums, &rec);
        if (i < RECORD_CHOICES)
            choices[i] = rec;
        if (!e)
            continue;
        if (runs)
            state = e->seq.n_tokens > e->seq.n_prompt ? "decode" : "prefill";
        else if (e->seq.n_preemptions)
            state = "preempted";
        r->sums.prompt_tokens += i % c->job.params.n ? 0 : e->seq.n_prompt;
        r->sums.cached_tokens += i % c->job.params.n ? 0 : e->seq.n_cached;
    }
    r->bandwidth_s = peak > 0 ? (double)gen_memory_bytes(&r->sums.traffic) / peak : 0;
    return state;
}

/* Calls that tokenise only are none. */
static bool is_shown(const struct server *s, const struct call *c, const struct auth_key *key)
{
    bool generates = c->job.kind == API_CHAT || c->job.kind == API_COMPLETION;
    return generates && !c->settled && may_see(s, key, c->key);
}

static void render_requests(struct pages *p, struct buf *out, const struct auth_key *key, uint32_t limit)
{
    struct server *s = p->server;
    const struct monitor_figures *fig = &s->monitor.figures;
    struct json_out o = json_out_begin(out);
    const struct request_record *r;
    uint32_t n = 0;
    json_begin_object(&o, NULL);
    json_add_str(&o, "object", "list");
    json_begin_array(&o, "data");
    for (const struct call *c = s->calls; c && n < limit; c = c->next) {
        struct request_record live;
        struct choice_record choices[RECORD_CHOICES];
        if (!is_shown(s, c, key))
            continue;
        const char *state = live_record(p, c, &live, choices);
        weir_json_request(&o, &live, state, fig, false);
        n++;
    }
    for (uint64_t i = 0; n < limit && (r = records_at(&s->records, i)); i++) {
        if (!may_see(s, key, r->key))
            continue;
        weir_json_request(&o, r, NULL, fig, false);
        n++;
    }
    json_close(&o);
    json_close(&o);
}

static void answer_request(struct pages *p, struct waiter *w)
{
    struct server *s = p->server;
    const struct monitor_figures *fig = &s->monitor.figures;
    struct buf body;
    buf_init(&body, MAX_PAGE_BYTES);
    struct json_out o = json_out_begin(&body);
    for (const struct call *c = s->calls; c && !body.len; c = c->next) {
        struct request_record live;
        struct choice_record choices[RECORD_CHOICES];
        if (is_shown(s, c, w->key) && !strcmp(c->id, w->id)) {
            const char *state = live_record(p, c, &live, choices);
            weir_json_request(&o, &live, state, fig, true);
        }
    }
    const struct request_record *r = body.len ? NULL : records_find(&s->records, w->id);
    if (r && may_see(s, w->key, r->key))
        weir_json_request(&o, r, NULL, fig, true);
    if (body.len)
        reply_json(s, w->http, &body);
    else
        refuse(s, w->http, 404, "not_found", "no such request is known: the last 1,024 that ended are kept");
    buf_finish(&body);
}

/* ---- Waiting for a view ---- */

static void forget_waiter(struct waiter *w)
{
    struct pages *p = w->pages;
    if (w->prev)
        w->prev->next = w->next;
    else
        p->waiters = w->next;
    if (w->next)
        w->next->prev = w->prev;
    p->n_waiters--;
    free(w);
}

static void on_waiter_gone(void *user)
{
    forget_waiter(user);
}

static void answer(struct pages *p, struct waiter *w)
{
    struct server *s = p->server;
    struct buf body;
    http_request_on_gone(w->http, NULL, NULL);
    buf_init(&body, MAX_PAGE_BYTES);
    if (w->page == PAGE_STATE)
        render_state(p, &body, true);
    else if (w->page == PAGE_REQUESTS)
        render_requests(p, &body, w->key, w->limit);
    if (w->page == PAGE_REQUEST)
        answer_request(p, w);
    else
        reply_json(s, w->http, &body);
    buf_finish(&body);
    forget_waiter(w);
    server_check_drained(s);
}

static void wait_for_view(struct server *s, struct http_request *r, const struct auth_key *key, enum page page,
                          uint32_t limit, const char *id)
{
    struct pages *p = s->pages;
    struct waiter *w = p->n_waiters < PAGES_MAX_WAITING ? mem_array(1, sizeof *w) : NULL;
    if (!w) {
        refuse(s, r, 503, "overloaded", "too many requests for pages at once, try again later");
        return;
    }
    *w = (struct waiter){
        .pages = p, .http = r, .key = key, .page = page, .limit = limit, .since_s = clock_monotonic_s()};
    snprintf(w->id, sizeof w->id, "%s", id);
    w->next = p->waiters;
    if (w->next)
        w->next->prev = w;
    p->waiters = w;
    p->n_waiters++;
    http_request_on_gone(r, on_waiter_gone, w);
    engine_ask_view(s->config.engine);
}

/* ---- The stream ---- */

static void forget_listener(struct listener *l)
{
    struct pages *p = l->pages;
    if (l->prev)
        l->prev->next = l->next;
    else
        p->listeners = l->next;
    if (l->next)
        l->next->prev = l->prev;
    if (--p->n_listeners == 0)
        event_del(p->on_frame);
    free(l);
}

static void on_listener_gone(void *user)
{
    forget_listener(user);
}

static void send_frame(struct pages *p)
{
    buf_clear(&p->frame);
    buf_adds(&p->frame, "event: state\ndata: ");
    render_state(p, &p->frame, false);
    buf_adds(&p->frame, "\n\n");
    for (struct listener *l = p->listeners, *next; l; l = next) {
        next = l->next;
        if (!p->frame_due && !l->fresh)
            continue;
        l->fresh = false;
        if (p->frame.failed || http_stream_write(l->http, p->frame.data, p->frame.len) == WEIR_ELIMIT) {
            struct http_request *r = l->http;
            p->server->metrics.slow_readers++;
            forget_listener(l);
            http_abort(r);
        }
    }
    p->frame_due = false;
}

static bool has_fresh(const struct pages *p)
{
    const struct listener *l = p->listeners;
    while (l && !l->fresh)
        l = l->next;
    return l != NULL;
}

static void on_view(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pages *p = arg;
    const struct engine_view *v = engine_take_view(p->server->config.engine);
    if (!v)
        return;
    p->view = *v;
    p->has_view = true;
    recognise(p);
    while (p->waiters)
        answer(p, p->waiters);
    if (p->frame_due || has_fresh(p))
        send_frame(p);
}

static void on_frame(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pages *p = arg;
    if (!p->frame_due)
        p->frame_due_s = clock_monotonic_s();
    p->frame_due = true;
    engine_ask_view(p->server->config.engine);
}

void page_stream(struct server *s, struct http_request *r, const struct auth_key *key)
{
    struct pages *p = s->pages;
    if (!need_admin(s, r, key))
        return;
    if (http_request_method(r) == HTTP_HEAD) {
        server_reply(s, r, 200, "text/event-stream; charset=utf-8", "", 0);
        return;
    }
    if (s->draining) {
        refuse(s, r, 503, "shutting_down", "the server is shutting down");
        return;
    }
    struct listener *l = p->n_listeners < PAGES_MAX_LISTENERS ? mem_array(1, sizeof *l) : NULL;
    if (!l) {
        refuse(s, r, 503, "too_many_listeners", "16 listen to the stream already");
        return;
    }
    *l = (struct listener){.pages = p, .http = r, .fresh = true};
    l->next = p->listeners;
    if (l->next)
        l->next->prev = l;
    p->listeners = l;
    if (p->n_listeners++ == 0)
        event_add(p->on_frame, &(struct timeval){.tv_usec = (suseconds_t)(PAGES_INTERVAL_S * 1e6)});
    http_request_on_gone(r, on_listener_gone, l);
    http_reply_header(r, "Cache-Control", "no-cache");
    http_reply_header(r, "X-Accel-Buffering", "no");
    metrics_response(&s->metrics, 200);
    http_stream_start(r, "text/event-stream; charset=utf-8");
    engine_ask_view(s->config.engine);
}

uint32_t pages_listeners(const struct pages *p)
{
    return p->n_listeners;
}

void pages_drain(struct pages *p)
{
    while (p->listeners) {
        struct http_request *r = p->listeners->http;
        http_request_on_gone(r, NULL, NULL);
        forget_listener(p->listeners);
        http_stream_end(r);
    }
}

/* A step that takes long keeps nobody waiting: they see the last view. */
void pages_tick(struct pages *p, double now_s)
{
    for (struct waiter *w = p->waiters, *next; w; w = next) {
        next = w->next;
        if (now_s - w->since_s > PAGES_VIEW_PATIENCE_S)
            answer(p, w);
    }
    if (p->n_listeners && p->frame_due && now_s - p->frame_due_s > PAGES_VIEW_PATIENCE_S)
        send_frame(p);
}

/* ---- Handlers ---- */

void page_state(struct server *s, struct http_request *r, const struct auth_key *key)
{
    if (need_admin(s, r, key))
        wait_for_view(s, r, key, PAGE_STATE, 0, "");
}

void page_requests(struct server *s, struct http_request *r, const struct auth_key *key)
{
    int64_t limit;
    if (query_i64(s, r, "limit", 1, MAX_LIST, DEFAULT_LIST, &limit))
        wait_for_view(s, r, key, PAGE_REQUESTS, (uint32_t)limit, "");
}

void page_request(struct server *s, struct http_request *r, const struct auth_key *key)
{
    wait_for_view(s, r, key, PAGE_REQUEST, 0, http_request_path(r) + strlen("/v1/weir/requests/"));
}

void page_steps(struct server *s, struct http_request *r, const struct auth_key *key)
{
    struct monitor *m = &s->monitor;
    double now_s = clock_monotonic_s(), wall_offset_s = clock_wall_s() - now_s;
    int64_t limit;
    if (!need_admin(s, r, key) || !query_i64(s, r, "limit", 1, MAX_LIST, DEFAULT_LIST, &limit))
        return;
    monitor_look(m, now_s);
    struct buf body;
    buf_init(&body, MAX_PAGE_BYTES);
    struct json_out o = json_out_begin(&body);
    json_begin_object(&o, NULL);
    json_add_str(&o, "object", "list");
    json_begin_array(&o, "data");
    for (uint64_t i = 0; i < (uint64_t)limit && i < MONITOR_STEPS && i < m->n_steps; i++)
        weir_json_step(&o, NULL, &m->steps[(m->n_steps - 1 - i) % MONITOR_STEPS], &m->figures, wall_offset_s);
    json_close(&o);
    json_close(&o);
    reply_json(s, r, &body);
    buf_finish(&body);
}

void page_usage(struct server *s, struct http_request *r, const struct auth_key *key)
{
    struct api_error e;
    struct usage_query q = {.name = is_admin(s, key) ? NULL : key->name};
    char bucket[8], name[AUTH_MAX_NAME + 1];
    int has_bucket = http_request_query(r, "bucket", bucket, sizeof bucket);
    int has_name = http_request_query(r, "key", name, sizeof name);
    if (!query_i64(s, r, "from", 0, INT64_MAX / 2, 0, &q.from_s) ||
        !query_i64(s, r, "to", 0, INT64_MAX / 2, INT64_MAX / 2, &q.to_s))
        return;
    q.bucket_s = !has_bucket || (has_bucket > 0 && !strcmp(bucket, "day")) ? 86400
                 : has_bucket > 0 && !strcmp(bucket, "hour")               ? 3600
                                                                           : 0;
    if (has_bucket && !q.bucket_s && (has_bucket < 0 || strcmp(bucket, "total"))) {
        api_error_set(&e, 400, "invalid_value", "bucket", "'bucket' is hour, day or total");
        server_reply_error(s, r, &e);
        return;
    }
    if (has_name < 0 || (has_name > 0 && q.name && strcmp(q.name, name))) {
        refuse(s, r, 403, "admin_required", "other keys' usage needs a key that is marked 'admin'");
        return;
    }
    if (has_name > 0)
        q.name = name;
    struct buf body;
    buf_init(&body, MAX_PAGE_BYTES);
    if (weir_json_usage(&body, s->config.ledger, &q, &s->monitor.figures, s->config.info.currency))
        body.failed = WEIR_ENOMEM;
    reply_json(s, r, &body);
    buf_finish(&body);
}

/* ---- Life ---- */

int pages_create(struct pages **out, struct server *s, struct err *e)
{
    struct pages *p = mem_array(1, sizeof *p);
    if (!p)
        return err_set(e, WEIR_ENOMEM, "no memory for the server's pages");
    p->server = s;
    *out = p;
    buf_init(&p->frame, MAX_PAGE_BYTES);
    p->on_view = event_new(s->base, engine_view_fd(s->config.engine), EV_READ | EV_PERSIST, on_view, p);
    p->on_frame = event_new(s->base, -1, EV_PERSIST, on_frame, p);
    if (!p->on_view || !p->on_frame)
        return err_set(e, WEIR_ENOMEM, "no memory for the server's events");
    event_add(p->on_view, NULL);
    return 0;
}

void pages_destroy(struct pages *p)
{
    if (!p)
        return;
    while (p->waiters) {
        http_request_on_gone(p->waiters->http, NULL, NULL);
        forget_waiter(p->waiters);
    }
    while (p->listeners) {
        http_request_on_gone(p->listeners->http, NULL, NULL);
        forget_listener(p->listeners);
    }
    if (p->on_view)
        event_free(p->on_view);
    if (p->on_frame)
        event_free(p->on_frame);
    buf_finish(&p->frame);
    free(p);
}
