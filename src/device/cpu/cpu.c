#include "device/cpu/cpu.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STEP_TOKENS (1u << 16)
#define MAX_PARTIAL (1u << 20)
#define CUT_SPANS 64

/* ---- steps ---- */

static void run_step(void *user, uint32_t thread)
{
    struct cpu *c = user;
    for (uint32_t i = 0; i < c->forward->n_ops && c->step.n_rows > 0; i++) { /* the tail may have none */
        const struct forward_op *op = &c->forward->ops[i];
        switch (op->kind) {
        case OP_EMBED:
            cpu_op_embed(c, thread);
            break;
        case OP_QKV:
            cpu_op_qkv(c, thread, op->layer);
            break;
        case OP_ATTENTION:
            cpu_op_attention(c, thread, op->layer);
            break;
        case OP_ATTN_OUT:
            cpu_op_attn_out(c, thread, op->layer);
            break;
        case OP_FFN:
            cpu_op_ffn(c, thread, op->layer);
            break;
        case OP_MOE:
            cpu_op_moe(c, thread, op->layer);
            break;
        case OP_LOGITS:
            cpu_op_logits(c, thread);
            break;
        }
    }
    for (uint32_t i = thread; c->step.sample && i < c->step.n_seqs; i += c->n_threads)
        c->step.sample(c->step.sample_user, i, c->logits);
    if (thread == 0)
        c->end_s = clock_monotonic_s();
}

static int cpu_start(struct device *d, const struct step *s, struct err *e)
{
    (void)e;
    struct cpu *c = (struct cpu *)d;
    uint32_t chunk_tokens = d->config.chunk_tokens;
    c->begin_s = clock_monotonic_s();
    c->step = *s;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct step_seq *q = &s->seqs[i];
        for (uint32_t r = 0; r < q->n_rows; r++) {
            uint32_t position = q->n_past + r;
            c->rows[q->first_row + r] = (struct step_row){.position = position,
                                                          .chunk = q->chunks[position / chunk_tokens],
                                                          .slot = position % chunk_tokens,
                                                          .prompt = c->prompt_ways && position < q->n_prompt};
        }
    }
    cpu_divide_rows(c);
    cpu_attn_plan(c);
    cpu_tail_plan(c);
    for (uint32_t t = 0; t < c->n_threads; t++)
        c->threads[t].traffic = (struct step_traffic){0};
    team_start(c->team, run_step, c);
    return 0;
}

static int cpu_wait(struct device *d, struct step_result *out, struct err *e)
{
    (void)e;
    struct cpu *c = (struct cpu *)d;
    team_wait(c->team);
    *out = (struct step_result){.logits = c->logits, .seconds = c->end_s - c->begin_s};
    for (uint32_t t = 0; t < c->n_threads; t++) {
        const struct step_traffic *p = &c->threads[t].traffic;
        out->traffic.weight_bytes += p->weight_bytes;
        out->traffic.kv_read_bytes += p->kv_read_bytes;
        out->traffic.kv_write_bytes += p->kv_write_bytes;
        out->traffic.activation_bytes += p->activation_bytes;
        out->traffic.flops += p->flops;
    }
    return 0;
}

static void cpu_copy_chunk(struct device *d, uint32_t src, uint32_t dst, uint32_t n_tokens)
{
    struct cpu *c = (struct cpu *)d;
    (void)n_tokens; /* tokens lie interleaved; what comes along behind them is seen by nobody */
    memcpy(c->kv + dst * c->chunk_bytes, c->kv + src * c->chunk_bytes, c->chunk_bytes);
}

static void cpu_poison_chunk(struct device *d, uint32_t chunk)
{
    struct cpu *c = (struct cpu *)d;
    memset(c->kv + chunk * c->chunk_bytes, 0xff, c->chunk_bytes); /* not-a-numbers in both cache types */
}

static uint64_t cpu_memory_bytes(const struct device *d)
{
    const struct cpu *c = (const struct cpu *)d;
    return c->weights_bytes + c->kv_bytes + c->arena_bytes;
}

static void cpu_destroy(struct device *d)
{
    struct cpu *c = (struct cpu *)d;
    team_destroy(c->team);
    cpu_free_weights(c);
    mem_free_aligned(c->kv, c->kv_bytes);
    mem_free_aligned(c->arena, c->arena_bytes);
    free(c);
}

