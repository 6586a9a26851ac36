#include "base/mem.h"
#include "model/model_load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Each name is asked for once, so used[] cannot overflow. */
static const struct gguf_tensor *use(struct model_loader *l, const char *name)
{
    const struct gguf_tensor *t = gguf_tensor(l->g, name);
    if (t)
        l->used[l->n_used++] = t;
    return t;
}

static int missing_tensor(struct model_loader *l, const char *name)
{
    return err_set(l->e, WEIR_ENOTFOUND, "the model file has no tensor %s, which a %s model needs", name,
                   l->arch->name);
}

static void shape_text(const uint64_t dims[GGUF_MAX_DIMS], char out[96])
{
    int n = GGUF_MAX_DIMS;
    while (n > 1 && dims[n - 1] == 1)
        n--;
    size_t len = (size_t)snprintf(out, 96, "[");
    for (int i = 0; i < n; i++)
        len += (size_t)snprintf(out + len, 96 - len, "%s%llu", i ? ", " : "", (unsigned long long)dims[i]);
    snprintf(out + len, 96 - len, "]");
}

static int check_shape(struct model_loader *l, const struct gguf_tensor *t, uint32_t n_in, uint32_t n_out,
                       uint32_t n_stack)
{
    const uint64_t want[GGUF_MAX_DIMS] = {n_in, n_out, n_stack, 1};
    if (memcmp(t->dims, want, sizeof want)) {
        char has[96], needs[96];
        shape_text(t->dims, has);
        shape_text(want, needs);
        return err_set(l->e, WEIR_EFORMAT, "tensor %s has shape %s, but the model's parameters ask for %s", t->name,
                       has, needs);
    }
    const struct tensor_type_info *info = tensor_type_info(t->type);
    if (!info)
        return err_set(l->e, WEIR_EUNSUPPORTED, "tensor %s has type %s; supported are %s", t->name,
                       tensor_type_name(t->type), tensor_type_supported());
    if (n_in % info->block_elements)
        return err_set(l->e, WEIR_EFORMAT, "tensor %s: rows of %u elements are not whole blocks of %u (%s)", t->name,
                       n_in, info->block_elements, info->name);
    return 0;
}

static void count_bytes(struct model_loader *l, const struct gguf_tensor *t)
{
    l->m->n_params += t->dims[0] * t->dims[1] * t->dims[2];
    l->m->weight_bytes += t->n_bytes;
}

