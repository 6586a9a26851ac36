/* Online softmax (Milakov and Gimelshein, arXiv:1805.02867) over one chunk: each query rescales what it has once, by
 * the chunk's maximum. */
#include "kernel/half.h"
#include "kernel/ref/ref.h"

#include <math.h>

static float cache_value(enum kv_type t, const void *row, uint32_t i)
{
    if (t == KV_F16)
        return f16_to_f32(((const uint16_t *)row)[i]);
    const struct block_q8_0 *b = (const struct block_q8_0 *)row + i / 32;
    return f16_to_f32(b->d) * (float)b->q[i % 32];
}

static void attend(const struct attn_args *a, uint32_t query)
{
    const float *q = a->q + (size_t)query * a->head_dim;
    float *acc = a->acc + (size_t)query * a->head_dim;
    float score[KV_CHUNK_MAX_TOKENS], m = a->m[query];
    uint32_t first = a->first[query], last = a->last[query];
    if (first >= last)
        return;
    for (uint32_t t = first; t < last; t++) {
        const void *k = (const char *)a->k + t * a->kv_row_bytes;
        float sum = 0;
        for (uint32_t i = 0; i < a->head_dim; i++)
            sum = fmaf(q[i], cache_value(a->kv_type, k, i), sum);
        score[t] = sum;
        m = fmaxf(m, sum);
    }
    float scale = expf(a->m[query] - m); /* 0 for the first chunk, whose running maximum is -inf */
    a->m[query] = m;
    a->l[query] *= scale;
    for (uint32_t i = 0; i < a->head_dim; i++)
        acc[i] *= scale;
    for (uint32_t t = first; t < last; t++) {
        const void *v = (const char *)a->v + t * a->kv_row_bytes;
        float p = expf(score[t] - m);
        a->l[query] += p;
        for (uint32_t i = 0; i < a->head_dim; i++)
            acc[i] = fmaf(p, cache_value(a->kv_type, v, i), acc[i]);
    }
}

void ref_attention(const struct attn_args *a)
{
    for (uint32_t i = 0; i < a->n_q; i++)
        attend(a, i);
}
