/* Products with float weights in AVX-512: included by floats_avx512.c and floats_bf16.c.
 *
 * A register holds the 16 chains of a row and a token (kernel.h). Four rows by six tokens: ten loads for 24 fused
 * multiply-adds, of which a core with 512-bit loads and products at the same rate hides all.
 */
#include "kernel/x86/drive_floats.h"
#include "kernel/x86/simd512.h"

/* What is multiplied: a weight type with float32, or pairs of bfloat16. */
enum operands { F32_F32, F16_F32, BF16_F32, BF16_PAIRS };

INLINE uint32_t weight_bytes(enum operands o)
{
    return o == F32_F32 ? 4 : 2;
}

INLINE uint32_t activation_bytes(enum operands o)
{
    return o == BF16_PAIRS ? 2 : 4;
}

/* Columns in a register of activations. */
INLINE uint32_t step_cols(enum operands o)
{
    return o == BF16_PAIRS ? 32 : 16;
}

/* A step of weights, with zeros for those from n on. */
INLINE __m512 load_weights(enum operands o, const uint8_t *p, uint32_t n)
{
    const bool all = n == step_cols(o);
    const __mmask16 mask = (__mmask16)((1u << n) - 1);
    if (o == F32_F32)
        return all ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask, p);
    if (o == BF16_PAIRS)
        return all ? _mm512_loadu_ps(p) : _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((1u << n) - 1, p));
    const __m256i h = all ? _mm256_loadu_si256((const void *)p) : _mm256_maskz_loadu_epi16(mask, p);
    if (o == F16_F32)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE __m512 multiply_add(enum operands o, __m512 w, __m512 x, __m512 acc)
{
#if defined __AVX512BF16__
    if (o == BF16_PAIRS)
        return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
#else
    (void)o;
#endif
    return _mm512_fmadd_ps(w, x, acc);
}

/* n columns from `col` on, a step or less. */
INLINE void float_step(enum operands o, const struct float_tile *t, size_t col, uint32_t n, int n_t,
                       __m512 acc[MAX_TILE_TOKENS][FLOAT_ROWS])
{
    __m512 w[FLOAT_ROWS];
    UNROLL for (int r = 0; r < FLOAT_ROWS; r++) w[r] = load_weights(o, t->w[r] + col * weight_bytes(o), n);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const __m512 x = load_weights(o == BF16_PAIRS ? o : F32_F32,
                                      t->x + (size_t)i * t->x_row_bytes + col * activation_bytes(o), n);
        UNROLL for (int r = 0; r < FLOAT_ROWS; r++) acc[i][r] = multiply_add(o, w[r], x, acc[i][r]);
    }
}

/* Four sums of 16: chains i and i + 8, + 4, + 2, + 1. */
INLINE __m128 sum_4x16(const __m512 v[4])
{
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44), _mm512_shuffle_f32x4(v[0], v[1], 0xee));
    const __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44), _mm512_shuffle_f32x4(v[2], v[3], 0xee));
    __m512 c = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    c = _mm512_add_ps(c, _mm512_permute_ps(c, 0x4e));
    c = _mm512_add_ps(c, _mm512_permute_ps(c, 0xb1));
    return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, c));
}

INLINE void float_tile(enum operands o, const struct float_tile *t, int n_t)
{
    const uint32_t turn = 32;
    const uint8_t *ahead = t->ahead;
    __m512 acc[MAX_TILE_TOKENS][FLOAT_ROWS];
    UNROLL for (int i = 0; i < n_t; i++)
    {
        UNROLL for (int r = 0; r < FLOAT_ROWS; r++) acc[i][r] =
            t->start ? _mm512_setzero_ps() : _mm512_load_ps(t->chains + (i * FLOAT_ROWS + r) * CHAINS);
    }
    size_t col = 0;
    for (; t->n_cols - col >= turn; col += turn) {
        UNROLL for (uint32_t i = 0; i < FLOAT_ROWS * turn * weight_bytes(o) / 64; i++, ahead += t->ahead_step)
            _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        UNROLL for (uint32_t i = 0; i < turn; i += step_cols(o)) float_step(o, t, col + i, step_cols(o), n_t, acc);
    }
    for (uint32_t n; col < t->n_cols; col += n) {
        n = t->n_cols - (uint32_t)col < step_cols(o) ? t->n_cols - (uint32_t)col : step_cols(o);
        float_step(o, t, col, n, n_t, acc);
    }
    UNROLL for (int i = 0; i < n_t; i++)
    {
        if (t->finish)
            _mm_mask_storeu_ps(t->y + (size_t)i * t->y_stride, (__mmask8)((1u << t->n_rows) - 1), sum_4x16(acc[i]));
        else
            UNROLL for (int r = 0; r < FLOAT_ROWS; r++)
                _mm512_store_ps(t->chains + (i * FLOAT_ROWS + r) * CHAINS, acc[i][r]);
    }
}

/* One function for each number of tokens. */
INLINE void float_tiles(enum operands o, const struct float_tile *t)
{
    switch (t->n_tokens) {
    case 1:
        float_tile(o, t, 1);
        break;
    case 2:
        float_tile(o, t, 2);
        break;
    case 3:
        float_tile(o, t, 3);
        break;
    case 4:
        float_tile(o, t, 4);
        break;
    case 5:
        float_tile(o, t, 5);
        break;
    default:
        float_tile(o, t, 6);
    }
}

#define MATMUL_FLOATS(name, operands)                                                                                  \
    static void tile_##name(const struct float_tile *t)                                                                \
    {                                                                                                                  \
        float_tiles(operands, t);                                                                                      \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        const struct float_kernel k = {                                                                                \
            .tile = tile_##name, .x_bytes = activation_bytes(operands), .w_bytes = weight_bytes(operands)};            \
        drive_floats(a, &k);                                                                                           \
    }
