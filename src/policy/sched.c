#include "policy/sched_impl.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_ITL_TARGET_S 0.1
#define DEFAULT_PIN_LIMIT 0.1
#define DEFAULT_SPECULATIVE_LIMIT 0.3
#define MAX_WATCHED 16384     /* conversations between their turns */
#define REFUSE_AT_ARRIVAL 1.5 /* times the limit: who may still make it waits, and is refused when it is certain */
#define MIN_RETRY_S 1.0
#define DEFAULT_AGE_BOUND_S 30.0
#define DEFAULT_MAX_PREEMPTIONS 4
#define DEFAULT_BANDWIDTH_LIMIT 0.8 /* of what was measured: the rest is for what was predicted wrongly */

/* Life. */

static int check_range(const char *field, uint32_t value, uint32_t min, uint32_t max, struct err *e)
{
    if (value >= min && value <= max)
        return 0;
    return err_set(e, WEIR_EINVAL, "scheduler: %s is %u, it must be %u to %u", field, value, min, max);
}

/* A layer is part of the model. */
static bool last_layer_is_sound(const struct traffic_model *m)
{
    return !traffic_leaves_out(m) ||
           (m->n_layer > 0 && m->last_bytes <= m->attention_bytes + m->ffn_bytes + m->router_bytes &&
            m->last_params <= m->row_params && m->last_expert_bytes <= m->expert_bytes &&
            m->last_expert_params <= m->expert_params);
}

static int check_config(const struct sched_config *c, struct err *e)
{
    int rc = check_range("chunk_tokens", c->chunk_tokens, 1, 1u << 16, e);
    if (!rc)
        rc = check_range("n_chunks", c->n_chunks, 1, 1u << 30, e);
    if (!rc)
        rc = check_range("max_step_tokens", c->max_step_tokens, 1, 1u << 24, e);
    if (!rc)
        rc = check_range("max_running", c->max_running, 1, c->max_step_tokens, e);
    if (!rc && c->max_step_outputs)
        rc = check_range("max_step_outputs", c->max_step_outputs, c->max_running, 1u << 24, e);
    if (!rc)
        rc = check_range("max_queued", c->max_queued, 1, 1u << 24, e);
    if (!rc)
        rc = check_range("max_context", c->max_context, 2, 1u << 30, e);
    if (!rc && c->has_model && !(c->model.mixed_length_waste >= 0 && c->model.mixed_length_waste <= 1))
        rc = err_set(e, WEIR_EINVAL, "scheduler: the model's mixed_length_waste is %g, it must be 0 to 1",
                     c->model.mixed_length_waste);
    if (!rc && c->has_model && !last_layer_is_sound(&c->model))
        rc = err_set(e, WEIR_EINVAL,
                     "scheduler: the model's last layer (last_bytes, last_params) is larger than the model");
    return rc;
}

static int set_pipeline(struct sched *s, const struct sched_config *c, struct err *e)
{
    struct sched_policy named;
    const struct sched_policy *p = c->pipeline;
    if (!p) {
        const char *name = c->policy ? c->policy : c->has_model ? "weir" : "fcfs";
        if (sched_policy_find(name, &named, e))
            return WEIR_EINVAL;
        p = &named;
    }
    int rc = pipeline_init(&s->pipeline, p, e);
    if (!rc && (s->pipeline.traits & NODE_NEEDS_MODEL) && !c->has_model)
        rc = err_set(e, WEIR_EINVAL, "scheduler: the policy \"%s\" needs a traffic model", s->pipeline.name);
    return rc;
}

