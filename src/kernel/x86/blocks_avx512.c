#include "kernel/x86/blocks512.h"
#include "kernel/x86/x86.h"

void x86_blocks_avx512(struct kernels *k)
{
    set_matmul_blocks(k);
}
