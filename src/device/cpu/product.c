#include "device/cpu/cpu.h"

/* Unpacking weights for a prompt's rows costs as much as the other way takes for some 40 rows with blocks of 32, for some 80
 * to 130 with K types (docs/performance.md). So experts' matrices have that way where a step of 512 rows gives each expert more
 * than that: by the model alone, for what a row goes through must not depend on how many others chose its expert. */
bool device_cpu_experts_fill_tiles(uint32_t n_expert, uint32_t n_expert_used, bool has_k_blocks)
{
    const uint32_t step_rows = 512, expert_rows = has_k_blocks ? 128 : 64;
    return (uint64_t)step_rows * n_expert_used >= (uint64_t)expert_rows * n_expert;
}

void cpu_divide_rows(struct cpu *c)
{
    uint32_t n = 0;
    c->n_others = 0;
    for (uint32_t i = 0; i < c->step.n_rows; i++) {
        if (c->rows[i].prompt)
            c->tile_rows[n++] = i;
        else if (i && !c->rows[i - 1].prompt)
            c->others[c->n_others - 1].n++;
        else
            c->others[c->n_others++] = (struct row_run){i, 1};
    }
    c->n_prompt_rows = n;
    for (uint32_t i = 0; i < c->n_others; i++) {
        for (uint32_t j = 0; j < c->others[i].n; j++)
            c->tile_rows[n++] = c->others[i].first + j;
    }
    for (uint32_t i = 0; i < n; i++)
        c->rows[c->tile_rows[i]].tile_row = i;
}

/* Rows of weights that both a prompt's rows and the others multiply with before the next: a cache may still hold them. */
#define PIECE_ROWS 256

static void pack_row(struct cpu *c, uint32_t thread, const struct pack_args *a, uint32_t row, const struct packed *out)
{
    const struct step_row *place = (a->rows ? a->rows : c->rows) + row;
    const float *x = a->src + (a->index ? a->index[row] : row) * a->stride;
    const bool prompt = a->formats.parts && place->prompt;
    const unsigned formats = a->formats.all | (prompt ? 0 : a->formats.others);
    const unsigned tiles = a->formats.all_parts | (prompt ? a->formats.parts : 0);
    const uint32_t tile_row = a->index ? row : place->tile_row;
    struct step_traffic *t = &c->threads[thread].traffic;
    if (a->norm) {
        c->k->rms_norm(x, a->norm, a->n, c->base.model->norm_eps, c->threads[thread].row);
        x = c->threads[thread].row;
    }
    t->activation_bytes += a->n * sizeof(float);
    for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
        if (formats & 1u << f) {
            c->k->act_pack[f](x, a->n, out->rows[f] + row * out->row_bytes[f]);
            t->activation_bytes += out->row_bytes[f];
        }
    }
    for (uint32_t parts = 1; parts <= MAX_PROMPT_PARTS; parts++) {
        if (tiles & 1u << parts) {
            c->k->pack_prompt(x, a->n, parts, out->tiles[parts] + prompt_row_at(tile_row, out->tile_row_bytes[parts]));
            t->activation_bytes += out->tile_row_bytes[parts];
        }
    }
}

