/* Blocks of 32 in lanes (kernel/lanes.h): where their fields stand, codes as bytes, scales as floats. A lane is a row. */
#ifndef WEIR_KERNEL_X86_LANES_BLOCK_CODES_H
#define WEIR_KERNEL_X86_LANES_BLOCK_CODES_H

#include "kernel/blocks.h"
#include "kernel/lanes.h"
#include "kernel/x86/vi.h"

/* Without VNNI the sum of two products of an unsigned byte and a signed one fits 16 bits only up to 128: with these
 * types codes and activations are widened to 16 bits. */
INLINE bool is_wide(enum tensor_type t)
{
#if defined __AVX512VNNI__
    (void)t;
    return false;
#else
    return t == TENSOR_Q8_0 || t == TENSOR_IQ4_NL;
#endif
}

/* Codes are made unsigned by adding this. */
INLINE int32_t code_offset(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q4_0:
        return 8;
    case TENSOR_Q5_0:
    case TENSOR_MXFP4:
        return 16;
    case TENSOR_Q8_0:
    case TENSOR_IQ4_NL:
        return 128;
    default:
        return 0;
    }
}

INLINE bool has_high(enum tensor_type t)
{
    return t == TENSOR_Q5_0 || t == TENSOR_Q5_1;
}

INLINE bool has_min(enum tensor_type t)
{
    return t == TENSOR_Q4_1 || t == TENSOR_Q5_1;
}

/* Bytes of 16 rows of a block: codes, a scale, everything. */
INLINE size_t code_bytes(enum tensor_type t)
{
    return LANES * (t == TENSOR_Q8_0 ? 32 : 16);
}

INLINE size_t scale_bytes(enum tensor_type t)
{
    return LANES * (t == TENSOR_MXFP4 ? 1 : 2);
}

INLINE size_t group_block_bytes(enum tensor_type t)
{
    return code_bytes(t) + (has_high(t) ? LANES * 4 : 0) + scale_bytes(t) * (has_min(t) ? 2 : 1);
}

/* Units k and k + 4 as unsigned bytes. */
INLINE void load_codes(enum tensor_type t, const uint8_t *codes, vi high, int k, vi *a, vi *b)
{
    *a = vi_load(codes + 64 * k);
    if (t == TENSOR_Q8_0) {
        *b = vi_load(codes + 64 * (k + 4));
        return;
    }
    const vi nibble = vi_set(0x0f0f0f0f);
    *b = vi_and(vi_shift_right(*a, 4), nibble);
    *a = vi_and(*a, nibble);
    if (has_high(t)) {
        const vi fifth = vi_set(0x10101010);
        *a = vi_or(*a, vi_and(vi_shift_left(high, 4 - k), fifth));
        *b = vi_or(*b, vi_and(vi_shift_right(high, k), fifth));
    } else if (t == TENSOR_IQ4_NL || t == TENSOR_MXFP4) {
        const vi offset = vi_set(t == TENSOR_MXFP4 ? 0x10101010 : (int32_t)0x80808080);
        const vi table = vi_add_8(vi_broadcast_16(t == TENSOR_MXFP4 ? code_mxfp4 : code_iq4), offset);
        *a = vi_lookup(table, *a);
        *b = vi_lookup(table, *b);
    }
}

INLINE vf load_scales(enum tensor_type t, const uint8_t *p)
{
    if (t == TENSOR_MXFP4)
        return vf_from_e8m0(p);
    return vf_from_f16((const uint16_t *)(const void *)p);
}

#endif
