/* Super-blocks in lanes (kernel/lanes.h): codes as bytes, scales of sub-blocks, d and dmin. A lane is a row. */
#ifndef WEIR_KERNEL_X86_LANES_SUPER_CODES_H
#define WEIR_KERNEL_X86_LANES_SUPER_CODES_H

#include "kernel/lanes.h"
#include "kernel/x86/vi.h"

#if defined __AVX512F__
#include "kernel/x86/simd512.h"
#define HALVES 1 /* registers that hold 16 rows */
#else
#include "kernel/x86/simd256.h"
#define HALVES 2
#endif
#include "kernel/x86/types.h"

/* Whether four products of bytes are summed to 32 bits at once. Defined before, by a file that multiplies otherwise. */
#if !defined HAS_DOT && defined __AVX512VNNI__
#define HAS_DOT 1
#elif !defined HAS_DOT
#define HAS_DOT 0
#endif

INLINE const uint8_t *unit_at(const uint8_t *cell, int unit)
{
    return cell + 64 * unit;
}

INLINE vi bytes(int v)
{
    return vi_set((int32_t)((uint32_t)v * 0x01010101u));
}

/* To the right by n bits; n < 0: to the left. */
INLINE vi shift(vi v, int n)
{
    return n == 0 ? v : n > 0 ? vi_shift_right(v, n) : vi_shift_left(v, -n);
}

/* ---- what the types are ---- */

/* Whether scales belong to 32 elements, not 16. */
INLINE bool is_wide(enum tensor_type t)
{
    return scale_word(t, 1) == 0;
}

/* Whether the high bits of codes are a field of their own. */
INLINE bool has_high(enum tensor_type t)
{
    return t == TENSOR_Q3_K || t == TENSOR_Q5_K || t == TENSOR_Q6_K;
}

/* value = code - offset */
INLINE int code_offset(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q6_K:
        return 32;
    case TENSOR_Q3_K:
        return 4;
    case TENSOR_IQ4_XS:
        return HAS_DOT ? 128 : 0;
    default:
        return 0;
    }
}

/* Where the units of d start. */
INLINE int d_unit(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q2_K:
        return 20;
    case TENSOR_Q3_K:
        return 27;
    case TENSOR_Q4_K:
        return 35;
    case TENSOR_Q5_K:
        return 43;
    case TENSOR_Q6_K:
        return 52;
    default:
        return 33;
    }
}

/* So many pairs of products fit 16 bits: 2 * 127 * code each. */
INLINE int units_that_fit(enum tensor_type t)
{
    switch (t) {
    case TENSOR_Q4_K:
        return 8;
    case TENSOR_Q6_K:
        return 2;
    case TENSOR_IQ4_XS:
        return 1;
    default:
        return 4;
    }
}

/* With VNNI codes may stay where they are in their byte, times 2^n; scales make up for it to 2^left_shift(). */
INLINE int left_shift(enum tensor_type t)
{
    return !HAS_DOT ? 0 : t == TENSOR_Q4_K ? 4 : t == TENSOR_Q2_K ? 6 : 0;
}

INLINE int left_shift_of_codes(enum tensor_type t, int s)
{
    return !HAS_DOT ? 0 : t == TENSOR_Q4_K ? s % 2 * 4 : t == TENSOR_Q2_K ? s % 4 * 2 : 0;
}

/* How many units of codes share one of high bits, which follows them (kernel/lanes.h). */
INLINE int woven(enum tensor_type t)
{
    return t == TENSOR_Q5_K ? 4 : 2;
}

/* Units of the codes, 8 (n h + v) + u, and of their high bits, where these are woven. */
INLINE const uint8_t *woven_codes(enum tensor_type t, const uint8_t *cell, int h, int v, int u)
{
    return unit_at(cell, (8 * h + u) * (woven(t) + 1) + v);
}
INLINE const uint8_t *woven_high(enum tensor_type t, const uint8_t *cell, int h, int u)
{
    return woven_codes(t, cell, h, woven(t), u);
}

