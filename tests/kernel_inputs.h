/* Inputs for the checkers of kernels: random and adversarial weights and activations, memory that ends at an unreadable
 * page, canaries. Everything is drawn from one generator, seeded by kernel_inputs_seed. */
#ifndef WEIR_TESTS_KERNEL_INPUTS_H
#define WEIR_TESTS_KERNEL_INPUTS_H

#include "test.h"

#include "base/rng.h"
#include "kernel/blocks.h"
#include "kernel/half.h"
#include "kernel/ref/ref.h"
#include "kernel_levels.h"

#include <float.h>
#include <math.h>
#include <sys/mman.h>

static struct rng rng;

static inline uint32_t below(uint32_t n)
{
    return (uint32_t)rng_below(&rng, n);
}

static inline float uniform(float lo, float hi)
{
    return lo + (hi - lo) * (float)rng_unit(&rng);
}

/* ---- memory that ends at an unreadable page ---- */

struct guarded {
    uint8_t *map, *data;
    size_t map_bytes;
};

static inline struct guarded guarded_alloc(size_t n_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), usable = (n_bytes + page - 1) / page * page;
    struct guarded g = {.map_bytes = usable + page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + usable, page, PROT_NONE), 0);
    g.data = g.map + usable - n_bytes;
    return g;
}

static inline void guarded_free(struct guarded *g)
{
    munmap(g->map, g->map_bytes);
}

/* ---- weights ---- */

enum flavour { NORMAL, HUGE_SCALES, TINY_SCALES, ZERO_SCALES, EXTREME_CODES, MIXED, FLAVOURS };

static inline uint16_t random_scale(enum flavour f)
{
    static const uint16_t huge[] = {0x7bff, 0xfbff, 0x7000}, tiny[] = {0x0001, 0x8001, 0x03ff, 0x0400};
    static const uint16_t zero[] = {0x0000, 0x8000};
    if (f == MIXED)
        f = (enum flavour)below(MIXED);
    switch (f) {
    case HUGE_SCALES:
        return huge[below(3)];
    case TINY_SCALES:
        return tiny[below(4)];
    case ZERO_SCALES:
        return zero[below(2)];
    default:
        return f16_from_f32(uniform(-0.1f, 0.1f));
    }
}

static inline void put_scale(uint8_t *block, size_t at, enum flavour f)
{
    uint16_t h = random_scale(f);
    memcpy(block + at, &h, sizeof h);
}

static inline void fill_row(enum tensor_type t, enum flavour f, uint8_t *row, uint32_t n)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    static const uint8_t extremes[] = {0x00, 0xff, 0x80, 0x7f};
    uint8_t extreme = extremes[below(4)];
    for (uint32_t b = 0; b < n / info->block_elements; b++, row += info->block_bytes) {
        for (uint32_t i = 0; i < info->block_bytes; i++)
            row[i] = f == EXTREME_CODES ? extreme : (uint8_t)below(256);
        float value = uniform(-1, 1) * (f == HUGE_SCALES   ? 1e15f
                                        : f == TINY_SCALES ? 1e-38f
                                        : f == ZERO_SCALES ? 0
                                                           : 1);
        uint16_t bits;
        switch (t) {
        case TENSOR_F32:
            memcpy(row, &value, sizeof value);
            break;
        case TENSOR_BF16:
            bits = bf16_from_f32(value);
            memcpy(row, &bits, sizeof bits);
            break;
        case TENSOR_F16:
            put_scale(row, 0, f);
            break;
        case TENSOR_MXFP4:
            row[0] = f == HUGE_SCALES ? 160 : f == TINY_SCALES ? (uint8_t)below(3) : (uint8_t)(118 + below(10));
            break;
        case TENSOR_Q2_K:
            put_scale(row, offsetof(struct block_q2_k, d), f);
            put_scale(row, offsetof(struct block_q2_k, dmin), f);
            break;
        case TENSOR_Q3_K:
            put_scale(row, offsetof(struct block_q3_k, d), f);
            break;
        case TENSOR_Q6_K:
            put_scale(row, offsetof(struct block_q6_k, d), f);
            break;
        default:
            put_scale(row, 0, f);
            if (tensor_type_has_min(t))
                put_scale(row, 2, f);
        }
    }
}

static inline void fill_floats(float *x, size_t n, enum flavour f)
{
    for (size_t i = 0; i < n; i++) {
        float v = uniform(-1, 1) * uniform(0, 4);
        switch (f) {
        case HUGE_SCALES:
            v *= 1e15f;
            break;
        case TINY_SCALES:
            v *= below(2) ? 1e-39f : 1e-30f;
            break;
        case ZERO_SCALES:
            v = below(8) ? 0 : -0.0f;
            break;
        case EXTREME_CODES:
            v = below(2) ? 1 : -1;
            break;
        case MIXED:
            v *= i / 32 % 2 ? 1e-20f : 1e5f;
            break;
        default:
            break;
        }
        x[i] = v;
    }
}

/* ---- comparing ---- */

#define CANARY 12345.678f
#define PAD 8

static inline void fill_canaries(float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = CANARY;
}

static inline void assert_close(const struct kernels *k, const char *what, size_t i, double got, double want,
                                double bound)
{
    if (!(fabs(got - want) <= bound) && got != want)
        fail_msg("%s %s[%zu]: %.9g, want %.9g within %.3g", kernel_isa_name(k->isa), what, i, got, want, bound);
}

/* A fixed seed, so that a failure repeats; another one by WEIR_TEST_SEED. */
static inline void kernel_inputs_seed(void)
{
    const char *seed = getenv("WEIR_TEST_SEED");
    rng.state = seed ? strtoull(seed, NULL, 0) : 20240229;
    printf("%s\n", kernel_cpu_description());
}

#endif