static int take_memory(struct sched *s, struct err *e)
{
    const struct sched_config *c = &s->config;
    reserve_init(&s->reserve, c->speculative_limit > 0   ? fmin(c->speculative_limit, 1)
                              : c->speculative_limit < 0 ? 0
                                                         : DEFAULT_SPECULATIVE_LIMIT);
    double pin_limit = c->pin_limit > 0 ? fmin(c->pin_limit, 1) : c->pin_limit < 0 ? 0 : DEFAULT_PIN_LIMIT;
    struct retention_config retention = {
        .n_chunks = c->n_chunks,
        .pin_limit = (uint32_t)(pin_limit * c->n_chunks),
        .by_value = !c->lru_retention && !(s->pipeline.traits & NODE_LRU),
    };
    int rc = pool_init(&s->pool, c->n_chunks, e);
    if (!rc)
        rc = prefix_init(&s->prefix, c->n_chunks, e);
    if (!rc)
        rc = retention_init(&s->retention, &retention, e);
    if (!rc)
        rc = conversations_init(&s->talks, MAX_WATCHED, e);
    if (!rc)
        rc = index_map_init(&s->by_id, s->n_slots, e);
    if (rc)
        return rc;
    s->seqs = mem_array(s->n_slots, sizeof *s->seqs);
    s->tables = mem_array((size_t)c->max_running * s->max_table, sizeof *s->tables);
    s->table_rows = mem_array(c->max_running, sizeof *s->table_rows);
    s->plan_slots = mem_array(c->max_running, sizeof *s->plan_slots);
    s->plan_seqs = mem_array(c->max_running, sizeof *s->plan_seqs);
    s->plan_copies = mem_array(c->max_running, sizeof *s->plan_copies);
    s->copy_slots = mem_array(c->max_running, sizeof *s->copy_slots);
    if (!s->seqs || !s->tables || !s->table_rows || !s->plan_slots || !s->plan_seqs || !s->plan_copies ||
        !s->copy_slots)
        return err_set(e, WEIR_ENOMEM, "no memory for a scheduler of %u running and %u waiting requests",
                       c->max_running, c->max_queued);
    return 0;
}

static struct sched_class class_or(const struct sched_class *c, const struct sched_class *standard, double slower,
                                   double weight)
{
    return (struct sched_class){
        .itl_target_s = c->itl_target_s > 0 ? c->itl_target_s : slower * standard->itl_target_s,
        .ttft_limit_s = c->ttft_limit_s > 0 ? c->ttft_limit_s : slower * standard->ttft_limit_s,
        .weight = c->weight > 0 ? c->weight : weight,
    };
}

static void set_defaults(struct sched *s, const struct sched_config *c)
{
    static const struct sched_class usual = {.itl_target_s = DEFAULT_ITL_TARGET_S};
    const struct sched_class standard = {.itl_target_s = c->itl_target_s, .ttft_limit_s = c->ttft_limit_s};
    s->classes[1] = class_or(&standard, &usual, 1, 1);
    s->classes[0] = class_or(&c->high, &s->classes[1], 1, 4);
    s->classes[2] = class_or(&c->low, &s->classes[1], 4, 0.25);
    if (!(c->age_bound_s > 0))
        s->config.age_bound_s = DEFAULT_AGE_BOUND_S;
    if (!c->max_preemptions)
        s->config.max_preemptions = DEFAULT_MAX_PREEMPTIONS;
    if (!(c->bandwidth_limit > 0))
        s->config.bandwidth_limit = DEFAULT_BANDWIDTH_LIMIT;
    if (!c->max_step_outputs || c->max_step_outputs > c->max_step_tokens)
        s->config.max_step_outputs = c->max_step_tokens;
}

const struct sched_class *sched_class_of(const struct sched *s, int32_t priority)
{
    return &s->classes[priority < 0 ? 0 : priority == 0 ? 1 : 2];
}

int sched_create(struct sched **out, const struct sched_config *c, struct err *e)
{
    *out = NULL;
    int rc = check_config(c, e);
    if (rc)
        return rc;
    struct sched *s = mem_array(1, sizeof *s);
    if (!s)
        return err_set(e, WEIR_ENOMEM, "no memory for a scheduler");
    s->config = *c;
    rc = set_pipeline(s, c, e);
    if (rc) {
        free(s);
        return rc;
    }
    s->config.policy = s->pipeline.name;
    s->config.pipeline = NULL;
    if (s->pipeline.traits & NODE_NO_SHARING)
        s->config.prefix_cache = false;
    set_defaults(s, c);
    s->n_slots = c->max_queued + c->max_running; /* only a submit adds one, and it finds fewer than max_queued */
    s->max_table = chunks_for(s, c->max_context);
    if (s->max_table > c->n_chunks)
        s->max_table = c->n_chunks;
    rc = take_memory(s, e);
    if (!rc && c->has_model)
        rc = forecast_init(s, e);
    if (!rc && (s->pipeline.traits & NODE_FAIR))
        rc = fair_init(&s->fair, s->n_slots, e);
    if (rc) {
        sched_destroy(s);
        return rc;
    }
    struct seq_list empty = {.first = INDEX_NONE, .last = INDEX_NONE};
    s->unused = s->running = s->ended = empty;
    s->queue = (struct queue){INDEX_NONE, INDEX_NONE, empty};
    for (uint32_t slot = 0; slot < s->n_slots; slot++)
        list_append(s, &s->unused, slot);
    for (uint32_t i = 0; i < c->max_running; i++)
        s->table_rows[s->n_table_rows++] = i;
    *out = s;
    return 0;
}

