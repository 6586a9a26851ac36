#include "policy/traffic.h"

#include <assert.h>
#include <math.h>

/* Rows at positions p .. p+n-1, row at q sees min(q+1, w) positions. */
struct span {
    double positions; /* seen by at least one row, once for each block of rows */
    double pairs;     /* sum over rows of the positions seen */
};

static struct span span_of(double p, double n, double w, double block)
{
    double growing = 0; /* rows that still see everything before them */
    if (p < w)
        growing = fmin(n, w - p);
    /* Block i of k sees from max(0, before + i block) up to its own last row. */
    double k = block > 0 ? ceil(n / block) : 1, before = p + 1 - w;
    double sum_end = k * p + (k - 1) * k / 2 * block + n;
    double skipped = before < 0 && block > 0 ? fmin(k, ceil(-before / block)) : before < 0 ? k : 0, m = k - skipped;
    double sum_first = m > 0 ? m * before + block * (skipped + k - 1) * m / 2 : 0;
    return (struct span){
        .positions = sum_end - sum_first,
        .pairs = growing * p + growing * (growing + 1) / 2 + (n - growing) * w,
    };
}

/* The last layer is one that sees all positions, unless there is none. */
static bool last_has_window(const struct traffic_model *m)
{
    return m->n_layer_window == m->n_layer;
}

/* What the last n_outputs rows of n sequences see in the last layer. */
static void accumulate_last(struct traffic_load *l, const struct traffic_model *m, uint32_t n, uint32_t n_past,
                            uint32_t n_tokens, uint32_t n_outputs)
{
    if (!n_outputs)
        return;
    struct span last = span_of((double)n_past + n_tokens - n_outputs, n_outputs,
                               last_has_window(m) ? m->window : UINT32_MAX, m->kv_block_rows);
    l->last_positions += n * last.positions;
    l->last_pairs += n * last.pairs;
}

/* n sequences of n_tokens rows each. */
static void accumulate(struct traffic_load *l, const struct traffic_model *m, uint32_t n, uint32_t n_past,
                       uint32_t n_tokens)
{
    assert(n_tokens > 0);
    if (n_tokens == 1) { /* by far the most frequent */
        double seen = n * ((double)n_past + 1), near = 0;
        l->full_positions += seen;
        l->full_pairs += seen;
        if (m->n_layer_window) {
            near = n * fmin((double)n_past + 1, m->window);
            l->window_positions += near;
            l->window_pairs += near;
        }
        if (m->mixed_length_waste > 0) {
            l->n_decoding += n;
            l->longest = n_past + 1 > l->longest ? n_past + 1 : l->longest;
            l->decode_positions += seen;
            l->near_positions += near;
        }
        return;
    }
    struct span full = span_of(n_past, n_tokens, UINT32_MAX, m->kv_block_rows);
    l->full_positions += n * full.positions;
    l->full_pairs += n * full.pairs;
    if (!m->n_layer_window)
        return;
    struct span near = span_of(n_past, n_tokens, m->window, m->kv_block_rows);
    l->window_positions += n * near.positions;
    l->window_pairs += n * near.pairs;
}

void traffic_add_many(struct traffic_load *l, const struct traffic_model *m, uint32_t n, uint32_t n_past,
                      uint32_t n_tokens, uint32_t n_outputs)
{
    accumulate(l, m, n, n_past, n_tokens);
    accumulate_last(l, m, n, n_past, n_tokens, n_outputs);
    l->n_seqs += n;
    l->n_rows += n * n_tokens;
    l->n_outputs += n * n_outputs;
}

void traffic_add(struct traffic_load *l, const struct traffic_model *m, uint32_t n_past, uint32_t n_tokens,
                 uint32_t n_prompt, uint32_t n_outputs)
{
    traffic_add_many(l, m, 1, n_past, n_tokens, n_outputs);
    if (m->prompt_way && n_prompt > n_past)
        l->n_prompt_rows += n_prompt - n_past < n_tokens ? n_prompt - n_past : n_tokens;
}

struct traffic_load traffic_decoding(const struct traffic_model *m, uint32_t n, double n_positions)
{
    double near = m->n_layer_window ? fmin(n_positions, (double)n * m->window) : n_positions;
    double last = last_has_window(m) ? near : n_positions;
    return (struct traffic_load){.n_seqs = n,
                                 .n_rows = n,
                                 .n_outputs = n,
                                 .full_positions = n_positions,
                                 .full_pairs = n_positions,
                                 .window_positions = near,
                                 .window_pairs = near,
                                 .last_positions = last,
                                 .last_pairs = last};
}

