#include "kernel/lanes.h"

#include "kernel/blocks.h"

#include <stdbool.h>
#include <string.h>

enum change { AS_IS, OFFSET_128, SPREAD_BITS };

struct field {
    uint8_t offset, unit, n_units; /* unit: bytes; 0 ends the list */
    uint8_t change;
};

#define BYTES(type, member, how)                                                                                       \
    {                                                                                                                  \
        offsetof(struct type, member), 4, sizeof((struct type *)0)->member / 4, how                                    \
    }
#define WORD(type, member)                                                                                             \
    {                                                                                                                  \
        offsetof(struct type, member), 2, 1, AS_IS                                                                     \
    }
#define MAX_FIELDS 6

static const struct field fields[TENSOR_TYPE_COUNT][MAX_FIELDS] = {
    [TENSOR_Q8_0] = {BYTES(block_q8_0, q, OFFSET_128), WORD(block_q8_0, d)},
    [TENSOR_Q4_0] = {BYTES(block_q4_0, q, AS_IS), WORD(block_q4_0, d)},
    [TENSOR_Q4_1] = {BYTES(block_q4_1, q, AS_IS), WORD(block_q4_1, d), WORD(block_q4_1, m)},
    [TENSOR_Q5_0] = {BYTES(block_q5_0, q, AS_IS), BYTES(block_q5_0, high, SPREAD_BITS), WORD(block_q5_0, d)},
    [TENSOR_Q5_1] = {BYTES(block_q5_1, q, AS_IS), BYTES(block_q5_1, high, SPREAD_BITS), WORD(block_q5_1, d),
                     WORD(block_q5_1, m)},
    [TENSOR_IQ4_NL] = {BYTES(block_iq4_nl, q, AS_IS), WORD(block_iq4_nl, d)},
    [TENSOR_MXFP4] = {BYTES(block_mxfp4, q, AS_IS), {offsetof(struct block_mxfp4, e), 1, 1, AS_IS}},
    [TENSOR_Q2_K] = {BYTES(block_q2_k, q, AS_IS), BYTES(block_q2_k, scales, AS_IS), WORD(block_q2_k, d),
                     WORD(block_q2_k, dmin)},
    [TENSOR_Q3_K] = {BYTES(block_q3_k, q, AS_IS), BYTES(block_q3_k, high, AS_IS), BYTES(block_q3_k, scales, AS_IS),
                     WORD(block_q3_k, d)},
    [TENSOR_Q4_K] = {BYTES(block_q4_k, q, AS_IS), BYTES(block_q4_k, scales, AS_IS), WORD(block_q4_k, d),
                     WORD(block_q4_k, dmin)},
    [TENSOR_Q5_K] = {BYTES(block_q5_k, q, AS_IS), BYTES(block_q5_k, high, AS_IS), BYTES(block_q5_k, scales, AS_IS),
                     WORD(block_q5_k, d), WORD(block_q5_k, dmin)},
    [TENSOR_Q6_K] = {BYTES(block_q6_k, low, AS_IS), BYTES(block_q6_k, high, AS_IS), BYTES(block_q6_k, scales, AS_IS),
                     WORD(block_q6_k, d)},
    [TENSOR_IQ4_XS] = {BYTES(block_iq4_xs, q, AS_IS), BYTES(block_iq4_xs, scales_low, AS_IS), WORD(block_iq4_xs, d),
                       WORD(block_iq4_xs, scales_high)},
};

/* Bit 4 k + i to bit 8 i + k: a transposition of eight groups of four. */
static uint32_t spread_bits(uint32_t v)
{
    uint32_t out = 0;
    for (uint32_t n = 0; n < 32; n++)
        out |= (v >> n & 1) << (8 * (n % 4) + n / 4);
    return out;
}

static uint32_t gather_bits(uint32_t v)
{
    uint32_t out = 0;
    for (uint32_t n = 0; n < 32; n++)
        out |= (v >> (8 * (n % 4) + n / 4) & 1) << n;
    return out;
}

static void change_word(enum change how, bool back, void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    v = how == OFFSET_128 ? v ^ 0x80808080 : back ? gather_bits(v) : spread_bits(v);
    memcpy(p, &v, sizeof v);
}