void sched_destroy(struct sched *s)
{
    if (!s)
        return;
    pool_finish(&s->pool);
    prefix_finish(&s->prefix);
    retention_finish(&s->retention);
    conversations_finish(&s->talks);
    index_map_finish(&s->by_id);
    forecast_finish(s);
    free(s->seqs);
    fair_finish(&s->fair);
    free(s->tables);
    free(s->table_rows);
    free(s->plan_slots);
    free(s->plan_seqs);
    free(s->plan_copies);
    free(s->copy_slots);
    free(s);
}

/* Events in. */

static void advance(struct sched *s, double now_s)
{
    assert(now_s >= s->now_s || s->stats.n_submitted == 0);
    if (s->n_queued > 0)
        s->stats.waited_s[s->stats.waiting_for] += now_s - s->now_s;
    pressure_advance(s, now_s);
    s->now_s = now_s;
    retention_advance(&s->retention, now_s);
}

static int refuse(struct sched *s, struct sched_event *refusal, int code, enum sched_reason reason)
{
    s->stats.n_refused++;
    s->stats.n_refused_by[reason]++;
    refusal->reason = reason;
    if (reason == SCHED_REFUSED_QUEUE_FULL)
        refusal->retry_after_s = drain_retry_after(&s->drain, s->n_queued, s->now_s);
    return code;
}

/* Into a slot and the queue. */
static void place(struct sched *s, const struct seq *q)
{
    uint32_t slot = s->unused.first;
    list_remove(s, &s->unused, slot);
    s->seqs[slot] = *q;
    if (s->pipeline.traits & NODE_FAIR)
        fair_queued(s, &s->seqs[slot]);
    index_map_insert(&s->by_id, q->id, slot);
    queue_push(s, slot);
}

/* The request as a sequence that waits; or why it can never run here. */
static int make_seq(const struct sched *s, const struct sched_request *r, struct seq *out, enum sched_reason *reason)
{
    const struct sched_config *c = &s->config;
    *reason = SCHED_REASON_NONE;
    if (r->id == 0 || r->n_prompt == 0 || r->max_new_tokens == 0 || r->n_prompt_logits > r->n_prompt ||
        r->n_chunk_hashes > r->n_prompt / c->chunk_tokens || index_map_find(&s->by_id, r->id) != INDEX_NONE)
        return WEIR_EINVAL;
    *reason = SCHED_REFUSED_TOO_LONG;
    if (r->n_prompt >= c->max_context)
        return WEIR_ELIMIT;
    uint32_t room = c->max_context - r->n_prompt;
    uint32_t max_tokens = r->n_prompt + (r->max_new_tokens < room ? r->max_new_tokens : room);
    *reason = SCHED_REFUSED_NEVER_FITS;
    if (chunks_for(s, max_tokens - 1) > c->n_chunks) /* the last token is never read back */
        return WEIR_ELIMIT;
    const struct sched_class *class = sched_class_of(s, r->priority);
    *out = (struct seq){
        .id = r->id,
        .arrival = s->n_arrivals,
        .priority = r->priority,
        .n_prompt = r->n_prompt,
        .max_tokens = max_tokens,
        .n_prompt_logits = r->n_prompt_logits,
        .n_pinned = r->n_pinned,
        .hashes = r->chunk_hashes,
        .n_hashes = c->prefix_cache ? r->n_chunk_hashes : 0,
        .n_tokens = r->n_prompt,
        .submitted_s = s->now_s,
        .key = r->key,
        .itl_target_s = r->itl_target_s > 0 ? r->itl_target_s : class->itl_target_s,
        .ttft_limit_s = class->ttft_limit_s,
    };
    if (r->ttft_limit_s > 0 && (out->ttft_limit_s == 0 || r->ttft_limit_s < out->ttft_limit_s))
        out->ttft_limit_s = r->ttft_limit_s;
    return 0;
}