double traffic_distinct_experts(const struct traffic_model *m, double n_rows)
{
    if (!m->n_expert)
        return 0;
    double e = m->n_expert;
    if (m->n_expert_used >= m->n_expert)
        return n_rows > 0 ? e : 0;
    return e * -expm1(n_rows * log1p(-(double)m->n_expert_used / e));
}

double traffic_layer_weight_bytes(const struct traffic_model *m, double n_rows)
{
    double bytes = m->attention_bytes + m->ffn_bytes + m->router_bytes;
    if (m->n_expert)
        bytes += m->expert_bytes * (traffic_distinct_experts(m, n_rows) / m->n_expert);
    return bytes;
}

/* What runs for all rows, and what for those whose logits are wanted only. */
static void products_cost(const struct traffic_model *m, const struct traffic_load *l, struct traffic_cost *out)
{
    double rows = l->n_rows, outputs = l->n_outputs, used = m->n_expert ? (double)m->n_expert_used / m->n_expert : 0;
    double row_params = m->row_params + used * m->expert_params - m->last_params - used * m->last_expert_params;
    double row_bytes = traffic_layer_weight_bytes(m, rows) - m->last_bytes;
    if (m->n_expert)
        row_bytes -= m->last_expert_bytes * (traffic_distinct_experts(m, rows) / m->n_expert);
    if (outputs > 0) {
        out->output_weight_bytes = m->output_bytes + m->last_bytes;
        if (m->n_expert)
            out->output_weight_bytes += m->last_expert_bytes * (traffic_distinct_experts(m, outputs) / m->n_expert);
        out->output_flops = 2 * outputs * (m->output_params + m->last_params + used * m->last_expert_params);
    }
    out->weight_bytes = row_bytes + rows * m->embedding_row_bytes + out->output_weight_bytes;
    out->matmul_flops = 2 * rows * row_params + out->output_flops;
    if (l->n_prompt_rows) {
        out->prompt_flops = 2.0 * l->n_prompt_rows * row_params;
        out->prompt_params = m->row_params - m->last_params;
        if (m->n_expert)
            out->prompt_params += (m->expert_params - m->last_expert_params) *
                                  (traffic_distinct_experts(m, l->n_prompt_rows) / m->n_expert);
    }
}

void traffic_cost(const struct traffic_model *m, const struct traffic_load *l, struct traffic_cost *out)
{
    *out = (struct traffic_cost){0};
    if (!l->n_rows)
        return;
    double rows = l->n_rows, outputs = l->n_outputs;
    double n_full = m->n_layer - m->n_layer_window, n_window = m->n_layer_window, n_last = traffic_leaves_out(m);
    *(last_has_window(m) ? &n_window : &n_full) -= n_last;

    products_cost(m, l, out);
    out->kv_read_bytes =
        m->kv_token_bytes * (n_full * l->full_positions + n_window * l->window_positions + n_last * l->last_positions);
    out->kv_write_bytes = m->kv_token_bytes * m->n_layer * rows;
    if (l->n_decoding > 1) {
        double padded = (double)l->n_decoding * l->longest, near_padded = l->n_decoding * fmin(l->longest, m->window);
        out->kv_idle_bytes =
            m->mixed_length_waste * m->kv_token_bytes *
            (n_full * fmax(0, padded - l->decode_positions) + n_window * fmax(0, near_padded - l->near_positions));
    }
    out->activation_bytes = rows * m->row_act_bytes + outputs * m->output_act_bytes;
    out->attention_flops =
        m->pair_flops * (n_full * l->full_pairs + n_window * l->window_pairs + n_last * l->last_pairs);
}

double traffic_bytes(const struct traffic_cost *c)
{
    return c->weight_bytes + c->kv_read_bytes + c->kv_write_bytes;
}

double traffic_kv_time_bytes(const struct traffic_cost *c)
{
    return c->kv_read_bytes + c->kv_write_bytes + c->kv_idle_bytes;
}

double traffic_flops(const struct traffic_cost *c)
{
    return c->matmul_flops + c->attention_flops;
}

double traffic_resident_weight_bytes(const struct traffic_model *m)
{
    return m->attention_bytes + m->ffn_bytes + m->router_bytes + m->expert_bytes + m->norm_bytes + m->output_bytes +
           m->embedding_bytes;
}

double traffic_kv_bytes(const struct traffic_model *m, double n_tokens)
{
    return m->kv_token_bytes * m->n_layer * n_tokens;
}

double traffic_decode_kv_bytes(const struct traffic_model *m, uint32_t n_past)
{
    struct traffic_load l = {0};
    accumulate(&l, m, 1, n_past, 1);
    return m->kv_token_bytes *
           ((m->n_layer - m->n_layer_window) * l.full_positions + m->n_layer_window * l.window_positions + m->n_layer);
}
