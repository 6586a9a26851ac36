/* Inside the scheduler: its state and the functions that its files share. Not for users of policy/sched.h.
 *
 * A step is planned by a pipeline of stages, each a function of the scheduler's state that adds to the plan being
 * drafted. Stages decide; they change the state only through the operations of kv.c (chunks) and seqs.c (where a
 * sequence stands), which keep the invariants that check.c states.
 */
#ifndef WEIR_POLICY_SCHED_IMPL_H
#define WEIR_POLICY_SCHED_IMPL_H

#include "policy/conversation.h"
#include "policy/index_map.h"
#include "policy/peak.h"
#include "policy/pool.h"
#include "policy/predict.h"
#include "policy/prefix.h"
#include "policy/reserve.h"
#include "policy/retention.h"
#include "policy/sched.h"

/* The share of running time that prefill gets at least, as far as a row can be cut. */
#define MIN_PREFILL_SHARE 0.1

/* How many plans a sequence may sit out while another computes the chunk that it needs next. */
#define SCHED_MAX_PREFIX_WAITS 16

/* And how many in a row while those of other lengths run. */
#define SCHED_MAX_LEFT_OUT 8
#define SCHED_LENGTH_BUCKETS 128

enum seq_state { SEQ_FREE, SEQ_QUEUED, SEQ_RUNNING, SEQ_ENDED };

/* A request from its arrival until its terminal event is taken. Lives in a slot of sched.seqs; slots are what the
 * lists, the queue and the id index hold. */
struct seq {
    double tag;           /* order of service is (tag, arrival) */
    uint64_t id, arrival; /* arrival: counts submissions */
    int32_t priority;
    enum seq_state state;
    uint32_t n_prompt, max_tokens; /* max_tokens: prompt + output at most */
    uint32_t n_prompt_logits, n_pinned;
    const uint64_t *hashes;
    uint32_t n_hashes;

    uint32_t n_tokens;   /* known tokens: prompt and generated */
    uint32_t n_past;     /* tokens whose keys and values are in the chunk table */
    uint32_t n_computed; /* the most that n_past ever was, hits aside: rows below it are recomputed ones */
    uint32_t n_cached;
    uint32_t n_preemptions, n_waits;
    uint64_t turn; /* plan in which it was in the range of lengths that ran, or before which it started, */
    double turn_s; /* and when that was, or when it had its last token */
    bool in_plan, cancelled;

    double submitted_s;
    double prefill_s;   /* predicted, of what it has to compute before its next token, when it was queued */
    uint32_t rows_left; /* to compute before its next token, while it runs: 0 if only one, */
    double left_s;      /* and their predicted seconds */
    bool is_long;       /* these are many */
    uint64_t end_step;  /* in the peak set */
    double itl_target_s, ttft_limit_s;
    uint64_t key;
    uint32_t flow;
    double cost, moved_bytes; /* of its flow: predicted over the weight, and what its steps moved */

    uint32_t *table; /* [max_table] while running: the chunks, in order of position */
    uint32_t n_table, row_of_table;

    uint32_t left, right;      /* in the queue's tree */
    double sum_s;              /* prefill_s of it and all below it there */
    double waits_since_s;      /* in the queue */
    uint32_t turns, n_history; /* of its conversation, this turn included; tokens that it had before */
    uint32_t mark;             /* chunk by which it was recognised; with turns > 1 */
    double idle_since_s;       /* when its last turn had ended, */
    double chance;             /* and how likely this one seemed then */
    bool probed;               /* member of the probe, */
    uint32_t probe_shared;     /* and so many of its chunks were counted with others */
    uint32_t predicted_tokens; /* in the end, as of its start */
    double started_s;          /* for the first time */
    uint32_t prev, next; /* in the running list, the event list, the list of free slots or that of those who wait */
    enum sched_state end_state;
    enum sched_reason end_reason;
};