static int bind_stack(struct model_loader *l, const char *name, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                      struct tensor *out)
{
    const struct gguf_tensor *t = use(l, name);
    if (!t)
        return missing_tensor(l, name);
    int rc = check_shape(l, t, n_in, n_out, n_stack);
    if (rc)
        return rc;
    *out = (struct tensor){.type = t->type,
                           .n_in = n_in,
                           .n_out = n_out,
                           .data = t->data,
                           .row_bytes = tensor_type_row_bytes(t->type, n_in)};
    count_bytes(l, t);
    return 0;
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 1023, bits;
    if (exp == 0) {
        float f = (float)frac * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = exp == 31 ? sign | 0x7f800000 | frac << 13 : sign | (exp + 112) << 23 | frac << 13;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void convert_vector(const struct gguf_tensor *t, uint32_t n, float *out)
{
    if (t->type == TENSOR_F32) {
        memcpy(out, t->data, n * sizeof *out);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, t->data + (size_t)i * 2, sizeof h);
        uint32_t bits = (uint32_t)h << 16;
        if (t->type == TENSOR_BF16)
            memcpy(&out[i], &bits, sizeof bits);
        else
            out[i] = half_to_float(h);
    }
}

int model_bind_vector(struct model_loader *l, const char *name, uint32_t n, bool required, const float **out)
{
    *out = NULL;
    const struct gguf_tensor *t = use(l, name);
    if (!t)
        return required ? missing_tensor(l, name) : 0;
    int rc = check_shape(l, t, n, 1, 1);
    if (rc)
        return rc;
    if (t->type != TENSOR_F32 && t->type != TENSOR_F16 && t->type != TENSOR_BF16)
        return err_set(l->e, WEIR_EUNSUPPORTED, "tensor %s has type %s; a vector may be F32, F16 or BF16", name,
                       tensor_type_name(t->type));
    count_bytes(l, t);
    if (t->type == TENSOR_F32 && (uintptr_t)t->data % _Alignof(float) == 0) {
        *out = (const float *)(const void *)t->data;
        return 0;
    }
    struct model *m = l->m;
    void **grown = mem_resize(m->converted, m->n_converted + 1, sizeof *grown);
    if (!grown)
        return err_set(l->e, WEIR_ENOMEM, "no memory for tensor %s", name);
    m->converted = grown;
    float *copy = mem_array(n, sizeof *copy);
    if (!copy)
        return err_set(l->e, WEIR_ENOMEM, "no memory for tensor %s", name);
    m->converted[m->n_converted++] = copy;
    convert_vector(t, n, copy);
    *out = copy;
    return 0;
}

/* The tensors of layer i are called blk.i.<suffix>. */
static void layer_name(uint32_t i, const char *suffix, char out[64])
{
    snprintf(out, 64, "blk.%u.%s", i, suffix);
}

static int bind_matrix(struct model_loader *l, uint32_t i, const char *suffix, uint32_t n_in, uint32_t n_out,
                       struct tensor *out)
{
    char name[64];
    layer_name(i, suffix, name);
    return bind_stack(l, name, n_in, n_out, 1, out);
}

static int bind_layer_vector(struct model_loader *l, uint32_t i, const char *suffix, uint32_t n, bool required,
                             const float **out)
{
    char name[64];
    layer_name(i, suffix, name);
    return model_bind_vector(l, name, n, required, out);
}

/* Experts in one tensor [n_expert, n_out, n_in], or in one each ("ffn_up_exps.weight", "ffn_up.X.weight"). */
static int bind_experts(struct model_loader *l, uint32_t layer, const char *what, uint32_t n_in, uint32_t n_out,
                        struct expert_tensor *out)
{
    uint32_t n = l->m->n_expert;
    char name[64];
    out->parts = mem_array(n, sizeof *out->parts);
    if (!out->parts)
        return err_set(l->e, WEIR_ENOMEM, "no memory for the table of experts");
    snprintf(name, sizeof name, "blk.%u.ffn_%s_exps.weight", layer, what);
    char first[64];
    snprintf(first, sizeof first, "blk.%u.ffn_%s.0.weight", layer, what);
    if (gguf_tensor(l->g, name) || !gguf_tensor(l->g, first)) {
        int rc = bind_stack(l, name, n_in, n_out, n, &out->t);
        for (uint32_t x = 0; !rc && x < n; x++)
            out->parts[x] = out->t.data + (size_t)x * n_out * out->t.row_bytes;
        out->t.n_stack = n;
        return rc;
    }
    for (uint32_t x = 0; x < n; x++) {
        struct tensor t;
        snprintf(name, sizeof name, "blk.%u.ffn_%s.%u.weight", layer, what, x);
        int rc = bind_stack(l, name, n_in, n_out, 1, &t);
        if (rc)
            return rc;
        if (x && t.type != out->t.type)
            return err_set(l->e, WEIR_EUNSUPPORTED, "tensor %s has type %s but expert 0 has %s; weir supports one type",
                           name, tensor_type_name(t.type), tensor_type_name(out->t.type));
        out->t = t;
        out->parts[x] = t.data;
    }
    out->t.data = NULL;
    out->t.n_stack = n;
    return 0;
}

static int bind_attention(struct model_loader *l, uint32_t i, struct layer *y)
{
    const struct model *m = l->m;
    uint32_t n_q = m->n_head * m->head_dim, n_kv = m->n_head_kv * m->head_dim;
    bool bias = l->arch->qkv_bias;
    int rc;
    if ((rc = bind_layer_vector(l, i, "attn_norm.weight", m->n_embd, true, &y->attn_norm)) ||
        (rc = bind_matrix(l, i, "attn_q.weight", m->n_embd, n_q, &y->q)) ||
        (rc = bind_matrix(l, i, "attn_k.weight", m->n_embd, n_kv, &y->k)) ||
        (rc = bind_matrix(l, i, "attn_v.weight", m->n_embd, n_kv, &y->v)) ||
        (rc = bind_matrix(l, i, "attn_output.weight", n_q, m->n_embd, &y->o)) ||
        (rc = bind_layer_vector(l, i, "attn_q.bias", n_q, bias, &y->q_bias)) ||
        (rc = bind_layer_vector(l, i, "attn_k.bias", n_kv, bias, &y->k_bias)) ||
        (rc = bind_layer_vector(l, i, "attn_v.bias", n_kv, bias, &y->v_bias)) ||
        (rc = bind_layer_vector(l, i, "attn_output.bias", m->n_embd, false, &y->o_bias)))
        return rc;
    if (!l->arch->qk_norm)
        return 0;
    if ((rc = bind_layer_vector(l, i, "attn_q_norm.weight", m->head_dim, true, &y->q_norm)))
        return rc;
    return bind_layer_vector(l, i, "attn_k_norm.weight", m->head_dim, true, &y->k_norm);
}

static int bind_feed_forward(struct model_loader *l, uint32_t i, struct layer *y)
{
    const struct model *m = l->m;
    int rc = bind_layer_vector(l, i, "ffn_norm.weight", m->n_embd, true, &y->ffn_norm);
    if (rc)
        return rc;
    y->is_moe = m->n_expert > 0;
    if (!y->is_moe) {
        if ((rc = bind_matrix(l, i, "ffn_gate.weight", m->n_embd, m->n_ff, &y->gate)) ||
            (rc = bind_matrix(l, i, "ffn_up.weight", m->n_embd, m->n_ff, &y->up)))
            return rc;
        return bind_matrix(l, i, "ffn_down.weight", m->n_ff, m->n_embd, &y->down);
    }
    if ((rc = bind_matrix(l, i, "ffn_gate_inp.weight", m->n_embd, m->n_expert, &y->router)) ||
        (rc = bind_experts(l, i, "gate", m->n_embd, m->n_ff_expert, &y->gate_x)) ||
        (rc = bind_experts(l, i, "up", m->n_embd, m->n_ff_expert, &y->up_x)))
        return rc;
    return bind_experts(l, i, "down", m->n_ff_expert, m->n_embd, &y->down_x);
}

static int compare_pointers(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const struct gguf_tensor *const *)a,
              y = (uintptr_t) * (const struct gguf_tensor *const *)b;
    return (x > y) - (x < y);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !memcmp(s + n - k, end, k);
}