static const struct device_ops cpu_ops = {
    .name = "cpu",
    .samples = true,
    .destroy = cpu_destroy,
    .start = cpu_start,
    .wait = cpu_wait,
    .copy_chunk = cpu_copy_chunk,
    .poison_chunk = cpu_poison_chunk,
    .memory_bytes = cpu_memory_bytes,
};

/* ---- scratch ---- */

/* Scratch is carved from one block, twice over: first to measure it (base NULL), then to place it. */
struct carver {
    unsigned char *base;
    size_t used;
    bool overflow;
};

static void *carve(struct carver *a, size_t n, size_t size)
{
    size_t bytes, end;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2 - 64 ||
        __builtin_add_overflow(a->used, (bytes + 63) / 64 * 64, &end)) {
        a->overflow = true;
        return NULL;
    }
    void *p = a->base ? a->base + a->used : NULL;
    a->used = end;
    return p;
}

static float *carve_floats(struct carver *a, size_t n, size_t m)
{
    return carve(a, n, m * sizeof(float));
}

static struct attn_state carve_state(struct carver *a, size_t n, uint32_t head_dim)
{
    return (struct attn_state){carve_floats(a, n, 1), carve_floats(a, n, 1), carve_floats(a, n, head_dim)};
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The formats that the weights of this model ask for, by what they multiply: the widest row of each. */
static void widen(const struct cpu *c, const struct tensor *w, uint32_t widest[ACT_FORMAT_COUNT])
{
    if (w->n_in) {
        enum act_format f = c->k->act_format[w->type];
        widest[f] = max_u32(widest[f], w->n_in);
    }
}

/* Likewise tiles, by parts: of rows, of them those that all rows are packed into, and of experts' slots. */
struct widest_tiles {
    uint32_t rows[MAX_PROMPT_PARTS + 1], all_rows[MAX_PROMPT_PARTS + 1], slots[MAX_PROMPT_PARTS + 1];
};

static void widen_tiles(const struct cpu *c, const struct tensor *w, bool by_role, struct widest_tiles *widest)
{
    const uint32_t parts = c->k->prompt_parts[w->type];
    const bool all_rows = c->k->prompt_way_only[w->type] && !w->n_stack;
    if (!w->n_in || !parts || (!all_rows && !by_role) ||
        (w->n_stack && !cpu_experts_fill_tiles(c->k, c->base.model, w->type)))
        return;
    widest->rows[parts] = max_u32(widest->rows[parts], w->n_in);
    if (all_rows)
        widest->all_rows[parts] = max_u32(widest->all_rows[parts], w->n_in);
    if (w->n_stack)
        widest->slots[parts] = max_u32(widest->slots[parts], w->n_in);
}

static void widest_tiles(const struct cpu *c, struct widest_tiles *widest)
{
    const struct model *m = c->base.model;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct layer *y = &m->layers[i];
        const struct tensor *const all[] = {&y->q,  &y->k,    &y->v,        &y->o,      &y->gate,
                                            &y->up, &y->down, &y->gate_x.t, &y->up_x.t, &y->down_x.t};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            widen_tiles(c, all[j], true, widest);
        widen_tiles(c, &y->router, false, widest);
    }
    widen_tiles(c, &m->output, false, widest);
}

static void widest_rows(const struct cpu *c, uint32_t all[ACT_FORMAT_COUNT], uint32_t experts[ACT_FORMAT_COUNT])
{
    const struct model *m = c->base.model;
    widen(c, &m->output, all);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct layer *y = &m->layers[i];
        const struct tensor *const dense[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down, &y->router};
        const struct tensor *const moe[] = {&y->gate_x.t, &y->up_x.t, &y->down_x.t};
        for (size_t j = 0; j < sizeof dense / sizeof *dense; j++)
            widen(c, dense[j], all);
        for (size_t j = 0; y->is_moe && j < sizeof moe / sizeof *moe; j++) {
            widen(c, moe[j], all);
            widen(c, moe[j], experts);
        }
    }
}

