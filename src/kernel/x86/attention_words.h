/* Attention of a prompt's rows over float16 keys and values in integers of 16 bits: included by attention_vnni.c. Twice
 * as many products an instruction as with floats; the rows of other roles take attention.h's way.
 *
 * A span's keys and values become words once for all queries of the call: 15 bits of the largest element of the token.
 * A query's words are 16 bits of its largest element, or fewer if else the sum of 32 products might not fit 32 bits; so
 * are a span's weights, times what a unit of the token's values is worth. Products of 32 elements, or of 32 tokens, are
 * summed exactly, and these sums in float32 in ascending order.
 *
 * What a query's sums are does not depend on its neighbours: what it does not see weighs zero. */
#include "kernel/x86/attention.h"

#define SLICE 32              /* elements, or tokens, whose products are summed exactly */
#define WORD_LARGEST 16383.0f /* of keys and values */
#define MULTIPLIER_LARGEST 32767.0f
#define SLICE_LARGEST 131000.0f /* sum of a slice's multipliers: (131,000 + 16 for rounding) * 16,383 < 2^31 */
#define TOGETHER 4              /* queries */

struct word_span {
    const struct span *s;
    int16_t *k; /* [block][element pair][16 tokens][2] */
    int16_t *v; /* [token pair][element][2] */
    _Alignas(64) float k_unit[ATTN_SPAN_TOKENS], v_unit[ATTN_SPAN_TOKENS];
};

/* The larger of two numbers that are not negative, or that which is none. */
INLINE vf larger(vf a, vf b)
{
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

/* What words are multiplied with to become numbers of up to `largest`, 0 if there is nothing but zeros. */
INLINE vf inverse_unit(vf top)
{
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(top, vf_zero(), _CMP_NEQ_UQ), vf_set(WORD_LARGEST), top);
}

/* Words of two vectors side by side. */
INLINE vi words_beside(vf a, vf b, vf inverse)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, vi_from_vf(vf_mul(a, inverse)),
                                   _mm512_slli_epi32(vi_from_vf(vf_mul(b, inverse)), 16));
}

static void prepare_key_words(struct word_span *w, uint32_t block)
{
    const struct span *s = w->s;
    const uint32_t n = s->a->head_dim;
    const uint16_t *k = (const uint16_t *)(const void *)s->k[block];
    int16_t *to = w->k + (size_t)block * n * 16;
    vf top = vf_zero();
    for (uint32_t e = 0; e < n; e += 2) {
        ask(s->ahead[block], (size_t)e * 32);
        top = larger(top, larger(vf_abs(vf_from_f16(k + e * 16)), vf_abs(vf_from_f16(k + e * 16 + 16))));
    }
    const vf inverse = inverse_unit(top);
    for (uint32_t e = 0; e < n; e += 2)
        vi_store(to + e * 16, words_beside(vf_from_f16(k + e * 16), vf_from_f16(k + e * 16 + 16), inverse));
    vf_store(w->k_unit + block * 16, vf_mul(top, vf_set(1 / WORD_LARGEST)));
}

/* The largest of a token's values in all lanes. */
INLINE vf token_top(const uint16_t *v, uint32_t n)
{
    vf top = vf_zero();
    for (uint32_t e = 0; e < n; e += 16)
        top = larger(top, vf_abs(vf_from_f16(v + e)));
    top = larger(top, _mm512_shuffle_f32x4(top, top, 0x4e));
    top = larger(top, _mm512_shuffle_f32x4(top, top, 0xb1));
    top = larger(top, _mm512_permute_ps(top, 0x4e));
    return larger(top, _mm512_permute_ps(top, 0xb1));
}

static void prepare_value_words(struct word_span *w, uint32_t block)
{
    const struct span *s = w->s;
    const uint32_t n = s->a->head_dim;
    for (uint32_t t = 0; t < 16; t += 2) {
        const uint16_t *v = (const uint16_t *)(const void *)s->v[block] + (size_t)t * n;
        int16_t *to = w->v + (size_t)(block * 16 + t) * n;
        const vf top[2] = {token_top(v, n), token_top(v + n, n)};
        const vf inverse[2] = {inverse_unit(top[0]), inverse_unit(top[1])};
        for (uint32_t e = 0; e < n; e += 16) {
            if (e % 32 == 0) {
                ask(s->ahead[s->n_blocks + block], ((size_t)t * n + e) * 2);
                ask(s->ahead[s->n_blocks + block], ((size_t)(t + 1) * n + e) * 2);
            }
            const vi a = vi_from_vf(vf_mul(vf_from_f16(v + e), inverse[0]));
            const vi b = vi_from_vf(vf_mul(vf_from_f16(v + n + e), inverse[1]));
            vi_store(to + 2 * e, _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)));
        }
        w->v_unit[block * 16 + t] = _mm512_cvtss_f32(top[0]) * (1 / WORD_LARGEST);
        w->v_unit[block * 16 + t + 1] = _mm512_cvtss_f32(top[1]) * (1 / WORD_LARGEST);
    }
}