int sched_submit(struct sched *s, const struct sched_request *r, double now_s, struct sched_event *refusal)
{
    struct seq q;
    enum sched_reason reason;
    advance(s, now_s);
    s->stats.n_submitted++;
    *refusal = (struct sched_event){.id = r->id, .state = SCHED_REFUSED};
    int rc = make_seq(s, r, &q, &reason);
    if (rc)
        return refuse(s, refusal, rc, reason);
    if (s->n_queued + s->ended.n >= s->config.max_queued)
        return refuse(s, refusal, WEIR_EBUSY, SCHED_REFUSED_QUEUE_FULL);
    if (s->pressure.stats.level == PRESSURE_REFUSE && s->running.n > 0)
        return refuse(s, refusal, WEIR_EBUSY, SCHED_REFUSED_PRESSURE);
    s->n_arrivals++;
    forecast_queued(s, &q);
    s->pipeline.order(s, &q);
    if ((s->pipeline.traits & NODE_REFUSES_LATE) && q.ttft_limit_s > 0) {
        double wait_s = forecast_wait_s(s, &q);
        if (wait_s > REFUSE_AT_ARRIVAL * q.ttft_limit_s) {
            refusal->retry_after_s = fmax(wait_s - q.ttft_limit_s, MIN_RETRY_S);
            return refuse(s, refusal, WEIR_EBUSY, SCHED_REFUSED_LATE);
        }
    }
    talk_submitted(s, &q);
    place(s, &q);
    return 0;
}

bool sched_headroom(struct sched *s, const struct sched_request *r, struct sched_headroom *out)
{
    struct seq q;
    enum sched_reason reason;
    *out = (struct sched_headroom){0};
    if (!s->config.has_model || make_seq(s, r, &q, &reason))
        return false;
    forecast_headroom(s, &q, out);
    out->share = fmax(out->kv_share, out->bandwidth_share);
    if (q.ttft_limit_s > 0)
        out->share = fmax(out->share, out->wait_s / q.ttft_limit_s);
    return true;
}

void sched_cancel(struct sched *s, uint64_t id, double now_s)
{
    advance(s, now_s);
    uint32_t slot = index_map_find(&s->by_id, id);
    if (slot == INDEX_NONE || s->seqs[slot].state == SEQ_ENDED)
        return;
    if (s->seqs[slot].in_plan)
        s->seqs[slot].cancelled = true;
    else
        seq_end(s, slot, SCHED_CANCELLED, SCHED_REASON_NONE);
}

/* Plan and commit. */

bool sched_plan(struct sched *s, double now_s, struct plan *out)
{
    assert(!s->plan_is_out);
    advance(s, now_s);
    *out = (struct plan){0};
    if (s->n_queued == 0 && s->running.n == 0)
        return false;
    s->n_plan = s->n_copies = s->n_plan_tokens = 0;
    s->padding = (struct traffic_load){0};
    s->plan_preempted = false;
    s->stats.waiting_for = SCHED_WAIT_KV; /* unless a node knows better */
    struct draft d = {0};
    lengths_look(s);
    for (uint32_t i = 0; i < s->pipeline.n_nodes; i++) {
        if (s->pipeline.nodes[i]->run)
            s->pipeline.nodes[i]->run(s, &d);
    }
    if (s->n_queued == 0)
        s->stats.waiting_for = SCHED_WAIT_STEP;
    else if (s->running.n == s->config.max_running)
        s->stats.waiting_for = SCHED_WAIT_SLOTS;
    if (s->n_queued == 0 && s->running.n == 0)
        return false;      /* all that waited were refused */
    assert(s->n_plan > 0); /* the oldest can always go on, or waits for one that goes on */
    s->plan_is_out = true;
    forecast_planned(s, &d);
    *out = (struct plan){
        .seqs = s->plan_seqs,
        .n_seqs = s->n_plan,
        .n_tokens = s->n_plan_tokens,
        .copies = s->plan_copies,
        .n_copies = s->n_copies,
        .predicted_s = s->predicted_s,
        .padding = s->padding,
    };
    if (s->config.has_model) {
        struct traffic_cost cost;
        traffic_cost(&s->config.model, &s->load, &cost);
        out->predicted_bytes = traffic_bytes(&cost);
    }
    return true;
}

