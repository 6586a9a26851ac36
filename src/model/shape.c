#include "model/shape.h"

#include "base/embed.h"
#include "base/file.h"
#include "base/suggest.h"
#include "model/shape_matrices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PRESET_PREFIX "models/"
#define MAX_PRESETS 256
#define MAX_CONFIG_BYTES (1u << 20)

/* ---- matrices ---- */

unsigned shape_layer_matrices(const struct shape *s, uint32_t layer, struct matrix out[SHAPE_MAX_MATRICES])
{
    unsigned n = 0;
#define ADD(role, n_out, n_in, n_stack) out[n++] = (struct matrix){role, layer, n_out, n_in, n_stack}
    uint32_t embd = s->n_embd;
    if (s->kv_lora) {
        uint32_t q_rows = s->n_head * (s->nope_dim + s->rope_dim);
        if (s->q_lora) {
            ADD(MATRIX_ATTN_Q, s->q_lora, embd, 1);
            ADD(MATRIX_ATTN_Q, q_rows, s->q_lora, 1);
        } else {
            ADD(MATRIX_ATTN_Q, q_rows, embd, 1);
        }
        ADD(MATRIX_ATTN_K, s->kv_lora + s->rope_dim, embd, 1);
        ADD(MATRIX_ATTN_K, s->n_head * (s->nope_dim + s->v_dim), s->kv_lora, 1);
        ADD(MATRIX_ATTN_O, embd, s->n_head * s->v_dim, 1);
    } else {
        ADD(MATRIX_ATTN_Q, s->n_head * s->head_dim, embd, 1);
        ADD(MATRIX_ATTN_K, s->n_head_kv * s->head_dim, embd, 1);
        ADD(MATRIX_ATTN_V, s->n_head_kv * s->head_dim, embd, 1);
        ADD(MATRIX_ATTN_O, embd, s->n_head * s->head_dim, 1);
    }
    bool moe = s->n_expert && layer >= s->n_layer_dense;
    uint32_t dense_ff = moe ? s->n_ff_shared : s->n_ff;
    if (dense_ff) {
        ADD(MATRIX_FFN_GATE, dense_ff, embd, 1);
        ADD(MATRIX_FFN_UP, dense_ff, embd, 1);
        ADD(MATRIX_FFN_DOWN, embd, dense_ff, 1);
    }
    if (moe) {
        ADD(MATRIX_ROUTER, s->n_expert, embd, 1);
        ADD(MATRIX_EXPERT_GATE, s->n_ff_expert, embd, s->n_expert);
        ADD(MATRIX_EXPERT_UP, s->n_ff_expert, embd, s->n_expert);
        ADD(MATRIX_EXPERT_DOWN, embd, s->n_ff_expert, s->n_expert);
    }
#undef ADD
    return n;
}

unsigned shape_outer_matrices(const struct shape *s, struct matrix out[SHAPE_MAX_MATRICES])
{
    unsigned n = 0;
    if (!s->tied)
        out[n++] = (struct matrix){MATRIX_EMBEDDING, 0, s->n_vocab, s->n_embd, 1};
    out[n++] = (struct matrix){MATRIX_OUTPUT, 0, s->n_vocab, s->n_embd, 1};
    return n;
}

double shape_vector_elements(const struct shape *s)
{
    double embd = s->n_embd, q = (double)s->n_head * s->head_dim, kv = (double)s->n_head_kv * s->head_dim;
    double n = (s->post_norm ? 4 : 2) * embd;
    if (s->qk_norm)
        n += 2.0 * s->head_dim;
    if (s->kv_lora)
        n += s->q_lora + s->kv_lora;
    if (s->qkv_bias)
        n += q + 2 * kv;
    if (s->o_bias)
        n += embd;
    n *= s->n_layer;
    double n_moe = (double)s->n_layer - s->n_layer_dense;
    if (s->expert_bias)
        n += n_moe * s->n_expert * (1 + 2.0 * s->n_ff_expert + embd);
    if (!strcmp(s->arch, "gpt_oss"))
        n += (double)s->n_layer * s->n_head; /* attention sinks */
    if (!strcmp(s->arch, "deepseek_v3"))
        n += n_moe * s->n_expert; /* what balances the routing */
    return n + embd;
}

