#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define INBOX_BYTES ((size_t)16 << 20) /* events of one call between two wake-ups of the network thread */
#define STREAM_START_S 1.0             /* a queued stream gets its head by then */
#define KEEP_ALIVE_S 15.0              /* a silent stream gets a comment, for the proxies in between */

void call_free(struct call *c)
{
    struct server *s = c->server;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->calls = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_calls--;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        buf_finish(&c->choices[i].text);
        reply_logprobs_finish(&c->choices[i].logprobs);
    }
    free(c->choices);
    prepare_job_finish(&c->job);
    buf_finish(&c->out);
    buf_finish(&c->work);
    buf_finish(&c->inbox);
    buf_finish(&c->usage);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void call_cancel(struct call *c)
{
    for (uint32_t i = 0; i < c->n_choices; i++) {
        if (c->choices[i].submitted && !c->choices[i].done)
            engine_cancel(c->server->config.engine, c->choices[i].id);
    }
}

static void on_gone(void *user)
{
    struct call *c = user;
    c->http = NULL;
    c->server->metrics.disconnects++;
    LOG(LOG_INFO, "client left", {"id", log_str(c->id)});
    call_cancel(c);
}

/* Ends the answer with an error, whatever has been sent so far. */
static void give_error(struct call *c, const struct api_error *e)
{
    struct http_request *r = c->http;
    if (!r)
        return;
    c->http = NULL;
    LOG(LOG_INFO, "request failed", {"id", log_str(c->id)}, {"status", log_i64(e->status)},
        {"error", log_str(e->message)});
    if (!c->streaming) {
        server_reply_error(c->server, r, e);
        return;
    }
    reply_error_event(&c->out, e);
    http_stream_write(r, c->out.data, c->out.len);
    http_stream_end(r);
}

static void start_stream(struct call *c)
{
    http_reply_header(c->http, "X-Request-Id", c->id);
    call_put_trace(c);
    call_put_timing(c, false);
    http_reply_header(c->http, "Cache-Control", "no-cache");
    http_reply_header(c->http, "X-Accel-Buffering", "no");
    metrics_response(&c->server->metrics, 200);
    http_stream_start(c->http, "text/event-stream; charset=utf-8");
    c->streaming = true;
    c->last_write_s = clock_monotonic_s();
}

/* What the request's headers say: whose trace it belongs to, and whether its usage is to be told. */
static void read_headers(struct call *c)
{
    char parent[128], state[TRACE_STATE_BYTES + 1];
    bool has_parent = http_request_headers(c->http, "traceparent", parent, sizeof parent);
    bool has_state = http_request_headers(c->http, "tracestate", state, sizeof state);
    trace_context_begin(&c->trace, has_parent ? parent : NULL, has_state ? state : NULL, c->server->config.otlp != NULL,
                        &c->server->rng);
    const char *usage = http_request_header(c->http, "X-Weir-Usage");
    c->wants_usage = usage && (!strcmp(usage, "1") || !strcasecmp(usage, "true"));
}

void call_begin(struct server *s, struct http_request *r, enum api_kind kind, const struct auth_key *key)
{
    struct api_error e;
    struct call *c = s->n_calls < s->max_calls ? mem_array(1, sizeof *c) : NULL;
    if (!c) {
        api_error_set(&e, 429, "overloaded", NULL, "too many requests at once, try again later");
        e.retry_after_s = 1;
        server_reply_error(s, r, &e);
        return;
    }
    c->server = s;
    c->http = r;
    c->key = key;
    c->arrived_s = clock_monotonic_s();
    c->created = (int64_t)clock_wall_s();
    snprintf(c->id, sizeof c->id, "%s-%016" PRIx64 "%08" PRIx32, kind == API_CHAT ? "chatcmpl" : "cmpl",
             rng_u64(&s->rng), (uint32_t)rng_u64(&s->rng));
    pthread_mutex_init(&c->lock, NULL);
    buf_init(&c->inbox, INBOX_BYTES);
    buf_init(&c->work, INBOX_BYTES);
    buf_init(&c->out, REPLY_MAX_BYTES);
    buf_init(&c->usage, 65536);
    read_headers(c);
    c->next = s->calls;
    if (c->next)
        c->next->prev = c;
    s->calls = c;
    s->n_calls++;
    c->job.kind = kind;
    c->job.body = http_request_take_body(r, &c->job.n_body);
    if (!c->job.body) {
        api_error_set(&e, 500, "out_of_memory", NULL, "no memory for this request");
    } else if (prepare_submit(s->prepare, &c->job)) {
        api_error_set(&e, 429, "queue_full", NULL, "too many requests are waiting to be read, try again later");
        e.retry_after_s = 1;
    } else {
        c->preparing = true;
        http_request_on_gone(r, on_gone, c);
        return;
    }
    c->http = NULL;
    server_reply_error(s, r, &e);
    call_free(c);
}

