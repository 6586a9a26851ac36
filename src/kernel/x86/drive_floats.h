/* Drives products with float weights: tiles of four rows by a few tokens, whose chains stay in registers.
 *
 * Tokens that fit one tile: whole rows, one walk through memory. More: activations are copied once, in segments of columns.
 * A group of tokens goes through a block of rows, which the second-level cache holds, segment by segment; chains wait in
 * the scratch from one segment to the next. Meanwhile the next rows are asked for, in equal parts, so that memory is read
 * all the time.
 */
#ifndef WEIR_KERNEL_X86_DRIVE_FLOATS_H
#define WEIR_KERNEL_X86_DRIVE_FLOATS_H

#include "kernel/x86/simd.h"

#include <assert.h>
#include <string.h>

#define FLOAT_ROWS 4
#define MAX_TILE_TOKENS 6
#define CHAINS 16

#define SEGMENT_COLS 2048
#define X_BYTES ((size_t)1440 << 10)
#define BLOCK_BYTES ((size_t)256 << 10) /* of weights */
#define AHEAD_GROUPS 8                  /* of tokens, which ask for the next rows; the others have no need to */
#define BLOCK_MAX_TILES 8

/* Four rows by up to MAX_TILE_TOKENS tokens over some columns. */
struct float_tile {
    const uint8_t *w[FLOAT_ROWS], *x; /* x: the first token's */
    size_t x_row_bytes;
    uint32_t n_cols, n_tokens;
    bool start, finish;   /* the first columns; the last */
    float *chains;        /* [n_tokens][FLOAT_ROWS][CHAINS], to go on with; aligned to 64 */
    const uint8_t *ahead; /* is asked for meanwhile: every ahead_step bytes, as many times as the tile has lines */
    size_t ahead_step;
    float *y; /* y[t * y_stride + r], when finished */
    size_t y_stride;
    uint32_t n_rows; /* rows from n_rows on repeat another, and are dropped */
};

