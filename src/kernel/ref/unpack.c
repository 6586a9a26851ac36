/* What the codes of each block mean: see kernel/blocks.h for the layouts. */
#include "kernel/half.h"
#include "kernel/ref/ref.h"

#include <string.h>

/* ---- blocks of 32 ---- */

/* Code of element i: nibbles, low ones first. */
static int nibble(const uint8_t *q, int i)
{
    return i < 16 ? q[i] & 15 : q[i - 16] >> 4;
}

static int bit(const uint8_t *bits, int i)
{
    return bits[i / 8] >> (i % 8) & 1;
}

static void unpack_q8_0(const void *block, struct unpacked_block *out)
{
    const struct block_q8_0 *b = block;
    out->d = f16_to_f32(b->d);
    out->m = 0;
    memcpy(out->q, b->q, 32);
}

static void unpack_q4_0(const void *block, struct unpacked_block *out)
{
    const struct block_q4_0 *b = block;
    out->d = f16_to_f32(b->d);
    out->m = 0;
    for (int i = 0; i < 32; i++)
        out->q[i] = (int8_t)(nibble(b->q, i) - 8);
}

static void unpack_q4_1(const void *block, struct unpacked_block *out)
{
    const struct block_q4_1 *b = block;
    out->d = f16_to_f32(b->d);
    out->m = f16_to_f32(b->m);
    for (int i = 0; i < 32; i++)
        out->q[i] = (int8_t)nibble(b->q, i);
}

static void unpack_q5_0(const void *block, struct unpacked_block *out)
{
    const struct block_q5_0 *b = block;
    out->d = f16_to_f32(b->d);
    out->m = 0;
    for (int i = 0; i < 32; i++)
        out->q[i] = (int8_t)((nibble(b->q, i) | bit(b->high, i) << 4) - 16);
}

static void unpack_q5_1(const void *block, struct unpacked_block *out)
{
    const struct block_q5_1 *b = block;
    out->d = f16_to_f32(b->d);
    out->m = f16_to_f32(b->m);
    for (int i = 0; i < 32; i++)
        out->q[i] = (int8_t)(nibble(b->q, i) | bit(b->high, i) << 4);
}

static void unpack_iq4_nl(const void *block, struct unpacked_block *out)
{
    const struct block_iq4_nl *b = block;
    out->d = f16_to_f32(b->d);
    out->m = 0;
    for (int i = 0; i < 32; i++)
        out->q[i] = code_iq4[nibble(b->q, i)];
}

static void unpack_mxfp4(const void *block, struct unpacked_block *out)
{
    const struct block_mxfp4 *b = block;
    out->d = mxfp4_scale(b->e);
    out->m = 0;
    for (int i = 0; i < 32; i++)
        out->q[i] = code_mxfp4[nibble(b->q, i)];
}

/* ---- super-blocks of 256 ---- */

static void no_mins(struct unpacked_super *out)
{
    out->dmin = 0;
    memset(out->min, 0, sizeof out->min);
}

static void unpack_q2_k(const void *block, struct unpacked_super *out)
{
    const struct block_q2_k *b = block;
    out->d = f16_to_f32(b->d);
    out->dmin = f16_to_f32(b->dmin);
    for (int s = 0; s < 16; s++) {
        out->scale[s] = (int8_t)(b->scales[s] & 15);
        out->min[s] = b->scales[s] >> 4;
    }
    for (int i = 0; i < 256; i++)
        out->q[i] = (int8_t)(b->q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
}

static void unpack_q3_k(const void *block, struct unpacked_super *out)
{
    const struct block_q3_k *b = block;
    out->d = f16_to_f32(b->d);
    no_mins(out);
    for (int s = 0; s < 16; s++) {
        int low = b->scales[s % 8] >> (s / 8 * 4) & 15;
        int high = b->scales[8 + s % 4] >> (s / 4 * 2) & 3;
        out->scale[s] = (int8_t)((low | high << 4) - 32);
    }
    for (int i = 0; i < 256; i++) {
        int low = b->q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        int high = b->high[i % 32] >> (i / 32) & 1;
        out->q[i] = (int8_t)((low | high << 2) - 4);
    }
}

static void unpack_scales_q4_k(const uint8_t *scales, struct unpacked_super *out)
{
    for (int s = 0; s < 16; s++) {
        int j = s / 2;
        if (j < 4) {
            out->scale[s] = (int8_t)(scales[j] & 63);
            out->min[s] = scales[j + 4] & 63;
        } else {
            out->scale[s] = (int8_t)((scales[j + 4] & 15) | scales[j - 4] >> 6 << 4);
            out->min[s] = (uint8_t)(scales[j + 4] >> 4 | scales[j] >> 6 << 4);
        }
    }
}

static void unpack_q4_k(const void *block, struct unpacked_super *out)
{
    const struct block_q4_k *b = block;
    out->d = f16_to_f32(b->d);
    out->dmin = f16_to_f32(b->dmin);
    unpack_scales_q4_k(b->scales, out);
    for (int i = 0; i < 256; i++)
        out->q[i] = (int8_t)(b->q[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15);
}

static void unpack_q5_k(const void *block, struct unpacked_super *out)
{
    const struct block_q5_k *b = block;
    out->d = f16_to_f32(b->d);
    out->dmin = f16_to_f32(b->dmin);
    unpack_scales_q4_k(b->scales, out);
    for (int i = 0; i < 256; i++) {
        int low = b->q[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
        int high = b->high[i % 32] >> (i / 32) & 1;
        out->q[i] = (int8_t)(low | high << 4);
    }
}

static void unpack_q6_k(const void *block, struct unpacked_super *out)
{
    const struct block_q6_k *b = block;
    out->d = f16_to_f32(b->d);
    no_mins(out);
    memcpy(out->scale, b->scales, 16);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, low = b->low[half * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        int high = b->high[half * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        out->q[i] = (int8_t)((low | high << 4) - 32);
    }
}

static void unpack_iq4_xs(const void *block, struct unpacked_super *out)
{
    const struct block_iq4_xs *b = block;
    out->d = f16_to_f32(b->d);
    no_mins(out);
    for (int s = 0; s < 16; s++) {
        int j = s / 2, low = b->scales_low[j / 2] >> (j % 2 * 4) & 15, high = b->scales_high >> (2 * j) & 3;
        out->scale[s] = (int8_t)((low | high << 4) - 32);
    }
    for (int i = 0; i < 256; i++)
        out->q[i] = code_iq4[nibble(b->q + i / 32 * 16, i % 32)];
}

const unpack_block_fn ref_unpack_block[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q8_0] = unpack_q8_0,   [TENSOR_Q4_0] = unpack_q4_0, [TENSOR_Q4_1] = unpack_q4_1,
    [TENSOR_Q5_0] = unpack_q5_0,   [TENSOR_Q5_1] = unpack_q5_1, [TENSOR_IQ4_NL] = unpack_iq4_nl,
    [TENSOR_MXFP4] = unpack_mxfp4,
};

const unpack_super_fn ref_unpack_super[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q2_K] = unpack_q2_k, [TENSOR_Q3_K] = unpack_q3_k, [TENSOR_Q4_K] = unpack_q4_k,
    [TENSOR_Q5_K] = unpack_q5_k, [TENSOR_Q6_K] = unpack_q6_k, [TENSOR_IQ4_XS] = unpack_iq4_xs,
};
