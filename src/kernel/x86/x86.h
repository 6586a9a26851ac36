/* What the x86 kernel files offer to the dispatch. Each init replaces the entries that its level does better. */
#ifndef WEIR_KERNEL_X86_X86_H
#define WEIR_KERNEL_X86_X86_H

#include "kernel/kernel.h"

#if defined __x86_64__
#define WEIR_KERNELS_X86 1

/* The highest level that processor and operating system (XGETBV) support; the processor's name into model. */
enum kernel_isa x86_detect(char *model, size_t model_bytes);

void kernels_init_avx2(struct kernels *k);
void kernels_init_avx512(struct kernels *k);
void kernels_init_vnni(struct kernels *k);
void kernels_init_bf16(struct kernels *k);
void kernels_init_amx(struct kernels *k);
void kernels_init_amx_emulated(struct kernels *k); /* over bf16: for the checker */

/* One family of kernels at one level. */
void x86_rows_avx2(struct kernels *k);
void x86_rows_avx512(struct kernels *k);
void x86_attention_avx2(struct kernels *k);
void x86_attention_avx512(struct kernels *k);
void x86_attention_vnni(struct kernels *k);
void x86_attention_amx(struct kernels *k);
void x86_attention_amx_emulated(struct kernels *k);
void x86_floats_avx2(struct kernels *k);
void x86_blocks_avx2(struct kernels *k);
void x86_supers_avx2(struct kernels *k);
void x86_lanes_blocks_avx2(struct kernels *k);
void x86_lanes_supers_avx2(struct kernels *k);
void x86_floats_avx512(struct kernels *k);
void x86_floats_bf16(struct kernels *k);
void x86_blocks_avx512(struct kernels *k);
void x86_supers_avx512(struct kernels *k);
void x86_lanes_blocks_avx512(struct kernels *k);
void x86_blocks_vnni(struct kernels *k);
void x86_supers_vnni(struct kernels *k);
void x86_lanes_blocks_vnni(struct kernels *k);
void x86_lanes_supers_avx512(struct kernels *k);
void x86_lanes_supers_vnni(struct kernels *k);
void x86_lanes_blocks_amx(struct kernels *k);
void x86_lanes_supers_amx(struct kernels *k);
void x86_prompt_amx(struct kernels *k);
void x86_lanes_blocks_amx_emulated(struct kernels *k);
void x86_lanes_supers_amx_emulated(struct kernels *k);
void x86_prompt_amx_emulated(struct kernels *k);

#endif
#endif
