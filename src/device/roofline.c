#include "device/roofline.h"

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
    if (profile_product_s(p, r->product_type, 1) <= 0 && strlen(format) > 4)
        r->product_type[4] = 0; /* q4_k_m is mostly q4_k */
    if (profile_product_s(p, r->product_type, 1) <= 0)
        r->product_type[0] = 0;
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

/* From measured products: each matrix at the rows that it meets. */
static double measured_weights_s(const struct roofline *r, const struct traffic_load *l)
{
    const struct traffic_model *m = &r->model;
    double rows = l->n_rows, shared = m->attention_bytes + m->ffn_bytes + m->router_bytes;
    double s = shared * profile_product_s(r->profile, r->product_type, rows);
    if (l->n_outputs)
        s += m->output_bytes * profile_product_s(r->profile, r->product_type, l->n_outputs);
    if (m->n_expert) {
        double touched = traffic_distinct_experts(m, rows), each = rows * m->n_expert_used / touched;
        s += m->expert_bytes * touched / m->n_expert * profile_product_s(r->profile, r->product_type, each);
    }
    return s / r->n_devices;
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
    double compute_s = matmul / r->matmul_ops_per_s + attention / r->attention_ops_per_s;
    out->memory_bound = memory_s >= compute_s;
    out->ceiling_s = fmax(memory_s, compute_s);

    double bandwidth = r->bytes_per_s * p->attain_bandwidth;
    out->weights_s = fmax(out->weight_bytes / (r->bytes_per_s * r->attain_weights),
                          matmul / (r->matmul_ops_per_s * p->attain_compute));
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
        .attention_flops_per_s = r->attention_ops_per_s * p->attain_compute * r->n_devices,
        .fixed_s = p->step_overhead_s + r->model.n_layer * p->layer_overhead_s,
        .confidence = p->measured ? 0.7 : 0.3,
    };
}