/* What a unit of multipliers is worth: top, the largest, and sum, of which every slice has no more. */
INLINE float multiplier_unit(float top, float sum)
{
    return fmaxf(top * (1 / MULTIPLIER_LARGEST), sum * (1 / SLICE_LARGEST));
}

INLINE vf multiplier_inverse(float unit)
{
    return vf_set(unit > 1e-34f ? 1 / unit : 0);
}

/* A query becomes words; returns what one is worth. */
static float query_words(const float *q, uint32_t n, int16_t *words)
{
    vf top = vf_zero(), sum = vf_zero();
    for (uint32_t e = 0; e < n; e += SLICE) {
        const vf a = vf_abs(vf_load(q + e)), b = vf_abs(vf_load(q + e + 16));
        top = vf_max(top, vf_max(a, b));
        sum = vf_max(sum, vf_add(a, b));
    }
    const float unit = multiplier_unit(vf_reduce_max(top), vf_reduce_add(sum));
    const vf inverse = multiplier_inverse(unit);
    for (uint32_t e = 0; e < n; e += 16)
        vi_to_i16(words + e, vi_from_vf(vf_mul(vf_load(q + e), inverse)));
    return unit;
}

/* Weights of tokens [begin, end) become words, what is left of their slices zeros; returns what one is worth. */
static float weight_words(const struct word_span *w, float *p, uint32_t begin, uint32_t end, int16_t *words)
{
    vf top = vf_zero(), sum = vf_zero(), x[2];
    const uint32_t first = begin / SLICE * SLICE, last = (end + SLICE - 1) / SLICE * SLICE;
    for (uint32_t t = first; t < last; t += SLICE) {
        UNROLL for (uint32_t j = 0; j < 2; j++)
        {
            const uint32_t at = t + 16 * j;
            x[j] = at < begin || at >= end ? vf_zero() : vf_mul_nonzero(vf_load(p + at), vf_load(w->v_unit + at));
            vf_store(p + at, x[j]);
        }
        top = larger(top, larger(x[0], x[1]));
        sum = vf_max(sum, vf_add(x[0], x[1]));
    }
    const float largest = _mm512_reduce_max_epu32(_mm512_castps_si512(top)) > 0x7f800000u ? NAN : vf_reduce_max(top);
    const float unit = isnan(largest) ? largest : multiplier_unit(largest, vf_reduce_add(sum));
    const vf inverse = multiplier_inverse(unit);
    for (uint32_t t = first; t < last; t += 16)
        vi_to_i16(words + t, vi_from_vf(vf_mul(vf_load(p + t), inverse)));
    return unit;
}

/* ---- products ---- */

/* sum[q][j] += pairs of words at multiplier[q], again and again, times those of two vectors. */
INLINE void dot_words(vi sum[TOGETHER][2], int n_q, const int16_t *const multiplier[TOGETHER], size_t at, vi x0, vi x1)
{
    UNROLL for (int i = 0; i < n_q; i++)
    {
        const vi m = vi_broadcast_4((const uint8_t *)(const void *)(multiplier[i] + at));
        sum[i][0] = _mm512_dpwssd_epi32(sum[i][0], x0, m);
        sum[i][1] = _mm512_dpwssd_epi32(sum[i][1], x1, m);
    }
}

struct multipliers {
    _Alignas(64) int16_t q[TOGETHER][ATTN_MAX_HEAD_DIM + 32], p[TOGETHER][ATTN_SPAN_TOKENS + 32];
    float q_unit[TOGETHER], p_unit[TOGETHER];
};

/* Two blocks of tokens, or one twice. */
INLINE void score_words(const struct word_span *w, const struct multipliers *m, int n_q, uint32_t block, uint32_t next,
                        float *score)
{
    const uint32_t n = w->s->a->head_dim;
    const uint8_t *k0 = (const uint8_t *)(w->k + (size_t)block * n * 16);
    const uint8_t *k1 = (const uint8_t *)(w->k + (size_t)next * n * 16);
    const int16_t *q[TOGETHER];
    vf total[TOGETHER][2];
    UNROLL for (int i = 0; i < n_q; i++)
    {
        q[i] = m->q[i];
        total[i][0] = total[i][1] = vf_zero();
    }
    for (size_t e = 0; e < n; e += SLICE) {
        vi sum[TOGETHER][2];
        UNROLL for (int i = 0; i < n_q; i++) sum[i][0] = sum[i][1] = vi_zero();
        UNROLL for (size_t j = 0; j < SLICE; j += 2)
            dot_words(sum, n_q, q, e + j, vi_load(k0 + (e + j) * 32), vi_load(k1 + (e + j) * 32));
        UNROLL for (int i = 0; i < n_q; i++)
        {
            UNROLL for (int j = 0; j < 2; j++) total[i][j] = vf_add(total[i][j], vf_from_vi(sum[i][j]));
        }
    }
    const vf unit[2] = {vf_load(w->k_unit + block * 16), vf_load(w->k_unit + next * 16)};
    UNROLL for (int i = 0; i < n_q; i++)
    {
        float *to = score + i * SCORE_STRIDE;
        vf_store(to + next * 16, vf_mul(total[i][1], vf_mul(unit[1], vf_set(m->q_unit[i]))));
        vf_store(to + block * 16, vf_mul(total[i][0], vf_mul(unit[0], vf_set(m->q_unit[i]))));
    }
}