static void count_rows(struct sched *s, const struct seq *q, const struct plan_seq *p)
{
    uint32_t end = p->n_past + p->n_tokens;
    if (p->n_past < q->n_computed)
        s->stats.recomputed_tokens += (end < q->n_computed ? end : q->n_computed) - p->n_past;
    if (p->samples && q->n_tokens == q->n_prompt)
        s->stats.prompt_tokens += q->n_prompt;
}

static void commit_seq(struct sched *s, uint32_t slot, const struct plan_seq *p, const struct seq_outcome *o)
{
    struct seq *q = &s->seqs[slot];
    uint32_t chunk_tokens = s->config.chunk_tokens, end = p->n_past + p->n_tokens;
    if (s->config.prefix_cache && o->n_chunk_hashes > q->n_hashes) {
        assert(o->n_chunk_hashes <= end / chunk_tokens);
        q->n_hashes = o->n_chunk_hashes;
    }
    count_rows(s, q, p);
    q->n_past = end;
    if (end > q->n_computed)
        q->n_computed = end;
    for (uint32_t index = p->n_past / chunk_tokens; index < end / chunk_tokens; index++)
        kv_publish(s, q, index);
    if (q->cancelled) {
        seq_end(s, slot, SCHED_CANCELLED, SCHED_REASON_NONE);
        return;
    }
    assert(o->sampled == p->samples || (!o->sampled && o->finished));
    if (o->sampled) {
        q->n_tokens++;
        q->turn_s = s->now_s;
        s->stats.generated_tokens++;
        forecast_produced(s, q);
    }
    forecast_moved(s, q);
    if (o->finished || q->n_tokens >= q->max_tokens)
        seq_end(s, slot, SCHED_FINISHED, SCHED_REASON_NONE);
}

void sched_commit(struct sched *s, const struct plan *p, const struct sched_outcome *o, double now_s)
{
    assert(s->plan_is_out && p->seqs == s->plan_seqs);
    advance(s, now_s);
    s->plan_is_out = false;
    s->stats.n_steps++;
    s->stats.step_s += o->seconds;
    if (s->pipeline.traits & NODE_FAIR)
        fair_committed(s);
    if (!o->failed)
        forecast_committed(s, o->seconds);
    kv_drop_copies(s);
    for (uint32_t i = 0; i < s->n_plan; i++) {
        uint32_t slot = s->plan_slots[i];
        s->seqs[slot].in_plan = false;
        if (!o->failed)
            commit_seq(s, slot, &s->plan_seqs[i], &o->seqs[i]);
        else if (s->seqs[slot].cancelled)
            seq_end(s, slot, SCHED_CANCELLED, SCHED_REASON_NONE);
        else
            seq_end(s, slot, SCHED_FAILED, SCHED_FAILED_DEVICE);
    }
}

/* Events and figures out. */

bool sched_next_event(struct sched *s, struct sched_event *out)
{
    if (s->ended.n == 0)
        return false;
    uint32_t slot = s->ended.first;
    struct seq *q = &s->seqs[slot];
    *out = (struct sched_event){.id = q->id, .state = q->end_state, .reason = q->end_reason};
    if (q->end_state == SCHED_REFUSED)
        out->retry_after_s = drain_retry_after(&s->drain, s->n_queued, s->now_s);
    list_remove(s, &s->ended, slot);
    index_map_remove(&s->by_id, q->id);
    q->state = SEQ_FREE;
    list_append(s, &s->unused, slot);
    return true;
}

void sched_stats(const struct sched *s, struct sched_stats *out)
{
    *out = s->stats;
    out->prediction = s->forecast.steps.errors;
    out->n_queued = s->n_queued;
    out->n_running = s->running.n;
    out->chunks_total = s->pool.n_chunks;
    out->chunks_free = s->pool.n_free;
    out->chunks_active = s->pool.n_active;
    out->tail_tokens = 0; /* shared chunks are full */
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        out->tail_tokens += s->seqs[slot].n_table * s->config.chunk_tokens - s->seqs[slot].n_past;
    out->chunks_cached = s->pool.n_idle;
    memory_stats_fill(s, &out->memory);
}
