/* The kernels that move the bytes: one table of pointers, chosen once at run time.
 *
 * ref/ is the specification in plain C; x86/NAME_avx2.c, _avx512.c, _vnni.c, _bf16.c, _amx.c replace entries where the
 * machine has the instructions. WEIR_ISA (ref|avx2|avx512|vnni|bf16|amx) caps the level, for tests and comparison.
 * Every kernel is checked against ref/ at each level by tests/test_kernels.c, test_kernel_rows.c, test_lanes.c and
 * test_attention.c; a prompt's products against sums in double precision by test_prompt.c.
 *
 * Kernels are pure: they read and write what their arguments say, take no locks, allocate nothing, keep no state; any
 * number of threads may run them on disjoint outputs. Sizes are elements unless a name ends in _bytes. Inputs are
 * finite; rows of quantised types are whole blocks. Activations are float32 [n_tokens][n] and are packed once per
 * product into the form that the weight type multiplies with (act_pack), then shared by all threads.
 *
 * Order of summation. y[t][r] depends on weight row r and activation row t alone: not on the other rows and tokens of
 * the call. Moreover it is the same to the last bit at every level (but for floats, see below), which
 * makes ref/ an exact specification:
 *   blocks of 32  the products of a block are summed in integers, exactly; block b is then added to chain b % 4 by one
 *                 fused multiply-add with the product of the two scales (a second one adds the min); every 4,096
 *                 columns the four chains are added as (c0 + c1) + (c2 + c3), and these sums in ascending order;
 *   K types       a super-block is summed in integers, scales of sub-blocks included, and added by one fused
 *                 multiply-add (a second one subtracts the mins); one chain in ascending order;
 *   floats        element i goes to chain i % 16 by a fused multiply-add; then chains i and i + 8, + 4, + 2, + 1.
 * All types but BF16 keep to this at every level. BF16 weights from level bf16 on multiply with bfloat16 activations in
 * the processor's own order, which is the same for any number of rows and tokens, and with subnormals taken for zeros.
 *
 * Level amx has another way (matmul_prompt), for a prompt's rows and, of BF16 weights in lanes, for all rows: weights become
 * bfloat16, which multiplies with bfloat16 activations; F16 weights and their activations become two bfloat16 each (16 bits), of
 * whose four products the least is left out. That rounds weights of quantised types to 8 bits where the other way rounds
 * activations to 8 bits of the largest in a block. The order of summation is again one for any number of rows and tokens;
 * subnormals are zeros.
 */
#ifndef WEIR_KERNEL_KERNEL_H
#define WEIR_KERNEL_KERNEL_H

#include "base/err.h"
#include "kernel/kv.h"
#include "model/tensor_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kernel_isa { ISA_REF, ISA_AVX2, ISA_AVX512, ISA_VNNI, ISA_BF16, ISA_AMX, ISA_COUNT };

/* How a packed activation row is stored. */
enum act_format {
    ACT_F32,  /* float32 as it is */
    ACT_BF16, /* bfloat16, round to nearest even; subnormals may become zeros; zeros up to a multiple of 32 */
    ACT_Q8,   /* blocks of 32: see struct act_q8 in kernel/blocks.h */
    ACT_Q8K,  /* blocks of 256, with sums of 16: for K types; struct act_q8k */
    ACT_FORMAT_COUNT,
};

/* y[t][r] = sum_c w[r][c] * x[t][c], for r in [0, n_rows), t in [0, n_tokens). */
struct matmul_args {
    const void *w; /* first of n_rows rows of the weight type */
    size_t w_row_bytes;
    uint32_t n_rows, n_cols; /* n_cols: a multiple of the type's block */
    const void *x;           /* packed rows in the format of this weight type; aligned to 4 bytes, best to 64 */
    size_t x_row_bytes;      /* their distance: act_row_bytes() or more */
    uint32_t n_tokens;
    float *y; /* y[t * y_stride + r] */
    size_t y_stride;
    const uint32_t *y_rows; /* of matmul_prompt: sums go to y[y_rows[t] * y_stride + r]; NULL: as above */
    void *scratch; /* MATMUL_SCRATCH_BYTES of this thread alone, aligned to 64; what is in it does not matter */
};
/* So much of it stays in a second-level cache that what was unpacked from weights can be used again from there. */
#define MATMUL_SCRATCH_BYTES ((size_t)2 << 20)

