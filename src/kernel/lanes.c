#include "kernel/lanes.h"

#include "kernel/blocks.h"

#include <stdbool.h>
#include <string.h>

enum change { AS_IS, OFFSET_128, SPREAD_BITS };

/* Unit u of n_units stands at u, or at (u / 8 / n_runs * 8 + u % 8) * period + u / 8 % n_runs + before where two fields are
 * woven: the first one has several runs of eight units, `before` counts from the end of it for the second one. */
struct field {
    uint8_t offset, unit, n_units; /* unit: bytes; 0 ends the list */
    uint8_t change;
    uint8_t n_runs, period;
    int8_t before;
};

#define UNITS(type, member, how, n_runs, period, before)                                                               \
    {                                                                                                                  \
        offsetof(struct type, member), 4, sizeof((struct type *)0)->member / 4, how, n_runs, period, before            \
    }
#define BYTES(type, member, how) UNITS(type, member, how, 1, 1, 0)
/* codes with n_runs units of each unit of high bits */
#define WOVEN(type, codes, high, n_runs)                                                                               \
    UNITS(type, codes, AS_IS, n_runs, n_runs + 1, 0),                                                                  \
        UNITS(type, high, AS_IS, 1, n_runs + 1, n_runs - (int)sizeof((struct type *)0)->codes / 4)
#define WORD(type, member)                                                                                             \
    {                                                                                                                  \
        offsetof(struct type, member), 2, 1, AS_IS, 1, 1, 0                                                            \
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
    [TENSOR_MXFP4] = {BYTES(block_mxfp4, q, AS_IS), {offsetof(struct block_mxfp4, e), 1, 1, AS_IS, 1, 1, 0}},
    [TENSOR_Q2_K] = {BYTES(block_q2_k, q, AS_IS), BYTES(block_q2_k, scales, AS_IS), WORD(block_q2_k, d),
                     WORD(block_q2_k, dmin)},
    [TENSOR_Q3_K] = {WOVEN(block_q3_k, q, high, 2), BYTES(block_q3_k, scales, AS_IS), WORD(block_q3_k, d)},
    [TENSOR_Q4_K] = {BYTES(block_q4_k, q, AS_IS), BYTES(block_q4_k, scales, AS_IS), WORD(block_q4_k, d),
                     WORD(block_q4_k, dmin)},
    [TENSOR_Q5_K] = {WOVEN(block_q5_k, q, high, 4), BYTES(block_q5_k, scales, AS_IS), WORD(block_q5_k, d),
                     WORD(block_q5_k, dmin)},
    [TENSOR_Q6_K] = {WOVEN(block_q6_k, low, high, 2), BYTES(block_q6_k, scales, AS_IS), WORD(block_q6_k, d)},
    [TENSOR_IQ4_XS] = {BYTES(block_iq4_xs, q, AS_IS), BYTES(block_iq4_xs, scales_low, AS_IS), WORD(block_iq4_xs, d),
                       WORD(block_iq4_xs, scales_high)},
};

/* Vectors of what every machine has (SSE2, NEON): wider ones don't help, since memory takes longer than this. */
typedef uint32_t words __attribute__((vector_size(16)));
#define WORDS 4
#define INLINE static inline __attribute__((always_inline))

/* The bits of `low` and those s places above them change places. */
INLINE words swap_bits(words v, uint32_t low, int s)
{
    const words t = (v >> s ^ v) & low;
    return v ^ t ^ t << s;
}

/* Bit 4 k + i to bit 8 i + k: the five bits of a bit's place, rotated by two. */
INLINE words spread_bits(words v)
{
    v = swap_bits(swap_bits(v, 0x0000cccc, 14), 0x00aa00aa, 7);
    return swap_bits(swap_bits(v, 0x0c0c0c0c, 2), 0x22222222, 1);
}

INLINE words gather_bits(words v)
{
    v = swap_bits(swap_bits(v, 0x22222222, 1), 0x0c0c0c0c, 2);
    return swap_bits(swap_bits(v, 0x00aa00aa, 7), 0x0000cccc, 14);
}

INLINE words changed(enum change how, words v)
{
    return how == AS_IS ? v : how == OFFSET_128 ? v ^ 0x80808080 : spread_bits(v);
}

