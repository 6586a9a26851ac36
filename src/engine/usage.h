/* What a request used: bytes, operations, time, and where its time went. Counted on the engine thread.
 *
 * In every step what the device counted is shared out among the step's sequences, in whole bytes that add up to the
 * device's count exactly:
 *
 *   KV read and written   each its own
 *   weights               layers': equal parts, for all of them are read once for all (the Shapley value of a cost that
 *                         any one of them would cause alone); output matrix, and what of the last layer is for rows
 *                         with logits only: equal parts of those who want logits; embedding rows and experts: by rows
 *   activations           by rows and rows of logits
 *   operations            by rows, rows of logits, and visible positions
 *   seconds               by the larger of the time that its bytes and its operations take at full speed
 */
#ifndef WEIR_ENGINE_USAGE_H
#define WEIR_ENGINE_USAGE_H

#include "device/device.h"
#include "policy/sched.h"

#include <stdint.h>

struct gen_traffic {
    uint64_t weight_bytes, kv_read_bytes, kv_write_bytes, activation_bytes;
    uint64_t tier_bytes; /* chunks moved between tiers of memory */
    uint64_t flops;
};

/* What memory has to deliver: all classes but activations, which mostly stay in caches. */
static inline uint64_t gen_memory_bytes(const struct gen_traffic *t)
{
    return t->weight_bytes + t->kv_read_bytes + t->kv_write_bytes + t->tier_bytes;
}

void gen_traffic_add(struct gen_traffic *t, const struct gen_traffic *more);

enum gen_phase {
    GEN_QUEUED,
    GEN_PREFILL, /* a preempted one's tokens are computed again in it too */
    GEN_DECODE,
    GEN_PREEMPTED, /* its chunks were given up; waits to start again */
    GEN_STALLED,   /* holds chunks but was left out of steps */
    GEN_TIER,      /* waits for chunks of its from another tier */
    GEN_N_PHASES,
};
extern const char *const gen_phase_names[GEN_N_PHASES];
extern const char *const sched_wait_names[SCHED_N_WAITS];

#define GEN_MAX_SPANS 32

/* A stretch of a request's life; each begins where the one before ended. Seconds after the submit. */
struct gen_span {
    enum gen_phase phase;
    enum sched_wait reason; /* GEN_QUEUED: what it waited for longest */
    double begin_s, end_s;
    uint64_t memory_bytes;
    uint32_t n_rows;
};

struct gen_usage {
    struct gen_traffic traffic;
    double device_s; /* its share of the steps' seconds */
    uint64_t n_steps;
    uint32_t n_preemptions, n_spans;
    double phase_s[GEN_N_PHASES];
    double queued_s[SCHED_N_WAITS];       /* of phase_s[GEN_QUEUED] */
    struct gen_span spans[GEN_MAX_SPANS]; /* later ones run into the last */
};

/* Adds a stretch until end_s, in which it moved memory_bytes. */
void gen_usage_span(struct gen_usage *u, enum gen_phase phase, double end_s, uint64_t memory_bytes, uint32_t n_rows);

/* ---- sharing a step out ---- */

struct usage_part {
    uint32_t n_past, n_rows, n_outputs, n_prompt; /* n_prompt: positions below are a prompt's */
};

struct usage_share {
    struct gen_traffic traffic;
    double device_s;
};

struct usage_rates {
    const struct traffic_model *model;                   /* NULL: equal parts, KV by positions */
    double bytes_per_s, flops_per_s, prompt_flops_per_s; /* 0: not counted */
};

/* out[n]: the parts of what the device counted in a step of these n sequences. Pure. */
void usage_share(const struct usage_rates *r, const struct usage_part *parts, uint32_t n,
                 const struct step_traffic *total, double seconds, struct usage_share *out);

#endif