/* Running state of softmax, for n queries: m[n] maximum of the scores (-inf: none yet), l[n] sum of exp(score - m),
 * acc[n][head_dim] values weighed likewise, not yet divided by l. */
struct attn_state {
    float *m, *l, *acc;
};

/* Attention of n_q queries over a span of chunks of one KV head, into a fresh state.
 *   q [n_q][head_dim] float32, already scaled
 *   k, v [n_chunks]: the head's areas of each chunk (kernel/kv.h), aligned to 64 bytes
 *   query i sees tokens [first[i], last[i]), counted from the span's first; an empty range leaves m -inf, l and acc 0.
 *
 * A query's result depends on its own q, range and what it sees, at a given level and not on the other queries: scores
 * and values are summed in an order fixed by positions within the span, and what a query does not see adds zeros.
 *   F16    float32 products, scores from the first element to the last, values from the first token to the last
 *   Q8_0   q is rounded to 16 bits (32,512 for its largest element), weights times scales to 15 bits (of the largest in 64
 *          tokens), products are summed in integers: exactly, at every level
 *   prompt at levels vnni and bf16, of either type, if head_dim is a multiple of 32: keys and values are rounded to 15 bits
 *          of the token's largest element, q and weights (times what the values' unit is worth) to 16 bits of the largest, or
 *          fewer where 32 products might not fit 32 bits; these are summed in integers, such sums in float32. Of normally
 *          distributed numbers the scores have half and the results two thirds of the error that rounding q and weights to
 *          float16 would make
 *   prompt at level amx, if head_dim is a multiple of 16: everything as two bfloat16 (16 bits), softmax by 128 tokens
 */
struct attn_args {
    const float *q;
    uint32_t n_q, head_dim; /* head_dim: <= ATTN_MAX_HEAD_DIM; for Q8_0 a multiple of 32 */
    enum kv_type kv_type;
    uint32_t chunk_tokens, n_chunks; /* chunk_tokens * n_chunks <= ATTN_SPAN_TOKENS; a multiple of KV_BLOCK_TOKENS */
    const void *const *k, *const *v;
    const void *const *next;      /* [n_next] areas of the same kind that are read after these, in that order: a hint */
    uint32_t n_next;              /* best ATTN_NEXT_AREAS, or all that there are */
    bool prompt;                  /* the queries are a prompt's rows: see above */
    const uint32_t *first, *last; /* [n_q] */
    struct attn_state out;
    void *scratch; /* attn_scratch_bytes, aligned to 64, the caller's thread's own */
};
#define ATTN_SPAN_TOKENS 512
#define ATTN_NEXT_AREAS 16
#define ATTN_MAX_HEAD_DIM 512

struct kernels {
    enum kernel_isa isa;

    enum act_format act_format[TENSOR_TYPE_COUNT]; /* what each weight type multiplies with */
    void (*act_pack[ACT_FORMAT_COUNT])(const float *x, uint32_t n, void *out); /* by act_format: one row */
    void (*matmul[TENSOR_TYPE_COUNT])(const struct matmul_args *a);            /* NULL: type not supported */
    /* The same products, to the last bit, with weights in lanes (kernel/lanes.h): w is the first group, n_rows a multiple of
     * LANES, w_row_bytes the bytes of a row alone. NULL: the type stays as rows. */
    void (*matmul_lanes[TENSOR_TYPE_COUNT])(const struct matmul_args *a);
    /* The products of a prompt's rows, or NULL: they go the way of all. Weights in lanes, F16 as rows; n_rows of quantised types
     * is a multiple of LANES. x lies in tiles: 16 tokens by 32 columns in prompt_parts[type] parts, 1,024 bytes each,
     * [16][32] bfloat16; those of 16 tokens one after the other. x_row_bytes: prompt_row_bytes(); tokens past the last may hold
     * anything. */
    void (*matmul_prompt[TENSOR_TYPE_COUNT])(const struct matmul_args *a);
    uint32_t prompt_parts[TENSOR_TYPE_COUNT];
    bool prompt_way_only[TENSOR_TYPE_COUNT]; /* in lanes all rows go that way: there is no matmul_lanes */
    /* One token of a tile: out is its line of the first, and of the next pieces of 32 columns 1,024 * parts bytes on. */
    void (*pack_prompt)(const float *x, uint32_t n, uint32_t parts, void *out);
    void (*dequant[TENSOR_TYPE_COUNT])(const void *row, uint32_t n, float *out); /* embedding rows; n whole blocks */