/* A list of slots threaded through seq.prev and seq.next. */
struct seq_list {
    uint32_t first, last, n;
};

struct draft {
    uint32_t rows_left;       /* of max_step_tokens, for prefills: one for each decoding sequence is put aside */
    uint32_t outputs_left;    /* of max_step_outputs, for prompt logits: one for each running sequence is put aside */
    bool timed;               /* prefill rows are bounded by these too: */
    double budget_s, bound_s; /* what the whole step may take as predicted, and with all that may be wrong in that */
    bool has_prefill;         /* somebody has rows of a prompt, */
    bool yields;              /* or leaves the first row to others */
    unsigned prefill_shift;   /* rows_left is shifted right by it: less prefill under pressure */
    bool closed;              /* nobody starts while somebody runs */
    uint32_t first_long;      /* takes only a share of what is left for prefill, while others need it, and further long
                                 prompts what those leave: */
    double share;             /* that one; 0: all take what there is */
    uint64_t short_rows;      /* of prompts behind the present sequence that are not long, */
    double short_s;           /* and their predicted seconds */
    uint32_t n_ranges;        /* of lengths, one of which runs; 0: nothing is known of lengths */
    uint32_t from_bucket, to_bucket;
    double round_s; /* of one step of each range, predicted, */
    double slack_s; /* and what it may take longer before somebody misses its target */
    uint32_t n_left_out, left_out_most;
    struct traffic_load load; /* decided so far, all decoding sequences included; with a traffic model */
};

/* What a node says of itself besides its wiring. */
enum node_trait {
    NODE_NEEDS_MODEL = 1,      /* it counts bytes and seconds: needs a traffic model */
    NODE_REFUSES_LATE = 2,     /* requests are refused at arrival too when their first token would come too late */
    NODE_NO_SHARING = 4,       /* sequences share no chunks */
    NODE_FAIR = 8,             /* bytes are accounted to flows */
    NODE_PRESSURE = 32,        /* the cheapest is preempted, and requests may be refused for want of memory */
    NODE_RESERVE = 64,         /* room is kept for conversations that go on */
    NODE_LRU = 16,             /* as the field has it: the least recently used cached chunk goes first */
    NODE_SHARES_PREFILL = 128, /* long prompts leave time to others */
    NODE_HOMOGENEOUS = 256,    /* steps are made of similar lengths where that pays */
    NODE_BOUNDS_PREEMPTIONS = 512,
};

/* One stage: a function of the scheduler's state and the draft, registered in pipeline.c. */
struct node {
    const char *name;
    void (*run)(struct sched *s, struct draft *d);
    uint32_t takes, uses, gives; /* sets of values (pipeline.c) */
    uint32_t traits;
    void (*order)(struct sched *s, struct seq *q); /* instead of run: sets the tag of a request that arrives */
};

struct pipeline {
    char name[SCHED_MAX_NAME];
    const struct node *nodes[SCHED_MAX_NODES];
    uint32_t n_nodes;
    uint32_t traits; /* of all its nodes */
    void (*order)(struct sched *s, struct seq *q);
};

/* How fast the queue drains: departures within a decaying window. */
struct drain_rate {
    double n, since_s, last_s;
    bool started;
};

/* Those that wait, as queue.c keeps them. */
struct queue {
    uint32_t root, first; /* of the tree, and the next to serve */
    struct seq_list by_wait;
};

/* Fair queueing (fair.c). */
struct flow {
    uint64_t id;
    double finish, last_tag;
    uint32_t n;          /* requests that have not ended */
    uint32_t prev, next; /* in the idle list, when n is 0 */
};
struct flow_list {
    uint32_t first, last;
};
struct fair {
    struct flow *flows; /* [n] */
    uint32_t n, capacity;
    struct index_map by_id;
    struct flow_list idle; /* the first has had no request for longest */
    double clock;
};