INLINE words load(const unsigned char *p)
{
    words v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(unsigned char *p, words v)
{
    memcpy(p, &v, sizeof v);
}

/* Four words of four rows, transposed. */
INLINE void transpose(enum change how, const unsigned char *in, size_t in_stride, unsigned char *out, size_t out_stride)
{
    const words a = changed(how, load(in)), b = changed(how, load(in + in_stride));
    const words c = changed(how, load(in + 2 * in_stride)), d = changed(how, load(in + 3 * in_stride));
    const words ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    store(out, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    store(out + out_stride, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
    const words ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store(out + 2 * out_stride, __builtin_shufflevector(ef, gh, 0, 1, 4, 5));
    store(out + 3 * out_stride, __builtin_shufflevector(ef, gh, 2, 3, 6, 7));
}

/* Sixteen rows' units of a few bytes, which need no transposition; size is a constant. */
INLINE void unit_to_lanes(const unsigned char *rows, size_t row_bytes, size_t size, unsigned char *lanes)
{
    for (uint32_t r = 0; r < LANES; r++)
        memcpy(lanes + r * size, rows + r * row_bytes, size);
}

INLINE void change_unit(enum change how, unsigned char *lanes)
{
    for (uint32_t r = 0; r < LANES; r += WORDS)
        store(lanes + 4 * r, changed(how, load(lanes + 4 * r)));
}

/* Where 16 rows of unit u stand, from where the field would begin. */
INLINE ptrdiff_t unit_at(const struct field *f, uint32_t u)
{
    const uint32_t units = (u / 8 / f->n_runs * 8 + u % 8) * f->period + u / 8 % f->n_runs;
    return ((ptrdiff_t)units + f->before) * f->unit * LANES;
}

/* A field of words of a block of 16 rows; `how` is a constant. */
INLINE void words_to_lanes(enum change how, const struct field *f, const unsigned char *rows, size_t row_bytes,
                           unsigned char *lanes)
{
    uint32_t u = 0;
    for (; u + WORDS <= f->n_units; u += WORDS) {
        for (uint32_t r = 0; r < LANES; r += WORDS)
            transpose(how, rows + r * row_bytes + 4 * u, row_bytes, lanes + unit_at(f, u) + 4 * r,
                      (size_t)f->period * LANES * 4);
    }
    for (; u < f->n_units; u++) {
        unit_to_lanes(rows + 4 * u, row_bytes, 4, lanes + unit_at(f, u));
        change_unit(how, lanes + unit_at(f, u));
    }
}

static void field_to_lanes(const struct field *f, const unsigned char *rows, size_t row_bytes, unsigned char *lanes)
{
    if (f->unit == 1)
        unit_to_lanes(rows, row_bytes, 1, lanes);
    else if (f->unit == 2)
        unit_to_lanes(rows, row_bytes, 2, lanes);
    else if (f->change == AS_IS)
        words_to_lanes(AS_IS, f, rows, row_bytes, lanes);
    else if (f->change == OFFSET_128)
        words_to_lanes(OFFSET_128, f, rows, row_bytes, lanes);
    else
        words_to_lanes(SPREAD_BITS, f, rows, row_bytes, lanes);
}

/* A word of a row, back from its lane. */
static void change_word(enum change how, unsigned char *p)
{
    words v = {0};
    memcpy(&v, p, sizeof v[0]);
    v = how == OFFSET_128 ? v ^ 0x80808080 : gather_bits(v);
    memcpy(p, &v, sizeof v[0]);
}

/* How many blocks of a row a cell has that starts `block` blocks into it. */
static uint32_t cell_blocks(const struct tensor_type_info *info, uint32_t n_cols, uint32_t block)
{
    const uint32_t left = n_cols / info->block_elements - block;
    return info->block_elements != 32 ? 1 : left < LANES_CELL_BLOCKS ? left : LANES_CELL_BLOCKS;
}

static size_t field_bytes(const struct field *f)
{
    return (size_t)f->n_units * f->unit * LANES;
}

#define LINE_PAIRS 16u

/* Pairs of columns of BF16. Line by line of the rows: those a power of two apart displace each other from a cache. */
static void pairs_to_lanes(const unsigned char *rows, size_t row_bytes, uint32_t n_cols, unsigned char *lanes)
{
    uint32_t left = n_cols / 2;
    for (; left >= LINE_PAIRS; left -= LINE_PAIRS, rows += 4 * LINE_PAIRS, lanes += 4 * LINE_PAIRS * LANES) {
        for (uint32_t r = 0; r < LANES; r += WORDS) {
            for (uint32_t u = 0; u < LINE_PAIRS; u += WORDS)
                transpose(AS_IS, rows + r * row_bytes + 4 * u, row_bytes, lanes + (u * LANES + r) * 4, LANES * 4);
        }
    }
    for (; left; left--, rows += 4, lanes += 4 * LANES)
        unit_to_lanes(rows, row_bytes, 4, lanes);
    if (n_cols % 2)
        unit_to_lanes(rows, row_bytes, 2, lanes);
}

static void pairs_of_row(const unsigned char *lanes, uint32_t n_cols, uint32_t row, unsigned char *out)
{
    uint32_t pair = 0;
    for (; pair < n_cols / 2; pair++)
        memcpy(out + 4 * pair, lanes + (pair * LANES + row) * (size_t)4, 4);
    if (n_cols % 2)
        memcpy(out + 4 * pair, lanes + pair * LANES * (size_t)4 + 2 * row, 2);
}

void lanes_pack(enum tensor_type t, const void *rows, size_t row_bytes, uint32_t n_cols, void *group)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    const unsigned char *in = rows;
    unsigned char *out = group;
    if (t == TENSOR_BF16) {
        pairs_to_lanes(in, row_bytes, n_cols, out);
        return;
    }
    for (uint32_t at = 0; at < n_cols / info->block_elements;) {
        const uint32_t n = cell_blocks(info, n_cols, at);
        for (const struct field *f = fields[t]; f->unit; f++) {
            for (uint32_t b = 0; b < n; b++, out += field_bytes(f))
                field_to_lanes(f, in + (size_t)b * info->block_bytes + f->offset, row_bytes, out);
        }
        in += (size_t)n * info->block_bytes;
        at += n;
    }
}

void lanes_unpack_row(enum tensor_type t, const void *group, uint32_t n_cols, uint32_t row, void *out)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    const unsigned char *in = group;
    unsigned char *block = out;
    if (t == TENSOR_BF16) {
        pairs_of_row(in, n_cols, row, out);
        return;
    }
    for (uint32_t at = 0; at < n_cols / info->block_elements;) {
        const uint32_t n = cell_blocks(info, n_cols, at);
        for (const struct field *f = fields[t]; f->unit; f++) {
            for (uint32_t b = 0; b < n; b++, in += field_bytes(f)) {
                unsigned char *p = block + (size_t)b * info->block_bytes + f->offset;
                for (uint32_t u = 0; u < f->n_units; u++, p += f->unit) {
                    memcpy(p, in + unit_at(f, u) + row * f->unit, f->unit);
                    if (f->change)
                        change_word((enum change)f->change, p);
                }
            }
        }
        block += (size_t)n * info->block_bytes;
        at += n;
    }
}