    /* out[i] = x[i] * w[i] / sqrt(mean(x^2) + eps); out may be x */
    void (*rms_norm)(const float *x, const float *w, uint32_t n, float eps, float *out);
    /* x[0..n) rotated in place: pairs (2i,2i+1) or (i, i+n_rot/2); cos, sin [n_rot/2] */
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t n_rot, bool adjacent);
    /* gate[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(float *gate, const float *up, uint32_t n);
    /* x[i] += y[i] * scale */
    void (*add_scaled)(float *x, const float *y, float scale, uint32_t n);
    /* one row of n floats into the cache's type, as kv_put takes it: float16 [n], or block_q8_0 [n / 32] */
    void (*kv_store[KV_TYPE_COUNT])(const float *x, uint32_t n, void *out);
    void (*attention)(const struct attn_args *a);
    /* Folds the state of a later span into that of those before it. */
    void (*attn_fold)(const struct attn_state *total, const struct attn_state *span, uint32_t n, uint32_t head_dim);
};

/* Bytes of one packed activation row (a multiple of 64). n: a multiple of the quantised form's block (32; 256 for
 * ACT_Q8K). */
size_t act_row_bytes(enum act_format f, uint32_t n);

/* Bytes of one token among those of its tiles, n columns. One tile more than there are: else those of tokens, a power of two
 * apart, would share few sets of a cache. */
static inline size_t prompt_row_bytes(uint32_t parts, uint32_t n)
{
    return (((size_t)n + 31) / 32 * parts + 1) * 64;
}
#define PROMPT_TILE_TOKENS 16

/* Where a token's line of its first tile is. */
static inline size_t prompt_row_at(uint32_t token, size_t row_bytes)
{
    const uint32_t in_tile = token % PROMPT_TILE_TOKENS;
    return (token - in_tile) * row_bytes + in_tile * (size_t)64;
}

/* How rows, a prompt's or others, go through weights of which there is a copy in lanes where the type has one: for what
 * measures. */
struct product_way {
    void (*matmul)(const struct matmul_args *a);
    bool lanes;
    uint32_t parts; /* of tiles; 0: rows are packed in the type's act_format */
};
struct product_way product_way(const struct kernels *k, enum tensor_type t, bool prompt);
/* Their x_row_bytes, and number i of them, of n floats, into x. */
size_t product_row_bytes(const struct kernels *k, enum tensor_type t, const struct product_way *w, uint32_t n);
void product_pack(const struct kernels *k, enum tensor_type t, const struct product_way *w, const float *row,
                  uint32_t n, uint32_t i, void *x);

/* Bytes that any level's attention needs to work in. */
size_t attn_scratch_bytes(uint32_t head_dim);

/* The table for this machine, capped by WEIR_ISA (an unknown name is an error that lists the levels). Built once;
 * thread-safe. */
const struct kernels *kernels_get(struct err *e);

/* The table at exactly this level, or NULL if the machine (or this build) lacks it. For the checker. */
const struct kernels *kernels_at(enum kernel_isa isa);
const char *kernel_isa_name(enum kernel_isa isa);
bool kernel_isa_parse(const char *name, enum kernel_isa *out);

/* "AMD EPYC ...: avx2 avx512 vnni bf16", for bench and inspect. Static text. */
const char *kernel_cpu_description(void);

#endif