/* What is expected of time and memory. */
struct forecast {
    struct calibration steps;
    struct length_predictor *lengths;
    struct peak_set peak; /* of the running sequences, in rounds as steps */
    uint64_t n_plans;
    uint64_t n_rounds;         /* in which everybody who decodes has a token: plans, or several for one, */
    double part;               /* and so much of the next */
    uint32_t n_prefilling;     /* running sequences with more than one row to compute, */
    uint64_t prefill_rows;     /* their rows, */
    double prefill_s;          /* and predicted seconds */
    uint32_t n_long;           /* long ones of them, */
    uint64_t long_rows;        /* their rows */
    double long_s;             /* and seconds */
    uint32_t predicted_chunks; /* bound on the peak, as of the last plan */
    double length_error2;      /* mean square of predicted lengths' errors, in tokens */
    double tightest_s;         /* of the running sequences' inter-token targets, */
    uint32_t n_tightest;       /* and how many have it */
    double share;              /* of the time that prefill gets, */
    uint64_t share_as_of;      /* and when that was found out: n_plans + 1 then */
    bool blocked;              /* the last plan left somebody waiting for want of memory or bandwidth */
};

/* One forecast of the peak after the other, against what comes (probe.c). */
struct peak_probe {
    uint32_t n_members; /* of the sequences that ran when it was made, those that still do; 0: none is out */
    uint64_t next_plan; /* when the next one is made */
    uint64_t predicted, actual;
};

/* Lengths of the running sequences (homogeneous.c), where mixed ones cost anything. */
struct lengths {
    struct traffic_load running[SCHED_LENGTH_BUCKETS]; /* as though all decoded, as of the plan's beginning */
    uint64_t whole_turn;                               /* the last plan in which nobody was left out, */
    double whole_s;                                    /* and when that was */
    uint32_t cuts[3], n_cuts;                          /* between ranges, in the last round that had some */
};

/* The ladder (pressure.c). */
struct pressure {
    struct pressure_stats stats;
    bool exhausted;                    /* somebody was preempted since the last step was planned */
    uint32_t n_calm;                   /* steps in a row that would have done with a lower level */
    bool blocked_by_speculation;       /* reservations alone kept the head of the queue waiting in the last step, */
    uint32_t n_blocked_by_speculation; /* and so many in a row */
    uint32_t n_preempted;              /* since stop-admitting */
    double stopped_since_s;
};

struct sched {
    struct sched_config config;
    struct pipeline pipeline;
    double now_s;

    struct seq *seqs; /* [n_slots] */
    uint32_t n_slots;
    struct index_map by_id;
    uint64_t n_arrivals;
    struct seq_list unused, running, ended; /* running: in order of service; ended: events to be taken */
    struct queue queue;
    uint32_t n_queued;
    struct fair fair;             /* of use with NODE_FAIR */
    uint64_t n_starts, aged_turn; /* sequences started; how many there must be before the next goes first for its age */
    struct sched_class classes[3]; /* of priorities below 0, 0, above 0 */

    struct pool pool;
    struct prefix_index prefix;
    struct retention retention;
    struct conversations talks;
    struct reserve reserve;
    struct pressure pressure;
    struct peak_probe probe;
    struct lengths lengths;
    uint32_t *tables; /* [max_running][max_table] */
    uint32_t max_table;
    uint32_t *table_rows; /* [n_table_rows]: unused rows of tables */
    uint32_t n_table_rows;

    bool plan_is_out;
    uint32_t *plan_slots; /* [n_plan], like plan_seqs */
    struct plan_seq *plan_seqs;
    struct plan_copy *plan_copies; /* [n_copies]; src holds a reference until the commit, */
    uint32_t *copy_slots;          /* [n_copies]: on behalf of this sequence */
    uint32_t n_plan, n_copies, n_plan_tokens;
    bool plan_preempted; /* somebody was preempted for it */

