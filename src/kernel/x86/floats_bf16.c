/* BF16 weights with bfloat16 activations (AVX512_BF16): a lane sums two products. 32 columns a step; the last step of a
 * row that is no multiple of 32 is masked. */
#include "kernel/x86/drive.h"
#include "kernel/x86/simd512.h"
#include "kernel/x86/x86.h"

#include <string.h>

INLINE __m512bh load_pairs(const uint8_t *p, __mmask32 mask, bool all)
{
    return (__m512bh)(all ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask, p));
}

INLINE void bf16_step(const uint8_t *const w[4], const uint8_t *x, size_t x_row_bytes, uint32_t col, __mmask32 mask,
                      bool all, int n_t, __m512 acc[4][DIRECT_TOKENS])
{
    __m512bh v[4];
    UNROLL for (int r = 0; r < 4; r++) v[r] = load_pairs(w[r] + col * 2, mask, all);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const __m512bh xv = load_pairs(x + (size_t)i * x_row_bytes + col * 2, mask, all);
        UNROLL for (int r = 0; r < 4; r++) acc[r][i] = _mm512_dpbf16_ps(acc[r][i], v[r], xv);
    }
}

INLINE void bf16_tokens(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes, int n_t,
                        float y[DIRECT_TOKENS][4])
{
    __m512 acc[4][DIRECT_TOKENS];
    UNROLL for (int r = 0; r < 4; r++)
    {
        UNROLL for (int i = 0; i < n_t; i++) acc[r][i] = _mm512_setzero_ps();
    }
    uint32_t col = 0;
    for (; n_cols - col >= 32; col += 32) {
        UNROLL for (int r = 0; r < 4; r++) _mm_prefetch((const char *)w[r] + col * 2 + PREFETCH_BYTES, _MM_HINT_T0);
        bf16_step(w, x, x_row_bytes, col, 0, true, n_t, acc);
    }
    if (col < n_cols)
        bf16_step(w, x, x_row_bytes, col, (1u << (n_cols - col)) - 1, false, n_t, acc);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        UNROLL for (int r = 0; r < 4; r++) y[i][r] = sum_16(acc[r][i]);
    }
}

static void direct_bf16(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes, uint32_t n_t,
                        float y[DIRECT_TOKENS][4])
{
    if (n_t == 1)
        bf16_tokens(w, n_cols, x, x_row_bytes, 1, y);
    else if (n_t == 2)
        bf16_tokens(w, n_cols, x, x_row_bytes, 2, y);
    else if (n_t == 3)
        bf16_tokens(w, n_cols, x, x_row_bytes, 3, y);
    else
        bf16_tokens(w, n_cols, x, x_row_bytes, 4, y);
}

static void matmul_bf16(const struct matmul_args *a)
{
    drive_direct(a, direct_bf16, 0);
}

static void pack_bf16(const float *x, uint32_t n, void *out)
{
    uint8_t *p = out;
    uint32_t i = 0;
    for (; n - i >= 16; i += 16)
        _mm256_storeu_si256((void *)(p + 2 * i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
    if (i < n) {
        const __mmask16 mask = (__mmask16)((1u << (n - i)) - 1);
        _mm256_storeu_si256((void *)(p + 2 * i), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i)));
        i += 16;
    }
    if (i % 32)
        _mm256_storeu_si256((void *)(p + 2 * i), _mm256_setzero_si256());
}

void x86_floats_bf16(struct kernels *k)
{
    k->matmul[TENSOR_BF16] = matmul_bf16;
    k->act_format[TENSOR_BF16] = ACT_BF16;
    k->act_pack[ACT_BF16] = pack_bf16;
}
