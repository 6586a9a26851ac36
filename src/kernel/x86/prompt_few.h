/* Products of a few tokens with weights that are tiles as they lie (prompt_amx.c), whose time is that of reading these.
 *
 * The sums of two groups of 16 rows by up to two tiles of tokens stay in tiles over all columns, while weights go into tiles
 * straight from memory and activations from the second-level cache. Each step asks for another one, some further on, so that
 * memory is never idle. The order of summation is that of prompt_amx.c. */
#ifndef WEIR_KERNEL_X86_PROMPT_FEW_H
#define WEIR_KERNEL_X86_PROMPT_FEW_H

#include "kernel/lanes.h"
#include "kernel/x86/amx.h"
#include "kernel/x86/prompt.h"

#define FEW_TOKENS 32
#define FEW_X_BYTES ((size_t)1 << 20)
#define FEW_ROWS 32
#define FEW_AHEAD_STEPS 6

static inline bool few_fit(const struct matmul_args *a)
{
    const uint32_t n_tiles = (a->n_tokens + TILE_ROWS - 1) / TILE_ROWS;
    return a->n_tokens <= FEW_TOKENS && n_tiles * TILE_ROWS * a->x_row_bytes <= FEW_X_BYTES;
}

/* A step of the 32 rows from `row` on, or of the next ones. */
static inline void few_ask(const struct matmul_args *a, uint32_t row, uint32_t step, uint32_t n_steps)
{
    if (step >= n_steps) {
        row += FEW_ROWS;
        step -= n_steps;
    }
    for (uint32_t end = row + FEW_ROWS; row < end && row < a->n_rows; row += LANES) {
        const char *w = (const char *)a->w + row * a->w_row_bytes + (size_t)step * PROMPT_TILE_BYTES;
        UNROLL for (int i = 0; i < PROMPT_TILE_BYTES; i += 64) _mm_prefetch(w + i, _MM_HINT_T0);
    }
}

/* All columns of 32 rows; of 16 both tiles of weights are the same. C0 and C1 are the sums of the first tokens. */
static inline void few_multiply(const struct matmul_args *a, uint32_t row, float sums[2][2][16][16])
{
    const uint32_t n_steps = a->n_cols / PROMPT_STEP_COLS;
    const bool two = a->n_tokens > TILE_ROWS;
    const uint8_t *x = a->x, *x1 = x + TILE_ROWS * a->x_row_bytes;
    const uint8_t *w = (const uint8_t *)a->w + row * a->w_row_bytes;
    const uint8_t *w1 = a->n_rows - row > LANES ? w + LANES * a->w_row_bytes : w;
    tile_zero(TILE_C0);
    tile_zero(TILE_C1);
    tile_zero(TILE_C2);
    tile_zero(TILE_C3);
    for (uint32_t step = 0; step < n_steps; step++) {
        const size_t at = (size_t)step * PROMPT_TILE_BYTES;
        few_ask(a, row, step + FEW_AHEAD_STEPS, n_steps);
        tile_load(TILE_A0, x + at, 64);
        tile_load(TILE_B0, w + at, 64);
        tile_load(TILE_B1, w1 + at, 64);
        tile_dot_bf16(TILE_C0, TILE_A0, TILE_B0);
        tile_dot_bf16(TILE_C1, TILE_A0, TILE_B1);
        if (two) {
            tile_load(TILE_A1, x1 + at, 64);
            tile_dot_bf16(TILE_C2, TILE_A1, TILE_B0);
            tile_dot_bf16(TILE_C3, TILE_A1, TILE_B1);
        }
    }
    tile_store(TILE_C0, sums[0][0], 64);
    tile_store(TILE_C1, sums[0][1], 64);
    tile_store(TILE_C2, sums[1][0], 64);
    tile_store(TILE_C3, sums[1][1], 64);
}

static void multiply_few(const struct matmul_args *a)
{
    /* Fewer tokens than a tile has rows: such products take less time. */
    const struct tile_config shapes = tile_shapes(a->n_tokens < TILE_ROWS ? a->n_tokens : TILE_ROWS, 64, 16);
    float(*sums)[2][16][16] = a->scratch; /* [tile of tokens][of rows][token][row] */
    tile_begin(&shapes);
    for (uint32_t i = 0; i < FEW_AHEAD_STEPS; i++)
        few_ask(a, 0, i, a->n_cols / PROMPT_STEP_COLS);
    for (uint32_t row = 0; row < a->n_rows; row += FEW_ROWS) {
        const uint32_t left = a->n_rows - row;
        const __mmask32 rows = left < FEW_ROWS ? (1u << left) - 1 : 0xffffffff;
        few_multiply(a, row, sums);
        for (uint32_t i = 0; i < a->n_tokens; i++) {
            float *y = a->y + prompt_y_row(a, i) * a->y_stride + row;
            _mm512_mask_storeu_ps(y, (__mmask16)rows, _mm512_load_ps(sums[i / 16][0][i % 16]));
            _mm512_mask_storeu_ps(y + 16, (__mmask16)(rows >> 16), _mm512_load_ps(sums[i / 16][1][i % 16]));
        }
    }
    tile_end();
}

#endif
