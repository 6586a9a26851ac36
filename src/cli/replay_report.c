#include "cli/replay_report.h"

#include "base/json.h"
#include "cli/page.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- text ------------------------------------------------------------------------------------------------------- */

static void put_devices(const struct replay_report *r, struct buf *b)
{
    for (uint32_t i = 0; i < r->n_replicas;) {
        uint32_t n = 1;
        while (i + n < r->n_replicas && !strcmp(r->replicas[i].name, r->replicas[i + n].name))
            n++;
        buf_printf(b, "%s%u x %s", i ? ", " : "", n, r->replicas[i].name);
        if (r->tensor_parallel > 1)
            buf_printf(b, " (tensor parallel over %u)", r->tensor_parallel);
        buf_printf(b, ", %u KV chunks of %u tokens%s", r->replicas[i].sched.n_chunks, r->replicas[i].sched.chunk_tokens,
                   n > 1 ? " each" : "");
        i += n;
    }
    buf_addc(b, '\n');
}

static void put_playback(const struct playback *p, struct buf *b)
{
    buf_printf(b, "Recorded by weir %s, policy %s, model %s.\n", p->weir, p->policy.name, p->model);
    if (*p->difference)
        buf_printf(b, "The decisions DIFFER from the live ones: %s.\n", p->difference);
    else if (p->compared)
        buf_printf(b, "All decisions are equal to the live ones: %" PRIu64 " plans, %" PRIu64 " ends of requests.\n",
                   p->n_plans, p->n_ends);
    else
        buf_printf(b, "The recording begins in the middle of a run, without a state of the scheduler that this weir "
                      "can read: decisions "
                      "cannot be compared, its traffic can.\n");
    if (p->torn_bytes)
        buf_printf(b, "Its last %zu bytes are torn and were left out.\n", p->torn_bytes);
    if (p->n_drawn)
        buf_printf(b,
                   "%u requests did not end by themselves in the recording: the length of another's output was drawn "
                   "for each.\n",
                   p->n_drawn);
}

static int label_width(const struct replay_report *r)
{
    size_t w = 12;
    for (uint32_t i = 0; i < r->n_runs; i++)
        w = strlen(r->runs[i].label) > w ? strlen(r->runs[i].label) : w;
    return (int)w;
}

static void put_service(const struct replay_report *r, struct buf *b)
{
    int w = label_width(r);
    buf_printf(b, "\n%-*s %6s %9s %6s %9s %8s | %8s %8s | %8s %8s | %8s %8s | %8s %8s\n", w, "policy", "rate",
               "goodput/s", "good", "tokens/s", "refused", "queue", "p99 s", "TTFT p50", "p99 s", "ITL p50", "p99 ms",
               "E2E p50", "p99 s");
    for (uint32_t i = 0; i < r->n_runs; i++) {
        const struct replay_run *run = &r->runs[i];
        const struct replay_summary *s = &run->summary;
        buf_printf(b,
                   "%-*s %5.2fx %9.3f %5.1f%% %9.0f %7.1f%% | %8.2f %8.2f | %8.2f %8.2f | %8.1f %8.1f | %8.1f %8.1f\n",
                   w, run->label, run->rate_scale, s->goodput_per_s, 100 * s->good_share, s->output_tokens_per_s,
                   100 * s->refused_share, s->queue_s[0], s->queue_s[3], s->ttft_s[0], s->ttft_s[3],
                   1e3 * s->mean_itl_s[0], 1e3 * s->mean_itl_s[3], s->e2e_s[0], s->e2e_s[3]);
    }
}

static void put_resources(const struct replay_report *r, struct buf *b)
{
    int w = label_width(r);
    buf_printf(b, "\n%-*s %6s %9s %8s %7s %7s | %8s %8s | %9s %9s | %8s %8s | %9s %9s\n", w, "policy", "rate",
               "gap p99 ms", "busy", "MBU", "compute", "KV used", "KV waste", "preempted", "recomp.", "prefix",
               "step err", "per M tok", "per k good");
    for (uint32_t i = 0; i < r->n_runs; i++) {
        const struct replay_run *run = &r->runs[i];
        const struct replay_summary *s = &run->summary;
        buf_printf(
            b,
            "%-*s %5.2fx %10.1f %7.1f%% %6.1f%% %6.1f%% | %7.1f%% %7.2f%% | %9" PRIu64 " %8.2f%% | %7.1f%% %7.1f%% |",
            w, run->label, run->rate_scale, 1e3 * s->gap_s[3], 100 * s->busy_share, 100 * s->bandwidth_utilisation,
            100 * s->compute_utilisation, 100 * s->kv_used_share, 100 * s->kv_waste_share,
            run->result.sched.n_preemptions, 100 * s->recomputed_share, 100 * s->prefix_hit_share, 100 * s->step_error);
        if (s->cost > 0)
            buf_printf(b, " %9.3f %9.3f\n", s->cost_per_million_tokens, s->cost_per_1000_good);
        else
            buf_printf(b, " %9s %9s\n", "-", "-");
    }
}

