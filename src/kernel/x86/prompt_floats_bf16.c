/* Float weights to bfloat16 tiles, F16 from rows and BF16 from lanes; and activations. */
#include "kernel/x86/prompt.h"
#include "kernel/x86/simd512.h"

/* The nearest bfloat16, as a float. */
INLINE __m512 nearest(__m512 v)
{
    const __m512i up = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
    return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xffff0000)));
}

/* 32 floats as two bfloat16 each. */
INLINE void split(__m512 first, __m512 second, __m512i *hi, __m512i *lo)
{
    const __m512 a = nearest(first), b = nearest(second);
    *hi = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    *lo = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(second, b), _mm512_sub_ps(first, a));
}

/* Columns past the last are zeros. */
static void fill_f16(const struct matmul_args *a, uint32_t row, uint32_t first, uint32_t n, uint8_t *tiles)
{
    const uint8_t *p[16];
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t r = row + prompt_row[i];
        p[i] = (const uint8_t *)a->w + (r < a->n_rows ? r : a->n_rows - 1) * a->w_row_bytes;
    }
    for (uint32_t step = first; step < first + n; step++, tiles += 2 * PROMPT_TILE_BYTES) {
        const uint32_t col = step * PROMPT_STEP_COLS, left = a->n_cols - col;
        const __mmask32 mask = left < PROMPT_STEP_COLS ? (1u << left) - 1 : 0xffffffff;
        __m512i hi[16], lo[16];
        UNROLL for (int i = 0; i < 16; i++)
        {
            const __m512i v = _mm512_maskz_loadu_epi16(mask, p[i] + 2 * (size_t)col);
            split(_mm512_cvtph_ps(_mm512_castsi512_si256(v)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1)), &hi[i],
                  &lo[i]);
        }
        transpose_16x16(hi);
        UNROLL for (int i = 0; i < 16; i++) _mm512_store_si512(tiles + 64 * i, hi[i]);
        transpose_16x16(lo);
        UNROLL for (int i = 0; i < 16; i++) _mm512_store_si512(tiles + PROMPT_TILE_BYTES + 64 * i, lo[i]);
    }
}

/* Lanes that are not whole tiles: pairs of columns of 16 rows, an odd last column by itself. */
static void fill_bf16(const struct matmul_args *a, uint32_t row, uint32_t first, uint32_t n, uint8_t *tiles)
{
    const uint8_t *w = (const uint8_t *)a->w + row * a->w_row_bytes;
    for (uint32_t col = first * PROMPT_STEP_COLS; col < (first + n) * PROMPT_STEP_COLS; col += 2, tiles += 64)
        _mm512_store_si512(tiles, col + 1 < a->n_cols ? _mm512_loadu_si512(w + (size_t)col * 32)
                                  : col < a->n_cols
                                      ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(w + (size_t)col * 32)))
                                      : _mm512_setzero_si512());
}

void prompt_pack(const float *x, uint32_t n, uint32_t parts, void *out)
{
    uint8_t *p = out;
    for (uint32_t i = 0; i < n; i += PROMPT_STEP_COLS, p += parts * PROMPT_TILE_BYTES) {
        const uint32_t left = n - i;
        const uint32_t mask = left < PROMPT_STEP_COLS ? (1u << left) - 1 : 0xffffffff;
        const __m512 first = _mm512_maskz_loadu_ps((__mmask16)mask, x + i);
        const __m512 second = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + i + 16);
        __m512i hi = (__m512i)_mm512_cvtne2ps_pbh(second, first), lo;
        if (parts == 2) {
            split(first, second, &hi, &lo);
            _mm512_store_si512(p + PROMPT_TILE_BYTES, lo);
        }
        _mm512_store_si512(p, hi);
    }
}

void prompt_floats(struct prompt_type types[TENSOR_TYPE_COUNT])
{
    types[TENSOR_BF16] = (struct prompt_type){.fill = fill_bf16, .parts = 1, .are_tiles = true};
    types[TENSOR_F16] = (struct prompt_type){.fill = fill_f16, .parts = 2, .as_rows = true};
}
