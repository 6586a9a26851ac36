#include "device/roofline.h"

#include "device/device.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define REDUCE_ELEMENT_BYTES 2.0

int roofline_init(struct roofline *r, const struct shape *s, const char *weights, const char *kv,
                  const struct profile *p, uint32_t n_devices, struct err *e)
{
    assert(n_devices >= 1);
    *r = (struct roofline){.profile = p, .n_devices = n_devices, .n_embd = s->n_embd};
    int rc = shape_traffic(s, weights, kv, &r->model, e);
    if (rc)
        return rc;
    r->model.mixed_length_waste = p->mixed_length_waste;
    uint32_t kv_heads = s->kv_lora ? 1 : s->n_head_kv; /* all heads share one latent */
    r->kv_shards = n_devices < kv_heads ? n_devices : kv_heads;
    const char *format = weights ? weights : s->exact ? s->file_format : "bf16";
    enum profile_compute type = profile_compute_type(shape_compute_type(format));
    /* GPUs unpack quantised weights to 16 bits; CPUs multiply them in 8. */
    if (!p->is_cpu && type == PROFILE_INT8)
        type = PROFILE_F16;
    r->bytes_per_s = p->tiers[0].bytes_per_s;
    r->matmul_ops_per_s = p->ops_per_s[type];
    r->attention_ops_per_s = p->ops_per_s[p->is_cpu ? PROFILE_F32 : PROFILE_F16];
    double bits = 8 * traffic_resident_weight_bytes(&r->model) / shape_params(s);
    r->attain_weights = p->attain_bandwidth;
    snprintf(r->product_type, sizeof r->product_type, "%s", format);
    if (profile_product_s(p, r->product_type, false, 1) <= 0 && strlen(format) > 4)
        r->product_type[4] = 0; /* q4_k_m is mostly q4_k */
    if (profile_product_s(p, r->product_type, false, 1) <= 0)
        r->product_type[0] = 0;
    if (p->is_cpu)
        shape_last_layer(s, &r->model);
    double per_byte = r->model.row_params / (r->model.attention_bytes + r->model.ffn_bytes + r->model.router_bytes);
    r->prompt_ops_per_s = 2 * per_byte * profile_product_peak(p, r->product_type, true);
    r->model.prompt_way = r->prompt_ops_per_s > 0;
    if (!p->is_cpu && type != PROFILE_FP8)
        r->attain_weights = bits < 6.5 ? p->attain_4bit : bits < 12 ? p->attain_8bit : p->attain_bandwidth;
    return 0;
}

/* Of kv_shards different pieces, each held by n_devices / kv_shards of the devices. */
static double kv_share(const struct roofline *r)
{
    return 1.0 / r->kv_shards;
}

double roofline_weight_bytes(const struct roofline *r)
{
    double matrices = traffic_resident_weight_bytes(&r->model) - r->model.norm_bytes;
    return matrices / r->n_devices + r->model.norm_bytes;
}

double roofline_kv_token_bytes(const struct roofline *r)
{
    return traffic_kv_bytes(&r->model, 1) * kv_share(r);
}

static double others_s(const struct roofline *r, double rows)
{
    return profile_product_s(r->profile, r->product_type, false, rows);
}

/* Seconds a byte of a matrix of the layers. */
static double rows_s(const struct roofline *r, double rows, double prompt_rows)
{
    if (!(prompt_rows > 0))
        return others_s(r, rows);
    const double prompts = profile_product_s(r->profile, r->product_type, true, prompt_rows);
    if (rows <= prompt_rows)
        return prompts;
    const double read = others_s(r, 1), others = others_s(r, rows - prompt_rows);
    const double busy = sqrt(fmax(0, others * others - read * read)) + sqrt(fmax(0, prompts * prompts - read * read));
    return sqrt(read * read + busy * busy);
}

/* Experts, of `bytes` in all, of which each row meets some. */
static double experts_s(const struct roofline *r, double bytes, double rows, double prompt_rows)
{
    const struct traffic_model *m = &r->model;
    if (!m->n_expert || !(rows > 0))
        return 0;
    const bool in_tiles = r->product_type[0] == 'q' &&
                          device_cpu_experts_fill_tiles(m->n_expert, m->n_expert_used, strstr(r->product_type, "_k"));
    const double touched = traffic_distinct_experts(m, rows), each = m->n_expert_used / touched;
    return bytes * touched / m->n_expert * rows_s(r, rows * each, in_tiles ? prompt_rows * each : 0);
}

