/* Facts on the block types that vector kernels of both widths use, and the unpacking of scales. Included after
 * simd512.h or simd256.h, whose SIGNED_CODES says whether 8-bit codes stay signed: without VNNI, the sum of two
 * products of an unsigned and a signed byte would not fit 16 bits. */
#ifndef WEIR_KERNEL_X86_TYPES_H
#define WEIR_KERNEL_X86_TYPES_H

#include "kernel/blocks.h"
#include "kernel/x86/simd.h"

#include <string.h>

/* ---- blocks of 32 ---- */

/* Codes are made unsigned by an offset of 2^shift; -1: there is none. */
INLINE int offset_shift(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q4_0:
        return 3;
    case TENSOR_Q5_0:
    case TENSOR_MXFP4:
        return 4;
    case TENSOR_Q8_0:
    case TENSOR_IQ4_NL:
        return SIGNED_CODES ? -1 : 7;
    default:
        return -1;
    }
}

INLINE bool has_min(enum tensor_type t)
{
    return t == TENSOR_Q4_1 || t == TENSOR_Q5_1;
}

/* Whether codes stay signed 8-bit numbers: then products of two bytes may not be summed in 16 bits unsigned. */
INLINE bool is_signed(enum tensor_type t)
{
    return SIGNED_CODES && (t == TENSOR_Q8_0 || t == TENSOR_IQ4_NL);
}

INLINE size_t block_bytes(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q8_0:
        return sizeof(struct block_q8_0);
    case TENSOR_Q4_0:
        return sizeof(struct block_q4_0);
    case TENSOR_Q4_1:
        return sizeof(struct block_q4_1);
    case TENSOR_Q5_0:
        return sizeof(struct block_q5_0);
    case TENSOR_Q5_1:
        return sizeof(struct block_q5_1);
    case TENSOR_IQ4_NL:
        return sizeof(struct block_iq4_nl);
    default:
        return sizeof(struct block_mxfp4);
    }
}

/* ---- super-blocks ---- */

INLINE bool has_mins(enum tensor_type t)
{
    return t == TENSOR_Q2_K || t == TENSOR_Q4_K || t == TENSOR_Q5_K;
}

INLINE bool codes_signed(enum tensor_type t)
{
    return t == TENSOR_IQ4_XS;
}

INLINE size_t super_bytes(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q2_K:
        return sizeof(struct block_q2_k);
    case TENSOR_Q3_K:
        return sizeof(struct block_q3_k);
    case TENSOR_Q4_K:
        return sizeof(struct block_q4_k);
    case TENSOR_Q5_K:
        return sizeof(struct block_q5_k);
    case TENSOR_Q6_K:
        return sizeof(struct block_q6_k);
    default:
        return sizeof(struct block_iq4_xs);
    }
}

/* Where d and dmin stand. */
INLINE size_t d_at(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q2_K:
        return offsetof(struct block_q2_k, d);
    case TENSOR_Q3_K:
        return offsetof(struct block_q3_k, d);
    case TENSOR_Q6_K:
        return offsetof(struct block_q6_k, d);
    default:
        return 0;
    }
}

struct super_scales {
    __m256i scales;  /* 16 words; Q4_K and Q5_K: the 8 scales, then the 8 mins */
    __m256i of_sums; /* 16 words to multiply the sums of 16 activations with: mins, or -offset * scale */
};

/* The word of `scales` that belongs to sub-block s of 16. */
INLINE int scale_word(enum tensor_type t, int s)
{
    return t == TENSOR_Q4_K || t == TENSOR_Q5_K || t == TENSOR_IQ4_XS ? s / 2 : s;
}

INLINE void scales_q4_k(const uint8_t *p, struct super_scales *out)
{
    uint32_t u[3];
    memcpy(u, p, sizeof u);
    const uint32_t low = 0x0f0f0f0f, six = 0x3f3f3f3f, top = 0x30303030;
    uint64_t scale = (uint64_t)((u[2] & low) | (u[0] >> 2 & top)) << 32 | (u[0] & six);
    uint64_t min = (uint64_t)((u[2] >> 4 & low) | (u[1] >> 2 & top)) << 32 | (u[1] & six);
    out->scales = _mm256_cvtepu8_epi16(_mm_set_epi64x((long long)min, (long long)scale));
    const __m128i mins = _mm256_extracti128_si256(out->scales, 1);
    out->of_sums = _mm256_set_m128i(_mm_unpackhi_epi16(mins, mins), _mm_unpacklo_epi16(mins, mins));
}

INLINE void scales_q3_k(const uint8_t *p, struct super_scales *out)
{
    uint64_t low;
    uint32_t high;
    memcpy(&low, p, sizeof low);
    memcpy(&high, p + 8, sizeof high);
    __m128i l = _mm_and_si128(_mm_set_epi64x((long long)(low >> 4), (long long)low), _mm_set1_epi8(15));
    __m128i h = _mm_srlv_epi32(_mm_set1_epi32((int)high), _mm_setr_epi32(0, 2, 4, 6));
    h = _mm_slli_epi16(_mm_and_si128(h, _mm_set1_epi8(3)), 4);
    out->scales = _mm256_cvtepi8_epi16(_mm_sub_epi8(_mm_or_si128(l, h), _mm_set1_epi8(32)));
    out->of_sums = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(out->scales, 2));
}

INLINE void scales_q6_k(const int8_t *p, struct super_scales *out)
{
    out->scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)p));
    out->of_sums = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(out->scales, 5));
}

INLINE void scales_q2_k(const uint8_t *p, struct super_scales *out)
{
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p));
    out->scales = _mm256_and_si256(words, _mm256_set1_epi16(15));
    out->of_sums = _mm256_srli_epi16(words, 4);
}

INLINE void scales_iq4_xs(const struct block_iq4_xs *b, struct super_scales *out)
{
    uint32_t low;
    memcpy(&low, b->scales_low, sizeof low);
    uint64_t codes = _pdep_u64(low, 0x0f0f0f0f0f0f0f0fu) | _pdep_u64(b->scales_high, 0x3030303030303030u);
    __m128i bytes = _mm_sub_epi8(_mm_cvtsi64_si128((long long)codes), _mm_set1_epi8(32));
    out->scales = _mm256_cvtepi8_epi16(bytes);
    out->of_sums = _mm256_setzero_si256();
}

/* Four rows of 8 numbers to their four sums. */
INLINE __m128i merge_rows_256(__m256i r0, __m256i r1, __m256i r2, __m256i r3)
{
    __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
    __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
    __m256i v = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* The float16 numbers `at` bytes into four blocks. */
INLINE __m128 load_halves(const uint8_t *const p[4], size_t at)
{
    uint16_t h[8] = {0};
    for (int r = 0; r < 4; r++)
        memcpy(&h[r], p[r] + at, sizeof *h);
    return _mm_cvtph_ps(_mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], 0, 0, 0, 0));
}

#endif
