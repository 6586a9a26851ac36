/* The traffic model against what the CPU device counts where it moves it: exact for weights, keys, values and
 * operations of dense models, and for experts on average. */
#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "device/device.h"
#include "model/shape.h"

#include <math.h>

#define CHUNK_TOKENS 32
#define MAX_SEQS 6
#define SEQ_CHUNKS 12

struct fixture {
    struct model *model;
    struct forward *forward;
    struct device *device;
    struct traffic_model traffic;
};

static void open_fixture(struct fixture *f, const char *name, enum kv_type kv)
{
    char path[256];
    struct err e = {0};
    struct gguf *g = NULL;
    struct shape s;
    snprintf(path, sizeof path, "tests/golden/%s.gguf", name);
    struct device_config c = {.n_threads = 2,
                              .kv_type = kv,
                              .chunk_tokens = CHUNK_TOKENS,
                              .n_chunks = MAX_SEQS * SEQ_CHUNKS,
                              .max_step_tokens = 256,
                              .max_step_seqs = MAX_SEQS,
                              .max_outputs = 256,
                              .max_context = SEQ_CHUNKS * CHUNK_TOKENS};
    if (gguf_open(&g, path, &e) || model_open(&f->model, g, &e) || forward_create(&f->forward, f->model, &e) ||
        device_cpu_create(&f->device, f->forward, &c, &e) || shape_from_gguf(&s, g, &e) ||
        shape_traffic(&s, NULL, kv == KV_F16 ? "f16" : "q8_0", &f->traffic, &e))
        fail_msg("%s: %s", name, e.msg);
    assert_true(f->traffic.kv_token_bytes * f->traffic.n_layer * CHUNK_TOKENS ==
                (double)device_chunk_bytes(f->model, kv, CHUNK_TOKENS));
    device_cpu_describe(f->model, &c, &f->traffic);
    struct traffic_model planned = f->traffic; /* without the model's tensors */
    shape_last_layer(&s, &planned);
    assert_true(planned.last_params == f->traffic.last_params &&
                planned.last_expert_params == f->traffic.last_expert_params);
    assert_true(fabs(planned.last_bytes / f->traffic.last_bytes - 1) < 0.25); /* last layers may have other types */
}

static void close_fixture(struct fixture *f)
{
    device_destroy(f->device);
    forward_destroy(f->forward);
    model_close(f->model);
}

/* A random step; past[] grows by what ran. */
static void run_step(struct fixture *f, struct rng *r, uint32_t *past, struct traffic_load *load,
                     struct step_result *out)
{
    uint32_t chunks[MAX_SEQS][SEQ_CHUNKS], outputs[256], n_rows = 0, n_seqs = 0, n_outputs = 0;
    struct step_seq seqs[MAX_SEQS];
    *load = (struct traffic_load){0};
    int32_t tokens[256];
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        uint32_t room = SEQ_CHUNKS * CHUNK_TOKENS - past[i], n = rng_below(r, 2) ? 1 : 1 + (uint32_t)rng_below(r, 150);
        n = n > 256 - n_rows ? 256 - n_rows : n;
        if (rng_below(r, 3) == 0 || n == 0)
            continue;
        if (n > room)
            past[i] = 0;
        for (uint32_t k = 0; k < SEQ_CHUNKS; k++)
            chunks[i][k] = i * SEQ_CHUNKS + k;
        seqs[n_seqs++] = (struct step_seq){n_rows, n, past[i], chunks[i], SEQ_CHUNKS, rng_below(r, 2) ? 0 : UINT32_MAX};
        uint32_t wanted[] = {0, 1, 1, 1 + (uint32_t)rng_below(r, n)}, n_wanted = wanted[rng_below(r, 4)];
        traffic_add(load, &f->traffic, past[i], n, seqs[n_seqs - 1].n_prompt, n_wanted);
        n_rows += n, past[i] += n;
        for (uint32_t k = n_wanted; k > 0; k--)
            outputs[n_outputs++] = n_rows - k;
    }
    for (uint32_t i = 0; i < n_rows; i++)
        tokens[i] = (int32_t)rng_below(r, f->model->n_vocab);
    if (!n_rows)
        return;
    struct err e = {0};
    const struct step s = {.n_rows = n_rows,
                           .n_seqs = n_seqs,
                           .n_outputs = n_outputs,
                           .tokens = tokens,
                           .seqs = seqs,
                           .output_rows = outputs};
    if (device_start(f->device, &s, &e) || device_wait(f->device, out, &e))
        fail_msg("%s", e.msg);
}

static void check_model(const char *name, enum kv_type kv)
{
    struct fixture f;
    open_fixture(&f, name, kv);
    struct rng r = {17};
    uint32_t past[MAX_SEQS] = {0};
    double counted_experts = 0, expected_experts = 0;
    for (int i = 0; i < 40; i++) {
        struct traffic_load load;
        struct step_result out;
        run_step(&f, &r, past, &load, &out);
        if (!load.n_rows)
            continue;
        struct traffic_cost c;
        traffic_cost(&f.traffic, &load, &c);
        double weights = (double)out.traffic.weight_bytes;
        if (f.traffic.n_expert) {
            counted_experts += weights;
            expected_experts += c.weight_bytes;
        } else if (weights != c.weight_bytes) {
            fail_msg("%s: %.0f weight bytes counted, %.0f in the model", name, weights, c.weight_bytes);
        }
        if ((double)out.traffic.kv_read_bytes != c.kv_read_bytes)
            fail_msg("%s: %.0f KV bytes read, %.0f in the model", name, (double)out.traffic.kv_read_bytes,
                     c.kv_read_bytes);
        assert_true((double)out.traffic.kv_write_bytes == c.kv_write_bytes);
        assert_true(fabs(out.traffic.flops / traffic_flops(&c) - 1) < 1e-9);
        assert_true(c.activation_bytes > 0);
    }
    if (f.traffic.n_expert && fabs(counted_experts / expected_experts - 1) > 0.1)
        fail_msg("%s: %.0f weight bytes counted in all, %.0f expected", name, counted_experts, expected_experts);
    close_fixture(&f);
}

static void test_dense(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3",     "qwen2",        "qwen3",    "llama2",
                                        "llama-bias", "mixed-q4_k_m", "type-q8_0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_model(names[i], KV_F16);
    check_model("mixed-q4_k_m", KV_Q8_0);
}

static void test_sliding_window(void **state)
{
    (void)state;
    check_model("mistral-window", KV_F16);
}

static void test_experts(void **state)
{
    (void)state;
    check_model("mixtral", KV_F16);
    check_model("qwen3moe", KV_F16);
    check_model("mixtral-separate", KV_F16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_sliding_window),
        cmocka_unit_test(test_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
