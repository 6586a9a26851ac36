/* The field's policies, as the field runs them, to be compared with. */
#include "policy/sched_impl.h"

/* vLLM V1: behind the running sequences, waiting ones join while rows are left and the chunks for those rows; not in a
 * step that had to preempt. */
void stage_admit_waiting(struct sched *s, struct draft *d)
{
    if (s->n_plan > 0 && s->plan_preempted)
        return;
    while (s->n_queued > 0 && s->running.n < s->config.max_running && d->rows_left > 0 && d->outputs_left > 0) {
        uint32_t slot = s->queue.first, n_idle;
        const struct seq *q = &s->seqs[slot];
        uint32_t n_ready = kv_count_ready(s, q, &n_idle);
        uint32_t n_rows = q->n_tokens - n_ready * s->config.chunk_tokens;
        if (n_rows > d->rows_left)
            n_rows = d->rows_left;
        uint32_t n_chunks = chunks_for(s, n_ready * s->config.chunk_tokens + n_rows) - n_ready;
        if (n_chunks + n_idle > kv_available(s) && s->running.n > 0)
            return;
        admit_next(s);
        d->outputs_left--; /* put aside for its last row */
        uint32_t n_before = s->n_plan_tokens, rows_left = d->rows_left;
        batch_one(s, d, slot);
        d->rows_left = rows_left - (s->n_plan_tokens - n_before);
    }
}

static uint64_t reserved_regions(const struct sched *s)
{
    uint64_t n = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        n += region(s, &s->seqs[slot]);
    return n;
}

void stage_admit_regions(struct sched *s, struct draft *d)
{
    (void)d;
    if (s->n_queued == 0)
        return;
    uint64_t reserved = reserved_regions(s);
    while (s->n_queued > 0 && s->running.n < s->config.max_running) {
        reserved += region(s, &s->seqs[s->queue.first]);
        if (reserved > s->pool.n_chunks)
            return;
        admit_next(s);
    }
}

void stage_admit_whole_batch(struct sched *s, struct draft *d)
{
    if (s->running.n > 0)
        return;
    stage_admit_regions(s, d);
    s->n_batch = s->running.n;
    s->batch_prompt = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        if (s->seqs[slot].n_prompt > s->batch_prompt)
            s->batch_prompt = s->seqs[slot].n_prompt;
    }
}

/* What a padded batch computes besides: prompts up to the longest one's length, and members that have ended, as long
 * as the longest goes on. */
void stage_pad(struct sched *s, struct draft *d)
{
    (void)d;
    if (!s->config.has_model)
        return;
    uint32_t longest = 0, n_decoding = 0;
    for (uint32_t i = 0; i < s->n_plan; i++) {
        const struct plan_seq *p = &s->plan_seqs[i];
        const struct seq *q = &s->seqs[s->plan_slots[i]];
        if (p->n_past == 0 && s->batch_prompt > q->n_prompt)
            traffic_add(&s->padding, &s->config.model, 0, s->batch_prompt - q->n_prompt, s->batch_prompt, 0);
        n_decoding += q->n_tokens > q->n_prompt;
        longest = p->n_past > longest ? p->n_past : longest;
    }
    if (n_decoding < s->n_plan)
        return; /* prompts still run */
    for (uint32_t i = 0; i < s->n_plan; i++) {
        /* masked positions are read all the same */
        double masked = longest - s->plan_seqs[i].n_past;
        s->padding.full_positions += masked;
        s->padding.window_positions += masked;
        s->padding.last_positions += masked;
        s->padding.decode_positions += masked; /* nobody waits for them besides */
        s->padding.near_positions += masked;
    }
    if (s->n_batch > s->running.n)
        traffic_add_many(&s->padding, &s->config.model, s->n_batch - s->running.n, longest, 1, 0);
}

void stage_admit_slots(struct sched *s, struct draft *d)
{
    (void)d;
    while (s->n_queued > 0 && s->running.n < s->config.max_running) {
        uint32_t n_idle, n_ready = kv_count_ready(s, &s->seqs[s->queue.first], &n_idle);
        uint64_t needed = (uint64_t)chunks_for(s, s->seqs[s->queue.first].n_tokens) - n_ready + n_idle;
        if (s->running.n > 0 && needed > kv_available(s))
            return;
        admit_next(s);
    }
}

/* While there is prefill to do, nothing else is done: it uses the arithmetic best. */
void stage_batch_prefill_first(struct sched *s, struct draft *d)
{
    batch_begin(s, d);
    uint32_t beside_decoding = d->rows_left;
    d->rows_left = s->config.max_step_tokens;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE && d->rows_left > 0; slot = s->seqs[slot].next) {
        if (s->seqs[slot].n_tokens - s->seqs[slot].n_past > 1)
            batch_one(s, d, slot);
    }
    if (s->n_plan > 0)
        return;
    d->rows_left = beside_decoding;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        batch_one(s, d, slot);
}
