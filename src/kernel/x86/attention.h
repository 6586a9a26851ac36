/* Attention over one chunk, at either width: included by attention_avx2.c and attention_avx512.c.
 *
 * Keys, then values, are widened to float32 eight tokens at a time and used by all queries of the call while they are
 * in the first-level cache. Tiles start at multiples of eight tokens of the chunk, whoever sees them, so that a query's
 * sums are the same in any company: tokens that it does not see weigh zero.
 */
#include "kernel/blocks.h"
#include "kernel/x86/vf.h"

#include <math.h>

#define TILE 8     /* tokens */
#define QUERIES 32 /* whose scores are kept at a time: 32 KB */

struct tile {
    _Alignas(64) float row[TILE][ATTN_MAX_HEAD_DIM];
};

/* One cached row as float32, zeros up to a whole vector. */
INLINE void widen_row(enum kv_type t, const void *row, uint32_t n, float *out)
{
    uint32_t i = 0;
    if (t == KV_Q8_0) {
        const struct block_q8_0 *b = row;
        for (; i < n; i += 32, b++) {
            const vf d = vf_set(_cvtsh_ss(b->d));
            for (uint32_t j = 0; j < 32; j += VF_N)
                vf_store(out + i + j, vf_mul(d, vf_from_i8(b->q + j)));
        }
        return;
    }
    const uint16_t *h = row;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(out + i, vf_from_f16(h + i));
    if (i < n) {
        uint16_t last[VF_N] = {0};
        memcpy(last, h + i, (n - i) * sizeof *last);
        vf_store(out + i, vf_from_f16(last));
    }
}

/* Tokens first .. first + 7 of the chunk; those from end on are zeros. */
INLINE void widen_tile(const struct attn_args *a, const void *base, uint32_t first, uint32_t end, struct tile *out)
{
    for (uint32_t t = 0; t < TILE; t++) {
        if (first + t < end) {
            const void *row = (const char *)base + (size_t)(first + t) * a->kv_row_bytes;
            widen_row(a->kv_type, row, a->head_dim, out->row[t]);
        } else {
            memset(out->row[t], 0, (a->head_dim + VF_N - 1) / VF_N * VF_N * sizeof(float));
        }
    }
}

/* The sums of eight vectors. */
INLINE __m256 merge_8(const vf v[8])
{
    __m256 a = _mm256_hadd_ps(vf_fold(v[0]), vf_fold(v[1])), b = _mm256_hadd_ps(vf_fold(v[2]), vf_fold(v[3]));
    __m256 c = _mm256_hadd_ps(vf_fold(v[4]), vf_fold(v[5])), d = _mm256_hadd_ps(vf_fold(v[6]), vf_fold(v[7]));
    a = _mm256_hadd_ps(a, b);
    c = _mm256_hadd_ps(c, d);
    return _mm256_add_ps(_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31));
}

/* score[t] = q . row[t] */
INLINE void score_tile(const float *q, uint32_t n, const struct tile *k, float score[TILE])
{
    vf sum[TILE];
    UNROLL for (int t = 0; t < TILE; t++) sum[t] = vf_zero();
    uint32_t i = 0;
    for (; n - i >= VF_N; i += VF_N) {
        const vf v = vf_load(q + i);
        UNROLL for (int t = 0; t < TILE; t++) sum[t] = vf_fma(v, vf_load(k->row[t] + i), sum[t]);
    }
    if (i < n) {
        const vf v = vf_load_n(q + i, n - i);
        UNROLL for (int t = 0; t < TILE; t++) sum[t] = vf_fma(v, vf_load(k->row[t] + i), sum[t]);
    }
    _mm256_storeu_ps(score, merge_8(sum));
}

