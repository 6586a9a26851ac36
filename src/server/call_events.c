#include "base/clock.h"
#include "server/server_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An event in a call's inbox: this, then the text, then the sample if there is one. */
struct record {
    uint32_t choice, n_text;
    double t_s;
    bool has_token, is_prompt, has_sample;
};

static void note_end(struct choice *ch, const struct gen_event *ev, double now_s)
{
    ch->ended = true;
    ch->end = (struct ending){
        .finish = ev->finish,
        .refusal = ev->refusal.reason,
        .retry_after_s = ev->refusal.retry_after_s,
        .t_s = now_s,
        .queued_s = ev->queued_s,
        .prefill_s = ev->prefill_s,
        .n_prompt_tokens = ev->n_prompt_tokens,
        .n_output_tokens = ev->n_output_tokens,
        .n_cached_tokens = ev->n_cached_tokens,
    };
    if (ev->usage)
        ch->end.usage = *ev->usage;
    snprintf(ch->end.error, sizeof ch->end.error, "%s", ev->error ? ev->error : "");
}

void call_sink(const struct gen_event *ev)
{
    struct choice *ch = ev->user;
    struct call *c = ch->call;
    bool has_sample = ev->has_token && ev->sample && c->job.params.logprobs;
    struct record r = {.choice = (uint32_t)(ch - c->choices),
                       .n_text = (uint32_t)ev->n_text,
                       .t_s = clock_monotonic_s(),
                       .has_token = ev->has_token,
                       .is_prompt = ev->is_prompt,
                       .has_sample = has_sample};
    pthread_mutex_lock(&c->lock);
    if (ev->has_token && !ev->is_prompt && ev->n_output_tokens == 1 && ev->usage) {
        memcpy(ch->first.phase_s, ev->usage->phase_s, sizeof ch->first.phase_s);
        memcpy(ch->first.queued_s, ev->usage->queued_s, sizeof ch->first.queued_s);
    }
    if (ev->has_token || ev->n_text) {
        /* One that does not fit makes the inbox fail as a whole, which the network thread sees. */
        buf_add(&c->inbox, &r, sizeof r);
        buf_add(&c->inbox, ev->text, ev->n_text);
        if (has_sample)
            buf_add(&c->inbox, ev->sample, sizeof *ev->sample);
    }
    if (ev->finish != FINISH_NONE)
        note_end(ch, ev, r.t_s);
    if (!c->queued) {
        c->queued = true;
        int full = ring_push(&c->server->events, c);
        assert(!full && "the ring has room for every call");
        (void)full;
    }
    pthread_mutex_unlock(&c->lock);
}

struct reply_head call_head(const struct call *c)
{
    return (struct reply_head){.chat = c->job.kind == API_CHAT,
                               .include_usage = c->job.params.include_usage,
                               .id = c->id,
                               .created = c->created,
                               .model = c->server->config.models[0],
                               .service_tier = c->job.params.service_tier};
}

struct reply_usage call_usage(const struct call *c)
{
    struct reply_usage u = {0};
    for (uint32_t i = 0; i < c->job.params.n_prompts; i++)
        u.prompt_tokens += c->job.params.prompts[i].n_ids;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        u.completion_tokens += c->choices[i].end.n_output_tokens;
        if (i % c->job.params.n == 0)
            u.cached_tokens += c->choices[i].end.n_cached_tokens;
    }
    u.weir = c->wants_usage && !c->usage.failed ? c->usage.data : NULL;
    return u;
}

static void measure(struct call *c, struct choice *ch, const struct record *r)
{
    struct metrics *m = &c->server->metrics;
    struct monitor *mon = &c->server->monitor;
    if (!ch->n_tokens++) {
        ch->first_token_s = r->t_s;
        histogram_add(&m->ttft, r->t_s - c->arrived_s);
        monitor_latency_add(mon, &mon->ttft, r->t_s - c->arrived_s);
    } else {
        histogram_add(&m->itl, r->t_s - ch->last_token_s);
        monitor_latency_add(mon, &mon->itl, r->t_s - ch->last_token_s);
    }
    ch->last_token_s = r->t_s;
}

