/* The scheduler: an object that is told what happened and answers what to do.
 *
 *   sched_submit(s, request, now)     a request arrived: queued, or refused at once with the reason
 *   sched_cancel(s, id, now)          its client went away
 *   sched_plan(s, now, &plan)         what to run in the next step
 *   sched_commit(s, plan, out, now)   what happened, how long it took
 *
 * Pure: no clock, no thread, no I/O, no allocation after sched_create. Time comes in with each call, in seconds of any
 * origin, and must not go backwards. One owner. The live engine and the simulator drive this very object, so what a
 * replay shows is what the server does. At most one plan is out at a time: plan, run, commit, plan, ... Submitting and
 * cancelling in between is allowed; a cancelled sequence of a plan that is out keeps its chunks until the commit.
 *
 * Every submitted request ends in exactly one terminal state: SCHED_FINISHED, SCHED_REFUSED, SCHED_CANCELLED or
 * SCHED_FAILED. Terminal events are handed out by sched_next_event; a request's chunks are free (or cached) before its
 * event is visible.
 *
 * The scheduler never sees text or tokens: only lengths, and a chain hash for each full chunk (policy/prefix.h), so
 * that the same object runs on traces.
 *
 * Policies are pipelines of nodes (docs/policies.md), chosen by name, or lists of nodes of one's own:
 *
 *   weir           counts bytes and seconds (needs a traffic model): the queue is ordered by fair shares of the bytes that
 *                  API keys move, weighted by priority; requests that cannot meet their TTFT limit any more are refused;
 *                  a request is admitted if, at the future peak of the predicted lengths of all that run
 *                  (policy/peak.h), the KV fits the pool and a step stays under bandwidth_limit of the tightest
 *                  inter-token target; prefill fills what a step has left of that target, in predicted seconds;
 *                  where a device loses time on mixed lengths, sequences of similar length make a step of their own.
 *   fcfs           first come first served within a priority: every decoding sequence gets its row, what remains of
 *                  max_step_tokens goes to prefills from the oldest on. Admits when the known tokens and a margin for
 *                  those who decode fit the pool. The default without a traffic model.
 *   and the field's, as baselines:
 *   vllm           running sequences first, then waiting ones while rows and the chunks for those rows are left; no
 *                  margin; the last admitted is preempted and computed again.
 *   contiguous     one region for prompt and longest output reserved for each sequence; no shared prefixes.
 *   static         such batches run to the end of their longest member before the next begins, padded to equal length.
 *   compute-first  slots are filled whenever one is free, and prefill goes before decoding.
 *
 * In all of them a sequence is preempted when the pool runs out, the youngest first, and never the first in the order of
 * service, so that something always progresses. In those of weir's own each preemption doubles the margin that the victim
 * must find before it comes back, and after max_preemptions it is first in the order of service and no victim any more: it
 * comes back when it and all others of that kind that run fit the pool at their longest.
 */
#ifndef WEIR_POLICY_SCHED_H
#define WEIR_POLICY_SCHED_H

#include "base/err.h"
#include "policy/calibrate.h"
#include "policy/memory_stats.h"

#include <stdbool.h>
#include <stdint.h>

struct sched; /* opaque */

/* A pipeline by the names of its nodes, in the order in which they run. */
#define SCHED_MAX_NODES 16
#define SCHED_MAX_NAME 32
struct sched_policy {
    char name[SCHED_MAX_NAME];
    char nodes[SCHED_MAX_NODES][SCHED_MAX_NAME]; /* up to the first empty one */
};

/* The built-in policy of that name; WEIR_ENOTFOUND with a message that lists them. */
int sched_policy_find(const char *name, struct sched_policy *out, struct err *e);

/* WEIR_EINVAL says what is wrong: an unknown node, one listed twice, a value that nobody gives or takes. */
int sched_policy_check(const struct sched_policy *p, bool *needs_model, struct err *e);

/* What requests of one priority class are promised. Zeros: defaults. */
struct sched_class {
    double itl_target_s; /* inter-token time */
    double ttft_limit_s; /* a request that is predicted to wait longer for its first token is refused; 0: none is */
    double weight;       /* in fair queueing, for each step of priority: bytes a request may move beside others */
};

