/* What is inside the scheduler, for people to look at. */
#include "policy/sched_impl.h"

static struct sched_seq_view view_of(const struct seq *q)
{
    return (struct sched_seq_view){
        .id = q->id,
        .n_prompt = q->n_prompt,
        .n_tokens = q->n_tokens,
        .n_past = q->n_past,
        .max_tokens = q->max_tokens,
        .n_cached = q->n_cached,
        .n_chunks = q->n_table,
        .n_preemptions = q->n_preemptions,
        .priority = q->priority,
        .submitted_s = q->submitted_s,
    };
}

uint32_t sched_view_running(const struct sched *s, struct sched_seq_view *out, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE && n < max; slot = s->seqs[slot].next)
        out[n++] = view_of(&s->seqs[slot]);
    return n;
}

static uint32_t view_tree(const struct sched *s, uint32_t tree, struct sched_seq_view *out, uint32_t n, uint32_t max)
{
    if (tree == INDEX_NONE || n == max)
        return n;
    n = view_tree(s, s->seqs[tree].left, out, n, max);
    if (n < max)
        out[n++] = view_of(&s->seqs[tree]);
    return view_tree(s, s->seqs[tree].right, out, n, max);
}

uint32_t sched_view_queue(const struct sched *s, struct sched_seq_view *out, uint32_t max)
{
    return view_tree(s, s->queue.root, out, 0, max);
}

uint32_t sched_view_chunks(const struct sched *s, uint32_t stride, int16_t *out)
{
    const struct pool *p = &s->pool;
    uint32_t n_cells = 0;
    for (uint32_t c = 0; c < p->n_chunks; c += stride)
        out[n_cells++] = p->is_free[c] ? SCHED_CHUNK_FREE : p->refs[c] == 0 ? SCHED_CHUNK_CACHED : SCHED_CHUNK_SHARED;
    int16_t owner = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        const struct seq *q = &s->seqs[slot];
        for (uint32_t i = 0; i < q->n_table; i++) {
            uint32_t c = q->table[i];
            if (c % stride == 0 && p->refs[c] == 1)
                out[c / stride] = owner;
        }
        owner = owner < INT16_MAX ? (int16_t)(owner + 1) : owner;
    }
    return n_cells;
}
