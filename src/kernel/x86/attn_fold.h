/* The merging of spans, at either width: included by attention_avx2.c and attention_avx512.c. */
#include "kernel/x86/span.h"

static void attn_fold(const struct attn_state *total, const struct attn_state *span, uint32_t n, uint32_t head_dim)
{
    for (uint32_t i = 0; i < n; i++) {
        if (span->l[i] == 0)
            continue; /* it sees nothing of this span */
        const float was = total->m[i], m = fmaxf(was, span->m[i]);
        _Alignas(64) float scale[VF_N] = {was - m, span->m[i] - m};
        vf_store(scale, vf_exp2(vf_max(vf_set(UNSEEN), vf_mul(vf_load(scale), vf_set(LOG2_E)))));
        float *to = total->acc + (size_t)i * head_dim;
        const float *from = span->acc + (size_t)i * head_dim;
        const vf a = vf_set(scale[0]), b = vf_set(scale[1]);
        uint32_t j = 0;
        for (; head_dim - j >= VF_N; j += VF_N)
            vf_store(to + j, vf_fma(vf_load(to + j), a, vf_mul(vf_load(from + j), b)));
        if (j < head_dim)
            vf_store_n(to + j, vf_fma(vf_load_n(to + j, head_dim - j), a, vf_mul(vf_load_n(from + j, head_dim - j), b)),
                       head_dim - j);
        total->l[i] = total->l[i] * scale[0] + span->l[i] * scale[1];
        total->m[i] = m;
    }
}
