/* The scheduler's state as bytes: sched_save and sched_load. Parts that are lists or trees are loaded as they came to be,
 * in order, and what can be counted is counted anew. The bytes are hostile: whatever is used as an index is checked where
 * it is loaded, and in the end all invariants (check.c). */
#include "policy/sched_impl.h"
#include "policy/state_io.h"

#include <assert.h>
#include <math.h>

/* One higher with each change of what is saved. */
#define STATE_VERSION 3

#define MAX_COUNT (UINT64_MAX / 4) /* of plans and arrivals: nothing wraps that is made of them */

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(struct seq) == 320, "struct seq has changed: see seq_io");
_Static_assert(sizeof(struct forecast) == 5064, "struct forecast has changed: see forecast_io");
_Static_assert(sizeof(struct sched_stats) == 1032, "struct sched_stats has changed: see stats_io");
_Static_assert(sizeof(struct pressure) == 272, "struct pressure has changed: see pressure_io");
_Static_assert(sizeof(struct reserve) == 120, "struct reserve has changed: see reserve_io");
_Static_assert(sizeof(struct sched) == 70840, "struct sched has changed: see everything_io");
#endif

struct loader {
    sched_hashes_of *hashes_of;
    void *user;
};

/* --- chunks ----------------------------------------------------------------------------------------------------- */

static void pool_io(struct state_io *x, struct pool *p)
{
    io_upto(x, &p->n_free, p->n_chunks);
    for (uint32_t c = 0; io_loads(x) && c < p->n_chunks; c++)
        p->is_free[c] = false;
    for (uint32_t i = 0; i < p->n_free && !x->bad; i++) {
        uint32_t c = p->free_list[i];
        io_upto(x, &c, p->n_chunks - 1);
        if (io_loads(x) && io_must(x, !p->is_free[c]))
            p->is_free[c] = true;
        p->free_list[i] = c;
    }
    if (io_loads(x))
        p->n_idle = p->n_chunks - p->n_free; /* until they are found in tables */
}

