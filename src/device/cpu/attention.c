/* Attention of a step: split among the workers by the bytes of keys and values that each reads.
 *
 * Determinism. A sequence's positions are cut into spans at fixed multiples from position 0. For each query, softmax
 * starts afresh in every span that it sees and runs over the span's chunks in ascending order; the spans' results are
 * then folded in ascending order. So a query's result depends on its own sequence, its position and whether that is the
 * prompt's alone: not on the number of workers, the other rows of the step, or how its prompt was cut into steps.
 *
 * Work. An item is a block of a sequence's rows (with all query heads that share a KV head) against that KV head. Items
 * are laid end to end, weighed by bytes, and cut into one equal part for each worker. A worker that has a whole item
 * folds its spans as it goes. An item that is cut leaves one partial state for each span and query, which are folded
 * after a barrier; steps without such items have no such barrier. */
#include "device/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Queries of a KV head in one pass over its cache: as many as make reading and preparing it cheap beside them. */
#define BLOCK_QUERIES 256
#define SPAN_CHUNKS (ATTN_SPAN_TOKENS / KV_BLOCK_TOKENS) /* at most */

uint32_t cpu_span_chunks(uint32_t chunk_tokens)
{
    return ATTN_SPAN_TOKENS / chunk_tokens;
}

uint32_t cpu_kv_block_rows(const struct model *m)
{
    uint32_t group = m->n_head / m->n_head_kv;
    return group < BLOCK_QUERIES ? BLOCK_QUERIES / group : 1;
}

/* ---- planning: on the thread that starts the step ---- */

static uint32_t window_begin(const struct model *m, uint32_t position)
{
    return m->sliding_window && position >= m->sliding_window ? position - m->sliding_window + 1 : 0;
}

/* Work of a token of an item: its bytes, and its arithmetic weighed so that a block of queries costs what it costs. */
static double token_cost(const struct cpu *c, const struct attn_item *i)
{
    double queries = (double)i->n_rows * (c->base.model->n_head / c->base.model->n_head_kv);
    return (double)c->kv_row_bytes + queries * c->base.model->head_dim * 0.25;
}

/* Of the whole item, whose rows see n_tokens on average. */
static double item_cost(const struct cpu *c, const struct attn_item *i)
{
    return token_cost(c, i) * i->n_tokens;
}

static void add_items(struct cpu *c, uint32_t seq)
{
    const struct model *m = c->base.model;
    const struct step_seq *s = &c->step.seqs[seq];
    uint32_t block = cpu_kv_block_rows(m),
             span_tokens = cpu_span_chunks(c->base.config.chunk_tokens) * c->base.config.chunk_tokens;
    for (uint32_t h = 0; h < m->n_head_kv; h++) {
        for (uint32_t r = 0, n; r < s->n_rows; r += n) {
            uint32_t position = s->n_past + r;
            n = s->n_rows - r < block ? s->n_rows - r : block;
            if (position < s->n_prompt && s->n_prompt - position < n)
                n = s->n_prompt - position;
            uint32_t first = window_begin(m, position) / span_tokens;
            c->plan.items[c->plan.n_items++] = (struct attn_item){
                .seq = seq,
                .kv_head = h,
                .prompt = position < s->n_prompt,
                .first_row = s->first_row + r,
                .n_rows = n,
                .first_span = first,
                .n_spans = (position + n - 1) / span_tokens + 1 - first,
                .n_tokens = position + n / 2 + 1 - window_begin(m, position),
            };
        }
    }
}

/* A cut before span `span` of item i, if its partial states find room; else at the item's nearer end. */
static struct attn_bound cut_item(struct cpu *c, uint32_t i, uint32_t span)
{
    struct attn_plan *p = &c->plan;
    struct attn_item *item = &p->items[i];
    if (span == 0)
        return (struct attn_bound){i, 0};
    if (span >= item->n_spans)
        return (struct attn_bound){i + 1, 0};
    if (p->n_cut && p->cut[p->n_cut - 1] == i)
        return (struct attn_bound){i, span};
    uint32_t used = 0;
    if (p->n_cut) {
        const struct attn_item *last = &p->items[p->cut[p->n_cut - 1]];
        used = last->partial + last->n_spans * last->n_rows * (c->base.model->n_head / c->base.model->n_head_kv);
    }
    uint64_t needed = (uint64_t)item->n_spans * item->n_rows * (c->base.model->n_head / c->base.model->n_head_kv);
    if (used + needed > p->max_partial)
        return (struct attn_bound){2 * span < item->n_spans ? i : i + 1, 0};
    item->partial = used;
    p->cut[p->n_cut++] = i;
    return (struct attn_bound){i, span};
}

