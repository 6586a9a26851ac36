/* What a request used, told at its end: to the ledger, the records, the log, the client. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_impl.h"

#include <string.h>

double call_ttft_s(const struct call *c)
{
    double first_s = 0;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        const struct choice *ch = &c->choices[i];
        if (ch->n_tokens && (first_s <= 0 || ch->first_token_s < first_s))
            first_s = ch->first_token_s;
    }
    return first_s > 0 ? first_s - c->arrived_s : -1;
}

struct choice_record call_choice_record(const struct choice *ch)
{
    return (struct choice_record){.finish = ch->end.finish,
                                  .refusal = ch->end.refusal,
                                  .n_output_tokens = ch->end.n_output_tokens,
                                  .usage = ch->end.usage};
}

static void put_usage(struct call *c)
{
    struct json_out out = json_out_begin(&c->usage), *o = &out;
    json_begin_object(o, NULL);
    weir_json_cost(o, &c->sums, c->bandwidth_s, c->job.seconds, &c->server->monitor.figures);
    json_close(o);
}

static void keep(struct call *c, double now_s)
{
    struct server *s = c->server;
    uint32_t n = c->n_choices < RECORD_CHOICES ? c->n_choices : RECORD_CHOICES;
    struct request_record r = {.key = c->key,
                               .kind = c->job.kind,
                               .stream = c->job.params.stream,
                               .trace = c->trace,
                               .arrived_wall_s = clock_wall_s() - (now_s - c->arrived_s),
                               .prepare_s = c->job.seconds,
                               .ttft_s = call_ttft_s(c),
                               .total_s = now_s - c->arrived_s,
                               .sums = c->sums,
                               .bandwidth_s = c->bandwidth_s,
                               .n_choices = c->n_choices,
                               .choices = mem_array(n, sizeof *r.choices)};
    if (!r.choices)
        return; /* the record is a convenience */
    memcpy(r.id, c->id, sizeof r.id);
    for (uint32_t i = 0; i < n; i++)
        r.choices[i] = call_choice_record(&c->choices[i]);
    if (s->config.otlp)
        otlp_add(s->config.otlp, &r);
    records_add(&s->records, &r);
}

/* What it asked for. */
static void note_params(struct call *c)
{
    struct metrics *m = &c->server->metrics;
    const struct api_params *p = &c->job.params;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        const struct ending *end = &c->choices[i].end;
        uint32_t context = c->server->config.info.max_context;
        uint32_t room = context > end->n_prompt_tokens ? context - end->n_prompt_tokens : 0;
        longest = end->n_output_tokens > longest ? end->n_output_tokens : longest;
        histogram_add(&m->params_max_tokens, p->max_tokens ? p->max_tokens : room);
    }
    histogram_add(&m->params_n, p->n);
    histogram_add(&m->max_generation_tokens, longest);
}

void call_settle(struct call *c)
{
    struct server *s = c->server;
    double now_s = clock_monotonic_s(), peak = s->monitor.figures.peak_bytes_per_s;
    if (c->settled)
        return;
    c->settled = true;
    for (uint32_t i = 0; i < c->n_choices; i++) {
        struct choice_record r = call_choice_record(&c->choices[i]);
        if (c->choices[i].submitted)
            request_sums_add(&c->sums, &r);
    }
    struct reply_usage tokens = call_usage(c);
    c->sums.prompt_tokens = tokens.prompt_tokens;
    c->sums.cached_tokens = tokens.cached_tokens;
    c->bandwidth_s = peak > 0 ? (double)gen_memory_bytes(&c->sums.traffic) / peak : 0;
    struct ledger_row row = {.n_requests = 1,
                             .prompt_tokens = tokens.prompt_tokens,
                             .cached_tokens = tokens.cached_tokens,
                             .output_tokens = tokens.completion_tokens,
                             .traffic = c->sums.traffic,
                             .bandwidth_s = c->bandwidth_s,
                             .device_s = c->sums.device_s};
    metrics_usage(&s->metrics, c->key->name, &c->sums, c->bandwidth_s);
    note_params(c);
    ledger_add(s->config.ledger, c->key->name, (int64_t)clock_wall_s(), &row);
    if (c->wants_usage)
        put_usage(c);
    keep(c, now_s);
    double ttft_s = call_ttft_s(c);
    LOG(LOG_INFO, "request done", {"id", log_str(c->id)}, {"key", log_str(c->key->name)},
        {"state", log_str(weir_state_name(c->sums.finish))}, {"prompt_tokens", log_u64(tokens.prompt_tokens)},
        {"cached_tokens", log_u64(tokens.cached_tokens)}, {"output_tokens", log_u64(tokens.completion_tokens)},
        {"queued_s", log_f64(c->sums.phase_s[GEN_QUEUED])}, {"ttft_s", log_f64(ttft_s > 0 ? ttft_s : 0)},
        {"total_s", log_f64(now_s - c->arrived_s)}, {"memory_bytes", log_u64(gen_memory_bytes(&c->sums.traffic))},
        {"bandwidth_s", log_f64(c->bandwidth_s)}, {"device_s", log_f64(c->sums.device_s)},
        {"trace_id", log_str(c->trace.trace_id)}, {"span_id", log_str(c->trace.span_id)});
}

/* ---- Headers ---- */

void call_put_trace(struct call *c)
{
    char parent[56];
    trace_context_format(&c->trace, parent);
    http_reply_header(c->http, "traceparent", parent);
    if (c->trace.state[0])
        http_reply_header(c->http, "tracestate", c->trace.state);
}

static void put_duration(struct buf *b, const char *name, double seconds, const char *desc)
{
    if (seconds <= 0)
        return;
    buf_printf(b, "%s%s;dur=%.3f", b->len ? ", " : "", name, seconds * 1e3);
    if (desc)
        buf_printf(b, ";desc=\"%s\"", desc);
}

/* What it queued for longest. */
static const char *longest_wait(const double *queued_s)
{
    int most = 0;
    for (int i = 1; i < SCHED_N_WAITS; i++)
        most = queued_s[i] > queued_s[most] ? i : most;
    return sched_wait_names[most];
}

void call_put_timing(struct call *c, bool whole)
{
    static const char *const names[GEN_N_PHASES] = {"queue", "prefill", "decode", "preempted", "stalled", "tier"};
    const double *phase_s = whole ? c->sums.phase_s : c->choices[0].first.phase_s;
    const double *queued_s = whole ? c->sums.queued_s : c->choices[0].first.queued_s;
    if (!whole && !c->choices[0].n_tokens)
        return; /* it begins in the queue */
    struct buf b;
    buf_init(&b, 1024);
    put_duration(&b, "prepare", c->job.seconds, NULL);
    for (int i = 0; i < GEN_N_PHASES; i++)
        put_duration(&b, names[i], phase_s[i], i == GEN_QUEUED ? longest_wait(queued_s) : NULL);
    if (whole)
        buf_printf(&b, "%sweir;desc=\"bytes=%llu\"", b.len ? ", " : "",
                   (unsigned long long)gen_memory_bytes(&c->sums.traffic));
    if (b.len && !b.failed)
        http_reply_header(c->http, "Server-Timing", b.data);
    buf_finish(&b);
}
