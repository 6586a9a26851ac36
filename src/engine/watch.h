/* Looking at a running engine from another thread, without ever making the engine thread wait.
 *
 *   engine_stats        sums and gauges as of the last step: a triple buffer (engine/engine.h)
 *   engine_take_steps   a record of each step: a ring of one producer and one consumer; what isn't taken in time is lost
 *                       and counted
 *   engine_ask_view     the sequences and the KV pool in detail: filled in by the engine thread when it was asked for,
 *                       after the step that runs
 *
 * Records and views have one consumer: one thread at a time. Times are clock_monotonic_s.
 */
#ifndef WEIR_ENGINE_WATCH_H
#define WEIR_ENGINE_WATCH_H

#include "engine/engine.h"

#define ENGINE_STEP_RECORDS 8192
#define ENGINE_VIEW_RUNNING 256
#define ENGINE_VIEW_QUEUED 64
#define ENGINE_VIEW_CELLS 2048

struct step_record {
    uint64_t index; /* from 1 on */
    double begin_s, seconds;
    double predicted_s, predicted_bytes; /* 0 without a traffic model */
    uint32_t n_seqs, n_rows, n_prefill_seqs, n_prefill_rows, n_outputs, n_copies;
    uint32_t n_queued, n_running; /* before it */
    struct gen_traffic traffic;
    uint32_t n_preempted; /* for its plan */
    bool failed;
};

/* Takes up to max records in order; returns how many. *n_lost: since the last call. */
uint32_t engine_take_steps(struct engine *en, struct step_record *out, uint32_t max, uint64_t *n_lost);

struct engine_seq {
    struct sched_seq_view seq;
    struct gen_usage usage;  /* so far; its spans reach up to now */
    double next_token_bytes; /* memory traffic: its KV and its part of the weights; 0 without a traffic model */
};

struct engine_view {
    double now_s;
    struct engine_stats stats;
    struct engine_seq running[ENGINE_VIEW_RUNNING], queued[ENGINE_VIEW_QUEUED]; /* in order of service */
    uint32_t n_running, n_queued;                                               /* shown */
    uint32_t chunks_per_cell, n_cells;
    int16_t cells[ENGINE_VIEW_CELLS]; /* places in `running`, or SCHED_CHUNK_... */
};

/* Asks for a view; wakes an idle engine. Nothing while one is on its way. The last one taken is overwritten. */
void engine_ask_view(struct engine *en);

/* The view that was asked for, valid until the next engine_ask_view; NULL while there is none. */
const struct engine_view *engine_take_view(struct engine *en);

/* An eventfd that becomes readable when a view is ready; engine_take_view clears it. */
int engine_view_fd(const struct engine *en);

#endif
