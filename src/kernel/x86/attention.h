/* Attention over a span with vector instructions, at either width: included by attention_avx2.c, _avx512.c, _vnni.c.
 *
 * Up to eight queries (AVX2: four) go through the span together: scores of all tokens, softmax, values. Keys and values
 * are read in the order in which they lie, and asked for some blocks ahead: keys, then values, then what comes next.
 * Each vector that is read is widened once and used by all of them; a score is a lane, so nothing is summed across
 * lanes.
 *
 * A query's sums are the same in any company: tokens that it does not see, but its neighbours do, weigh zero. */
#ifndef WEIR_KERNEL_X86_ATTENTION_H
#define WEIR_KERNEL_X86_ATTENTION_H

#include "kernel/x86/span.h"

#define QUERY_STRIDE (ATTN_MAX_HEAD_DIM + 16) /* distance of queries, as of their scores */
#define VECTORS 4                             /* at most, of tokens or elements, that are summed together */

/* Sums, and what feeds them, are to find room in 32 registers of 16 floats, or 16 of 8. */
INLINE int vectors_for(int n_q)
{
    return n_q <= QUERIES / 2 ? 4 : 2;
}

/* ---- float16 ---- */

/* score[q][..] of n_v vectors of tokens from `token` on: element after element. */
INLINE void score_f16(const struct span *s, uint32_t token, const float *q, int n_q, int n_v, float *score)
{
    const uint32_t n = s->a->head_dim;
    const uint16_t *k[VECTORS];
    struct ahead ahead[VECTORS];
    UNROLL for (int j = 0; j < n_v; j++)
    {
        const uint32_t t = token + (uint32_t)j * VF_N, b = min_u32(t / 16, s->n_blocks - 1);
        k[j] = (const uint16_t *)(const void *)s->k[b] + t % 16;
        ahead[j] = s->ahead[b];
    }
    vf sum[QUERIES][VECTORS];
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < n_v; j++) sum[i][j] = vf_zero();
    }
    for (size_t e = 0; e < n; e++) {
        const float *element = q + e;
        vf x[VECTORS];
        UNROLL for (int j = 0; j < n_v; j++)
        {
            if ((VF_N == 16 || j % 2 == 0) && (e + (uint32_t)j * VF_N / 16) % 2 == 0)
                ask(ahead[j], e * 32);
            x[j] = vf_from_f16(k[j] + e * 16);
        }
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vf w = vf_set(element[i * QUERY_STRIDE]);
            UNROLL for (int j = 0; j < n_v; j++) sum[i][j] = vf_fma(w, x[j], sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < n_v; j++) vf_store(score + i * SCORE_STRIDE + j * VF_N, sum[i][j]);
    }
}

INLINE void scores_f16(const struct span *s, const float *q, int n_q, uint32_t begin, uint32_t end, float *score)
{
    const int n_v = vectors_for(n_q);
    const size_t n = s->a->head_dim;
    _Alignas(64) float row[QUERIES * QUERY_STRIDE]; /* at distances that the compiler knows */
    for (int i = 0; i < n_q; i++) {
        for (size_t e = 0; e < n; e++)
            row[(size_t)i * QUERY_STRIDE + e] = q[(size_t)i * n + e] * LOG2_E;
    }
    for (uint32_t t = begin; t < end; t += (uint32_t)n_v * VF_N) {
        const uint32_t at = whole_vectors(t, end, (uint32_t)n_v);
        score_f16(s, at, row, n_q, n_v, score + at);
    }
}

