/* model_open: what it reads, and what it refuses with which words. Files are built in memory. */
#include "test.h"

#include "gguf_build.h"
#include "model/forward.h"
#include "model/model.h"

#include <math.h>

#define assert_near(a, b, eps) assert_true(fabs((double)(a) - (double)(b)) <= (eps))

/* A small model's file, with the means to break it: a tensor left out, reshaped, retyped or added; keys replaced. */
struct spec {
    const char *arch;
    uint32_t layers, embd, heads, kv_heads, ff, vocab, experts, expert_ff;
    bool separate_experts, tied, bias;
    const char *omit, *reshape, *extra;
    uint64_t shape[2];      /* of `reshape` */
    uint32_t norm_type;     /* of norm vectors */
    const char *key_omit;   /* suffix */
    const char *key_u32;    /* suffix of a key that is replaced or added ... */
    uint32_t key_u32_value; /* ... and its value */
    const char *key_f32[4]; /* suffixes of float keys to add */
    float key_f32_value[4];
    const char *scaling;     /* rope.scaling.type */
    const float *rope_freqs; /* [head_dim / 2] */
    uint32_t n_tokens;       /* tokenizer's */
};

static struct spec base_spec(void)
{
    return (struct spec){.arch = "llama",
                         .layers = 2,
                         .embd = 64,
                         .heads = 4,
                         .kv_heads = 2,
                         .ff = 96,
                         .vocab = 50,
                         .norm_type = TENSOR_F32};
}

static void put_key(struct gguf_build *g, const struct spec *s, const char *suffix, uint32_t v)
{
    char key[128];
    if (s->key_omit && !strcmp(s->key_omit, suffix))
        return;
    if (s->key_u32 && !strcmp(s->key_u32, suffix))
        return;
    snprintf(key, sizeof key, "%s.%s", s->arch, suffix);
    gguf_build_u32(g, key, v);
}

static void put_tensor(struct gguf_build *g, const struct spec *s, const char *name, uint32_t type, uint64_t n_in,
                       uint64_t n_out, uint64_t n_stack)
{
    uint64_t dims[3] = {n_in, n_out, n_stack};
    if (s->omit && !strcmp(s->omit, name))
        return;
    if (s->reshape && !strcmp(s->reshape, name))
        memcpy(dims, s->shape, sizeof s->shape);
    size_t bytes = (size_t)(dims[0] * dims[1] * dims[2]) * (type == TENSOR_F32 ? 4 : 2);
    uint32_t n_dims = n_stack > 1 ? 3 : n_out > 1 ? 2 : 1;
    /* 1.0 everywhere */
    unsigned char *data = malloc(bytes ? bytes : 1);
    const float one = 1;
    const uint16_t half = type == TENSOR_BF16 ? 0x3f80 : 0x3c00;
    for (size_t i = 0; i < bytes; i += type == TENSOR_F32 ? 4 : 2)
        memcpy(data + i, type == TENSOR_F32 ? (const void *)&one : (const void *)&half, type == TENSOR_F32 ? 4 : 2);
    gguf_build_tensor(g, name, type, n_dims, dims, data, bytes);
    free(data);
}

static void put_layer_tensor(struct gguf_build *g, const struct spec *s, uint32_t i, const char *suffix, uint32_t type,
                             uint64_t n_in, uint64_t n_out, uint64_t n_stack)
{
    char name[128];
    snprintf(name, sizeof name, "blk.%u.%s", i, suffix);
    put_tensor(g, s, name, type, n_in, n_out, n_stack);
}

static void put_experts(struct gguf_build *g, const struct spec *s, uint32_t i, const char *what, uint64_t n_in,
                        uint64_t n_out)
{
    char suffix[64];
    snprintf(suffix, sizeof suffix, "ffn_%s_exps.weight", what);
    if (!s->separate_experts)
        put_layer_tensor(g, s, i, suffix, TENSOR_F32, n_in, n_out, s->experts);
    for (uint32_t x = 0; s->separate_experts && x < s->experts; x++) {
        snprintf(suffix, sizeof suffix, "ffn_%s.%u.weight", what, x);
        put_layer_tensor(g, s, i, suffix, TENSOR_F32, n_in, n_out, 1);
    }
}

