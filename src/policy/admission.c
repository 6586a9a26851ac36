/* Admission: who joins the running sequences. */
#include "policy/sched_impl.h"

/* Chunks that running prefills will still need for the tokens that they have now. */
static uint64_t promised_chunks(const struct sched *s)
{
    uint64_t n = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        uint32_t all = chunks_for(s, s->seqs[slot].n_tokens);
        if (all > s->seqs[slot].n_table)
            n += all - s->seqs[slot].n_table;
    }
    return n;
}

/* Room for those who decode: one chunk for each running sequence and the new one, doubled with each preemption that
 * the new one went through. */
static uint64_t decode_margin(const struct sched *s, const struct seq *q)
{
    uint32_t doublings = q->n_preemptions < 32 ? q->n_preemptions : 32;
    return ((uint64_t)s->running.n + 1) << doublings;
}

void admit_slot(struct sched *s, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    if (q->n_preemptions == 0) {
        q->started_s = s->now_s;
        s->stats.prefix_query_tokens += q->n_prompt;
        s->stats.n_admitted++;
        drain_note(&s->drain, s->now_s);
    }
    if (s->pipeline.traits & NODE_FAIR)
        fair_started(s, q);
    seq_start(s, slot);
    kv_take_ready(s, q); /* now, so that nothing evicts them before its turn */
    forecast_started(s, q);
}

/* Does it fit beside those that were preempted as often as may be, all at their longest? */
bool spent_fits(const struct sched *s, const struct seq *q)
{
    uint64_t n = region(s, q);
    for (uint32_t slot = s->running.first; slot != INDEX_NONE && is_spent(s, &s->seqs[slot]); slot = s->seqs[slot].next)
        n += region(s, &s->seqs[slot]);
    return !is_spent(s, q) || n <= s->pool.n_chunks;
}

void admit_next(struct sched *s)
{
    admit_slot(s, s->queue.first);
}

/* First come, first served: stops at the first that does not fit, so that nobody is overtaken for ever. */
void stage_admit(struct sched *s, struct draft *d)
{
    (void)d;
    if (s->n_queued == 0 || s->running.n == s->config.max_running)
        return;
    uint64_t promised = promised_chunks(s);
    while (s->n_queued > 0 && s->running.n < s->config.max_running) {
        struct seq *q = &s->seqs[s->queue.first];
        uint32_t n_idle, n_ready = kv_count_ready(s, q, &n_idle);
        uint64_t needed = chunks_for(s, q->n_tokens) - n_ready;
        if (s->running.n > 0 &&
            (!spent_fits(s, q) || n_idle + needed + promised + decode_margin(s, q) > kv_available(s)))
            return;
        promised += needed;
        admit_next(s);
    }
}
