/* The scheduler's invariants, all of them, the slow way. */
#include "policy/sched_impl.h"

#include "base/mem.h"

#include <stdlib.h>

/* Not assert(): the check is asked for also where asserts are compiled out. */
#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            abort();                                                                                                   \
    } while (0)

static void check_seq(const struct sched *s, const struct seq *q)
{
    uint32_t chunk_tokens = s->config.chunk_tokens;
    MUST(q->n_tokens >= q->n_prompt && q->n_tokens < q->max_tokens && q->max_tokens <= s->config.max_context);
    MUST(q->n_hashes <= q->n_tokens / chunk_tokens);
    if (q->state == SEQ_QUEUED) {
        MUST(q->n_table == 0 && q->n_past == 0 && !q->in_plan && !q->cancelled);
        return;
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
}

static void check_lists(const struct sched *s)
{
    uint32_t n[4] = {0}, n_in_plan = 0;
    for (uint32_t slot = 0; slot < s->n_slots; slot++) {
        const struct seq *q = &s->seqs[slot];
        n[q->state]++;
        n_in_plan += q->state == SEQ_RUNNING && q->in_plan;
        MUST((q->state == SEQ_FREE) == (index_map_find(&s->by_id, q->id) != slot));
        if (q->state == SEQ_QUEUED || q->state == SEQ_RUNNING)
            check_seq(s, q);
    }
    MUST(n[SEQ_FREE] == s->unused.n && n[SEQ_QUEUED] == s->n_queued && n[SEQ_RUNNING] == s->running.n &&
         n[SEQ_ENDED] == s->ended.n);
    MUST(s->by_id.n == s->n_slots - s->unused.n);
    MUST(s->running.n <= s->config.max_running && s->running.n + s->n_table_rows == s->config.max_running);
    MUST(n_in_plan == (s->plan_is_out ? s->n_plan : 0));
    for (uint32_t i = 0; i < s->n_queued; i++) {
        MUST(s->seqs[s->queue[i]].queue_at == i);
        MUST(i == 0 || !seq_before(&s->seqs[s->queue[i]], &s->seqs[s->queue[(i - 1) / 2]]));
    }
    uint32_t n_running = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next, n_running++)
        MUST(s->seqs[slot].next == INDEX_NONE || seq_before(&s->seqs[slot], &s->seqs[s->seqs[slot].next]));
    MUST(n_running == s->running.n);
    MUST(s->stats.n_submitted == s->stats.n_refused + s->stats.n_finished + s->stats.n_cancelled + s->stats.n_failed +
                                     s->n_queued + s->running.n);
}

/* Counts every reference anew and compares. */
static void check_chunks(const struct sched *s)
{
    const struct pool *p = &s->pool;
    uint32_t *refs = mem_array(p->n_chunks, sizeof *refs);
    MUST(refs);
    for (uint32_t slot = 0; slot < s->n_slots; slot++)
        if (s->seqs[slot].state == SEQ_RUNNING)
            for (uint32_t i = 0; i < s->seqs[slot].n_table; i++)
                refs[s->seqs[slot].table[i]]++;
    for (uint32_t i = 0; i < s->n_copies; i++)
        refs[s->plan_copies[i].src]++;
    uint32_t n_free = 0, n_active = 0, n_idle = 0, n_indexed = 0;
    for (uint32_t c = 0; c < p->n_chunks; c++) {
        MUST(refs[c] == p->refs[c]);
        n_free += p->is_free[c];
        n_active += refs[c] > 0;
        n_idle += !p->is_free[c] && refs[c] == 0;
        MUST(!p->is_free[c] || (refs[c] == 0 && s->prefix.state[c] == PREFIX_NONE));
        MUST(p->is_free[c] || refs[c] > 0 || s->prefix.state[c] == PREFIX_READY); /* else it would be leaked */
        MUST(s->prefix.state[c] != PREFIX_PENDING || refs[c] == 1);
        if (s->prefix.state[c] != PREFIX_NONE) {
            n_indexed++;
            MUST(prefix_find(&s->prefix, s->prefix.hash[c]) == c);
        }
    }
    free(refs);
    MUST(n_free == p->n_free && n_active == p->n_active && n_idle == p->n_idle);
    MUST(n_free + n_active + n_idle == p->n_chunks && n_indexed == s->prefix.by_hash.n);
    uint32_t n_retained = 0;
    for (uint32_t c = s->retention.oldest; c != RETENTION_NONE; c = s->retention.newer[c], n_retained++)
        MUST(p->refs[c] == 0 && !p->is_free[c]);
    MUST(n_retained == n_idle && n_retained == s->retention.n);
}

void sched_check(const struct sched *s)
{
    check_lists(s);
    check_chunks(s);
}
