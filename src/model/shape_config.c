/* Shapes from config.json, as Hugging Face transformers writes it. */
#include "model/shape_matrices.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Kinds whose layers are made otherwise: their bytes would come out wrong. */
static const char *const other_kinds[] = {"gpt2",   "gpt_neox",     "gptj",  "opt",   "falcon", "bloom",  "mpt",
                                          "phi",    "mamba",        "rwkv",  "jamba", "mamba2", "bert",   "t5",
                                          "zamba2", "falcon_mamba", "bamba", "clip",  "dbrx",   "gemma3n"};

struct reader {
    const json_t *in, *outer;
    const char *name;
    struct err *e;
    int rc;
};

static const json_t *find(const struct reader *r, const char *key)
{
    const json_t *v = json_object_get(r->in, key);
    if (!v || json_is_null(v))
        v = json_object_get(r->outer, key);
    return v && !json_is_null(v) ? v : NULL;
}

/* The first of the keys (a list ending in NULL) that is there; fallback if none is. */
static uint32_t number(struct reader *r, uint32_t fallback, const char *const *keys)
{
    for (; *keys; keys++) {
        const json_t *v = find(r, *keys);
        if (!v)
            continue;
        json_int_t x = json_integer_value(v);
        if (!json_is_integer(v) || x < 0 || x > 1 << 24) {
            if (!r->rc)
                r->rc =
                    err_set(r->e, WEIR_EFORMAT, "%s: %s is not a whole number from 0 to %d", r->name, *keys, 1 << 24);
            return fallback;
        }
        return (uint32_t)x;
    }
    return fallback;
}
#define NUMBER(r, fallback, ...) number(r, fallback, (const char *const[]){__VA_ARGS__, NULL})

static uint32_t required(struct reader *r, const char *key)
{
    if (!find(r, key) && !r->rc)
        r->rc =
            err_set(r->e, WEIR_EFORMAT, "%s: %s is missing; is it the config.json of a language model?", r->name, key);
    return NUMBER(r, 0, key);
}

static bool flag(const struct reader *r, const char *key, bool fallback)
{
    const json_t *v = find(r, key);
    return v && json_is_boolean(v) ? json_is_true(v) : fallback;
}

static void read_window(struct reader *r, struct shape *s)
{
    s->sliding_window = NUMBER(r, 0, "sliding_window");
    if (!s->sliding_window || !flag(r, "use_sliding_window", true)) {
        s->sliding_window = 0;
        return;
    }
    const json_t *types = find(r, "layer_types");
    uint32_t pattern = NUMBER(r, 0, "sliding_window_pattern", "_sliding_window_pattern");
    if (json_is_array(types)) {
        size_t i;
        json_t *t;
        json_array_foreach(types, i, t)
        {
            const char *kind = json_string_value(t);
            s->n_layer_window += kind && !strcmp(kind, "sliding_attention");
        }
    } else if (pattern > 0) {
        s->n_layer_window = s->n_layer - s->n_layer / pattern; /* every pattern-th layer sees all */
    } else if (!strncmp(s->arch, "gemma2", 6) || !strcmp(s->arch, "gpt_oss")) {
        s->n_layer_window = (s->n_layer + 1) / 2;
    } else if (!strncmp(s->arch, "gemma3", 6)) {
        s->n_layer_window = s->n_layer - s->n_layer / 6;
    } else if (!strncmp(s->arch, "qwen", 4)) {
        uint32_t first = NUMBER(r, 0, "max_window_layers");
        s->n_layer_window = first < s->n_layer ? s->n_layer - first : 0;
    } else {
        s->n_layer_window = s->n_layer;
    }
    if (!s->n_layer_window)
        s->sliding_window = 0;
}