static void prefix_io(struct state_io *x, struct prefix_index *index, const struct pool *p)
{
    for (uint32_t c = 0; c < p->n_chunks && !x->bad; c++) {
        uint32_t state = index->state[c];
        uint64_t hash = index->hash[c];
        if (p->is_free[c])
            continue;
        io_upto(x, &state, PREFIX_READY);
        if (state == PREFIX_NONE)
            continue;
        io_hash(x, &hash);
        if (io_loads(x) && io_must(x, prefix_find(index, hash) == INDEX_NONE))
            prefix_insert(index, hash, c, (enum prefix_state)state);
    }
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static void table_io(struct state_io *x, struct sched *s, struct seq *q)
{
    io_upto(x, &q->n_table, s->max_table);
    for (uint32_t i = 0; i < q->n_table && !x->bad; i++) {
        io_upto(x, &q->table[i], s->pool.n_chunks - 1);
        if (io_loads(x) && io_must(x, !s->pool.is_free[q->table[i]]))
            pool_ref(&s->pool, q->table[i]);
    }
}

static void seq_io(struct state_io *x, struct sched *s, struct seq *q)
{
    uint32_t end_state = q->end_state, end_reason = q->end_reason;
    io_tag(x, &q->tag);
    io_u64(x, &q->id);
    io_u64(x, &q->arrival);
    io_i32(x, &q->priority);
    io_u32(x, &q->n_prompt);
    io_u32(x, &q->max_tokens);
    io_u32(x, &q->n_prompt_logits);
    io_u32(x, &q->n_pinned);
    io_u32(x, &q->n_hashes);
    io_u32(x, &q->n_tokens);
    io_u32(x, &q->n_past);
    io_u32(x, &q->n_computed);
    io_u32(x, &q->n_cached);
    io_u32(x, &q->n_preemptions);
    io_u32(x, &q->n_waits);
    io_f64(x, &q->submitted_s);
    io_size(x, &q->prefill_s);
    io_u32(x, &q->rows_left);
    io_size(x, &q->left_s);
    io_bool(x, &q->is_long);
    io_u64(x, &q->end_step);
    io_size(x, &q->itl_target_s);
    io_size(x, &q->ttft_limit_s);
    io_hash(x, &q->key);
    io_upto(x, &q->flow, s->fair.n ? s->fair.n - 1 : 0);
    io_f64(x, &q->cost);
    io_f64(x, &q->moved_bytes);
    io_f64(x, &q->waits_since_s);
    io_u32(x, &q->turns);
    io_u32(x, &q->n_history);
    io_u32(x, &q->mark);
    io_f64(x, &q->idle_since_s);
    io_size(x, &q->chance);
    io_bool(x, &q->probed);
    io_u32(x, &q->probe_shared);
    io_u32(x, &q->predicted_tokens);
    io_f64(x, &q->started_s);
    io_u64(x, &q->turn);
    io_f64(x, &q->turn_s);
    io_upto(x, &end_state, SCHED_FAILED);
    io_upto(x, &end_reason, SCHED_N_REASONS - 1);
    q->end_state = (enum sched_state)end_state;
    q->end_reason = (enum sched_reason)end_reason;
}

/* What check.c takes for granted of a request that has not ended. */
static bool may_live(const struct sched *s, const struct seq *q)
{
    return q->n_prompt > 0 && q->n_prompt_logits <= q->n_prompt && q->n_computed <= q->n_tokens &&
           q->n_prompt < q->max_tokens && q->max_tokens <= s->config.max_context &&
           chunks_for(s, q->max_tokens - 1) <= s->config.n_chunks && q->turns > 0 && q->chance <= 1 &&
           (q->turns == 1 || q->mark < q->n_hashes) && q->itl_target_s > 0 && q->arrival < s->n_arrivals &&
           s->n_arrivals <= MAX_COUNT && (!is_spent(s, q) || q->tag == -INFINITY);
}

/* A new request of this state in a slot of its own, INDEX_NONE if it cannot be. */
static uint32_t load_seq(struct state_io *x, struct sched *s, enum seq_state state, const struct loader *l)
{
    struct seq q = {.state = SEQ_FREE};
    uint32_t n_known = 0;
    seq_io(x, s, &q);
    if (!io_must(x, s->unused.n > 0 && q.id && index_map_find(&s->by_id, q.id) == INDEX_NONE))
        return INDEX_NONE;
    if (state != SEQ_ENDED) {
        if (!io_must(x, l->hashes_of(l->user, q.id, &q.hashes, &n_known) && q.n_hashes <= n_known && may_live(s, &q)))
            return INDEX_NONE;
        if (s->pipeline.traits & NODE_FAIR) {
            if (!io_must(x, q.flow < s->fair.n))
                return INDEX_NONE;
            s->fair.flows[q.flow].n++;
        }
    }
    uint32_t slot = s->unused.first;
    list_remove(s, &s->unused, slot);
    s->seqs[slot] = q;
    s->seqs[slot].state = state;
    index_map_insert(&s->by_id, q.id, slot);
    return slot;
}

static void running_io(struct state_io *x, struct sched *s, const struct loader *l)
{
    uint32_t n = s->running.n, slot = s->running.first;
    io_upto(x, &n, s->config.max_running);
    for (uint32_t i = 0; i < n && !x->bad; i++) {
        if (!io_loads(x)) {
            seq_io(x, s, &s->seqs[slot]);
        } else {
            slot = load_seq(x, s, SEQ_RUNNING, l);
            if (slot == INDEX_NONE)
                return;
            struct seq *q = &s->seqs[slot];
            q->row_of_table = s->table_rows[--s->n_table_rows];
            q->table = s->tables + (size_t)q->row_of_table * s->max_table;
            list_append(s, &s->running, slot);
        }
        table_io(x, s, &s->seqs[slot]);
        slot = s->seqs[slot].next;
    }
}

/* Those that wait, in the order since when. */
static void queue_io(struct state_io *x, struct sched *s, const struct loader *l)
{
    uint32_t n = s->n_queued, slot = s->queue.by_wait.first;
    io_upto(x, &n, s->n_slots);
    for (uint32_t i = 0; i < n && !x->bad; i++) {
        if (!io_loads(x)) {
            seq_io(x, s, &s->seqs[slot]);
            slot = s->seqs[slot].next;
            continue;
        }
        slot = load_seq(x, s, SEQ_QUEUED, l);
        if (slot == INDEX_NONE || !io_must(x, queue_restore(s, slot)))
            return;
    }
}

static void ended_io(struct state_io *x, struct sched *s, const struct loader *l)
{
    uint32_t n = s->ended.n, slot = s->ended.first;
    io_upto(x, &n, s->n_slots);
    for (uint32_t i = 0; i < n && !x->bad; i++) {
        if (!io_loads(x)) {
            seq_io(x, s, &s->seqs[slot]);
            slot = s->seqs[slot].next;
            continue;
        }
        slot = load_seq(x, s, SEQ_ENDED, l);
        if (slot != INDEX_NONE)
            list_append(s, &s->ended, slot);
    }
}

/* --- expectations ----------------------------------------------------------------------------------------------- */

/* The peak set holds exactly the running sequences. */
static void peak_io(struct state_io *x, struct sched *s)
{
    struct peak_set *p = &s->forecast.peak;
    uint64_t latest = UINT64_MAX;
    for (uint32_t i = 0; i < s->running.n && !x->bad; i++) {
        struct peak_seq q = {0};
        if (!io_loads(x))
            q = p->seqs[i];
        io_u64(x, &q.id);
        io_u64(x, &q.base_step);
        io_u64(x, &q.end_step);
        io_u32(x, &q.base_tokens);
        if (!io_loads(x))
            continue;
        uint32_t slot = index_map_find(&s->by_id, q.id);
        if (!io_must(x, slot != INDEX_NONE && s->seqs[slot].state == SEQ_RUNNING &&
                            s->seqs[slot].end_step == q.end_step && q.base_step <= q.end_step &&
                            q.end_step - q.base_step <= UINT32_MAX && q.end_step <= latest))
            return;
        for (uint32_t k = p->n; k-- > 0 && p->seqs[k].end_step == q.end_step;)
            io_must(x, p->seqs[k].id != q.id);
        latest = q.end_step;
        peak_add(p, &q);
    }
}

static void forecast_io(struct state_io *x, struct sched *s)
{
    struct forecast *f = &s->forecast;
    if (!s->config.has_model)
        return;
    calibrate_io(x, &f->steps);
    length_predictor_io(x, f->lengths);
    io_u64(x, &f->n_plans);
    io_u64(x, &f->n_rounds);
    io_size(x, &f->part);
    peak_io(x, s);
    io_u32(x, &f->n_prefilling);
    io_u64(x, &f->prefill_rows);
    io_f64(x, &f->prefill_s);
    io_u32(x, &f->n_long);
    io_u64(x, &f->long_rows);
    io_f64(x, &f->long_s);
    io_u32(x, &f->predicted_chunks);
    io_size(x, &f->length_error2);
    io_tag(x, &f->tightest_s); /* infinite when nobody runs */
    io_u32(x, &f->n_tightest);
    io_size(x, &f->share);
    io_u64(x, &f->share_as_of);
    io_bool(x, &f->blocked);
    io_must(x, (f->n_prefilling || f->prefill_s == 0) && (f->n_long || f->long_s == 0) && f->n_plans <= MAX_COUNT &&
                   f->n_rounds <= MAX_COUNT && f->part < 1);
    io_must(x, f->share >= (f->share_as_of ? 1e-3 : 0) && f->share <= 1);
}

static void load_io(struct state_io *x, struct traffic_load *l)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof *l == 88, "new members?");
#endif
    io_u32(x, &l->n_seqs);
    io_u32(x, &l->n_rows);
    io_u32(x, &l->n_outputs);
    io_u32(x, &l->n_prompt_rows);
    io_u32(x, &l->n_decoding);
    io_u32(x, &l->longest);
    io_size(x, &l->full_positions);
    io_size(x, &l->window_positions);
    io_size(x, &l->full_pairs);
    io_size(x, &l->window_pairs);
    io_size(x, &l->last_positions);
    io_size(x, &l->last_pairs);
    io_size(x, &l->decode_positions);
    io_size(x, &l->near_positions);
}

