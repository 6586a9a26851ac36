/* Which kernels this machine runs. */
#include "kernel/kernel.h"
#include "kernel/blocks.h"
#include "kernel/ref/ref.h"
#include "kernel/x86/x86.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const isa_names[ISA_COUNT] = {"ref", "avx2", "avx512", "vnni", "bf16", "amx"};

static struct kernels tables[ISA_COUNT];
static bool available[ISA_COUNT];
static char description[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Each level starts from the one below and replaces what it has; a machine that lacks a level has none above it. */
static void build(void)
{
    static void (*const init[ISA_COUNT])(struct kernels * k) = {
        [ISA_REF] = kernels_init_ref,
#ifdef WEIR_KERNELS_X86
        [ISA_AVX2] = kernels_init_avx2, [ISA_AVX512] = kernels_init_avx512, [ISA_VNNI] = kernels_init_vnni,
        [ISA_BF16] = kernels_init_bf16, [ISA_AMX] = kernels_init_amx,
#endif
    };
    enum kernel_isa best = ISA_REF;
    char model[64] = "unknown processor";
#ifdef WEIR_KERNELS_X86
    best = x86_detect(model, sizeof model);
#endif
    int n = snprintf(description, sizeof description, "%s:", model);
    for (int i = 0; i < ISA_COUNT && i <= (int)best && init[i]; i++) {
        if (i)
            tables[i] = tables[i - 1];
        init[i](&tables[i]);
        tables[i].isa = (enum kernel_isa)i;
        available[i] = true;
        n += snprintf(description + n, sizeof description - (size_t)n, " %s", isa_names[i]);
    }
}

const struct kernels *kernels_at(enum kernel_isa isa)
{
    pthread_once(&once, build);
    return isa < ISA_COUNT && available[isa] ? &tables[isa] : NULL;
}

const struct kernels *kernels_get(struct err *e)
{
    const char *wanted = getenv("WEIR_ISA");
    enum kernel_isa cap = ISA_COUNT - 1;
    if (wanted && *wanted && !kernel_isa_parse(wanted, &cap)) {
        err_set(e, WEIR_EINVAL, "WEIR_ISA=%.32s: no such level; it is one of ref, avx2, avx512, vnni, bf16, amx",
                wanted);
        return NULL;
    }
    while (!kernels_at(cap))
        cap--;
    return kernels_at(cap);
}

const char *kernel_isa_name(enum kernel_isa isa)
{
    return isa < ISA_COUNT ? isa_names[isa] : "?";
}

bool kernel_isa_parse(const char *name, enum kernel_isa *out)
{
    for (int i = 0; i < ISA_COUNT; i++) {
        if (!strcmp(name, isa_names[i])) {
            *out = (enum kernel_isa)i;
            return true;
        }
    }
    return false;
}

const char *kernel_cpu_description(void)
{
    pthread_once(&once, build);
    return description;
}

size_t act_row_bytes(enum act_format f, uint32_t n)
{
    size_t bytes = 0;
    switch (f) {
    case ACT_F32:
    case ACT_FORMAT_COUNT:
        bytes = (size_t)n * sizeof(float);
        break;
    case ACT_BF16:
        bytes = (size_t)n * sizeof(uint16_t);
        break;
    case ACT_Q8:
        bytes = ((size_t)n + ACT_Q8_GROUP - 1) / ACT_Q8_GROUP * sizeof(struct act_q8);
        break;
    case ACT_Q8K:
        bytes = (size_t)n / 256 * sizeof(struct act_q8k);
        break;
    }
    return (bytes + 63) & ~(size_t)63;
}

size_t attn_scratch_bytes(uint32_t head_dim)
{
    /* Of attention_tiles.h, by 32 elements: keys and values prepared, 64 queries and their sums; and scores. */
    const size_t slices = ((size_t)head_dim + 31) / 32;
    return slices * (2 * 128 * ATTN_SPAN_TOKENS + 8192 + 8192) + 64 * 1024;
}

struct product_way product_way(const struct kernels *k, enum tensor_type t, bool prompt)
{
    const bool lanes = k->matmul_lanes[t] || k->prompt_way_only[t];
    if (k->matmul_prompt[t] && (prompt || k->prompt_way_only[t]))
        return (struct product_way){k->matmul_prompt[t], lanes, k->prompt_parts[t]};
    return (struct product_way){lanes ? k->matmul_lanes[t] : k->matmul[t], lanes, 0};
}

size_t product_row_bytes(const struct kernels *k, enum tensor_type t, const struct product_way *w, uint32_t n)
{
    return w->parts ? prompt_row_bytes(w->parts, n) : act_row_bytes(k->act_format[t], n);
}

void product_pack(const struct kernels *k, enum tensor_type t, const struct product_way *w, const float *row,
                  uint32_t n, uint32_t i, void *x)
{
    const size_t row_bytes = product_row_bytes(k, t, w, n);
    if (w->parts)
        k->pack_prompt(row, n, w->parts, (uint8_t *)x + prompt_row_at(i, row_bytes));
    else
        k->act_pack[k->act_format[t]](row, n, (uint8_t *)x + i * row_bytes);
}
