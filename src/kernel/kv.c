#include "kernel/kv.h"
#include "kernel/blocks.h"

#include <string.h>

size_t kv_row_bytes(enum kv_type t, uint32_t n)
{
    return t == KV_F16 ? (size_t)n * sizeof(uint16_t) : (size_t)n / 32 * sizeof(struct block_q8_0);
}

size_t kv_area_bytes(enum kv_type t, uint32_t n, uint32_t chunk_tokens)
{
    return (chunk_tokens * kv_row_bytes(t, n) + 63) & ~(size_t)63;
}

static void put_f16(bool values, const uint16_t *row, uint32_t n, uint16_t *area, uint32_t token)
{
    if (values) {
        memcpy(area + (size_t)token * n, row, n * sizeof *row);
        return;
    }
    uint16_t *column = area + kv_element_offset(KV_F16, false, n, token, 0) / 2;
    for (uint32_t i = 0; i < n; i++)
        column[(size_t)i * 16] = row[i];
}

static void put_q8_0(bool values, const struct block_q8_0 *row, uint32_t n, uint32_t chunk_tokens, uint8_t *area,
                     uint32_t token)
{
    for (uint32_t i = 0; i < n; i += 32, row++) {
        memcpy(area + kv_scale_offset(n, chunk_tokens, token, i), &row->d, sizeof row->d);
        for (uint32_t j = 0; j < 32; j++)
            area[kv_element_offset(KV_Q8_0, values, n, token, i + j)] = (uint8_t)(values ? row->q[j] : row->q[j] + 128);
    }
}

void kv_put(enum kv_type t, bool values, const void *row, uint32_t n, uint32_t chunk_tokens, void *area, uint32_t token)
{
    if (t == KV_F16)
        put_f16(values, row, n, area, token);
    else
        put_q8_0(values, row, n, chunk_tokens, area, token);
}