struct float_scratch {
    _Alignas(64) uint8_t x[X_BYTES]; /* [segment][token][x_stride] */
    float chains[BLOCK_MAX_TILES][MAX_TILE_TOKENS * FLOAT_ROWS * CHAINS];
};
static_assert(sizeof(struct float_scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* A level's way with a type. */
struct float_kernel {
    void (*tile)(const struct float_tile *t);
    uint32_t x_bytes, w_bytes; /* of an element */
};

struct float_job {
    const struct matmul_args *a;
    const struct float_kernel *k;
    uint32_t n_segments;
    size_t x_stride; /* of the copied activations: rows a power of two apart would share few sets of a cache */
    uint32_t first_token, n_tokens; /* of the block that is copied */
};

/* A tile of up to four rows from w on. */
INLINE void set_rows(const uint8_t *w, size_t w_stride, uint32_t n_rows, struct float_tile *t)
{
    t->n_rows = n_rows < FLOAT_ROWS ? n_rows : FLOAT_ROWS;
    for (uint32_t r = 0; r < FLOAT_ROWS; r++)
        t->w[r] = w + (r < t->n_rows ? r : 0) * w_stride;
}

/* Tokens that fit one tile. */
static inline void drive_whole(const struct matmul_args *a, const struct float_kernel *k, uint32_t first_token,
                               uint32_t n_tokens)
{
    struct float_tile t = {.x = (const uint8_t *)a->x + first_token * a->x_row_bytes,
                           .x_row_bytes = a->x_row_bytes,
                           .n_cols = a->n_cols,
                           .n_tokens = n_tokens,
                           .start = true,
                           .finish = true,
                           .y_stride = a->y_stride};
    for (uint32_t row = 0; row < a->n_rows; row += FLOAT_ROWS) {
        set_rows((const uint8_t *)a->w + row * a->w_row_bytes, a->w_row_bytes, a->n_rows - row, &t);
        t.y = a->y + first_token * a->y_stride + row;
        t.ahead = t.w[0] + FLOAT_ROWS * a->w_row_bytes;
        t.ahead_step = row + FLOAT_ROWS < a->n_rows ? 64 : 0;
        k->tile(&t);
    }
}

/* Rows [row, end), with all tokens of the block. */
static inline void drive_rows(const struct float_job *j, uint32_t row, uint32_t end)
{
    const struct matmul_args *a = j->a;
    struct float_scratch *s = a->scratch;
    const uint32_t n_groups = (j->n_tokens + MAX_TILE_TOKENS - 1) / MAX_TILE_TOKENS;
    const uint32_t n_quads = (end - row + FLOAT_ROWS - 1) / FLOAT_ROWS;
    const uint32_t n_ahead = n_groups < AHEAD_GROUPS ? n_groups : AHEAD_GROUPS;
    struct float_tile t = {.x_row_bytes = j->x_stride,
                           .y_stride = a->y_stride,
                           .ahead = (const uint8_t *)a->w + end * a->w_row_bytes,
                           .ahead_step = end < a->n_rows ? (64 + n_ahead - 1) / n_ahead : 0};
    const size_t segment_bytes = (size_t)SEGMENT_COLS * j->k->w_bytes;
    for (uint32_t g = 0; g < n_groups; g++) {
        const uint32_t first = j->n_tokens * g / n_groups;
        t.n_tokens = j->n_tokens * (g + 1) / n_groups - first;
        for (uint32_t segment = 0; segment < j->n_segments; segment++) {
            const uint32_t left = a->n_cols - segment * SEGMENT_COLS;
            t.x = s->x + (segment * j->n_tokens + first) * j->x_stride;
            if (g >= n_ahead) { /* all is asked for; ask for what is near */
                t.ahead = t.x;
                t.ahead_step = 0;
            }
            t.start = segment == 0;
            t.finish = segment + 1 == j->n_segments;
            t.n_cols = left < SEGMENT_COLS ? left : SEGMENT_COLS;
            for (uint32_t q = 0; q < n_quads; q++) {
                const uint32_t r = row + q * FLOAT_ROWS;
                t.chains = s->chains[q];
                set_rows((const uint8_t *)a->w + r * a->w_row_bytes + segment * segment_bytes, a->w_row_bytes, end - r,
                         &t);
                t.y = a->y + (j->first_token + first) * a->y_stride + r;
                j->k->tile(&t);
                t.ahead += FLOAT_ROWS * segment_bytes / 64 * t.ahead_step;
            }
        }
    }
}

static inline void copy_tokens(const struct float_job *j)
{
    const struct matmul_args *a = j->a;
    uint8_t *out = ((struct float_scratch *)a->scratch)->x;
    for (uint32_t i = 0; i < j->n_segments; i++) {
        const uint32_t first = i * SEGMENT_COLS, left = a->n_cols - first;
        const uint8_t *x = (const uint8_t *)a->x + j->first_token * a->x_row_bytes + (size_t)first * j->k->x_bytes;
        for (uint32_t t = 0; t < j->n_tokens; t++, out += j->x_stride, x += a->x_row_bytes)
            memcpy(out, x, (left < SEGMENT_COLS ? left : SEGMENT_COLS) * (size_t)j->k->x_bytes);
    }
}

static inline void drive_floats(const struct matmul_args *a, const struct float_kernel *k)
{
    struct float_job j = {.a = a,
                          .k = k,
                          .n_segments = (a->n_cols + SEGMENT_COLS - 1) / SEGMENT_COLS,
                          .x_stride = SEGMENT_COLS * k->x_bytes + 320};
    const size_t fit_tokens = X_BYTES / j.x_stride / j.n_segments, fit_rows = BLOCK_BYTES / a->w_row_bytes;
    const size_t quads = fit_rows / FLOAT_ROWS < BLOCK_MAX_TILES ? fit_rows / FLOAT_ROWS : BLOCK_MAX_TILES;
    const uint32_t step_rows = FLOAT_ROWS * (quads ? (uint32_t)quads : 1);
    const uint32_t step_tokens = fit_tokens ? (uint32_t)fit_tokens : MAX_TILE_TOKENS;
    for (uint32_t i = 0; i < a->n_tokens; i += j.n_tokens) {
        j.first_token = i;
        j.n_tokens = a->n_tokens - i < step_tokens ? a->n_tokens - i : step_tokens;
        if (j.n_tokens <= MAX_TILE_TOKENS) {
            drive_whole(a, k, i, j.n_tokens);
            continue;
        }
        copy_tokens(&j);
        for (uint32_t row = 0; row < a->n_rows; row += step_rows)
            drive_rows(&j, row, a->n_rows - row < step_rows ? a->n_rows : row + step_rows);
    }
}

#endif