/* The engine takes prompts over; the copy for the last choice of a prompt would be spared only by special cases. */
static int submit(struct call *c, struct choice *ch, const struct api_prompt *prompt, uint32_t k, struct err *e)
{
    const struct api_params *p = &c->job.params;
    struct gen_request r = {
        .n_prompt = (uint32_t)prompt->n_ids,
        .max_new_tokens = p->max_tokens,
        .min_new_tokens = p->min_tokens,
        .ignore_eos = p->ignore_eos,
        .echo = p->echo,
        .prompt_only = p->prompt_only,
        .special_text = p->special_text,
        .logprobs = p->logprobs,
        .sampling = p->sampling,
        .stops = (const char *const *)p->stops,
        .n_stops = p->n_stops,
        .keep_stop_text = p->keep_stop_text,
        .priority = p->priority,
        .itl_target_s = p->itl_target_s,
        .ttft_limit_s = p->ttft_limit_s,
        .key = c->key->id,
        .cache_salt = p->cache_salt,
        .n_pinned = p->pin_prefix_tokens,
        .sink = call_sink,
        .user = ch,
    };
    if (k) /* the first choice of a seed is the one that n = 1 gives */
        r.sampling.seed = hash_u64(p->sampling.seed + k);
    r.prompt = mem_array(prompt->n_ids, sizeof *r.prompt);
    if (!r.prompt)
        return err_set(e, WEIR_ENOMEM, "no memory for this request");
    memcpy(r.prompt, prompt->ids, prompt->n_ids * sizeof *r.prompt);
    int code = engine_submit(c->server->config.engine, &r, &ch->id, e);
    if (code) {
        free(r.prompt);
        return code;
    }
    ch->submitted = true;
    c->n_open++;
    return 0;
}

static int submit_all(struct call *c, struct api_error *e)
{
    struct api_params *p = &c->job.params;
    struct err err;
    uint32_t n = p->n_prompts * p->n;
    if (!p->has_seed)
        p->sampling.seed = rng_u64(&c->server->rng);
    c->choices = mem_array(n, sizeof *c->choices);
    if (!c->choices)
        return api_error_set(e, 500, "out_of_memory", NULL, "no memory for this request");
    c->n_choices = n;
    for (uint32_t i = 0; i < n; i++) {
        c->choices[i].call = c;
        c->choices[i].index = i;
        buf_init(&c->choices[i].text, REPLY_MAX_BYTES);
        reply_logprobs_init(&c->choices[i].logprobs, c->job.kind == API_CHAT);
    }
    for (uint32_t i = 0; i < n; i++) {
        int code = submit(c, &c->choices[i], &p->prompts[i / p->n], i % p->n, &err);
        if (!code)
            continue;
        if (code == WEIR_EBUSY) {
            api_error_set(e, 429, "queue_full", NULL, "%s", err.msg);
            e->retry_after_s = 1;
        } else {
            api_error_set(e, code == WEIR_ENOMEM ? 500 : 400, code == WEIR_ENOMEM ? "out_of_memory" : "invalid_value",
                          NULL, "%s", err.msg);
        }
        return -1;
    }
    return 0;
}

void call_prepared(struct call *c)
{
    struct server *s = c->server;
    c->preparing = false;
    c->wants_usage |= c->job.params.weir_usage;
    histogram_add(&s->metrics.prepare, c->job.seconds);
    if (!c->http) { /* left in the meantime */
        call_free(c);
    } else if (c->job.error.status) {
        give_error(c, &c->job.error);
        call_free(c);
    } else if (c->job.answer) {
        struct http_request *r = c->http;
        c->http = NULL;
        server_reply(s, r, 200, "application/json", c->job.answer, c->job.n_answer);
        call_free(c);
    } else {
        struct api_error e;
        if (submit_all(c, &e)) {
            give_error(c, &e);
            call_cancel(c);
            if (!c->n_open)
                call_free(c);
        }
    }
    server_check_drained(s);
}

/* An ending that is no answer, as an error; 0 if it is one. */
static int ending_error(const struct call *c, const struct ending *end, struct api_error *e)
{
    switch (end->finish) {
    case FINISH_STOP:
    case FINISH_LENGTH:
    case FINISH_NONE:
        return 0;
    case FINISH_CANCELLED:
        return api_error_set(e, 503, "shutting_down", NULL, "the server is shutting down");
    case FINISH_FAILED:
        return api_error_set(e, 500, "engine_failed", NULL, "%s", end->error[0] ? end->error : "the engine failed");
    case FINISH_REFUSED:
        break;
    }
    if (end->refusal == SCHED_REFUSED_TOO_LONG || end->refusal == SCHED_REFUSED_NEVER_FITS)
        return api_error_set(e, 400, "context_length_exceeded", c->job.kind == API_CHAT ? "messages" : "prompt",
                             "the prompt's %u tokens %s (context: %u tokens)", end->n_prompt_tokens,
                             end->refusal == SCHED_REFUSED_TOO_LONG ? "do not fit the model's context"
                                                                    : "and output never fit the KV memory",
                             c->server->config.info.max_context);
    if (end->refusal == SCHED_REFUSED_LATE)
        api_error_set(e, 429, "overloaded", NULL,
                      "the first token would come later than the server's limit allows, try again later");
    else if (end->refusal == SCHED_REFUSED_PRESSURE)
        api_error_set(e, 429, "overloaded", NULL, "the server is short of memory, try again later");
    else
        api_error_set(e, 429, "queue_full", NULL, "too many requests are queued, try again later");
    e->retry_after_s = end->retry_after_s > 0 ? end->retry_after_s : 1;
    return -1;
}

