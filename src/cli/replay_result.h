/* What a run of `weir replay` showed: each request's times, sums, a time series, and the figures that people compare.
 * The simulator (replay_sim.h) and the playback of a recording (replay_record.h) fill it as time goes on.
 *
 * Times in seconds. Deterministic. Memory belongs to the result; one owner.
 */
#ifndef WEIR_CLI_REPLAY_RESULT_H
#define WEIR_CLI_REPLAY_RESULT_H

#include "base/err.h"
#include "policy/sched.h"

#include <stdbool.h>
#include <stdint.h>

#define REPLAY_SERIES 256 /* points of a time series at most */

struct replay_slo {
    double ttft_s, itl_s; /* a request is good if its first token came within ttft_s and its mean inter-token time is
                             at most itl_s */
};

enum replay_state { REPLAY_PENDING, REPLAY_DONE, REPLAY_REFUSED, REPLAY_FAILED, REPLAY_CANCELLED };

struct replay_request {
    float queue_s;                   /* until its first rows ran; < 0: they never did, or it is not known */
    float ttft_s, mean_itl_s, e2e_s; /* of finished ones */
    double arrival_s;
    uint8_t state, reason; /* enum replay_state, enum sched_reason */
};

/* Every gap between two tokens of a request, in buckets 2 % wide. */
#define REPLAY_GAP_BUCKETS 1024
struct replay_gaps {
    uint64_t n, counts[REPLAY_GAP_BUCKETS];
    double last_s; /* and its bucket: those that decode together have the same gaps */
    uint32_t last_bucket;
};

struct replay_point {                             /* sums over one span of the time series; doubles only */
    double span_s, running_s, queued_s, chunks_s; /* integrals over time */
    double busy_s, bytes, flops, generated, arrived, refused, finished, preempted;
};

/* What holds between two events, summed over replicas. */
struct replay_gauges {
    double running, queued, chunks;
};

struct replay_result {
    struct replay_request *requests; /* [n_requests] */
    uint32_t n_requests;
    struct replay_gaps gaps;
    struct replay_point series[REPLAY_SERIES];
    uint32_t n_series;
    double series_span_s;               /* of one point */
    double end_s;                       /* when the last request ended */
    double busy_s, bytes, flops;        /* over all replicas */
    double waste_token_s, held_token_s; /* integral of the unused part of the KV that is held, and of all of it */
    uint64_t n_steps, generated_tokens;
    struct sched_stats sched; /* summed over replicas */
};

int replay_result_init(struct replay_result *r, uint32_t n_requests, struct err *e);
void replay_result_finish(struct replay_result *r);

/* Time goes on with the gauges as they are. */
void replay_result_advance(struct replay_result *r, double from_s, double to_s, const struct replay_gauges *g);

/* The point of the series at a time, for sums. */
struct replay_point *replay_result_point(struct replay_result *r, double at_s);
void replay_result_gap(struct replay_result *r, double gap_s);

/* A step of busy_s that ended at at_s. */
void replay_result_step(struct replay_result *r, double at_s, double busy_s, double bytes, double flops);

/* Adds a scheduler's counters, without those of the past (NULL: none). */
void replay_result_add_stats(struct replay_result *r, const struct sched_stats *x, const struct sched_stats *past);

/* Of the devices that it ran on, together. 0: not known. */
struct replay_capacity {
    double bytes_per_s, flops_per_s, price_per_hour;
    uint32_t n_replicas;
    uint64_t n_chunks;
};

#define REPLAY_N_QUANTILES 4
extern const double replay_quantiles[REPLAY_N_QUANTILES]; /* 0.5, 0.9, 0.95, 0.99 */

#define REPLAY_CURVE 41 /* the distribution of a figure at 0, 2.5, 5, ... 100 % */

struct replay_summary {
    uint32_t n_done, n_refused, n_failed, n_cancelled, n_good;
    double offered_per_s, goodput_per_s, good_share, requests_per_s, output_tokens_per_s, prompt_tokens_per_s;
    double queue_s[REPLAY_N_QUANTILES], ttft_s[REPLAY_N_QUANTILES], mean_itl_s[REPLAY_N_QUANTILES],
        e2e_s[REPLAY_N_QUANTILES], gap_s[REPLAY_N_QUANTILES];
    float ttft_curve_s[REPLAY_CURVE], mean_itl_curve_s[REPLAY_CURVE], e2e_curve_s[REPLAY_CURVE];
    double refused_share, recomputed_share, prefix_hit_share, kv_waste_share, kv_used_share;
    double bandwidth_utilisation, compute_utilisation, busy_share;
    double step_error;                                        /* mean |predicted - real| / real */
    double cost, cost_per_million_tokens, cost_per_1000_good; /* 0: prices are not known */
};

int replay_summarise(const struct replay_result *r, const struct replay_slo *slo, const struct replay_capacity *c,
                     struct replay_summary *out, struct err *e);

/* The q-quantile (0..1) of the gaps. */
double replay_gap_quantile(const struct replay_gaps *g, double q);

#endif