static void carve_threads(struct cpu *c, struct carver *a, const uint32_t widest[ACT_FORMAT_COUNT],
                          const struct widest_tiles *tiles)
{
    const struct model *m = c->base.model;
    uint32_t group = m->n_head / m->n_head_kv, queries = cpu_kv_block_rows(m) * group;
    struct cpu_thread *threads = carve(a, c->n_threads, sizeof *threads);
    if (a->base)
        c->threads = threads;
    for (uint32_t t = 0; t < c->n_threads; t++) {
        struct cpu_thread p = {0};
        p.matmul_scratch = carve(a, 1, MATMUL_SCRATCH_BYTES);
        p.row = carve_floats(a, max_u32(max_u32(m->n_embd, m->n_ff), m->n_head * m->head_dim), 1);
        for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
            /* No format takes more than 4 bytes an element and 256 a row. */
            size_t few = PRIVATE_ELEMENTS * 4 + PRIVATE_ROWS * 256, one = act_row_bytes((enum act_format)f, widest[f]);
            if (widest[f])
                p.packed[f] = carve(a, few > one ? few : one, 1);
        }
        for (uint32_t parts = 1; parts <= MAX_PROMPT_PARTS; parts++) {
            if (tiles->all_rows[parts])
                p.tiles[parts] = carve(a, PRIVATE_ROWS, prompt_row_bytes(parts, tiles->all_rows[parts]));
        }
        p.total = carve_state(a, queries, m->head_dim);
        p.span = carve_state(a, queries, m->head_dim);
        p.first = carve(a, queries, sizeof *p.first);
        p.last = carve(a, queries, sizeof *p.last);
        p.attn_scratch = carve(a, attn_scratch_bytes(m->head_dim), 1);
        if (m->n_expert) {
            p.expert_first = carve(a, 2 * m->n_expert + 1, sizeof *p.expert_first);
            p.expert_cursor = carve(a, 2 * m->n_expert + 1, sizeof *p.expert_cursor);
            p.expert_tile = carve(a, m->n_expert, sizeof *p.expert_tile);
            p.slot_of = carve(a, (size_t)c->base.config.max_step_tokens * m->n_expert_used, sizeof *p.slot_of);
        }
        if (a->base)
            c->threads[t] = p;
    }
}

static void carve_plan(struct cpu *c, struct carver *a)
{
    const struct model *m = c->base.model;
    const struct device_config *g = &c->base.config;
    uint32_t group = m->n_head / m->n_head_kv, block = cpu_kv_block_rows(m);
    uint32_t span_tokens = cpu_span_chunks(g->chunk_tokens) * g->chunk_tokens;
    struct attn_plan *p = &c->plan;
    p->max_items = (g->max_step_tokens / block + 2 * g->max_step_seqs) * m->n_head_kv; /* a prompt may end in a block */
    p->items = carve(a, p->max_items, sizeof *p->items);
    p->bounds = carve(a, c->n_threads + 1, sizeof *p->bounds);
    p->cut = carve(a, c->n_threads, sizeof *p->cut);
    /* Each bound between workers may cut an item of one row with the longest context; some, items of many rows. */
    uint64_t spans = g->max_context / span_tokens + 1, partials = (uint64_t)(c->n_threads - 1) * group * spans;
    partials += (partials ? (uint64_t)block * group * (spans < CUT_SPANS ? spans : CUT_SPANS) : 0);
    p->max_partial = partials < MAX_PARTIAL ? (uint32_t)partials : MAX_PARTIAL;
    p->partial = carve_state(a, p->max_partial, m->head_dim);
}

