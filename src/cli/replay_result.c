#include "cli/replay_result.h"

#include "base/mem.h"
#include "policy/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SPAN_S 0.25
#define GAP_MIN_S 1e-6
#define GAP_RATIO 1.02
#define POINT_FIELDS (sizeof(struct replay_point) / sizeof(double))

const double replay_quantiles[REPLAY_N_QUANTILES] = {0.5, 0.9, 0.95, 0.99};

int replay_result_init(struct replay_result *r, uint32_t n_requests, struct err *e)
{
    *r = (struct replay_result){.n_requests = n_requests, .series_span_s = FIRST_SPAN_S};
    r->requests = mem_array(n_requests, sizeof *r->requests);
    if (!r->requests)
        return err_set(e, WEIR_ENOMEM, "no memory for the figures of %u requests", n_requests);
    for (uint32_t i = 0; i < n_requests; i++)
        r->requests[i].queue_s = -1;
    return 0;
}

void replay_result_finish(struct replay_result *r)
{
    free(r->requests);
    *r = (struct replay_result){0};
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* --- while it runs ---------------------------------------------------------------------------------------------- */

static void halve_resolution(struct replay_result *r)
{
    for (uint32_t i = 0; i < REPLAY_SERIES / 2; i++) {
        double sum[POINT_FIELDS], add[POINT_FIELDS];
        memcpy(sum, &r->series[2 * i], sizeof sum);
        memcpy(add, &r->series[2 * i + 1], sizeof add);
        for (size_t k = 0; k < POINT_FIELDS; k++)
            sum[k] += add[k];
        memcpy(&r->series[i], sum, sizeof sum);
    }
    memset(&r->series[REPLAY_SERIES / 2], 0, REPLAY_SERIES / 2 * sizeof *r->series);
    r->series_span_s *= 2;
    r->n_series = (r->n_series + 1) / 2;
}

struct replay_point *replay_result_point(struct replay_result *r, double at_s)
{
    while (at_s >= r->series_span_s * REPLAY_SERIES)
        halve_resolution(r);
    uint32_t i = (uint32_t)(at_s / r->series_span_s);
    r->n_series = i + 1 > r->n_series ? i + 1 : r->n_series;
    return &r->series[i];
}

void replay_result_advance(struct replay_result *r, double from_s, double to_s, const struct replay_gauges *g)
{
    replay_result_point(r, to_s); /* no more halving below */
    while (from_s < to_s) {
        struct replay_point *p = replay_result_point(r, from_s);
        double end_s = (double)(p - r->series + 1) * r->series_span_s, dt = fmin(end_s, to_s) - from_s;
        p->span_s += dt;
        p->running_s += dt * g->running;
        p->queued_s += dt * g->queued;
        p->chunks_s += dt * g->chunks;
        from_s = end_s;
    }
}

void replay_result_gap(struct replay_result *r, double gap_s)
{
    struct replay_gaps *g = &r->gaps;
    if (gap_s != g->last_s) {
        double i = gap_s > GAP_MIN_S ? log(gap_s / GAP_MIN_S) / log(GAP_RATIO) : 0;
        g->last_bucket = i < REPLAY_GAP_BUCKETS - 1 ? (uint32_t)i : REPLAY_GAP_BUCKETS - 1;
        g->last_s = gap_s;
    }
    g->counts[g->last_bucket]++;
    g->n++;
}

void replay_result_step(struct replay_result *r, double at_s, double busy_s, double bytes, double flops)
{
    struct replay_point *p = replay_result_point(r, at_s);
    p->busy_s += busy_s;
    p->bytes += bytes;
    p->flops += flops;
    r->busy_s += busy_s;
    r->bytes += bytes;
    r->flops += flops;
    r->n_steps++;
}

/* Means are weighed by what they are of. */
static void add_calibration(struct calibration_stats *sum, const struct calibration_stats *x)
{
    double lengths = (double)(sum->n_lengths + x->n_lengths), own = (double)x->n_lengths;
    for (int i = 0; i < LENGTH_N_LEVELS; i++)
        sum->length_coverage[i] += share((x->length_coverage[i] - sum->length_coverage[i]) * own, lengths);
    double turns = (double)(sum->n_continuations + x->n_continuations), own_turns = (double)x->n_continuations;
    sum->continuation_brier += share((x->continuation_brier - sum->continuation_brier) * own_turns, turns);
    sum->continuation_rate += share((x->continuation_rate - sum->continuation_rate) * own_turns, turns);
    sum->n_lengths += x->n_lengths;
    sum->n_continuations += x->n_continuations;
    sum->n_peaks += x->n_peaks;
    sum->n_peaks_under += x->n_peaks_under;
    sum->n_peaks_over += x->n_peaks_over;
    sum->peak_error_sum += x->peak_error_sum;
    sum->peak_abs_error_sum += x->peak_abs_error_sum;
}

void replay_result_add_stats(struct replay_result *r, const struct sched_stats *x, const struct sched_stats *past)
{
    static const struct sched_stats none;
    struct sched_stats *sum = &r->sched;
    past = past ? past : &none;
    sum->chunks_total += x->chunks_total;
    sum->n_submitted += x->n_submitted - past->n_submitted;
    sum->n_finished += x->n_finished - past->n_finished;
    sum->n_refused += x->n_refused - past->n_refused;
    sum->n_cancelled += x->n_cancelled - past->n_cancelled;
    sum->n_failed += x->n_failed - past->n_failed;
    sum->n_preemptions += x->n_preemptions - past->n_preemptions;
    sum->n_grouped_steps += x->n_grouped_steps - past->n_grouped_steps;
    sum->n_left_out += x->n_left_out - past->n_left_out;
    sum->prompt_tokens += x->prompt_tokens - past->prompt_tokens;
    sum->generated_tokens += x->generated_tokens - past->generated_tokens;
    sum->recomputed_tokens += x->recomputed_tokens - past->recomputed_tokens;
    sum->prefix_query_tokens += x->prefix_query_tokens - past->prefix_query_tokens;
    sum->prefix_hit_tokens += x->prefix_hit_tokens - past->prefix_hit_tokens;
    sum->n_evicted_chunks += x->n_evicted_chunks - past->n_evicted_chunks;
    sum->n_steps += x->n_steps - past->n_steps;
    sum->prediction.n += x->prediction.n - past->prediction.n;
    sum->prediction.abs_sum += x->prediction.abs_sum - past->prediction.abs_sum;
    if (x->memory.pressure.n_preempted_most > sum->memory.pressure.n_preempted_most)
        sum->memory.pressure.n_preempted_most = x->memory.pressure.n_preempted_most;
    add_calibration(&sum->memory.calibration, &x->memory.calibration);
}

/* --- afterwards ------------------------------------------------------------------------------------------------- */

double replay_gap_quantile(const struct replay_gaps *g, double q)
{
    uint64_t below = 0, rank = (uint64_t)(q * (double)g->n);
    for (uint32_t i = 0; i < REPLAY_GAP_BUCKETS; i++) {
        below += g->counts[i];
        if (below > rank || (below == g->n && g->n))
            return GAP_MIN_S * pow(GAP_RATIO, i + 0.5);
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

enum figure { FIG_QUEUE, FIG_TTFT, FIG_ITL, FIG_E2E };

static float figure_of(const struct replay_request *q, enum figure f)
{
    return f == FIG_QUEUE ? q->queue_s : f == FIG_TTFT ? q->ttft_s : f == FIG_ITL ? q->mean_itl_s : q->e2e_s;
}

/* Quantiles of one figure over finished requests; zeros if there are none. scratch: [n_requests]. */
static void quantiles(const struct replay_result *r, enum figure f, float *scratch, double *out,
                      float curve[REPLAY_CURVE])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_requests; i++)
        if (r->requests[i].state == REPLAY_DONE && figure_of(&r->requests[i], f) >= 0)
            scratch[n++] = figure_of(&r->requests[i], f);
    qsort(scratch, n, sizeof *scratch, by_value);
    for (int j = 0; j < REPLAY_N_QUANTILES; j++)
        out[j] = n ? (double)scratch[(uint32_t)(replay_quantiles[j] * (n - 1) + 0.5)] : 0;
    for (uint32_t j = 0; curve && j < REPLAY_CURVE; j++)
        curve[j] = n ? scratch[(uint64_t)j * (n - 1) / (REPLAY_CURVE - 1)] : 0;
}

/* Requests that arrive by the clock set the span that goodput is measured over; a tail of late ones does not thin it. */
static double count(const struct replay_result *r, const struct replay_slo *slo, struct replay_summary *s)
{
    double last_s = 0;
    for (uint32_t i = 0; i < r->n_requests; i++) {
        const struct replay_request *q = &r->requests[i];
        s->n_done += q->state == REPLAY_DONE;
        s->n_refused += q->state == REPLAY_REFUSED;
        s->n_failed += q->state == REPLAY_FAILED;
        s->n_cancelled += q->state == REPLAY_CANCELLED;
        s->n_good += q->state == REPLAY_DONE && (double)q->ttft_s <= slo->ttft_s && (double)q->mean_itl_s <= slo->itl_s;
        last_s = fmax(last_s, q->arrival_s);
    }
    return last_s;
}

int replay_summarise(const struct replay_result *r, const struct replay_slo *slo, const struct replay_capacity *c,
                     struct replay_summary *out, struct err *e)
{
    struct replay_summary s = {0};
    double offered_s = fmax(count(r, slo, &s), 1e-9), span_s = fmax(r->end_s, 1e-9), hours = span_s / 3600;
    float *scratch = mem_array(r->n_requests, sizeof *scratch);
    if (!scratch)
        return err_set(e, WEIR_ENOMEM, "no memory for the figures of %u requests", r->n_requests);
    quantiles(r, FIG_QUEUE, scratch, s.queue_s, NULL);
    quantiles(r, FIG_TTFT, scratch, s.ttft_s, s.ttft_curve_s);
    quantiles(r, FIG_ITL, scratch, s.mean_itl_s, s.mean_itl_curve_s);
    quantiles(r, FIG_E2E, scratch, s.e2e_s, s.e2e_curve_s);
    free(scratch);
    for (int j = 0; j < REPLAY_N_QUANTILES; j++)
        s.gap_s[j] = replay_gap_quantile(&r->gaps, replay_quantiles[j]);
    double tokens = (double)r->generated_tokens, chunks_s = 0;
    for (uint32_t i = 0; i < r->n_series; i++)
        chunks_s += r->series[i].chunks_s;
    s.offered_per_s = r->n_requests / offered_s;
    s.goodput_per_s = s.n_good / offered_s;
    s.good_share = share(s.n_good, r->n_requests);
    s.requests_per_s = s.n_done / span_s;
    s.output_tokens_per_s = tokens / span_s;
    s.prompt_tokens_per_s = (double)r->sched.prompt_tokens / span_s;
    s.refused_share = share(s.n_refused, r->n_requests);
    s.recomputed_share =
        share((double)r->sched.recomputed_tokens, (double)(r->sched.prompt_tokens + r->sched.generated_tokens));
    s.prefix_hit_share = share((double)r->sched.prefix_hit_tokens, (double)r->sched.prefix_query_tokens);
    s.kv_waste_share = share(r->waste_token_s, r->held_token_s);
    s.kv_used_share = share(chunks_s, span_s * (double)c->n_chunks);
    s.bandwidth_utilisation = share(r->bytes, span_s * c->bytes_per_s);
    s.compute_utilisation = share(r->flops, span_s * c->flops_per_s);
    s.busy_share = share(r->busy_s, span_s * c->n_replicas);
    s.step_error = share(r->sched.prediction.abs_sum, (double)r->sched.prediction.n);
    s.cost = c->price_per_hour * hours;
    s.cost_per_million_tokens = share(s.cost * 1e6, tokens);
    s.cost_per_1000_good = share(s.cost * 1e3, s.n_good);
    *out = s;
    return 0;
}
