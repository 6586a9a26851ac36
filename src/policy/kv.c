/* Chunks of sequences: taking cached ones, adding fresh ones, publishing full ones, giving them up. */
#include "policy/sched_impl.h"

#include <assert.h>

uint32_t kv_available(const struct sched *s)
{
    return s->pool.n_free + s->retention.n;
}

static void evict(struct sched *s, bool pinned_too)
{
    uint32_t victim = retention_evict(&s->retention, pinned_too);
    assert(victim != RETENTION_NONE);
    prefix_remove(&s->prefix, victim);
    pool_free(&s->pool, victim);
    s->stats.n_evicted_chunks++;
}

void kv_evict(struct sched *s)
{
    evict(s, false);
}

void kv_give_up_pin(struct sched *s)
{
    evict(s, true);
}

/* A fresh chunk for content of this hash, 0 if it is not known yet; kv_available says that there is one. */
static uint32_t kv_alloc(struct sched *s, const struct seq *q, uint64_t hash)
{
    if (s->pool.n_free == 0)
        evict(s, false);
    uint32_t c = pool_alloc(&s->pool);
    retention_fresh(&s->retention, c, hash, q->n_preemptions > 0);
    return c;
}

/* One more holds the chunk, which is chunk `index` of its sequence. */
static void kv_hold(struct sched *s, const struct seq *q, uint32_t chunk, uint32_t index)
{
    retention_take(&s->retention, chunk, q->n_preemptions > 0);
    pool_ref(&s->pool, chunk);
    if ((index + 1) * s->config.chunk_tokens <= q->n_pinned)
        retention_pin(&s->retention, chunk);
}

/* What the sequence's chunks are kept for. */
static struct retention_use use_of(const struct seq *q, bool preempted)
{
    uint32_t known = q->n_history > q->n_cached ? q->n_history : q->n_cached;
    return (struct retention_use){
        .turns = q->turns, .n_new_tokens = known < q->n_prompt ? q->n_prompt - known : 0, .preempted = preempted};
}

/* One reference to chunk `index` of a sequence less. What nobody holds any more stays as a cached prefix if it can be
 * found again, else is free. */
static void kv_drop(struct sched *s, uint32_t chunk, uint32_t index, const struct retention_use *use)
{
    if (!pool_unref(&s->pool, chunk))
        return;
    if (s->prefix.state[chunk] == PREFIX_READY) {
        retention_add(&s->retention, chunk, s->prefix.hash[chunk], index * s->config.chunk_tokens, use);
        return;
    }
    prefix_remove(&s->prefix, chunk); /* pending: it will not be computed now */
    pool_free(&s->pool, chunk);
}

void kv_drop_copies(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_copies; i++) {
        const struct seq *q = &s->seqs[s->copy_slots[i]];
        struct retention_use use = use_of(q, false);
        kv_drop(s, s->plan_copies[i].src, q->n_past / s->config.chunk_tokens, &use);
    }
    s->n_copies = 0;
}

/* What is known of chunk `index` of the sequence; *chunk is filled unless NEXT_COMPUTE. Chunks whose prompt logits are
 * wanted and were not had yet must be computed by the sequence itself. */
enum next_chunk kv_lookup(const struct sched *s, const struct seq *q, uint32_t index, uint32_t *chunk)
{
    uint32_t first = index * s->config.chunk_tokens, end = first + s->config.chunk_tokens;
    if (index >= q->n_hashes || (first < q->n_prompt_logits && end > q->n_computed))
        return NEXT_COMPUTE;
    *chunk = prefix_find(&s->prefix, q->hashes[index]);
    if (*chunk == INDEX_NONE)
        return NEXT_COMPUTE;
    return s->prefix.state[*chunk] == PREFIX_READY ? NEXT_READY : NEXT_PENDING;
}

/* How many chunks kv_take_ready would take from an empty table; *n_idle of them nobody holds now. */
uint32_t kv_count_ready(const struct sched *s, const struct seq *q, uint32_t *n_idle)
{
    uint32_t n = 0, chunk;
    *n_idle = 0;
    while ((n + 1) * s->config.chunk_tokens < q->n_tokens && kv_lookup(s, q, n, &chunk) == NEXT_READY) {
        *n_idle += s->pool.refs[chunk] == 0;
        n++;
    }
    return n;
}

/* Extends the table by the cached chunks that follow, leaving at least one known token to compute: its logits give the
 * next one. Nothing while the last chunk of the table is not full. */
