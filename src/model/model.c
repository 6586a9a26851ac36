#include "model/model.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "model/model_load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct arch_info archs[] = {
    {.name = "llama", .arch = ARCH_LLAMA, .rope_layout = ROPE_ADJACENT, .may_be_moe = true},
    {.name = "qwen2", .arch = ARCH_QWEN2, .rope_layout = ROPE_HALVES, .qkv_bias = true},
    {.name = "qwen3", .arch = ARCH_QWEN3, .rope_layout = ROPE_HALVES, .qk_norm = true},
    {.name = "qwen3moe",
     .arch = ARCH_QWEN3MOE,
     .rope_layout = ROPE_HALVES,
     .qk_norm = true,
     .may_be_moe = true,
     .must_be_moe = true},
};
#define N_ARCHS (sizeof archs / sizeof *archs)

static void key_name(const struct model_loader *l, const char *suffix, char out[128])
{
    snprintf(out, 128, "%s.%s", l->arch->name, suffix);
}

static int missing_key(struct model_loader *l, const char *key)
{
    return err_set(l->e, WEIR_ENOTFOUND, "the model file has no metadata key %s", key);
}

int model_key_u32(struct model_loader *l, const char *suffix, uint32_t *out, bool required)
{
    char key[128];
    key_name(l, suffix, key);
    const struct gguf_value *v = gguf_find(l->g, key);
    if (!v)
        return required ? missing_key(l, key) : WEIR_ENOTFOUND;
    if (v->type != GGUF_ARRAY)
        return gguf_get_u32(l->g, key, out, l->e);
    bool is_int = v->element_type != GGUF_STRING && v->element_type != GGUF_F32 && v->element_type != GGUF_F64 &&
                  v->element_type != GGUF_ARRAY;
    if (!is_int || !v->n_elements)
        return err_set(l->e, WEIR_EFORMAT, "metadata key %s is not an integer", key);
    int64_t first = gguf_array_int(v, 0);
    for (uint64_t i = 1; i < v->n_elements; i++) {
        if (gguf_array_int(v, i) != first)
            return err_set(l->e, WEIR_EUNSUPPORTED, "metadata key %s differs between layers; weir supports one value",
                           key);
    }
    if (first < 0 || first > UINT32_MAX)
        return err_set(l->e, WEIR_EFORMAT, "metadata key %s is out of range: %lld", key, (long long)first);
    *out = (uint32_t)first;
    return 0;
}

int model_key_f32(struct model_loader *l, const char *suffix, float *out, bool required)
{
    char key[128];
    key_name(l, suffix, key);
    float v = 0;
    int rc = gguf_get_f32(l->g, key, &v, l->e);
    if (rc == WEIR_ENOTFOUND)
        return required ? missing_key(l, key) : rc;
    if (rc)
        return rc;
    if (!isfinite(v))
        return err_set(l->e, WEIR_EFORMAT, "metadata key %s is not a finite number", key);
    *out = v;
    return 0;
}

int model_key_str(struct model_loader *l, const char *suffix, struct gguf_str *out)
{
    char key[128];
    key_name(l, suffix, key);
    return gguf_get_str(l->g, key, out, l->e);
}

/* A size between lo and hi. Optional ones keep the default that *out holds; it is checked too. */
static int key_size(struct model_loader *l, const char *suffix, uint32_t *out, bool required, uint32_t lo, uint32_t hi)
{
    int rc = model_key_u32(l, suffix, out, required);
    if (rc && (rc != WEIR_ENOTFOUND || required))
        return rc;
    if (*out < lo || *out > hi)
        return err_set(l->e, WEIR_EFORMAT, "%s.%s is %u; weir supports %u to %u", l->arch->name, suffix, *out, lo, hi);
    return 0;
}

static int find_arch(struct model_loader *l)
{
    struct gguf_str s = {0};
    int rc = gguf_get_str(l->g, "general.architecture", &s, l->e);
    if (rc == WEIR_ENOTFOUND)
        return err_set(l->e, rc, "the model file has no metadata key general.architecture");
    if (rc)
        return rc;
    char list[128] = "";
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (s.n == strlen(archs[i].name) && !memcmp(s.s, archs[i].name, s.n))
            l->arch = &archs[i];
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", archs[i].name);
    }
    if (!l->arch)
        return err_set(l->e, WEIR_EUNSUPPORTED, "unknown model architecture \"%.*s\"; supported are %s",
                       (int)(s.n < 64 ? s.n : 64), utf8_valid(s.s, s.n) ? s.s : "?", list);
    l->m->arch = l->arch->arch;
    snprintf(l->m->arch_name, sizeof l->m->arch_name, "%s", l->arch->name);
    return 0;
}

