/* A vector of float32 of the level's width: 16 in AVX-512, 8 in AVX2. The row and attention kernels are written once
 * with these. `n` in a name's end: only the first n elements (0 < n < VF_N); the others read as zeros. */
#ifndef WEIR_KERNEL_X86_VF_H
#define WEIR_KERNEL_X86_VF_H

#include "kernel/x86/simd.h"

#include <string.h>

#if defined __AVX512F__

typedef __m512 vf;
#define VF_N 16

INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vf vf_set(float v)
{
    return _mm512_set1_ps(v);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
INLINE __mmask16 vf_mask(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}
INLINE vf vf_load_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(vf_mask(n), p);
}
INLINE void vf_store_n(float *p, vf v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, vf_mask(n), v);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
INLINE vf vf_zero_below(vf v, vf x, float limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GE_OQ), v);
}
/* v where x >= limit or is no number, else 0 */
INLINE vf vf_zero_where_below(vf v, vf x, vf limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
}
/* a * b where a is not 0; 0 elsewhere, whatever b */
INLINE vf vf_mul_nonzero(vf a, vf b)
{
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(a, vf_zero(), _CMP_NEQ_UQ), a, b);
}
/* Lanes that hold [first, last), if the first one holds t. */
typedef __mmask16 vm;
INLINE vm vm_range(uint32_t t, uint32_t first, uint32_t last)
{
    const uint32_t from = first > t ? first - t : 0, to = last > t ? last - t : 0;
    return (__mmask16)((to < VF_N ? (1u << to) - 1 : 0xffff) & (from < VF_N ? 0xffffu << from : 0));
}
/* a * b in these lanes; 0 elsewhere, whatever they hold */
INLINE vf vf_mul_where(vm lanes, vf a, vf b)
{
    return _mm512_maskz_mul_ps(lanes, a, b);
}
INLINE float vf_reduce_max(vf a)
{
    return _mm512_reduce_max_ps(a);
}
INLINE __m256 vf_fold(vf a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
INLINE vf vf_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
INLINE vf vf_from_f16_n(const uint16_t *p, uint32_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vf_mask(n), p));
}
INLINE void vf_to_f16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf vf_from_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
/* Rounds to nearest even, to bytes; gives their sum. |v| <= 127.49 */
INLINE int32_t vf_to_i8(int8_t *p, vf v)
{
    __m512i q = _mm512_cvtps_epi32(v);
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(q));
    return _mm512_reduce_add_epi32(q);
}
INLINE vf vf_round(vf v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf vf_scale_by_power(vf v, vf n)
{
    return _mm512_scalef_ps(v, n);
}
/* (0, 0, 1, 1, ...) of VF_N / 2 numbers; neighbours swapped. */
INLINE vf vf_twice(const float *p)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
INLINE vf vf_swap(vf v)
{
    return _mm512_permute_ps(v, 0xb1);
}
INLINE vf vf_negate_even(vf v)
{
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), _mm512_set1_epi64((long long)0x80000000)));
}
INLINE __m512d vf_add_squares(__m512d sum, vf v)
{
    __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    return _mm512_fmadd_pd(hi, hi, _mm512_fmadd_pd(lo, lo, sum));
}
typedef __m512d vd;
INLINE vd vd_zero(void)
{
    return _mm512_setzero_pd();
}
INLINE double vd_sum(vd v)
{
    return _mm512_reduce_add_pd(v);
}

#else

typedef __m256 vf;
#define VF_N 8

INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
INLINE vf vf_set(float v)
{
    return _mm256_set1_ps(v);
}
INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
INLINE __m256i vf_mask(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf vf_load_n(const float *p, uint32_t n)
{
    return _mm256_maskload_ps(p, vf_mask(n));
}
INLINE void vf_store_n(float *p, vf v, uint32_t n)
{
    _mm256_maskstore_ps(p, vf_mask(n), v);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
INLINE vf vf_zero_below(vf v, vf x, float limit)
{
    return _mm256_and_ps(v, _mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_GE_OQ));
}
INLINE vf vf_zero_where_below(vf v, vf x, vf limit)
{
    return _mm256_and_ps(v, _mm256_cmp_ps(x, limit, _CMP_NLT_UQ));
}
INLINE vf vf_mul_nonzero(vf a, vf b)
{
    return _mm256_and_ps(_mm256_mul_ps(a, b), _mm256_cmp_ps(a, vf_zero(), _CMP_NEQ_UQ));
}
typedef __m256 vm;
INLINE vm vm_range(uint32_t t, uint32_t first, uint32_t last)
{
    const __m256i at = _mm256_add_epi32(_mm256_set1_epi32((int)t), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)first), at);
    return _mm256_castsi256_ps(_mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)last), at)));
}
INLINE vf vf_mul_where(vm lanes, vf a, vf b)
{
    return _mm256_and_ps(_mm256_mul_ps(a, b), lanes);
}
INLINE float vf_reduce_max(vf a)
{
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
INLINE __m256 vf_fold(vf a)
{
    return a;
}
INLINE vf vf_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
INLINE vf vf_from_f16_n(const uint16_t *p, uint32_t n)
{
    uint16_t all[VF_N] = {0};
    memcpy(all, p, n * sizeof *all);
    return vf_from_f16(all);
}
INLINE void vf_to_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf vf_from_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}
INLINE int32_t vf_to_i8(int8_t *p, vf v)
{
    __m256i q = _mm256_cvtps_epi32(v);
    __m128i lo = _mm256_castsi256_si128(q), hi = _mm256_extracti128_si256(q, 1);
    __m128i words = _mm_packs_epi32(lo, hi);
    _mm_storel_epi64((void *)p, _mm_packs_epi16(words, words));
    __m128i sum = _mm_add_epi32(lo, hi);
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}
INLINE vf vf_round(vf v)
{
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* n <= 127; below -126: 0 */
INLINE vf vf_scale_by_power(vf v, vf n)
{
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    exponent = _mm256_max_epi32(exponent, _mm256_setzero_si256());
    return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
INLINE vf vf_twice(const float *p)
{
    const __m256i index = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), index);
}
INLINE vf vf_swap(vf v)
{
    return _mm256_permute_ps(v, 0xb1);
}
INLINE vf vf_negate_even(vf v)
{
    return _mm256_xor_ps(v, _mm256_castsi256_ps(_mm256_set1_epi64x((long long)0x80000000)));
}
INLINE __m256d vf_add_squares(__m256d sum, vf v)
{
    __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), hi = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    return _mm256_fmadd_pd(hi, hi, _mm256_fmadd_pd(lo, lo, sum));
}
typedef __m256d vd;
INLINE vd vd_zero(void)
{
    return _mm256_setzero_pd();
}
INLINE double vd_sum(vd v)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

#endif

/* The sum of all elements, by halves. */
INLINE float vf_reduce_add(vf v)
{
    const __m256 a = vf_fold(v);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* e^x with a relative error under 2e-7 for x in [-87, 88]; 0 below, e^88 above. e^x = 2^n e^r with
 * |r| <= ln 2 / 2, and e^r from its series: the first term left out is r^8 / 8! < 6e-9. */
INLINE vf vf_exp(vf x)
{
    const float lowest = -87;
    const vf given = x;
    x = vf_max(vf_min(x, vf_set(88)), vf_set(lowest));
    const vf n = vf_round(vf_mul(x, vf_set(1.44269504f)));
    vf r = vf_fma(n, vf_set(-0.693145752f), x); /* ln 2 in two parts, the first with trailing zeros */
    r = vf_fma(n, vf_set(-1.42860677e-6f), r);
    vf e = vf_fma(r, vf_set(1.0f / 5040), vf_set(1.0f / 720));
    e = vf_fma(e, r, vf_set(1.0f / 120));
    e = vf_fma(e, r, vf_set(1.0f / 24));
    e = vf_fma(e, r, vf_set(1.0f / 6));
    e = vf_fma(e, r, vf_set(0.5f));
    e = vf_fma(e, r, vf_set(1.0f));
    e = vf_fma(e, r, vf_set(1.0f));
    return vf_zero_below(vf_scale_by_power(e, n), given, lowest);
}

#endif
