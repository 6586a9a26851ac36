#include "kernel/x86/attention_words.h"
#include "kernel/x86/x86.h"

void x86_attention_vnni(struct kernels *k)
{
    k->attention = attention_words;
}
