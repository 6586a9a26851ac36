/* The CPU device's inside: scratch of a step, and the operations that its workers run together. Private to
 * src/device/cpu.
 *
 * All workers walk the list of operations in step; an operation splits its rows of weights (or heads, or chunks of keys
 * and values) among them and ends in a barrier. What one worker computes never depends on how many there are: a row of
 * a product is computed whole by one worker, and attention is cut at fixed positions of a sequence (see attention.c).
 */
#ifndef WEIR_DEVICE_CPU_CPU_H
#define WEIR_DEVICE_CPU_CPU_H

#include "device/cpu/team.h"
#include "device/device.h"
#include "kernel/lanes.h"

#include <stdatomic.h>

#define ALIGN_FLOATS 16 /* 64 bytes */

/* Weight rows are dealt out in units of so many: whole groups of those that lie in lanes. */
#define ROW_UNIT LANES

/* Tiles of a prompt's activations have up to so many parts (kernel.h: matmul_prompt). */
#define MAX_PROMPT_PARTS 2

/* Activation rows packed for products, by format; NULL where no weight needs it. */
struct packed {
    unsigned char *rows[ACT_FORMAT_COUNT];
    size_t row_bytes[ACT_FORMAT_COUNT];         /* distance of rows */
    unsigned char *tiles[MAX_PROMPT_PARTS + 1]; /* by parts: prompts' rows, or all, in the order of tile_rows */
    size_t tile_row_bytes[MAX_PROMPT_PARTS + 1];
    const uint32_t *tile_rows; /* of all rows; NULL: 0, 1, 2, .. */
};

/* What one worker alone uses. */
struct cpu_thread {
    _Alignas(64) _Atomic uint64_t cursor; /* deal.c */
    _Alignas(64) struct step_traffic traffic;
    uint32_t n_deals;
    float *row;                              /* one normed row of activations */
    void *matmul_scratch;                    /* MATMUL_SCRATCH_BYTES */
    unsigned char *packed[ACT_FORMAT_COUNT]; /* few rows, packed by this worker for itself */
    unsigned char *tiles[MAX_PROMPT_PARTS + 1];
    struct attn_state total, span; /* [attn_queries] */
    uint32_t *first, *last;        /* [attn_queries] */
    void *attn_scratch;
    /* Slots of each expert, its prompts' rows first: from [2 e], and its others' from [2 e + 1] on. */
    uint32_t *expert_first, *expert_cursor; /* [2 n_expert + 1] */
    uint32_t *expert_tile;                  /* [n_expert] number of its first among slots in tiles */
    uint32_t *slot_of;                      /* [rows * n_expert_used] */
};

/* One sequence's query rows against one KV head: the unit of attention. */
struct attn_item {
    uint32_t seq, kv_head;
    bool prompt;
    uint32_t first_row, n_rows;   /* of the step */
    uint32_t first_span, n_spans; /* of positions that any of the rows sees */
    uint32_t n_tokens;            /* that a row sees, on average */
    uint32_t partial;             /* slot of its partial states, where it is cut between workers */
};

struct attn_bound {
    uint32_t item, span; /* a worker begins at this span (counted from the item's first) of this item */
};

struct attn_plan {
    struct attn_item *items; /* [max_items] */
    uint32_t n_items, max_items;
    struct attn_bound *bounds; /* [n_threads + 1] */
    uint32_t *cut;             /* [n_threads] items that more than one worker has a part of */
    uint32_t n_cut;
    struct attn_state partial; /* [max_partial] */
    uint32_t max_partial;
};

struct step_row {
    uint32_t position;
    uint32_t chunk, slot; /* where its keys and values go */
    bool prompt;          /* where kernels have another way for those */
    uint32_t tile_row;    /* its number in tiles */
};

/* Rows of a step. */
struct row_run {
    uint32_t first, n;
};

