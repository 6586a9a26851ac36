#include "base/suggest.h"
#include "model/shape.h"

#include "test.h"

#include <math.h>

static void open_preset(struct shape *s, const char *name)
{
    struct err e = {0};
    if (shape_open(s, name, &e))
        fail_msg("%s: %s", name, e.msg);
}

/* The published counts of parameters: sums over the checkpoints' tensors. */
static void test_published_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double params;
    } published[] = {
        {"llama-2-7b", 6738415616},    {"llama-2-13b", 13015864320},    {"llama-2-70b", 68976648192},
        {"llama-3.1-8b", 8030261248},  {"llama-3.1-70b", 70553706496},  {"llama-3.1-405b", 405853388800},
        {"llama-3.2-1b", 1235814400},  {"llama-3.2-3b", 3212749824},    {"mistral-7b", 7241732096},
        {"qwen2.5-7b", 7615616512},    {"qwen2.5-32b", 32763876352},    {"qwen2.5-72b", 72706203648},
        {"qwen3-8b", 8190735360},      {"qwen3-30b-a3b", 30532122624},  {"mixtral-8x7b", 46702792704},
        {"qwen3-32b", 32762123264},    {"mixtral-8x22b", 140620634112}, {"qwen3-235b-a22b", 235093634560},
        {"deepseek-v3", 671026419200}, {"gpt-oss-20b", 20914757184},    {"gpt-oss-120b", 116829156672},
        {"gemma-3-27b", 27009346304},
    };
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        struct shape s;
        open_preset(&s, published[i].name);
        if (shape_params(&s) != published[i].params)
            fail_msg("%s: %.0f parameters", published[i].name, shape_params(&s));
    }
}

static void test_every_preset_opens(void **state)
{
    (void)state;
    unsigned n = 0;
    for (const char *name; (name = shape_preset_name(n)); n++) {
        struct shape s;
        struct traffic_model t;
        struct err e = {0};
        open_preset(&s, name);
        assert_true(s.n_ctx > 0 && s.name[0]);
        for (unsigned w = 0; shape_weight_format(w); w++) {
            assert_int_equal(shape_traffic(&s, shape_weight_format(w), "q8_0", &t, &e), 0);
            double bits = 8 * traffic_resident_weight_bytes(&t) / shape_params(&s);
            assert_true(bits > 2.2 && bits < 32.1);
            assert_true(t.row_params + t.expert_params < shape_params(&s));
        }
    }
    assert_true(n >= 20);
}

/* 70B at 16 bits, and the cache of a 4k context: the worked example of the memory wall. */
static void test_memory_wall(void **state)
{
    (void)state;
    struct shape s, mha;
    struct traffic_model t, m;
    struct err e = {0};
    open_preset(&s, "Llama-2-70B");
    open_preset(&mha, "mha_70b");
    assert_int_equal(shape_traffic(&s, "f16", "f16", &t, &e), 0);
    assert_int_equal(shape_traffic(&mha, "f16", "f16", &m, &e), 0);
    /* 70B at FP16 is 140 GB (68.98e9 parameters: 138 GB; vectors are kept in F32) */
    assert_true(fabs(traffic_resident_weight_bytes(&t) - 2 * 68976648192.0) < 3e6);
    assert_true(fabs(traffic_resident_weight_bytes(&t) / 140e9 - 1) < 0.02);
    assert_true(traffic_resident_weight_bytes(&t) > 80e9);
    /* 2 * 80 layers * 8 heads * 128 * 2 bytes: 320 KiB a token, 1.25 GiB for 4096; eight times that with MHA */
    assert_true(traffic_kv_bytes(&t, 1) == 327680);
    assert_true(traffic_kv_bytes(&t, 4096) == 1342177280.0);
    assert_true(traffic_kv_bytes(&m, 4096) == 8 * 1342177280.0);
    /* one token of a step without context reads all of it but the embedding: ~21 tokens/s at 3 TB/s */
    struct traffic_load l = {0};
    struct traffic_cost c;
    traffic_add(&l, &t, 0, 1, 0, 1);
    traffic_cost(&t, &l, &c);
    assert_true(fabs(3e12 / c.weight_bytes - 21.8) < 0.1);
}

