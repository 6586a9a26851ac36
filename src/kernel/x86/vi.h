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
/* The sum so far, here and now: compilers put off additions until they run out of registers. */
INLINE vi vi_keep(vi a)
{
    __asm__("" : "+v"(a));
    return a;
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
INLINE vi vi_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
/* Four bytes, again and again. */
INLINE vi vi_broadcast_4(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vi_set(v);
}
/* Sixteen bytes, again and again. */
INLINE vi vi_broadcast_16(const void *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128(p));
}
INLINE vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
INLINE vi vi_add_8(vi a, vi b)
{
    return _mm512_add_epi8(a, b);
}
INLINE vi vi_add_16(vi a, vi b)
{
    return _mm512_add_epi16(a, b);
}
INLINE vi vi_shift_left(vi a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}
INLINE vi vi_shift_right(vi a, int n)
{
    return _mm512_srli_epi32(a, (unsigned)n);
}
/* Bytes 1, 3, .. as 16 bits. */
INLINE vi vi_odd_bytes(vi a)
{
    return _mm512_srli_epi16(a, 8);
}
/* Entry i < 16 of the table for each byte i; the table is broadcast. */
INLINE vi vi_lookup(vi table, vi i)
{
    return _mm512_shuffle_epi8(table, i);
}
/* Sums of two products of unsigned a and signed b in 16 bits, which they must fit. */
INLINE vi vi_maddubs(vi a, vi b)
{
    return _mm512_maddubs_epi16(a, b);
}
#if defined __AVX512VNNI__
/* acc + sums of four products of unsigned a and signed b. */
INLINE vi vi_dot_add(vi acc, vi a, vi b)
{
    return _mm512_dpbusd_epi32(acc, a, b);
}
#endif
/* 2^(e - 128) of VF_N exponents: MXFP4's scales. */
INLINE vf vf_from_e8m0(const uint8_t *p)
{
    const vi e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
    const vi normal = _mm512_slli_epi32(vi_sub(e, vi_set(1)), 23), tiny = _mm512_sllv_epi32(vi_set(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, _mm512_cmplt_epi32_mask(e, vi_set(2)), tiny));
}
INLINE void vi_store(void *p, vi v)
{
    _mm512_storeu_si512(p, v);
}
INLINE vi vi_from_u16(const uint8_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
}
/* (a & mask) | b */
INLINE vi vi_and_or(vi a, vi mask, vi b)
{
    return _mm512_ternarylogic_epi32(a, mask, b, 0xea);
}
INLINE vi vi_mul(vi a, vi b)
{
    return _mm512_mullo_epi32(a, b);
}
INLINE vi vi_sub_8(vi a, vi b)
{
    return _mm512_sub_epi8(a, b);
}
/* To the right, keeping the sign. */
INLINE vi vi_shift_signed(vi a, int n)
{
    return _mm512_srai_epi32(a, (unsigned)n);
}
/* Bytes 1, 3, .. as signed 16 bits. */
INLINE vi vi_odd_bytes_signed(vi a)
{
    return _mm512_srai_epi16(a, 8);
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
INLINE vi vi_keep(vi a)
{
    __asm__("" : "+x"(a));
    return a;
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
INLINE vi vi_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}
INLINE vi vi_broadcast_4(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vi_set(v);
}
INLINE vi vi_broadcast_16(const void *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}
INLINE vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
INLINE vi vi_add_8(vi a, vi b)
{
    return _mm256_add_epi8(a, b);
}
INLINE vi vi_add_16(vi a, vi b)
{
    return _mm256_add_epi16(a, b);
}
INLINE vi vi_shift_left(vi a, int n)
{
    return _mm256_slli_epi32(a, n);
}
INLINE vi vi_shift_right(vi a, int n)
{
    return _mm256_srli_epi32(a, n);
}
INLINE vi vi_odd_bytes(vi a)
{
    return _mm256_srli_epi16(a, 8);
}
INLINE vi vi_lookup(vi table, vi i)
{
    return _mm256_shuffle_epi8(table, i);
}
INLINE vi vi_maddubs(vi a, vi b)
{
    return _mm256_maddubs_epi16(a, b);
}
INLINE vf vf_from_e8m0(const uint8_t *p)
{
    const vi e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
    const vi normal = _mm256_slli_epi32(vi_sub(e, vi_set(1)), 23), tiny = _mm256_sllv_epi32(vi_set(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(vi_set(2), e)));
}
INLINE void vi_store(void *p, vi v)
{
    _mm256_storeu_si256(p, v);
}
INLINE vi vi_from_u16(const uint8_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
}
INLINE vi vi_and_or(vi a, vi mask, vi b)
{
    return _mm256_or_si256(_mm256_and_si256(a, mask), b);
}
INLINE vi vi_mul(vi a, vi b)
{
    return _mm256_mullo_epi32(a, b);
}
INLINE vi vi_sub_8(vi a, vi b)
{
    return _mm256_sub_epi8(a, b);
}
INLINE vi vi_shift_signed(vi a, int n)
{
    return _mm256_srai_epi32(a, n);
}
INLINE vi vi_odd_bytes_signed(vi a)
{
    return _mm256_srai_epi16(a, 8);
}

#endif
#endif
