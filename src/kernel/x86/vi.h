/* A vector of int32 of the level's width, beside vf.h. */
#ifndef WEIR_KERNEL_X86_VI_H
#define WEIR_KERNEL_X86_VI_H

#include "kernel/x86/vf.h"

#if defined __AVX512F__

typedef __m512i vi;

INLINE vi vi_zero(void)
{
    return _mm512_setzero_si512();
}
INLINE vi vi_set(int32_t v)
{
    return _mm512_set1_epi32(v);
}
INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
INLINE vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
/* Nearest, ties to even. */
INLINE vi vi_from_vf(vf v)
{
    return _mm512_cvtps_epi32(v);
}
INLINE vf vf_from_vi(vi v)
{
    return _mm512_cvtepi32_ps(v);
}
INLINE int32_t vi_reduce_add(vi v)
{
    return _mm512_reduce_add_epi32(v);
}
INLINE void vi_to_i16(int16_t *p, vi v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(v));
}
/* Four numbers of 16 bits, again and again. */
INLINE vi vi_set_4(const int16_t *p)
{
    long long four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi64(four);
}
/* 2 VF_N bytes to 16 bits each. */
INLINE vi vi_widen_8(const uint8_t *p, bool is_unsigned)
{
    const __m256i v = _mm256_loadu_si256((const void *)p);
    return is_unsigned ? _mm512_cvtepu8_epi16(v) : _mm512_cvtepi8_epi16(v);
}
INLINE vi vi_madd(vi a, vi b)
{
    return _mm512_madd_epi16(a, b);
}
/* (a0 + a1, a2 + a3, ..., b0 + b1, ...) */
INLINE vi vi_pair_sums(vi a, vi b)
{
    const vi even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return vi_add(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, vi_add(even, vi_set(1)), b));
}

#else

typedef __m256i vi;

INLINE vi vi_zero(void)
{
    return _mm256_setzero_si256();
}
INLINE vi vi_set(int32_t v)
{
    return _mm256_set1_epi32(v);
}
INLINE vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
INLINE vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
INLINE vi vi_from_vf(vf v)
{
    return _mm256_cvtps_epi32(v);
}
INLINE vf vf_from_vi(vi v)
{
    return _mm256_cvtepi32_ps(v);
}
INLINE int32_t vi_reduce_add(vi v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
INLINE void vi_to_i16(int16_t *p, vi v)
{
    _mm_storeu_si128((void *)p, _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
INLINE vi vi_set_4(const int16_t *p)
{
    long long four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi64x(four);
}
INLINE vi vi_widen_8(const uint8_t *p, bool is_unsigned)
{
    const __m128i v = _mm_loadu_si128((const void *)p);
    return is_unsigned ? _mm256_cvtepu8_epi16(v) : _mm256_cvtepi8_epi16(v);
}
INLINE vi vi_madd(vi a, vi b)
{
    return _mm256_madd_epi16(a, b);
}
INLINE vi vi_pair_sums(vi a, vi b)
{
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}

#endif
#endif