    struct drain_rate drain;
    struct forecast forecast;          /* used with a traffic model */
    struct traffic_load load, padding; /* of the plan that is out */
    double predicted_s;
    uint32_t n_batch, batch_prompt; /* static: members when the batch began, and their longest prompt */
    struct sched_stats stats;       /* counters; the gauges are filled in by sched_stats */
};

static inline uint32_t chunks_for(const struct sched *s, uint32_t n_tokens)
{
    return n_tokens / s->config.chunk_tokens + (n_tokens % s->config.chunk_tokens != 0);
}

/* Chunks that a sequence's largest extent takes. */
static inline uint64_t region(const struct sched *s, const struct seq *q)
{
    return chunks_for(s, q->max_tokens - 1); /* the last token is never read back */
}

/* It was preempted as often as may be. Such ones are first in the order of service, and fit the pool together. */
static inline bool is_spent(const struct sched *s, const struct seq *q)
{
    return q->n_preemptions >= s->config.max_preemptions && (s->pipeline.traits & NODE_BOUNDS_PREEMPTIONS);
}

/* seqs.c: the order of service, and where a sequence stands. */
bool seq_before(const struct seq *a, const struct seq *b);
void list_append(struct sched *s, struct seq_list *l, uint32_t slot);
void list_remove(struct sched *s, struct seq_list *l, uint32_t slot);
void seq_start(struct sched *s, uint32_t slot);   /* queued to running, with an empty chunk table */
void seq_preempt(struct sched *s, uint32_t slot); /* running to queued, its chunks given up */
void seq_end(struct sched *s, uint32_t slot, enum sched_state state, enum sched_reason reason);

const struct sched_class *sched_class_of(const struct sched *s, int32_t priority);

/* queue.c. A request's tag, arrival and prefill_s stay as they are while it waits. O(log n). */
void queue_push(struct sched *s, uint32_t slot);
void queue_remove(struct sched *s, uint32_t slot);
bool queue_restore(struct sched *s, uint32_t slot); /* it waits since waits_since_s; false: the tree gets too deep */
void queue_to_front(struct sched *s, uint32_t slot);
uint32_t queue_after(const struct sched *s, uint32_t slot);       /* the next in the order of service, or INDEX_NONE */
double queue_all_s(const struct sched *s);                        /* sum of prefill_s */
double queue_ahead_s(const struct sched *s, const struct seq *q); /* of those before q, which need not be in it */

/* fair.c */
int fair_init(struct fair *f, uint32_t n_slots, struct err *e);
void fair_finish(struct fair *f);
void order_by_priority(struct sched *s, struct seq *q);
void order_fair(struct sched *s, struct seq *q);
void fair_queued(struct sched *s, struct seq *q);
void fair_started(struct sched *s, const struct seq *q);
void fair_committed(struct sched *s);
void fair_ended(struct sched *s, const struct seq *q);

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
void kv_release(struct sched *s, struct seq *q, bool preempted);
void kv_drop_copies(struct sched *s); /* sources of the plan's copies */
void kv_evict(struct sched *s);       /* the cached chunk of least value becomes free; there is one */
void kv_give_up_pin(struct sched *s); /* nothing else can be had */

/* Saving and loading (state.c): fair_io before the requests, fair_idle_io when they are there. */
struct state_io;
void fair_io(struct state_io *x, struct fair *f);
void fair_idle_io(struct state_io *x, struct fair *f);

bool sched_is_sound(const struct sched *s); /* check.c */

/* pipeline.c: which nodes run, in which order. WEIR_EINVAL says what is wrong with the wiring. */
int pipeline_init(struct pipeline *p, const struct sched_policy *policy, struct err *e);

