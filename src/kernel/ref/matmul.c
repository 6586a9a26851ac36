/* Matrix products: the order of summation that kernel.h promises, spelt out. */
#include "kernel/half.h"
#include "kernel/lanes.h"
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

#define TILE_TOKENS 8 /* a weight block is unpacked once for so many tokens */

/* Dot product of 32 codes with block b of a group: |sum| <= 32 * 128 * 127. */
static int32_t dot_block(const int8_t *w, const struct act_q8 *x, uint32_t b)
{
    int32_t sum = 0;
    for (int h = 0; h < 2; h++) {
        for (int i = 0; i < 16; i++)
            sum += w[16 * h + i] * x->q[64 * h + 16 * (int)b + i];
    }
    return sum;
}

static void matmul_blocks_row(enum tensor_type t, const char *w, uint32_t n_blocks, const char *x, size_t x_row_bytes,
                              uint32_t n_tokens, float *y, size_t y_stride)
{
    size_t block_bytes = tensor_type_info((uint32_t)t)->block_bytes;
    bool has_min = tensor_type_has_min(t);
    float total[TILE_TOKENS] = {0}, c[TILE_TOKENS][4] = {{0}};
    for (uint32_t b = 0; b < n_blocks; b++) {
        struct unpacked_block u;
        ref_unpack_block[t](w + b * block_bytes, &u);
        for (uint32_t i = 0; i < n_tokens; i++) {
            const struct act_q8 *g = (const struct act_q8 *)(const void *)(x + i * x_row_bytes) + b / 4;
            float *chain = &c[i][b % 4];
            *chain = fmaf((float)dot_block(u.q, g, b % 4), u.d * g->d[b % 4], *chain);
            if (has_min)
                *chain = fmaf(u.m, g->d[b % 4] * (float)g->sum[b % 4], *chain);
        }
        if ((b + 1) % (SEGMENT_COLS / 32) && b + 1 < n_blocks)
            continue;
        for (uint32_t i = 0; i < n_tokens; i++)
            total[i] += (c[i][0] + c[i][1]) + (c[i][2] + c[i][3]);
        memset(c, 0, sizeof c);
    }
    for (uint32_t i = 0; i < n_tokens; i++)
        y[i * y_stride] = total[i];
}

static void matmul_supers_row(enum tensor_type t, const char *w, uint32_t n_blocks, const char *x, size_t x_row_bytes,
                              uint32_t n_tokens, float *y, size_t y_stride)
{
    size_t block_bytes = tensor_type_info((uint32_t)t)->block_bytes;
    bool has_min = tensor_type_has_min(t);
    float total[TILE_TOKENS] = {0};
    for (uint32_t b = 0; b < n_blocks; b++) {
        struct unpacked_super u;
        ref_unpack_super[t](w + b * block_bytes, &u);
        for (uint32_t i = 0; i < n_tokens; i++) {
            const struct act_q8k *g = (const struct act_q8k *)(const void *)(x + i * x_row_bytes) + b;
            int32_t sum = 0, min_sum = 0; /* |sum| <= 256 * 128 * 128 * 127 < 2^30 */
            for (int s = 0; s < 16; s++) {
                int32_t dot = 0;
                for (int j = 16 * s; j < 16 * s + 16; j++)
                    dot += u.q[j] * g->q[j];
                sum += u.scale[s] * dot;
                min_sum += u.min[s] * g->sum[s];
            }
            total[i] = fmaf((float)sum, u.d * g->d, total[i]);
            if (has_min)
                total[i] = fmaf((float)min_sum, -(u.dmin * g->d), total[i]);
        }
    }
    for (uint32_t i = 0; i < n_tokens; i++)
        y[i * y_stride] = total[i];
}

static void matmul_quantised(enum tensor_type t, const struct matmul_args *a)
{
    uint32_t n_blocks = a->n_cols / tensor_type_info((uint32_t)t)->block_elements;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        const char *w = (const char *)a->w + r * a->w_row_bytes;
        for (uint32_t i = 0; i < a->n_tokens; i += TILE_TOKENS) {
            uint32_t n = a->n_tokens - i < TILE_TOKENS ? a->n_tokens - i : TILE_TOKENS;
            const char *x = (const char *)a->x + i * a->x_row_bytes;
            float *y = a->y + i * a->y_stride + r;
            if (ref_unpack_block[t])
                matmul_blocks_row(t, w, n_blocks, x, a->x_row_bytes, n, y, a->y_stride);
            else
                matmul_supers_row(t, w, n_blocks, x, a->x_row_bytes, n, y, a->y_stride);
        }
    }
}

/* Row by row, brought back to how it was. */
static void matmul_in_lanes(enum tensor_type t, const struct matmul_args *a)
{
    struct matmul_args one = *a;
    one.n_rows = 1;
    one.w = a->scratch;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        lanes_unpack_row(t, (const char *)a->w + r / LANES * LANES * a->w_row_bytes, a->n_cols, r % LANES, a->scratch);
        one.y = a->y + r;
        matmul_quantised(t, &one);
    }
}

