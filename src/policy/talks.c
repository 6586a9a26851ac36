/* Requests as turns of conversations (policy/conversation.h). */
#include "policy/sched_impl.h"

#define MARK_BEFORE_TAIL 2
#define TAIL_TOKENS 512 /* of a prompt may differ in the next turn: templates, block-wise traces */
#define GROWS 0.9       /* then the next prompt must be so long, of the last one and its answer */

/* A request was accepted: whose next turn is it? */
void talk_submitted(struct sched *s, struct seq *q)
{
    q->turns = 1;
    conversations_refresh(&s->talks, s->now_s);
    for (uint32_t old; (old = conversation_expired(&s->talks, s->now_s)) != CONVERSATION_NONE;)
        conversation_drop(&s->talks, old, s->now_s);
    uint32_t i = conversation_find(&s->talks, q->hashes, q->n_hashes, &q->mark);
    if (i == CONVERSATION_NONE)
        return;
    const struct conversation *found = &s->talks.items[i];
    if (found->marks[MARK_BEFORE_TAIL] == q->hashes[q->mark] && q->n_prompt < GROWS * found->n_tokens)
        return; /* another beginning with the same text */
    reserve_used(&s->reserve, &s->talks, i);
    struct conversation x = conversation_continue(&s->talks, i, s->now_s);
    q->turns = x.turns + 1;
    q->n_history = x.n_tokens;
    q->idle_since_s = x.idle_since_s;
    q->chance = x.chance;
}

/* The hash of the last full chunk of n_tokens, if it tells this conversation from others: it computed that chunk, or
 * was recognised by it. */
static uint64_t mark_of(const struct sched *s, const struct seq *q, uint32_t n_tokens)
{
    uint32_t n = n_tokens / s->config.chunk_tokens;
    n = n < q->n_hashes ? n : q->n_hashes;
    if (n == 0 || (n <= q->n_cached / s->config.chunk_tokens && (q->turns == 1 || n - 1 < q->mark)))
        return 0;
    return q->hashes[n - 1];
}

/* The turn is over. One that was not answered leaves its conversation where it was. */
void talk_ended(struct sched *s, const struct seq *q, bool answered)
{
    struct conversation x = {.turns = q->turns, .n_tokens = q->n_tokens, .idle_since_s = s->now_s};
    if (answered) {
        x.marks[0] = mark_of(s, q, q->n_prompt);
        x.marks[1] = mark_of(s, q, q->n_tokens);
        x.marks[MARK_BEFORE_TAIL] = mark_of(s, q, q->n_prompt / TAIL_TOKENS * TAIL_TOKENS);
        uint32_t n_before = q->n_history > q->n_cached ? q->n_history : q->n_cached;
        conversation_added(&s->talks, n_before < q->n_tokens ? q->n_tokens - n_before : 0);
    } else if (q->turns > 1) {
        x = (struct conversation){.marks = {q->hashes[q->mark]},
                                  .turns = q->turns - 1,
                                  .n_tokens = q->n_history,
                                  .idle_since_s = q->idle_since_s,
                                  .chance = q->chance};
    }
    if (answered)
        reserve_ran(&s->reserve, s->now_s - q->started_s);
    if (!x.marks[0] && !x.marks[1] && !x.marks[2])
        return;
    uint32_t i = conversation_watch(&s->talks, &x, s->now_s);
    if (s->pipeline.traits & NODE_RESERVE)
        reserve_make(&s->reserve, &s->talks, i, s->now_s);
}

/* The reservations as they are now; admission keeps what they hold free. */
void stage_reserve(struct sched *s, struct draft *d)
{
    (void)d;
    reserve_refresh(&s->reserve, &s->talks, s->now_s);
}