static void put_layer(struct gguf_build *g, const struct spec *s, uint32_t i)
{
    uint64_t head_dim = s->embd / s->heads, n_kv = head_dim * s->kv_heads;
    put_layer_tensor(g, s, i, "attn_norm.weight", s->norm_type, s->embd, 1, 1);
    put_layer_tensor(g, s, i, "attn_q.weight", TENSOR_F32, s->embd, s->embd, 1);
    put_layer_tensor(g, s, i, "attn_k.weight", TENSOR_F32, s->embd, n_kv, 1);
    put_layer_tensor(g, s, i, "attn_v.weight", TENSOR_F32, s->embd, n_kv, 1);
    put_layer_tensor(g, s, i, "attn_output.weight", TENSOR_F32, s->embd, s->embd, 1);
    if (s->bias) {
        put_layer_tensor(g, s, i, "attn_q.bias", TENSOR_F32, s->embd, 1, 1);
        put_layer_tensor(g, s, i, "attn_k.bias", TENSOR_F32, n_kv, 1, 1);
        put_layer_tensor(g, s, i, "attn_v.bias", TENSOR_F32, n_kv, 1, 1);
    }
    if (!strncmp(s->arch, "qwen3", 5)) {
        put_layer_tensor(g, s, i, "attn_q_norm.weight", s->norm_type, head_dim, 1, 1);
        put_layer_tensor(g, s, i, "attn_k_norm.weight", s->norm_type, head_dim, 1, 1);
    }
    put_layer_tensor(g, s, i, "ffn_norm.weight", s->norm_type, s->embd, 1, 1);
    if (s->experts) {
        put_layer_tensor(g, s, i, "ffn_gate_inp.weight", TENSOR_F32, s->embd, s->experts, 1);
        put_experts(g, s, i, "gate", s->embd, s->expert_ff);
        put_experts(g, s, i, "up", s->embd, s->expert_ff);
        put_experts(g, s, i, "down", s->expert_ff, s->embd);
        return;
    }
    put_layer_tensor(g, s, i, "ffn_gate.weight", TENSOR_F32, s->embd, s->ff, 1);
    put_layer_tensor(g, s, i, "ffn_up.weight", TENSOR_F32, s->embd, s->ff, 1);
    put_layer_tensor(g, s, i, "ffn_down.weight", TENSOR_F32, s->ff, s->embd, 1);
}

