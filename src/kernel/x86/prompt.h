/* Weights of a prompt's products as bfloat16 tiles: what prompt_{blocks,supers,floats}_bf16.c give to prompt_amx.c.
 *
 * A tile is operand B of a tile product, 16 rows of weights by 32 columns: [16 pairs of columns][16 rows][2] bfloat16. Rows, but
 * of BF16, stand in the order of prompt_row, which costs the least shuffling; each sum is put right when it is stored.
 */
#ifndef WEIR_KERNEL_X86_PROMPT_H
#define WEIR_KERNEL_X86_PROMPT_H

#include "kernel/kernel.h"

#define PROMPT_TILE_BYTES 1024
#define PROMPT_STEP_COLS 32 /* columns of a tile */
#define PROMPT_CUT_STEPS 16 /* made together; whole super-blocks of K types */

static const uint8_t prompt_row[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};

/* Tiles [first_step, first_step + n_steps) of the 16 weight rows from `row` on (F16: those past a->n_rows are the last one) to
 * tiles[n_steps][parts]. first_step: a multiple of PROMPT_CUT_STEPS; n_steps: at most so many. */
typedef void prompt_fill(const struct matmul_args *a, uint32_t row, uint32_t first_step, uint32_t n_steps,
                         uint8_t *tiles);

/* The way of each type, or NULL; parts of its tiles. */
struct prompt_type {
    prompt_fill *fill;
    uint32_t parts;
    bool as_rows;   /* F16: not in lanes */
    bool are_tiles; /* BF16: lanes are tiles as they lie, where columns are whole steps; rows keep their order */
};

/* Where the tiles of the rows from `row` on lie, or NULL: they have to be made. */
static inline const uint8_t *prompt_tiles(const struct prompt_type *type, const struct matmul_args *a, uint32_t row)
{
    return type->are_tiles && a->n_cols % PROMPT_STEP_COLS == 0 ? (const uint8_t *)a->w + row * a->w_row_bytes : NULL;
}

static inline size_t prompt_y_row(const struct matmul_args *a, uint32_t token)
{
    return a->y_rows ? a->y_rows[token] : token;
}

void prompt_blocks(struct prompt_type types[TENSOR_TYPE_COUNT]);
void prompt_supers(struct prompt_type types[TENSOR_TYPE_COUNT]);
void prompt_floats(struct prompt_type types[TENSOR_TYPE_COUNT]);
void prompt_pack(const float *x, uint32_t n, uint32_t parts, void *out);

#endif
