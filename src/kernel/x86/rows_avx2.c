#include "kernel/x86/rows.h"
#include "kernel/x86/x86.h"

void x86_rows_avx2(struct kernels *k)
{
    set_rows(k);
}
