/* BF16 weights with bfloat16 activations (AVX512_BF16): a lane sums two products. */
#include "kernel/x86/floats512.h"
#include "kernel/x86/x86.h"

MATMUL_FLOATS(bf16, BF16_PAIRS)

static void pack_bf16(const float *x, uint32_t n, void *out)
{
    uint8_t *p = out;
    uint32_t i = 0;
    for (; n - i >= 16; i += 16)
        _mm256_storeu_si256((void *)(p + 2 * i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
    if (i < n) {
        const __mmask16 mask = (__mmask16)((1u << (n - i)) - 1);
        _mm256_storeu_si256((void *)(p + 2 * i), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i)));
        i += 16;
    }
    if (i % 32)
        _mm256_storeu_si256((void *)(p + 2 * i), _mm256_setzero_si256());
}

void x86_floats_bf16(struct kernels *k)
{
    k->matmul[TENSOR_BF16] = matmul_bf16;
    k->act_format[TENSOR_BF16] = ACT_BF16;
    k->act_pack[ACT_BF16] = pack_bf16;
}
