/* Where sequences stand: waiting (queue.c), in the running list (ordered), in the ended list. */
#include "policy/sched_impl.h"

#include <assert.h>
#include <math.h>

bool seq_before(const struct seq *a, const struct seq *b)
{
    return a->tag < b->tag || (a->tag == b->tag && a->arrival < b->arrival);
}

/* Lists. */

static void list_insert_after(struct sched *s, struct seq_list *l, uint32_t prev, uint32_t slot)
{
    uint32_t next = prev == INDEX_NONE ? l->first : s->seqs[prev].next;
    s->seqs[slot].prev = prev;
    s->seqs[slot].next = next;
    if (prev == INDEX_NONE)
        l->first = slot;
    else
        s->seqs[prev].next = slot;
    if (next == INDEX_NONE)
        l->last = slot;
    else
        s->seqs[next].prev = slot;
    l->n++;
}

void list_append(struct sched *s, struct seq_list *l, uint32_t slot)
{
    list_insert_after(s, l, l->last, slot);
}

void list_remove(struct sched *s, struct seq_list *l, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    if (q->prev == INDEX_NONE)
        l->first = q->next;
    else
        s->seqs[q->prev].next = q->next;
    if (q->next == INDEX_NONE)
        l->last = q->prev;
    else
        s->seqs[q->next].prev = q->prev;
    l->n--;
}

/* Transitions. */

void seq_start(struct sched *s, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    queue_remove(s, slot);
    s->n_starts++;
    q->state = SEQ_RUNNING;
    q->row_of_table = s->table_rows[--s->n_table_rows];
    q->table = s->tables + (size_t)q->row_of_table * s->max_table;
    q->n_waits = 0;
    uint32_t prev = s->running.last; /* mostly the place: younger ones seldom run already */
    while (prev != INDEX_NONE && seq_before(q, &s->seqs[prev]))
        prev = s->seqs[prev].prev;
    list_insert_after(s, &s->running, prev, slot);
}

static void seq_stop(struct sched *s, uint32_t slot, bool preempted)
{
    struct seq *q = &s->seqs[slot];
    kv_release(s, q, preempted);
    s->table_rows[s->n_table_rows++] = q->row_of_table;
    q->table = NULL;
    list_remove(s, &s->running, slot);
    forecast_stopped(s, q);
}

void seq_preempt(struct sched *s, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    assert(!q->in_plan && !is_spent(s, q));
    seq_stop(s, slot, true);
    q->n_preemptions++;
    if (is_spent(s, q))
        q->tag = -INFINITY;
    s->stats.n_preemptions++;
    s->plan_preempted = true;
    pressure_preempted(s, q);
    forecast_queued(s, q);
    queue_push(s, slot);
}

void seq_end(struct sched *s, uint32_t slot, enum sched_state state, enum sched_reason reason)
{
    struct seq *q = &s->seqs[slot];
    forecast_ended(s, q, state == SCHED_FINISHED && q->n_tokens < q->max_tokens);
    if (q->state == SEQ_RUNNING) {
        seq_stop(s, slot, false);
    } else {
        queue_remove(s, slot);
    }
    if (s->pipeline.traits & NODE_FAIR)
        fair_ended(s, q);
    talk_ended(s, q, state == SCHED_FINISHED);
    q->state = SEQ_ENDED;
    q->end_state = state;
    q->end_reason = reason;
    q->hashes = NULL;
    list_append(s, &s->ended, slot);
    s->stats.n_finished += state == SCHED_FINISHED;
    s->stats.n_cancelled += state == SCHED_CANCELLED;
    s->stats.n_failed += state == SCHED_FAILED;
    s->stats.n_refused += state == SCHED_REFUSED;
    s->stats.n_refused_by[reason] += state == SCHED_REFUSED;
}
