/* Products with float weights in AVX-512: included by floats_avx512.c and floats_bf16.c.
 *
 * A register of 16 chains for each row and token (kernel.h); four rows by up to six tokens share the loads of both.
 */
#include "kernel/x86/drive.h"
#include "kernel/x86/simd512.h"

#include <string.h>

INLINE size_t element_bytes(enum tensor_type t)
{
    return t == TENSOR_F32 ? 4 : 2;
}

/* 16 weights (those of the mask) as float32. */
INLINE __m512 load_weights(enum tensor_type t, const uint8_t *p, __mmask16 mask, bool all)
{
    if (t == TENSOR_F32)
        return all ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask, p);
    __m256i h = all ? _mm256_loadu_si256((const void *)p) : _mm256_maskz_loadu_epi16(mask, p);
    if (t == TENSOR_F16)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Columns [first, n_cols) in one step, or a whole 16 of them. */
INLINE void float_step(enum tensor_type t, const uint8_t *const w[4], const uint8_t *x, size_t x_row_bytes,
                       uint32_t col, __mmask16 mask, bool all, int n_t, __m512 acc[4][DIRECT_TOKENS])
{
    __m512 v[4];
    UNROLL for (int r = 0; r < 4; r++) v[r] = load_weights(t, w[r] + col * element_bytes(t), mask, all);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const float *row = (const float *)(const void *)(x + (size_t)i * x_row_bytes) + col;
        const __m512 xv = all ? _mm512_loadu_ps(row) : _mm512_maskz_loadu_ps(mask, row);
        UNROLL for (int r = 0; r < 4; r++) acc[r][i] =
            all ? _mm512_fmadd_ps(v[r], xv, acc[r][i]) : _mm512_mask3_fmadd_ps(v[r], xv, acc[r][i], mask);
    }
}

INLINE void float_tokens(enum tensor_type t, const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x,
                         size_t x_row_bytes, int n_t, float y[DIRECT_TOKENS][4])
{
    __m512 acc[4][DIRECT_TOKENS];
    UNROLL for (int r = 0; r < 4; r++)
    {
        UNROLL for (int i = 0; i < n_t; i++) acc[r][i] = _mm512_setzero_ps();
    }
    uint32_t col = 0;
    for (; n_cols - col >= 32; col += 32) {
        UNROLL for (int r = 0; r < 4; r++)
        {
            for (size_t line = 0; line < 32 * element_bytes(t); line += 64)
                _mm_prefetch((const char *)w[r] + col * element_bytes(t) + PREFETCH_BYTES + line, _MM_HINT_T0);
        }
        float_step(t, w, x, x_row_bytes, col, 0xffff, true, n_t, acc);
        float_step(t, w, x, x_row_bytes, col + 16, 0xffff, true, n_t, acc);
    }
    for (; n_cols - col >= 16; col += 16)
        float_step(t, w, x, x_row_bytes, col, 0xffff, true, n_t, acc);
    if (col < n_cols)
        float_step(t, w, x, x_row_bytes, col, (__mmask16)((1u << (n_cols - col)) - 1), false, n_t, acc);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        UNROLL for (int r = 0; r < 4; r++) y[i][r] = sum_16(acc[r][i]);
    }
}

INLINE void direct_floats(enum tensor_type t, const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x,
                          size_t x_row_bytes, uint32_t n_t, float y[DIRECT_TOKENS][4])
{
    if (n_t == 1)
        float_tokens(t, w, n_cols, x, x_row_bytes, 1, y);
    else if (n_t == 2)
        float_tokens(t, w, n_cols, x, x_row_bytes, 2, y);
    else if (n_t == 3)
        float_tokens(t, w, n_cols, x, x_row_bytes, 3, y);
    else
        float_tokens(t, w, n_cols, x, x_row_bytes, 4, y);
}