/* How many blocks of a row a cell has that starts `block` blocks into it. */
static uint32_t cell_blocks(const struct tensor_type_info *info, uint32_t n_cols, uint32_t block)
{
    const uint32_t left = n_cols / info->block_elements - block;
    return info->block_elements != 32 ? 1 : left < LANES_CELL_BLOCKS ? left : LANES_CELL_BLOCKS;
}

/* A field of a block of 16 rows; size is a constant where it is called. */
static inline void field_to_lanes(const unsigned char *rows, size_t row_bytes, uint32_t n_units, size_t size,
                                  unsigned char *lanes)
{
    for (uint32_t u = 0; u < n_units; u++) {
        for (uint32_t r = 0; r < LANES; r++)
            memcpy(lanes + (u * LANES + r) * size, rows + r * row_bytes + u * size, size);
    }
}

static inline void field_to_rows(const unsigned char *lanes, uint32_t n_units, size_t size, unsigned char *rows,
                                 size_t row_bytes)
{
    for (uint32_t r = 0; r < LANES; r++) {
        for (uint32_t u = 0; u < n_units; u++)
            memcpy(rows + r * row_bytes + u * size, lanes + (u * LANES + r) * size, size);
    }
}

void lanes_pack(enum tensor_type t, const void *rows, size_t row_bytes, uint32_t n_cols, void *group)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    const unsigned char *in = rows;
    unsigned char *out = group;
    for (uint32_t at = 0; at < n_cols / info->block_elements;) {
        const uint32_t n = cell_blocks(info, n_cols, at);
        for (const struct field *f = fields[t]; f->unit; f++) {
            for (uint32_t b = 0; b < n; b++) {
                const unsigned char *p = in + (size_t)b * info->block_bytes + f->offset;
                const size_t bytes = (size_t)f->n_units * f->unit * LANES;
                if (f->unit == 4)
                    field_to_lanes(p, row_bytes, f->n_units, 4, out);
                else
                    field_to_lanes(p, row_bytes, f->n_units, f->unit, out);
                for (size_t i = 0; f->change && i < bytes; i += 4)
                    change_word((enum change)f->change, false, out + i);
                out += bytes;
            }
        }
        in += (size_t)n * info->block_bytes;
        at += n;
    }
}

void lanes_unpack(enum tensor_type t, const void *cells, uint32_t n_cols, void *rows, size_t row_bytes)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    const unsigned char *in = cells;
    unsigned char *out = rows;
    for (uint32_t at = 0; at < n_cols / info->block_elements;) {
        const uint32_t n = cell_blocks(info, n_cols, at);
        for (const struct field *f = fields[t]; f->unit; f++) {
            for (uint32_t b = 0; b < n; b++) {
                unsigned char *p = out + (size_t)b * info->block_bytes + f->offset;
                if (f->unit == 4)
                    field_to_rows(in, f->n_units, 4, p, row_bytes);
                else
                    field_to_rows(in, f->n_units, f->unit, p, row_bytes);
                for (size_t r = 0; f->change && r < LANES; r++) {
                    for (size_t u = 0; u < f->n_units; u++)
                        change_word((enum change)f->change, true, p + r * row_bytes + 4 * u);
                }
                in += (size_t)f->n_units * f->unit * LANES;
            }
        }
        out += (size_t)n * info->block_bytes;
        at += n;
    }
}

void lanes_unpack_row(enum tensor_type t, const void *group, uint32_t n_cols, uint32_t row, void *out)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    const unsigned char *in = group;
    unsigned char *block = out;
    for (uint32_t at = 0; at < n_cols / info->block_elements;) {
        const uint32_t n = cell_blocks(info, n_cols, at);
        for (const struct field *f = fields[t]; f->unit; f++) {
            for (uint32_t b = 0; b < n; b++) {
                unsigned char *p = block + (size_t)b * info->block_bytes + f->offset;
                for (uint32_t u = 0; u < f->n_units; u++, p += f->unit) {
                    memcpy(p, in + (u * LANES + row) * (size_t)f->unit, f->unit);
                    if (f->change)
                        change_word((enum change)f->change, true, p);
                }
                in += (size_t)f->n_units * f->unit * LANES;
            }
        }
        block += (size_t)n * info->block_bytes;
        at += n;
    }
}