void kv_take_ready(struct sched *s, struct seq *q)
{
    uint32_t chunk_tokens = s->config.chunk_tokens, chunk;
    while (q->n_past == q->n_table * chunk_tokens && q->n_past + chunk_tokens < q->n_tokens &&
           kv_lookup(s, q, q->n_table, &chunk) == NEXT_READY) {
        kv_hold(s, q, chunk, q->n_table);
        q->table[q->n_table++] = chunk;
        q->n_past += chunk_tokens;
        if (q->n_preemptions == 0 && q->n_past <= q->n_prompt) {
            q->n_cached += chunk_tokens;
            s->stats.prefix_hit_tokens += chunk_tokens;
        }
    }
}

/* Copy on write: when a cached chunk holds all the tokens that are left, all but the last are copied into a fresh
 * chunk and only the last is computed. Not if that takes more chunks than there are. */
bool kv_copy_last(struct sched *s, struct seq *q)
{
    uint32_t chunk_tokens = s->config.chunk_tokens, src;
    if (chunk_tokens == 1 || q->n_past != q->n_table * chunk_tokens || q->n_past + chunk_tokens != q->n_tokens ||
        kv_lookup(s, q, q->n_table, &src) != NEXT_READY)
        return false;
    uint32_t n_needed = s->pool.refs[src] == 0 ? 2 : 1;
    if (kv_available(s) < n_needed)
        return false;
    kv_hold(s, q, src, q->n_table); /* until the commit, so that the copy finds it */
    uint32_t dst = kv_alloc(s, q, 0);
    s->copy_slots[s->n_copies] = (uint32_t)(q - s->seqs);
    s->plan_copies[s->n_copies++] = (struct plan_copy){.src = src, .dst = dst, .n_tokens = chunk_tokens - 1};
    q->table[q->n_table++] = dst;
    q->n_past += chunk_tokens - 1;
    if (q->n_preemptions == 0 && q->n_tokens == q->n_prompt) {
        q->n_cached += chunk_tokens - 1;
        s->stats.prefix_hit_tokens += chunk_tokens - 1;
    }
    return true;
}

/* Adds n_chunks fresh ones (kv_available says that they are there). Those that will be full chunks of a known hash
 * that nobody else has are announced, so that others wait for them. */
void kv_extend(struct sched *s, struct seq *q, uint32_t n_chunks)
{
    for (uint32_t i = 0; i < n_chunks; i++) {
        uint32_t index = q->n_table;
        bool is_new = index < q->n_hashes && prefix_find(&s->prefix, q->hashes[index]) == INDEX_NONE;
        uint32_t chunk = kv_alloc(s, q, is_new ? q->hashes[index] : 0);
        assert(index < s->max_table);
        q->table[q->n_table++] = chunk;
        if (is_new)
            prefix_insert(&s->prefix, q->hashes[index], chunk, PREFIX_PENDING);
    }
}

/* Chunk `index` of the sequence is full and computed: from now on others may share it. If another of the same content
 * is there already, that one is used and this one given back. */
void kv_publish(struct sched *s, struct seq *q, uint32_t index)
{
    uint32_t own = q->table[index];
    if (index >= q->n_hashes || s->prefix.state[own] == PREFIX_READY)
        return;
    if (s->prefix.state[own] == PREFIX_PENDING) {
        s->prefix.state[own] = PREFIX_READY;
    } else {
        uint32_t other = prefix_find(&s->prefix, q->hashes[index]);
        if (other == INDEX_NONE) {
            prefix_insert(&s->prefix, q->hashes[index], own, PREFIX_READY);
        } else if (s->prefix.state[other] == PREFIX_READY) {
            struct retention_use use = use_of(q, false);
            kv_hold(s, q, other, index);
            q->table[index] = other;
            kv_drop(s, own, index, &use);
        }
    }
    if ((index + 1) * s->config.chunk_tokens <= q->n_pinned && s->prefix.state[q->table[index]] == PREFIX_READY)
        retention_pin(&s->retention, q->table[index]);
}

/* From the tail on: a prefix outlives what was built on it. */
void kv_release(struct sched *s, struct seq *q, bool preempted)
{
    struct retention_use use = use_of(q, preempted);
    retention_release(&s->retention, q->n_table);
    while (q->n_table > 0) {
        q->n_table--;
        kv_drop(s, q->table[q->n_table], q->n_table, &use);
    }
    q->n_past = 0;
}
