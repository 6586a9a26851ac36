/* Fair queueing between API keys and priorities, and the age bound.
 *
 * Self-clocked fair queueing (Golestani 1994), by bytes: the requests of one key at one priority are a flow. A request
 * that arrives gets the tag
 *
 *   tag = max(clock, finish of its flow) + bytes / weight,  which becomes its flow's finish,
 *
 * and lower tags are served first; the clock is the highest tag that was served. So flows that want more than there is
 * get shares in proportion to their weights, whatever their number of requests, and one that comes now and then is
 * served at once. `bytes` is a prediction; when a request ends, what it really moved corrects its flow's finish. Steps
 * that are bound by arithmetic count as the bytes that memory would have moved in their time.
 *
 * Memory is bounded: of flows without a request those that ended first are forgotten, and when more than MAX_FLOWS have
 * requests, new ones share the tags of old ones.
 */
#include "policy/sched_impl.h"

#include "base/hash.h"
#include "base/mem.h"
#include "policy/state_io.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define MAX_FLOWS 4096
#define MAX_STEPS 3 /* of priority, up and down: further ones weigh the same */

int fair_init(struct fair *f, uint32_t n_slots, struct err *e)
{
    f->capacity = n_slots < MAX_FLOWS ? n_slots : MAX_FLOWS;
    f->idle = (struct flow_list){INDEX_NONE, INDEX_NONE};
    f->flows = mem_array(f->capacity, sizeof *f->flows);
    if (!f->flows)
        return err_set(e, WEIR_ENOMEM, "no memory for %u flows", f->capacity);
    return index_map_init(&f->by_id, f->capacity, e);
}

void fair_finish(struct fair *f)
{
    free(f->flows);
    index_map_finish(&f->by_id);
}

static void idle_append(struct fair *f, uint32_t i)
{
    f->flows[i].prev = f->idle.last;
    f->flows[i].next = INDEX_NONE;
    if (f->idle.last == INDEX_NONE)
        f->idle.first = i;
    else
        f->flows[f->idle.last].next = i;
    f->idle.last = i;
}

static void idle_remove(struct fair *f, uint32_t i)
{
    uint32_t prev = f->flows[i].prev, next = f->flows[i].next;
    *(prev == INDEX_NONE ? &f->idle.first : &f->flows[prev].next) = next;
    *(next == INDEX_NONE ? &f->idle.last : &f->flows[next].prev) = prev;
}

static int32_t steps_of(int32_t priority)
{
    return priority < -MAX_STEPS ? -MAX_STEPS : priority > MAX_STEPS ? MAX_STEPS : priority;
}

static uint64_t flow_id(const struct seq *q)
{
    return hash_u64(q->key ^ hash_u64((uint64_t)(steps_of(q->priority) + MAX_STEPS)));
}

static double weight_of(const struct sched *s, const struct seq *q)
{
    const struct sched_class *c = sched_class_of(s, q->priority);
    return pow(c->weight, abs(steps_of(q->priority)));
}

/* The request's bytes, from its predicted prefill and output. */
static double predicted_bytes(const struct sched *s, const struct seq *q)
{
    const struct traffic_model *m = &s->config.model;
    double n_out = forecast_output_tokens(s, q), context = q->n_prompt + n_out / 2;
    double sharers = s->running.n + 1; /* who read the weights with it */
    double token_bytes =
        traffic_decode_kv_bytes(m, (uint32_t)context) + traffic_layer_weight_bytes(m, sharers) / sharers;
    return q->prefill_s * calibrate_bytes_per_s(&s->forecast.steps) + fmax(0, n_out - 1) * token_bytes;
}

void order_by_priority(struct sched *s, struct seq *q)
{
    (void)s;
    q->tag = q->priority;
}

/* The flow that has this id, or would get it; INDEX_NONE: a new one. */
static uint32_t find_flow(const struct fair *f, uint64_t id)
{
    uint32_t i = index_map_find(&f->by_id, id);
    bool full = f->n == f->capacity && f->idle.first == INDEX_NONE;
    return i == INDEX_NONE && full ? (uint32_t)(id % f->capacity) : i;
}

/* Within a flow nobody overtakes: a tag is not under that of the one before. */
void order_fair(struct sched *s, struct seq *q)
{
    const struct fair *f = &s->fair;
    uint32_t i = find_flow(f, flow_id(q));
    const struct flow none = {0}, *flow = i == INDEX_NONE ? &none : &f->flows[i];
    q->cost = predicted_bytes(s, q) / weight_of(s, q);
    q->tag = fmax(fmax(f->clock, flow->finish) + q->cost, flow->last_tag);
}

