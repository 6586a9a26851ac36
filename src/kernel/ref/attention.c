/* Softmax attention over a span, and the merging of spans (Milakov and Gimelshein, arXiv:1805.02867). */
#include "kernel/half.h"
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

static float f16_at(const void *area, size_t offset)
{
    uint16_t h;
    memcpy(&h, (const char *)area + offset, sizeof h);
    return f16_to_f32(h);
}

/* Element i of a token of the span. */
static float cached(const struct attn_args *a, bool values, uint32_t token, uint32_t i)
{
    const void *area = (values ? a->v : a->k)[token / a->chunk_tokens];
    const uint32_t n = a->head_dim, t = token % a->chunk_tokens;
    const size_t at = kv_element_offset(a->kv_type, values, n, t, i);
    if (a->kv_type == KV_F16)
        return f16_at(area, at);
    const int code = values ? ((const int8_t *)area)[at] : ((const uint8_t *)area)[at] - 128;
    return f16_at(area, kv_scale_offset(n, a->chunk_tokens, t, i)) * (float)code;
}

static void attend(const struct attn_args *a, uint32_t query)
{
    const float *q = a->q + (size_t)query * a->head_dim;
    float *acc = a->out.acc + (size_t)query * a->head_dim;
    float score[ATTN_SPAN_TOKENS], m = -INFINITY, l = 0;
    const uint32_t first = a->first[query], last = a->last[query];
    memset(acc, 0, a->head_dim * sizeof *acc);
    for (uint32_t t = first; t < last; t++) {
        float sum = 0;
        for (uint32_t i = 0; i < a->head_dim; i++)
            sum = fmaf(q[i], cached(a, false, t, i), sum);
        score[t] = sum;
        m = fmaxf(m, sum);
    }
    for (uint32_t t = first; t < last; t++) {
        const float p = expf(score[t] - m);
        l += p;
        for (uint32_t i = 0; i < a->head_dim; i++)
            acc[i] = fmaf(p, cached(a, true, t, i), acc[i]);
    }
    a->out.m[query] = m;
    a->out.l[query] = l;
}

void ref_attention(const struct attn_args *a)
{
    for (uint32_t i = 0; i < a->n_q; i++)
        attend(a, i);
}

void ref_attn_fold(const struct attn_state *total, const struct attn_state *span, uint32_t n, uint32_t head_dim)
{
    for (uint32_t i = 0; i < n; i++) {
        if (span->l[i] == 0)
            continue; /* the query sees nothing of this span */
        const float m = fmaxf(total->m[i], span->m[i]);
        const float a = expf(total->m[i] - m), b = expf(span->m[i] - m);
        float *to = total->acc + (size_t)i * head_dim;
        const float *from = span->acc + (size_t)i * head_dim;
        for (uint32_t j = 0; j < head_dim; j++)
            to[j] = to[j] * a + from[j] * b;
        total->l[i] = total->l[i] * a + span->l[i] * b;
        total->m[i] = m;
    }
}
