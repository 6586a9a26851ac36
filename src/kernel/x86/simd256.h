/* Pieces shared by the AVX2 kernels. */
#ifndef WEIR_KERNEL_X86_SIMD256_H
#define WEIR_KERNEL_X86_SIMD256_H

#include "kernel/x86/simd.h"

#define SIGNED_CODES 1

/* Sums of two products of signed w and x in [-127, 127]: |w| times x with w's sign. */
INLINE __m256i pairs_signed(__m256i w, __m256i x)
{
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

/* Sums of four products; codes are 31 at most unless they are signed. */
INLINE __m256i dot_256(__m256i w0, __m256i w1, __m256i x0, __m256i x1, bool is_signed)
{
    const __m256i one = _mm256_set1_epi16(1);
    if (is_signed)
        return _mm256_add_epi32(_mm256_madd_epi16(pairs_signed(w0, x0), one),
                                _mm256_madd_epi16(pairs_signed(w1, x1), one));
    return _mm256_madd_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(w0, x0), _mm256_maddubs_epi16(w1, x1)), one);
}

/* Lane 4b + r of the result: the sum of the four numbers in 128-bit lane b of row r. */
INLINE __m256i merge_4x2(__m256i r0, __m256i r1, __m256i r2, __m256i r3)
{
    __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
    __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

#endif
