#include "device/cpu/cpu.h"

static void pack_row(struct cpu *c, uint32_t thread, const struct pack_args *a, uint32_t row, const struct packed *out)
{
    const float *x = a->src + (a->index ? a->index[row] : row) * a->stride;
    if (a->norm) {
        c->k->rms_norm(x, a->norm, a->n, c->base.model->norm_eps, c->threads[thread].row);
        x = c->threads[thread].row;
    }
    c->threads[thread].traffic.activation_bytes += a->n * sizeof(float);
    for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
        if (a->formats & 1u << f) {
            c->k->act_pack[f](x, a->n, out->rows[f] + row * out->row_bytes[f]);
            c->threads[thread].traffic.activation_bytes += out->row_bytes[f];
        }
    }
}

void cpu_pack(struct cpu *c, uint32_t thread, const struct pack_args *a, struct packed *out)
{
    /* Packing a few rows is cheaper than meeting at a barrier. */
    bool alone = a->n_rows == 1 || (a->n_rows <= PRIVATE_ROWS && a->n_rows * a->n <= PRIVATE_ELEMENTS);
    for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
        bool needed = a->formats & 1u << f;
        out->rows[f] = !needed ? NULL : alone ? c->threads[thread].packed[f] : a->shared[f];
        out->row_bytes[f] = needed ? act_row_bytes((enum act_format)f, a->n) : 0;
    }
    uint32_t begin = 0, end = a->n_rows;
    if (!alone)
        cpu_share(c, thread, a->n_rows, 1, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        pack_row(c, thread, a, i, out);
    if (!alone)
        team_barrier(c->team);
}

/* Whole groups of rows in lanes, the rest as rows. */
static void multiply(const struct cpu *c, const struct product *p, struct matmul_args a)
{
    const enum tensor_type t = p->w->type;
    if (c->lanes[t]) {
        const uint32_t in_lanes = p->w->n_out / LANES * LANES, end = p->end < in_lanes ? p->end : in_lanes;
        const uint32_t n = end > p->first ? end - p->first : 0, rest = a.n_rows - n;
        a.n_rows = n;
        if (n)
            c->k->matmul_lanes[t](&a);
        a.w = (const unsigned char *)a.w + n * a.w_row_bytes;
        a.y += n;
        a.n_rows = rest;
    }
    if (a.n_rows)
        c->k->matmul[t](&a);
}

void cpu_product(struct cpu *c, uint32_t thread, const struct product *p)
{
    if (p->first >= p->end || !p->n_tokens)
        return;
    enum act_format f = c->k->act_format[p->w->type];
    uint32_t n_rows = p->end - p->first;
    struct matmul_args a = {
        .w = p->data + p->first * p->w->row_bytes,
        .w_row_bytes = p->w->row_bytes,
        .n_rows = n_rows,
        .n_cols = p->w->n_in,
        .x = p->x->rows[f] + p->first_token * p->x->row_bytes[f],
        .x_row_bytes = p->x->row_bytes[f],
        .n_tokens = p->n_tokens,
        .y = p->y + p->first_token * p->y_stride + p->first,
        .y_stride = p->y_stride,
        .scratch = c->threads[thread].matmul_scratch,
    };
    multiply(c, p, a);
    struct step_traffic *t = &c->threads[thread].traffic;
    t->weight_bytes += n_rows * p->w->row_bytes;
    t->activation_bytes += p->n_tokens * (a.x_row_bytes + n_rows * sizeof(float));
    t->flops += 2.0 * n_rows * p->w->n_in * p->n_tokens;
}
