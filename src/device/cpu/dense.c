/* The operations of a dense layer, embedding and logits. */
#include "device/cpu/cpu.h"

#include <math.h>
#include <string.h>

void cpu_op_embed(struct cpu *c, uint32_t thread)
{
    const struct model *m = c->base.model;
    uint32_t begin, end, half = m->rope.n_rot / 2;
    cpu_share(c, thread, c->step.n_rows, 1, &begin, &end);
    for (uint32_t i = begin; i < end; i++) {
        cpu_embedding(c, thread, (uint32_t)c->step.tokens[i], c->x + (size_t)i * m->n_embd);
        for (uint32_t j = 0; j < half; j++) {
            double angle = (double)c->rows[i].position * (double)m->rope.inv_freq[j];
            c->rope_cos[(size_t)i * half + j] = (float)cos(angle) * m->rope.magnitude;
            c->rope_sin[(size_t)i * half + j] = (float)sin(angle) * m->rope.magnitude;
        }
    }
    c->threads[thread].traffic.weight_bytes += (end - begin) * c->token_embd.row_bytes;
    c->threads[thread].traffic.activation_bytes += (size_t)(end - begin) * m->n_embd * sizeof(float);
    team_barrier(c->team);
}

/* Heads of q, then k, then v, are counted through. Bias, norm and rotation of heads [begin, end) of all rows; then
 * queries are scaled and set in the order that attention reads, keys and values stored into their chunks. */
static void finish_head(struct cpu *c, const struct layer *y, uint32_t layer, uint32_t row, uint32_t head)
{
    const struct model *m = c->base.model;
    const struct kernels *k = c->k;
    uint32_t d = m->head_dim, group = m->n_head / m->n_head_kv, half = m->rope.n_rot / 2;
    bool is_q = head < m->n_head, is_v = head >= m->n_head + m->n_head_kv;
    uint32_t h = is_q ? head : is_v ? head - m->n_head - m->n_head_kv : head - m->n_head;
    float *x = c->qkv + row * cpu_stride((size_t)(m->n_head + 2 * m->n_head_kv) * d) + (size_t)head * d;
    const float *bias = is_q ? y->q_bias : is_v ? y->v_bias : y->k_bias;
    const float *norm = is_q ? y->q_norm : is_v ? NULL : y->k_norm;
    if (bias)
        k->add_scaled(x, bias + (size_t)h * d, 1, d);
    if (norm)
        k->rms_norm(x, norm, d, m->norm_eps, x);
    if (!is_v)
        k->rope(x, c->rope_cos + (size_t)row * half, c->rope_sin + (size_t)row * half, m->rope.n_rot,
                m->rope.layout == ROPE_ADJACENT);
    if (is_q) {
        float *q = c->q + (((size_t)(h / group) * c->base.config.max_step_tokens + row) * group + h % group) * d;
        for (uint32_t i = 0; i < d; i++)
            q[i] = x[i] * m->attn_scale;
        return;
    }
    const struct step_row *r = &c->rows[row];
    const enum kv_type t = c->base.config.kv_type;
    _Alignas(64) unsigned char stored[ATTN_MAX_HEAD_DIM * sizeof(uint16_t)];
    k->kv_store[t](x, d, stored);
    kv_put(t, is_v, stored, d, c->base.config.chunk_tokens, cpu_kv(c, r->chunk, layer, is_v, h), r->slot);
}

static void finish_heads(struct cpu *c, uint32_t thread, uint32_t layer, uint32_t begin, uint32_t end)
{
    const struct model *m = c->base.model;
    for (uint32_t row = 0; row < c->step.n_rows; row++) {
        for (uint32_t head = begin; head < end; head++)
            finish_head(c, &c->layers[layer], layer, row, head);
    }
    struct step_traffic *t = &c->threads[thread].traffic;
    uint32_t first_kv = begin > m->n_head ? begin : m->n_head;
    if (end > first_kv)
        t->kv_write_bytes += (uint64_t)(end - first_kv) * c->step.n_rows * c->kv_row_bytes;
    t->activation_bytes += 2ull * (end - begin) * c->step.n_rows * m->head_dim * sizeof(float);
}

