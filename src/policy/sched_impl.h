/* Inside the scheduler: its state and the functions that its files share. Not for users of policy/sched.h.
 *
 * A step is planned by a pipeline of stages, each a function of the scheduler's state that adds to the plan being
 * drafted. Stages decide; they change the state only through the operations of kv.c (chunks) and seqs.c (where a
 * sequence stands), which keep the invariants that check.c states.
 */
#ifndef WEIR_POLICY_SCHED_IMPL_H
#define WEIR_POLICY_SCHED_IMPL_H

#include "policy/index_map.h"
#include "policy/pool.h"
#include "policy/prefix.h"
#include "policy/retention.h"
#include "policy/sched.h"

/* How many plans a sequence may sit out while another computes the chunk that it needs next. */
#define SCHED_MAX_PREFIX_WAITS 16

enum seq_state { SEQ_FREE, SEQ_QUEUED, SEQ_RUNNING, SEQ_ENDED };

/* A request from its arrival until its terminal event is taken. Lives in a slot of sched.seqs; slots are what the
 * lists, the queue and the id index hold. */
struct seq {
    uint64_t id, arrival; /* arrival: counts submissions; order of service is (priority, arrival) */
    int32_t priority;
    enum seq_state state;
    uint32_t n_prompt, max_tokens; /* max_tokens: prompt + output at most */
    uint32_t n_prompt_logits;
    const uint64_t *hashes;
    uint32_t n_hashes;

    uint32_t n_tokens;   /* known tokens: prompt and generated */
    uint32_t n_past;     /* tokens whose keys and values are in the chunk table */
    uint32_t n_computed; /* the most that n_past ever was, hits aside: rows below it are recomputed ones */
    uint32_t n_cached;
    uint32_t n_preemptions, n_waits;
    bool in_plan, cancelled;

    uint32_t *table; /* [max_table] while running: the chunks, in order of position */
    uint32_t n_table, row_of_table;

    uint32_t queue_at;   /* position in the queue's heap */
    uint32_t prev, next; /* in the running list, the event list or the list of free slots */
    enum sched_state end_state;
    enum sched_reason end_reason;
};

/* A list of slots threaded through seq.prev and seq.next. */
struct seq_list {
    uint32_t first, last, n;
};

struct draft {
    uint32_t rows_left;    /* of max_step_tokens, for prefills: one for each decoding sequence is put aside */
    uint32_t outputs_left; /* of max_step_outputs, for prompt logits: one for each running sequence is put aside */
};

struct stage {
    const char *name;
    void (*run)(struct sched *s, struct draft *d);
};

struct pipeline {
    const char *name;
    const struct stage *stages;
    uint32_t n_stages;
};

/* How fast the queue drains: departures within a decaying window. */
struct drain_rate {
    double n, since_s, last_s;
    bool started;
};

struct sched {
    struct sched_config config;
    const struct pipeline *pipeline;
    double now_s;

    struct seq *seqs; /* [n_slots] */
    uint32_t n_slots;
    struct index_map by_id;
    uint64_t n_arrivals;
    struct seq_list unused, running, ended; /* running: in order of service; ended: events to be taken */
    uint32_t *queue;                        /* [n_queued]: a binary heap of slots, the next to serve first */
    uint32_t n_queued;

    struct pool pool;
    struct prefix_index prefix;
    struct retention retention;
    uint32_t *tables; /* [max_running][max_table] */
    uint32_t max_table;
    uint32_t *table_rows; /* [n_table_rows]: unused rows of tables */
    uint32_t n_table_rows;

    bool plan_is_out;
    uint32_t *plan_slots; /* [n_plan], like plan_seqs */
    struct plan_seq *plan_seqs;
    struct plan_copy *plan_copies; /* [n_copies]; src holds a reference until the commit */
    uint32_t n_plan, n_copies, n_plan_tokens;

    struct drain_rate drain;
    struct sched_stats stats; /* counters; the gauges are filled in by sched_stats */
};

static inline uint32_t chunks_for(const struct sched *s, uint32_t n_tokens)
{
    return n_tokens / s->config.chunk_tokens + (n_tokens % s->config.chunk_tokens != 0);
}

/* seqs.c: the order of service, and where a sequence stands. */
bool seq_before(const struct seq *a, const struct seq *b);
void list_append(struct sched *s, struct seq_list *l, uint32_t slot);
void list_remove(struct sched *s, struct seq_list *l, uint32_t slot);
void queue_push(struct sched *s, uint32_t slot);
void queue_remove(struct sched *s, uint32_t slot);
void seq_start(struct sched *s, uint32_t slot);   /* queued to running, with an empty chunk table */
void seq_preempt(struct sched *s, uint32_t slot); /* running to queued, its chunks given up */
void seq_end(struct sched *s, uint32_t slot, enum sched_state state, enum sched_reason reason);

/* kv.c: chunks of sequences. */
enum next_chunk {
    NEXT_COMPUTE, /* nobody has it */
    NEXT_READY,   /* cached, may be shared */
    NEXT_PENDING, /* another sequence is computing it */
};
uint32_t kv_available(const struct sched *s); /* chunks that can be had without preempting anyone */
enum next_chunk kv_lookup(const struct sched *s, const struct seq *q, uint32_t index, uint32_t *chunk);
uint32_t kv_count_ready(const struct sched *s, const struct seq *q, uint32_t *n_idle);
void kv_take_ready(struct sched *s, struct seq *q);
bool kv_copy_last(struct sched *s, struct seq *q);
void kv_extend(struct sched *s, struct seq *q, uint32_t n_chunks);
void kv_publish(struct sched *s, struct seq *q, uint32_t index);
void kv_release(struct sched *s, struct seq *q);
void kv_drop(struct sched *s, uint32_t chunk);

/* admission.c, batch.c: the stages. */
void stage_admit(struct sched *s, struct draft *d);
void stage_batch(struct sched *s, struct draft *d);

/* drain.c */
void drain_note(struct drain_rate *r, double now_s);
double drain_retry_after(const struct drain_rate *r, uint32_t n_queued, double now_s);

#endif