static void read_experts(struct reader *r, struct shape *s)
{
    s->n_expert = NUMBER(r, 0, "num_local_experts", "num_experts", "n_routed_experts");
    if (!s->n_expert)
        return;
    s->n_expert_used = NUMBER(r, 0, "num_experts_per_tok", "num_experts_per_token", "experts_per_token");
    s->n_ff_expert = NUMBER(r, s->n_ff, "moe_intermediate_size");
    s->n_ff_shared = NUMBER(r, 0, "shared_expert_intermediate_size", "shared_intermediate_size");
    uint32_t n_shared = NUMBER(r, 0, "n_shared_experts");
    if (n_shared && n_shared <= 1024 && s->n_ff_expert <= 1u << 20)
        s->n_ff_shared = n_shared * s->n_ff_expert;
    s->n_layer_dense = NUMBER(r, 0, "first_k_dense_replace");
    s->expert_bias = !strcmp(s->arch, "gpt_oss");
}

static void read_attention(struct reader *r, struct shape *s)
{
    bool qwen2 = !strncmp(s->arch, "qwen2", 5), bias = flag(r, "attention_bias", false);
    s->n_head = required(r, "num_attention_heads");
    s->n_head_kv = NUMBER(r, s->n_head, "num_key_value_heads", "multi_query_group_num");
    s->head_dim = NUMBER(r, s->n_head ? s->n_embd / s->n_head : 0, "head_dim");
    s->qkv_bias = qwen2 || bias;
    s->o_bias = bias;
    s->qk_norm = !strncmp(s->arch, "qwen3", 5) || !strncmp(s->arch, "gemma3", 6);
    s->post_norm = !strncmp(s->arch, "gemma2", 6) || !strncmp(s->arch, "gemma3", 6);
    s->kv_lora = NUMBER(r, 0, "kv_lora_rank");
    if (s->kv_lora) {
        s->q_lora = NUMBER(r, 0, "q_lora_rank");
        s->rope_dim = required(r, "qk_rope_head_dim");
        s->nope_dim = required(r, "qk_nope_head_dim");
        s->v_dim = required(r, "v_head_dim");
        s->head_dim = s->v_dim;
    }
}

static int read_shape(struct reader *r, struct shape *s)
{
    const char *kind = json_string_value(find(r, "model_type"));
    snprintf(s->arch, sizeof s->arch, "%s", kind ? kind : "");
    if (!kind)
        return err_set(r->e, WEIR_EFORMAT, "%s: model_type is missing; is it the config.json of a model?", r->name);
    for (size_t i = 0; i < sizeof other_kinds / sizeof *other_kinds; i++) {
        if (!strcmp(kind, other_kinds[i]))
            return err_set(r->e, WEIR_EUNSUPPORTED,
                           "%s: models of type %s are built of other layers than the gated transformers that weir "
                           "counts (llama, mistral, mixtral, qwen2, qwen3, gemma, deepseek, gpt_oss, ...)",
                           r->name, kind);
    }
    s->n_layer = required(r, "num_hidden_layers");
    s->n_embd = required(r, "hidden_size");
    s->n_vocab = required(r, "vocab_size");
    s->n_ctx = NUMBER(r, 0, "max_position_embeddings");
    s->n_ff = NUMBER(r, 0, "intermediate_size");
    s->tied = flag(r, "tie_word_embeddings", !strncmp(kind, "gemma", 5));
    read_attention(r, s);
    read_experts(r, s);
    if (!r->rc)
        read_window(r, s);
    return r->rc ? r->rc : shape_check(s, r->e);
}

int shape_from_config(struct shape *s, const char *json, size_t n, const char *name, struct err *e)
{
    *s = (struct shape){0};
    json_error_t je;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(e, WEIR_EFORMAT, "%s: not a JSON object (line %d: %s)", name, je.line, je.text);
    }
    const json_t *text = json_object_get(root, "text_config");
    struct reader r = {.in = json_is_object(text) ? text : root, .outer = root, .name = name, .e = e};
    const char *own = json_string_value(json_object_get(root, "name"));
    snprintf(s->name, sizeof s->name, "%s", own ? own : name);
    int rc = read_shape(&r, s);
    json_decref(root);
    return rc;
}
