/* What this x86 processor, and the operating system under it, can run. */
#include "kernel/x86/x86.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t enabled_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void processor_name(char *out, size_t n)
{
    uint32_t text[13] = {0};
    if ((uint32_t)__get_cpuid_max(0x80000000, NULL) < 0x80000004)
        return;
    for (uint32_t i = 0; i < 3; i++)
        __get_cpuid(0x80000002 + i, &text[4 * i], &text[4 * i + 1], &text[4 * i + 2], &text[4 * i + 3]);
    const char *name = (const char *)text + strspn((const char *)text, " ");
    size_t len = strlen(name);
    while (len && name[len - 1] == ' ')
        len--;
    snprintf(out, n, "%.*s", (int)len, name);
}

/* Linux keeps tile state only for processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM; threads inherit it). */
static bool tiles_permitted(void)
{
    const int request = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

enum kernel_isa x86_detect(char *model, size_t model_bytes)
{
    uint32_t a, b, c, d, b7, c7, d7, a71 = 0, ignored;
    processor_name(model, model_bytes);
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return ISA_REF;
    uint32_t leaf7_max = a;
    if (leaf7_max >= 1)
        __get_cpuid_count(7, 1, &a71, &ignored, &ignored, &ignored);
    uint64_t state = enabled_state();
    const uint64_t ymm = 0x6, zmm = 0xe6; /* SSE and AVX; opmask and both halves of the ZMM registers */

    const uint32_t avx = bit_AVX | bit_FMA | bit_F16C;
    if ((state & ymm) != ymm || (c & avx) != avx || !(b7 & bit_AVX2) || !(b7 & bit_BMI2))
        return ISA_REF;
    const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ | bit_AVX512CD;
    if ((state & zmm) != zmm || (b7 & avx512) != avx512)
        return ISA_AVX2;
    if (!(c7 & bit_AVX512VNNI))
        return ISA_AVX512;
    if (!(a71 & bit_AVX512BF16))
        return ISA_VNNI;
    const uint32_t amx = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8 */
    const uint64_t tiles = 0x60000;                      /* their configuration and data */
    if ((d7 & amx) != amx || (state & tiles) != tiles || !tiles_permitted())
        return ISA_BF16;
    return ISA_AMX;
}
