/* The scheduler's invariants, all of them, the slow way. */
#include "policy/sched_impl.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return false;                                                                                              \
    } while (0)

static bool check_seq(const struct sched *s, const struct seq *q)
{
    uint32_t chunk_tokens = s->config.chunk_tokens;
    MUST(q->n_tokens >= q->n_prompt && q->n_tokens < q->max_tokens && q->max_tokens <= s->config.max_context);
    MUST(q->n_hashes <= q->n_tokens / chunk_tokens);
    MUST(!(s->pipeline.traits & NODE_BOUNDS_PREEMPTIONS) || q->n_preemptions <= s->config.max_preemptions);
    if (q->state == SEQ_QUEUED) {
        MUST(q->n_table == 0 && q->n_past == 0 && !q->in_plan && !q->cancelled);
        return true;
    }
    MUST(q->state == SEQ_RUNNING && (!q->cancelled || q->in_plan));
    MUST(q->n_past < q->n_tokens && q->n_table <= s->max_table);
    MUST(q->in_plan || q->n_table == chunks_for(s, q->n_past)); /* no more than its tokens need */
    for (uint32_t i = 0; i < q->n_table; i++) {
        uint32_t chunk = q->table[i];
        bool is_full = (i + 1) * chunk_tokens <= q->n_past;
        MUST(is_full || s->pool.refs[chunk] == 1); /* what is still written to is not shared */
        MUST(is_full || s->prefix.state[chunk] != PREFIX_READY);
        MUST(!is_full || s->prefix.state[chunk] != PREFIX_PENDING);
        if (s->prefix.state[chunk] != PREFIX_NONE)
            MUST(i < q->n_hashes && s->prefix.hash[chunk] == q->hashes[i]);
    }
    return true;
}

static uint32_t check_tree(const struct sched *s, uint32_t tree, const struct seq **last)
{
    if (tree == INDEX_NONE)
        return 0;
    const struct seq *q = &s->seqs[tree];
    MUST(q->state == SEQ_QUEUED);
    uint32_t n = check_tree(s, q->left, last);
    MUST(n == 0 ? !*last || seq_before(*last, q) : seq_before(*last, q));
    MUST(*last || tree == s->queue.first);
    *last = q;
    double below_s =
        (q->left == INDEX_NONE ? 0 : s->seqs[q->left].sum_s) + (q->right == INDEX_NONE ? 0 : s->seqs[q->right].sum_s);
    MUST(fabs(q->prefill_s + below_s - q->sum_s) <= 1e-9 * q->sum_s);
    return n + 1 + check_tree(s, q->right, last);
}

static bool check_queue(const struct sched *s)
{
    const struct seq *last = NULL;
    MUST(check_tree(s, s->queue.root, &last) == s->n_queued);
    uint32_t n = 0;
    double since_s = -INFINITY;
    for (uint32_t slot = s->queue.by_wait.first; slot != INDEX_NONE; slot = s->seqs[slot].next, n++) {
        MUST(s->seqs[slot].state == SEQ_QUEUED && s->seqs[slot].waits_since_s >= since_s);
        since_s = s->seqs[slot].waits_since_s;
    }
    MUST(n == s->n_queued && n == s->queue.by_wait.n);
    return true;
}

/* Sums that are kept from step to step. */
static bool check_sums(const struct sched *s)
{
    uint32_t n_prefilling = 0, n_tightest = 0, n_long = 0;
    uint64_t n_rows = 0, n_long_rows = 0;
    double tightest_s = INFINITY, left_s = 0, long_s = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        const struct seq *q = &s->seqs[slot];
        uint32_t left = q->n_tokens - q->n_past;
        MUST(q->rows_left == (left > 1 ? left : 0));
        n_prefilling += q->rows_left > 0;
        n_rows += q->rows_left;
        left_s += q->left_s;
        n_long += q->is_long;
        n_long_rows += q->is_long ? q->rows_left : 0;
        long_s += q->is_long ? q->left_s : 0;
        tightest_s = fmin(tightest_s, q->itl_target_s);
        uint64_t turn = q->turn > s->lengths.whole_turn ? q->turn : s->lengths.whole_turn;
        MUST(!(s->pipeline.traits & NODE_HOMOGENEOUS) || s->forecast.n_plans - turn <= SCHED_MAX_LEFT_OUT);
    }
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        n_tightest += s->seqs[slot].itl_target_s == tightest_s;
    const struct forecast *f = &s->forecast;
    MUST(n_prefilling == f->n_prefilling && n_rows == f->prefill_rows &&
         fabs(left_s - f->prefill_s) <= 1e-6 + 1e-6 * left_s);
    MUST(n_long == f->n_long && n_long_rows == f->long_rows && fabs(long_s - f->long_s) <= 1e-6 + 1e-6 * long_s);
    MUST(s->running.n == 0 || (f->n_tightest == n_tightest && f->tightest_s == tightest_s));
    uint32_t n_requests = 0;
    for (uint32_t i = 0; i < s->fair.n; i++)
        n_requests += s->fair.flows[i].n;
    MUST(!(s->pipeline.traits & NODE_FAIR) || n_requests == s->n_queued + s->running.n);
    return true;
}