static void test_latent_attention(void **state)
{
    (void)state;
    struct shape s;
    struct traffic_model t;
    open_preset(&s, "deepseek-v3");
    assert_int_equal(shape_traffic(&s, "fp8", "bf16", &t, NULL), 0);
    assert_true(traffic_kv_bytes(&t, 1) == 61 * (512 + 64) * 2.0);
    assert_true(fabs(shape_active_params(&s) / 37.5e9 - 1) < 0.02); /* "37B activated", with both embeddings 38B */
}

static void test_sliding_windows(void **state)
{
    (void)state;
    struct shape s;
    open_preset(&s, "mistral-7b");
    assert_int_equal(s.n_layer_window, 32);
    assert_int_equal(s.sliding_window, 4096);
    open_preset(&s, "gemma-3-27b");
    assert_int_equal(s.n_layer_window, 52);
    open_preset(&s, "gpt-oss-20b");
    assert_int_equal(s.n_layer_window, 12);
    open_preset(&s, "qwen2.5-7b");
    assert_int_equal(s.n_layer_window, 0);
    struct traffic_model t;
    open_preset(&s, "mistral-7b");
    assert_int_equal(shape_traffic(&s, NULL, NULL, &t, NULL), 0);
    assert_true(traffic_decode_kv_bytes(&t, 4095) == traffic_decode_kv_bytes(&t, 30000));
}

/* Files made by other code (tests/golden): what is computed from the shape against their tensor tables. */
static void test_formats_against_files(void **state)
{
    (void)state;
    static const struct {
        const char *file, *format;
    } golden[] = {
        {"llama2", "f32"},           {"llama3", "f32"},          {"mistral-window", "f32"}, {"mixtral", "f32"},
        {"mixtral-separate", "f32"}, {"qwen2", "f32"},           {"qwen3", "f32"},          {"qwen3moe", "f32"},
        {"llama-bias", "f32"},       {"mixtral-q8_0", "q8_0"},   {"qwen2-q8_0", "q8_0"},    {"type-bf16", "bf16"},
        {"type-f16", "f16"},         {"type-q8_0", "q8_0"},      {"type-q6_k", "q6_k"},     {"type-q5_k", "q5_k"},
        {"type-q4_k", "q4_k"},       {"mixed-q4_k_m", "q4_k_m"}, {"qwen3moe-q4_k", "q4_k"}, {"qwen2-q4_k", "q4_k"},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        char path[256];
        snprintf(path, sizeof path, "tests/golden/%s.gguf", golden[i].file);
        struct shape s;
        struct err e = {0};
        if (shape_open(&s, path, &e))
            fail_msg("%s", e.msg);
        struct traffic_model file, computed;
        assert_true(s.exact);
        assert_int_equal(shape_traffic(&s, NULL, "f16", &file, &e), 0);
        s.exact = false;
        assert_int_equal(shape_traffic(&s, golden[i].format, "f16", &computed, &e), 0);
        double a = traffic_resident_weight_bytes(&file), b = traffic_resident_weight_bytes(&computed);
        if (fabs(a / b - 1) > 0.0002)
            fail_msg("%s: %.0f bytes in the file, %.0f computed", golden[i].file, a, b);
        assert_true(file.attention_bytes == computed.attention_bytes && file.ffn_bytes == computed.ffn_bytes);
        assert_true(file.expert_bytes == computed.expert_bytes && file.output_bytes == computed.output_bytes);
        assert_true(file.router_bytes == computed.router_bytes && file.embedding_bytes == computed.embedding_bytes);
        assert_true(file.row_params == computed.row_params && file.expert_params == computed.expert_params);
        assert_true(file.kv_token_bytes == computed.kv_token_bytes);
    }
}

