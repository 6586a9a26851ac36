/* The device's own copy of the weights. Each worker reads the rows that it will use into huge pages, which so come to lie
 * on its NUMA node; those of types that lie in lanes (kernel/lanes.h) by way of a piece that its second-level cache holds, from
 * which they are packed. While one piece is read, the next are already asked for from the disk. */
#include "device/cpu/cpu.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE_BYTES ((size_t)1 << 20)
#define ASK_AHEAD_BYTES ((size_t)32 << 20)
#define REPORT_BYTES ((size_t)32 << 20) /* between two calls of progress, by each worker */
#define PAGE_BYTES ((size_t)4096)
#define ASK_BYTES ((size_t)128 << 10)
#define ALIGN_BYTES ((size_t)64)

/* ---- where everything comes to lie ---- */

struct placer {
    unsigned char *base; /* NULL: only counts */
    size_t used;
    const unsigned char **parts; /* of experts, one tensor after the other */
};

static const unsigned char *place(struct placer *p, const struct tensor *w)
{
    const unsigned char *at = p->base ? p->base + p->used : NULL;
    const size_t n_rows = (w->n_out + (size_t)LANES - 1) / LANES * LANES; /* the last group may be filled up */
    p->used += (n_rows * w->row_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return at;
}

static void place_experts(struct placer *p, struct expert_tensor *w, uint32_t n_expert)
{
    w->parts = p->parts;
    for (uint32_t x = 0; x < n_expert; x++) {
        const unsigned char *at = place(p, &w->t);
        if (p->base)
            *p->parts++ = at;
    }
}

#define N_DENSE 8
#define N_EXPERT 3

static void dense_of(struct layer *y, struct tensor *out[N_DENSE])
{
    struct tensor *const all[N_DENSE] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down, &y->router};
    memcpy(out, all, sizeof all);
}

static void experts_of(struct layer *y, struct expert_tensor *out[N_EXPERT])
{
    struct expert_tensor *const all[N_EXPERT] = {&y->gate_x, &y->up_x, &y->down_x};
    memcpy(out, all, sizeof all);
}

/* Layers that point into the copy. */
static void place_all(struct cpu *c, struct placer *p)
{
    const struct model *m = c->base.model;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct layer y = m->layers[i];
        struct tensor *dense[N_DENSE];
        struct expert_tensor *experts[N_EXPERT];
        dense_of(&y, dense);
        experts_of(&y, experts);
        for (int j = 0; j < N_DENSE; j++)
            dense[j]->data = dense[j]->data ? place(p, dense[j]) : NULL;
        for (int j = 0; y.is_moe && j < N_EXPERT; j++)
            place_experts(p, experts[j], m->n_expert);
        if (p->base)
            c->own_layers[i] = y;
    }
    c->output.data = place(p, &c->output);
    c->token_embd.data = m->output_is_tied ? c->output.data : m->token_embd.data;
}

/* ---- what each worker copies ---- */

struct range {
    const unsigned char *from;
    unsigned char *to; /* NULL: is only brought into memory */
    enum tensor_type type;
    bool in_lanes, tiled; /* cpu_in_lanes, cpu_is_tiled */
    uint32_t n_rows, n_cols;
    size_t row_bytes;
};

/* A worker's ranges: as products deal out rows, but where these differ a little a few rows lie on the neighbour's node.
 * In the order of layers, and how far it has come. */
struct loader {
    struct range *ranges;
    unsigned char *piece;
    size_t piece_bytes;
    uint32_t n, at, row;
    uint32_t asked_at, asked_row; /* up to here the file was asked for */
    size_t left, asked;           /* bytes not yet copied; bytes asked for and not yet copied */
    struct err err;
};

struct loading {
    struct cpu *c;
    struct loader *loaders; /* [n_threads] */
};

static void add_rows(const struct cpu *c, struct loader *l, const struct tensor *w, const unsigned char *from,
                     const unsigned char *to, uint32_t begin, uint32_t end)
{
    if (!from || begin >= end)
        return;
    const size_t at = begin * w->row_bytes;
    if (l->ranges)
        l->ranges[l->n] = (struct range){.from = from + at,
                                         .to = to ? (unsigned char *)(uintptr_t)to + at : NULL,
                                         .type = w->type,
                                         .in_lanes = cpu_in_lanes(c, w),
                                         .tiled = cpu_is_tiled(c, w),
                                         .n_rows = end - begin,
                                         .n_cols = w->n_in,
                                         .row_bytes = w->row_bytes};
    l->n++;
    l->left += (end - begin) * w->row_bytes;
}

static void add_share(const struct cpu *c, uint32_t thread, struct loader *l, const struct tensor *w,
                      const unsigned char *from, const unsigned char *to)
{
    uint32_t begin, end;
    cpu_share(c, thread, w->n_out, ROW_UNIT, &begin, &end);
    add_rows(c, l, w, from, to, begin, end);
}

