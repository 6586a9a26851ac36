#include "kernel/x86/floats512.h"
#include "kernel/x86/x86.h"

#define MATMUL_FLOATS(name, type)                                                                                      \
    static void direct_##name(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes,        \
                              uint32_t n_t, float y[DIRECT_TOKENS][4])                                                 \
    {                                                                                                                  \
        direct_floats(type, w, n_cols, x, x_row_bytes, n_t, y);                                                        \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        drive_direct(a, direct_##name, 0);                                                                             \
    }
MATMUL_FLOATS(f32, TENSOR_F32)
MATMUL_FLOATS(f16, TENSOR_F16)
MATMUL_FLOATS(bf16, TENSOR_BF16)

void x86_floats_avx512(struct kernels *k)
{
    k->matmul[TENSOR_F32] = matmul_f32;
    k->matmul[TENSOR_F16] = matmul_f16;
    k->matmul[TENSOR_BF16] = matmul_bf16;
}