struct sched_config {
    uint32_t chunk_tokens;     /* tokens a KV chunk holds */
    uint32_t n_chunks;         /* of the pool */
    uint32_t max_running;      /* sequences in a step; <= max_step_tokens, so that prefills are never starved */
    uint32_t max_queued;       /* waiting requests; one more is refused (SCHED_REFUSED_QUEUE_FULL) */
    uint32_t max_step_tokens;  /* rows in a step */
    uint32_t max_step_outputs; /* rows in a step whose logits are wanted, >= max_running; 0: as many as rows */
    uint32_t max_context;      /* prompt + output tokens of one sequence */
    bool prefix_cache;         /* share and keep chunks of equal prefixes */
    const char *policy;        /* name of a built-in pipeline; NULL: weir if has_model, else fcfs */
    const struct sched_policy *pipeline; /* or this one, if not NULL; read at creation only */

    /* What steps move and how fast the device is believed to be; fitted to the steps' seconds from then on. */
    bool has_model;
    struct traffic_model model;
    struct calibrate_prior device;
    double itl_target_s;      /* of the standard class, priority 0; 0: 0.1 */
    double ttft_limit_s;      /* and its limit */
    struct sched_class high;  /* priority < 0; 0: targets as above, weight 4 */
    struct sched_class low;   /* priority > 0; 0: four times the above, weight 1/4 */
    double age_bound_s;       /* who has waited longer in the queue goes first; 0: 30 */
    double bandwidth_limit;   /* share of the target that the predicted step may take at the future peak; 0: 0.8 */
    bool lru_retention;       /* cached prefixes go least recently used first, not by value (policy/retention.h) */
    double speculative_limit; /* share of what is free that may be reserved for what is only likely; 0: 0.3; negative:
                                 none */
    double pin_limit;         /* share of the pool that requests may pin; 0: 0.1; negative: none */
    uint32_t max_preemptions; /* of a request; 0: 4. Not for the field's policies, which have no such bound. */
};

struct sched_request {
    uint64_t id;                  /* unique among live requests; never 0 */
    uint32_t n_prompt;            /* tokens, >= 1 */
    uint32_t max_new_tokens;      /* >= 1; the output ends there at the latest, or at the context's end */
    const uint64_t *chunk_hashes; /* chain hash of each full chunk of the sequence, from the first on; stays the
                                     caller's, who may append to it (seq_outcome.n_chunk_hashes) and keeps it in place
                                     until the request's terminal event */
    uint32_t n_chunk_hashes;      /* n_prompt / chunk_tokens, or fewer where they are not known */
    uint32_t n_prompt_logits; /* leading prompt tokens that must be computed, not taken from the cache, because their
                                 logits are wanted (echoed logprobs); 0 usually. Once computed they count as had. */
    uint32_t n_pinned;        /* leading prompt tokens whose full chunks stay cached, whatever else may go, up to
                                 pin_limit of the pool: a system prompt */
    int32_t priority;         /* smaller first; 0 by default */
    uint64_t key;             /* whose request it is (hash of the API key); for fairness */
    double itl_target_s;      /* its own inter-token target; 0: that of its class */
    double ttft_limit_s;      /* its own limit, if tighter than that of its class; 0: that one */
};

enum sched_state { SCHED_QUEUED, SCHED_RUNNING, SCHED_FINISHED, SCHED_REFUSED, SCHED_CANCELLED, SCHED_FAILED };

enum sched_reason {
    SCHED_REASON_NONE,
    SCHED_REFUSED_TOO_LONG,   /* prompt + 1 passes max_context */
    SCHED_REFUSED_NEVER_FITS, /* prompt + max_new_tokens needs more chunks than the pool has */
    SCHED_REFUSED_QUEUE_FULL, /* retry_after_s says when */
    SCHED_REFUSED_LATE,       /* its first token would come after ttft_limit_s; retry_after_s says when to try again */
    SCHED_FAILED_DEVICE,      /* the step that it was in failed */
    SCHED_REFUSED_PRESSURE,   /* memory has been short for long; retry_after_s says when to try again */
    SCHED_N_REASONS,
};

