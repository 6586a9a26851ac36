#include "kernel/x86/floats512.h"
#include "kernel/x86/x86.h"

MATMUL_FLOATS(f32, F32_F32)
MATMUL_FLOATS(f16, F16_F32)
MATMUL_FLOATS(bf16, BF16_F32)

void x86_floats_avx512(struct kernels *k)
{
    k->matmul[TENSOR_F32] = matmul_f32;
    k->matmul[TENSOR_F16] = matmul_f16;
    k->matmul[TENSOR_BF16] = matmul_bf16;
}