/* ---- float weights ---- */

static float load_weight(enum tensor_type t, const char *w, uint32_t i)
{
    float f;
    uint16_t h;
    if (t == TENSOR_F32) {
        memcpy(&f, w + i * sizeof f, sizeof f);
        return f;
    }
    memcpy(&h, w + i * sizeof h, sizeof h);
    return t == TENSOR_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

static void matmul_float(enum tensor_type t, const struct matmul_args *a)
{
    for (uint32_t r = 0; r < a->n_rows; r++) {
        const char *w = (const char *)a->w + r * a->w_row_bytes;
        for (uint32_t i = 0; i < a->n_tokens; i++) {
            const float *x = (const float *)(const void *)((const char *)a->x + i * a->x_row_bytes);
            float c[16] = {0};
            for (uint32_t j = 0; j < a->n_cols; j++)
                c[j % 16] = fmaf(load_weight(t, w, j), x[j], c[j % 16]);
            for (int half = 8; half; half /= 2) {
                for (int j = 0; j < half; j++)
                    c[j] += c[j + half];
            }
            a->y[i * a->y_stride + r] = c[0];
        }
    }
}

#define MATMUL(name, type, kind)                                                                                       \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        matmul_##kind(type, a);                                                                                        \
    }
#define MATMUL_BOTH(name, type)                                                                                        \
    MATMUL(name, type, quantised)                                                                                      \
    MATMUL(lanes_##name, type, in_lanes)
MATMUL(f32, TENSOR_F32, float)
MATMUL(f16, TENSOR_F16, float)
MATMUL(bf16, TENSOR_BF16, float)
MATMUL_BOTH(q8_0, TENSOR_Q8_0)
MATMUL_BOTH(q4_0, TENSOR_Q4_0)
MATMUL_BOTH(q4_1, TENSOR_Q4_1)
MATMUL_BOTH(q5_0, TENSOR_Q5_0)
MATMUL_BOTH(q5_1, TENSOR_Q5_1)
MATMUL_BOTH(iq4_nl, TENSOR_IQ4_NL)
MATMUL_BOTH(mxfp4, TENSOR_MXFP4)
MATMUL_BOTH(q2_k, TENSOR_Q2_K)
MATMUL_BOTH(q3_k, TENSOR_Q3_K)
MATMUL_BOTH(q4_k, TENSOR_Q4_K)
MATMUL_BOTH(q5_k, TENSOR_Q5_K)
MATMUL_BOTH(q6_k, TENSOR_Q6_K)
MATMUL_BOTH(iq4_xs, TENSOR_IQ4_XS)

void ref_init_matmul(struct kernels *k)
{
    static const struct {
        enum tensor_type type;
        enum act_format act;
        void (*fn)(const struct matmul_args *a), (*lanes)(const struct matmul_args *a);
    } products[] = {
        {TENSOR_F32, ACT_F32, matmul_f32, NULL},
        {TENSOR_F16, ACT_F32, matmul_f16, NULL},
        {TENSOR_BF16, ACT_F32, matmul_bf16, NULL},
        {TENSOR_Q8_0, ACT_Q8, matmul_q8_0, matmul_lanes_q8_0},
        {TENSOR_Q4_0, ACT_Q8, matmul_q4_0, matmul_lanes_q4_0},
        {TENSOR_Q4_1, ACT_Q8, matmul_q4_1, matmul_lanes_q4_1},
        {TENSOR_Q5_0, ACT_Q8, matmul_q5_0, matmul_lanes_q5_0},
        {TENSOR_Q5_1, ACT_Q8, matmul_q5_1, matmul_lanes_q5_1},
        {TENSOR_IQ4_NL, ACT_Q8, matmul_iq4_nl, matmul_lanes_iq4_nl},
        {TENSOR_MXFP4, ACT_Q8, matmul_mxfp4, matmul_lanes_mxfp4},
        {TENSOR_Q2_K, ACT_Q8K, matmul_q2_k, matmul_lanes_q2_k},
        {TENSOR_Q3_K, ACT_Q8K, matmul_q3_k, matmul_lanes_q3_k},
        {TENSOR_Q4_K, ACT_Q8K, matmul_q4_k, matmul_lanes_q4_k},
        {TENSOR_Q5_K, ACT_Q8K, matmul_q5_k, matmul_lanes_q5_k},
        {TENSOR_Q6_K, ACT_Q8K, matmul_q6_k, matmul_lanes_q6_k},
        {TENSOR_IQ4_XS, ACT_Q8K, matmul_iq4_xs, matmul_lanes_iq4_xs},
    };
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        k->act_format[products[i].type] = products[i].act;
        k->matmul[products[i].type] = products[i].fn;
        k->matmul_lanes[products[i].type] = products[i].lanes;
    }
}
