#include "engine/usage.h"

#include <math.h>

const char *const gen_phase_names[GEN_N_PHASES] = {"queued", "prefill", "decode", "preempted", "stalled", "tier"};
const char *const sched_wait_names[SCHED_N_WAITS] = {"step", "slots", "kv", "bandwidth", "prefill"};

void gen_traffic_add(struct gen_traffic *t, const struct gen_traffic *more)
{
    t->weight_bytes += more->weight_bytes;
    t->kv_read_bytes += more->kv_read_bytes;
    t->kv_write_bytes += more->kv_write_bytes;
    t->activation_bytes += more->activation_bytes;
    t->tier_bytes += more->tier_bytes;
    t->flops += more->flops;
}

void gen_usage_span(struct gen_usage *u, enum gen_phase phase, double end_s, uint64_t memory_bytes, uint32_t n_rows)
{
    struct gen_span *last = u->n_spans ? &u->spans[u->n_spans - 1] : NULL;
    double begin_s = last ? last->end_s : 0;
    if (!last || (last->phase != phase && u->n_spans < GEN_MAX_SPANS)) {
        last = &u->spans[u->n_spans++];
        *last = (struct gen_span){.phase = phase, .begin_s = begin_s};
    }
    last->end_s = end_s;
    last->memory_bytes += memory_bytes;
    last->n_rows += n_rows;
    u->phase_s[phase] += end_s - begin_s;
}

/* Shares of a whole number by weights: the parts up to the i-th get the whole part of what their weights together would,
 * so that all parts add up to the total and none is off by more than one. */
struct split {
    double total, sum, so_far;
    uint64_t given;
    bool equal; /* no weights at all */
};

static struct split split_begin(double total, double sum)
{
    return (struct split){.total = total, .sum = sum, .equal = !(sum > 0)};
}

static uint64_t split_next(struct split *s, double weight, uint32_t i, uint32_t n)
{
    s->so_far += weight;
    double share = s->equal ? (double)(i + 1) / n : fmin(1, s->so_far / s->sum);
    uint64_t upto = (uint64_t)(i + 1 == n ? s->total : s->total * share);
    uint64_t part = upto > s->given ? upto - s->given : 0;
    s->given += part;
    return part;
}

/* What the step's weights cost: once, for each row, and the output matrix. */
struct weight_costs {
    double shared, row, output; /* a part of each: of a sequence, a row, a sequence that wants logits */
};

static struct weight_costs weight_costs(const struct traffic_model *m, const struct usage_part *parts, uint32_t n)
{
    uint32_t n_rows = 0, n_wanting = 0, n_outputs = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_rows += parts[i].n_rows;
        n_wanting += parts[i].n_outputs > 0;
        n_outputs += parts[i].n_outputs;
    }
    double experts = 0, last = m->last_bytes;
    if (m->n_expert) {
        experts = (m->expert_bytes - m->last_expert_bytes) * traffic_distinct_experts(m, n_rows) / m->n_expert;
        last += m->last_expert_bytes * traffic_distinct_experts(m, n_outputs) / m->n_expert;
    }
    return (struct weight_costs){.shared = (m->attention_bytes + m->ffn_bytes + m->router_bytes - m->last_bytes) / n,
                                 .row = m->embedding_row_bytes + experts / n_rows,
                                 .output = n_wanting ? (m->output_bytes + last) / n_wanting : 0};
}

/* A sequence's part by the model, not yet scaled to what was counted. */
struct model_part {
    double weights, kv_read, kv_write, activations, flops, seconds;
};

static struct model_part part_of(const struct usage_rates *r, const struct weight_costs *w, const struct usage_part *p)
{
    const struct traffic_model *m = r->model;
    if (!m)
        return (struct model_part){.weights = 1,
                                   .kv_read = (double)p->n_past + p->n_rows,
                                   .kv_write = p->n_rows,
                                   .activations = p->n_rows,
                                   .flops = p->n_rows,
                                   .seconds = p->n_rows};
    struct traffic_load l = {0};
    struct traffic_cost c;
    traffic_add(&l, m, p->n_past, p->n_rows, p->n_prompt, p->n_outputs);
    traffic_cost(m, &l, &c);
    double weights = w->shared + p->n_rows * w->row + (p->n_outputs ? w->output : 0);
    double flops = traffic_flops(&c), memory = weights + c.kv_read_bytes + c.kv_write_bytes;
    double memory_s = r->bytes_per_s > 0 ? memory / r->bytes_per_s : memory;
    double compute_s = r->flops_per_s > 0 ? (flops - c.prompt_flops) / r->flops_per_s : 0;
    compute_s += r->prompt_flops_per_s > 0 ? c.prompt_flops / r->prompt_flops_per_s : 0;
    return (struct model_part){.weights = weights,
                               .kv_read = c.kv_read_bytes,
                               .kv_write = c.kv_write_bytes,
                               .activations = c.activation_bytes,
                               .flops = flops,
                               .seconds = fmax(memory_s, compute_s)};
}

void usage_share(const struct usage_rates *r, const struct usage_part *parts, uint32_t n,
                 const struct step_traffic *total, double seconds, struct usage_share *out)
{
    struct model_part sum = {0};
    struct weight_costs costs = {0};
    if (r->model)
        costs = weight_costs(r->model, parts, n);
    for (uint32_t i = 0; i < n; i++) {
        struct model_part p = part_of(r, &costs, &parts[i]);
        sum.weights += p.weights;
        sum.kv_read += p.kv_read;
        sum.kv_write += p.kv_write;
        sum.activations += p.activations;
        sum.flops += p.flops;
        sum.seconds += p.seconds;
    }
    struct split weights = split_begin((double)total->weight_bytes, sum.weights);
    struct split kv_read = split_begin((double)total->kv_read_bytes, sum.kv_read);
    struct split kv_write = split_begin((double)total->kv_write_bytes, sum.kv_write);
    struct split activations = split_begin((double)total->activation_bytes, sum.activations);
    struct split flops = split_begin(total->flops, sum.flops);
    for (uint32_t i = 0; i < n; i++) {
        struct model_part p = part_of(r, &costs, &parts[i]);
        out[i] = (struct usage_share){
            .traffic = {.weight_bytes = split_next(&weights, p.weights, i, n),
                        .kv_read_bytes = split_next(&kv_read, p.kv_read, i, n),
                        .kv_write_bytes = split_next(&kv_write, p.kv_write, i, n),
                        .activation_bytes = split_next(&activations, p.activations, i, n),
                        .flops = split_next(&flops, p.flops, i, n)},
            .device_s = sum.seconds > 0 ? seconds * p.seconds / sum.seconds : seconds / n,
        };
    }
}