static void read_name(struct model_loader *l)
{
    struct gguf_str s = {"unnamed", 7};
    if (gguf_get_str(l->g, "general.name", &s, NULL) || !s.n || !utf8_valid(s.s, s.n) || memchr(s.s, 0, s.n))
        s = (struct gguf_str){l->arch->name, strlen(l->arch->name)};
    size_t n = s.n < sizeof l->m->name ? s.n : utf8_complete_len(s.s, sizeof l->m->name - 1);
    memcpy(l->m->name, s.s, n);
    l->m->name[n] = 0;
}

static int read_attention(struct model_loader *l)
{
    struct model *m = l->m;
    int rc;
    if ((rc = key_size(l, "attention.head_count", &m->n_head, true, 1, MODEL_MAX_HEADS)))
        return rc;
    m->n_head_kv = m->n_head;
    if ((rc = key_size(l, "attention.head_count_kv", &m->n_head_kv, false, 1, MODEL_MAX_HEADS)))
        return rc;
    if (m->n_head % m->n_head_kv)
        return err_set(l->e, WEIR_EFORMAT, "%u attention heads are not a multiple of %u key/value heads", m->n_head,
                       m->n_head_kv);
    m->head_dim = m->n_embd / m->n_head;
    if ((rc = key_size(l, "attention.key_length", &m->head_dim, false, 2, MODEL_MAX_HEAD_DIM)))
        return rc;
    if (m->head_dim % 2)
        return err_set(l->e, WEIR_EUNSUPPORTED, "a head size of %u is odd; rotary embedding needs pairs", m->head_dim);
    uint32_t value_length = m->head_dim;
    if ((rc = key_size(l, "attention.value_length", &value_length, false, 1, MODEL_MAX_HEAD_DIM)))
        return rc;
    if (value_length != m->head_dim)
        return err_set(l->e, WEIR_EUNSUPPORTED, "keys of %u and values of %u elements a head; weir supports equal ones",
                       m->head_dim, value_length);
    m->attn_scale = 1 / sqrtf((float)m->head_dim);
    if ((rc = key_size(l, "attention.sliding_window", &m->sliding_window, false, 0, UINT32_MAX)))
        return rc;
    char key[128];
    key_name(l, "attention.sliding_window_pattern", key);
    if (m->sliding_window && gguf_find(l->g, key))
        return err_set(l->e, WEIR_EUNSUPPORTED, "%s: weir supports one sliding window for all layers", key);
    if ((rc = model_key_f32(l, "attention.layer_norm_rms_epsilon", &m->norm_eps, true)))
        return rc;
    if (m->norm_eps <= 0 || m->norm_eps > 1)
        return err_set(l->e, WEIR_EFORMAT, "%s.attention.layer_norm_rms_epsilon is %g; it must be in (0, 1]",
                       l->arch->name, (double)m->norm_eps);
    return 0;
}

static int read_experts(struct model_loader *l)
{
    struct model *m = l->m;
    int rc;
    if ((rc = key_size(l, "expert_count", &m->n_expert, l->arch->must_be_moe, l->arch->must_be_moe, MODEL_MAX_EXPERTS)))
        return rc;
    if (!m->n_expert)
        return 0;
    if (!l->arch->may_be_moe)
        return err_set(l->e, WEIR_EUNSUPPORTED, "%s.expert_count is %u; weir knows %s without experts only",
                       l->arch->name, m->n_expert, l->arch->name);
    if ((rc = key_size(l, "expert_used_count", &m->n_expert_used, true, 1, m->n_expert)))
        return rc;
    m->n_ff_expert = m->n_ff;
    if ((rc = key_size(l, "expert_feed_forward_length", &m->n_ff_expert, false, 1, MODEL_MAX_FF)))
        return rc;
    uint32_t gating = 0;
    if ((rc = model_key_u32(l, "expert_gating_func", &gating, false)) && rc != WEIR_ENOTFOUND)
        return rc;
    if (gating > 1)
        return err_set(l->e, WEIR_EUNSUPPORTED, "%s.expert_gating_func is %u; weir supports 1 (softmax)", l->arch->name,
                       gating);
    char key[128];
    key_name(l, "expert_weights_norm", key);
    m->expert_weights_normalised = true;
    if ((rc = gguf_get_bool(l->g, key, &m->expert_weights_normalised, l->e)) && rc != WEIR_ENOTFOUND)
        return rc;
    m->expert_weights_scale = 1;
    if ((rc = model_key_f32(l, "expert_weights_scale", &m->expert_weights_scale, false)) && rc != WEIR_ENOTFOUND)
        return rc;
    if (m->expert_weights_scale == 0)
        m->expert_weights_scale = 1; /* writers put 0 for "none" */
    return 0;
}

