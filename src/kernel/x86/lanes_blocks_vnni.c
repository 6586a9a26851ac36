#include "kernel/x86/lanes_blocks.h"
#include "kernel/x86/x86.h"

void x86_lanes_blocks_vnni(struct kernels *k)
{
    set_lanes_blocks(k);
}
