/* Shapes from GGUF files: numbers from the metadata, bytes from the tensor table. */
#include "model/shape_matrices.h"

#include <stdio.h>
#include <string.h>

static int key_u32(const struct gguf *g, const char *arch, const char *key, bool must, uint32_t *out, struct err *e)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    int rc = gguf_get_u32(g, full, out, e);
    if (rc == WEIR_ENOTFOUND && !must)
        return 0;
    if (rc == WEIR_ENOTFOUND)
        return err_set(e, WEIR_EFORMAT, "the model file has no key %s", full);
    return rc;
}

static int read_keys(struct shape *s, const struct gguf *g, struct err *e)
{
    struct gguf_str str;
    if (gguf_get_str(g, "general.architecture", &str, e))
        return err_set(e, WEIR_EFORMAT, "the model file names no architecture (general.architecture)");
    snprintf(s->arch, sizeof s->arch, "%.*s", (int)(str.n < 31 ? str.n : 31), str.s);
    if (!gguf_get_str(g, "general.name", &str, NULL))
        snprintf(s->name, sizeof s->name, "%.*s", (int)(str.n < 95 ? str.n : 95), str.s);
    else
        snprintf(s->name, sizeof s->name, "%s", s->arch);
    const char *a = s->arch;
    int rc;
    if ((rc = key_u32(g, a, "block_count", true, &s->n_layer, e)) ||
        (rc = key_u32(g, a, "embedding_length", true, &s->n_embd, e)) ||
        (rc = key_u32(g, a, "attention.head_count", true, &s->n_head, e)))
        return rc;
    s->n_head_kv = s->n_head;
    s->head_dim = s->n_head ? s->n_embd / s->n_head : 0;
    if ((rc = key_u32(g, a, "attention.head_count_kv", false, &s->n_head_kv, e)) ||
        (rc = key_u32(g, a, "attention.key_length", false, &s->head_dim, e)) ||
        (rc = key_u32(g, a, "context_length", false, &s->n_ctx, e)) ||
        (rc = key_u32(g, a, "feed_forward_length", false, &s->n_ff, e)) ||
        (rc = key_u32(g, a, "expert_count", false, &s->n_expert, e)) ||
        (rc = key_u32(g, a, "expert_used_count", false, &s->n_expert_used, e)) ||
        (rc = key_u32(g, a, "attention.sliding_window", false, &s->sliding_window, e)) ||
        (rc = key_u32(g, a, "attention.kv_lora_rank", false, &s->kv_lora, e)))
        return rc;
    if (s->kv_lora)
        return err_set(e, WEIR_EUNSUPPORTED,
                       "%s: the layout of latent attention differs between GGUF files; plan from its config.json",
                       s->name);
    s->n_ff_expert = s->n_ff;
    return key_u32(g, a, "expert_feed_forward_length", false, &s->n_ff_expert, e);
}

static bool contains(const char *s, const char *part)
{
    return strstr(s, part) != NULL;
}

/* The class of a tensor, by its name. Matrices of experts of older files are ffn_gate.3.weight and so on. */
static void count_tensor(struct shape *s, const struct gguf_tensor *t)
{
    struct traffic_model *m = &s->file;
    double bytes = (double)t->n_bytes, elements = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        elements *= (double)t->dims[i];
    const char *name = t->name, *dot;
    bool layer = !strncmp(name, "blk.", 4) && (dot = strchr(name + 4, '.'));
    const char *part = layer ? dot + 1 : name;
    if (!strcmp(name, "token_embd.weight")) {
        m->embedding_bytes = bytes;
        m->embedding_row_bytes = t->dims[1] ? bytes / (double)t->dims[1] : 0;
        s->n_vocab = t->dims[1] <= 1u << 24 ? (uint32_t)t->dims[1] : 0;
    } else if (!strcmp(name, "output.weight")) {
        m->output_bytes = bytes;
        m->output_params = elements;
    } else if (!layer || t->n_dims < 2 || contains(part, "_norm")) {
        m->norm_bytes += bytes;
    } else if (contains(part, "_exps.") ||
               (!strncmp(part, "ffn_", 4) && part[strcspn(part, ".")] == '.' && part[strcspn(part, ".") + 1] >= '0' &&
                part[strcspn(part, ".") + 1] <= '9')) {
        m->expert_bytes += bytes;
        m->expert_params += elements;
    } else if (!strncmp(part, "ffn_gate_inp.", 13)) {
        m->router_bytes += bytes;
        m->row_params += elements;
    } else {
        *(strncmp(part, "ffn_", 4) ? &m->attention_bytes : &m->ffn_bytes) += bytes;
        m->row_params += elements;
    }
}

/* Layers that have a window follow from the architecture. */
static void read_window_layers(struct shape *s)
{
    if (!s->sliding_window)
        return;
    if (!strcmp(s->arch, "gemma2") || !strcmp(s->arch, "gpt-oss"))
        s->n_layer_window = (s->n_layer + 1) / 2;
    else if (!strcmp(s->arch, "gemma3"))
        s->n_layer_window = s->n_layer - s->n_layer / 6;
    else
        s->n_layer_window = s->n_layer;
}

static void main_type(struct shape *s, const struct gguf *g)
{
    double by_type[TENSOR_TYPE_COUNT] = {0};
    uint32_t best = TENSOR_F32;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        by_type[t->type] += (double)t->n_bytes;
        if (by_type[t->type] > by_type[best])
            best = (uint32_t)t->type;
    }
    snprintf(s->file_format, sizeof s->file_format, "%s", tensor_type_name(best));
    for (char *c = s->file_format; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
}

int shape_from_gguf(struct shape *s, const struct gguf *g, struct err *e)
{
    *s = (struct shape){0};
    int rc = read_keys(s, g, e);
    if (rc)
        return rc;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++)
        count_tensor(s, gguf_tensor_at(g, i));
    struct traffic_model *m = &s->file;
    s->tied = m->output_bytes == 0;
    if (s->tied) {
        m->output_bytes = m->embedding_bytes;
        m->output_params = (double)s->n_vocab * s->n_embd;
        m->embedding_bytes = 0;
    }
    if (m->output_bytes == 0 || m->attention_bytes == 0 || m->ffn_bytes + m->expert_bytes == 0)
        return err_set(e, WEIR_EFORMAT, "%s: the file lacks tensors of a transformer (embedding, attn_*, ffn_*)",
                       s->name);
    s->qkv_bias = gguf_tensor(g, "blk.0.attn_q.bias") != NULL;
    s->o_bias = gguf_tensor(g, "blk.0.attn_output.bias") != NULL;
    s->qk_norm = gguf_tensor(g, "blk.0.attn_q_norm.weight") != NULL;
    s->post_norm = gguf_tensor(g, "blk.0.post_ffw_norm.weight") != NULL;
    const struct gguf_tensor *shared = gguf_tensor(g, "blk.0.ffn_up_shexp.weight");
    if (shared && shared->dims[1] <= 1u << 24)
        s->n_ff_shared = (uint32_t)shared->dims[1];
    read_window_layers(s);
    main_type(s, g);
    if ((rc = shape_check(s, e)))
        return rc;
    s->exact = true;
    shape_traffic_counts(s, m);
    return 0;
}