/* acc[q][first element ..] of n_v vectors, token after token. `rest`: elements of the last vector, 0 for all. */
INLINE void weigh_f16(const struct span *s, const float *p, int n_q, uint32_t begin, uint32_t end, uint32_t element,
                      int n_v, uint32_t rest, float *acc)
{
    const uint32_t n = s->a->head_dim;
    vf sum[QUERIES][VECTORS];
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < n_v; j++) sum[i][j] = vf_zero();
    }
    for (uint32_t t = begin; t < end; t++) {
        const uint16_t *v = (const uint16_t *)(const void *)s->v[t / 16] + (size_t)(t % 16) * n + element;
        const float *weight = p + t;
        const size_t offset = ((size_t)(t % 16) * n + element) * 2;
        ask(s->ahead[s->n_blocks + t / 16], offset);
        if (n_v * VF_N > 32)
            ask(s->ahead[s->n_blocks + t / 16], offset + 64);
        vf x[VECTORS];
        UNROLL for (int j = 0; j < n_v; j++) x[j] =
            rest && j == n_v - 1 ? vf_from_f16_n(v + j * VF_N, rest) : vf_from_f16(v + j * VF_N);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vf w = vf_set(weight[i * SCORE_STRIDE]);
            UNROLL for (int j = 0; j < n_v; j++) sum[i][j] = vf_fma(w, x[j], sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < n_v; j++)
        {
            float *to = acc + (size_t)i * n + element + (uint32_t)j * VF_N;
            if (rest && j == n_v - 1)
                vf_store_n(to, sum[i][j], rest);
            else
                vf_store(to, sum[i][j]);
        }
    }
}

INLINE void values_f16(const struct span *s, const float *p, int n_q, uint32_t begin, uint32_t end, float *acc)
{
    const uint32_t n = s->a->head_dim, group = (uint32_t)vectors_for(n_q) * VF_N;
    uint32_t e = 0;
    for (; n - e >= group; e += group)
        weigh_f16(s, p, n_q, begin, end, e, vectors_for(n_q), 0, acc);
    for (; n - e >= VF_N; e += VF_N)
        weigh_f16(s, p, n_q, begin, end, e, 1, 0, acc);
    if (e < n)
        weigh_f16(s, p, n_q, begin, end, e, 1, n - e, acc);
}

/* ---- a span ---- */

#include "kernel/x86/attention_q8.h"

INLINE void attend(const struct span *s, uint32_t query, int n_q)
{
    const struct attn_args *a = s->a;
    const uint32_t n = a->head_dim;
    _Alignas(64) float score[QUERIES * SCORE_STRIDE];
    uint32_t first, last;
    if (!span_range(s, query, (uint32_t)n_q, &first, &last)) {
        span_empty(s, query, (uint32_t)n_q);
        return;
    }
    const uint32_t begin = first / 16 * 16, end = (last + 15) / 16 * 16;
    const float *q = a->q + (size_t)query * n;
    float *acc = a->out.acc + (size_t)query * n;
    if (a->kv_type == KV_F16)
        scores_f16(s, q, n_q, begin, end, score);
    else
        scores_q8(s, q, n_q, begin, end, score);
    softmax(s, query, n_q, begin, end, score);
    if (a->kv_type == KV_F16)
        values_f16(s, score, n_q, first, last, acc);
    else
        values_q8(s, score, n_q, first, last, acc);
}

/* Compiled for each number of queries. */
#define ATTEND(n)                                                                                                      \
    static void attend_##n(const struct span *s, uint32_t query)                                                       \
    {                                                                                                                  \
        attend(s, query, n);                                                                                           \
    }
ATTEND(1)
ATTEND(2)
ATTEND(3)
ATTEND(4)
#if VF_N == 16
ATTEND(5)
ATTEND(6)
ATTEND(7)
ATTEND(8)
#endif

static void attention(const struct attn_args *a)
{
    static void (*const by_queries[QUERIES])(const struct span *, uint32_t) = {
        attend_1,
        attend_2,
        attend_3,
        attend_4,
#if VF_N == 16
        attend_5,
        attend_6,
        attend_7,
        attend_8,
#endif
    };
    struct span s;
    span_open(&s, a);
    for (uint32_t i = 0; s.n_blocks && i < a->n_q; i += QUERIES)
        by_queries[min_u32(a->n_q - i, QUERIES) - 1](&s, i);
    if (!s.n_blocks)
        span_empty(&s, 0, a->n_q);
}

#endif