static void add_logprobs(struct call *c, struct choice *ch, const struct record *r, const struct sample *sample)
{
    bool first_of_prompt = r->is_prompt && ch->n_prompt_seen == 0;
    const struct api_params *p = &c->job.params;
    reply_logprobs_add(&ch->logprobs, c->server->config.tokenizer, sample, (uint32_t)p->sampling.top_logprobs,
                       p->special_text, first_of_prompt);
}

/* A chat stream begins with a chunk that carries the role and no text, once for each choice. */
static void begin_choice(struct call *c, struct choice *ch)
{
    struct reply_head head = call_head(c);
    if (head.chat && !ch->begun)
        reply_chunk(&c->out, &head, &(struct reply_choice){.index = ch->index, .text = "", .first = true});
    ch->begun = true;
}

static void take(struct call *c, const struct record *r, const char *text, const struct sample *sample)
{
    const struct api_params *p = &c->job.params;
    struct choice *ch = &c->choices[r->choice];
    if (r->has_token && !r->is_prompt)
        measure(c, ch, r);
    if (sample)
        add_logprobs(c, ch, r, sample);
    ch->n_prompt_seen += r->is_prompt;
    if (!p->stream) {
        buf_add(&ch->text, text, r->n_text);
        return;
    }
    if (!r->n_text && !r->has_token)
        return;
    /* A token whose text is held back (a stop string, the rest of a character) has a chunk too: clients see progress.
     */
    begin_choice(c, ch);
    struct reply_head head = call_head(c);
    reply_chunk(&c->out, &head,
                &(struct reply_choice){
                    .index = ch->index, .text = text, .n_text = r->n_text, .logprobs = sample ? &ch->logprobs : NULL});
    reply_logprobs_clear(&ch->logprobs);
}

int call_consume(struct call *c)
{
    int failed = c->work.failed;
    if (failed || !c->http) { /* nobody reads it */
        buf_clear(&c->work);
        return failed;
    }
    size_t at = 0;
    while (at < c->work.len) {
        struct record r;
        struct sample sample;
        memcpy(&r, c->work.data + at, sizeof r);
        at += sizeof r;
        const char *text = c->work.data + at;
        at += r.n_text;
        if (r.has_sample) {
            memcpy(&sample, c->work.data + at, sizeof sample);
            at += sizeof sample;
        }
        take(c, &r, text, r.has_sample ? &sample : NULL);
    }
    buf_clear(&c->work);
    return c->out.failed ? WEIR_ELIMIT : 0;
}

static const char *finish_name(const struct ending *end)
{
    return end->finish == FINISH_LENGTH ? "length" : "stop";
}

void call_put_finish(struct call *c, struct choice *ch)
{
    begin_choice(c, ch);
    struct reply_head head = call_head(c);
    reply_chunk(&c->out, &head,
                &(struct reply_choice){.index = ch->index, .text = "", .finish_reason = finish_name(&ch->end)});
}

void call_reply_whole(struct call *c)
{
    struct reply_choice choices[API_MAX_CHOICES];
    for (uint32_t i = 0; i < c->n_choices; i++) {
        struct choice *ch = &c->choices[i];
        choices[i] = (struct reply_choice){.index = ch->index,
                                           .text = ch->text.data ? ch->text.data : "",
                                           .n_text = ch->text.len,
                                           .logprobs = c->job.params.logprobs ? &ch->logprobs : NULL,
                                           .finish_reason = finish_name(&ch->end)};
    }
    struct buf body;
    buf_init(&body, REPLY_MAX_BYTES);
    struct reply_head head = call_head(c);
    struct reply_usage usage = call_usage(c);
    reply_object(&body, &head, choices, c->n_choices, &usage);
    struct http_request *r = c->http;
    c->http = NULL;
    if (body.failed) {
        struct api_error e;
        api_error_set(&e, 500, "answer_too_large", NULL, "the answer is larger than %zu bytes", REPLY_MAX_BYTES);
        server_reply_error(c->server, r, &e);
    } else {
        server_reply(c->server, r, 200, "application/json", body.data, body.len);
    }
    buf_finish(&body);
}
