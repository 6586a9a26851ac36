/* What the attention kernels share: a span's blocks, softmax over scores, the merging of spans. */
#ifndef WEIR_KERNEL_X86_SPAN_H
#define WEIR_KERNEL_X86_SPAN_H

#include "kernel/blocks.h"
#include "kernel/x86/vi.h"

#include <math.h>

#define QUERIES (VF_N == 16 ? 8 : 4) /* that go through a span together, at most */
#define SPAN_BLOCKS (ATTN_SPAN_TOKENS / KV_BLOCK_TOKENS)
#define SPAN_PART 128 /* tokens: what kernels take together begins at multiples of it, or of its parts */
/* Asked for so long before they are read, in whole blocks: first into the third-level cache, then into the second. More
 * lines can be under way to these than to the first, and to the third than to the second. */
#define LATER_BYTES 16384
#define SOON_BYTES 8192
#define AHEAD_BLOCKS 16 /* at most */

/* What is asked for while a block is read. */
struct ahead {
    const uint8_t *soon, *later;
};

/* A span's blocks of 16 tokens, from the part of the span that holds the first that any query sees; in what follows
 * tokens are counted from the first of these. */
struct span {
    const struct attn_args *a;
    uint32_t first_token, n_blocks;
    const uint8_t *k[SPAN_BLOCKS], *v[SPAN_BLOCKS];
    const uint8_t *k_scale[SPAN_BLOCKS], *v_scale[SPAN_BLOCKS];        /* Q8_0: float16 [head_dim / 32][16] */
    struct ahead ahead[2 * SPAN_BLOCKS], ahead_scale[2 * SPAN_BLOCKS]; /* of keys, then of values */
};

INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

INLINE uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

INLINE uint32_t blocks_ahead(uint32_t bytes, size_t block_bytes)
{
    return min_u32((uint32_t)((bytes - 1) / block_bytes) + 1, AHEAD_BLOCKS);
}

static void span_open(struct span *s, const struct attn_args *a)
{
    uint32_t first = UINT32_MAX, last = 0;
    for (uint32_t i = 0; i < a->n_q; i++) {
        if (a->first[i] < a->last[i]) {
            first = min_u32(first, a->first[i]);
            last = max_u32(last, a->last[i]);
        }
    }
    s->a = a;
    s->first_token = last ? first / SPAN_PART * SPAN_PART : 0;
    s->n_blocks = last ? (last + 15) / 16 - s->first_token / 16 : 0;
    const uint32_t chunk_blocks = a->chunk_tokens / 16, n = a->head_dim;
    const size_t block_bytes = a->kv_type == KV_F16 ? 32 * (size_t)n : 16 * (size_t)n;
    const size_t scales = (size_t)a->chunk_tokens * n;
    const uint8_t *order[2 * SPAN_BLOCKS + AHEAD_BLOCKS], *scale_order[2 * SPAN_BLOCKS + AHEAD_BLOCKS];
    for (uint32_t i = 0; i < s->n_blocks; i++) {
        const uint32_t block = s->first_token / 16 + i, chunk = block / chunk_blocks, at = block % chunk_blocks;
        const uint8_t *k = a->k[chunk], *v = a->v[chunk];
        order[i] = s->k[i] = k + at * block_bytes;
        order[s->n_blocks + i] = s->v[i] = v + at * block_bytes;
        scale_order[i] = s->k_scale[i] = k + scales + (size_t)at * n;
        scale_order[s->n_blocks + i] = s->v_scale[i] = v + scales + (size_t)at * n;
    }
    const uint32_t soon = blocks_ahead(SOON_BYTES, block_bytes), later = blocks_ahead(LATER_BYTES, block_bytes);
    for (uint32_t i = 0; i < later; i++) {
        /* Nothing to come: what is at hand, at no cost. */
        const bool none = i / chunk_blocks >= a->n_next;
        const uint8_t *k = none ? order[0] : (const uint8_t *)a->next[i / chunk_blocks];
        const size_t at = none ? 0 : i % chunk_blocks;
        order[2 * s->n_blocks + i] = k + at * block_bytes;
        scale_order[2 * s->n_blocks + i] = none ? scale_order[0] : k + scales + at * n;
    }
    for (uint32_t i = 0; i < 2 * s->n_blocks; i++) {
        s->ahead[i] = (struct ahead){order[i + soon], order[i + later]};
        s->ahead_scale[i] = (struct ahead){scale_order[i + soon], scale_order[i + later]};
    }
}