static void carve_scratch(struct cpu *c, struct carver *a)
{
    const struct model *m = c->base.model;
    size_t rows = c->base.config.max_step_tokens, slots = rows * m->n_expert_used;
    size_t n_q = (size_t)m->n_head * m->head_dim, n_kv = (size_t)m->n_head_kv * m->head_dim;
    const size_t dense = rows * cpu_stride(m->n_ff), experts = slots * m->n_ff_expert;
    uint32_t widest[ACT_FORMAT_COUNT] = {0}, widest_expert[ACT_FORMAT_COUNT] = {0};
    widest_rows(c, widest, widest_expert);
    struct widest_tiles tiles = {0};
    widest_tiles(c, &tiles);
    carve_threads(c, a, widest, &tiles);
    carve_plan(c, a);
    c->x = carve_floats(a, rows, m->n_embd);
    c->qkv = carve_floats(a, rows, cpu_stride(n_q + 2 * n_kv));
    c->q = carve_floats(a, rows, n_q);
    c->attn = carve_floats(a, rows, n_q);
    c->y = carve_floats(a, slots > rows ? slots : rows, cpu_stride(m->n_embd));
    c->gate = carve_floats(a, dense > experts ? dense : experts, 1);
    c->up = carve_floats(a, dense > experts ? dense : experts, 1);
    c->rope_cos = carve_floats(a, rows, m->rope.n_rot / 2);
    c->rope_sin = carve_floats(a, rows, m->rope.n_rot / 2);
    c->logits = carve_floats(a, c->base.config.max_outputs, m->n_vocab);
    c->rows = carve(a, rows, sizeof *c->rows);
    c->tail_seqs = carve(a, c->base.config.max_step_seqs, sizeof *c->tail_seqs);
    c->tail_rows = carve(a, rows, sizeof *c->tail_rows);
    c->tail_outputs = carve(a, c->base.config.max_outputs, sizeof *c->tail_outputs);
    for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
        if (widest[f])
            c->packed[f] = carve(a, rows, act_row_bytes((enum act_format)f, widest[f]));
        if (widest_expert[f])
            c->packed_slots[f] = carve(a, slots, act_row_bytes((enum act_format)f, widest_expert[f]));
    }
    const size_t tile_rows = (rows + PROMPT_TILE_TOKENS - 1) / PROMPT_TILE_TOKENS * PROMPT_TILE_TOKENS;
    const size_t touched = slots < m->n_expert ? slots : m->n_expert;
    const size_t tile_slots = slots + touched * (PROMPT_TILE_TOKENS - 1); /* each expert's last tile may have one */
    for (uint32_t parts = 1; parts <= MAX_PROMPT_PARTS; parts++) {
        if (tiles.rows[parts]) {
            c->tiles[parts] = carve(a, tile_rows, prompt_row_bytes(parts, tiles.rows[parts]));
            c->prompt_ways = true;
        }
        if (tiles.slots[parts])
            c->slot_tiles[parts] = carve(a, tile_slots, prompt_row_bytes(parts, tiles.slots[parts]));
    }
    c->tile_rows = carve(a, rows, sizeof *c->tile_rows);
    c->others = carve(a, rows, sizeof *c->others);
    if (m->n_expert) {
        c->router = carve_floats(a, rows, m->n_expert);
        c->slots = carve(a, slots, sizeof *c->slots);
        c->chosen = carve(a, slots, sizeof *c->chosen);
        c->chosen_weight = carve_floats(a, slots, 1);
    }
}

static int create_memory(struct cpu *c, struct err *e)
{
    const struct device_config *g = &c->base.config;
    const struct model *m = c->base.model;
    c->kv_row_bytes = kv_row_bytes(g->kv_type, m->head_dim);
    c->area_bytes = kv_area_bytes(g->kv_type, m->head_dim, g->chunk_tokens);
    c->layer_bytes = 2 * (size_t)m->n_head_kv * c->area_bytes;
    c->chunk_bytes = m->n_layer * c->layer_bytes;
    if (__builtin_mul_overflow(c->chunk_bytes, (size_t)g->n_chunks, &c->kv_bytes))
        return err_set(e, WEIR_ELIMIT, "%u chunks of %zu bytes are more than any memory", g->n_chunks, c->chunk_bytes);
    c->kv = mem_aligned(c->kv_bytes);
    if (!c->kv)
        return err_set(e, WEIR_ENOMEM, "no memory for %u chunks of keys and values (%.1f GB)", g->n_chunks,
                       (double)c->kv_bytes / 1e9);
    struct carver a = {0};
    carve_scratch(c, &a);
    if (!a.overflow)
        c->arena = mem_aligned(a.used);
    if (a.overflow || !c->arena)
        return err_set(e, WEIR_ENOMEM, "no memory for steps of %u tokens", g->max_step_tokens);
    c->arena_bytes = a.used;
    a = (struct carver){.base = c->arena};
    team_interleave_memory(c->team, c->kv, c->kv_bytes);
    team_interleave_memory(c->team, c->arena, c->arena_bytes);
    carve_scratch(c, &a);
    return 0;
}

/* ---- creation ---- */