void cpu_attn_plan(struct cpu *c)
{
    struct attn_plan *p = &c->plan;
    p->n_items = p->n_cut = 0;
    for (uint32_t s = 0; s < c->step.n_seqs; s++)
        add_items(c, s);
    double total = 0, before = 0;
    for (uint32_t i = 0; i < p->n_items; i++)
        total += item_cost(c, &p->items[i]);
    double share = total / c->n_threads,
           span_tokens = cpu_span_chunks(c->base.config.chunk_tokens) * c->base.config.chunk_tokens;
    uint32_t i = 0;
    p->bounds[0] = (struct attn_bound){0, 0};
    for (uint32_t t = 1; t < c->n_threads; t++) {
        double target = share * t;
        while (i < p->n_items && before + item_cost(c, &p->items[i]) <= target)
            before += item_cost(c, &p->items[i++]);
        if (i == p->n_items) {
            p->bounds[t] = (struct attn_bound){i, 0};
            continue;
        }
        /* A cut costs a barrier: an item's end that is near enough is better. */
        double span_cost = token_cost(c, &p->items[i]) * span_tokens;
        double spans = (target - before) / span_cost, slack = share / 32 / span_cost;
        uint32_t span = spans <= slack                         ? 0
                        : spans >= p->items[i].n_spans - slack ? p->items[i].n_spans
                                                               : (uint32_t)(spans + 0.5);
        p->bounds[t] = cut_item(c, i, span);
    }
    p->bounds[c->n_threads] = (struct attn_bound){p->n_items, 0};
}

/* ---- running: on the workers ---- */

