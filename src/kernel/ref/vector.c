/* Operations on one row: norm, rotation, gating, residual, storing into the cache. */
#include "kernel/half.h"
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float scale = (float)(1 / sqrt(sum / n + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void rope(float *x, const float *cos, const float *sin, uint32_t n_rot, bool adjacent)
{
    uint32_t half = n_rot / 2;
    for (uint32_t i = 0; i < half; i++) {
        float *a = adjacent ? &x[2 * i] : &x[i], *b = adjacent ? &x[2 * i + 1] : &x[i + half];
        float u = *a, v = *b;
        *a = u * cos[i] - v * sin[i];
        *b = u * sin[i] + v * cos[i];
    }
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void add_scaled(float *x, const float *y, float scale, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = fmaf(y[i], scale, x[i]);
}

static void kv_store_f16(const float *x, uint32_t n, void *out)
{
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h = f16_from_f32(x[i]);
        memcpy((char *)out + i * sizeof h, &h, sizeof h);
    }
}

/* The scale is rounded to float16 first and the codes follow from what was stored, so that the two agree. */
static void kv_store_q8_0(const float *x, uint32_t n, void *out)
{
    struct block_q8_0 *b = out;
    for (uint32_t first = 0; first < n; first += 32, b++) {
        float peak = 0;
        for (uint32_t i = first; i < first + 32; i++)
            peak = fmaxf(peak, fabsf(x[i]));
        b->d = f16_from_f32(fminf(peak / 127.0f, 65504.0f));
        float d = f16_to_f32(b->d), inverse = d > 0 ? 1 / d : 0;
        for (uint32_t i = 0; i < 32; i++)
            b->q[i] = (int8_t)lrintf(fmaxf(-127, fminf(127, x[first + i] * inverse)));
    }
}

void ref_init_vector(struct kernels *k)
{
    k->rms_norm = rms_norm;
    k->rope = rope;
    k->silu_mul = silu_mul;
    k->add_scaled = add_scaled;
    k->kv_store[KV_F16] = kv_store_f16;
    k->kv_store[KV_Q8_0] = kv_store_q8_0;
}

void kernels_init_ref(struct kernels *k)
{
    k->isa = ISA_REF;
    ref_init_dequant(k);
    ref_init_matmul(k);
    ref_init_act(k);
    ref_init_vector(k);
    k->attention = ref_attention;
    k->attn_fold = ref_attn_fold;
}