static void lengths_io(struct state_io *x, struct sched *s)
{
    struct lengths *l = &s->lengths;
    for (uint32_t i = 0; i < SCHED_LENGTH_BUCKETS && s->config.model.mixed_length_waste > 0; i++) {
        bool is_there = l->running[i].n_seqs > 0;
        io_bool(x, &is_there);
        if (is_there)
            load_io(x, &l->running[i]);
    }
    io_u64(x, &l->whole_turn);
    io_f64(x, &l->whole_s);
    io_upto(x, &l->n_cuts, sizeof l->cuts / sizeof *l->cuts);
    for (uint32_t i = 0; i < l->n_cuts; i++)
        io_upto(x, &l->cuts[i], SCHED_LENGTH_BUCKETS);
}

static void reserve_io(struct state_io *x, struct reserve *r)
{
    io_size(x, &r->window_s);
    io_f64(x, &r->refresh_at_s);
    io_bool(x, &r->revoked);
    io_u64(x, &r->stats.n_made);
    io_u64(x, &r->stats.n_capped);
    io_u64(x, &r->stats.n_kept);
    io_u64(x, &r->stats.n_expired);
    io_u64(x, &r->stats.n_revoked);
}

static void pressure_io(struct state_io *x, struct pressure *p)
{
    uint32_t level = p->stats.level, cause = p->stats.cause;
    io_upto(x, &level, PRESSURE_N_LEVELS - 1);
    io_upto(x, &cause, PRESSURE_N_CAUSES - 1);
    p->stats.level = (enum pressure_level)level;
    p->stats.cause = (enum pressure_cause)cause;
    io_u64s(x, p->stats.n_entered, PRESSURE_N_LEVELS);
    io_u64s(x, p->stats.n_left, PRESSURE_N_LEVELS);
    io_u64s(x, p->stats.n_by_cause, PRESSURE_N_CAUSES);
    io_f64s(x, p->stats.level_s, PRESSURE_N_LEVELS);
    io_u64(x, &p->stats.n_preempted_most);
    io_bool(x, &p->exhausted);
    io_u32(x, &p->n_calm);
    io_bool(x, &p->blocked_by_speculation);
    io_u32(x, &p->n_blocked_by_speculation);
    io_u32(x, &p->n_preempted);
    io_f64(x, &p->stopped_since_s);
}