/* acc += sum over tokens of p[t] * row[t], token after token */
INLINE void weigh_tile(const float p[TILE], const struct tile *v, float *acc, uint32_t n)
{
    vf weight[TILE];
    UNROLL for (int t = 0; t < TILE; t++) weight[t] = vf_set(p[t]);
    uint32_t i = 0;
    for (; n - i >= VF_N; i += VF_N) {
        vf sum = vf_load(acc + i);
        UNROLL for (int t = 0; t < TILE; t++) sum = vf_fma(weight[t], vf_load(v->row[t] + i), sum);
        vf_store(acc + i, sum);
    }
    if (i < n) {
        vf sum = vf_load_n(acc + i, n - i);
        UNROLL for (int t = 0; t < TILE; t++) sum = vf_fma(weight[t], vf_load(v->row[t] + i), sum);
        vf_store_n(acc + i, sum, n - i);
    }
}

/* Scores of tokens [first, last) become weights, those of the others in the same vectors and tiles 0; running maximum,
 * sum and values are brought to the new maximum. */
INLINE void softmax_step(float *score, uint32_t first, uint32_t last, float *m, float *l, float *acc, uint32_t n)
{
    const uint32_t begin = first / VF_N * VF_N, end = (last + VF_N - 1) / VF_N * VF_N;
    for (uint32_t t = begin; t < first; t++)
        score[t] = -INFINITY;
    for (uint32_t t = last; t < end; t++)
        score[t] = -INFINITY;
    vf highest = vf_set(*m);
    for (uint32_t t = begin; t < end; t += VF_N)
        highest = vf_max(highest, vf_load(score + t));
    const float top = vf_reduce_max(highest);
    vf sum = vf_zero();
    for (uint32_t t = begin; t < end; t += VF_N) {
        const vf p = vf_exp(vf_sub(vf_load(score + t), vf_set(top)));
        vf_store(score + t, p);
        sum = vf_add(sum, p);
    }
    if (*m != top) {
        const float scale = expf(*m - top); /* 0 for the first chunk */
        *m = top;
        *l *= scale;
        for (uint32_t i = 0; i < n; i++)
            acc[i] *= scale;
    }
    *l += vf_reduce_add(sum);
}

/* Up to QUERIES queries from `begin` on. */
static void attend_queries(const struct attn_args *a, uint32_t begin, uint32_t n_q)
{
    struct tile tile;
    float score[QUERIES][KV_CHUNK_MAX_TOKENS];
    uint32_t lowest = KV_CHUNK_MAX_TOKENS, highest = 0;
    const uint32_t *first = a->first + begin, *last = a->last + begin;
    for (uint32_t i = 0; i < n_q; i++) {
        if (first[i] < last[i]) {
            lowest = first[i] < lowest ? first[i] : lowest;
            highest = last[i] > highest ? last[i] : highest;
        }
    }
    lowest = lowest / TILE * TILE;
    for (uint32_t t = lowest; t < highest; t += TILE) {
        for (uint32_t r = t; r < t + TILE && r < highest; r++) {
            for (size_t line = 0; line < a->kv_row_bytes; line += 64)
                _mm_prefetch((const char *)a->v + r * a->kv_row_bytes + line, _MM_HINT_T0);
        }
        widen_tile(a, a->k, t, highest, &tile);
        for (uint32_t i = 0; i < n_q; i++) {
            if (first[i] < t + TILE && last[i] > t)
                score_tile(a->q + (size_t)(begin + i) * a->head_dim, a->head_dim, &tile, score[i] + t);
        }
    }
    for (uint32_t i = 0; i < n_q; i++) {
        if (first[i] < last[i])
            softmax_step(score[i], first[i], last[i], a->m + begin + i, a->l + begin + i,
                         a->acc + (size_t)(begin + i) * a->head_dim, a->head_dim);
    }
    for (uint32_t t = lowest; t < highest; t += TILE) {
        widen_tile(a, a->v, t, highest, &tile);
        for (uint32_t i = 0; i < n_q; i++) {
            if (first[i] < last[i] && first[i] < t + TILE && last[i] > t)
                weigh_tile(score[i] + t, &tile, a->acc + (size_t)(begin + i) * a->head_dim, a->head_dim);
        }
    }
}

static void attention(const struct attn_args *a)
{
    for (uint32_t i = 0; i < a->n_q; i += QUERIES)
        attend_queries(a, i, a->n_q - i < QUERIES ? a->n_q - i : QUERIES);
}
