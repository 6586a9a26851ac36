/* Attention of a prompt's rows in integers of 16 bits: included by attention_vnni.c. Twice as many products an instruction
 * as with floats; the rows of other roles take attention.h's way.
 *
 * A span's keys and values, of either type, become words once for all queries of the call: 15 bits of the largest element
 * of the token. A query's words are 16 bits of its largest element, or fewer if else the sum of 32 products might not fit
 * 32 bits; so are a span's weights, times what a unit of the token's values is worth. Products of 32 elements, or of 32
 * tokens, are summed exactly, and these sums in float32 in ascending order.
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
    int16_t *v; /* [slice of 32 tokens][16][element][2]: tokens i and i + 16 side by side */
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

/* ---- keys and values ---- */

/* Elements e and e + 1 of a block's tokens. */
INLINE void key_pair(const struct span *s, uint32_t block, uint32_t e, vf x[2])
{
    if (s->a->kv_type == KV_F16) {
        const uint16_t *k = (const uint16_t *)(const void *)s->k[block] + (size_t)e * 16;
        x[0] = vf_from_f16(k);
        x[1] = vf_from_f16(k + 16);
        return;
    }
    const vf scale = vf_from_f16((const uint16_t *)(const void *)s->k_scale[block] + e / 32 * 16);
    const vi codes = _mm512_xor_si512(vi_load(s->k[block] + (size_t)(e / 4) * 64), _mm512_set1_epi8((char)0x80));
    const vi first = e % 4 ? codes : _mm512_slli_epi32(codes, 16); /* the pair in the upper half */
    x[0] = vf_mul(vf_from_vi(_mm512_srai_epi32(_mm512_slli_epi32(first, 8), 24)), scale);
    x[1] = vf_mul(vf_from_vi(_mm512_srai_epi32(first, 24)), scale);
}

static void prepare_key_words(struct word_span *w, uint32_t block)
{
    const struct span *s = w->s;
    const uint32_t n = s->a->head_dim, line_elements = s->a->kv_type == KV_F16 ? 2 : 4;
    int16_t *to = w->k + (size_t)block * n * 16;
    vf top = vf_zero(), x[2];
    for (uint32_t e = 0; e < n; e += 2) {
        if (e % line_elements == 0)
            ask(s->ahead[block], (size_t)(e / line_elements) * 64);
        if (s->a->kv_type == KV_Q8_0 && e % 64 == 0)
            ask(s->ahead_scale[block], e);
        key_pair(s, block, e, x);
        top = larger(top, larger(vf_abs(x[0]), vf_abs(x[1])));
    }
    const vf inverse = inverse_unit(top);
    for (uint32_t e = 0; e < n; e += 2) {
        key_pair(s, block, e, x);
        vi_store(to + e * 16, words_beside(x[0], x[1], inverse));
    }
    vf_store(w->k_unit + block * 16, vf_mul(top, vf_set(1 / WORD_LARGEST)));
}

/* Elements [e, e + 16) of token t of a block; Q8_0: scale[slice][token]. */
INLINE vf value_vector(const struct span *s, uint32_t block, uint32_t t, uint32_t e, const float scale[][16])
{
    const size_t n = s->a->head_dim;
    if (s->a->kv_type == KV_F16)
        return vf_from_f16((const uint16_t *)(const void *)s->v[block] + t * n + e);
    const vi codes = vi_load(s->v[block] + (t / 4 * n + e) * 4);
    const vi code = _mm512_srai_epi32(_mm512_sll_epi32(codes, _mm_cvtsi32_si128(24 - 8 * (int)(t % 4))), 24);
    return vf_mul(vf_from_vi(code), vf_set(scale[e / 32][t]));
}

static void prepare_value_words(struct word_span *w, uint32_t block)
{
    const struct span *s = w->s;
    const uint32_t n = s->a->head_dim;
    _Alignas(64) float scale[ATTN_MAX_HEAD_DIM / 32][16];
    for (uint32_t e = 0; s->a->kv_type == KV_Q8_0 && e < n; e += 32) {
        vf_store(scale[e / 32], vf_from_f16((const uint16_t *)(const void *)s->v_scale[block] + e / 2));
        if (e % 64 == 0)
            ask(s->ahead_scale[s->n_blocks + block], e);
    }
    for (uint32_t at = 0; at < s->block_bytes; at += 64)
        ask(s->ahead[s->n_blocks + block], at);
    for (uint32_t t = 0; t < 16; t++) {
        int16_t *to = w->v + ((size_t)(block / 2) * 16 + t) * n * 2;
        vf top = vf_zero();
        for (uint32_t e = 0; e < n; e += 16)
            top = larger(top, vf_abs(value_vector(s, block, t, e, scale)));
        top = larger(top, _mm512_shuffle_f32x4(top, top, 0x4e));
        top = larger(top, _mm512_shuffle_f32x4(top, top, 0xb1));
        top = larger(top, _mm512_permute_ps(top, 0x4e));
        top = larger(top, _mm512_permute_ps(top, 0xb1));
        const vf inverse = inverse_unit(top);
        for (uint32_t e = 0; e < n; e += 16) {
            const vi words = vi_from_vf(vf_mul(value_vector(s, block, t, e, scale), inverse));
            if (block % 2) /* beside those of the block before */
                vi_store(to + 2 * e, _mm512_mask_blend_epi16(0xaaaaaaaa, vi_load((const uint8_t *)(to + 2 * e)),
                                                             _mm512_slli_epi32(words, 16)));
            else
                vi_store(to + 2 * e, vi_and(words, vi_set(0xffff)));
        }
        w->v_unit[block * 16 + t] = _mm512_cvtss_f32(top) * (1 / WORD_LARGEST);
    }
}