/* admission.c, bandwidth.c, baselines.c, batch.c: the stages. */
void stage_admit(struct sched *s, struct draft *d);
void stage_age_bound(struct sched *s, struct draft *d);
void stage_expire(struct sched *s, struct draft *d);
void stage_reserve(struct sched *s, struct draft *d);
void stage_admit_bandwidth(struct sched *s, struct draft *d);
void stage_share_prefill(struct sched *s, struct draft *d);
void stage_time_budget(struct sched *s, struct draft *d);
void stage_homogeneous(struct sched *s, struct draft *d);
void stage_batch(struct sched *s, struct draft *d);
void stage_admit_waiting(struct sched *s, struct draft *d);
void stage_admit_regions(struct sched *s, struct draft *d);
void stage_admit_whole_batch(struct sched *s, struct draft *d);
void stage_pad(struct sched *s, struct draft *d);
void stage_admit_slots(struct sched *s, struct draft *d);
void stage_batch_prefill_first(struct sched *s, struct draft *d);

void admit_next(struct sched *s); /* the head of the queue starts */
void admit_slot(struct sched *s, uint32_t slot);
bool spent_fits(const struct sched *s, const struct seq *q); /* or it was not preempted that often */
void batch_begin(struct sched *s, struct draft *d);
void batch_one(struct sched *s, struct draft *d, uint32_t slot);

/* bandwidth.c: expectations. Nothing happens in them without a traffic model. */
int forecast_init(struct sched *s, struct err *e);
void forecast_finish(struct sched *s);
void forecast_queued(struct sched *s, struct seq *q); /* about to be */
void forecast_started(struct sched *s, struct seq *q);
void forecast_stopped(struct sched *s, struct seq *q);
void forecast_moved(struct sched *s, struct seq *q); /* n_past or n_tokens changed */
void forecast_planned(struct sched *s, const struct draft *d);
void forecast_committed(struct sched *s, double seconds);
void forecast_produced(struct sched *s, struct seq *q);
void forecast_ended(struct sched *s, const struct seq *q, bool by_itself);
double forecast_target_s(const struct sched *s); /* the inter-token time that all are promised at least */
double forecast_output_tokens(const struct sched *s, const struct seq *q); /* in all, as expected at its start */
void forecast_headroom(struct sched *s, struct seq *q, struct sched_headroom *out);
double forecast_wait_s(struct sched *s, const struct seq *q); /* until the first token of one that arrives now */

/* Where prompts go a way of their own a first row of one costs much more than the others, which is not prefill's share. */
static inline void forecast_add_first_row(const struct sched *s, struct traffic_load *l)
{
    if (s->config.model.prompt_way)
        traffic_add(l, &s->config.model, 0, 1, 1, 0);
}

/* homogeneous.c: lengths. Nothing happens in them where mixed ones cost nothing. */
void lengths_look(struct sched *s);
void lengths_started(struct sched *s, const struct seq *q);
double lengths_extra_s(const struct sched *s, const struct seq *q); /* that they cost a round, with q if not NULL */
bool lengths_in_range(const struct draft *d, const struct seq *q);  /* or not decoding */
void lengths_planned(struct sched *s, const struct draft *d);

static inline bool takes_part(const struct draft *d, const struct seq *q)
{
    return d->n_ranges == 0 || lengths_in_range(d, q);
}

/* memory_stats.c: gauges; the counters are kept where things happen. */
void memory_stats_fill(const struct sched *s, struct memory_stats *out);

/* talks.c: requests as turns of conversations. */
void talk_submitted(struct sched *s, struct seq *q);
void talk_ended(struct sched *s, const struct seq *q, bool answered);

/* probe.c */
void probe_planned(struct sched *s);
void probe_stopped(struct sched *s, struct seq *q);

/* pressure.c */
void stage_pressure(struct sched *s, struct draft *d);
void pressure_advance(struct sched *s, double to_s);
void pressure_preempted(struct sched *s, const struct seq *q);
uint32_t pressure_victim(const struct sched *s, uint32_t slot); /* INDEX_NONE: nobody gives way to it */

/* drain.c */
void drain_note(struct drain_rate *r, double now_s);
double drain_retry_after(const struct drain_rate *r, uint32_t n_queued, double now_s);

#endif
