/* Drives direct kernels, four rows by up to four tokens, over a product. */
#ifndef WEIR_KERNEL_X86_DRIVE_H
#define WEIR_KERNEL_X86_DRIVE_H

#include "kernel/kernel.h"

#define DIRECT_ROWS 4
#define DIRECT_TOKENS 4

/* y[token][row] of n_t tokens (their packed rows x_row_bytes apart) with four weight rows of n_cols. */
typedef void (*direct_fn)(const uint8_t *const w[DIRECT_ROWS], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes,
                          uint32_t n_t, float y[DIRECT_TOKENS][DIRECT_ROWS]);

/* So many rows and tokens are gone through together, to be read from the second-level cache. */
#define BLOCK_ROWS 32
#define BLOCK_TOKENS 16

/* Rows first, first + step, + 2 step, + 3 step (those from n_rows on are computed from the last one, and dropped) and
 * tokens [token, end). */
static inline void drive_quad(const struct matmul_args *a, direct_fn fn, uint32_t first, uint32_t step, uint32_t token,
                              uint32_t end)
{
    const uint8_t *w[DIRECT_ROWS];
    for (uint32_t r = 0; r < DIRECT_ROWS; r++) {
        const uint32_t row = first + r * step < a->n_rows ? first + r * step : a->n_rows - 1;
        w[r] = (const uint8_t *)a->w + (size_t)row * a->w_row_bytes;
    }
    for (uint32_t i = token; i < end; i += DIRECT_TOKENS) {
        const uint32_t n_t = end - i < DIRECT_TOKENS ? end - i : DIRECT_TOKENS;
        float y[DIRECT_TOKENS][DIRECT_ROWS];
        fn(w, a->n_cols, (const uint8_t *)a->x + (size_t)i * a->x_row_bytes, a->x_row_bytes, n_t, y);
        for (uint32_t j = 0; j < n_t; j++) {
            for (uint32_t r = 0; r < DIRECT_ROWS && first + r * step < a->n_rows; r++)
                a->y[(size_t)(i + j) * a->y_stride + first + r * step] = y[j][r];
        }
    }
}

static inline void drive_direct(const struct matmul_args *a, direct_fn fn)
{
    uint32_t row = 0;
    if (a->n_tokens == 1) {
        /* Four streams, each through a quarter of the rows: every stream is one sequential walk through memory. */
        const uint32_t quarter = a->n_rows / DIRECT_ROWS;
        for (uint32_t i = 0; i < quarter; i++)
            drive_quad(a, fn, i, quarter, 0, 1);
        row = DIRECT_ROWS * quarter;
    }
    for (; row < a->n_rows; row += BLOCK_ROWS) {
        const uint32_t rows_end = a->n_rows - row < BLOCK_ROWS ? a->n_rows : row + BLOCK_ROWS;
        for (uint32_t i = 0; i < a->n_tokens; i += BLOCK_TOKENS) {
            const uint32_t end = a->n_tokens - i < BLOCK_TOKENS ? a->n_tokens : i + BLOCK_TOKENS;
            for (uint32_t r = row; r < rows_end; r += DIRECT_ROWS)
                drive_quad(a, fn, r, 1, i, end);
        }
    }
}

/* matmul_NAME of a quantised type, by direct(type, ...), which is inlined: one function of a type and its constants. */
#define MATMUL_DIRECT(name, type, direct)                                                                              \
    static void direct_##name(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes,        \
                              uint32_t n_t, float y[4][4])                                                             \
    {                                                                                                                  \
        direct(type, w, n_cols, x, x_row_bytes, n_t, y);                                                               \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        drive_direct(a, direct_##name);                                                                                \
    }

#endif