/* --- all of it -------------------------------------------------------------------------------------------------- */

/* Counters; sched_stats fills in the rest. */
static void stats_io(struct state_io *x, struct sched_stats *t)
{
    uint32_t waiting_for = t->waiting_for;
    io_u64(x, &t->n_submitted);
    io_u64(x, &t->n_finished);
    io_u64(x, &t->n_refused);
    io_u64(x, &t->n_cancelled);
    io_u64(x, &t->n_failed);
    io_u64(x, &t->n_preemptions);
    io_u64(x, &t->prompt_tokens);
    io_u64(x, &t->generated_tokens);
    io_u64(x, &t->recomputed_tokens);
    io_u64(x, &t->prefix_query_tokens);
    io_u64(x, &t->prefix_hit_tokens);
    io_u64(x, &t->n_evicted_chunks);
    io_u64(x, &t->n_steps);
    io_f64(x, &t->step_s);
    io_u64(x, &t->n_admitted);
    io_u64s(x, t->n_refused_by, SCHED_N_REASONS);
    io_upto(x, &waiting_for, SCHED_N_WAITS - 1);
    t->waiting_for = (enum sched_wait)waiting_for;
    io_f64s(x, t->waited_s, SCHED_N_WAITS);
    io_u64(x, &t->n_grouped_steps);
    io_u64(x, &t->n_left_out);
    io_u64(x, &t->n_overdue_steps);
    io_u32(x, &t->left_out_most);
    struct calibration_stats *c = &t->memory.calibration;
    io_u64(x, &c->n_lengths);
    io_u64(x, &c->n_peaks);
    io_u64(x, &c->n_peaks_under);
    io_u64(x, &c->n_peaks_over);
    io_f64(x, &c->peak_error_sum);
    io_f64(x, &c->peak_abs_error_sum);
}