struct cpu {
    struct device base;
    const struct forward *forward;
    const struct kernels *k;
    struct team *team;
    uint32_t n_threads;
    struct cpu_thread *threads;

    /* The weights: the device's own copy, or where the model has them (lazy_weights). */
    const struct layer *layers; /* [n_layer] */
    struct tensor output, token_embd;
    bool lanes[TENSOR_TYPE_COUNT]; /* matrices of the type lie in lanes (kernel/lanes.h) in the copy: cpu_in_lanes */
    unsigned char *weights;
    size_t weights_bytes;
    struct layer *own_layers;
    const unsigned char **own_parts; /* of experts */

    unsigned char *kv;
    size_t kv_bytes, chunk_bytes, layer_bytes, area_bytes, kv_row_bytes; /* area: one KV head's keys of a chunk */

    /* Scratch, shared by all workers. R: rows of a step at most. */
    float *x;                                /* [R][n_embd] residual stream */
    float *qkv;                              /* [R][cpu_stride((n_head + 2 n_head_kv) * head_dim)] */
    float *q;                                /* [n_head_kv][R][n_head / n_head_kv][head_dim] rotated, scaled queries */
    float *attn;                             /* [R][n_head * head_dim] */
    float *y;                                /* [R or slots][cpu_stride(n_embd)] products before they are added to x */
    float *gate, *up;                        /* [R][cpu_stride(n_ff)] or [slots][n_ff_expert] */
    float *rope_cos, *rope_sin;              /* [R][n_rot / 2] */
    float *logits;                           /* [max_outputs][n_vocab] */
    unsigned char *packed[ACT_FORMAT_COUNT]; /* [R] rows */
    unsigned char *packed_slots[ACT_FORMAT_COUNT];   /* [slots] rows, for experts */
    unsigned char *tiles[MAX_PROMPT_PARTS + 1];      /* [R] rows, in tiles */
    unsigned char *slot_tiles[MAX_PROMPT_PARTS + 1]; /* likewise slots; each expert's begin in a tile of their own */
    struct step_row *slots; /* [slots] whether it is a prompt's, and its number among them in tiles */
    float *router;          /* [R][n_expert] */
    uint32_t *chosen;       /* [R][n_expert_used] */
    float *chosen_weight;   /* [R][n_expert_used] */
    void *arena;
    size_t arena_bytes;

    /* The step that runs. */
    struct step step;
    struct step_row *rows; /* [R] */
    bool prompt_ways;      /* some weight has another way for a prompt's rows; then of the step: */
    /* [R] all rows in the order of tiles: first the n_prompt_rows that take that way where weights have it. */
    uint32_t *tile_rows;
    struct row_run *others; /* [n_others] all other rows */
    uint32_t n_prompt_rows, n_others;
    /* The step behind the last layer's keys and values: of each sequence the rows from the first one with logits on. All
     * sequences are there, some without rows. Row i of it is row tail_rows[i] of the step. */
    struct step tail;
    struct step_seq *tail_seqs; /* [max_step_seqs] */
    uint32_t *tail_rows;        /* [R] */
    uint32_t *tail_outputs;     /* [max_outputs] */
    struct attn_plan plan;
    double begin_s, end_s;
};