/* Rows [begin, end) of q, k and v, counted through. */
static void qkv_rows(struct cpu *c, uint32_t thread, const struct layer *y, const struct packed *x, uint32_t begin,
                     uint32_t end)
{
    const struct tensor *part[3] = {&y->q, &y->k, &y->v};
    size_t stride = cpu_stride((size_t)y->q.n_out + y->k.n_out + y->v.n_out);
    for (uint32_t i = 0, base = 0; i < 3; base += part[i++]->n_out) {
        uint32_t n = part[i]->n_out;
        struct product p = {
            .w = part[i],
            .data = part[i]->data,
            .first = begin > base ? begin - base : 0,
            .end = end > base + n ? n
                   : end > base   ? end - base
                                  : 0,
            .x = x,
            .n_tokens = c->step.n_rows,
            .y = c->qkv + base,
            .y_stride = stride,
        };
        cpu_product(c, thread, &p);
    }
}

/* Heads [first, n) of q, then k, then v, of all rows, from the residual stream. */
static void project_heads(struct cpu *c, uint32_t thread, uint32_t layer, uint32_t first, uint32_t n)
{
    const struct model *m = c->base.model;
    const struct layer *y = &c->layers[layer];
    uint32_t n_heads = n - first, begin, end, h_begin, h_end, d = m->head_dim;
    struct packed x;
    struct pack_formats formats = {0};
    if (first < m->n_head)
        cpu_need(c, &y->q, true, &formats);
    if (n > m->n_head) {
        cpu_need(c, &y->k, true, &formats);
        cpu_need(c, &y->v, true, &formats);
    }
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->x,
                                 .stride = m->n_embd,
                                 .n = m->n_embd,
                                 .n_rows = c->step.n_rows,
                                 .norm = y->attn_norm,
                                 .formats = formats,
                                 .shared = c->packed},
             &x);
    cpu_share(c, thread, n_heads, 1, &h_begin, &h_end);
    /* Dealt out by whole heads, a worker can finish its own without waiting; too few heads would be dealt unevenly. */
    bool by_heads = n_heads >= 8 * c->n_threads || n_heads % c->n_threads == 0;
    if (by_heads) {
        qkv_rows(c, thread, y, &x, (first + h_begin) * d, (first + h_end) * d);
    } else {
        cpu_share(c, thread, n_heads * d, ROW_UNIT, &begin, &end);
        qkv_rows(c, thread, y, &x, first * d + begin, first * d + end);
        team_barrier(c->team);
    }
    finish_heads(c, thread, layer, first + h_begin, first + h_end);
}

void cpu_op_qkv(struct cpu *c, uint32_t thread, uint32_t layer)
{
    const struct model *m = c->base.model;
    uint32_t n_heads = m->n_head + 2 * m->n_head_kv;
    if (layer + 1 == m->n_layer && c->tail.n_rows < c->step.n_rows) {
        project_heads(c, thread, layer, m->n_head, n_heads);
        cpu_tail_begin(c, thread);
        if (c->step.n_rows > 0)
            project_heads(c, thread, layer, 0, m->n_head);
    } else {
        project_heads(c, thread, layer, 0, n_heads);
    }
    cpu_meet(c, thread, &c->layers[layer].o);
}

/* x += W input (+ bias). next: what comes after. */
static void add_product(struct cpu *c, uint32_t thread, const struct tensor *w, const struct packed *x,
                        const float *bias, const struct tensor *next)
{
    struct deal d;
    uint32_t begin, end, n = w->n_out;
    const size_t stride = cpu_stride(n);
    for (cpu_deal_begin(c, thread, w, &d); cpu_deal_next(c, thread, &d, &begin, &end);) {
        cpu_product(c, thread,
                    &(struct product){.w = w,
                                      .data = w->data,
                                      .first = begin,
                                      .end = end,
                                      .x = x,
                                      .n_tokens = c->step.n_rows,
                                      .y = c->y,
                                      .y_stride = stride});
        for (uint32_t i = 0; i < c->step.n_rows; i++) {
            float *out = c->x + (size_t)i * n + begin;
            c->k->add_scaled(out, c->y + i * stride + begin, 1, end - begin);
            if (bias)
                c->k->add_scaled(out, bias + begin, 1, end - begin);
        }
        c->threads[thread].traffic.activation_bytes += 3ull * c->step.n_rows * (end - begin) * sizeof(float);
    }
    cpu_meet(c, thread, next);
}