/* What the head of the queue waits for, and with it everybody behind. */
enum sched_wait {
    SCHED_WAIT_STEP,      /* the next plan */
    SCHED_WAIT_SLOTS,     /* max_running */
    SCHED_WAIT_KV,        /* chunks, now or at the predicted peak */
    SCHED_WAIT_BANDWIDTH, /* the bandwidth limit at the predicted peak */
    SCHED_WAIT_PREFILL,   /* earlier prompts fill the step */
    SCHED_N_WAITS,
};

struct sched_event {
    uint64_t id;
    enum sched_state state; /* terminal */
    enum sched_reason reason;
    double retry_after_s; /* for refusals that pass: a prediction */
};

struct plan_seq {
    uint64_t id;
    uint32_t n_past;        /* tokens whose keys and values are in the chunks */
    uint32_t n_tokens;      /* rows to run now: positions n_past .. n_past + n_tokens - 1 */
    uint32_t n_cached;      /* prompt tokens that this request took from the prefix cache so far, not counting what it
                               found again after a preemption */
    bool samples;           /* the last row's logits give a new token */
    const uint32_t *chunks; /* chunk table, covers n_past + n_tokens tokens; valid until the commit */
    uint32_t n_chunks;
};

struct plan_copy {
    uint32_t src, dst, n_tokens; /* before the step, in order */
};

struct plan {
    const struct plan_seq *seqs; /* owned by the scheduler, valid until the commit */
    uint32_t n_seqs, n_tokens;
    const struct plan_copy *copies;
    uint32_t n_copies;
    double predicted_bytes, predicted_s; /* 0 without a traffic model */
    struct traffic_load padding;         /* rows and positions that a padded batch computes for nothing: static only */
};

/* For each sequence of the plan, in its order. */
struct seq_outcome {
    bool sampled;            /* a token was produced (plan said samples, and the request goes on or ends with it) */
    bool finished;           /* it was the last: stop token, stop string, length */
    uint32_t n_chunk_hashes; /* hashes now known in the request's chunk_hashes: of every chunk that is full after this
                                step's rows; 0 if the caller tracks those of the prompt only */
};

struct sched_outcome {
    const struct seq_outcome *seqs; /* [plan.n_seqs]; may be NULL if failed */
    bool failed;                    /* the device failed: all sequences of the plan end SCHED_FAILED */
    double seconds;                 /* how long the step took */
    double bytes;                   /* what it moved, counted by the device; 0 if unknown */
};

struct sched_stats {
    uint32_t n_queued, n_running;
    uint32_t chunks_total, chunks_free, chunks_active, chunks_cached; /* the last three add up to the first */
    uint64_t n_submitted, n_finished, n_refused, n_cancelled, n_failed, n_preemptions;
    uint64_t prompt_tokens, generated_tokens, recomputed_tokens;
    uint64_t prefix_query_tokens, prefix_hit_tokens;
    uint64_t n_evicted_chunks, n_steps;
    double step_s;       /* sum of the steps' seconds */
    uint64_t n_admitted; /* started for the first time */
    uint64_t n_grouped_steps,
        n_left_out;           /* steps of sequences of similar length; others that decode and sat them out */
    uint64_t n_overdue_steps; /* in which all ran because somebody had sat out too many in a row */
    uint32_t left_out_most;   /* that anybody sat out in a row */
    uint64_t n_refused_by[SCHED_N_REASONS];
    uint64_t tail_tokens;               /* room in active chunks that holds no token */
    enum sched_wait waiting_for;        /* as of the last plan */
    double waited_s[SCHED_N_WAITS];     /* time in which the head of the queue waited for each */
    struct calibrate_errors prediction; /* predicted against measured step times */
    struct memory_stats memory;
};

/* WEIR_EINVAL names the field that is out of range. */
int sched_create(struct sched **out, const struct sched_config *c, struct err *e);
void sched_destroy(struct sched *s);