/* A tensor that the forward pass does not read would silently change what the model computes. */
static int refuse_unknown(struct model_loader *l)
{
    qsort(l->used, l->n_used, sizeof *l->used, compare_pointers);
    for (uint64_t i = 0; i < gguf_n_tensors(l->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(l->g, i);
        if (bsearch(&t, l->used, l->n_used, sizeof *l->used, compare_pointers))
            continue;
        /* Frequencies that some converters store although they follow from the parameters. */
        if (ends_with(t->name, ".attn_rot_embd.weight") || ends_with(t->name, ".attn_rot_embd") ||
            ends_with(t->name, ".rotary_emb.inv_freq"))
            continue;
        return err_set(l->e, WEIR_EUNSUPPORTED, "tensor %s is not part of a %s model that weir can run", t->name,
                       l->arch->name);
    }
    return 0;
}

int model_bind_tensors(struct model_loader *l)
{
    struct model *m = l->m;
    int rc;
    if ((rc = bind_stack(l, "token_embd.weight", m->n_embd, m->n_vocab, 1, &m->token_embd)) ||
        (rc = model_bind_vector(l, "output_norm.weight", m->n_embd, true, &m->output_norm)))
        return rc;
    m->output_is_tied = !gguf_tensor(l->g, "output.weight");
    if (m->output_is_tied)
        m->output = m->token_embd;
    else if ((rc = bind_stack(l, "output.weight", m->n_embd, m->n_vocab, 1, &m->output)))
        return rc;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        if ((rc = bind_attention(l, i, &m->layers[i])) || (rc = bind_feed_forward(l, i, &m->layers[i])))
            return rc;
    }
    return refuse_unknown(l);
}
