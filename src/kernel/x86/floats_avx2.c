/* Products with float weights in AVX2: the 16 chains of a row and token are two registers. */
#include "kernel/x86/drive_floats.h"
#include "kernel/x86/x86.h"

#define TILE_TOKENS 3

INLINE uint32_t weight_bytes(enum tensor_type t)
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

#define EACH_CHAIN(what)                                                                                               \
    UNROLL for (int h = 0; h < n_h; h++)                                                                               \
    {                                                                                                                  \
        UNROLL for (int i = 0; i < n_t; i++)                                                                           \
        {                                                                                                              \
            UNROLL for (int r = 0; r < FLOAT_ROWS; r++)                                                                \
            {                                                                                                          \
                what;                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }

/* Chains i and i + 8, + 4, + 2, + 1. */
INLINE float sum_16(__m256 lo, __m256 hi)
{
    const __m256 a = _mm256_add_ps(lo, hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* 16 columns' products: of both halves, or of one, whose activations are by themselves. */
INLINE void float_step(enum tensor_type t, const uint8_t *const w[FLOAT_ROWS], const uint8_t *const x[TILE_TOKENS],
                       int n_h, int n_t, __m256 acc[2][TILE_TOKENS][FLOAT_ROWS])
{
    UNROLL for (int h = 0; h < n_h; h++)
    {
        __m256 v[TILE_TOKENS];
        UNROLL for (int i = 0; i < n_t; i++) v[i] = load_weights(TENSOR_F32, x[i] + 32 * h);
        UNROLL for (int r = 0; r < FLOAT_ROWS; r++)
        {
            const __m256 u = load_weights(t, w[r] + 8 * (size_t)h * weight_bytes(t));
            UNROLL for (int i = 0; i < n_t; i++) acc[h][i][r] = _mm256_fmadd_ps(u, v[i], acc[h][i][r]);
        }
    }
}

/* One token with both halves of the chains, or up to three with one half: four rows by three tokens fill the registers
 * with that, and take seven loads for twelve fused multiply-adds. */
INLINE void float_tile(enum tensor_type t, const struct float_tile *a, int n_h, int n_t)
{
    const size_t chains_bytes = CHAINS * weight_bytes(t);
    const uint8_t *ahead = a->ahead, *w[FLOAT_ROWS], *x[TILE_TOKENS];
    __m256 acc[2][TILE_TOKENS][FLOAT_ROWS];
#define CHAIN(half) (a->chains + (i * FLOAT_ROWS + r) * CHAINS + 8 * (half))
    EACH_CHAIN(acc[h][i][r] = a->start ? _mm256_setzero_ps() : _mm256_load_ps(CHAIN(a->part)))
    UNROLL for (int r = 0; r < FLOAT_ROWS; r++) w[r] = a->w[r];
    UNROLL for (int i = 0; i < n_t; i++) x[i] = a->x + (size_t)i * a->x_row_bytes;
    for (uint32_t step = 0; step < a->n_cols / CHAINS; step++) {
        UNROLL for (size_t i = 0; i < FLOAT_ROWS * chains_bytes / 64 * (size_t)n_h / 2; i++, ahead += a->ahead_step)
            _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        float_step(t, w, x, n_h, n_t, acc);
        UNROLL for (int r = 0; r < FLOAT_ROWS; r++) w[r] += a->w_step_bytes;
        UNROLL for (int i = 0; i < n_t; i++) x[i] += 32 * n_h;
    }
    const uint32_t rest = a->n_cols % CHAINS;
    if (rest) { /* filled up with zeros */
        uint8_t last_w[FLOAT_ROWS][64] = {{0}};
        const size_t half_bytes = chains_bytes / 2 * a->part;
        float last_x[CHAINS] = {0};
        UNROLL for (int r = 0; r < FLOAT_ROWS; r++)
        {
            memcpy(last_w[r], w[r] - half_bytes, rest * weight_bytes(t));
            w[r] = last_w[r] + half_bytes;
        }
        if (n_h == 2)
            x[0] = memcpy(last_x, x[0], rest * sizeof *last_x);
        float_step(t, w, x, n_h, n_t, acc);
    }
    if (!a->finish) {
        EACH_CHAIN(_mm256_store_ps(CHAIN(a->part), acc[h][i][r]))
        return;
    }
    for (int i = 0; i < n_t; i++) {
        UNROLL for (int r = 0; r < FLOAT_ROWS; r++)
        {
            if ((uint32_t)r < a->n_rows)
                a->y[(size_t)i * a->y_stride + (size_t)r] =
                    n_h == 2 ? sum_16(acc[0][i][r], acc[1][i][r]) : sum_16(_mm256_load_ps(CHAIN(0)), acc[0][i][r]);
        }
    }
}

#define MATMUL_FLOATS(name, type)                                                                                      \
    static void tile_##name(const struct float_tile *a)                                                                \
    {                                                                                                                  \
        if (a->n_tokens == 1)                                                                                          \
            float_tile(type, a, 2, 1);                                                                                 \
        else if (a->n_tokens == 2)                                                                                     \
            float_tile(type, a, 1, 2);                                                                                 \
        else                                                                                                           \
            float_tile(type, a, 1, 3);                                                                                 \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        const struct float_kernel k = {.tile = tile_##name,                                                            \
                                       .whole_tokens = 1,                                                              \
                                       .group_tokens = TILE_TOKENS,                                                    \
                                       .n_parts = 2,                                                                   \
                                       .x_bytes = 4,                                                                   \
                                       .w_bytes = weight_bytes(type)};                                                 \
        drive_floats(a, &k);                                                                                           \
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
