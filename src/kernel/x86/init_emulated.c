/* Level amx for machines without it: a file of its own, so that only the checker links it. */
#include "kernel/x86/x86.h"

void kernels_init_amx_emulated(struct kernels *k)
{
    x86_attention_amx_emulated(k);
    x86_lanes_blocks_amx_emulated(k);
    x86_lanes_supers_amx_emulated(k);
    x86_prompt_amx_emulated(k);
}
