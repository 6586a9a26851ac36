/* Products with super-blocks of 256 (K types) in AVX-512: included by supers_avx512.c and supers_vnni.c.
 *
 * A super-block's codes fill four registers of two sub-blocks of 32 each, in the order that unpacking gives (half_of).
 * Codes and activations are multiplied to 16-bit pairs, these with the 16-bit scale of their sub-block to 32 bits: so
 * scales cost nothing but the broadcast of 16 words. Types whose codes have an offset pay for it through the sums of
 * activations, scaled by -offset * scale; types with mins use the same sums for them.
 */
#include "kernel/x86/drive.h"
#include "kernel/x86/simd512.h"
#include "kernel/x86/types.h"

#include <string.h>

struct super {
    __m512i q[4]; /* codes, unsigned unless codes_signed() */
    struct super_scales w;
};

/* Which sub-block of 32 the half h of register v holds. */
INLINE int half_of(enum tensor_type t, int v, int h)
{
    switch (t) {
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        return v / 2 * 4 + v % 2 + 2 * h;
    case TENSOR_Q2_K:
    case TENSOR_Q3_K:
        return v + 4 * h;
    default:
        return 2 * v + h;
    }
}

/* ---- codes ---- */

/* Bytes of 1 << (first sub-block) and 1 << (second sub-block) of register v: which bit of `high` is theirs. */
INLINE __m512i bit_of_halves(enum tensor_type t, int v)
{
    return _mm512_inserti64x4(_mm512_set1_epi8((char)(1 << half_of(t, v, 0))),
                              _mm256_set1_epi8((char)(1 << half_of(t, v, 1))), 1);
}

INLINE __m512i load_twice(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)p));
}

INLINE void unpack_nibbles(const uint8_t *p, __m512i q[4])
{
    const __m512i nibble = _mm512_set1_epi8(15);
    UNROLL for (int g = 0; g < 2; g++)
    {
        __m512i raw = _mm512_loadu_si512(p + 64 * g);
        q[2 * g] = _mm512_and_si512(raw, nibble);
        q[2 * g + 1] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), nibble);
    }
}

/* Adds `value` to the codes whose bit in the 32 bytes at `high` is set. */
INLINE void add_high_bits(enum tensor_type t, const uint8_t *high, int value, __m512i q[4])
{
    const __m512i bits = load_twice(high), add = _mm512_set1_epi8((char)value);
    UNROLL for (int v = 0; v < 4; v++) q[v] =
        _mm512_mask_add_epi8(q[v], _mm512_test_epi8_mask(bits, bit_of_halves(t, v)), q[v], add);
}

INLINE void unpack_pairs(const uint8_t *p, __m512i q[4])
{
    const __m512i raw = _mm512_loadu_si512(p), two = _mm512_set1_epi8(3);
    q[0] = _mm512_and_si512(raw, two);
    q[1] = _mm512_and_si512(_mm512_srli_epi16(raw, 2), two);
    q[2] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), two);
    q[3] = _mm512_and_si512(_mm512_srli_epi16(raw, 6), two);
}

INLINE void unpack_q6_k(const struct block_q6_k *b, __m512i q[4])
{
    const __m512i top = _mm512_set1_epi8(0x30);
    const __m512i turn0 = _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2),
                  turn1 = _mm512_setr_epi64(0, 0, 0, 0, 62, 62, 62, 62);
    unpack_nibbles(b->low, q);
    UNROLL for (int n = 0; n < 2; n++)
    {
        /* Two bits of each byte are turned to bits 4 and 5; what comes along from the neighbours is masked off. */
        const __m512i bits = load_twice(b->high + 32 * n);
        q[2 * n] = _mm512_ternarylogic_epi64(q[2 * n], _mm512_rolv_epi64(bits, turn0), top, 0xf8);
        q[2 * n + 1] = _mm512_ternarylogic_epi64(q[2 * n + 1], _mm512_rolv_epi64(bits, turn1), top, 0xf8);
    }
}

INLINE void unpack_iq4_xs(const struct block_iq4_xs *b, __m512i q[4])
{
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)code_iq4));
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i raw[4];
    unpack_nibbles(b->q, raw);
    UNROLL for (int g = 0; g < 2; g++)
    {
        __m512i low = _mm512_shuffle_epi8(table, raw[2 * g]), high = _mm512_shuffle_epi8(table, raw[2 * g + 1]);
        q[2 * g] = _mm512_permutex2var_epi64(low, first, high);
        q[2 * g + 1] = _mm512_permutex2var_epi64(low, second, high);
    }
}

