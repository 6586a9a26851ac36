/* Attention over a span with vector instructions, at either width: included by attention_avx2.c, _avx512.c, _vnni.c.
 *
 * Up to four queries go through the span together: scores of all tokens, softmax, values. Keys and values are read in
 * the order in which they lie, and asked for some blocks ahead: keys, then values, then what comes next. Each vector
 * that is read is widened once and used by all four queries; a score is a lane, so nothing is summed across lanes.
 *
 * A query's sums are the same in any company: tokens that it does not see, but its neighbours do, weigh zero. */
#ifndef WEIR_KERNEL_X86_ATTENTION_H
#define WEIR_KERNEL_X86_ATTENTION_H

#include "kernel/x86/span.h"

/* ---- float16 ---- */

/* score[q][..] of two vectors of tokens: element after element. */
INLINE void score_f16(const struct span *s, uint32_t block, const float *q, int n_q, float *score)
{
    const uint32_t n = s->a->head_dim;
    const uint16_t *k[2];
    const uint8_t *ahead[2];
    UNROLL for (int j = 0; j < 2; j++)
    {
        const uint32_t b = min_u32(block + (uint32_t)j * VF_N / 16, s->n_blocks - 1);
        k[j] = (const uint16_t *)(const void *)s->k[b] + j * VF_N % 16;
        ahead[j] = s->ahead[b];
    }
    vf sum[QUERIES][2];
    UNROLL for (int i = 0; i < n_q; i++) sum[i][0] = sum[i][1] = vf_zero();
    for (uint32_t e = 0; e < n; e++) {
        if (e % 2 == 0)
            ask(ahead[0], (size_t)e * 32);
        else if (VF_N == 16)
            ask(ahead[1], (size_t)(e - 1) * 32);
        const vf k0 = vf_from_f16(k[0] + (size_t)e * 16), k1 = vf_from_f16(k[1] + (size_t)e * 16);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vf x = vf_set(q[(size_t)i * n + e]);
            sum[i][0] = vf_fma(x, k0, sum[i][0]);
            sum[i][1] = vf_fma(x, k1, sum[i][1]);
        }
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        vf_store(score + i * ATTN_SPAN_TOKENS, sum[i][0]);
        vf_store(score + i * ATTN_SPAN_TOKENS + VF_N, sum[i][1]);
    }
}

INLINE void scores_f16(const struct span *s, const float *q, int n_q, uint32_t begin, uint32_t end, float *score)
{
    for (uint32_t t = begin; t < end; t += 2 * VF_N) {
        const uint32_t at = pair_of_vectors(t, end);
        score_f16(s, at / 16, q, n_q, score + at);
    }
}

/* acc[q][first element ..] of n_v vectors, token after token. `rest`: elements of the last vector, 0 for all. */
INLINE void weigh_f16(const struct span *s, const float *p, int n_q, uint32_t begin, uint32_t end, uint32_t element,
                      int n_v, uint32_t rest, float *acc)
{
    const uint32_t n = s->a->head_dim;
    vf sum[QUERIES][4];
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < n_v; j++) sum[i][j] = vf_zero();
    }
    for (uint32_t t = begin; t < end; t++) {
        const uint16_t *v = (const uint16_t *)(const void *)s->v[t / 16] + (size_t)(t % 16) * n + element;
        const uint8_t *ahead = s->ahead[s->n_blocks + t / 16] + ((size_t)(t % 16) * n + element) * 2;
        ask(ahead, 0);
        if (n_v * VF_N > 32)
            ask(ahead, 64);
        vf x[4];
        UNROLL for (int j = 0; j < n_v; j++) x[j] =
            rest && j == n_v - 1 ? vf_from_f16_n(v + j * VF_N, rest) : vf_from_f16(v + j * VF_N);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vf w = vf_set(p[(uint32_t)i * ATTN_SPAN_TOKENS + t]);
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

/* Vectors of an element group: 16 sums and what feeds them find room in 32 registers, 8 in 16. */
#define GROUP (VF_N == 16 ? 4 : 2)

INLINE void values_f16(const struct span *s, const float *p, int n_q, uint32_t begin, uint32_t end, float *acc)
{
    const uint32_t n = s->a->head_dim, whole = n / (GROUP * VF_N) * (GROUP * VF_N);
    uint32_t e = 0;
    for (; e < whole; e += GROUP * VF_N)
        weigh_f16(s, p, n_q, begin, end, e, GROUP, 0, acc);
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
    _Alignas(64) float score[QUERIES * ATTN_SPAN_TOKENS];
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
    for (int i = 0; i < n_q; i++)
        softmax(s, query + (uint32_t)i, begin, end, score + i * ATTN_SPAN_TOKENS);
    if (a->kv_type == KV_F16)
        values_f16(s, score, n_q, first, last, acc);
    else
        values_q8(s, score, n_q, begin, end, acc);
}

/* Compiled for each number of queries. */
static void attend_1(const struct span *s, uint32_t query)
{
    attend(s, query, 1);
}
static void attend_2(const struct span *s, uint32_t query)
{
    attend(s, query, 2);
}
static void attend_3(const struct span *s, uint32_t query)
{
    attend(s, query, 3);
}
static void attend_4(const struct span *s, uint32_t query)
{
    attend(s, query, 4);
}

static void attention(const struct attn_args *a)
{
    static void (*const by_queries[])(const struct span *, uint32_t) = {attend_1, attend_2, attend_3, attend_4};
    struct span s;
    span_open(&s, a);
    for (uint32_t i = 0; s.n_blocks && i < a->n_q; i += QUERIES)
        by_queries[(a->n_q - i < QUERIES ? a->n_q - i : QUERIES) - 1](&s, i);
    if (!s.n_blocks)
        span_empty(&s, 0, a->n_q);
}

#endif
