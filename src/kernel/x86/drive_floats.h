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
#define PART_BYTES (SEGMENT_COLS / 2 * sizeof(float))
#define X_BYTES ((size_t)1 << 20)
#define BLOCK_BYTES ((size_t)256 << 10) /* of weights */
#define BLOCK_MAX_TILES 8

/* Four rows by up to MAX_TILE_TOKENS tokens over some columns. */
struct float_tile {
    const uint8_t *w[FLOAT_ROWS], *x; /* x: the first token's */
    size_t x_row_bytes;
    uint32_t n_cols, n_tokens;
    bool start, finish;   /* the first columns; the last */
    uint32_t part;        /* of the chains */
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
    uint32_t whole_tokens, group_tokens; /* that a tile takes: with whole rows; with segments */
    uint32_t n_parts;                    /* a tile with segments sums all chains, or a half of them */
    uint32_t x_bytes, w_bytes;           /* of an element */
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
static inline void drive_whole(const struct matmul_args *a, void (*fn)(const struct float_tile *), uint32_t first_token,
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
        fn(&t);
    }
}

/* Rows [row, end), with all tokens of the block. */
static inline void drive_rows(const struct float_job *j, uint32_t row, uint32_t end)
{
    const struct matmul_args *a = j->a;
    struct float_scratch *s = a->scratch;
    const uint32_t n_groups = (j->n_tokens + j->k->group_tokens - 1) / j->k->group_tokens;
    const uint32_t n_quads = (end - row + FLOAT_ROWS - 1) / FLOAT_ROWS;
    struct float_tile t = {.x_row_bytes = j->x_stride,
                           .y_stride = a->y_stride,
                           .ahead = (const uint8_t *)a->w + end * a->w_row_bytes,
                           .ahead_step = end < a->n_rows ? (64 + n_groups - 1) / n_groups : 0};
    const uint8_t *w = (const uint8_t *)a->w + row * a->w_row_bytes;
    const size_t tile_lines = (size_t)FLOAT_ROWS * SEGMENT_COLS * j->k->w_bytes / 64 / j->k->n_parts;
    for (uint32_t g = 0; g < n_groups; g++) {
        const uint32_t first = j->n_tokens * g / n_groups;
        t.n_tokens = j->n_tokens * (g + 1) / n_groups - first;
        for (uint32_t i = 0; i < j->n_segments * j->k->n_parts; i++) {
            const uint32_t segment = i / j->k->n_parts, col = segment * SEGMENT_COLS;
            t.part = i % j->k->n_parts;
            t.x = s->x + (segment * j->n_tokens + first) * j->x_stride + t.part * PART_BYTES;
            t.start = segment == 0;
            t.finish = i + 1 == j->n_segments * j->k->n_parts;
            t.n_cols = a->n_cols - col < SEGMENT_COLS ? a->n_cols - col : SEGMENT_COLS;
            for (uint32_t q = 0; q < n_quads; q++) {
                const uint32_t r = q * FLOAT_ROWS;
                set_rows(w + r * a->w_row_bytes + (size_t)col * j->k->w_bytes, a->w_row_bytes, end - row - r, &t);
                t.y = a->y + (j->first_token + first) * a->y_stride + row + r;
                t.chains = s->chains[q];
                j->k->tile(&t);
                t.ahead += tile_lines * t.ahead_step;
            }
        }
    }
}

/* n columns of a token: as they are, or each half of the chains by itself, filled up with zeros. */
INLINE void copy_segment(const struct float_job *j, const uint8_t *x, uint32_t n, uint8_t *out)
{
    if (j->k->n_parts == 1) {
        memcpy(out, x, (size_t)n * j->k->x_bytes);
        return;
    }
    const size_t half = CHAINS / 2 * sizeof(float);
    for (; n >= CHAINS; n -= CHAINS, x += 2 * half, out += half) {
        memcpy(out, x, half);
        memcpy(out + PART_BYTES, x + half, half);
    }
    if (n) {
        float rest[CHAINS] = {0};
        memcpy(rest, x, n * sizeof *rest);
        memcpy(out, rest, half);
        memcpy(out + PART_BYTES, rest + CHAINS / 2, half);
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
            copy_segment(j, x, left < SEGMENT_COLS ? left : SEGMENT_COLS, out);
    }
}

static inline void drive_floats(const struct matmul_args *a, const struct float_kernel *k)
{
    struct float_job j = {.a = a,
                          .k = k,
                          .n_segments = (a->n_cols + SEGMENT_COLS - 1) / SEGMENT_COLS,
                          .x_stride = SEGMENT_COLS * k->x_bytes + 64};
    const size_t fit_tokens = X_BYTES / j.x_stride / j.n_segments, fit_rows = BLOCK_BYTES / a->w_row_bytes;
    const size_t quads = fit_rows / FLOAT_ROWS < BLOCK_MAX_TILES ? fit_rows / FLOAT_ROWS : BLOCK_MAX_TILES;
    const uint32_t step_rows = FLOAT_ROWS * (quads ? (uint32_t)quads : 1);
    const uint32_t step_tokens = fit_tokens ? (uint32_t)fit_tokens : k->whole_tokens;
    for (uint32_t i = 0; i < a->n_tokens; i += j.n_tokens) {
        j.first_token = i;
        j.n_tokens = a->n_tokens - i < step_tokens ? a->n_tokens - i : step_tokens;
        if (j.n_tokens <= k->whole_tokens) {
            drive_whole(a, k->tile, i, j.n_tokens);
            continue;
        }
        copy_tokens(&j);
        for (uint32_t row = 0; row < a->n_rows; row += step_rows)
            drive_rows(&j, row, a->n_rows - row < step_rows ? a->n_rows : row + step_rows);
    }
}

#endif
