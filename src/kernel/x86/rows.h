/* Operations on rows, at either width: included by rows_avx2.c and rows_avx512.c. Except for norm and silu_mul, whose
 * last bits may differ, they give what ref/ gives to the last bit. */
#include "kernel/blocks.h"
#include "kernel/half.h"
#include "kernel/x86/vf.h"

#include <math.h>

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *out)
{
    const uint32_t whole = n / VF_N * VF_N, rest = n % VF_N;
    vd sum = vd_zero();
    for (uint32_t i = 0; i < whole; i += VF_N)
        sum = vf_add_squares(sum, vf_load(x + i));
    if (rest)
        sum = vf_add_squares(sum, vf_load_n(x + whole, rest));
    const vf scale = vf_set((float)(1 / sqrt(vd_sum(sum) / n + (double)eps)));
    for (uint32_t i = 0; i < whole; i += VF_N)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(w + i)));
    if (rest)
        vf_store_n(out + whole, vf_mul(vf_mul(vf_load_n(x + whole, rest), scale), vf_load_n(w + whole, rest)), rest);
}

static void rope_adjacent(float *x, const float *cos, const float *sin, uint32_t n_rot)
{
    uint32_t i = 0;
    for (; n_rot - i >= VF_N; i += VF_N) {
        const vf v = vf_load(x + i), turned = vf_mul(vf_swap(v), vf_negate_even(vf_twice(sin + i / 2)));
        vf_store(x + i, vf_add(vf_mul(v, vf_twice(cos + i / 2)), turned));
    }
    for (; i < n_rot; i += 2) {
        const float u = x[i], v = x[i + 1];
        x[i] = u * cos[i / 2] - v * sin[i / 2];
        x[i + 1] = u * sin[i / 2] + v * cos[i / 2];
    }
}

static void rope(float *x, const float *cos, const float *sin, uint32_t n_rot, bool adjacent)
{
    if (adjacent) {
        rope_adjacent(x, cos, sin, n_rot);
        return;
    }
    const uint32_t half = n_rot / 2;
    uint32_t i = 0;
    for (; half - i >= VF_N; i += VF_N) {
        const vf u = vf_load(x + i), v = vf_load(x + i + half), c = vf_load(cos + i), s = vf_load(sin + i);
        vf_store(x + i, vf_sub(vf_mul(u, c), vf_mul(v, s)));
        vf_store(x + i + half, vf_add(vf_mul(u, s), vf_mul(v, c)));
    }
    for (; i < half; i++) {
        const float u = x[i], v = x[i + half];
        x[i] = u * cos[i] - v * sin[i];
        x[i + half] = u * sin[i] + v * cos[i];
    }
}

INLINE vf silu(vf gate, vf up)
{
    return vf_mul(vf_div(gate, vf_add(vf_set(1), vf_exp(vf_sub(vf_zero(), gate)))), up);
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(gate + i, silu(vf_load(gate + i), vf_load(up + i)));
    if (i < n)
        vf_store_n(gate + i, silu(vf_load_n(gate + i, n - i), vf_load_n(up + i, n - i)), n - i);
}

static void add_scaled(float *x, const float *y, float scale, uint32_t n)
{
    const vf s = vf_set(scale);
    uint32_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(x + i, vf_fma(vf_load(y + i), s, vf_load(x + i)));
    if (i < n)
        vf_store_n(x + i, vf_fma(vf_load_n(y + i, n - i), s, vf_load_n(x + i, n - i)), n - i);
}

/* ---- the cache ---- */

INLINE float peak_of(const float *x, uint32_t n)
{
    vf peak = vf_zero();
    for (uint32_t i = 0; i < n; i += VF_N)
        peak = vf_max(peak, vf_abs(vf_load(x + i)));
    return vf_reduce_max(peak);
}

static void kv_store_f16(const float *x, uint32_t n, void *out)
{
    uint16_t *p = out;
    uint32_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_to_f16(p + i, vf_load(x + i));
    if (i < n) {
        uint16_t last[VF_N];
        vf_to_f16(last, vf_load_n(x + i, n - i));
        memcpy(p + i, last, (n - i) * sizeof *last);
    }
}

static void kv_store_q8_0(const float *x, uint32_t n, void *out)
{
    struct block_q8_0 *b = out;
    for (uint32_t first = 0; first < n; first += 32, b++) {
        b->d = f16_from_f32(fminf(peak_of(x + first, 32) / 127.0f, 65504.0f));
        const float d = f16_to_f32(b->d);
        const vf inverse = vf_set(d > 0 ? 1 / d : 0);
        for (uint32_t i = 0; i < 32; i += VF_N) {
            const vf v = vf_mul(vf_load(x + first + i), inverse);
            vf_to_i8(b->q + i, vf_max(vf_min(v, vf_set(127)), vf_set(-127)));
        }
    }
}

/* ---- packing ---- */

INLINE float quant_scale(const float *x, uint32_t n, float *inverse)
{
    const float peak = peak_of(x, n);
    const bool tiny = peak < ACT_TINY;
    *inverse = tiny ? 0 : 127.0f / peak;
    return tiny ? 0 : peak / 127.0f;
}

static void pack_q8(const float *x, uint32_t n, void *out)
{
    struct act_q8 *g = out;
    for (uint32_t first = 0; first < n; first += ACT_Q8_GROUP, g++) {
        if (n - first < ACT_Q8_GROUP)
            memset(g, 0, sizeof *g);
        for (uint32_t b = 0; b < ACT_Q8_BLOCKS && first + 32 * b < n; b++) {
            const float *v = x + first + 32 * b;
            float inverse;
            g->d[b] = quant_scale(v, 32, &inverse);
            g->sum[b] = 0;
            for (uint32_t i = 0; i < 32; i += VF_N)
                g->sum[b] += vf_to_i8(g->q + 64 * (i / 16) + 16 * b + i % 16, vf_mul(vf_load(v + i), vf_set(inverse)));
        }
    }
}

static void pack_q8k(const float *x, uint32_t n, void *out)
{
    struct act_q8k *g = out;
    for (uint32_t first = 0; first < n; first += 256, g++) {
        float inverse;
        memset(g->unused, 0, sizeof g->unused);
        g->d = quant_scale(x + first, 256, &inverse);
        for (uint32_t s = 0; s < 16; s++) {
            int32_t sum = 0;
            for (uint32_t i = 16 * s; i < 16 * s + 16; i += VF_N)
                sum += vf_to_i8(g->q + i, vf_mul(vf_load(x + first + i), vf_set(inverse)));
            g->sum[s] = (int16_t)sum;
        }
    }
}

static void set_rows(struct kernels *k)
{
    k->rms_norm = rms_norm;
    k->rope = rope;
    k->silu_mul = silu_mul;
    k->add_scaled = add_scaled;
    k->kv_store[KV_F16] = kv_store_f16;
    k->kv_store[KV_Q8_0] = kv_store_q8_0;
    k->act_pack[ACT_Q8] = pack_q8;
    k->act_pack[ACT_Q8K] = pack_q8k;
}
