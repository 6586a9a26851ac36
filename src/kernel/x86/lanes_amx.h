/* Products of lanes through AMX tiles: the tokens of a call in tiles, and the entries of the table.
 *
 * A unit of lanes, four codes of each of 16 rows, is a row of the second operand as it lies in memory; the first is the
 * activations of up to 16 tokens. So a row of a C tile is a token's sums of 16 rows of weights.
 */
#ifndef WEIR_KERNEL_X86_LANES_AMX_H
#define WEIR_KERNEL_X86_LANES_AMX_H

#include "kernel/x86/amx.h"
#include "kernel/x86/x86.h"

#define BLOCK_TOKENS 64 /* go through all rows together */
#define MAX_TILES (BLOCK_TOKENS / TILE_ROWS)

/* The first n of some tokens, as many as go through all rows together, in `count` tiles of `width`; the last one begins
 * early enough to be full, and its first `twice` tokens are in the one before as well. */
struct token_tiles {
    uint32_t n, count, width;
};

static inline struct token_tiles token_tiles(uint32_t n)
{
    n = n < BLOCK_TOKENS ? n : BLOCK_TOKENS;
    const uint32_t count = (n + TILE_ROWS - 1) / TILE_ROWS;
    return (struct token_tiles){n, count, (n + count - 1) / count};
}

static inline uint32_t tile_first(const struct token_tiles *t, uint32_t i)
{
    return i + 1 < t->count ? i * t->width : t->n - t->width;
}

static inline uint32_t tile_twice(const struct token_tiles *t, uint32_t i)
{
    return i * t->width - tile_first(t, i);
}

/* A type's entry in the table; fewer tokens go the way of the level below. */
#define TILE_PRODUCT(name, type, min_tokens)                                                                           \
    static void (*few_##name)(const struct matmul_args *a);                                                            \
    static void matmul_lanes_##name(const struct matmul_args *a)                                                       \
    {                                                                                                                  \
        if (a->n_tokens < (min_tokens))                                                                                \
            few_##name(a);                                                                                             \
        else                                                                                                           \
            matmul_tiles(type, a);                                                                                     \
    }                                                                                                                  \
    static void set_##name(struct kernels *k)                                                                          \
    {                                                                                                                  \
        few_##name = k->matmul_lanes[type];                                                                            \
        k->matmul_lanes[type] = matmul_lanes_##name;                                                                   \
    }

#endif