void cpu_op_attn_out(struct cpu *c, uint32_t thread, uint32_t layer)
{
    const struct layer *y = &c->layers[layer];
    struct packed x;
    struct pack_formats formats = {0};
    cpu_need(c, &y->o, true, &formats);
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->attn,
                                 .stride = y->o.n_in,
                                 .n = y->o.n_in,
                                 .n_rows = c->step.n_rows,
                                 .formats = formats,
                                 .shared = c->packed},
             &x);
    add_product(c, thread, &y->o, &x, y->o_bias, y->is_moe ? NULL : &y->gate);
}

/* Rows [begin, end) of silu(W_gate h) * W_up h. */
static void gate_rows(struct cpu *c, uint32_t thread, const struct layer *y, const struct packed *x, uint32_t begin,
                      uint32_t end)
{
    const uint32_t n_rows = c->step.n_rows;
    const size_t stride = cpu_stride(c->base.model->n_ff);
    struct product p = {.w = &y->gate,
                        .data = y->gate.data,
                        .first = begin,
                        .end = end,
                        .x = x,
                        .n_tokens = n_rows,
                        .y = c->gate,
                        .y_stride = stride};
    cpu_product(c, thread, &p);
    p.w = &y->up;
    p.data = y->up.data;
    p.y = c->up;
    cpu_product(c, thread, &p);
    for (uint32_t i = 0; i < n_rows; i++)
        c->k->silu_mul(c->gate + i * stride + begin, c->up + i * stride + begin, end - begin);
    c->threads[thread].traffic.activation_bytes += 3ull * n_rows * (end - begin) * sizeof(float);
}

void cpu_op_ffn(struct cpu *c, uint32_t thread, uint32_t layer)
{
    const struct model *m = c->base.model;
    const struct layer *y = &c->layers[layer];
    uint32_t begin, end, n_rows = c->step.n_rows;
    struct packed x;
    struct pack_formats formats = {0}, down_formats = {0};
    cpu_need(c, &y->gate, true, &formats);
    cpu_need(c, &y->up, true, &formats);
    cpu_need(c, &y->down, true, &down_formats);
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->x,
                                 .stride = m->n_embd,
                                 .n = m->n_embd,
                                 .n_rows = n_rows,
                                 .norm = y->ffn_norm,
                                 .formats = formats,
                                 .shared = c->packed},
             &x);
    struct deal d;
    for (cpu_deal_begin(c, thread, &y->gate, &d); cpu_deal_next(c, thread, &d, &begin, &end);)
        gate_rows(c, thread, y, &x, begin, end);
    cpu_meet(c, thread, &y->down);
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->gate,
                                 .stride = cpu_stride(m->n_ff),
                                 .n = m->n_ff,
                                 .n_rows = n_rows,
                                 .formats = down_formats,
                                 .shared = c->packed},
             &x);
    add_product(c, thread, &y->down, &x, NULL, layer + 1 < m->n_layer ? &c->layers[layer + 1].q : &c->output);
}

void cpu_op_logits(struct cpu *c, uint32_t thread)
{
    const struct model *m = c->base.model;
    uint32_t begin, end;
    if (!c->step.n_outputs)
        return;
    struct packed x;
    struct pack_formats formats = {0};
    cpu_need(c, &c->output, false, &formats);
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->x,
                                 .stride = m->n_embd,
                                 .n = m->n_embd,
                                 .n_rows = c->step.n_outputs,
                                 .index = c->step.output_rows,
                                 .norm = m->output_norm,
                                 .formats = formats,
                                 .shared = c->packed},
             &x);
    struct deal d;
    for (cpu_deal_begin(c, thread, &c->output, &d); cpu_deal_next(c, thread, &d, &begin, &end);)
        cpu_product(c, thread,
                    &(struct product){.w = &c->output,
                                      .data = c->output.data,
                                      .first = begin,
                                      .end = end,
                                      .x = &x,
                                      .n_tokens = c->step.n_outputs,
                                      .y = c->logits,
                                      .y_stride = m->n_vocab});
    team_barrier(c->team);
}
