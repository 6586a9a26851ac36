/* What the memory side of the scheduler tells: what its cache keeps and gives up, what is reserved for whom, how hard
 * memory is pressed, and how true its predictions are. Part of struct sched_stats (policy/sched.h).
 *
 * Counters run from the scheduler's creation, gauges are as of now. Chunks are KV chunks: times chunk_tokens times the
 * bytes of a token's keys and values they are bytes. Bandwidth is in bytes/s; it is 0 without a traffic model.
 */
#ifndef WEIR_POLICY_MEMORY_STATS_H
#define WEIR_POLICY_MEMORY_STATS_H

#include <stdint.h>

/* The ladder under memory pressure, in the order in which its rungs are taken. A rung implies those before it. */
enum pressure_level {
    PRESSURE_NONE,
    PRESSURE_SMALL_PREFILL,    /* prompts advance in smaller pieces */
    PRESSURE_DROP_SPECULATION, /* reservations for conversations that may go on are revoked */
    PRESSURE_EVICT,            /* cached prefixes are given up ahead of need, the least valuable first */
    PRESSURE_DEMOTE,           /* idle chunks move to the next tier; skipped where there is none */
    PRESSURE_STOP_ADMITTING,
    PRESSURE_PREEMPT, /* running sequences give their chunks back, the cheapest to compute again first */
    PRESSURE_REFUSE,  /* new requests are refused at arrival */
    PRESSURE_N_LEVELS
};

/* "none", "small-prefill", "drop-speculation", "evict", "demote", "stop-admitting", "preempt", "refuse" */
extern const char *const pressure_level_names[PRESSURE_N_LEVELS];

/* What raised the level last. */
enum pressure_cause {
    PRESSURE_CAUSE_NONE,
    PRESSURE_CAUSE_PEAK,      /* the predicted peak of the running sequences passes the pool */
    PRESSURE_CAUSE_NEAR,      /* the next steps need more chunks than are free or cached */
    PRESSURE_CAUSE_EXHAUSTED, /* a step found no chunk */
    PRESSURE_N_CAUSES
};
extern const char *const pressure_cause_names[PRESSURE_N_CAUSES]; /* "none", "peak", "near", "exhausted" */

struct retention_stats {
    uint64_t evicted_one_use, evicted_reused, evicted_pinned; /* chunks, by what they had been: never taken up again,
                                                                 taken up at least once, pinned (nothing else left) */
    uint64_t missed; /* chunks computed anew that had been evicted not long ago: what eviction cost */
    uint64_t reused; /* cached chunks taken up again */
    uint32_t pinned_chunks, pin_limit_chunks;
    double value_per_s;  /* seconds of recomputation that all that is cached is expected to save, a second */
    double victim_value; /* the same of the last chunk evicted: what one more chunk of memory is worth */
};

struct reserve_stats {
    uint32_t base_chunks;        /* held by running sequences */
    uint32_t predicted_chunks;   /* at their predicted peak, base included; 0 without a traffic model */
    uint32_t speculative_chunks; /* for conversations that may go on */
    uint32_t limit_chunks;       /* --speculative-limit of what is not held */
    double base_bytes_per_s, speculative_bytes_per_s, limit_bytes_per_s; /* the same of bandwidth */
    uint32_t n_watched;                                                  /* conversations that may go on */
    uint64_t n_made, n_capped; /* reservations made; of them not in full, because of the limit */
    uint64_t n_kept;           /* the conversation went on while reserved for */
    uint64_t n_expired;        /* it became unlikely */
    uint64_t n_revoked;        /* given up under pressure */
};

struct pressure_stats {
    enum pressure_level level;
    enum pressure_cause cause;             /* of the last rise */
    uint64_t n_entered[PRESSURE_N_LEVELS]; /* rises to each level */
    uint64_t n_left[PRESSURE_N_LEVELS];    /* falls from each level */
    uint64_t n_by_cause[PRESSURE_N_CAUSES];
    double level_s[PRESSURE_N_LEVELS]; /* time spent at each level */
    uint64_t n_preempted_most;         /* preemptions of the request that had most of them */
};

struct calibration_stats {
    double length_coverage[4]; /* share of outputs under the predicted 0.5, 0.8, 0.9 and 0.95 quantiles */
    uint64_t n_lengths;        /* outputs that ended by themselves */
    double continuation_brier; /* mean squared error of P(continue) at a turn's end */
    double continuation_rate;  /* share of turns that were continued: Brier of the rate alone is rate (1 - rate) */
    uint64_t n_continuations;  /* turns decided */
    uint64_t n_peaks, n_peaks_under,
        n_peaks_over;                          /* peaks forecast and come to pass; more than 5 % too low, too high */
    double peak_error_sum, peak_abs_error_sum; /* of (predicted - actual) / actual */
};

struct memory_stats {
    struct retention_stats retention;
    struct reserve_stats reserve;
    struct pressure_stats pressure;
    struct calibration_stats calibration;
};

#endif