/* From measured products: each matrix at the rows that it meets. */
static double measured_weights_s(const struct roofline *r, const struct traffic_load *l)
{
    const struct traffic_model *m = &r->model;
    const double layers = m->attention_bytes + m->ffn_bytes + m->router_bytes - m->last_bytes;
    double s = layers * rows_s(r, l->n_rows, l->n_prompt_rows) +
               experts_s(r, m->expert_bytes - m->last_expert_bytes, l->n_rows, l->n_prompt_rows);
    if (l->n_outputs) {
        const double prompts = l->n_prompt_rows == l->n_rows ? l->n_outputs : 0; /* else most of these rows decode */
        s += m->output_bytes * others_s(r, l->n_outputs) + m->last_bytes * rows_s(r, l->n_outputs, prompts) +
             experts_s(r, m->last_expert_bytes, l->n_outputs, prompts);
    }
    return s / r->n_devices;
}

/* At the peaks. */
static double matmul_s(const struct roofline *r, const struct traffic_cost *c)
{
    const double prompts = c->prompt_flops > 0 ? c->prompt_flops / r->prompt_ops_per_s : 0;
    return ((c->matmul_flops - c->prompt_flops) / r->matmul_ops_per_s + prompts) / r->n_devices;
}

void roofline_step(const struct roofline *r, const struct traffic_load *l, struct roofline_time *out)
{
    const struct profile *p = r->profile;
    struct traffic_cost c;
    traffic_cost(&r->model, l, &c);
    *out = (struct roofline_time){0};
    if (!l->n_rows)
        return;
    double n = r->n_devices;
    out->weight_bytes = c.weight_bytes / n;
    out->kv_bytes = (c.kv_read_bytes + c.kv_write_bytes) * kv_share(r);
    out->device_bytes = out->weight_bytes + out->kv_bytes;
    double matmul = c.matmul_flops / n, attention = c.attention_flops / n;
    out->device_flops = matmul + attention;

    double memory_s = out->device_bytes / r->bytes_per_s;
    double compute_s = matmul_s(r, &c) + attention / r->attention_ops_per_s;
    out->memory_bound = memory_s >= compute_s;
    out->ceiling_s = fmax(memory_s, compute_s);

    double bandwidth = r->bytes_per_s * p->attain_bandwidth;
    out->weights_s =
        fmax(out->weight_bytes / (r->bytes_per_s * r->attain_weights), matmul_s(r, &c) / p->attain_compute);
    double kv_time_bytes = traffic_kv_time_bytes(&c) * kv_share(r);
    out->attention_s = fmax(kv_time_bytes / bandwidth, attention / (r->attention_ops_per_s * p->attain_compute));
    if (r->product_type[0])
        out->weights_s = measured_weights_s(r, l);
    if (p->kv_bytes_per_s > 0)
        out->attention_s = kv_time_bytes / p->kv_bytes_per_s + attention / p->attention_ops_per_s;
    out->overhead_s = p->step_overhead_s + r->model.n_layer * p->layer_overhead_s;
    const struct profile_link *link = profile_peer_link(p);
    if (r->n_devices > 1 && link) {
        double reduces = 2.0 * r->model.n_layer;
        out->link_bytes = reduces * 2 * (n - 1) / n * l->n_rows * r->n_embd * REDUCE_ELEMENT_BYTES;
        out->link_s = reduces * link->latency_s + out->link_bytes / link->bytes_per_s;
    }
    out->expected_s = out->weights_s + out->attention_s + out->link_s + out->overhead_s;
}

void roofline_decode(const struct roofline *r, uint32_t batch, uint32_t n_past, struct roofline_time *out)
{
    struct traffic_load l = {0};
    traffic_add_many(&l, &r->model, batch, n_past, 1, 1);
    roofline_step(r, &l, out);
}

double roofline_prefill_s(const struct roofline *r, uint32_t n_tokens, uint32_t step_tokens)
{
    double s = 0;
    for (uint32_t done = 0, n; done < n_tokens; done += n) {
        n = n_tokens - done < step_tokens ? n_tokens - done : step_tokens;
        struct traffic_load l = {0};
        struct roofline_time t;
        traffic_add(&l, &r->model, done, n, n_tokens, done + n == n_tokens);
        roofline_step(r, &l, &t);
        s += t.expected_s;
    }
    return s;
}

void roofline_prior(const struct roofline *r, struct calibrate_prior *out)
{
    const struct profile *p = r->profile;
    *out = (struct calibrate_prior){
        .bytes_per_s = r->bytes_per_s * r->attain_weights * r->n_devices,
        .matmul_flops_per_s = r->matmul_ops_per_s * p->attain_compute * r->n_devices,
        .prompt_flops_per_s = r->prompt_ops_per_s * p->attain_compute * r->n_devices,
        .attention_flops_per_s = r->attention_ops_per_s * p->attain_compute * r->n_devices,
        .fixed_s = p->step_overhead_s + r->model.n_layer * p->layer_overhead_s,
        .confidence = p->measured ? 0.7 : 0.3,
    };
}