static int config(struct shape *s, const char *json, struct err *e)
{
    *e = (struct err){0};
    return shape_from_config(s, json, strlen(json), "config.json", e);
}

static void test_wrong_configs(void **state)
{
    (void)state;
    struct shape s;
    struct err e;
#define BASE                                                                                                           \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"vocab_size\":100,\"intermediate_size\":128"
    assert_int_equal(config(&s, "{" BASE ",\"num_attention_heads\":4}", &e), 0);
    assert_int_equal(s.n_head_kv, 4);
    assert_int_equal(s.head_dim, 16);
    assert_int_equal(config(&s, "{\"text_config\":{" BASE ",\"num_attention_heads\":4}}", &e), 0);
    static const struct {
        const char *json, *says;
    } wrong[] = {
        {"", "not a JSON object"},
        {"[1]", "not a JSON object"},
        {"{}", "model_type is missing"},
        {"{" BASE "}", "num_attention_heads is missing"},
        {"{" BASE ",\"num_attention_heads\":0}", "number of heads is 0"},
        {"{" BASE ",\"num_attention_heads\":-3}", "num_attention_heads is not a whole number"},
        {"{" BASE ",\"num_attention_heads\":\"4\"}", "num_attention_heads is not a whole number"},
        {"{" BASE ",\"num_attention_heads\":4,\"num_key_value_heads\":3}", "do not share"},
        {"{" BASE ",\"num_attention_heads\":4,\"num_local_experts\":8}", "uses 0 of its 8 experts"},
        {"{" BASE ",\"num_attention_heads\":4,\"kv_lora_rank\":8}", "qk_rope_head_dim is missing"},
        {"{\"model_type\":\"mamba\"}", "other layers"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_true(config(&s, wrong[i].json, &e) < 0);
        if (!strstr(e.msg, wrong[i].says))
            fail_msg("'%s' says: %s", wrong[i].json, e.msg);
    }
}

static void test_names(void **state)
{
    (void)state;
    struct shape s;
    struct err e = {0};
    assert_int_equal(shape_open(&s, "Llama_3.1_8B", &e), 0);
    assert_int_equal(shape_open(&s, "lama-3.1-8b", &e), WEIR_ENOTFOUND);
    assert_non_null(strstr(e.msg, "did you mean llama-3.1-8b?"));
    assert_int_equal(shape_open(&s, "chatbot", &e), WEIR_ENOTFOUND);
    assert_non_null(strstr(e.msg, "llama-2-7b, "));
    assert_int_equal(shape_open(&s, "no/such.gguf", &e), WEIR_EIO);
    open_preset(&s, "llama-2-7b");
    struct traffic_model t;
    assert_int_equal(shape_traffic(&s, "q4km", NULL, &t, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "did you mean q4_k_m?"));
    assert_int_equal(shape_traffic(&s, NULL, "f8", &t, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "fp8"));

    assert_int_equal(suggest_distance("abc", "acb"), 1);
    assert_int_equal(suggest_distance("kitten", "sitting"), 3);
    assert_int_equal(suggest_distance("", "abc"), 3);
    assert_true(suggest_same("RTX 4090", "rtx-4090") && !suggest_same("a", "ab"));
    const char *names[] = {"alpha", "beta"};
    assert_null(suggest_nearest("omega-3", names, 2));
    assert_string_equal(suggest_nearest("betta", names, 2), "beta");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_parameters), cmocka_unit_test(test_every_preset_opens),
        cmocka_unit_test(test_memory_wall),          cmocka_unit_test(test_latent_attention),
        cmocka_unit_test(test_sliding_windows),      cmocka_unit_test(test_formats_against_files),
        cmocka_unit_test(test_wrong_configs),        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