void replay_report_text(const struct replay_report *r, struct buf *b)
{
    buf_printf(b, "%u requests of %s; %s (weights %s, KV %s)\n", r->n_requests, r->source, r->model, r->weights, r->kv);
    put_devices(r, b);
    if (r->playback)
        put_playback(r->playback, b);
    put_service(r, b);
    put_resources(r, b);
    buf_printf(b,
               "\ngood: first token within %g s and mean inter-token time within %g ms; goodput: good ones a second of "
               "arrivals.\n"
               "queue, TTFT, ITL, E2E: of finished requests. gap: between any two tokens. MBU, compute: of what the "
               "devices sustain.\n"
               "KV waste: reserved or allocated, and unused. step err: predicted against real step times.%s\n",
               r->slo.ttft_s, 1e3 * r->slo.itl_s, r->runs[0].summary.cost > 0 ? "" : " Cost: give --price.");
}

/* --- JSON ------------------------------------------------------------------------------------------------------- */

static json_t *quantiles_json(const double *q)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "p50", q[0], "p90", q[1], "p95", q[2], "p99", q[3]);
}

static json_t *curve_json(const float *v)
{
    json_t *a = json_array();
    for (int i = 0; i < REPLAY_CURVE; i++)
        json_array_append_new(a, json_real((double)v[i]));
    return a;
}

enum column {
    COL_MBU,
    COL_COMPUTE,
    COL_RUNNING,
    COL_QUEUED,
    COL_KV,
    COL_TOKENS,
    COL_ARRIVED,
    COL_FINISHED,
    COL_REFUSED,
    COL_PREEMPTED
};

static double column_of(const struct replay_run *run, enum column c, uint32_t i)
{
    const struct replay_result *r = &run->result;
    const struct replay_point *p = &r->series[i];
    double span = r->series_span_s, held = fmax(p->span_s, 1e-9);
    switch (c) {
    case COL_MBU:
        return run->capacity.bytes_per_s > 0 ? p->bytes / (span * run->capacity.bytes_per_s) : 0;
    case COL_COMPUTE:
        return run->capacity.flops_per_s > 0 ? p->flops / (span * run->capacity.flops_per_s) : 0;
    case COL_RUNNING:
        return p->running_s / held;
    case COL_QUEUED:
        return p->queued_s / held;
    case COL_KV:
        return run->capacity.n_chunks ? p->chunks_s / held / (double)run->capacity.n_chunks : 0;
    case COL_TOKENS:
        return p->generated / span;
    case COL_ARRIVED:
        return p->arrived / span;
    case COL_FINISHED:
        return p->finished / span;
    case COL_REFUSED:
        return p->refused / span;
    case COL_PREEMPTED:
        return p->preempted / span;
    }
    return 0;
}

static json_t *series_json(const struct replay_run *run)
{
    static const char *const names[] = {
        "bandwidth_utilisation", "compute_utilisation", "running",        "queued",        "kv_used_share",
        "output_tokens_per_s",   "arrived_per_s",       "finished_per_s", "refused_per_s", "preempted_per_s"};
    json_t *o = json_pack("{s:f}", "span_s", run->result.series_span_s);
    for (int c = COL_MBU; c <= COL_PREEMPTED; c++) {
        json_t *a = json_array();
        for (uint32_t i = 0; i < run->result.n_series; i++)
            json_array_append_new(a, json_real(column_of(run, (enum column)c, i)));
        json_object_set_new(o, names[c], a);
    }
    return o;
}