static double matrix_elements(const struct matrix *m)
{
    return (double)m->n_out * m->n_in * m->n_stack;
}

/* Elements of the matrices; experts' times `expert_share`. */
static double elements(const struct shape *s, double expert_share)
{
    struct matrix m[SHAPE_MAX_MATRICES];
    double sum = 0;
    unsigned n = shape_outer_matrices(s, m);
    for (unsigned i = 0; i < n; i++)
        sum += matrix_elements(&m[i]);
    for (uint32_t layer = 0; layer < s->n_layer; layer++) {
        n = shape_layer_matrices(s, layer, m);
        for (unsigned i = 0; i < n; i++)
            sum += matrix_elements(&m[i]) * (m[i].role >= MATRIX_EXPERT_GATE ? expert_share : 1);
    }
    return sum + shape_vector_elements(s);
}

double shape_params(const struct shape *s)
{
    return elements(s, 1);
}

double shape_active_params(const struct shape *s)
{
    return elements(s, s->n_expert ? (double)s->n_expert_used / s->n_expert : 1);
}

/* Floats that flow in a layer for one row: what each operation reads and writes. */
static double layer_flow(const struct shape *s)
{
    double q = (double)s->n_head * s->head_dim, kv = (double)s->n_head_kv * s->head_dim;
    double ff = s->n_expert ? (double)s->n_expert_used * s->n_ff_expert + s->n_ff_shared : s->n_ff;
    return 2 * (5.0 * s->n_embd + 2 * q + 2 * kv + 3 * ff);
}

void shape_traffic_counts(const struct shape *s, struct traffic_model *t)
{
    t->n_layer = s->n_layer;
    t->n_layer_window = s->n_layer_window;
    t->window = s->n_layer_window ? s->sliding_window : 0;
    t->n_expert = s->n_expert;
    t->n_expert_used = s->n_expert_used;
    /* Latent attention works on the latent itself: scores over latent and rope part, values over the latent. */
    t->pair_flops = s->kv_lora ? 2.0 * s->n_head * (2.0 * s->kv_lora + s->rope_dim) : 4.0 * s->n_head * s->head_dim;
    t->row_act_bytes = sizeof(float) * layer_flow(s) * s->n_layer;
    t->output_act_bytes = 2 * sizeof(float) * (double)s->n_vocab;
}

double shape_activation_bytes(const struct shape *s, double n_rows, double n_outputs, double element_bytes)
{
    double q = (double)s->n_head * s->head_dim, kv = (double)s->n_head_kv * s->head_dim;
    double ff = s->n_expert ? (double)s->n_expert_used * s->n_ff_expert + s->n_ff_shared : s->n_ff;
    double row = 3.0 * s->n_embd + 2 * q + 2 * kv + 2 * ff;
    return element_bytes * n_rows * row + sizeof(float) * n_outputs * s->n_vocab;
}

