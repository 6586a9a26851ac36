/* Mixture of experts: rows are grouped by expert, so that each expert that is touched is read once a step. A row adds
 * its experts in the order of their rank, whatever else is in the step. */
#include "device/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Softmax over all experts, the n_expert_used largest of it (of equal ones the lower index), rescaled to sum to 1 where
 * the model says so. Overwrites the logits. */
static void choose_experts(const struct model *m, float *logits, uint32_t *chosen, float *weight)
{
    uint32_t n = m->n_expert, k = m->n_expert_used;
    float max = logits[0], sum = 0, chosen_sum = 0;
    for (uint32_t i = 1; i < n; i++)
        max = fmaxf(max, logits[i]);
    for (uint32_t i = 0; i < n; i++) {
        logits[i] = expf(logits[i] - max);
        sum += logits[i];
    }
    for (uint32_t j = 0; j < k; j++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < n; i++) {
            if (logits[i] > logits[best])
                best = i;
        }
        chosen[j] = best;
        weight[j] = logits[best] / sum;
        chosen_sum += weight[j];
        logits[best] = -1; /* below every probability */
    }
    float scale = m->expert_weights_scale / (m->expert_weights_normalised ? chosen_sum : 1);
    for (uint32_t j = 0; j < k; j++)
        weight[j] *= scale;
}

/* An expert's prompts, or its others. */
static uint32_t group_of(const struct cpu *c, uint32_t choice)
{
    return 2 * c->chosen[choice] + !c->rows[choice / c->base.model->n_expert_used].prompt;
}

/* Slots: all choices of all rows, ordered by expert, prompts first, and then by row. Fills this worker's expert_first,
 * expert_tile and slot_of, and its share of the slots' places. */
static void group_by_expert(struct cpu *c, uint32_t thread)
{
    const struct model *m = c->base.model;
    struct cpu_thread *me = &c->threads[thread];
    uint32_t k = m->n_expert_used, n = c->step.n_rows * k, tile = 0, begin, end;
    memset(me->expert_first, 0, (2 * m->n_expert + 1) * sizeof *me->expert_first);
    for (uint32_t i = 0; i < n; i++)
        me->expert_first[group_of(c, i) + 1]++;
    for (uint32_t g = 0; g < 2 * m->n_expert; g++) {
        me->expert_first[g + 1] += me->expert_first[g];
        me->expert_cursor[g] = me->expert_first[g];
    }
    for (uint32_t x = 0; x < m->n_expert; x++) {
        uint32_t n_prompts = me->expert_first[2 * x + 1] - me->expert_first[2 * x];
        me->expert_tile[x] = tile;
        tile += (n_prompts + PROMPT_TILE_TOKENS - 1) / PROMPT_TILE_TOKENS * PROMPT_TILE_TOKENS;
    }
    for (uint32_t i = 0; i < n; i++)
        me->slot_of[i] = me->expert_cursor[group_of(c, i)]++;
    cpu_share(c, thread, c->step.n_rows, 1, &begin, &end);
    for (uint32_t i = begin * k; i < end * k; i++) {
        uint32_t slot = me->slot_of[i], x = c->chosen[i];
        c->slots[slot] = (struct step_row){.prompt = c->rows[i / k].prompt,
                                           .tile_row = me->expert_tile[x] + slot - me->expert_first[2 * x]};
    }
}

/* Router, choice and grouping. */
static void route(struct cpu *c, uint32_t thread, const struct layer *y, const struct packed *x)
{
    const struct model *m = c->base.model;
    uint32_t begin, end;
    cpu_share(c, thread, m->n_expert, ROW_UNIT, &begin, &end);
    cpu_product(c, thread,
                &(struct product){.w = &y->router,
                                  .data = y->router.data,
                                  .first = begin,
                                  .end = end,
                                  .x = x,
                                  .n_tokens = c->step.n_rows,
                                  .y = c->router,
                                  .y_stride = m->n_expert});
    team_barrier(c->team);
    cpu_share(c, thread, c->step.n_rows, 1, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        choose_experts(m, c->router + (size_t)i * m->n_expert, c->chosen + (size_t)i * m->n_expert_used,
                       c->chosen_weight + (size_t)i * m->n_expert_used);
    team_barrier(c->team);
    group_by_expert(c, thread);
}

/* A token's lines of its tiles. */
static void copy_tile_row(const unsigned char *from, unsigned char *to, size_t row_bytes)
{
    const size_t line = 64, tile = PROMPT_TILE_TOKENS * line;
    for (size_t at = 0; at + line < row_bytes; at += line, from += tile, to += tile) /* the last one is a gap */
        memcpy(to, from, line);
}

/* The packed rows in the order of slots. */
static void gather(struct cpu *c, uint32_t thread, const struct packed *x, const struct pack_formats *formats,
                   struct packed *out)
{
    const struct model *m = c->base.model;
    const struct cpu_thread *me = &c->threads[thread];
    uint32_t k = m->n_expert_used, begin, end;
    *out = (struct packed){0};
    cpu_share(c, thread, c->step.n_rows, 1, &begin, &end);
    for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
        const bool of_all = formats->all & 1u << f;
        out->rows[f] = (formats->all | formats->others) & 1u << f ? c->packed_slots[f] : NULL;
        out->row_bytes[f] = x->row_bytes[f];
        for (uint32_t i = begin * k; out->rows[f] && i < end * k; i++)
            if (of_all || !c->rows[i / k].prompt)
                memcpy(out->rows[f] + me->slot_of[i] * x->row_bytes[f], x->rows[f] + i / k * x->row_bytes[f],
                       x->row_bytes[f]);
    }
    for (uint32_t parts = 1; parts <= MAX_PROMPT_PARTS; parts++) {
        const size_t row_bytes = x->tile_row_bytes[parts];
        out->tiles[parts] = x->tiles[parts] && formats->parts & 1u << parts ? c->slot_tiles[parts] : NULL;
        out->tile_row_bytes[parts] = row_bytes;
        for (uint32_t i = begin * k; out->tiles[parts] && i < end * k; i++)
            if (c->rows[i / k].prompt)
                copy_tile_row(x->tiles[parts] + prompt_row_at(c->rows[i / k].tile_row, row_bytes),
                              out->tiles[parts] + prompt_row_at(c->slots[me->slot_of[i]].tile_row, row_bytes),
                              row_bytes);
    }
    team_barrier(c->team);
}