static void set_numbers(json_t *o, const struct replay_run *run)
{
    const struct replay_summary *s = &run->summary;
    const struct {
        const char *name;
        double v;
    } numbers[] = {
        {"offered_per_s", s->offered_per_s},
        {"goodput_per_s", s->goodput_per_s},
        {"good_share", s->good_share},
        {"requests_per_s", s->requests_per_s},
        {"output_tokens_per_s", s->output_tokens_per_s},
        {"prompt_tokens_per_s", s->prompt_tokens_per_s},
        {"refused_share", s->refused_share},
        {"recomputed_share", s->recomputed_share},
        {"prefix_hit_share", s->prefix_hit_share},
        {"kv_waste_share", s->kv_waste_share},
        {"kv_used_share", s->kv_used_share},
        {"bandwidth_utilisation", s->bandwidth_utilisation},
        {"compute_utilisation", s->compute_utilisation},
        {"busy_share", s->busy_share},
        {"step_prediction_error", s->step_error},
        {"simulated_s", run->result.end_s},
        {"cost", s->cost},
        {"cost_per_million_tokens", s->cost_per_million_tokens},
        {"cost_per_1000_good", s->cost_per_1000_good},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(o, numbers[i].name, json_real(numbers[i].v));
    const struct {
        const char *name;
        uint64_t v;
    } counts[] = {
        {"finished", s->n_done},
        {"good", s->n_good},
        {"refused", s->n_refused},
        {"failed", s->n_failed},
        {"cancelled", s->n_cancelled},
        {"steps", run->result.n_steps},
        {"output_tokens", run->result.generated_tokens},
        {"preemptions", run->result.sched.n_preemptions},
        {"recomputed_tokens", run->result.sched.recomputed_tokens},
        {"grouped_steps", run->result.sched.n_grouped_steps},
        {"left_out", run->result.sched.n_left_out},
        {"preempted_most", run->result.sched.memory.pressure.n_preempted_most},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(o, counts[i].name, json_integer((json_int_t)counts[i].v));
}

static json_t *predictions_json(const struct calibration_stats *c)
{
    double peaks = c->n_peaks ? (double)c->n_peaks : 1;
    json_t *coverage = json_pack("{s:f, s:f, s:f, s:f}", "p50", c->length_coverage[0], "p80", c->length_coverage[1],
                                 "p90", c->length_coverage[2], "p95", c->length_coverage[3]);
    return json_pack("{s:o, s:I, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f}", "length_coverage", coverage, "lengths",
                     (json_int_t)c->n_lengths, "continuation_brier", c->continuation_brier, "continuation_rate",
                     c->continuation_rate, "continuations", (json_int_t)c->n_continuations, "peaks",
                     (json_int_t)c->n_peaks, "peak_mean_error", c->peak_error_sum / peaks, "peak_mean_abs_error",
                     c->peak_abs_error_sum / peaks, "peak_under_share", (double)c->n_peaks_under / peaks,
                     "peak_over_share", (double)c->n_peaks_over / peaks);
}

static json_t *run_json(const struct replay_run *run)
{
    const struct replay_summary *s = &run->summary;
    json_t *nodes = json_array();
    for (int i = 0; i < SCHED_MAX_NODES && run->policy.nodes[i][0]; i++)
        json_array_append_new(nodes, json_string(run->policy.nodes[i]));
    json_t *o = json_pack("{s:s, s:b, s:o, s:i, s:i, s:f}", "policy", run->label, "live", run->is_live, "nodes", nodes,
                          "max_step_tokens", (int)run->max_step_tokens, "max_running", (int)run->max_running,
                          "rate_scale", run->rate_scale);
    set_numbers(o, run);
    json_object_set_new(o, "queue_s", quantiles_json(s->queue_s));
    json_object_set_new(o, "ttft_s", quantiles_json(s->ttft_s));
    json_object_set_new(o, "mean_itl_s", quantiles_json(s->mean_itl_s));
    json_object_set_new(o, "e2e_s", quantiles_json(s->e2e_s));
    json_object_set_new(o, "gap_s", quantiles_json(s->gap_s));
    json_object_set_new(o, "distribution",
                        json_pack("{s:o, s:o, s:o}", "ttft_s", curve_json(s->ttft_curve_s), "mean_itl_s",
                                  curve_json(s->mean_itl_curve_s), "e2e_s", curve_json(s->e2e_curve_s)));
    json_object_set_new(o, "predictions", predictions_json(&run->result.sched.memory.calibration));
    json_object_set_new(o, "series", series_json(run));
    return o;
}

static json_t *playback_json(const struct playback *p)
{
    if (!p)
        return json_null();
    return json_pack("{s:s, s:s, s:s, s:b, s:b, s:I, s:I, s:s, s:I, s:i}", "weir", p->weir, "policy", p->policy.name,
                     "model", p->model, "compared", p->compared, "equal", p->compared && !*p->difference, "plans",
                     (json_int_t)p->n_plans, "ends", (json_int_t)p->n_ends, "difference", p->difference, "torn_bytes",
                     (json_int_t)p->torn_bytes, "drawn_lengths", (int)p->n_drawn);
}

static json_t *report_json(const struct replay_report *r)
{
    json_t *replicas = json_array(), *runs = json_array();
    for (uint32_t i = 0; i < r->n_replicas; i++) {
        const struct replay_replica *x = &r->replicas[i];
        json_array_append_new(replicas,
                              json_pack("{s:s, s:i, s:i, s:i, s:f}", "device", x->name, "devices",
                                        (int)r->tensor_parallel, "kv_chunks", (int)x->sched.n_chunks, "chunk_tokens",
                                        (int)x->sched.chunk_tokens, "price_per_hour", x->price_per_hour));
    }
    for (uint32_t i = 0; i < r->n_runs; i++)
        json_array_append_new(runs, run_json(&r->runs[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:{s:f, s:f}, s:o, s:o, s:o}", "weir", WEIR_VERSION, "source",
                     r->source, "model", r->model, "weights", r->weights, "kv", r->kv, "requests", (int)r->n_requests,
                     "seed", (int)r->seed, "slo", "ttft_s", r->slo.ttft_s, "itl_s", r->slo.itl_s, "replicas", replicas,
                     "recording", playback_json(r->playback), "runs", runs);
}

int replay_report_json(const struct replay_report *r, struct buf *b)
{
    return page_put_json(b, report_json(r), 7);
}

int replay_report_html(const struct replay_report *r, struct buf *b)
{
    return page_put(b, "replay_page", report_json(r), 7);
}
