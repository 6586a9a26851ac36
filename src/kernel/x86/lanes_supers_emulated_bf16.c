/* The tile kernels on emulated tiles, for the checker (kernels_init_amx_emulated). */
#define AMX_EMULATED
#include "kernel/x86/lanes_supers_amx.c"
