/* Where keys and values lie in a chunk of the KV memory. Pure.
 *
 * A KV head has, in each chunk and layer, one area of keys and one of values, kv_area_bytes each. T tokens of a chunk (a
 * multiple of 16), d elements of a head:
 *
 *   F16    keys    float16 [T/16][d][16]      a block of 16 tokens, element after element
 *          values  float16 [T][d]
 *   Q8_0   keys    codes + 128, unsigned 8 bit [T/16][d/4][16][4], then scales float16 [T/16][d/32][16]
 *          values  codes, signed 8 bit         [T/4][d][4],        then scales likewise
 *
 * So a vector of keys holds one element (of codes: four) of 16 tokens, and scores need no horizontal sums; a vector of
 * values holds neighbouring elements of one token (of codes: of four). That is also what matrix tiles are loaded from:
 * codes as they are, float16 once split into bfloat16. The code of an element and the scale of its 32 neighbours are
 * those of a Q8_0 block. Areas are read whole 16 tokens at a time, whatever lies in those not yet written.
 */
#ifndef WEIR_KERNEL_KV_H
#define WEIR_KERNEL_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kv_type { KV_F16, KV_Q8_0, KV_TYPE_COUNT };

#define KV_BLOCK_TOKENS 16
#define KV_CHUNK_MAX_TOKENS 256

/* Bytes of one token's keys, or values, of a head. n: elements; for Q8_0 a multiple of 32. */
size_t kv_row_bytes(enum kv_type t, uint32_t n);

/* Bytes of an area: of all its rows, rounded up to 64. */
size_t kv_area_bytes(enum kv_type t, uint32_t n, uint32_t chunk_tokens);

/* Puts a row of n elements, as kernels.kv_store left it, into its place for a token of the chunk. */
void kv_put(enum kv_type t, bool values, const void *row, uint32_t n, uint32_t chunk_tokens, void *area,
            uint32_t token);

/* Offsets in an area, in bytes: of element i of a token; for Q8_0 of its code and its scale. */
static inline size_t kv_element_offset(enum kv_type t, bool values, uint32_t n, uint32_t token, uint32_t i)
{
    if (t == KV_F16)
        return 2 * (values ? (size_t)token * n + i : ((size_t)token / 16 * n + i) * 16 + token % 16);
    return values ? ((size_t)token / 4 * n + i) * 4 + token % 4
                  : ((size_t)token / 16 * (n / 4) + i / 4) * 64 + token % 16 * 4 + i % 4;
}

static inline size_t kv_scale_offset(uint32_t n, uint32_t chunk_tokens, uint32_t token, uint32_t i)
{
    return (size_t)chunk_tokens * n + 2 * (((size_t)token / 16 * (n / 32) + i / 32) * 16 + token % 16);
}

#endif
