/* Bringing the mapped weights into memory. Each worker brings the rows that it will read, so that on a machine of
 * several NUMA nodes they come to lie on its node: by first touch where the file was not yet in the page cache, by
 * migration where it was. While one piece is read, the next is already asked for. */
#include "device/cpu/cpu.h"

#include "base/mem.h"

#include <stdlib.h>
#include <sys/mman.h>

#define PIECE_BYTES ((size_t)8 << 20)
#define PAGE_BYTES ((size_t)4096)
#define ROW_UNIT 16 /* as products deal out rows; where they differ a little, a few rows lie on the neighbour's node */

struct range {
    const unsigned char *data;
    size_t n_bytes;
};

/* A worker's ranges in the order of layers, and how far it has come. */
struct loader {
    struct range *ranges;
    uint32_t n, at;
    size_t offset, left;
};

struct loading {
    struct cpu *c;
    struct loader *loaders; /* [n_threads] */
};

static void add(struct loader *l, const unsigned char *data, size_t n_bytes)
{
    if (l->ranges && n_bytes)
        l->ranges[l->n] = (struct range){data, n_bytes};
    l->n += n_bytes > 0;
    l->left += n_bytes;
}

static void add_rows(struct loader *l, const struct tensor *w, const unsigned char *data, uint32_t begin, uint32_t end)
{
    if (data && begin < end)
        add(l, data + begin * w->row_bytes, (end - begin) * w->row_bytes);
}

static void add_share(const struct cpu *c, uint32_t thread, struct loader *l, const struct tensor *w,
                      const unsigned char *data)
{
    uint32_t begin, end;
    cpu_share(c, thread, w->n_out, ROW_UNIT, &begin, &end);
    add_rows(l, w, data, begin, end);
}

/* q, k and v are dealt out by heads, counted through. */
static void add_qkv(const struct cpu *c, uint32_t thread, struct loader *l, const struct layer *y)
{
    const struct model *m = c->base.model;
    const struct tensor *const part[3] = {&y->q, &y->k, &y->v};
    uint32_t begin, end, base = 0;
    cpu_share(c, thread, m->n_head + 2 * m->n_head_kv, 1, &begin, &end);
    begin *= m->head_dim;
    end *= m->head_dim;
    for (uint32_t i = 0; i < 3; base += part[i++]->n_out) {
        uint32_t last = end < base + part[i]->n_out ? end : base + part[i]->n_out;
        if (last > base)
            add_rows(l, part[i], part[i]->data, begin > base ? begin - base : 0, last - base);
    }
}

static void list_ranges(const struct cpu *c, uint32_t thread, struct loader *l)
{
    const struct model *m = c->base.model;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct layer *y = &m->layers[i];
        add_qkv(c, thread, l, y);
        const struct tensor *const dense[] = {&y->o, &y->gate, &y->up, &y->down, &y->router};
        for (size_t j = 0; j < sizeof dense / sizeof *dense; j++)
            add_share(c, thread, l, dense[j], dense[j]->data);
        const struct expert_tensor *const experts[] = {&y->gate_x, &y->up_x, &y->down_x};
        for (size_t j = 0; y->is_moe && j < sizeof experts / sizeof *experts; j++) {
            for (uint32_t x = 0; x < m->n_expert; x++)
                add_share(c, thread, l, &experts[j]->t, experts[j]->parts[x]);
        }
    }
    add_share(c, thread, l, &m->output, m->output.data);
    if (!m->output_is_tied)
        add_share(c, thread, l, &m->token_embd, m->token_embd.data);
}

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

static void ask_for(const unsigned char *data, size_t n)
{
    uintptr_t begin = (uintptr_t)data / PAGE_BYTES * PAGE_BYTES;
    madvise((void *)begin, (uintptr_t)data + n - begin, MADV_WILLNEED);
}

static size_t piece_of(const struct loader *l, size_t offset)
{
    size_t left = l->ranges[l->at].n_bytes - offset;
    return left < PIECE_BYTES ? left : PIECE_BYTES;
}

/* The next PIECE_BYTES of a worker, or what is left. */
static void load_piece(void *user, uint32_t thread)
{
    const struct loading *g = user;
    struct loader *l = &g->loaders[thread];
    for (size_t budget = PIECE_BYTES; budget && l->at < l->n;) {
        const struct range *r = &l->ranges[l->at];
        size_t n = piece_of(l, l->offset);
        n = n < budget ? n : budget;
        if (l->offset + n < r->n_bytes)
            ask_for(r->data + l->offset + n, piece_of(l, l->offset + n));
        else if (l->at + 1 < l->n)
            ask_for(r[1].data, r[1].n_bytes < PIECE_BYTES ? r[1].n_bytes : PIECE_BYTES);
        page_in(r->data + l->offset, n);
        team_bind_memory(g->c->team, thread, r->data + l->offset, n);
        budget -= n;
        l->left -= n;
        l->offset += n;
        if (l->offset == r->n_bytes) {
            l->offset = 0;
            l->at++;
        }
    }
}

int cpu_load_weights(struct cpu *c, struct err *e)
{
    const struct device_config *f = &c->base.config;
    struct loading g = {.c = c, .loaders = mem_array(c->n_threads, sizeof *g.loaders)};
    int rc = g.loaders ? 0 : WEIR_ENOMEM;
    size_t total = 0;
    for (uint32_t t = 0; !rc && t < c->n_threads; t++) {
        struct loader *l = &g.loaders[t];
        list_ranges(c, t, l); /* counts */
        l->ranges = mem_array(l->n, sizeof *l->ranges);
        if (!l->ranges)
            rc = WEIR_ENOMEM;
        l->n = 0;
        l->left = 0;
        if (!rc)
            list_ranges(c, t, l);
        total += l->left;
    }
    for (size_t left = total; !rc && left;) {
        team_run(c->team, load_piece, &g);
        left = 0;
        for (uint32_t t = 0; t < c->n_threads; t++)
            left += g.loaders[t].left;
        if (f->progress)
            f->progress((double)(total - left) / (double)total, f->progress_user);
    }
    for (uint32_t t = 0; g.loaders && t < c->n_threads; t++)
        free(g.loaders[t].ranges);
    free(g.loaders);
    return rc ? err_set(e, rc, "no memory to load the weights") : 0;
}
