#include "kernel/x86/lanes_supers.h"
#include "kernel/x86/x86.h"

void x86_lanes_supers_vnni(struct kernels *k)
{
    set_matmul_lanes_supers(k);
}
