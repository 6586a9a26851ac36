#include "kernel/x86/attention.h"
#include "kernel/x86/attn_fold.h"
#include "kernel/x86/x86.h"

void x86_attention_avx512(struct kernels *k)
{
    k->attention = attention;
    k->attn_fold = attn_fold;
}