static void note_done(struct call *c, struct choice *ch)
{
    struct metrics *m = &c->server->metrics;
    const struct ending *end = &ch->end;
    m->finished_stop += end->finish == FINISH_STOP;
    m->finished_length += end->finish == FINISH_LENGTH;
    m->finished_abort += end->finish == FINISH_CANCELLED;
    m->finished_error += end->finish == FINISH_FAILED;
    if (end->finish != FINISH_STOP && end->finish != FINISH_LENGTH)
        return;
    histogram_add(&m->e2e, end->t_s - c->arrived_s);
    histogram_add(&m->queue, end->queued_s);
    histogram_add(&m->prefill, end->prefill_s);
    double decode_s = ch->n_tokens ? ch->last_token_s - ch->first_token_s : 0;
    if (ch->n_tokens)
        histogram_add(&m->decode, decode_s);
    if (ch->n_tokens > 1)
        histogram_add(&m->mean_itl, decode_s / (ch->n_tokens - 1));
    histogram_add(&m->inference, end->prefill_s + decode_s);
    histogram_add(&m->computed_tokens, end->n_prompt_tokens - end->n_cached_tokens);
    histogram_add(&m->prompt_tokens, end->n_prompt_tokens);
    histogram_add(&m->generation_tokens, end->n_output_tokens);
}

/* Everything has ended well: the rest of the answer. */
static void complete(struct call *c)
{
    struct reply_usage usage = call_usage(c);
    if (!c->job.params.stream) {
        http_reply_header(c->http, "X-Request-Id", c->id);
        call_put_trace(c);
        call_put_timing(c, true);
        call_reply_whole(c);
        return;
    }
    struct reply_head head = call_head(c);
    if (c->job.params.include_usage || c->wants_usage)
        reply_usage_chunk(&c->out, &head, &usage);
    buf_adds(&c->out, "data: [DONE]\n\n");
}

/* Sends what this wake-up has gathered, in one write; cuts off a client that does not read. */
static void send_out(struct call *c, bool last)
{
    struct http_request *r = c->http;
    if (c->out.len && http_stream_write(r, c->out.data, c->out.len) == WEIR_ELIMIT && !last) {
        c->http = NULL;
        c->server->metrics.slow_readers++;
        LOG(LOG_WARN, "client reads too slowly, cut off", {"id", log_str(c->id)});
        http_abort(r);
        call_cancel(c);
        return;
    }
    c->last_write_s = clock_monotonic_s();
    buf_clear(&c->out);
    if (last) {
        c->http = NULL;
        http_stream_end(r);
    }
}

/* Marks the choices that have ended since; returns the first one that ended badly. */
static const struct choice *notice_ends(struct call *c)
{
    const struct choice *bad = NULL;
    struct api_error unused;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        struct choice *ch = &c->choices[i];
        if (!ch->noticed || ch->done)
            continue;
        ch->done = true;
        c->n_open--;
        note_done(c, ch);
        if (ending_error(c, &ch->end, &unused))
            bad = bad ? bad : ch;
        else if (c->http && c->job.params.stream)
            call_put_finish(c, ch);
    }
    return bad;
}

void call_flush(struct call *c)
{
    struct server *s = c->server;
    pthread_mutex_lock(&c->lock);
    c->queued = false;
    struct buf taken = c->inbox;
    c->inbox = c->work;
    c->work = taken;
    for (uint32_t i = 0; i < c->n_choices; i++)
        c->choices[i].noticed = c->choices[i].ended; /* with all of its events in `work` */
    pthread_mutex_unlock(&c->lock);

    int overflow = call_consume(c);
    const struct choice *bad = notice_ends(c);
    if (!c->n_open)
        call_settle(c);
    struct api_error e;
    if (c->http && overflow) {
        api_error_set(&e, 500, "answer_too_large", NULL, "the answer outgrew its buffer");
        give_error(c, &e);
        call_cancel(c);
    } else if (c->http && bad) {
        ending_error(c, &bad->end, &e);
        give_error(c, &e);
        call_cancel(c);
    } else if (c->http) {
        bool last = !c->n_open;
        if (c->job.params.stream && !c->streaming)
            start_stream(c);
        if (last)
            complete(c);
        if (c->http)
            send_out(c, last);
    }
    if (!c->n_open) {
        call_free(c);
        server_check_drained(s);
    }
}

void call_tick(struct call *c, double now_s)
{
    if (!c->http || c->preparing || !c->job.params.stream)
        return;
    if (!c->streaming && now_s - c->arrived_s > STREAM_START_S) {
        start_stream(c);
    } else if (c->streaming && now_s - c->last_write_s > KEEP_ALIVE_S) {
        buf_adds(&c->out, ": waiting\n\n");
        send_out(c, false);
    }
}
