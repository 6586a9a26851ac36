/* The simulator behind `weir replay`: a trace, one or several replicas, each the real scheduler (policy/sched.h) on a
 * simulated device, and a clock that jumps from event to event.
 *
 * A replica's step takes what the roofline (policy/calibrate.h) says for the plan's load with the device's parameters,
 * times log-normal noise, times a factor for a time span in which the device is slower. The scheduler is told only what
 * a live one would be: lengths of prompts, limits, hashes; a request's true output length stays here.
 *
 * Deterministic for a seed. Single-threaded. Results belong to the caller after replay_run.
 */
#ifndef WEIR_CLI_REPLAY_SIM_H
#define WEIR_CLI_REPLAY_SIM_H

#include "base/err.h"
#include "cli/trace.h"
#include "policy/calibrate.h"
#include "policy/sched.h"

#include <stdbool.h>
#include <stdint.h>

#define REPLAY_MAX_REPLICAS 64
#define REPLAY_SERIES 256 /* points of a time series at most */

struct replay_replica {
    const char *name;
    struct sched_config sched;
    struct calibrate_prior device; /* what the simulated device really does */
};

struct replay_slo {
    double ttft_s,
        itl_s; /* a request is good if its first token came within ttft_s and its mean inter-token time is <= itl_s */
};

struct replay_config {
    const struct trace *trace;
    struct traffic_model model;
    const struct replay_replica *replicas;
    uint32_t n_replicas;
    double rate_scale;       /* arrivals come this many times faster */
    uint32_t max_new_tokens; /* the limit that requests state (their true length if that is larger) */
    struct replay_slo slo;
    double noise;                               /* sigma of the log of step times; 0: none */
    double slow_from_s, slow_to_s, slow_factor; /* the device is slower in between; factor 0: never */
    uint64_t seed;
    void (*progress)(double fraction, void *user); /* may be NULL */
    void *user;
};

enum replay_state { REPLAY_PENDING, REPLAY_DONE, REPLAY_REFUSED, REPLAY_FAILED };

struct replay_request {
    float ttft_s, mean_itl_s, e2e_s; /* of finished ones */
    double arrival_s;
    uint8_t state, reason;
};

/* Percentiles of every gap between two tokens of a request, from a histogram with 2 % wide buckets. */
#define REPLAY_GAP_BUCKETS 1024
struct replay_gaps {
    uint64_t n, counts[REPLAY_GAP_BUCKETS];
};

struct replay_point { /* sums over one span of the time series */
    double busy_s, bytes, flops, running_s, queued_s, chunks_active_s, generated, arrived, refused, span_s;
};

struct replay_result {
    struct replay_request *requests; /* [trace.n_requests] */
    uint32_t n_requests;
    struct replay_gaps gaps;
    struct replay_point series[REPLAY_SERIES];
    uint32_t n_series;
    double series_span_s;               /* of one point */
    double end_s;                       /* when the last request ended */
    double busy_s, bytes, flops;        /* over all replicas */
    double waste_chunk_s, held_chunk_s; /* integral of the unused part of active chunks, and of active chunks */
    uint64_t n_steps, generated_tokens;
    struct sched_stats sched; /* summed over replicas */
};

int replay_run(const struct replay_config *c, struct replay_result *out, struct err *e);
void replay_result_finish(struct replay_result *r);

/* The q-quantile (0..1) in seconds. */
double replay_gap_quantile(const struct replay_gaps *g, double q);

/* Requests within the objectives. */
uint32_t replay_n_good(const struct replay_result *r, const struct replay_slo *slo);

#endif
