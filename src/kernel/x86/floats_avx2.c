/* Products with float weights in AVX2: the 16 chains of a row and token are two registers. */
#include "kernel/x86/drive.h"
#include "kernel/x86/simd.h"
#include "kernel/x86/x86.h"

#include <string.h>

INLINE size_t element_bytes(enum tensor_type t)
{
    return t == TENSOR_F32 ? 4 : 2;
}

INLINE __m256 load_weights(enum tensor_type t, const uint8_t *p)
{
    if (t == TENSOR_F32)
        return _mm256_loadu_ps((const float *)(const void *)p);
    const __m128i h = _mm_loadu_si128((const void *)p);
    if (t == TENSOR_F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* 16 columns of n_r rows and n_t tokens. */
INLINE void float_step(enum tensor_type t, const uint8_t *const *w, const float *const *x, int n_r, int n_t,
                       __m256 acc[4][2][2])
{
    UNROLL for (int h = 0; h < 2; h++)
    {
        __m256 v[4];
        UNROLL for (int r = 0; r < n_r; r++) v[r] = load_weights(t, w[r] + (size_t)(8 * h) * element_bytes(t));
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const __m256 xv = _mm256_loadu_ps(x[i] + 8 * h);
            UNROLL for (int r = 0; r < n_r; r++) acc[r][i][h] = _mm256_fmadd_ps(v[r], xv, acc[r][i][h]);
        }
    }
}

/* Chains i and i + 8, + 4, + 2, + 1. */
INLINE float sum_16(const __m256 v[2])
{
    const __m256 a = _mm256_add_ps(v[0], v[1]);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Rows from `row` on of the four, and n_t tokens. */
INLINE void float_tile(enum tensor_type t, const uint8_t *const w[4], int row, int n_r, uint32_t n_cols,
                       const uint8_t *x, size_t x_row_bytes, int n_t, float y[DIRECT_TOKENS][4])
{
    __m256 acc[4][2][2];
    const uint8_t *p[4];
    const float *q[2];
    UNROLL for (int r = 0; r < n_r; r++)
    {
        p[r] = w[row + r];
        UNROLL for (int i = 0; i < n_t; i++) acc[r][i][0] = acc[r][i][1] = _mm256_setzero_ps();
    }
    UNROLL for (int i = 0; i < n_t; i++) q[i] = (const float *)(const void *)(x + (size_t)i * x_row_bytes);
    for (uint32_t col = 0; col < n_cols / 16; col++) {
        UNROLL for (int r = 0; r < n_r; r++) _mm_prefetch((const char *)p[r] + PREFETCH_BYTES, _MM_HINT_T0);
        float_step(t, p, q, n_r, n_t, acc);
        UNROLL for (int r = 0; r < n_r; r++) p[r] += 16 * element_bytes(t);
        UNROLL for (int i = 0; i < n_t; i++) q[i] += 16;
    }
    const uint32_t rest = n_cols % 16;
    if (rest) { /* filled up with zeros */
        uint8_t last_w[4][64] = {{0}};
        float last_x[2][16] = {{0}};
        UNROLL for (int r = 0; r < n_r; r++) p[r] = memcpy(last_w[r], p[r], rest * element_bytes(t));
        UNROLL for (int i = 0; i < n_t; i++) q[i] = memcpy(last_x[i], q[i], rest * sizeof *last_x[i]);
        float_step(t, p, q, n_r, n_t, acc);
    }
    UNROLL for (int i = 0; i < n_t; i++)
    {
        UNROLL for (int r = 0; r < n_r; r++) y[i][row + r] = sum_16(acc[r][i]);
    }
}

/* One token with four rows, or two with two: eight accumulators. */
INLINE void direct_floats(enum tensor_type t, const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x,
                          size_t x_row_bytes, uint32_t n_t, float y[DIRECT_TOKENS][4])
{
    uint32_t i = 0;
    for (; n_t - i >= 2; i += 2) {
        float_tile(t, w, 0, 2, n_cols, x + i * x_row_bytes, x_row_bytes, 2, y + i);
        float_tile(t, w, 2, 2, n_cols, x + i * x_row_bytes, x_row_bytes, 2, y + i);
    }
    if (i < n_t)
        float_tile(t, w, 0, 4, n_cols, x + i * x_row_bytes, x_row_bytes, 1, y + i);
}

#define MATMUL_FLOATS(name, type)                                                                                      \
    static void direct_##name(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes,        \
                              uint32_t n_t, float y[DIRECT_TOKENS][4])                                                 \
    {                                                                                                                  \
        direct_floats(type, w, n_cols, x, x_row_bytes, n_t, y);                                                        \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        drive_direct(a, direct_##name, 0);                                                                             \
    }
MATMUL_FLOATS(f32, TENSOR_F32)
MATMUL_FLOATS(f16, TENSOR_F16)
MATMUL_FLOATS(bf16, TENSOR_BF16)

void x86_floats_avx2(struct kernels *k)
{
    k->matmul[TENSOR_F32] = matmul_f32;
    k->matmul[TENSOR_F16] = matmul_f16;
    k->matmul[TENSOR_BF16] = matmul_bf16;
}