/* Rows of n floats lie so many apart: rows a power of two apart would share few sets of a cache. */
static inline size_t cpu_stride(size_t n)
{
    return (n + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS + ALIGN_FLOATS;
}

/* The part of n that belongs to a worker, in whole units. */
static inline void cpu_share(const struct cpu *c, uint32_t thread, uint32_t n, uint32_t unit, uint32_t *begin,
                             uint32_t *end)
{
    uint64_t units = ((uint64_t)n + unit - 1) / unit;
    uint64_t b = units * thread / c->n_threads * unit, e = units * (thread + 1) / c->n_threads * unit;
    *begin = (uint32_t)(b < n ? b : n);
    *end = (uint32_t)(e < n ? e : n);
}

/* ---- loading (weights.c) ---- */

/* Whether the copy of a model's weights has those lie in lanes whose type has that form: heads are whole groups. */
static inline bool cpu_uses_lanes(const struct model *m)
{
    return m->head_dim % LANES == 0;
}

/* Makes the device's copy of the weights. */
int cpu_load_weights(struct cpu *c, struct err *e);
void cpu_free_weights(struct cpu *c);
/* A token's row of the embeddings, out[n_embd]. */
void cpu_embedding(struct cpu *c, uint32_t thread, uint32_t token, float *out);

/* ---- products (product.c) ---- */

/* Which of the step's rows go which way. */
void cpu_divide_rows(struct cpu *c);

/* Packed rows by the way that they go. */
struct row_ways {
    const uint32_t *prompt_rows; /* [n_prompt_rows] where in y those in tiles belong; NULL: one after the other, */
    uint32_t first_prompt_row;   /* from here on */
    uint32_t n_prompt_rows;
    uint32_t first_tile_row; /* of tiles */
    const struct row_run *others;
    uint32_t n_others;
};

/* What activations are packed into, as bits: formats and parts of tiles for all rows; others, formats for rows that are not a
 * prompt's; and parts for a prompt's. */
struct pack_formats {
    unsigned all, all_parts, others, parts;
};

/* Whether whole groups of rows of this matrix of the copy lie in lanes. Not of experts' floats: what would be few tokens of
 * each in tiles of their own goes the way of rows. */
static inline bool cpu_in_lanes(const struct cpu *c, const struct tensor *w)
{
    return c->lanes[w->type] && !(c->k->prompt_way_only[w->type] && w->n_stack);
}

/* Whether all rows go through it as tiles; then its last group is filled up. */
static inline bool cpu_is_tiled(const struct cpu *c, const struct tensor *w)
{
    return c->k->prompt_way_only[w->type] && cpu_in_lanes(c, w);
}

static inline bool cpu_experts_fill_tiles(const struct kernels *k, const struct model *m, enum tensor_type t)
{
    const enum act_format f = k->act_format[t];
    return (f == ACT_Q8 || f == ACT_Q8K) && device_cpu_experts_fill_tiles(m->n_expert, m->n_expert_used, f == ACT_Q8K);
}

/* Whether a prompt's rows have another way than others through this matrix of a layer; in_lanes: weights of its type are, as
 * far as they have that form. */
static inline bool cpu_is_prompt_way(const struct kernels *k, const struct model *m, const struct tensor *w,
                                     bool in_lanes)
{
    return k->matmul_prompt[w->type] && !k->prompt_way_only[w->type] &&
           (!k->matmul_lanes[w->type] || (in_lanes && w->n_out % LANES == 0)) &&
           (!w->n_stack || cpu_experts_fill_tiles(k, m, w->type));
}

static inline bool cpu_has_prompt_way(const struct cpu *c, const struct tensor *w)
{
    return cpu_is_prompt_way(c->k, c->base.model, w, c->lanes[w->type]);
}

static inline void cpu_need(const struct cpu *c, const struct tensor *w, bool by_role, struct pack_formats *f)
{
    const unsigned bit = 1u << c->k->act_format[w->type], parts_bit = 1u << c->k->prompt_parts[w->type];
    if (cpu_is_tiled(c, w)) {
        f->all_parts |= parts_bit;
    } else if (by_role && cpu_has_prompt_way(c, w)) {
        f->others |= bit;
        f->parts |= parts_bit;
    } else {
        f->all |= bit;
    }
}

/* So many rows, and elements of them, a worker packs for itself rather than wait for the others. */
#define PRIVATE_ROWS 16 /* a tile's */
#define PRIVATE_ELEMENTS 8192

/* Rows of n floats, stride apart (the index[i]-th for row i, if index is given), RMS-normed first if norm is given,
 * packed in these formats. Few rows each worker packs for itself; of many, and of prompts, each packs a share into `shared`,
 * and a barrier follows. */
struct pack_args {
    const float *src;
    size_t stride;
    uint32_t n, n_rows;
    const uint32_t *index;
    const float *norm;
    struct pack_formats formats;
    unsigned char *const *shared, *const *tiles;
    const struct step_row *rows; /* which are a prompt's, and where in tiles; NULL: the step's */
};
void cpu_pack(struct cpu *c, uint32_t thread, const struct pack_args *a, struct packed *out);

/* y[t * y_stride + r] for r in [first, end) of the weight rows at data (first: a multiple of 16 unless lazy_weights), t in
 * [0, n_tokens) of packed rows from first_token. Where x has tiles of prompts' rows, and w another way for them, they take
 * that: then rows go by as `ways` says. Where all are tiles, all of them go by. */
struct product {
    const struct tensor *w;
    const unsigned char *data; /* row 0 */
    uint32_t first, end;
    const struct packed *x;
    uint32_t first_token, n_tokens;
    float *y; /* of row 0 */
    size_t y_stride;
    const struct row_ways *ways; /* NULL: all rows of the step */
};
void cpu_product(struct cpu *c, uint32_t thread, const struct product *p);

/* ---- dealing out rows (deal.c) ---- */

/* All rows of w, while the workers compute them. Begun by every worker of the team, with the same w, and ended by a barrier:
 *     for (cpu_deal_begin(..); cpu_deal_next(..);) compute rows [begin, end)
 * begin is a multiple of ROW_UNIT. */
struct deal {
    uint32_t n_rows, number, min_units, n_shares, n_passed;
};
void cpu_deal_begin(struct cpu *c, uint32_t thread, const struct tensor *w, struct deal *d);
bool cpu_deal_next(struct cpu *c, uint32_t thread, struct deal *d, uint32_t *begin, uint32_t *end);

/* A barrier. Who waits asks for the first rows that it will read of `next` (or NULL), so that memory does not wait too. */
void cpu_meet(struct cpu *c, uint32_t thread, const struct tensor *next);

/* ---- operations: each is run by all workers and ends in a barrier ---- */

void cpu_op_embed(struct cpu *c, uint32_t thread);
void cpu_op_qkv(struct cpu *c, uint32_t thread, uint32_t layer);
void cpu_op_attention(struct cpu *c, uint32_t thread, uint32_t layer);
void cpu_op_attn_out(struct cpu *c, uint32_t thread, uint32_t layer);
void cpu_op_ffn(struct cpu *c, uint32_t thread, uint32_t layer);
void cpu_op_moe(struct cpu *c, uint32_t thread, uint32_t layer);
void cpu_op_logits(struct cpu *c, uint32_t thread);

/* ---- the last layer (tail.c) ---- */

/* Finds the tail of the step that was set. */
void cpu_tail_plan(struct cpu *c);
/* The step becomes its tail, with what of its rows is needed further on. Run by all workers, ends in a barrier. */
void cpu_tail_begin(struct cpu *c, uint32_t thread);

/* ---- attention (attention.c) ---- */

/* Rows of a sequence in one pass over its cache. */
uint32_t cpu_kv_block_rows(const struct model *m);

/* Positions are cut into spans of so many chunks: 512 tokens, or what fits. */
uint32_t cpu_span_chunks(uint32_t chunk_tokens);

/* Splits the attention of the step that was set among the workers. */
void cpu_attn_plan(struct cpu *c);

/* Keys and then values of each KV head, side by side, as attention reads them. */
static inline unsigned char *cpu_kv(const struct cpu *c, uint32_t chunk, uint32_t layer, bool values, uint32_t kv_head)
{
    return c->kv + chunk * c->chunk_bytes + layer * c->layer_bytes + (2 * kv_head + values) * c->area_bytes;
}

#endif
