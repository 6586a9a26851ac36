/* The last layer's end. Behind its keys and values nothing of a row is needed but for its logits: rows that nobody wants
 * any of, which are most of a prompt's, are left out from there on. A row's values do not depend on who else is there, so
 * nothing else changes. */
#include "device/cpu/cpu.h"

#include <string.h>

static double matrix_elements(const struct tensor *w)
{
    return (double)w->n_in * w->n_out * (w->n_stack ? w->n_stack : 1);
}

static double matrix_bytes(const struct tensor *w)
{
    return (double)w->row_bytes * w->n_out * (w->n_stack ? w->n_stack : 1);
}

static bool has_prompt_way(const struct model *m, const struct device_config *c)
{
    const struct kernels *k = c->kernels ? c->kernels : kernels_get(NULL);
    bool in_lanes = !c->lazy_weights && cpu_uses_lanes(m), has = false;
    for (uint32_t i = 0; k && i < m->n_layer; i++) {
        const struct layer *y = &m->layers[i];
        const struct tensor *const all[] = {&y->q,  &y->k,    &y->v,        &y->o,      &y->gate,
                                            &y->up, &y->down, &y->gate_x.t, &y->up_x.t, &y->down_x.t};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            has |= all[j]->n_in && cpu_is_prompt_way(k, m, all[j], in_lanes);
    }
    return has;
}

void device_cpu_describe(const struct model *m, const struct device_config *c, struct traffic_model *out)
{
    const struct layer *y = &m->layers[m->n_layer - 1];
    const struct tensor *const dense[] = {&y->q, &y->o, &y->gate, &y->up, &y->down, &y->router};
    const struct tensor *const experts[] = {&y->gate_x.t, &y->up_x.t, &y->down_x.t};
    out->kv_block_rows = cpu_kv_block_rows(m);
    out->prompt_way = has_prompt_way(m, c);
    out->last_bytes = out->last_params = out->last_expert_bytes = out->last_expert_params = 0;
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) {
        out->last_bytes += matrix_bytes(dense[i]);
        out->last_params += matrix_elements(dense[i]);
    }
    for (size_t i = 0; i < sizeof experts / sizeof *experts; i++) {
        out->last_expert_bytes += matrix_bytes(experts[i]);
        out->last_expert_params += matrix_elements(experts[i]);
    }
}

void cpu_tail_plan(struct cpu *c)
{
    const struct step *s = &c->step;
    uint32_t n_rows = 0, output = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct step_seq *q = &s->seqs[i];
        uint32_t end = q->first_row + q->n_rows, first = output < s->n_outputs ? s->output_rows[output] : end;
        uint32_t left_out = (first < end ? first : end) - q->first_row;
        c->tail_seqs[i] = *q;
        c->tail_seqs[i].first_row = n_rows;
        c->tail_seqs[i].n_rows -= left_out;
        c->tail_seqs[i].n_past += left_out;
        for (; output < s->n_outputs && s->output_rows[output] < end; output++)
            c->tail_outputs[output] = s->output_rows[output] - q->first_row - left_out + n_rows;
        for (uint32_t row = q->first_row + left_out; row < end; row++)
            c->tail_rows[n_rows++] = row;
    }
    c->tail = *s;
    c->tail.n_rows = n_rows;
    c->tail.seqs = c->tail_seqs;
    c->tail.output_rows = c->tail_outputs;
}

void cpu_tail_begin(struct cpu *c, uint32_t thread)
{
    const struct model *m = c->base.model;
    uint32_t begin, end, half = m->rope.n_rot / 2;
    team_barrier(c->team); /* nobody needs the whole step any more */
    cpu_share(c, thread, m->n_embd, ALIGN_FLOATS, &begin, &end);
    for (uint32_t i = 0; i < c->tail.n_rows && begin < end; i++) /* rows only move down */
        memmove(c->x + (size_t)i * m->n_embd + begin, c->x + (size_t)c->tail_rows[i] * m->n_embd + begin,
                (end - begin) * sizeof *c->x);
    if (thread == 0) {
        for (uint32_t i = 0; i < c->tail.n_rows; i++) {
            size_t from = c->tail_rows[i];
            c->rows[i] = c->rows[from];
            memmove(c->rope_cos + (size_t)i * half, c->rope_cos + from * half, half * sizeof *c->rope_cos);
            memmove(c->rope_sin + (size_t)i * half, c->rope_sin + from * half, half * sizeof *c->rope_sin);
        }
        c->step = c->tail;
        cpu_divide_rows(c);
        cpu_attn_plan(c);
    }
    team_barrier(c->team);
}