static uint32_t make_flow(struct fair *f, uint64_t id)
{
    uint32_t i = f->n < f->capacity ? f->n++ : f->idle.first;
    if (i == f->idle.first) {
        idle_remove(f, i);
        index_map_remove(&f->by_id, f->flows[i].id);
    }
    f->flows[i] = (struct flow){.id = id};
    index_map_insert(&f->by_id, id, i);
    return i;
}

/* The request was taken, with the tag that it was given. */
void fair_queued(struct sched *s, struct seq *q)
{
    struct fair *f = &s->fair;
    uint64_t id = flow_id(q);
    uint32_t i = find_flow(f, id);
    if (i == INDEX_NONE)
        i = make_flow(f, id);
    else if (f->flows[i].n == 0)
        idle_remove(f, i);
    struct flow *flow = &f->flows[i];
    flow->n++;
    flow->finish = fmax(f->clock, flow->finish) + q->cost;
    flow->last_tag = q->tag;
    q->flow = i;
}

void fair_started(struct sched *s, const struct seq *q)
{
    s->fair.clock = fmax(s->fair.clock, q->tag);
}

void fair_ended(struct sched *s, const struct seq *q)
{
    struct fair *f = &s->fair;
    struct flow *flow = &f->flows[q->flow];
    flow->finish += q->moved_bytes / weight_of(s, q) - q->cost;
    if (--flow->n == 0)
        idle_append(f, q->flow);
}

/* What the plan's sequences moved: each its own KV and, row by row, a share of the rest. */
void fair_committed(struct sched *s)
{
    const struct traffic_model *m = &s->config.model;
    struct traffic_cost cost;
    traffic_cost(m, &s->load, &cost);
    double step_bytes = fmax(traffic_bytes(&cost), s->predicted_s * calibrate_bytes_per_s(&s->forecast.steps));
    double row_bytes = fmax(0, step_bytes - cost.kv_read_bytes - cost.kv_write_bytes) / s->load.n_rows;
    for (uint32_t i = 0; i < s->n_plan; i++) {
        const struct plan_seq *p = &s->plan_seqs[i];
        double kv_bytes = traffic_decode_kv_bytes(m, p->n_past + p->n_tokens - 1);
        s->seqs[s->plan_slots[i]].moved_bytes += kv_bytes + row_bytes * p->n_tokens;
    }
}

/* Who has waited longer than the bound goes first, whatever its tag: the longest waiting, and after each of them one in
 * the order of service, so that an old backlog of one key does not become everybody's order. */
void stage_age_bound(struct sched *s, struct draft *d)
{
    (void)d;
    uint32_t oldest = s->queue.by_wait.first;
    if (oldest == INDEX_NONE || s->now_s - s->seqs[oldest].waits_since_s < s->config.age_bound_s ||
        s->seqs[s->queue.first].tag <= -DBL_MAX || s->n_starts < s->aged_turn)
        return;
    queue_to_front(s, oldest);
    s->aged_turn = s->n_starts + 2;
}

/* --- saving and loading ----------------------------------------------------------------------------------------- */

/* Flows keep their places; how many requests each has is counted when those are loaded. */
void fair_io(struct state_io *x, struct fair *f)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof(struct fair) == 64 && sizeof(struct flow) == 40, "new members?");
#endif
    io_upto(x, &f->n, f->capacity);
    for (uint32_t i = 0; i < f->n && !x->bad; i++) {
        struct flow *flow = &f->flows[i];
        io_hash(x, &flow->id);
        io_f64(x, &flow->finish);
        io_f64(x, &flow->last_tag);
        if (io_loads(x))
            flow->prev = i; /* in no list yet */
        if (io_loads(x) && io_must(x, index_map_find(&f->by_id, flow->id) == INDEX_NONE))
            index_map_insert(&f->by_id, flow->id, i);
    }
    io_f64(x, &f->clock);
}

void fair_idle_io(struct state_io *x, struct fair *f)
{
    uint32_t n = 0, next = f->idle.first;
    for (uint32_t i = 0; i < f->n; i++)
        n += f->flows[i].n == 0;
    for (uint32_t k = 0; k < n && !x->bad; k++) {
        uint32_t i = next;
        io_upto(x, &i, f->n - 1);
        if (!io_loads(x)) {
            next = f->flows[i].next;
        } else if (io_must(x, f->flows[i].n == 0 && f->flows[i].prev == i)) {
            idle_append(f, i);
        }
    }
}