static int read_shape(struct model_loader *l)
{
    struct model *m = l->m;
    int rc;
    if ((rc = find_arch(l)))
        return rc;
    read_name(l);
    if ((rc = key_size(l, "block_count", &m->n_layer, true, 1, MODEL_MAX_LAYERS)) ||
        (rc = key_size(l, "embedding_length", &m->n_embd, true, 1, MODEL_MAX_EMBD)) ||
        (rc = key_size(l, "context_length", &m->n_ctx_train, true, 1, MODEL_MAX_CONTEXT)) ||
        (rc = key_size(l, "feed_forward_length", &m->n_ff, !l->arch->must_be_moe, !l->arch->must_be_moe,
                       MODEL_MAX_FF)) ||
        (rc = read_attention(l)) || (rc = read_experts(l)))
        return rc;
    if (m->n_expert && !m->n_ff_expert)
        return err_set(l->e, WEIR_EFORMAT, "%s.expert_feed_forward_length is missing", l->arch->name);
    const struct gguf_tensor *embd = gguf_tensor(l->g, "token_embd.weight");
    if (!embd)
        return err_set(l->e, WEIR_ENOTFOUND, "the model file has no tensor token_embd.weight");
    if (embd->dims[1] < 1 || embd->dims[1] > MODEL_MAX_VOCAB)
        return err_set(l->e, WEIR_EFORMAT, "tensor token_embd.weight has %llu rows; weir supports 1 to %u",
                       (unsigned long long)embd->dims[1], MODEL_MAX_VOCAB);
    m->n_vocab = (uint32_t)embd->dims[1];
    const struct gguf_value *tokens = gguf_find(l->g, "tokenizer.ggml.tokens");
    if (tokens && tokens->type == GGUF_ARRAY && tokens->n_elements > m->n_vocab)
        return err_set(l->e, WEIR_EFORMAT, "the tokenizer has %llu tokens but token_embd.weight only %u rows",
                       (unsigned long long)tokens->n_elements, m->n_vocab);
    return 0;
}

static int load(struct model_loader *l)
{
    int rc = read_shape(l);
    if (rc)
        return rc;
    l->used = mem_array(gguf_n_tensors(l->g), sizeof(struct gguf_tensor *));
    l->m->layers = mem_array(l->m->n_layer, sizeof *l->m->layers);
    if (!l->used || !l->m->layers)
        return err_set(l->e, WEIR_ENOMEM, "no memory for the model's tables");
    if ((rc = model_read_rope(l)))
        return rc;
    return model_bind_tensors(l);
}

int model_open(struct model **out, struct gguf *file, struct err *e)
{
    struct err local = {0};
    struct model *m = mem_array(1, sizeof *m);
    if (!m)
        return err_set(e, WEIR_ENOMEM, "no memory for the model");
    struct model_loader l = {.m = m, .g = file, .e = e ? e : &local};
    int rc = load(&l);
    free(l.used);
    if (rc) {
        model_close(m);
        return rc;
    }
    m->file = file;
    *out = m;
    return 0;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; m->layers && i < m->n_layer; i++) {
        free(m->layers[i].gate_x.parts);
        free(m->layers[i].up_x.parts);
        free(m->layers[i].down_x.parts);
    }
    for (uint32_t i = 0; i < m->n_converted; i++)
        free(m->converted[i]);
    free(m->converted);
    free(m->layers);
    free(m->rope.inv_freq);
    gguf_close(m->file);
    free(m);
}
