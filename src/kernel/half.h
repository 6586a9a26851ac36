/* 16-bit floats to and from float32 in plain C: exact widening, round to nearest even when narrowing. Pure. */
#ifndef WEIR_KERNEL_HALF_H
#define WEIR_KERNEL_HALF_H

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t magnitude = h & 0x7fff;
    if (magnitude < 0x0400) /* zero and subnormal: magnitude * 2^-24 is exact */
        return f32_from_bits(f32_bits((float)magnitude * 0x1p-24f) | sign);
    if (magnitude >= 0x7c00) /* infinity and NaN */
        return f32_from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00 ? 0x400000 : 0));
    return f32_from_bits(sign | ((magnitude << 13) + ((127 - 15) << 23)));
}

static inline uint16_t f16_from_f32(float f)
{
    uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) /* NaN: quiet, with the upper payload bits */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* subnormal result: adding 0.5 makes the hardware round at the right bit */
        uint32_t r = f32_bits(f32_from_bits(magnitude) + 0.5f) - 0x3f000000;
        return (uint16_t)(sign | r);
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13);
}

static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* The E8M0 scale of an MXFP4 block, halved: 2^(e - 128), exact down to the subnormals. */
static inline float mxfp4_scale(uint8_t e)
{
    return f32_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

#endif
