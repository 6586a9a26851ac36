/* Every level of kernels that a test can run here. */
#ifndef WEIR_TESTS_KERNEL_LEVELS_H
#define WEIR_TESTS_KERNEL_LEVELS_H

#include "kernel/kernel.h"
#include "kernel/x86/x86.h"

/* Levels of this machine, and level amx over emulated tiles where AVX-512 has bfloat16; NULL: it lacks this one. */
#define LEVEL_EMULATED ISA_COUNT
#define LEVEL_COUNT (ISA_COUNT + 1)
static inline const struct kernels *kernels_of_level(int level)
{
    static struct kernels emulated;
    if (level < ISA_COUNT)
        return kernels_at((enum kernel_isa)level);
#ifdef WEIR_KERNELS_X86
    if (!emulated.matmul[TENSOR_F32] && kernels_at(ISA_BF16)) {
        emulated = *kernels_at(ISA_BF16);
        kernels_init_amx_emulated(&emulated);
        emulated.isa = ISA_AMX;
    }
#endif
    return emulated.matmul[TENSOR_F32] ? &emulated : NULL;
}

#define EACH_LEVEL_FROM(first, k)                                                                                      \
    for (int level_ = first; level_ < LEVEL_COUNT; level_++)                                                           \
        for (const struct kernels *k = kernels_of_level(level_); k; k = NULL)
#define EACH_LEVEL(k) EACH_LEVEL_FROM(ISA_REF, k)

#endif
