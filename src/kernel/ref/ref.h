/* The reference kernels, and the unpacking of blocks that they share: plain C, written to be read. What a block's codes
 * mean stands here once; dequant and matmul follow from it. */
#ifndef WEIR_KERNEL_REF_REF_H
#define WEIR_KERNEL_REF_REF_H

#include "kernel/blocks.h"
#include "kernel/kernel.h"

/* Fills the whole table. */
void kernels_init_ref(struct kernels *k);

void ref_init_dequant(struct kernels *k);
void ref_init_matmul(struct kernels *k);
void ref_init_act(struct kernels *k);
void ref_init_vector(struct kernels *k);
void ref_attention(const struct attn_args *a);
void ref_attn_fold(const struct attn_state *total, const struct attn_state *span, uint32_t n, uint32_t head_dim);

/* A block of 32: w = d * q + m. */
struct unpacked_block {
    int8_t q[32];
    float d, m;
};

/* A super-block of 256: w = d * scale[i / 16] * q - dmin * min[i / 16]. */
struct unpacked_super {
    int8_t q[256];
    int8_t scale[16];
    uint8_t min[16];
    float d, dmin;
};

/* By tensor type; NULL where the type has no such block. */
typedef void (*unpack_block_fn)(const void *block, struct unpacked_block *out);
typedef void (*unpack_super_fn)(const void *block, struct unpacked_super *out);
extern const unpack_block_fn ref_unpack_block[TENSOR_TYPE_COUNT];
extern const unpack_super_fn ref_unpack_super[TENSOR_TYPE_COUNT];

/* Types with a min of their own. */
static inline bool tensor_type_has_min(enum tensor_type t)
{
    return t == TENSOR_Q4_1 || t == TENSOR_Q5_1 || t == TENSOR_Q2_K || t == TENSOR_Q4_K || t == TENSOR_Q5_K;
}

#endif