void cpu_pack(struct cpu *c, uint32_t thread, const struct pack_args *a, struct packed *out)
{
    const struct pack_formats *g = &a->formats;
    const bool prompts = g->parts && c->n_prompt_rows;
    /* Packing a few rows is cheaper than meeting at a barrier. */
    bool alone = !prompts && (a->n_rows == 1 || (a->n_rows <= PRIVATE_ROWS && a->n_rows * a->n <= PRIVATE_ELEMENTS));
    for (uint32_t f = 0; f < ACT_FORMAT_COUNT; f++) {
        bool needed = (g->all | g->others) & 1u << f;
        out->rows[f] = !needed ? NULL : alone ? c->threads[thread].packed[f] : a->shared[f];
        out->row_bytes[f] = needed ? act_row_bytes((enum act_format)f, a->n) : 0;
    }
    for (uint32_t parts = 1; parts <= MAX_PROMPT_PARTS; parts++) {
        bool needed = (g->all_parts | (prompts ? g->parts : 0)) & 1u << parts;
        out->tiles[parts] = !needed    ? NULL
                            : alone    ? c->threads[thread].tiles[parts]
                            : a->tiles ? a->tiles[parts]
                                       : c->tiles[parts];
        out->tile_row_bytes[parts] = needed ? prompt_row_bytes(parts, a->n) : 0;
    }
    out->tile_rows = a->index ? NULL : c->tile_rows;
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
    if (cpu_in_lanes(c, p->w)) {
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

/* Rows [first, end) of p->w with a run of packed rows. */
static void multiply_run(const struct cpu *c, uint32_t thread, const struct product *p, uint32_t first, uint32_t end,
                         struct row_run run)
{
    const enum act_format f = c->k->act_format[p->w->type];
    const size_t x_row_bytes = p->x->row_bytes[f];
    struct product part = *p;
    part.first = first;
    part.end = end;
    multiply(c, &part,
             (struct matmul_args){.w = p->data + first * p->w->row_bytes,
                                  .w_row_bytes = p->w->row_bytes,
                                  .n_rows = end - first,
                                  .n_cols = p->w->n_in,
                                  .x = p->x->rows[f] + run.first * x_row_bytes,
                                  .x_row_bytes = x_row_bytes,
                                  .n_tokens = run.n,
                                  .y = p->y + run.first * p->y_stride + first,
                                  .y_stride = p->y_stride,
                                  .scratch = c->threads[thread].matmul_scratch});
    c->threads[thread].traffic.activation_bytes += run.n * (x_row_bytes + (end - first) * sizeof(float));
}

static void multiply_tiles(const struct cpu *c, uint32_t thread, const struct product *p, const struct row_ways *ways,
                           uint32_t first, uint32_t end)
{
    const uint32_t parts = c->k->prompt_parts[p->w->type];
    const size_t x_row_bytes = p->x->tile_row_bytes[parts];
    c->k->matmul_prompt[p->w->type](&(struct matmul_args){.w = p->data + first * p->w->row_bytes,
                                                          .w_row_bytes = p->w->row_bytes,
                                                          .n_rows = end - first,
                                                          .n_cols = p->w->n_in,
                                                          .x = p->x->tiles[parts] + ways->first_tile_row * x_row_bytes,
                                                          .x_row_bytes = x_row_bytes,
                                                          .n_tokens = ways->n_prompt_rows,
                                                          .y = p->y + ways->first_prompt_row * p->y_stride + first,
                                                          .y_stride = p->y_stride,
                                                          .y_rows = ways->prompt_rows,
                                                          .scratch = c->threads[thread].matmul_scratch});
    c->threads[thread].traffic.activation_bytes += ways->n_prompt_rows * (x_row_bytes + (end - first) * sizeof(float));
}

void cpu_product(struct cpu *c, uint32_t thread, const struct product *p)
{
    if (p->first >= p->end || !p->n_tokens)
        return;
    struct step_traffic *t = &c->threads[thread].traffic;
    const uint32_t n_rows = p->end - p->first;
    if (cpu_is_tiled(c, p->w)) {
        const struct row_ways all = {.prompt_rows = p->x->tile_rows, .n_prompt_rows = p->n_tokens};
        multiply_tiles(c, thread, p, &all, p->first, p->end);
    } else if (!cpu_has_prompt_way(c, p->w) || !p->x->tiles[c->k->prompt_parts[p->w->type]]) {
        multiply_run(c, thread, p, p->first, p->end, (struct row_run){p->first_token, p->n_tokens});
    } else {
        const struct row_ways all = {.prompt_rows = c->tile_rows,
                                     .n_prompt_rows = c->n_prompt_rows,
                                     .others = c->others,
                                     .n_others = c->n_others};
        const struct row_ways *ways = p->ways ? p->ways : &all;
        const uint32_t step = ways->n_others ? PIECE_ROWS : n_rows;
        for (uint32_t row = p->first, end; row < p->end; row = end) {
            end = p->end - row < step ? p->end : row + step;
            for (uint32_t i = 0; i < ways->n_others; i++)
                multiply_run(c, thread, p, row, end, ways->others[i]);
            if (ways->n_prompt_rows)
                multiply_tiles(c, thread, p, ways, row, end);
        }
    }
    t->weight_bytes += n_rows * p->w->row_bytes;
    t->flops += 2.0 * n_rows * p->w->n_in * p->n_tokens;
}