int shape_check(const struct shape *s, struct err *e)
{
    static const char *const names[] = {"layers", "embedding width", "heads", "KV heads", "head width", "vocabulary"};
    const uint32_t values[] = {s->n_layer, s->n_embd, s->n_head, s->n_head_kv, s->head_dim, s->n_vocab};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (values[i] < 1 || values[i] > 1u << 24)
            return err_set(e, WEIR_EFORMAT, "%s: its number of %s is %lu", s->name, names[i], (unsigned long)values[i]);
    }
    if (s->n_layer > 4096 || s->n_expert > 65536 || s->n_head > 65536 || s->head_dim > 65536)
        return err_set(e, WEIR_EFORMAT, "%s: more layers, heads or experts than any model has", s->name);
    if (s->n_head % s->n_head_kv)
        return err_set(e, WEIR_EFORMAT, "%s: its %lu heads do not share %lu KV heads evenly", s->name,
                       (unsigned long)s->n_head, (unsigned long)s->n_head_kv);
    if (s->n_expert_used > s->n_expert || !s->n_expert_used != !s->n_expert)
        return err_set(e, WEIR_EFORMAT, "%s: a token uses %lu of its %lu experts", s->name,
                       (unsigned long)s->n_expert_used, (unsigned long)s->n_expert);
    if ((s->n_expert && !s->n_ff_expert) || s->n_layer_dense > s->n_layer || s->n_ff > 1u << 24 ||
        s->n_ff_expert > 1u << 24 || s->n_ff_shared > 1u << 24)
        return err_set(e, WEIR_EFORMAT, "%s: the widths of its feed-forward layers make no sense", s->name);
    if ((!s->n_expert || s->n_layer_dense) && !s->n_ff)
        return err_set(e, WEIR_EFORMAT, "%s: no width of its feed-forward layers", s->name);
    if (s->n_layer_window > s->n_layer || (s->n_layer_window && !s->sliding_window))
        return err_set(e, WEIR_EFORMAT, "%s: %lu of its %lu layers have a window of %lu", s->name,
                       (unsigned long)s->n_layer_window, (unsigned long)s->n_layer, (unsigned long)s->sliding_window);
    if (s->q_lora > 1u << 20 || s->kv_lora > 1u << 20 || s->rope_dim > 65536 || s->nope_dim > 65536 ||
        s->v_dim > 65536 || (s->kv_lora && (!s->v_dim || !s->nope_dim)))
        return err_set(e, WEIR_EFORMAT, "%s: the widths of its latent attention make no sense", s->name);
    return 0;
}

/* ---- where a shape comes from ---- */

const char *shape_preset_name(unsigned i)
{
    for (const struct embed_file *f = embed_files; f->name; f++) {
        if (!strncmp(f->name, PRESET_PREFIX, strlen(PRESET_PREFIX)) && i-- == 0)
            return f->name + strlen(PRESET_PREFIX);
    }
    return NULL;
}

static int no_such_model(const char *what, struct err *e)
{
    const char *names[MAX_PRESETS], *name;
    unsigned n = 0;
    while (n < MAX_PRESETS && (name = shape_preset_name(n)))
        names[n++] = name;
    const char *near = suggest_nearest(what, names, n);
    if (near)
        return err_set(e, WEIR_ENOTFOUND, "no model '%s': neither a file nor a preset; did you mean %s?", what, near);
    char list[384] = "";
    for (unsigned i = 0; i < n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return err_set(e, WEIR_ENOTFOUND, "no model '%s': give a .gguf file, a config.json, or a preset: %s", what, list);
}

int shape_from_preset(struct shape *s, const char *name, struct err *e)
{
    for (const struct embed_file *f = embed_files; f->name; f++) {
        if (!strncmp(f->name, PRESET_PREFIX, strlen(PRESET_PREFIX)) &&
            suggest_same(f->name + strlen(PRESET_PREFIX), name))
            return shape_from_config(s, (const char *)f->begin, (size_t)(f->end - f->begin), name, e);
    }
    return no_such_model(name, e);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static int from_config_file(struct shape *s, const char *path, struct err *e)
{
    char *json;
    size_t n;
    int rc = file_read(path, MAX_CONFIG_BYTES, &json, &n, e);
    if (rc)
        return rc;
    rc = shape_from_config(s, json, n, path, e);
    free(json);
    return rc;
}

int shape_open(struct shape *s, const char *what, struct err *e)
{
    struct stat st;
    if (stat(what, &st)) {
        if (strchr(what, '/') || ends_with(what, ".gguf") || ends_with(what, ".json"))
            return err_errno(e, "%s", what);
        return shape_from_preset(s, what, e);
    }
    if (S_ISDIR(st.st_mode)) {
        char path[4096];
        int n = snprintf(path, sizeof path, "%s/config.json", what);
        if (n < 0 || (size_t)n >= sizeof path)
            return err_set(e, WEIR_EINVAL, "the path of the model is too long");
        return from_config_file(s, path, e);
    }
    if (ends_with(what, ".json"))
        return from_config_file(s, what, e);
    struct gguf *g;
    int rc = gguf_open(&g, what, e);
    if (rc)
        return rc;
    rc = shape_from_gguf(s, g, e);
    gguf_close(g);
    return rc;
}
