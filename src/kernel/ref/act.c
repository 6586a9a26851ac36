/* Packing of activation rows. */
#include "kernel/half.h"
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

static void pack_f32(const float *x, uint32_t n, void *out)
{
    memcpy(out, x, (size_t)n * sizeof(float));
}

static void put_bf16(float x, uint16_t *out)
{
    uint16_t h = bf16_from_f32(x);
    memcpy(out, &h, sizeof h);
}

static void pack_bf16(const float *x, uint32_t n, void *out)
{
    memset(out, 0, ((size_t)n + 31) / 32 * 32 * sizeof(uint16_t));
    for (uint32_t i = 0; i < n; i++)
        put_bf16(x[i], (uint16_t *)out + i);
}

/* The scale d of n values, and in *inverse what to multiply them with before rounding. */
static float quant_scale(const float *x, int n, float *inverse)
{
    float peak = 0;
    for (int i = 0; i < n; i++)
        peak = fmaxf(peak, fabsf(x[i]));
    bool tiny = peak < ACT_TINY;
    *inverse = tiny ? 0 : 127.0f / peak;
    return tiny ? 0 : peak / 127.0f;
}

/* Rounds to nearest even. |x * inverse| is 127 at most, but for rounding. */
static int8_t quant_code(float x, float inverse)
{
    return (int8_t)lrintf(x * inverse);
}

static void pack_q8(const float *x, uint32_t n, void *out)
{
    struct act_q8 *g = out;
    for (uint32_t first = 0; first < n; first += ACT_Q8_GROUP, g++) {
        memset(g, 0, sizeof *g);
        for (uint32_t b = 0; b < ACT_Q8_BLOCKS && first + 32 * b < n; b++) {
            const float *v = x + first + 32 * b;
            float inverse;
            g->d[b] = quant_scale(v, 32, &inverse);
            for (uint32_t i = 0; i < 32; i++) {
                int8_t q = quant_code(v[i], inverse);
                g->q[64 * (i / 16) + 16 * b + i % 16] = q;
                g->sum[b] += q;
            }
        }
    }
}

static void pack_q8k(const float *x, uint32_t n, void *out)
{
    struct act_q8k *g = out;
    for (uint32_t first = 0; first < n; first += 256, g++) {
        float inverse;
        memset(g, 0, sizeof *g);
        g->d = quant_scale(x + first, 256, &inverse);
        for (uint32_t i = 0; i < 256; i++) {
            g->q[i] = quant_code(x[first + i], inverse);
            g->sum[i / 16] = (int16_t)(g->sum[i / 16] + g->q[i]);
        }
    }
}

void ref_init_act(struct kernels *k)
{
    k->act_pack[ACT_F32] = pack_f32;
    k->act_pack[ACT_BF16] = pack_bf16;
    k->act_pack[ACT_Q8] = pack_q8;
    k->act_pack[ACT_Q8K] = pack_q8k;
}
