/* Pieces shared by the AVX-512 kernels. Products of bytes differ by level: VNNI has an instruction for them. */
#ifndef WEIR_KERNEL_X86_SIMD512_H
#define WEIR_KERNEL_X86_SIMD512_H

#include "kernel/x86/simd.h"

/* Without VNNI, signed codes stay signed: products of two of them, as unsigned plus offset, would not fit 16 bits. */
#if defined __AVX512VNNI__
#define SIGNED_CODES 0
#else
#define SIGNED_CODES 1
#endif

/* Sums of four products of unsigned w and signed x, of two pairs of registers; w <= 31 without VNNI. */
INLINE __m512i dot(__m512i w0, __m512i w1, __m512i x0, __m512i x1)
{
#if defined __AVX512VNNI__
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w0, x0), w1, x1);
#else
    __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(w0, x0), _mm512_maddubs_epi16(w1, x1));
    return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
}

/* Sums of two products of signed w and x in [-127, 127]: |w| times x with w's sign. */
INLINE __m512i pairs_signed(__m512i w, __m512i x)
{
    __m512i signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_x);
}

INLINE __m512i dot_signed(__m512i w0, __m512i w1, __m512i x0, __m512i x1)
{
    const __m512i one = _mm512_set1_epi16(1);
    return _mm512_add_epi32(_mm512_madd_epi16(pairs_signed(w0, x0), one), _mm512_madd_epi16(pairs_signed(w1, x1), one));
}

/* Lane 4b + r of the result: the sum of the four numbers in 128-bit lane b of row r. */
INLINE __m512i merge_4x4(__m512i r0, __m512i r1, __m512i r2, __m512i r3)
{
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Lane 4b + r: number b. */
INLINE __m512i spread_4(__m128i v)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(index, _mm512_castsi128_si512(v));
}

/* The four 128-bit lanes as (0 + 1) + (2 + 3). */
INLINE __m128 sum_chains(__m512 v)
{
    __m128 even = _mm_add_ps(_mm512_castps512_ps128(v), _mm512_extractf32x4_ps(v, 1));
    return _mm_add_ps(even, _mm_add_ps(_mm512_extractf32x4_ps(v, 2), _mm512_extractf32x4_ps(v, 3)));
}

/* Chains i and i + 8, + 4, + 2, + 1. */
INLINE float sum_16(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* 128-bit lanes as a 4 x 4 matrix. */
INLINE void transpose_lanes(__m512i v[4])
{
    __m512i a = _mm512_shuffle_i64x2(v[0], v[1], 0x44), b = _mm512_shuffle_i64x2(v[0], v[1], 0xee);
    __m512i c = _mm512_shuffle_i64x2(v[2], v[3], 0x44), d = _mm512_shuffle_i64x2(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i64x2(a, c, 0x88);
    v[1] = _mm512_shuffle_i64x2(a, c, 0xdd);
    v[2] = _mm512_shuffle_i64x2(b, d, 0x88);
    v[3] = _mm512_shuffle_i64x2(b, d, 0xdd);
}

/* 32-bit numbers as a 16 x 16 matrix. */
INLINE void transpose_16x16(__m512i v[16])
{
    UNROLL for (int i = 0; i < 16; i += 4)
    { /* within 128-bit lanes: 4 x 4 */
        __m512i a = _mm512_unpacklo_epi32(v[i], v[i + 1]), b = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]), d = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
        v[i] = _mm512_unpacklo_epi64(a, c);
        v[i + 1] = _mm512_unpackhi_epi64(a, c);
        v[i + 2] = _mm512_unpacklo_epi64(b, d);
        v[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    __m512i out[16];
    UNROLL for (int j = 0; j < 4; j++)
    { /* v[4q + j], lane b: column 4b + j of rows 4q.. */
        __m512i lanes[4] = {v[j], v[4 + j], v[8 + j], v[12 + j]};
        transpose_lanes(lanes);
        UNROLL for (int b = 0; b < 4; b++) out[4 * b + j] = lanes[b];
    }
    UNROLL for (int i = 0; i < 16; i++) v[i] = out[i];
}

#endif