/* ---- queries and weights ---- */

struct multipliers {
    /* Words that are multiplied in pairs; of weights those of tokens i and i + 16 of a slice. */
    _Alignas(64) int16_t q[TOGETHER][ATTN_MAX_HEAD_DIM + 32], p[TOGETHER][ATTN_SPAN_TOKENS + 32];
    _Alignas(64) float q_unit[16], p_unit[16]; /* what a word is worth, of query i at 4 i */
};

/* From the largest of each query's numbers in any lane, and the largest sum of two in any slice: what they are multiplied
 * with to become words. */
INLINE void multiplier_units(const vf top[TOGETHER], const vf sum[TOGETHER], int n_q, vf inverse[TOGETHER], float *unit)
{
    const vf by_top = vf_mul(reduce_4(top, n_q, larger), vf_set(1 / MULTIPLIER_LARGEST));
    const vf by_sum = vf_mul(reduce_4(sum, n_q, vf_add), vf_set(1 / SLICE_LARGEST)), units = larger(by_top, by_sum);
    vf_store(unit, units);
    spread_4(vf_zero_below(vf_div(vf_set(1), units), units, 1e-34f), inverse);
}

/* n elements of each query. */
INLINE void query_words(const float *q, int n_q, uint32_t n, struct multipliers *m)
{
    vf top[TOGETHER], sum[TOGETHER], inverse[TOGETHER];
    UNROLL for (int i = 0; i < n_q; i++) top[i] = sum[i] = vf_zero();
    for (uint32_t e = 0; e < n; e += SLICE) {
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const float *x = q + (size_t)i * n + e;
            const vf a = vf_abs(vf_load(x)), b = vf_abs(vf_load(x + 16));
            top[i] = larger(top[i], larger(a, b));
            sum[i] = larger(sum[i], vf_add(a, b));
        }
    }
    multiplier_units(top, sum, n_q, inverse, m->q_unit);
    for (uint32_t e = 0; e < n; e += 16) {
        UNROLL for (int i = 0; i < n_q; i++)
            vi_to_i16(m->q[i] + e, vi_from_vf(vf_mul(vf_load(q + (size_t)i * n + e), inverse[i])));
    }
}

/* Weights of tokens that are seen, [begin, end), become words, what is left of their slices zeros. */
INLINE void weight_words(const struct word_span *w, float *p, int n_q, uint32_t begin, uint32_t end,
                         struct multipliers *m)
{
    vf top[TOGETHER], sum[TOGETHER], inverse[TOGETHER];
    const uint32_t first = begin / SLICE * SLICE;
    UNROLL for (int i = 0; i < n_q; i++) top[i] = sum[i] = vf_zero();
    for (uint32_t t = first; t < end; t += SLICE) {
        const vm seen[2] = {vm_range(t, begin, end), vm_range(t + 16, begin, end)};
        const vf unit[2] = {vf_load(w->v_unit + t), vf_load(w->v_unit + t + 16)};
        UNROLL for (int i = 0; i < n_q; i++)
        {
            float *x = p + i * SCORE_STRIDE + t;
            const vf a = vf_mul_where(seen[0], vf_load(x), unit[0]),
                     b = vf_mul_where(seen[1], vf_load(x + 16), unit[1]);
            vf_store(x, a);
            vf_store(x + 16, b);
            top[i] = larger(top[i], larger(a, b));
            sum[i] = larger(sum[i], vf_add(a, b));
        }
    }
    multiplier_units(top, sum, n_q, inverse, m->p_unit);
    for (uint32_t t = first; t < end; t += SLICE) {
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const float *x = p + i * SCORE_STRIDE + t;
            vi_store(m->p[i] + t, words_beside(vf_load(x), vf_load(x + 16), inverse[i]));
        }
    }
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
        vf_store(to + next * 16, vf_mul(total[i][1], vf_mul(unit[1], vf_set(m->q_unit[4 * i] * LOG2_E))));
        vf_store(to + block * 16, vf_mul(total[i][0], vf_mul(unit[0], vf_set(m->q_unit[4 * i] * LOG2_E))));
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
            vf_store(acc + (size_t)i * n + element + 16 * (uint32_t)j, vf_mul(total[i][j], vf_set(m->p_unit[4 * i])));
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
    query_words(a->q + query * (size_t)n, n_q, n, &m);
    for (uint32_t block = begin / 16; block < end / 16; block += 2)
        score_words(w, &m, n_q, block, min_u32(block + 1, end / 16 - 1), score);
    softmax(w->s, query, n_q, begin, end, score);
    weight_words(w, score, n_q, first, last, &m);
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
    if (!a->prompt || a->head_dim % SLICE) {
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
    uint32_t i = 0;
    for (; a->n_q - i >= TOGETHER; i += TOGETHER)
        attend_words_4(&w, i);
    for (; i < a->n_q; i++)
        attend_words_1(&w, i);
}
