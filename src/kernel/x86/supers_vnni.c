#include "kernel/x86/supers512.h"
#include "kernel/x86/x86.h"

void x86_supers_vnni(struct kernels *k)
{
    set_matmul_supers(k);
}
