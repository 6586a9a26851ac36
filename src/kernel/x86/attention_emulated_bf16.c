#define AMX_EMULATED
#include "kernel/x86/attention_amx.c"