static int check_config(const struct device_config *g, const struct model *m, struct err *e)
{
    if (!g->chunk_tokens || g->chunk_tokens > KV_CHUNK_MAX_TOKENS || g->chunk_tokens % KV_BLOCK_TOKENS)
        return err_set(e, WEIR_EINVAL, "chunks of %u tokens; the device supports multiples of %d up to %d",
                       g->chunk_tokens, KV_BLOCK_TOKENS, KV_CHUNK_MAX_TOKENS);
    if (m->head_dim > ATTN_MAX_HEAD_DIM)
        return err_set(e, WEIR_EUNSUPPORTED, "heads of %u elements; the device supports up to %d", m->head_dim,
                       ATTN_MAX_HEAD_DIM);
    if (!g->n_chunks || !g->max_step_seqs || !g->max_outputs || !g->max_context)
        return err_set(e, WEIR_EINVAL, "a device needs at least one chunk, sequence, output and position");
    if (!g->max_step_tokens || g->max_step_tokens > MAX_STEP_TOKENS || g->max_step_seqs > MAX_STEP_TOKENS ||
        g->max_outputs > MAX_STEP_TOKENS || g->max_context > MODEL_MAX_CONTEXT)
        return err_set(e, WEIR_EINVAL, "a step of %u tokens, %u sequences, %u outputs; the device supports up to %u",
                       g->max_step_tokens, g->max_step_seqs, g->max_outputs, MAX_STEP_TOKENS);
    if (g->kv_type >= KV_TYPE_COUNT)
        return err_set(e, WEIR_EINVAL, "unknown type of keys and values");
    if (g->kv_type == KV_Q8_0 && m->head_dim % 32)
        return err_set(e, WEIR_EUNSUPPORTED,
                       "heads of %u elements are not whole blocks of 32, which q8_0 keys and values need; use f16",
                       m->head_dim);
    return 0;
}

static int check_type(const struct kernels *k, const struct tensor *w, struct err *e)
{
    if (!w->n_in || k->matmul[w->type])
        return 0;
    return err_set(e, WEIR_EUNSUPPORTED, "no kernel multiplies with %s weights; supported are %s",
                   tensor_type_name(w->type), tensor_type_supported());
}

static int check_types(const struct kernels *k, const struct model *m, struct err *e)
{
    int rc = check_type(k, &m->output, e);
    if (!rc && !k->dequant[m->token_embd.type])
        rc = err_set(e, WEIR_EUNSUPPORTED, "no kernel reads %s embeddings; supported are %s",
                     tensor_type_name(m->token_embd.type), tensor_type_supported());
    for (uint32_t i = 0; !rc && i < m->n_layer; i++) {
        const struct layer *y = &m->layers[i];
        const struct tensor *const all[] = {&y->q,    &y->k,      &y->v,        &y->o,      &y->gate,    &y->up,
                                            &y->down, &y->router, &y->gate_x.t, &y->up_x.t, &y->down_x.t};
        for (size_t j = 0; !rc && j < sizeof all / sizeof *all; j++)
            rc = check_type(k, all[j], e);
    }
    return rc;
}

int device_cpu_create(struct device **out, const struct forward *f, const struct device_config *config, struct err *e)
{
    const struct kernels *k = config->kernels ? config->kernels : kernels_get(e);
    if (!k)
        return WEIR_EINVAL;
    int rc = check_config(config, f->model, e);
    if (rc || (rc = check_types(k, f->model, e)))
        return rc;
    struct cpu *c = mem_array(1, sizeof *c);
    if (!c)
        return err_set(e, WEIR_ENOMEM, "no memory for the device");
    c->base = (struct device){.ops = &cpu_ops, .model = f->model, .config = *config};
    c->forward = f;
    c->k = k;
    c->layers = f->model->layers;
    c->output = f->model->output;
    c->token_embd = f->model->token_embd;
    if ((rc = team_create(&c->team, config->n_threads, config->pin_threads, e))) {
        cpu_destroy(&c->base);
        return rc;
    }
    c->n_threads = c->base.config.n_threads = team_size(c->team);
    if ((rc = create_memory(c, e)) || (!config->lazy_weights && (rc = cpu_load_weights(c, e)))) {
        cpu_destroy(&c->base);
        return rc;
    }
    *out = &c->base;
    return 0;
}
