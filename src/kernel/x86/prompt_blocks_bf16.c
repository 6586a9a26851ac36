/* Blocks of 32 in lanes to bfloat16 tiles. */
#include "kernel/x86/lanes_block_codes.h"
#include "kernel/x86/prompt_unit.h"

INLINE void fill_block(enum tensor_type t, const uint8_t *cell, uint32_t b, uint32_t n_blocks, uint8_t *tile)
{
    const uint8_t *codes = cell + b * code_bytes(t), *high = cell + n_blocks * code_bytes(t);
    const uint8_t *d = high + (has_high(t) ? n_blocks * 64 : 0) + b * scale_bytes(t);
    const vf min = has_min(t) ? load_scales(t, d + n_blocks * scale_bytes(t)) : vf_zero();
    const struct unit_kind kind = {code_offset(t) == 128, has_min(t), code_offset(t)};
    const struct unit_scale s = unit_scale(kind, load_scales(t, d), min);
    const vi h = has_high(t) ? vi_load(high + 64 * b) : vi_zero();
    UNROLL for (int k = 0; k < 4; k++)
    {
        vi low, upper;
        load_codes(t, codes, h, k, &low, &upper);
        put_unit(kind, low, &s, k, tile);
        put_unit(kind, upper, &s, k + 4, tile);
    }
}

INLINE void fill(enum tensor_type t, const struct matmul_args *a, uint32_t row, uint32_t first, uint32_t n,
                 uint8_t *tiles)
{
    const uint32_t n_blocks = a->n_cols / 32;
    const uint8_t *group = (const uint8_t *)a->w + row * a->w_row_bytes;
    for (uint32_t b = first; b < first + n; b++, tiles += PROMPT_TILE_BYTES) {
        const uint32_t begin = b / LANES_CELL_BLOCKS * LANES_CELL_BLOCKS, left = n_blocks - begin;
        fill_block(t, group + begin * group_block_bytes(t), b - begin,
                   left < LANES_CELL_BLOCKS ? left : LANES_CELL_BLOCKS, tiles);
    }
}

#define FILL(name, type)                                                                                               \
    static void fill_##name(const struct matmul_args *a, uint32_t row, uint32_t first, uint32_t n, uint8_t *tiles)     \
    {                                                                                                                  \
        fill(type, a, row, first, n, tiles);                                                                           \
    }
FILL(q8_0, TENSOR_Q8_0)
FILL(q4_0, TENSOR_Q4_0)
FILL(q4_1, TENSOR_Q4_1)
FILL(q5_0, TENSOR_Q5_0)
FILL(q5_1, TENSOR_Q5_1)
FILL(iq4_nl, TENSOR_IQ4_NL)
FILL(mxfp4, TENSOR_MXFP4)

void prompt_blocks(struct prompt_type types[TENSOR_TYPE_COUNT])
{
    types[TENSOR_Q8_0] = (struct prompt_type){.fill = fill_q8_0, .parts = 1};
    types[TENSOR_Q4_0] = (struct prompt_type){.fill = fill_q4_0, .parts = 1};
    types[TENSOR_Q4_1] = (struct prompt_type){.fill = fill_q4_1, .parts = 1};
    types[TENSOR_Q5_0] = (struct prompt_type){.fill = fill_q5_0, .parts = 1};
    types[TENSOR_Q5_1] = (struct prompt_type){.fill = fill_q5_1, .parts = 1};
    types[TENSOR_IQ4_NL] = (struct prompt_type){.fill = fill_iq4_nl, .parts = 1};
    types[TENSOR_MXFP4] = (struct prompt_type){.fill = fill_mxfp4, .parts = 1};
}