static bool check_lists(const struct sched *s)
{
    uint32_t n[4] = {0}, n_in_plan = 0;
    for (uint32_t slot = 0; slot < s->n_slots; slot++) {
        const struct seq *q = &s->seqs[slot];
        n[q->state]++;
        n_in_plan += q->state == SEQ_RUNNING && q->in_plan;
        MUST((q->state == SEQ_FREE) == (index_map_find(&s->by_id, q->id) != slot));
        if (q->state == SEQ_QUEUED || q->state == SEQ_RUNNING)
            MUST(check_seq(s, q));
    }
    MUST(n[SEQ_FREE] == s->unused.n && n[SEQ_QUEUED] == s->n_queued && n[SEQ_RUNNING] == s->running.n &&
         n[SEQ_ENDED] == s->ended.n);
    MUST(s->by_id.n == s->n_slots - s->unused.n);
    MUST(s->running.n <= s->config.max_running && s->running.n + s->n_table_rows == s->config.max_running);
    MUST(n_in_plan == (s->plan_is_out ? s->n_plan : 0));
    MUST(check_queue(s));
    uint32_t n_running = 0;
    uint64_t n_spent_chunks = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next, n_running++) {
        const struct seq *q = &s->seqs[slot], *next = q->next == INDEX_NONE ? NULL : &s->seqs[q->next];
        MUST(!next || (seq_before(q, next) && (is_spent(s, q) || !is_spent(s, next))));
        n_spent_chunks += is_spent(s, q) ? region(s, q) : 0;
    }
    MUST(n_running == s->running.n && n_spent_chunks <= s->pool.n_chunks);
    MUST(s->stats.n_submitted == s->stats.n_refused + s->stats.n_finished + s->stats.n_cancelled + s->stats.n_failed +
                                     s->n_queued + s->running.n);
    return true;
}

/* Counts every reference anew and compares. */
static bool check_refs(const struct sched *s)
{
    uint32_t *refs = mem_array(s->pool.n_chunks, sizeof *refs);
    MUST(refs);
    for (uint32_t slot = 0; slot < s->n_slots; slot++)
        if (s->seqs[slot].state == SEQ_RUNNING)
            for (uint32_t i = 0; i < s->seqs[slot].n_table; i++)
                refs[s->seqs[slot].table[i]]++;
    for (uint32_t i = 0; i < s->n_copies; i++)
        refs[s->plan_copies[i].src]++;
    bool equal = !memcmp(refs, s->pool.refs, s->pool.n_chunks * sizeof *refs);
    free(refs);
    return equal;
}

static bool check_chunks(const struct sched *s)
{
    const struct pool *p = &s->pool;
    const uint32_t *refs = p->refs;
    MUST(check_refs(s));
    uint32_t n_free = 0, n_active = 0, n_idle = 0, n_indexed = 0;
    for (uint32_t c = 0; c < p->n_chunks; c++) {
        n_free += p->is_free[c];
        n_active += refs[c] > 0;
        n_idle += !p->is_free[c] && refs[c] == 0;
        MUST(!p->is_free[c] || (refs[c] == 0 && s->prefix.state[c] == PREFIX_NONE));
        MUST(p->is_free[c] || refs[c] > 0 || s->prefix.state[c] == PREFIX_READY); /* else it would be leaked */
        MUST(s->prefix.state[c] != PREFIX_PENDING || refs[c] == 1);
        MUST(s->prefix.state[c] == PREFIX_READY || !s->retention.entries[c].pinned);
        if (s->prefix.state[c] != PREFIX_NONE) {
            n_indexed++;
            MUST(prefix_find(&s->prefix, s->prefix.hash[c]) == c);
        }
    }
    MUST(n_free == p->n_free && n_active == p->n_active && n_idle == p->n_idle);
    MUST(n_free + n_active + n_idle == p->n_chunks && n_indexed == s->prefix.by_hash.n);
    MUST(retention_is_sound(&s->retention));
    MUST(reserve_is_sound(&s->talks));
    double available = (double)(p->n_chunks - p->n_active) * s->config.chunk_tokens;
    MUST(reserve_tokens(&s->reserve, &s->talks, available) <= s->reserve.limit * available);
    for (uint32_t c = 0; c < p->n_chunks; c++)
        MUST(s->retention.entries[c].listed == (p->refs[c] == 0 && !p->is_free[c]));
    MUST(s->retention.n + s->retention.pinned.n == n_idle);
    return true;
}

bool sched_is_sound(const struct sched *s)
{
    return check_lists(s) && (!s->config.has_model || check_sums(s)) && check_chunks(s);
}

/* Not assert(): the check is asked for also where asserts are compiled out. */
void sched_check(const struct sched *s)
{
    if (!sched_is_sound(s))
        abort();
}