/* q, k and v are dealt out by heads, counted through. */
static void add_qkv(const struct cpu *c, uint32_t thread, struct loader *l, struct tensor *const from[3],
                    struct tensor *const to[3])
{
    const struct model *m = c->base.model;
    uint32_t begin, end, base = 0;
    cpu_share(c, thread, m->n_head + 2 * m->n_head_kv, 1, &begin, &end);
    begin *= m->head_dim;
    end *= m->head_dim;
    for (uint32_t i = 0; i < 3; base += from[i++]->n_out) {
        uint32_t last = end < base + from[i]->n_out ? end : base + from[i]->n_out;
        if (last > base)
            add_rows(c, l, from[i], from[i]->data, to[i]->data, begin > base ? begin - base : 0, last - base);
    }
}

static void list_ranges(const struct cpu *c, uint32_t thread, struct loader *l)
{
    const struct model *m = c->base.model;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct layer from = m->layers[i], to = c->own_layers[i];
        struct tensor *dense_from[N_DENSE], *dense_to[N_DENSE];
        struct expert_tensor *experts_from[N_EXPERT], *experts_to[N_EXPERT];
        dense_of(&from, dense_from);
        dense_of(&to, dense_to);
        experts_of(&from, experts_from);
        experts_of(&to, experts_to);
        add_qkv(c, thread, l, dense_from, dense_to);
        for (int j = 3; j < N_DENSE; j++)
            add_share(c, thread, l, dense_from[j], dense_from[j]->data, dense_to[j]->data);
        for (int j = 0; from.is_moe && j < N_EXPERT; j++) {
            for (uint32_t x = 0; x < m->n_expert; x++)
                add_share(c, thread, l, &experts_from[j]->t, experts_from[j]->parts[x], experts_to[j]->parts[x]);
        }
    }
    add_share(c, thread, l, &m->output, m->output.data, c->output.data);
    if (!m->output_is_tied)
        add_share(c, thread, l, &m->token_embd, m->token_embd.data, NULL);
}

/* ---- copying ---- */

static void page_in(const unsigned char *data, size_t n)
{
    uintptr_t begin = (uintptr_t)data / PAGE_BYTES * PAGE_BYTES, end = (uintptr_t)data + n;
#ifdef MADV_POPULATE_READ
    if (madvise((void *)begin, end - begin, MADV_POPULATE_READ) == 0)
        return;
#endif
    for (uintptr_t at = begin; at < end; at += PAGE_BYTES)
        (void)*(const volatile unsigned char *)at;
}

/* Linux takes no more than a read-ahead window of one request. */
static void ask_for(const unsigned char *data, size_t n)
{
    uintptr_t begin = (uintptr_t)data / PAGE_BYTES * PAGE_BYTES, end = (uintptr_t)data + n;
    for (uintptr_t at = begin; at < end; at += ASK_BYTES)
        madvise((void *)at, end - at < ASK_BYTES ? end - at : ASK_BYTES, MADV_WILLNEED);
}

static uint32_t piece_rows(const struct range *r, uint32_t row)
{
    const size_t most = PIECE_BYTES / (ROW_UNIT * r->row_bytes) * ROW_UNIT;
    const uint32_t left = r->n_rows - row;
    return left <= most ? left : most > ROW_UNIT ? (uint32_t)most : ROW_UNIT < left ? ROW_UNIT : left;
}

/* Whole groups into lanes, the rest as rows; of what is all tiles a last group is filled up with zeros. */
static int read_rows(const struct cpu *c, struct loader *l, const struct range *r, uint32_t row, uint32_t n)
{
    const struct gguf *file = c->base.model->file;
    const unsigned char *from = r->from + row * r->row_bytes;
    unsigned char *to = r->to + row * r->row_bytes;
    const uint32_t n_lanes = r->tiled ? n : r->in_lanes ? n / LANES * LANES : 0;
    int rc = n_lanes ? gguf_read(file, from, n_lanes * r->row_bytes, l->piece, &l->err) : 0;
    if (n_lanes % LANES)
        memset(l->piece + n_lanes * r->row_bytes, 0, (LANES - n_lanes % LANES) * r->row_bytes);
    for (uint32_t i = 0; !rc && i < n_lanes; i += LANES)
        lanes_pack(r->type, l->piece + i * r->row_bytes, r->row_bytes, r->n_cols, to + i * r->row_bytes);
    if (!rc && n > n_lanes)
        rc = gguf_read(file, from + n_lanes * r->row_bytes, (n - n_lanes) * r->row_bytes, to + n_lanes * r->row_bytes,
                       &l->err);
    return rc;
}

/* Goes on by a piece. */
static size_t advance(const struct loader *l, uint32_t *at, uint32_t *row)
{
    const struct range *r = &l->ranges[*at];
    const uint32_t n = piece_rows(r, *row);
    *row += n;
    if (*row == r->n_rows) {
        *row = 0;
        ++*at;
    }
    return n * r->row_bytes;
}

static void ask_ahead(struct loader *l)
{
    while (l->asked < ASK_AHEAD_BYTES && l->asked_at < l->n) {
        const struct range *r = &l->ranges[l->asked_at];
        const unsigned char *from = r->from + l->asked_row * r->row_bytes;
        const size_t n_bytes = advance(l, &l->asked_at, &l->asked_row);
        ask_for(from, n_bytes);
        l->asked += n_bytes;
    }
}

