/* What the attention kernels share: a span's blocks, softmax over scores, the merging of spans. */
#ifndef WEIR_KERNEL_X86_SPAN_H
#define WEIR_KERNEL_X86_SPAN_H

#include "kernel/blocks.h"
#include "kernel/x86/vi.h"

#include <math.h>

#define QUERIES (VF_N == 16 ? 8 : 4) /* that go through a span together, at most */
/* Distance of queries' scores, which do not fall on the same sets of the cache. */
#define SCORE_STRIDE (ATTN_SPAN_TOKENS + 16)
#define SPAN_BLOCKS (ATTN_SPAN_TOKENS / KV_BLOCK_TOKENS)
#define SPAN_PART 128 /* tokens: what kernels take together begins at multiples of it, or of its parts */
/* Asked for so long before they are read, in whole blocks: first into the third-level cache, then into the second. More
 * lines can be under way to these than to the first, and to the third than to the second. */
#define LATER_BYTES 16384
#define SOON_BYTES 8192
#define AHEAD_BLOCKS ATTN_NEXT_AREAS /* at most */

/* What is asked for while a block is read. */
struct ahead {
    const uint8_t *soon, *later;
};

/* A span's blocks of 16 tokens, from the part of the span that holds the first that any query sees; in what follows
 * tokens are counted from the first of these. */