/* 0: queued. Else refused: WEIR_EINVAL/WEIR_ELIMIT/WEIR_EBUSY with *refusal filled and nothing kept (no event follows).
 * Ended requests whose event was not taken yet count as waiting ones. */
int sched_submit(struct sched *s, const struct sched_request *r, double now_s, struct sched_event *refusal);

/* How full this device would be with one more request: what admission by bandwidth tests, as shares of its limits, 1
 * being the limit. Of several devices the one with the least `share` has the most headroom for it. False if it could
 * never run here, or without a traffic model. Nothing is decided or kept. */
struct sched_headroom {
    double kv_share;        /* of the pool, at the future peak of the predicted lengths and of their error */
    double bandwidth_share; /* of bandwidth_limit times the inter-token target, a decode step at that peak */
    double wait_s;          /* predicted, until its first token, behind all that wait */
    double share;           /* the largest of these, with wait_s over its limit of the first token if it has one */
};
bool sched_headroom(struct sched *s, const struct sched_request *r, struct sched_headroom *out);

/* The id may be unknown or ended already: then nothing happens. A SCHED_CANCELLED event follows otherwise, at once or,
 * for a sequence of a plan that is out, with the commit. */
void sched_cancel(struct sched *s, uint64_t id, double now_s);

/* False when there is nothing to run now, which is when nothing is queued or running. */
bool sched_plan(struct sched *s, double now_s, struct plan *out);
void sched_commit(struct sched *s, const struct plan *p, const struct sched_outcome *o, double now_s);

/* What is inside, for people to look at. Between calls that change it. */
struct sched_seq_view {
    uint64_t id;
    uint32_t n_prompt, n_tokens, n_past, max_tokens; /* n_tokens: known; n_past: in its chunks */
    uint32_t n_cached, n_chunks, n_preemptions;
    int32_t priority;
    double submitted_s;
};

/* Running sequences, or waiting ones, in order of service: the first `max`; returns how many. O(all of them). */
uint32_t sched_view_running(const struct sched *s, struct sched_seq_view *out, uint32_t max);
uint32_t sched_view_queue(const struct sched *s, struct sched_seq_view *out, uint32_t max);

/* Owners of every stride-th chunk, from chunk 0 on, into out [ceil(n_chunks / stride)]: the place of the running
 * sequence in the order above (up to INT16_MAX), or one of these. O(chunks in use). */
#define SCHED_CHUNK_CACHED (-1)
#define SCHED_CHUNK_FREE (-2)
#define SCHED_CHUNK_SHARED (-3) /* by several running sequences */
uint32_t sched_view_chunks(const struct sched *s, uint32_t stride, int16_t *out);

bool sched_next_event(struct sched *s, struct sched_event *out);
void sched_stats(const struct sched *s, struct sched_stats *out);

/* Everything that decisions depend on, as bytes of a format of this version of weir. Not while a plan is out.
 *
 * sched_save hands the bytes to put, in pieces. sched_load makes a scheduler that has just been created with an equal
 * configuration go on exactly as the saved one would; time goes on from *now_s. The requests' chunk hashes are not among
 * the bytes: hashes_of gives sched_request.chunk_hashes of a live request and how many are known; false: there is no such
 * request. Bytes are hostile: WEIR_EFORMAT if they are not a sound scheduler's, WEIR_EUNSUPPORTED if they
 * are of another version of weir; then s can only be destroyed. */
void sched_save(struct sched *s, void (*put)(void *user, const void *bytes, size_t n), void *user);
typedef bool sched_hashes_of(void *user, uint64_t id, const uint64_t **hashes, uint32_t *n_hashes);
int sched_load(struct sched *s, const void *bytes, size_t n, sched_hashes_of *hashes_of, void *user, double *now_s,
               struct err *e);

/* Aborts on a broken invariant: leaked, double-owned or wrongly shared chunks, sums that do not add up. O(everything):
 * for tests and debug builds. */
void sched_check(const struct sched *s);

#endif
