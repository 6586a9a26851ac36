#include "kernel/x86/attention_tiles.h"
#include "kernel/x86/x86.h"

void AMX_NAME(x86_attention)(struct kernels *k)
{
    k->attention = attention_tiles;
}