INLINE void unpack_super(enum tensor_type t, const uint8_t *p, struct super *out)
{
    const void *block = p;
    if (t == TENSOR_Q4_K) {
        const struct block_q4_k *b = block;
        unpack_nibbles(b->q, out->q);
        scales_q4_k(b->scales, &out->w);
    } else if (t == TENSOR_Q5_K) {
        const struct block_q5_k *b = block;
        unpack_nibbles(b->q, out->q);
        add_high_bits(t, b->high, 16, out->q);
        scales_q4_k(b->scales, &out->w);
    } else if (t == TENSOR_Q6_K) {
        const struct block_q6_k *b = block;
        unpack_q6_k(b, out->q);
        scales_q6_k(b->scales, &out->w);
    } else if (t == TENSOR_Q3_K) {
        const struct block_q3_k *b = block;
        unpack_pairs(b->q, out->q);
        add_high_bits(t, b->high, 4, out->q);
        scales_q3_k(b->scales, &out->w);
    } else if (t == TENSOR_Q2_K) {
        const struct block_q2_k *b = block;
        unpack_pairs(b->q, out->q);
        scales_q2_k(b->scales, &out->w);
    } else {
        const struct block_iq4_xs *b = block;
        unpack_iq4_xs(b, out->q);
        scales_iq4_xs(b, &out->w);
    }
}

/* The scales of register v's codes, a word for each pair of bytes. */
INLINE __m512i spread_scales(enum tensor_type t, __m256i scales, int v)
{
    const int a = 2 * half_of(t, v, 0), b = 2 * half_of(t, v, 1);
    const short s0 = (short)scale_word(t, a), s1 = (short)scale_word(t, a + 1), s2 = (short)scale_word(t, b),
                s3 = (short)scale_word(t, b + 1);
    const __m512i index = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_setr_epi16(s0, s0, s0, s0, s0, s0, s0, s0, s1, s1, s1, s1, s1, s1, s1, s1)),
        _mm256_setr_epi16(s2, s2, s2, s2, s2, s2, s2, s2, s3, s3, s3, s3, s3, s3, s3, s3), 1);
    return _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(scales));
}

INLINE __m512i load_codes(enum tensor_type t, const int8_t *q, int v)
{
    const int a = half_of(t, v, 0), b = half_of(t, v, 1);
    if (b == a + 1)
        return _mm512_loadu_si512(q + 32 * a);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)(q + 32 * a))),
                              _mm256_loadu_si256((const void *)(q + 32 * b)), 1);
}

/* acc + sums of two products of words. */
INLINE __m512i add_pairs(__m512i acc, __m512i a, __m512i b)
{
#if defined __AVX512VNNI__
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
#endif
}

/* ---- direct: 4 rows x n_t tokens ---- */

/* Four rows of 16 numbers to their four sums. */
INLINE __m128i merge_rows(__m512i r0, __m512i r1, __m512i r2, __m512i r3)
{
    __m512i v = merge_4x4(r0, r1, r2, r3);
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* One super-block of four rows into the sums of n_t tokens. */
INLINE void direct_super(enum tensor_type t, const uint8_t *const p[4], const uint8_t *x, size_t x_row_bytes, int n_t,
                         __m128 *acc)
{
    __m512i sums[4][4];
    __m256i mins[4][4];
    UNROLL for (int r = 0; r < 4; r++)
    {
        struct super s;
        __m512i scales[4];
        unpack_super(t, p[r], &s);
        UNROLL for (int v = 0; v < 4; v++) scales[v] = spread_scales(t, s.w.scales, v);
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const struct act_q8k *g = (const struct act_q8k *)(const void *)(x + (size_t)i * x_row_bytes);
            const __m256i x_sums = _mm256_loadu_si256((const void *)g->sum);
            __m512i sum = _mm512_setzero_si512();
            UNROLL for (int v = 0; v < 4; v++)
            {
                const __m512i codes = load_codes(t, g->q, v);
                const __m512i pairs =
                    codes_signed(t) ? pairs_signed(s.q[v], codes) : _mm512_maddubs_epi16(s.q[v], codes);
                sum = add_pairs(sum, pairs, scales[v]);
            }
            if (has_mins(t))
                mins[i][r] = _mm256_madd_epi16(s.w.of_sums, x_sums);
            else if (!codes_signed(t))
                sum = add_pairs(sum, _mm512_zextsi256_si512(s.w.of_sums), _mm512_zextsi256_si512(x_sums));
            sums[i][r] = sum;
        }
    }
    const __m128 d = load_halves(p, d_at(t)), dmin = has_mins(t) ? load_halves(p, d_at(t) + 2) : _mm_setzero_ps();
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const struct act_q8k *g = (const struct act_q8k *)(const void *)(x + (size_t)i * x_row_bytes);
        const __m128 x_d = _mm_set1_ps(g->d);
        __m128i sum = merge_rows(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        acc[i] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(d, x_d), acc[i]);
        if (has_mins(t)) {
            __m128i min = merge_rows_256(mins[i][0], mins[i][1], mins[i][2], mins[i][3]);
            acc[i] = _mm_fnmadd_ps(_mm_cvtepi32_ps(min), _mm_mul_ps(dmin, x_d), acc[i]);
        }
    }
}

#define DIRECT_TOGETHER 4
#include "kernel/x86/direct_supers.h"
