/* What each level adds to the one below. */
#include "kernel/x86/x86.h"

void kernels_init_avx2(struct kernels *k)
{
    x86_rows_avx2(k);
    x86_attention_avx2(k);
    x86_floats_avx2(k);
    x86_blocks_avx2(k);
    x86_supers_avx2(k);
    x86_lanes_blocks_avx2(k);
    x86_lanes_supers_avx2(k);
}

void kernels_init_avx512(struct kernels *k)
{
    x86_rows_avx512(k);
    x86_attention_avx512(k);
    x86_floats_avx512(k);
    x86_blocks_avx512(k);
    x86_supers_avx512(k);
    x86_lanes_blocks_avx512(k);
    x86_lanes_supers_avx512(k);
}

void kernels_init_vnni(struct kernels *k)
{
    x86_attention_vnni(k);
    x86_blocks_vnni(k);
    x86_supers_vnni(k);
    x86_lanes_blocks_vnni(k);
    x86_lanes_supers_vnni(k);
}

void kernels_init_bf16(struct kernels *k)
{
    x86_floats_bf16(k);
}

void kernels_init_amx(struct kernels *k)
{
    x86_attention_amx(k);
    x86_lanes_blocks_amx(k);
    x86_lanes_supers_amx(k);
    x86_prompt_amx(k);
}