static void state_reset(const struct attn_state *s, uint32_t n, uint32_t head_dim)
{
    for (uint32_t i = 0; i < n; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    memset(s->acc, 0, (size_t)n * head_dim * sizeof *s->acc);
}

static struct attn_state state_at(const struct attn_state *s, uint32_t i, uint32_t head_dim)
{
    return (struct attn_state){s->m + i, s->l + i, s->acc + (size_t)i * head_dim};
}

/* What each query of the item sees of a span that begins at position `begin`. Adds the tokens that any of them sees of
 * the span to *tokens, the pairs of query and token to *pairs. */
static void visible(const struct cpu *c, const struct cpu_thread *me, const struct attn_item *it, uint32_t begin,
                    uint64_t *tokens, uint64_t *pairs)
{
    const struct model *m = c->base.model;
    uint32_t group = m->n_head / m->n_head_kv;
    uint32_t end = begin + cpu_span_chunks(c->base.config.chunk_tokens) * c->base.config.chunk_tokens;
    uint32_t low = UINT32_MAX, high = 0;
    for (uint32_t r = 0; r < it->n_rows; r++) {
        uint32_t position = c->rows[it->first_row + r].position;
        uint32_t first = window_begin(m, position), last = position + 1;
        first = first > begin ? first - begin : 0;
        last = last <= begin ? 0 : last < end ? last - begin : end - begin;
        if (first >= last)
            first = last = 0;
        else
            low = first < low ? first : low, high = last > high ? last : high;
        for (uint32_t g = 0; g < group; g++) {
            me->first[r * group + g] = first;
            me->last[r * group + g] = last;
        }
        *pairs += (uint64_t)(last - first) * group;
    }
    *tokens += high > low ? high - low : 0;
}

/* Chunks of a span, whose position in the plan is `at`: their keys or values in a layer. At most `most`. */
static uint32_t span_areas(const struct cpu *c, uint32_t layer, struct attn_bound at, bool values, uint32_t most,
                           const void **areas)
{
    const struct attn_item *it = &c->plan.items[at.item];
    const uint32_t n_chunks = cpu_span_chunks(c->base.config.chunk_tokens);
    const uint32_t first = (it->first_span + at.span) * n_chunks,
                   end = c->rows[it->first_row + it->n_rows - 1].position / c->base.config.chunk_tokens + 1;
    uint32_t n = end - first < n_chunks ? end - first : n_chunks;
    n = n < most ? n : most;
    for (uint32_t i = 0; i < n; i++)
        areas[i] = cpu_kv(c, c->step.seqs[it->seq].chunks[first + i], layer, values, it->kv_head);
    return n;
}

/* What a worker reads after a span, up to the end of its part: several spans, if they are short. */
static uint32_t areas_after(const struct cpu *c, uint32_t thread, uint32_t layer, struct attn_bound at,
                            const void **areas)
{
    const struct attn_plan *p = &c->plan;
    const struct attn_bound end = p->bounds[thread + 1];
    uint32_t n = 0;
    while (n < ATTN_NEXT_AREAS) {
        at = at.span + 1 < p->items[at.item].n_spans ? (struct attn_bound){at.item, at.span + 1}
                                                     : (struct attn_bound){at.item + 1, 0};
        if (at.item > end.item || (at.item == end.item && at.span >= end.span))
            break;
        n += span_areas(c, layer, at, false, ATTN_NEXT_AREAS - n, areas + n);
        n += span_areas(c, layer, at, true, ATTN_NEXT_AREAS - n, areas + n);
    }
    return n;
}

/* One span of an item, from its first chunk to its last, into a fresh state. */
static void run_span(struct cpu *c, uint32_t thread, uint32_t layer, struct attn_bound at, const struct attn_state *out)
{
    const struct model *m = c->base.model;
    const struct attn_item *it = &c->plan.items[at.item];
    struct cpu_thread *me = &c->threads[thread];
    uint32_t group = m->n_head / m->n_head_kv, d = m->head_dim, chunk_tokens = c->base.config.chunk_tokens;
    const void *k[SPAN_CHUNKS], *v[SPAN_CHUNKS], *after[ATTN_NEXT_AREAS];
    uint64_t pairs = 0, tokens = 0;
    visible(c, me, it, (it->first_span + at.span) * cpu_span_chunks(chunk_tokens) * chunk_tokens, &tokens, &pairs);
    span_areas(c, layer, at, true, SPAN_CHUNKS, v);
    c->k->attention(&(struct attn_args){
        .q = c->q + ((size_t)it->kv_head * c->base.config.max_step_tokens + it->first_row) * group * d,
        .n_q = it->n_rows * group,
        .head_dim = d,
        .kv_type = c->base.config.kv_type,
        .chunk_tokens = chunk_tokens,
        .n_chunks = span_areas(c, layer, at, false, SPAN_CHUNKS, k),
        .k = k,
        .v = v,
        .next = after,
        .n_next = areas_after(c, thread, layer, at, after),
        .prompt = it->prompt,
        .first = me->first,
        .last = me->last,
        .out = *out,
        .scratch = me->attn_scratch,
    });
    me->traffic.kv_read_bytes += 2ull * tokens * c->kv_row_bytes;
    me->traffic.flops += 4.0 * (double)pairs * d;
}

static void write_item(struct cpu *c, const struct attn_item *it, const struct attn_state *s)
{
    const struct model *m = c->base.model;
    uint32_t group = m->n_head / m->n_head_kv, d = m->head_dim;
    for (uint32_t r = 0; r < it->n_rows; r++) {
        float *out = c->attn + ((size_t)(it->first_row + r) * m->n_head + it->kv_head * group) * d;
        const float *acc = s->acc + (size_t)r * group * d;
        for (uint32_t g = 0; g < group; g++) {
            for (uint32_t j = 0; j < d; j++)
                out[g * d + j] = acc[g * d + j] / s->l[r * group + g];
        }
    }
}

/* Spans [begin, end) of item i. */
static void run_item(struct cpu *c, uint32_t thread, uint32_t layer, uint32_t i, uint32_t begin, uint32_t end)
{
    const struct model *m = c->base.model;
    const struct cpu_thread *me = &c->threads[thread];
    const struct attn_item *it = &c->plan.items[i];
    uint32_t n_q = it->n_rows * (m->n_head / m->n_head_kv);
    bool whole = begin == 0 && end == it->n_spans;
    if (whole)
        state_reset(&me->total, n_q, m->head_dim);
    for (uint32_t s = begin; s < end; s++) {
        const struct attn_state out = whole ? me->span : state_at(&c->plan.partial, it->partial + s * n_q, m->head_dim);
        run_span(c, thread, layer, (struct attn_bound){i, s}, &out);
        if (whole)
            c->k->attn_fold(&me->total, &out, n_q, m->head_dim);
    }
    if (whole)
        write_item(c, it, &me->total);
}

static void merge_cut_item(struct cpu *c, uint32_t thread, const struct attn_item *it)
{
    const struct model *m = c->base.model;
    const struct attn_state *total = &c->threads[thread].total;
    uint32_t n_q = it->n_rows * (m->n_head / m->n_head_kv);
    state_reset(total, n_q, m->head_dim);
    for (uint32_t s = 0; s < it->n_spans; s++) {
        struct attn_state partial = state_at(&c->plan.partial, it->partial + s * n_q, m->head_dim);
        c->k->attn_fold(total, &partial, n_q, m->head_dim);
    }
    write_item(c, it, total);
}

void cpu_op_attention(struct cpu *c, uint32_t thread, uint32_t layer)
{
    const struct attn_plan *p = &c->plan;
    const struct model *m = c->base.model;
    struct attn_bound from = p->bounds[thread], to = p->bounds[thread + 1];
    const uint32_t n = to.item + (to.span > 0);
    for (uint32_t i = from.item; i < n; i++) {
        uint32_t begin = i == from.item ? from.span : 0, end = i == to.item ? to.span : p->items[i].n_spans;
        if (begin < end)
            run_item(c, thread, layer, i, begin, end);
    }
    c->threads[thread].traffic.activation_bytes +=
        2ull * c->step.n_rows * m->n_head * m->head_dim * sizeof(float) / c->n_threads;
    team_barrier(c->team);
    if (!p->n_cut)
        return;
    for (uint32_t i = thread; i < p->n_cut; i += c->n_threads)
        merge_cut_item(c, thread, &p->items[p->cut[i]]);
    team_barrier(c->team);
}