static void probe_io(struct state_io *x, struct sched *s)
{
    struct peak_probe *p = &s->probe;
    uint32_t n_members = 0;
    io_u32(x, &p->n_members);
    io_u64(x, &p->next_plan);
    io_u64(x, &p->predicted);
    io_u64(x, &p->actual);
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        n_members += s->seqs[slot].probed;
    io_must(x, n_members == p->n_members);
}

static void drain_io(struct state_io *x, struct drain_rate *r)
{
    io_size(x, &r->n);
    io_f64(x, &r->since_s);
    io_f64(x, &r->last_s);
    io_bool(x, &r->started);
    io_must(x, !r->started || r->n > 0);
}

static void everything_io(struct state_io *x, struct sched *s, const struct loader *l)
{
    uint32_t version = STATE_VERSION;
    io_upto(x, &version, STATE_VERSION); /* sched_load has looked at it */
    io_f64(x, &s->now_s);
    retention_advance(&s->retention, s->now_s);
    io_u64(x, &s->n_arrivals);
    io_u64(x, &s->n_starts);
    io_u64(x, &s->aged_turn);
    io_u32(x, &s->n_batch);
    io_u32(x, &s->batch_prompt);
    stats_io(x, &s->stats);
    pool_io(x, &s->pool);
    prefix_io(x, &s->prefix, &s->pool);
    retention_io(x, &s->retention, s->pool.is_free);
    if (s->pipeline.traits & NODE_FAIR)
        fair_io(x, &s->fair);
    running_io(x, s, l);
    queue_io(x, s, l);
    ended_io(x, s, l);
    if (s->pipeline.traits & NODE_FAIR)
        fair_idle_io(x, &s->fair);
    conversations_io(x, &s->talks);
    reserve_io(x, &s->reserve);
    pressure_io(x, &s->pressure);
    probe_io(x, s);
    drain_io(x, &s->drain);
    forecast_io(x, s);
    lengths_io(x, s);
}

void sched_save(struct sched *s, void (*put)(void *user, const void *bytes, size_t n), void *user)
{
    assert(!s->plan_is_out);
    struct state_io x = {.put = put, .user = user};
    everything_io(&x, s, NULL);
}

int sched_load(struct sched *s, const void *bytes, size_t n, sched_hashes_of *hashes_of, void *user, double *now_s,
               struct err *e)
{
    const uint8_t *at = bytes;
    struct state_io x = {.at = at, .end = at + n};
    struct loader l = {.hashes_of = hashes_of, .user = user};
    if (n && *at != STATE_VERSION)
        return err_set(e, WEIR_EUNSUPPORTED, "the scheduler's state is of another version of weir");
    everything_io(&x, s, &l);
    if (x.bad || x.at != x.end)
        return err_set(e, WEIR_EFORMAT, "the scheduler's state is malformed at byte %zu of %zu", (size_t)(x.at - at),
                       n);
    if (!sched_is_sound(s))
        return err_set(e, WEIR_EFORMAT, "the scheduler's state contradicts itself");
    *now_s = s->now_s;
    return 0;
}