/* acc[q][element ..] of two vectors, over slices of tokens. */
INLINE void weigh_words(const struct word_span *w, const struct multipliers *m, int n_q, uint32_t begin, uint32_t end,
                        uint32_t element, float *acc)
{
    const size_t n = w->s->a->head_dim;
    const int16_t *p[TOGETHER];
    vf total[TOGETHER][2];
    UNROLL for (int i = 0; i < n_q; i++)
    {
        p[i] = m->p[i];
        total[i][0] = total[i][1] = vf_zero();
    }
    for (size_t t = begin; t < end; t += SLICE) {
        const uint8_t *v = (const uint8_t *)(w->v + t * n + 2 * (size_t)element);
        vi sum[TOGETHER][2];
        UNROLL for (int i = 0; i < n_q; i++) sum[i][0] = sum[i][1] = vi_zero();
        UNROLL for (size_t j = 0; j < SLICE; j += 2)
            dot_words(sum, n_q, p, t + j, vi_load(v + j * n * 2), vi_load(v + j * n * 2 + 64));
        UNROLL for (int i = 0; i < n_q; i++)
        {
            UNROLL for (int j = 0; j < 2; j++) total[i][j] = vf_add(total[i][j], vf_from_vi(sum[i][j]));
        }
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < 2; j++)
            vf_store(acc + (size_t)i * n + element + 16 * (uint32_t)j, vf_mul(total[i][j], vf_set(m->p_unit[i])));
    }
}

/* ---- a span ---- */

INLINE void attend_words(const struct word_span *w, uint32_t query, int n_q)
{
    const struct attn_args *a = w->s->a;
    const uint32_t n = a->head_dim;
    _Alignas(64) float score[TOGETHER * SCORE_STRIDE];
    struct multipliers m;
    uint32_t first, last;
    if (!span_range(w->s, query, (uint32_t)n_q, &first, &last)) {
        span_empty(w->s, query, (uint32_t)n_q);
        return;
    }
    const uint32_t begin = first / 16 * 16, end = (last + 15) / 16 * 16;
    for (int i = 0; i < n_q; i++)
        m.q_unit[i] = query_words(a->q + (query + (uint32_t)i) * (size_t)n, n, m.q[i]);
    for (uint32_t block = begin / 16; block < end / 16; block += 2)
        score_words(w, &m, n_q, block, min_u32(block + 1, end / 16 - 1), score);
    for (int i = 0; i < n_q; i++) {
        softmax(w->s, query + (uint32_t)i, begin, end, score + i * SCORE_STRIDE);
        m.p_unit[i] = weight_words(w, score + i * SCORE_STRIDE, begin, end, m.p[i]);
    }
    for (uint32_t e = 0; e < n; e += 32)
        weigh_words(w, &m, n_q, begin / SLICE * SLICE, (end + SLICE - 1) / SLICE * SLICE, e,
                    a->out.acc + query * (size_t)n);
}

static void attend_words_4(const struct word_span *w, uint32_t query)
{
    attend_words(w, query, 4);
}

static void attend_words_1(const struct word_span *w, uint32_t query)
{
    attend_words(w, query, 1);
}

static void attention_words(const struct attn_args *a)
{
    if (!a->prompt || a->kv_type != KV_F16 || a->head_dim % SLICE) {
        attention(a);
        return;
    }
    struct span s;
    struct word_span w = {.s = &s, .k = a->scratch};
    span_open(&s, a);
    if (!s.n_blocks) {
        span_empty(&s, 0, a->n_q);
        return;
    }
    w.v = w.k + (size_t)ATTN_SPAN_TOKENS * a->head_dim;
    for (uint32_t block = 0; block < s.n_blocks; block++)
        prepare_key_words(&w, block);
    for (uint32_t block = 0; block < s.n_blocks; block++)
        prepare_value_words(&w, block);
    if (s.n_blocks % 2) /* half a slice: what weighs nothing */
        memset(w.v + (size_t)s.n_blocks * 16 * a->head_dim, 0, (size_t)a->head_dim * 32);
    uint32_t i = 0;
    for (; a->n_q - i >= TOGETHER; i += TOGETHER)
        attend_words_4(&w, i);
    for (; i < a->n_q; i++)
        attend_words_1(&w, i);
}