static void put_metadata(struct gguf_build *g, const struct spec *s)
{
    char key[128];
    gguf_build_str(g, "general.architecture", s->arch);
    gguf_build_str(g, "general.name", "test model");
    put_key(g, s, "block_count", s->layers);
    put_key(g, s, "context_length", 512);
    put_key(g, s, "embedding_length", s->embd);
    put_key(g, s, "feed_forward_length", s->ff);
    put_key(g, s, "attention.head_count", s->heads);
    put_key(g, s, "attention.head_count_kv", s->kv_heads);
    if (s->experts) {
        put_key(g, s, "expert_count", s->experts);
        put_key(g, s, "expert_used_count", 2);
        put_key(g, s, "expert_feed_forward_length", s->expert_ff);
    }
    if (s->key_u32) {
        snprintf(key, sizeof key, "%s.%s", s->arch, s->key_u32);
        gguf_build_u32(g, key, s->key_u32_value);
    }
    bool eps_given = false;
    for (int i = 0; i < 4 && s->key_f32[i]; i++) {
        eps_given |= !strcmp(s->key_f32[i], "attention.layer_norm_rms_epsilon");
        snprintf(key, sizeof key, "%s.%s", s->arch, s->key_f32[i]);
        gguf_build_f32(g, key, s->key_f32_value[i]);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", s->arch);
    if (!eps_given && !(s->key_omit && !strcmp(s->key_omit, "attention.layer_norm_rms_epsilon")))
        gguf_build_f32(g, key, 1e-5f);
    snprintf(key, sizeof key, "%s.rope.scaling.type", s->arch);
    if (s->scaling)
        gguf_build_str(g, key, s->scaling);
    if (s->n_tokens) {
        const char **names = calloc(s->n_tokens, sizeof *names);
        for (uint32_t i = 0; i < s->n_tokens; i++)
            names[i] = "t";
        gguf_build_array_str(g, "tokenizer.ggml.tokens", names, s->n_tokens);
        free(names);
    }
}

/* model_open over the built file; the caller frees *file after model_close. */
static int open_spec(const struct spec *s, struct model **m, void **file, struct err *e)
{
    struct gguf_build g;
    gguf_build_init(&g);
    put_metadata(&g, s);
    put_tensor(&g, s, "token_embd.weight", TENSOR_F32, s->embd, s->vocab, 1);
    put_tensor(&g, s, "output_norm.weight", s->norm_type, s->embd, 1, 1);
    if (!s->tied)
        put_tensor(&g, s, "output.weight", TENSOR_F32, s->embd, s->vocab, 1);
    if (s->extra)
        put_tensor(&g, s, s->extra, TENSOR_F32, 8, 1, 1);
    uint64_t n_freqs = s->embd / s->heads / 2;
    if (s->rope_freqs)
        gguf_build_tensor(&g, "rope_freqs.weight", TENSOR_F32, 1, &n_freqs, s->rope_freqs, n_freqs * 4);
    for (uint32_t i = 0; i < s->layers; i++)
        put_layer(&g, s, i);
    size_t n;
    *file = gguf_build_finish(&g, &n);
    struct gguf *gguf = NULL;
    int rc = gguf_open_memory(&gguf, *file, n, e);
    if (rc)
        fail_msg("gguf_open_memory: %s", e->msg);
    rc = model_open(m, gguf, e);
    if (rc)
        gguf_close(gguf);
    return rc;
}

static struct model *open_good(const struct spec *s, void **file)
{
    struct err e = {0};
    struct model *m = NULL;
    if (open_spec(s, &m, file, &e))
        fail_msg("refused: %s", e.msg);
    return m;
}

static void expect_refusal(const struct spec *s, int code, const char *words)
{
    struct err e = {0};
    struct model *m = NULL;
    void *file;
    int rc = open_spec(s, &m, &file, &e);
    if (rc != code || !strstr(e.msg, words))
        fail_msg("expected %s with \"%s\", got %s: %s", err_name(code), words, rc ? err_name(rc) : "success", e.msg);
    assert_null(m);
    free(file);
}

static void test_dense(void **state)
{
    (void)state;
    struct spec s = base_spec();
    void *file;
    struct model *m = open_good(&s, &file);
    assert_int_equal(m->arch, ARCH_LLAMA);
    assert_string_equal(m->name, "test model");
    assert_int_equal(m->n_layer, 2);
    assert_int_equal(m->head_dim, 16);
    assert_int_equal(m->n_head_kv, 2);
    assert_int_equal(m->n_vocab, 50);
    assert_int_equal(m->n_ctx_train, 512);
    assert_int_equal(m->sliding_window, 0);
    assert_int_equal(m->rope.layout, ROPE_ADJACENT);
    assert_false(m->output_is_tied);
    assert_near(m->attn_scale, 0.25, 1e-7);
    assert_near(m->rope.inv_freq[3], pow(10000, -6.0 / 16), 1e-7);
    assert_near(m->rope.magnitude, 1, 0);
    assert_int_equal(m->layers[1].k.n_out, 32);
    assert_int_equal(m->layers[1].down.n_in, 96);
    assert_near(m->layers[0].ffn_norm[63], 1, 0);
    uint64_t layer = 64 * 2 + 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96;
    assert_int_equal(m->n_params, 2 * 50 * 64 + 64 + 2 * layer);
    assert_int_equal(m->weight_bytes, 4 * m->n_params);

    struct forward *f = NULL;
    assert_int_equal(forward_create(&f, m, NULL), 0);
    const enum forward_op_kind want[] = {OP_EMBED, OP_QKV,       OP_ATTENTION, OP_ATTN_OUT, OP_FFN,
                                         OP_QKV,   OP_ATTENTION, OP_ATTN_OUT,  OP_FFN,      OP_LOGITS};
    assert_int_equal(f->n_ops, sizeof want / sizeof *want);
    for (uint32_t i = 0; i < f->n_ops; i++)
        assert_int_equal(f->ops[i].kind, want[i]);
    assert_int_equal(f->ops[5].layer, 1);
    forward_destroy(f);
    model_close(m);
    free(file);
}

static void test_variants(void **state)
{
    (void)state;
    void *file;
    struct spec s = base_spec();
    s.tied = true;
    struct model *m = open_good(&s, &file);
    assert_true(m->output_is_tied);
    assert_ptr_equal(m->output.data, m->token_embd.data);
    uint64_t layer = 64 * 2 + 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96;
    assert_int_equal(m->n_params, 50 * 64 + 64 + 2 * layer);
    model_close(m);
    free(file);

    s = base_spec();
    s.arch = "qwen2";
    s.bias = true;
    s.norm_type = TENSOR_BF16;
    m = open_good(&s, &file);
    assert_int_equal(m->rope.layout, ROPE_HALVES);
    assert_non_null(m->layers[1].v_bias);
    assert_near(m->layers[1].attn_norm[5], 1, 0);
    assert_int_equal(m->n_converted, 5);
    model_close(m);
    free(file);

    s = base_spec();
    s.arch = "qwen3";
    s.norm_type = TENSOR_F16;
    m = open_good(&s, &file);
    assert_near(m->layers[0].q_norm[15], 1, 0);
    model_close(m);
    free(file);
}

static void test_experts(void **state)
{
    (void)state;
    for (int separate = 0; separate < 2; separate++) {
        void *file;
        struct spec s = base_spec();
        s.experts = 3;
        s.expert_ff = 32;
        s.separate_experts = separate;
        struct model *m = open_good(&s, &file);
        const struct layer *y = &m->layers[1];
        assert_true(y->is_moe);
        assert_int_equal(m->n_expert_used, 2);
        assert_true(m->expert_weights_normalised);
        assert_near(m->expert_weights_scale, 1, 0);
        assert_int_equal(y->down_x.t.n_in, 32);
        assert_int_equal(y->down_x.t.n_stack, 3);
        for (uint32_t x = 1; x < 3; x++)
            assert_true(y->up_x.parts[x] >= y->up_x.parts[x - 1] + 64 * 32 * 4);
        assert_int_equal(y->up_x.t.data == NULL, separate);
        model_close(m);
        free(file);
    }
    struct spec s = base_spec();
    s.arch = "qwen3moe";
    expect_refusal(&s, WEIR_ENOTFOUND, "qwen3moe.expert_count");
    s = base_spec();
    s.arch = "qwen3";
    s.experts = 3;
    s.expert_ff = 32;
    expect_refusal(&s, WEIR_EUNSUPPORTED, "qwen3 without experts only");
    s = base_spec();
    s.experts = 3;
    s.expert_ff = 32;
    s.key_u32 = "expert_used_count";
    s.key_u32_value = 4;
    expect_refusal(&s, WEIR_EFORMAT, "llama.expert_used_count is 4");
    s.key_u32 = "expert_gating_func";
    s.key_u32_value = 2;
    expect_refusal(&s, WEIR_EUNSUPPORTED, "expert_gating_func");
    s.key_u32 = NULL;
    s.separate_experts = true;
    s.omit = "blk.1.ffn_up.2.weight";
    expect_refusal(&s, WEIR_ENOTFOUND, "blk.1.ffn_up.2.weight");
}

static void test_refused_architecture(void **state)
{
    (void)state;
    struct spec s = base_spec();
    s.arch = "gpt2";
    expect_refusal(&s, WEIR_EUNSUPPORTED,
                   "unknown model architecture \"gpt2\"; supported are llama, qwen2, qwen3, qwen3moe");
}

static void test_refused_tensors(void **state)
{
    (void)state;
    static const char *const needed[] = {"token_embd.weight",     "output_norm.weight",       "blk.0.attn_norm.weight",
                                         "blk.1.attn_q.weight",   "blk.0.attn_k.weight",      "blk.1.attn_v.weight",
                                         "blk.1.ffn_norm.weight", "blk.0.attn_output.weight", "blk.1.ffn_gate.weight",
                                         "blk.0.ffn_up.weight",   "blk.1.ffn_down.weight"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        struct spec s = base_spec();
        s.omit = needed[i];
        expect_refusal(&s, WEIR_ENOTFOUND, needed[i]);
    }
    static const struct {
        const char *name;
        uint64_t shape[2];
        const char *words;
    } shapes[] = {
        {"blk.1.attn_q.weight", {64, 32}, "tensor blk.1.attn_q.weight has shape [64, 32], but"},
        {"blk.0.ffn_down.weight", {64, 96}, "ask for [96, 64]"},
        {"blk.0.attn_norm.weight", {63, 1}, "ask for [64]"},
        {"token_embd.weight", {32, 50}, "ask for [64, 50]"},
        {"output.weight", {64, 49}, "tensor output.weight has shape [64, 49]"},
        {"output_norm.weight", {128, 1}, "output_norm.weight has shape [128]"},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct spec s = base_spec();
        s.reshape = shapes[i].name;
        memcpy(s.shape, shapes[i].shape, sizeof s.shape);
        expect_refusal(&s, WEIR_EFORMAT, shapes[i].words);
    }
    struct spec s = base_spec();
    s.extra = "blk.0.ffn_gate.bias";
    expect_refusal(&s, WEIR_EUNSUPPORTED, "tensor blk.0.ffn_gate.bias is not part of a llama model");
    s.extra = "blk.0.attn_rot_embd.weight"; /* follows from the parameters: may be there */
    void *file;
    model_close(open_good(&s, &file));
    free(file);
    s = base_spec();
    s.arch = "qwen2";
    expect_refusal(&s, WEIR_ENOTFOUND, "blk.0.attn_q.bias, which a qwen2 model needs");
    s = base_spec();
    s.n_tokens = 51;
    expect_refusal(&s, WEIR_EFORMAT, "the tokenizer has 51 tokens but token_embd.weight only 50 rows");
}

static void test_refused_parameters(void **state)
{
    (void)state;
    static const char *const needed[] = {"block_count",          "context_length",
                                         "embedding_length",     "feed_forward_length",
                                         "attention.head_count", "attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        struct spec s = base_spec();
        s.key_omit = needed[i];
        expect_refusal(&s, WEIR_ENOTFOUND, needed[i]);
    }
    static const struct {
        const char *key;
        uint32_t value;
        int code;
        const char *words;
    } bad[] = {
        {"block_count", 0, WEIR_EFORMAT, "llama.block_count is 0"},
        {"block_count", 4000000000u, WEIR_EFORMAT, "weir supports 1 to 1024"},
        {"block_count", 3, WEIR_ENOTFOUND, "blk.2.attn_norm.weight"},
        {"block_count", 1, WEIR_EUNSUPPORTED, "blk.1."},
        {"embedding_length", 0, WEIR_EFORMAT, "embedding_length is 0"},
        {"embedding_length", UINT32_MAX, WEIR_EFORMAT, "embedding_length"},
        {"embedding_length", 128, WEIR_EFORMAT, "token_embd.weight has shape [64, 50]"},
        {"feed_forward_length", 1u << 30, WEIR_EFORMAT, "feed_forward_length"},
        {"context_length", UINT32_MAX, WEIR_EFORMAT, "context_length"},
        {"attention.head_count", 0, WEIR_EFORMAT, "head_count is 0"},
        {"attention.head_count", 65536, WEIR_EFORMAT, "head_count is 65536"},
        {"attention.head_count_kv", 3, WEIR_EFORMAT, "4 attention heads are not a multiple of 3"},
        {"attention.head_count_kv", 0, WEIR_EFORMAT, "head_count_kv is 0"},
        {"attention.key_length", 15, WEIR_EUNSUPPORTED, "odd"},
        {"attention.key_length", 100000, WEIR_EFORMAT, "key_length is 100000"},
        {"attention.value_length", 8, WEIR_EUNSUPPORTED, "keys of 16 and values of 8"},
        {"rope.dimension_count", 15, WEIR_EFORMAT, "rope.dimension_count is 15"},
        {"rope.dimension_count", 0, WEIR_EFORMAT, "rope.dimension_count is 0"},
        {"rope.dimension_count", 18, WEIR_EFORMAT, "at most the head's 16"},
        {"expert_count", 2000, WEIR_EFORMAT, "expert_count is 2000"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct spec s = base_spec();
        s.key_u32 = bad[i].key;
        s.key_u32_value = bad[i].value;
        expect_refusal(&s, bad[i].code, bad[i].words);
    }
    static const struct {
        const char *key;
        float value;
        const char *words;
    } floats[] = {
        {"attention.layer_norm_rms_epsilon", NAN, "not a finite number"},
        {"attention.layer_norm_rms_epsilon", 0, "must be in (0, 1]"},
        {"rope.freq_base", 1, "must be over 1"},
        {"rope.freq_base", INFINITY, "not a finite number"},
        {"rope.scaling.factor", -2, "no scaling factor"},
    };
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        struct spec s = base_spec();
        s.key_f32[0] = floats[i].key;
        s.key_f32_value[0] = floats[i].value;
        expect_refusal(&s, WEIR_EFORMAT, floats[i].words);
    }
}

static void test_rope(void **state)
{
    (void)state;
    void *file;
    struct spec s = base_spec();
    s.scaling = "linear";
    s.key_f32[0] = "rope.scaling.factor";
    s.key_f32_value[0] = 4;
    s.key_f32[1] = "rope.freq_base";
    s.key_f32_value[1] = 500000;
    struct model *m = open_good(&s, &file);
    for (uint32_t i = 0; i < 8; i++)
        assert_near(m->rope.inv_freq[i] * pow(500000, 2.0 * i / 16) * 4, 1, 1e-6);
    model_close(m);
    free(file);

    s = base_spec();
    s.key_f32[0] = "rope.scale_linear";
    s.key_f32_value[0] = 2;
    m = open_good(&s, &file);
    assert_near(m->rope.inv_freq[0], 0.5, 1e-7);
    model_close(m);
    free(file);

    /* YaRN, base 10000, original context 512, 8 pairs: turns of pair i in the context are 512 / 2 pi / 10^(i/2). The
     * ramp runs from floor(log10(512 / 2 pi / 32) * 2) = 0 to ceil(log10(512 / 2 pi) * 2) = 4. */
    s = base_spec();
    s.scaling = "yarn";
    s.key_f32[0] = "rope.scaling.factor";
    s.key_f32_value[0] = 8;
    m = open_good(&s, &file);
    for (uint32_t i = 0; i < 8; i++) {
        double keep = 1 - fmin(1, i / 4.0), freq = pow(10, -(double)i / 2);
        assert_near(m->rope.inv_freq[i] / (freq * keep + freq / 8 * (1 - keep)), 1, 1e-6);
    }
    assert_near(m->rope.magnitude, 1 + 0.1 * log(8), 1e-6);
    model_close(m);
    free(file);

    const float factors[8] = {1, 1, 1, 2, 4, 8, 8, 8};
    s = base_spec();
    s.rope_freqs = factors;
    m = open_good(&s, &file);
    for (uint32_t i = 0; i < 8; i++)
        assert_near(m->rope.inv_freq[i] * factors[i] * pow(10, (double)i / 2), 1, 1e-6);
    model_close(m);
    free(file);

    const float broken[8] = {1, 1, 0, 1, 1, 1, 1, 1};
    s.rope_freqs = broken;
    expect_refusal(&s, WEIR_EFORMAT, "rope_freqs.weight: element 2 is not positive");
    s = base_spec();
    s.scaling = "longrope";
    expect_refusal(&s, WEIR_EUNSUPPORTED, "unknown rope scaling \"longrope\"; supported are none, linear, yarn");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_refused_architecture),
        cmocka_unit_test(test_refused_tensors),
        cmocka_unit_test(test_refused_parameters),
        cmocka_unit_test(test_rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