/* ---- unpacking ---- */

/* Unit u of sub-block s of 32, from a cell (or its second half of rows). */
INLINE vi codes(enum tensor_type t, const uint8_t *cell, int s, int u)
{
    const int left = left_shift_of_codes(t, s);
    if (t == TENSOR_Q4_K)
        return vi_and(shift(vi_load(unit_at(cell, s / 2 * 8 + u)), s % 2 * 4 - left), bytes(15 << left));
    if (t == TENSOR_Q5_K) {
        const vi low = vi_and(shift(vi_load(woven_codes(t, cell, 0, s / 2, u)), s % 2 * 4), bytes(15));
        return vi_and_or(shift(vi_load(woven_high(t, cell, 0, u)), s - 4), bytes(16), low);
    }
    if (t == TENSOR_Q6_K) {
        const int half = s / 4, j = s % 4;
        const vi raw = vi_load(woven_codes(t, cell, half, j % 2, u));
        const vi high = vi_and(shift(vi_load(woven_high(t, cell, half, u)), 2 * j - 4), bytes(0x30));
        return vi_and_or(shift(raw, j / 2 * 4), bytes(15), high);
    }
    if (t == TENSOR_IQ4_XS) {
        static const uint8_t offset_128[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
        const vi raw = vi_and(shift(vi_load(unit_at(cell, 4 * s + u % 4)), u / 4 * 4), bytes(15));
        return vi_lookup(vi_broadcast_16(HAS_DOT ? (const void *)offset_128 : code_iq4), raw);
    }
    const vi raw = vi_load(t == TENSOR_Q2_K ? unit_at(cell, s / 4 * 8 + u) : woven_codes(t, cell, 0, s / 4, u));
    const vi low = vi_and(shift(raw, s % 4 * 2 - left), bytes(3 << left));
    return t == TENSOR_Q2_K ? low : vi_and_or(shift(vi_load(woven_high(t, cell, 0, u)), s - 2), bytes(4), low);
}

/* Byte b of each lane as a factor, times 2^left: a number of 32 bits with VNNI, else twice 16 bits. */
INLINE vi factor(vi v, int b, bool is_signed, int left)
{
#if HAS_DOT
    if (is_signed)
        return vi_shift_signed(b == 3 ? v : shift(v, 8 * b - 24), 24);
    return b == 3 && !left ? shift(v, 24) : vi_and(shift(v, 8 * b - left), vi_set(255 << left));
#else
    (void)left;
    const uint8_t z = 128, c = (uint8_t)b;
    const uint8_t to_low[16] = {c, z, c, z, c + 4, z, c + 4, z, c + 8, z, c + 8, z, c + 12, z, c + 12, z};
    const uint8_t to_high[16] = {z, c, z, c, z, c + 4, z, c + 4, z, c + 8, z, c + 8, z, c + 12, z, c + 12};
    if (!is_signed)
        return vi_lookup(v, vi_broadcast_16(to_low));
    return vi_odd_bytes_signed(vi_lookup(v, vi_broadcast_16(to_high)));
#endif
}

/* Bytes 0 and 2, or 1 and 3, as words. */
INLINE vi word_pair(vi v, int odd)
{
    return vi_and(shift(v, 8 * odd), vi_set(0x00ff00ff));
}
INLINE vi word_pair_signed(vi v, int odd)
{
    return vi_odd_bytes_signed(odd ? v : shift(v, -8));
}

/* Whether pairs of scales take back the offset of codes: where the 16 bits have no room to begin at it. */
INLINE bool has_offset_pairs(enum tensor_type t)
{
    return !HAS_DOT && t == TENSOR_Q6_K;
}

/* How many factors a super-block has, and pairs of words. */
INLINE int scales_of(enum tensor_type t)
{
    return is_wide(t) ? 8 : 16;
}

INLINE int pairs_of(enum tensor_type t)
{
    return has_mins(t) || has_offset_pairs(t) ? scales_of(t) / 2 : 0;
}

INLINE bool has_first_sums(enum tensor_type t)
{
    return code_offset(t) && !has_offset_pairs(t);
}

/* The scales of a cell, a byte each, and mins likewise. IQ4_XS: as they are in the block. */
struct scale_bytes {
    vi scale[4], min[4];
};

INLINE void unpack_scales_q4_k(const uint8_t *units, struct scale_bytes *out)
{
    const vi u0 = vi_load(units), u1 = vi_load(unit_at(units, 1)), u2 = vi_load(unit_at(units, 2));
    out->scale[0] = vi_and(u0, bytes(63));
    out->scale[1] = vi_and_or(u2, bytes(15), vi_and(shift(u0, 2), bytes(0x30)));
    out->min[0] = vi_and(u1, bytes(63));
    out->min[1] = vi_and_or(shift(u2, 4), bytes(15), vi_and(shift(u1, 2), bytes(0x30)));
}

INLINE void unpack_scales(enum tensor_type t, const uint8_t *cell, int half, struct scale_bytes *out)
{
    if (t == TENSOR_Q4_K || t == TENSOR_Q5_K) {
        unpack_scales_q4_k(unit_at(cell, d_unit(t) - 3), out);
        return;
    }
    if (t == TENSOR_IQ4_XS) {
        out->scale[0] = vi_load(unit_at(cell, 32));
        out->scale[1] = vi_from_u16(unit_at(cell, 33) + 32 - 16 * half);
        return;
    }
    UNROLL for (int k = 0; k < 4; k++)
    {
        if (t == TENSOR_Q2_K) {
            const vi both = vi_load(unit_at(cell, 16 + k));
            out->scale[k] = vi_and(both, bytes(15));
            out->min[k] = vi_and(shift(both, 4), bytes(15));
        } else if (t == TENSOR_Q6_K) {
            out->scale[k] = vi_load(unit_at(cell, 48 + k));
        } else {
            const vi low = shift(vi_load(unit_at(cell, 24 + k % 2)), k / 2 * 4);
            const vi high = vi_and(shift(vi_load(unit_at(cell, 26)), 2 * k - 4), bytes(0x30));
            out->scale[k] = vi_sub_8(vi_and_or(low, bytes(15), high), bytes(32));
        }
    }
}

/* The factor of sub-block s of 16 (or 32). */
INLINE vi scale_of(enum tensor_type t, const struct scale_bytes *b, int s)
{
    if (t == TENSOR_IQ4_XS) {
        const vi top = vi_and(shift(b->scale[1], 2 * s - 4), vi_set(0x30));
        const vi v = vi_sub(vi_and_or(shift(b->scale[0], 4 * s), vi_set(15), top), vi_set(32));
        return HAS_DOT ? v : vi_and_or(v, vi_set(0xffff), shift(v, -16));
    }
    const int left = left_shift(t) - left_shift_of_codes(t, is_wide(t) ? s : s / 2);
    return factor(b->scale[s / 4], s % 4, t == TENSOR_Q6_K || t == TENSOR_Q3_K, left);
}

/* Words to multiply pair k of sums with: mins, or scales where an offset needs them. */
INLINE vi pair_of(enum tensor_type t, const struct scale_bytes *b, int k)
{
    return has_mins(t) ? word_pair(b->min[k / 2], k % 2) : word_pair_signed(b->scale[k / 2], k % 2);
}

INLINE void load_d(enum tensor_type t, const uint8_t *cell, vf d[HALVES], vf minus_dmin[HALVES])
{
    const uint16_t *p = (const uint16_t *)(const void *)unit_at(cell, d_unit(t));
    UNROLL for (int h = 0; h < HALVES; h++)
    {
        d[h] = vf_from_f16(p + 8 * h);
        minus_dmin[h] = has_mins(t) ? vf_mul(vf_from_f16(p + 8 * h + LANES), vf_set(-1)) : vf_zero();
    }
}

#endif
