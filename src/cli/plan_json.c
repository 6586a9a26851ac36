/* The report as JSON, and as a page that carries it. */
#include "cli/page.h"
#include "cli/plan.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *device_json(const struct profile *d)
{
    return json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:b}", "id", d->id, "name", d->name, "capacity_bytes",
                     d->tiers[0].capacity_bytes, "bandwidth_bytes_per_s", d->tiers[0].bytes_per_s, "watts", d->watts,
                     "attain_bandwidth", d->attain_bandwidth, "attain_compute", d->attain_compute, "layer_overhead_s",
                     d->layer_overhead_s, "measured", d->measured);
}

static json_t *model_json(const struct plan_report *p)
{
    const struct shape *s = &p->in.shape;
    return json_pack("{s:s, s:s, s:f, s:f, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f}", "name",
                     s->name, "arch", s->arch, "params", p->params, "active_params", p->active_params, "weights",
                     p->in.weights ? p->in.weights
                     : s->exact    ? s->file_format
                                   : "bf16",
                     "kv", p->in.kv ? p->in.kv : "f16", "layers", (int)s->n_layer, "embd", (int)s->n_embd, "heads",
                     (int)s->n_head, "kv_heads", (int)s->n_head_kv, "head_dim", (int)s->head_dim, "context",
                     (int)s->n_ctx, "experts", (int)s->n_expert, "experts_used", (int)s->n_expert_used,
                     "sliding_window", (int)s->sliding_window, "weight_bytes", p->model_weight_bytes, "kv_token_bytes",
                     p->model_kv_token_bytes);
}

static json_t *memory_json(const struct plan_report *p)
{
    json_t *most = json_array();
    for (uint32_t i = 0; i < p->n_contexts; i++)
        json_array_append_new(
            most, json_pack("{s:i, s:f}", "context", (int)p->contexts[i], "sequences", p->max_sequences[i]));
    return json_pack("{s:b, s:f, s:f, s:f, s:f, s:f, s:o, s:s}", "fits", p->fits, "usable_bytes", p->usable_bytes,
                     "weight_bytes", p->weight_bytes, "activation_bytes", p->activation_bytes, "kv_token_bytes",
                     p->kv_token_bytes, "kv_left_bytes", p->kv_left_bytes, "max_sequences", most, "advice", p->advice);
}

static json_t *cells_json(const struct plan_report *p)
{
    json_t *cells = json_array();
    for (uint32_t i = 0; i < p->n_cells; i++) {
        const struct plan_cell *c = &p->cells[i];
        json_array_append_new(cells, json_pack("{s:i, s:i, s:b, s:b, s:f, s:f, s:f, s:f}", "batch", (int)c->batch,
                                               "context", (int)c->context, "fits", c->fits, "in_target", c->in_target,
                                               "tokens_per_s", c->tokens_per_s, "itl_s", c->itl_s, "mbu", c->mbu,
                                               "memory_bytes", c->memory_bytes));
    }
    return cells;
}

static json_t *single_json(const struct plan_report *p)
{
    json_t *growth = json_array();
    for (uint32_t i = 0; i < p->n_contexts; i++) {
        const struct plan_bytes *g = &p->growth[i];
        json_array_append_new(growth, json_pack("{s:i, s:f, s:f, s:f, s:f}", "context", (int)g->context, "weight_bytes",
                                                g->weight_bytes, "kv_bytes", g->kv_bytes, "tokens_per_s",
                                                g->tokens_per_s, "ceiling_tokens_per_s", g->ceiling_tokens_per_s));
    }
    return json_pack("{s:o, s:f, s:f}", "by_context", growth, "overtake_context", p->overtake_context, "overtake_batch",
                     p->overtake_batch);
}

static json_t *roofline_json(const struct plan_report *p)
{
    json_t *points = json_array();
    for (int i = 0; i < 4; i++) {
        const struct plan_intensity *x = &p->intensity[i];
        json_array_append_new(points,
                              json_pack("{s:s, s:f, s:b, s:f}", "name", x->name, "ops_per_byte", x->ops_per_byte,
                                        "memory_bound", x->memory_bound, "attained_ops_per_s", x->attained_ops_per_s));
    }
    return json_pack("{s:f, s:f, s:f, s:o}", "ridge_ops_per_byte", p->ridge_ops_per_byte, "ops_per_s",
                     p->r.matmul_ops_per_s, "bytes_per_s", p->r.bytes_per_s, "points", points);
}