struct span {
    const struct attn_args *a;
    uint32_t first_token, n_blocks;
    size_t block_bytes; /* of a block without scales */
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

/* Blocks in the order in which they are read, this span's and some of the next. */
struct span_order {
    const uint8_t *block[2 * SPAN_BLOCKS + AHEAD_BLOCKS], *scale[2 * SPAN_BLOCKS + AHEAD_BLOCKS];
};

static void span_order(struct span *s, uint32_t n_next, struct span_order *order)
{
    const struct attn_args *a = s->a;
    const uint32_t chunk_blocks = a->chunk_tokens / 16, n = a->head_dim, first = s->first_token / 16;
    const size_t scales = (size_t)a->chunk_tokens * n;
    for (uint32_t i = 0, chunk = first / chunk_blocks, at = first % chunk_blocks; i < s->n_blocks; i++) {
        const uint8_t *k = a->k[chunk], *v = a->v[chunk];
        order->block[i] = s->k[i] = k + at * s->block_bytes;
        order->block[s->n_blocks + i] = s->v[i] = v + at * s->block_bytes;
        order->scale[i] = s->k_scale[i] = k + scales + (size_t)at * n;
        order->scale[s->n_blocks + i] = s->v_scale[i] = v + scales + (size_t)at * n;
        if (++at == chunk_blocks)
            chunk++, at = 0;
    }
    for (uint32_t i = 0, chunk = 0, at = 0; i < n_next; i++) {
        /* Nothing to come: what is at hand, at no cost. */
        const bool none = chunk >= a->n_next;
        const uint8_t *k = none ? order->block[0] : (const uint8_t *)a->next[chunk];
        order->block[2 * s->n_blocks + i] = none ? k : k + at * s->block_bytes;
        order->scale[2 * s->n_blocks + i] = none ? order->scale[0] : k + scales + (size_t)at * n;
        if (++at == chunk_blocks)
            chunk++, at = 0;
    }
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
    s->block_bytes = (a->kv_type == KV_F16 ? 32 : 16) * (size_t)a->head_dim;
    const uint32_t soon = blocks_ahead(SOON_BYTES, s->block_bytes), later = blocks_ahead(LATER_BYTES, s->block_bytes);
    struct span_order order;
    span_order(s, later, &order);
    for (uint32_t i = 0; i < 2 * s->n_blocks; i++) {
        s->ahead[i] = (struct ahead){order.block[i + soon], order.block[i + later]};
        s->ahead_scale[i] = (struct ahead){order.scale[i + soon], order.scale[i + later]};
    }
}

INLINE struct ahead ahead_at(struct ahead a, size_t offset)
{
    return (struct ahead){a.soon + offset, a.later + offset};
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

#if VF_N == 16
/* Up to four vectors, each reduced by the same operation: quarter i of the lanes has what it makes of v[i]. The steps are
 * the same for each, whatever the others are. */
INLINE vf reduce_4(const vf v[4], int n, vf (*op)(vf, vf))
{
    const vf a = v[0], b = n > 1 ? v[1] : a, c = n > 2 ? v[2] : a, d = n > 3 ? v[3] : a;
    const vf low = op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const vf high = op(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    vf all = op(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
    all = op(all, _mm512_permute_ps(all, 0x4e));
    return op(all, _mm512_permute_ps(all, 0xb1));
}

/* Each quarter's number in all lanes. */
INLINE void spread_4(vf all, vf v[4])
{
    v[0] = _mm512_shuffle_f32x4(all, all, 0x00);
    v[1] = _mm512_shuffle_f32x4(all, all, 0x55);
    v[2] = _mm512_shuffle_f32x4(all, all, 0xaa);
    v[3] = _mm512_shuffle_f32x4(all, all, 0xff);
}
#endif

#define LOG2_E 1.44269504f
#define LN_2 0.693147181f
#define UNSEEN (-1e30f) /* a score whose weight is 0, beside any other */

/* 2^x for x <= 0, or about, with a relative error under 2e-7; 1 at 0, 0 far below -126, of UNSEEN too; a NaN stays one.
 * 2^x = 2^n 2^r with |r| <= 1/2, and 2^r from a polynomial fitted to the least relative error. */
INLINE vf vf_exp2(vf x)
{
    const vf n = vf_round(x), r = vf_sub(x, n);
    vf e = vf_fma(r, vf_set(1.32647273e-3f), vf_set(9.67151299e-3f));
    e = vf_fma(e, r, vf_set(5.55073358e-2f));
    e = vf_fma(e, r, vf_set(2.40222424e-1f));
    e = vf_fma(e, r, vf_set(6.93147004e-1f));
    e = vf_fma(e, r, vf_set(1));
    return vf_scale_by_power(e, n);
}

/* Scores of n_q queries, times log2 e, become weights, zero for tokens that a query does not see; maxima and sums go out.
 * All queries in turn, so that none waits for its own steps. */
INLINE void softmax(const struct span *s, uint32_t query, int n_q, uint32_t begin, uint32_t end, float *score)
{
    const struct attn_args *a = s->a;
    vf top[QUERIES], sum[QUERIES];
    UNROLL for (int i = 0; i < n_q; i++)
    {
        const bool some = a->first[query + (uint32_t)i] < a->last[query + (uint32_t)i];
        const uint32_t first = some ? a->first[query + (uint32_t)i] - s->first_token : end;
        const uint32_t last = some ? a->last[query + (uint32_t)i] - s->first_token : end;
        for (uint32_t t = begin; t < first; t++)
            score[i * SCORE_STRIDE + (int)t] = UNSEEN;
        for (uint32_t t = last; t < end; t++)
            score[i * SCORE_STRIDE + (int)t] = UNSEEN;
        top[i] = vf_set(UNSEEN);
    }
    for (uint32_t t = begin; t < end; t += VF_N) {
        UNROLL for (int i = 0; i < n_q; i++) top[i] = vf_max(top[i], vf_load(score + i * SCORE_STRIDE + t));
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        const bool some = a->first[query + (uint32_t)i] < a->last[query + (uint32_t)i];
        const float m = vf_reduce_max(top[i]);
        a->out.m[query + (uint32_t)i] = some ? m * LN_2 : -INFINITY;
        top[i] = vf_set(some ? m : 0);
        sum[i] = vf_zero();
    }
    for (uint32_t t = begin; t < end; t += VF_N) {
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vf p = vf_exp2(vf_sub(vf_load(score + i * SCORE_STRIDE + t), top[i]));
            vf_store(score + i * SCORE_STRIDE + t, p);
            sum[i] = vf_add(sum[i], p);
        }
    }
    UNROLL for (int i = 0; i < n_q; i++) a->out.l[query + (uint32_t)i] = vf_reduce_add(sum[i]);
}

#endif