INLINE void ask(struct ahead a, size_t offset)
{
    _mm_prefetch((const char *)a.later + offset, _MM_HINT_T2);
    _mm_prefetch((const char *)a.soon + offset, _MM_HINT_T1);
}

/* Tokens that any of the queries sees; false: none. What lies beside them may be not-a-numbers. */
INLINE bool span_range(const struct span *s, uint32_t query, uint32_t n_q, uint32_t *begin, uint32_t *end)
{
    uint32_t first = UINT32_MAX, last = 0;
    for (uint32_t i = query; i < query + n_q; i++) {
        if (s->a->first[i] < s->a->last[i]) {
            first = min_u32(first, s->a->first[i]);
            last = max_u32(last, s->a->last[i]);
        }
    }
    if (!last)
        return false;
    *begin = first - s->first_token;
    *end = last - s->first_token;
    return true;
}

/* Where n vectors of tokens begin that hold those from t on: at the end some are taken again with the last. */
INLINE uint32_t whole_vectors(uint32_t t, uint32_t end, uint32_t n)
{
    return end - t >= n * VF_N ? t : end >= n * VF_N ? end - n * VF_N : 0;
}

static void span_empty(const struct span *s, uint32_t query, uint32_t n_q)
{
    const struct attn_state *out = &s->a->out;
    for (uint32_t i = query; i < query + n_q; i++) {
        out->m[i] = -INFINITY;
        out->l[i] = 0;
    }
    memset(out->acc + (size_t)query * s->a->head_dim, 0, (size_t)n_q * s->a->head_dim * sizeof(float));
}

/* 2^x for x <= 0, with a relative error under 2e-7; 1 at 0, 0 below -126; a NaN stays one. 2^x = 2^n 2^r with
 * |r| <= 1/2, and 2^r from a polynomial fitted to the least relative error. */
INLINE vf vf_exp2(vf x)
{
    const vf lowest = vf_set(-126), from = vf_max(lowest, x); /* x, if that is a NaN */
    const vf n = vf_round(from), r = vf_sub(from, n);
    vf e = vf_fma(r, vf_set(1.32647273e-3f), vf_set(9.67151299e-3f));
    e = vf_fma(e, r, vf_set(5.55073358e-2f));
    e = vf_fma(e, r, vf_set(2.40222424e-1f));
    e = vf_fma(e, r, vf_set(6.93147004e-1f));
    e = vf_fma(e, r, vf_set(1));
    return vf_zero_where_below(vf_scale_by_power(e, n), x, lowest);
}

/* Scores of a query become weights, zero for tokens that it does not see; its maximum and sum go out. */
INLINE void softmax(const struct span *s, uint32_t query, uint32_t begin, uint32_t end, float *score)
{
    const struct attn_args *a = s->a;
    uint32_t first = a->first[query], last = a->last[query];
    if (first >= last) {
        memset(score + begin, 0, (end - begin) * sizeof *score);
        a->out.m[query] = -INFINITY;
        a->out.l[query] = 0;
        return;
    }
    first -= s->first_token;
    last -= s->first_token;
    for (uint32_t t = begin; t < first; t++)
        score[t] = -INFINITY;
    for (uint32_t t = last; t < end; t++)
        score[t] = -INFINITY;
    vf top = vf_set(-INFINITY);
    for (uint32_t t = begin; t < end; t += VF_N)
        top = vf_max(top, vf_load(score + t));
    const float m = vf_reduce_max(top);
    const vf log2e = vf_set(1.44269504f);
    top = vf_set(m);
    vf sum[2] = {vf_zero(), vf_zero()};
    for (uint32_t t = begin; t < end; t += 16) {
        UNROLL for (uint32_t j = 0; j < 16; j += VF_N)
        {
            const vf p = vf_exp2(vf_mul(vf_sub(vf_load(score + t + j), top), log2e));
            vf_store(score + t + j, p);
            sum[j / VF_N % 2] = vf_add(sum[j / VF_N % 2], p);
        }
    }
    a->out.m[query] = m;
    a->out.l[query] = vf_reduce_add(vf_add(sum[0], sum[1]));
}

#endif
