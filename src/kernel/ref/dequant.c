/* Rows of weights to float32. */
#include "kernel/half.h"
#include "kernel/ref/ref.h"

#include <string.h>

static void dequant_f32(const void *row, uint32_t n, float *out)
{
    memcpy(out, row, (size_t)n * sizeof(float));
}

static uint16_t load_u16(const void *p, size_t i)
{
    uint16_t v;
    memcpy(&v, (const char *)p + i * sizeof v, sizeof v);
    return v;
}

static void dequant_f16(const void *row, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = f16_to_f32(load_u16(row, i));
}

static void dequant_bf16(const void *row, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = bf16_to_f32(load_u16(row, i));
}

static void dequant_blocks(enum tensor_type t, const void *row, uint32_t n, float *out)
{
    size_t block_bytes = tensor_type_info((uint32_t)t)->block_bytes;
    bool has_min = tensor_type_has_min(t);
    for (uint32_t b = 0; b < n / 32; b++) {
        struct unpacked_block u;
        ref_unpack_block[t]((const char *)row + b * block_bytes, &u);
        for (int i = 0; i < 32; i++) {
            float w = u.d * (float)u.q[i];
            *out++ = has_min ? w + u.m : w;
        }
    }
}

static void dequant_supers(enum tensor_type t, const void *row, uint32_t n, float *out)
{
    size_t block_bytes = tensor_type_info((uint32_t)t)->block_bytes;
    bool has_min = tensor_type_has_min(t);
    for (uint32_t b = 0; b < n / 256; b++) {
        struct unpacked_super u;
        ref_unpack_super[t]((const char *)row + b * block_bytes, &u);
        for (int i = 0; i < 256; i++) {
            float w = u.d * (float)u.scale[i / 16] * (float)u.q[i];
            *out++ = has_min ? w - u.dmin * (float)u.min[i / 16] : w;
        }
    }
}

#define DEQUANT(name, type, kind)                                                                                      \
    static void dequant_##name(const void *row, uint32_t n, float *out)                                                \
    {                                                                                                                  \
        dequant_##kind(type, row, n, out);                                                                             \
    }
DEQUANT(q8_0, TENSOR_Q8_0, blocks)
DEQUANT(q4_0, TENSOR_Q4_0, blocks)
DEQUANT(q4_1, TENSOR_Q4_1, blocks)
DEQUANT(q5_0, TENSOR_Q5_0, blocks)
DEQUANT(q5_1, TENSOR_Q5_1, blocks)
DEQUANT(iq4_nl, TENSOR_IQ4_NL, blocks)
DEQUANT(mxfp4, TENSOR_MXFP4, blocks)
DEQUANT(q2_k, TENSOR_Q2_K, supers)
DEQUANT(q3_k, TENSOR_Q3_K, supers)
DEQUANT(q4_k, TENSOR_Q4_K, supers)
DEQUANT(q5_k, TENSOR_Q5_K, supers)
DEQUANT(q6_k, TENSOR_Q6_K, supers)
DEQUANT(iq4_xs, TENSOR_IQ4_XS, supers)

void ref_init_dequant(struct kernels *k)
{
    k->dequant[TENSOR_F32] = dequant_f32;
    k->dequant[TENSOR_F16] = dequant_f16;
    k->dequant[TENSOR_BF16] = dequant_bf16;
    k->dequant[TENSOR_Q8_0] = dequant_q8_0;
    k->dequant[TENSOR_Q4_0] = dequant_q4_0;
    k->dequant[TENSOR_Q4_1] = dequant_q4_1;
    k->dequant[TENSOR_Q5_0] = dequant_q5_0;
    k->dequant[TENSOR_Q5_1] = dequant_q5_1;
    k->dequant[TENSOR_IQ4_NL] = dequant_iq4_nl;
    k->dequant[TENSOR_MXFP4] = dequant_mxfp4;
    k->dequant[TENSOR_Q2_K] = dequant_q2_k;
    k->dequant[TENSOR_Q3_K] = dequant_q3_k;
    k->dequant[TENSOR_Q4_K] = dequant_q4_k;
    k->dequant[TENSOR_Q5_K] = dequant_q5_k;
    k->dequant[TENSOR_Q6_K] = dequant_q6_k;
    k->dequant[TENSOR_IQ4_XS] = dequant_iq4_xs;
}
