/* The side of the tokens in a product of tiles: packed activation rows of up to 16 tokens, interleaved by four bytes.
 *
 * A group of tokens is `width` wide: 1, 2, 4, 8 or 16, the smallest that holds the call's tokens; what is missing is
 * filled up with zeros. A C tile of 16 rows x width tokens is stored as `width` vectors: lane l of vector v belongs to
 * row v * 16 / width + l / width and token l % width.
 */
#ifndef WEIR_KERNEL_X86_TOKENS_AMX_H
#define WEIR_KERNEL_X86_TOKENS_AMX_H

#include "kernel/x86/amx.h"
#include "kernel/x86/simd512.h"

static inline uint32_t token_width(uint32_t n_tokens)
{
    uint32_t width = 1;
    while (width < 16 && width < n_tokens)
        width *= 2;
    return width;
}

/* The rows that there are of 16, where n follow. */
static inline __mmask16 tile_row_mask(uint32_t n)
{
    return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
}

/* 64 bytes at x of each of n_t tokens: four-byte group k goes to out[at[k]][token], [width] groups a row. */
INLINE void interleave_64(const uint8_t *x, size_t x_row_bytes, uint32_t n_t, uint32_t width, const uint8_t at[16],
                          uint8_t *out)
{
    if (width == 16) {
        __m512i v[16];
        for (uint32_t i = 0; i < 16; i++)
            v[i] = i < n_t ? _mm512_loadu_si512(x + i * x_row_bytes) : _mm512_setzero_si512();
        transpose_16x16(v);
        for (int k = 0; k < 16; k++)
            _mm512_store_si512(out + 64 * at[k], v[k]);
        return;
    }
    for (uint32_t i = 0; i < width; i++) {
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t four = 0;
            if (i < n_t)
                memcpy(&four, x + i * x_row_bytes + 4 * k, sizeof four);
            memcpy(out + 4 * ((size_t)at[k] * width + i), &four, sizeof four);
        }
    }
}

/* One number for each token of a group, in the lanes of a stored tile. */
INLINE __m512 spread_tokens(const float *p, size_t width)
{
    switch (width) {
    case 1:
        return _mm512_set1_ps(*p);
    case 2:
        return _mm512_castpd_ps(_mm512_broadcastsd_pd(_mm_load_sd((const double *)(const void *)p)));
    case 4:
        return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    case 8:
        return _mm512_broadcast_f32x8(_mm256_loadu_ps(p));
    default:
        return _mm512_loadu_ps(p);
    }
}

/* Numbers of 16 rows, in the lanes of vector v of a stored tile. */
INLINE __m512 spread_rows(const float *p, size_t v, size_t width)
{
    if (width == 1)
        return _mm512_loadu_ps(p);
    if (width == 16)
        return _mm512_set1_ps(p[v]);
    int row[16];
    UNROLL for (int l = 0; l < 16; l++) row[l] = (int)(v * 16 / width) + l / (int)width;
    return _mm512_permutexvar_ps(_mm512_setr_epi32(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7],
                                                   row[8], row[9], row[10], row[11], row[12], row[13], row[14],
                                                   row[15]),
                                 _mm512_loadu_ps(p));
}

INLINE __m512i every_nth(uint32_t n)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)n));
}

/* Sums of 16 rows and width tokens: vectors of a stored tile to one vector of rows for each token, and back. */
INLINE void rows_of_tile(const __m512 *tile, uint32_t width, __m512 *rows)
{
    if (width == 16) {
        __m512i v[16];
        for (int i = 0; i < 16; i++)
            v[i] = _mm512_castps_si512(tile[i]);
        transpose_16x16(v);
        for (int i = 0; i < 16; i++)
            rows[i] = _mm512_castsi512_ps(v[i]);
        return;
    }
    float flat[8 * 16];
    for (uint32_t i = 0; i < width; i++)
        _mm512_storeu_ps(flat + 16 * i, tile[i]);
    for (uint32_t i = 0; i < width; i++)
        rows[i] = _mm512_i32gather_ps(every_nth(width), flat + i, 4);
}

INLINE void tile_of_rows(const __m512 *rows, uint32_t width, __m512 *tile)
{
    if (width == 16) {
        rows_of_tile(rows, width, tile); /* transposing twice gives what was */
        return;
    }
    float flat[8 * 16];
    for (uint32_t i = 0; i < width; i++)
        _mm512_i32scatter_ps(flat + i, every_nth(width), rows[i], 4);
    for (uint32_t i = 0; i < width; i++)
        tile[i] = _mm512_loadu_ps(flat + 16 * i);
}

/* A type's entry in the table; few tokens go the way of the level below. */
#define TILE_PRODUCT(name, type, tiles)                                                                                \
    static void (*few_##name)(const struct matmul_args *a);                                                            \
    static void matmul_lanes_##name(const struct matmul_args *a)                                                       \
    {                                                                                                                  \
        if (a->n_tokens < MIN_TOKENS)                                                                                  \
            few_##name(a);                                                                                             \
        else                                                                                                           \
            tiles(a);                                                                                                  \
    }                                                                                                                  \
    static void set_##name(struct kernels *k)                                                                          \
    {                                                                                                                  \
        few_##name = k->matmul_lanes[type];                                                                            \
        k->matmul_lanes[type] = matmul_lanes_##name;                                                                   \
    }

#endif