/* The next pieces of a worker. */
static void load_pieces(void *user, uint32_t thread)
{
    const struct loading *g = user;
    struct loader *l = &g->loaders[thread];
    for (size_t done = 0; done < REPORT_BYTES && l->at < l->n;) {
        const struct range *r = &l->ranges[l->at];
        const uint32_t row = l->row, n = piece_rows(r, row);
        ask_ahead(l);
        const size_t n_bytes = advance(l, &l->at, &l->row);
        if (r->to) {
            team_bind_memory(g->c->team, thread, r->to + row * r->row_bytes, n_bytes);
            if (read_rows(g->c, l, r, row, n))
                return;
        } else {
            page_in(r->from + row * r->row_bytes, n_bytes);
        }
        done += n_bytes;
        l->left -= n_bytes;
        l->asked -= n_bytes;
    }
}

static int make_room(struct cpu *c, struct err *e)
{
    const struct model *m = c->base.model;
    struct placer count = {0};
    place_all(c, &count);
    c->own_layers = mem_array(m->n_layer, sizeof *c->own_layers);
    c->own_parts = mem_array((size_t)m->n_layer * N_EXPERT * m->n_expert, sizeof *c->own_parts);
    c->weights_bytes = count.used;
    c->weights = mem_aligned(c->weights_bytes);
    if (!c->own_layers || !c->own_parts || !c->weights)
        return err_set(e, WEIR_ENOMEM, "no memory for the weights (%.1f GB)", (double)count.used / 1e9);
    place_all(c, &(struct placer){.base = c->weights, .parts = c->own_parts});
    c->layers = c->own_layers;
    return 0;
}

static int prepare(const struct cpu *c, uint32_t thread, struct loader *l)
{
    list_ranges(c, thread, l); /* counts */
    l->ranges = mem_array(l->n, sizeof *l->ranges);
    if (!l->ranges)
        return WEIR_ENOMEM;
    l->n = 0;
    l->left = 0;
    list_ranges(c, thread, l);
    for (uint32_t i = 0; i < l->n; i++) {
        const size_t n_bytes = (piece_rows(&l->ranges[i], 0) + (size_t)LANES) * l->ranges[i].row_bytes;
        l->piece_bytes = n_bytes > l->piece_bytes ? n_bytes : l->piece_bytes;
    }
    l->piece = mem_aligned(l->piece_bytes);
    return l->piece ? 0 : WEIR_ENOMEM;
}

static int load_all(const struct cpu *c, struct loading *g, struct err *e)
{
    const struct device_config *f = &c->base.config;
    size_t total = 0, left;
    for (uint32_t t = 0; t < c->n_threads; t++) {
        if (prepare(c, t, &g->loaders[t]))
            return err_set(e, WEIR_ENOMEM, "no memory to load the weights");
        total += g->loaders[t].left;
    }
    for (left = total; left;) {
        team_run(c->team, load_pieces, g);
        left = 0;
        for (uint32_t t = 0; t < c->n_threads; t++) {
            left += g->loaders[t].left;
            if (g->loaders[t].err.code)
                return err_set(e, g->loaders[t].err.code, "cannot load the weights: %s", g->loaders[t].err.msg);
        }
        if (f->progress)
            f->progress((double)(total - left) / (double)total, f->progress_user);
    }
    return 0;
}

int cpu_load_weights(struct cpu *c, struct err *e)
{
    for (uint32_t t = 0; t < TENSOR_TYPE_COUNT; t++)
        c->lanes[t] = (c->k->matmul_lanes[t] || c->k->prompt_way_only[t]) && cpu_uses_lanes(c->base.model);
    int rc = make_room(c, e);
    if (rc)
        return rc;
    struct loading g = {.c = c, .loaders = mem_array(c->n_threads, sizeof *g.loaders)};
    rc = g.loaders ? load_all(c, &g, e) : err_set(e, WEIR_ENOMEM, "no memory to load the weights");
    for (uint32_t t = 0; g.loaders && t < c->n_threads; t++) {
        mem_free_aligned(g.loaders[t].piece, g.loaders[t].piece_bytes);
        free(g.loaders[t].ranges);
    }
    free(g.loaders);
    return rc;
}

void cpu_free_weights(struct cpu *c)
{
    mem_free_aligned(c->weights, c->weights_bytes);
    free(c->own_layers);
    free(c->own_parts);
}

/* ---- rows of embeddings ---- */

void cpu_embedding(struct cpu *c, uint32_t thread, uint32_t token, float *out)
{
    const struct tensor *w = &c->token_embd;
    const uint32_t group = token / LANES * LANES;
    const void *row = w->data + token * w->row_bytes;
    if (c->base.model->output_is_tied && cpu_in_lanes(c, w) && (cpu_is_tiled(c, w) || w->n_out - group >= LANES)) {
        lanes_unpack_row(w->type, w->data + group * w->row_bytes, w->n_in, token % LANES,
                         c->threads[thread].matmul_scratch);
        row = c->threads[thread].matmul_scratch;
    }
    c->k->dequant[w->type](row, w->n_in, out);
}