static json_t *sweet_json(const struct plan_report *p)
{
    const struct plan_sweet *w = &p->sweet;
    return json_pack("{s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:b, s:b, s:f, s:f, s:f, s:f}", "context",
                     (int)p->context, "prompt", (int)p->prompt, "batch", (int)w->batch, "tokens_per_s", w->tokens_per_s,
                     "itl_s", w->time.expected_s, "ceiling_itl_s", w->time.ceiling_s, "mbu", w->mbu, "memory_bytes",
                     w->memory_bytes, "ttft_s", w->ttft_s, "prompt_tokens_per_s", w->prompt_tokens_per_s,
                     "itl_target_s", p->in.itl_s, "itl_missed", w->itl_missed, "ttft_missed", w->ttft_missed,
                     "weights_s", w->time.weights_s, "attention_s", w->time.attention_s, "link_s", w->time.link_s,
                     "overhead_s", w->time.overhead_s);
}

static json_t *what_if_json(const struct plan_report *p)
{
    json_t *variants = json_array(), *mixes = json_array(), *experts = json_array(), *parallel = json_array();
    for (uint32_t i = 0; i < p->n_variants; i++) {
        const struct plan_variant *v = &p->variants[i];
        json_array_append_new(
            variants, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:i}", "name", v->name, "weight_bytes", v->weight_bytes,
                                "kv_token_bytes", v->kv_token_bytes, "step_bytes", v->step_bytes, "single_tokens_per_s",
                                v->single_tokens_per_s, "tokens_per_s", v->tokens_per_s, "batch", (int)v->batch));
    }
    for (int i = 0; i < 3 && p->mixes[i].name[0]; i++)
        json_array_append_new(mixes, json_pack("{s:s, s:f, s:f}", "name", p->mixes[i].name, "bytes", p->mixes[i].bytes,
                                               "seconds", p->mixes[i].seconds));
    for (uint32_t i = 0; i < p->n_experts; i++) {
        const struct plan_experts *x = &p->experts[i];
        json_array_append_new(experts,
                              json_pack("{s:i, s:f, s:f, s:f}", "batch", (int)x->batch, "distinct", x->distinct,
                                        "weight_bytes", x->weight_bytes, "tokens_per_s", x->tokens_per_s));
    }
    for (uint32_t i = 0; i < p->n_parallel; i++) {
        const struct plan_parallel *x = &p->parallel[i];
        json_array_append_new(parallel, json_pack("{s:i, s:b, s:f, s:f, s:f, s:f, s:i}", "devices", (int)x->n_devices,
                                                  "fits", x->fits, "device_bytes", x->device_bytes, "link_bytes",
                                                  x->link_bytes, "single_tokens_per_s", x->single_tokens_per_s,
                                                  "tokens_per_s", x->tokens_per_s, "batch", (int)x->batch));
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:f}", "variants", variants, "mixed_lengths", mixes, "experts", experts,
                     "tensor_parallel", parallel, "remote_numa_tokens_per_s", p->remote_tokens_per_s);
}

static json_t *rivals_json(const struct plan_report *p)
{
    json_t *rivals = json_array();
    for (uint32_t i = 0; i < p->n_rivals; i++) {
        const struct plan_rival *v = &p->rivals[i];
        json_array_append_new(rivals, json_pack("{s:o, s:b, s:i, s:i, s:f, s:f, s:f, s:f, s:f}", "device",
                                                device_json(&v->profile), "fits", v->fits, "devices", (int)v->n_devices,
                                                "batch", (int)v->batch, "tokens_per_s", v->tokens_per_s,
                                                "single_tokens_per_s", v->single_tokens_per_s, "prompt_tokens_per_s",
                                                v->prompt_tokens_per_s, "tokens_per_joule", v->tokens_per_joule,
                                                "price_per_million_tokens", v->price_per_million));
    }
    return rivals;
}

static json_t *report_json(const struct plan_report *p)
{
    json_t *cost = json_pack("{s:f, s:f, s:f, s:f}", "price_per_device_hour", p->price_per_hour,
                             "price_per_million_tokens", p->price_per_million, "bandwidth_device_hours_per_million",
                             p->bandwidth_hours, "compute_device_hours_per_million", p->compute_hours);
    return json_pack("{s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "model", model_json(p), "device",
                     device_json(&p->in.profile), "devices", (int)p->n_devices, "memory", memory_json(p),
                     "one_sequence", single_json(p), "roofline", roofline_json(p), "sweet_spot", sweet_json(p),
                     "surface", cells_json(p), "what_if", what_if_json(p), "cost", cost, "compare", rivals_json(p));
}

int plan_json(const struct plan_report *p, struct buf *b)
{
    return page_put_json(b, report_json(p), 8);
}

int plan_html(const struct plan_report *p, struct buf *b)
{
    return page_put(b, "plan_page", report_json(p), 8);
}
