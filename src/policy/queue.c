/* Those that wait: in the order of service a treap (Seidel and Aragon 1996), whose subtrees know their sum of predicted
 * prefill seconds, so that what is ahead of a request is known in O(log n); and a list by the time since when they wait.
 * Treap priorities are hashes of the arrival number: the same requests make the same tree. */
#include "policy/sched_impl.h"

#include "base/hash.h"

#include <assert.h>
#include <float.h>
#include <math.h>

#define MAX_DEPTH 256

static double sum_of(const struct sched *s, uint32_t tree)
{
    return tree == INDEX_NONE ? 0 : s->seqs[tree].sum_s;
}

static void update(struct sched *s, uint32_t tree)
{
    struct seq *q = &s->seqs[tree];
    q->sum_s = q->prefill_s + sum_of(s, q->left) + sum_of(s, q->right);
}

static uint64_t rank_of(const struct sched *s, uint32_t slot)
{
    return hash_u64(s->seqs[slot].arrival);
}

/* All of a are before all of b. */
static uint32_t merge(struct sched *s, uint32_t a, uint32_t b)
{
    if (a == INDEX_NONE || b == INDEX_NONE)
        return a == INDEX_NONE ? b : a;
    uint32_t top = rank_of(s, a) > rank_of(s, b) ? a : b;
    if (top == a)
        s->seqs[a].right = merge(s, s->seqs[a].right, b);
    else
        s->seqs[b].left = merge(s, a, s->seqs[b].left);
    update(s, top);
    return top;
}

static void split(struct sched *s, uint32_t tree, const struct seq *at, uint32_t *before, uint32_t *behind)
{
    if (tree == INDEX_NONE) {
        *before = *behind = INDEX_NONE;
        return;
    }
    struct seq *q = &s->seqs[tree];
    if (seq_before(q, at)) {
        *before = tree;
        split(s, q->right, at, &q->right, behind);
    } else {
        *behind = tree;
        split(s, q->left, at, before, &q->left);
    }
    update(s, tree);
}

static uint32_t insert(struct sched *s, uint32_t tree, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    if (tree == INDEX_NONE || rank_of(s, slot) > rank_of(s, tree)) {
        split(s, tree, q, &q->left, &q->right);
        tree = slot;
    } else if (seq_before(q, &s->seqs[tree])) {
        s->seqs[tree].left = insert(s, s->seqs[tree].left, slot);
    } else {
        s->seqs[tree].right = insert(s, s->seqs[tree].right, slot);
    }
    update(s, tree);
    return tree;
}

static uint32_t take_out(struct sched *s, uint32_t tree, uint32_t slot)
{
    if (tree == slot)
        return merge(s, s->seqs[slot].left, s->seqs[slot].right);
    if (seq_before(&s->seqs[slot], &s->seqs[tree]))
        s->seqs[tree].left = take_out(s, s->seqs[tree].left, slot);
    else
        s->seqs[tree].right = take_out(s, s->seqs[tree].right, slot);
    update(s, tree);
    return tree;
}

static void find_first(struct sched *s)
{
    uint32_t at = s->queue.root;
    while (at != INDEX_NONE && s->seqs[at].left != INDEX_NONE)
        at = s->seqs[at].left;
    s->queue.first = at;
}

static void put_in(struct sched *s, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    assert(s->n_queued < s->n_slots);
    q->state = SEQ_QUEUED;
    s->queue.root = insert(s, s->queue.root, slot);
    if (s->n_queued++ == 0 || seq_before(q, &s->seqs[s->queue.first]))
        s->queue.first = slot;
    list_append(s, &s->queue.by_wait, slot);
}

void queue_push(struct sched *s, uint32_t slot)
{
    s->seqs[slot].waits_since_s = s->now_s;
    put_in(s, slot);
}

/* Arrival numbers that were chosen for it could make a tree as deep as it has nodes. */
bool queue_restore(struct sched *s, uint32_t slot)
{
    int depth = 0;
    for (uint32_t at = s->queue.root; at != INDEX_NONE; depth++)
        at = seq_before(&s->seqs[slot], &s->seqs[at]) ? s->seqs[at].left : s->seqs[at].right;
    if (depth > MAX_DEPTH)
        return false;
    put_in(s, slot);
    return true;
}

void queue_remove(struct sched *s, uint32_t slot)
{
    assert(s->seqs[slot].state == SEQ_QUEUED && s->n_queued > 0);
    s->queue.root = take_out(s, s->queue.root, slot);
    s->n_queued--;
    if (s->queue.first == slot)
        find_first(s);
    list_remove(s, &s->queue.by_wait, slot);
}

void queue_to_front(struct sched *s, uint32_t slot)
{
    s->queue.root = take_out(s, s->queue.root, slot);
    s->seqs[slot].tag = fmin(s->seqs[slot].tag, -DBL_MAX);
    s->queue.root = insert(s, s->queue.root, slot);
    find_first(s);
}

uint32_t queue_after(const struct sched *s, uint32_t slot)
{
    uint32_t after = INDEX_NONE;
    for (uint32_t at = s->queue.root; at != INDEX_NONE;) {
        bool behind = seq_before(&s->seqs[slot], &s->seqs[at]);
        after = behind ? at : after;
        at = behind ? s->seqs[at].left : s->seqs[at].right;
    }
    return after;
}

double queue_all_s(const struct sched *s)
{
    return sum_of(s, s->queue.root);
}

double queue_ahead_s(const struct sched *s, const struct seq *q)
{
    double sum_s = 0;
    for (uint32_t at = s->queue.root; at != INDEX_NONE;) {
        const struct seq *x = &s->seqs[at];
        if (seq_before(x, q)) {
            sum_s += x->prefill_s + sum_of(s, x->left);
            at = x->right;
        } else {
            at = x->left;
        }
    }
    return sum_s;
}
