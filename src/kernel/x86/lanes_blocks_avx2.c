#include "kernel/x86/lanes_blocks.h"
#include "kernel/x86/x86.h"

void x86_lanes_blocks_avx2(struct kernels *k)
{
    set_lanes_blocks(k);
}