/* A share of the rows of one matrix of every touched expert, each with the slots that chose it. shared_row: all slots
 * read the same packed row (a step of one row). */
static void expert_products(struct cpu *c, uint32_t thread, const struct expert_tensor *w, const struct packed *x,
                            bool shared_row, float *y, uint32_t begin, uint32_t end)
{
    const struct cpu_thread *me = &c->threads[thread];
    for (uint32_t e = 0; e < c->base.model->n_expert; e++) {
        uint32_t slot = me->expert_first[2 * e], others = me->expert_first[2 * e + 1];
        uint32_t n = me->expert_first[2 * e + 2] - slot, n_prompts = others - slot;
        const struct row_run run = {shared_row ? 0 : others, n - n_prompts};
        const struct row_ways ways = {.first_prompt_row = shared_row ? 0 : slot,
                                      .n_prompt_rows = n_prompts,
                                      .first_tile_row = shared_row ? 0 : me->expert_tile[e],
                                      .others = &run,
                                      .n_others = run.n > 0};
        struct product p = {.w = &w->t,
                            .data = w->parts[e],
                            .first = begin,
                            .end = end,
                            .x = x,
                            .first_token = shared_row ? 0 : slot,
                            .n_tokens = n,
                            .y = shared_row ? y + (size_t)slot * w->t.n_out : y,
                            .y_stride = w->t.n_out,
                            .ways = &ways};
        if (n)
            cpu_product(c, thread, &p);
    }
}

static void gate_and_up(struct cpu *c, uint32_t thread, const struct layer *y, const struct packed *x, bool shared_row)
{
    const struct model *m = c->base.model;
    uint32_t begin, end, n_slots = c->step.n_rows * m->n_expert_used;
    cpu_share(c, thread, m->n_ff_expert, ROW_UNIT, &begin, &end);
    expert_products(c, thread, &y->gate_x, x, shared_row, c->gate, begin, end);
    expert_products(c, thread, &y->up_x, x, shared_row, c->up, begin, end);
    for (uint32_t s = 0; s < n_slots && begin < end; s++)
        c->k->silu_mul(c->gate + (size_t)s * m->n_ff_expert + begin, c->up + (size_t)s * m->n_ff_expert + begin,
                       end - begin);
    c->threads[thread].traffic.activation_bytes += 3ull * n_slots * (end - begin) * sizeof(float);
    team_barrier(c->team);
}

/* Each worker has some columns of the residual stream to itself, so it can add without waiting. */
static void down_and_add(struct cpu *c, uint32_t thread, const struct layer *y, const struct packed *x)
{
    const struct model *m = c->base.model;
    const struct cpu_thread *me = &c->threads[thread];
    uint32_t begin, end, k = m->n_expert_used;
    cpu_share(c, thread, m->n_embd, ROW_UNIT, &begin, &end);
    expert_products(c, thread, &y->down_x, x, false, c->y, begin, end);
    for (uint32_t i = 0; i < c->step.n_rows * k && begin < end; i++)
        c->k->add_scaled(c->x + (size_t)(i / k) * m->n_embd + begin, c->y + (size_t)me->slot_of[i] * m->n_embd + begin,
                         c->chosen_weight[i], end - begin);
    c->threads[thread].traffic.activation_bytes += 3ull * c->step.n_rows * k * (end - begin) * sizeof(float);
    team_barrier(c->team);
}

void cpu_op_moe(struct cpu *c, uint32_t thread, uint32_t layer)
{
    const struct model *m = c->base.model;
    const struct layer *y = &c->layers[layer];
    struct packed x, by_slot;
    struct pack_formats of_experts = {0}, formats, down_formats = {0};
    cpu_need(c, &y->gate_x.t, true, &of_experts);
    cpu_need(c, &y->up_x.t, true, &of_experts);
    cpu_need(c, &y->down_x.t, true, &down_formats);
    formats = of_experts;
    cpu_need(c, &y->router, false, &formats);
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->x,
                                 .stride = m->n_embd,
                                 .n = m->n_embd,
                                 .n_rows = c->step.n_rows,
                                 .norm = y->ffn_norm,
                                 .formats = formats,
                                 .shared = c->packed},
             &x);
    route(c, thread, y, &x);
    bool one_row = c->step.n_rows == 1;
    if (!one_row)
        gather(c, thread, &x, &of_experts, &by_slot);
    gate_and_up(c, thread, y, one_row ? &x : &by_slot, one_row);
    cpu_pack(c, thread,
             &(struct pack_args){.src = c->gate,
                                 .stride = m->n_ff_expert,
                                 .n = m->n_ff_expert,
                                 .n_rows = c->step.n_rows * m->n_expert_used,
                                 .formats = down_formats,
                                 .shared = c->packed_slots,
                                 .tiles = c->slot_tiles,
                                 .rows = c->slots},
             &x);
    down_and_add(c, thread, y, &x);
}
