#include "cli/plan.h"

#include "test.h"

#include <jansson.h>
#include <math.h>

static struct plan_input input(const char *model, const char *device)
{
    struct plan_input in = {.max_batch = 512, .step_tokens = 2048, .memory_fraction = 0.9};
    struct err e = {0};
    if (shape_open(&in.shape, model, &e) || profile_open(&in.profile, device, &e))
        fail_msg("%s", e.msg);
    return in;
}

static struct plan_report *report(const struct plan_input *in)
{
    static struct plan_report p;
    struct err e = {0};
    if (plan_report(&p, in, &e))
        fail_msg("%s", e.msg);
    return &p;
}

/* gpt-fast's tables: https://github.com/pytorch-labs/gpt-fast, README.md. A100-80GB limited to 330 W, batch 1, a prompt
 * of 5 tokens and 200 generated, so about 100 positions. The ceilings must lie above, the expected figures near. */
static void test_published_figures(void **state)
{
    (void)state;
    static const struct {
        const char *model, *weights;
        uint32_t devices;
        double tokens_per_s;
    } published[] = {
        {"llama-2-7b", "bf16", 1, 104.9},      {"llama-2-7b", "int8", 1, 155.58},
        {"llama-2-7b", "int4-g32", 1, 196.80}, {"llama-2-70b", "int8", 1, 19.13},
        {"llama-2-70b", "int4-g32", 1, 25.25}, {"llama-2-7b", "bf16", 2, 168.84},
        {"llama-2-7b", "bf16", 4, 254.02},     {"llama-2-7b", "bf16", 8, 328.43},
        {"llama-2-70b", "bf16", 2, 21.32},     {"llama-2-70b", "bf16", 4, 38.01},
        {"llama-2-70b", "bf16", 8, 62.50},     {"llama-2-70b", "int8", 8, 80.44},
        {"llama-2-70b", "int4-g32", 8, 90.77},
    };
    double sum = 0;
    size_t n = sizeof published / sizeof *published;
    for (size_t i = 0; i < n; i++) {
        struct plan_input in = input(published[i].model, "a100-80");
        struct roofline r;
        struct roofline_time t;
        struct err e = {0};
        assert_int_equal(
            roofline_init(&r, &in.shape, published[i].weights, NULL, &in.profile, published[i].devices, &e), 0);
        roofline_decode(&r, 1, 100, &t);
        double error = 1 / t.expected_s / published[i].tokens_per_s - 1;
        if (fabs(error) > 0.13)
            fail_msg("%s %s on %u: published %.1f, expected %.1f", published[i].model, published[i].weights,
                     published[i].devices, published[i].tokens_per_s, 1 / t.expected_s);
        assert_true(1 / t.ceiling_s > published[i].tokens_per_s);
        sum += fabs(error);
    }
    assert_true(sum / (double)n < 0.06);
}

/* The worked example of the memory wall. */
static void test_memory_wall(void **state)
{
    (void)state;
    struct plan_input in = input("llama-2-70b", "h100-sxm");
    in.weights = "f16";
    in.n_devices = 1;
    in.profile.tiers[0].bytes_per_s = 3e12;
    struct plan_report *p = report(&in);
    assert_true(fabs(p->model_weight_bytes / 140e9 - 1) < 0.02);
    assert_false(p->fits); /* 140 GB into 80 */
    assert_non_null(strstr(p->advice, "--devices 2 fits"));
    assert_non_null(strstr(p->advice, "--weights"));
    struct roofline_time t;
    roofline_decode(&p->r, 1, 0, &t);
    assert_true(1 / t.ceiling_s > 21 && 1 / t.ceiling_s < 22); /* ~21 tokens/s at 3 TB/s */
    assert_true(t.expected_s > t.ceiling_s);
    double share = t.ceiling_s / t.expected_s; /* real programs reach 60 to 70 %, and some more */
    assert_true(share > 0.6 && share < 0.85);
    assert_true(p->model_kv_token_bytes * 4096 == 1342177280.0);

    in = input("mha-70b", "h100-sxm");
    in.n_devices = 2;
    p = report(&in);
    assert_true(p->model_kv_token_bytes * 4096 == 8 * 1342177280.0);
}

static const struct plan_cell *cell(const struct plan_report *p, uint32_t b, uint32_t c)
{
    return &p->cells[b * p->n_contexts + c];
}

static void test_surface(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-3.1-8b", "qwen3-30b-a3b", "mistral-7b", "deepseek-v3", "gpt-oss-20b"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct plan_input in = input(models[i], "b200");
        struct plan_report *p = report(&in);
        assert_int_equal(p->n_cells, p->n_batches * p->n_contexts);
        for (uint32_t b = 0; b < p->n_batches; b++) {
            for (uint32_t c = 0; c < p->n_contexts; c++) {
                const struct plan_cell *x = cell(p, b, c);
                assert_true(x->mbu > 0 && x->mbu <= p->in.profile.attain_bandwidth + 1e-9);
                assert_true(x->fits == (x->batch <= p->max_sequences[c]));
                if (b > 0) {
                    assert_true(x->tokens_per_s >= cell(p, b - 1, c)->tokens_per_s * (1 - 1e-9));
                    assert_true(x->itl_s >= cell(p, b - 1, c)->itl_s);
                    assert_true(!x->fits || cell(p, b - 1, c)->fits);
                }
                if (c > 0)
                    assert_true(x->itl_s >= cell(p, b, c - 1)->itl_s);
            }
        }
        for (uint32_t c = 0; c < p->n_contexts; c++)
            assert_true(p->growth[c].ceiling_tokens_per_s >= p->growth[c].tokens_per_s);
    }
}

static void test_sweet_spot_meets_the_targets(void **state)
{
    (void)state;
    struct plan_input in = input("llama-3.1-8b", "h100");
    double last = 0;
    for (double itl = 0.008; itl < 0.05; itl *= 1.2) {
        in.itl_s = itl;
        struct plan_report *p = report(&in);
        const struct plan_sweet *w = &p->sweet;
        assert_true(w->batch >= 1 && w->time.expected_s <= itl && w->memory_bytes <= p->usable_bytes);
        struct roofline_time more; /* one more sequence would miss the target, or the memory */
        roofline_decode(&p->r, w->batch + 1, p->context - 1, &more);
        double memory = w->memory_bytes + p->context * p->kv_token_bytes;
        assert_true(more.expected_s > itl || memory > p->usable_bytes || w->batch == in.max_batch);
        assert_true(w->tokens_per_s >= last);
        last = w->tokens_per_s;
    }
    in.itl_s = 1e-4;
    struct plan_report *p = report(&in);
    assert_true(p->sweet.batch == 0 && p->sweet.itl_missed);
    in.ttft_s = 1e-3;
    assert_true(report(&in)->sweet.ttft_missed);
}

/* Twice the bandwidth at 0.8 times the compute wins where memory is the limit, and loses where it is not. */
static void test_bandwidth_against_compute(void **state)
{
    (void)state;
    struct plan_input in = input("llama-3.1-8b", "h100");
    struct profile rivals[2];
    assert_int_equal(profile_open(&rivals[0], "h100", NULL), 0);
    assert_int_equal(profile_open(&rivals[1], "h100:bandwidth=2:compute=0.8", NULL), 0);
    in.rivals = rivals;
    in.n_rivals = 2;
    struct plan_report *p = report(&in);
    assert_int_equal(p->n_rivals, 2);
    assert_non_null(strchr(p->rivals[0].profile.id, ':')); /* decoding: first */
    assert_true(p->rivals[0].tokens_per_s > 1.4 * p->rivals[1].tokens_per_s);
    assert_true(p->rivals[0].prompt_tokens_per_s < 0.9 * p->rivals[1].prompt_tokens_per_s); /* prompts: behind */
}

static void test_lengths_experts_parallel(void **state)
{
    (void)state;
    struct plan_input in = input("qwen3-30b-a3b", "h100");
    in.price_per_hour = 3.6;
    struct plan_report *p = report(&in);
    double short8 = p->mixes[0].bytes, mixed = p->mixes[1].bytes, padded = p->mixes[2].bytes;
    double each = (padded - short8) / 8; /* what 8k has more to read than 1k */
    assert_true(fabs(mixed - short8 - each) < 1e-6 * mixed);
    assert_true(fabs(p->experts[0].distinct - 8) < 1e-9 && p->experts[p->n_experts - 1].distinct > 127);
    assert_true(p->overtake_batch > 100);
    assert_true(fabs(p->price_per_million - 3.6 / 3600 * 1e6 / p->sweet.tokens_per_s) < 1e-9);
    assert_true(p->bandwidth_hours > p->compute_hours);
    for (uint32_t i = 1; i < p->n_parallel; i++) {
        assert_true(p->parallel[i].device_bytes < p->parallel[i - 1].device_bytes);
        assert_true(p->parallel[i].link_bytes > p->parallel[i - 1].link_bytes);
    }
    /* 4 KV heads: from 4 devices on, the KV is not split further */
    struct roofline a, b;
    assert_int_equal(roofline_init(&a, &in.shape, NULL, NULL, &in.profile, 4, NULL), 0);
    assert_int_equal(roofline_init(&b, &in.shape, NULL, NULL, &in.profile, 8, NULL), 0);
    assert_true(roofline_kv_token_bytes(&a) == roofline_kv_token_bytes(&b));
    assert_true(roofline_kv_token_bytes(&a) == p->model_kv_token_bytes / 4);
}

static void test_what_if(void **state)
{
    (void)state;
    struct plan_input in = input("llama-3.1-8b", "h100");
    struct plan_report *p = report(&in);
    const struct plan_variant *own = &p->variants[0];
    int seen = 0;
    for (uint32_t i = 1; i < p->n_variants; i++) {
        const struct plan_variant *v = &p->variants[i];
        if (strstr(v->name, "KV") && !strstr(v->name, "multi-head"))
            assert_true(v->kv_token_bytes < own->kv_token_bytes && v->tokens_per_s > own->tokens_per_s), seen++;
        if (strstr(v->name, "multi-head"))
            assert_true(v->kv_token_bytes == 4 * own->kv_token_bytes && v->tokens_per_s < own->tokens_per_s), seen++;
        if (strstr(v->name, "window"))
            assert_true(v->step_bytes < own->step_bytes), seen++;
        if (strstr(v->name, "weights q4_k_m"))
            assert_true(v->weight_bytes < 0.35 * own->weight_bytes &&
                        v->single_tokens_per_s > own->single_tokens_per_s),
                seen++;
    }
    assert_int_equal(seen, 5);
}

static void test_wrong_input(void **state)
{
    (void)state;
    static struct plan_report p;
    struct err e = {0};
    struct plan_input in = input("llama-2-7b", "h100");
    in.context = 8192;
    assert_int_equal(plan_report(&p, &in, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "--ctx 4096 or less"));
    in.context = 100, in.prompt = 200;
    assert_int_equal(plan_report(&p, &in, &e), WEIR_EINVAL);
    in.prompt = 0, in.n_devices = 9;
    assert_int_equal(plan_report(&p, &in, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "--devices 8 or less"));
    in.n_devices = 1, in.weights = "q4km";
    assert_int_equal(plan_report(&p, &in, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "did you mean q4_k_m?"));
    /* fits nowhere: a report that says so */
    in = input("llama-3.1-405b", "l4");
    assert_int_equal(plan_report(&p, &in, &e), 0);
    assert_false(p.fits);
    assert_true(strlen(p.advice) > 10);
}

static void test_outputs(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-3.1-8b", "llama-3.1-405b", "mixtral-8x7b"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct plan_input in = input(models[i], i == 1 ? "rtx-4090" : "h100");
        snprintf(in.shape.name, sizeof in.shape.name, "</script><b>%s", models[i]);
        struct plan_report *p = report(&in);
        struct buf b;
        buf_init(&b, 8 << 20);
        assert_int_equal(plan_json(p, &b), 0);
        json_t *root = json_loads(b.data, 0, NULL);
        assert_non_null(root);
        assert_int_equal(json_array_size(json_object_get(root, "surface")), p->n_cells);
        json_decref(root);

        buf_clear(&b);
        plan_csv(p, &b);
        size_t lines = 0;
        for (const char *c = b.data; *c; c++)
            lines += *c == '\n';
        assert_int_equal(lines, p->n_cells + 1);

        buf_clear(&b);
        assert_int_equal(plan_html(p, &b), 0);
        assert_null(strstr(b.data, "</script><b>"));
        assert_null(strstr(b.data, "http://") ? strstr(b.data, "src=") : NULL);
        assert_non_null(strstr(b.data, "const R = {"));

        buf_clear(&b);
        plan_text(p, &(struct plan_view){.surface = true, .what_if = true}, &b);
        assert_false(b.failed);
        assert_true((strstr(b.data, "DOES NOT FIT") != NULL) == !p->fits);
        assert_null(strstr(b.data, "nan"));
        assert_null(strstr(b.data, "inf"));
        buf_finish(&b);
    }
}

/* Products as measured on weir's own device: with a way for prompts, and without. */
static void test_measured_products(void **state)
{
    (void)state;
    struct plan_input in = input("llama-3.2-1b", "epyc-9755");
    struct profile one = in.profile, two;
    struct roofline a, b;
    struct roofline_time t, u;
    one.n_products = 1;
    one.products[0] = (struct profile_product){"q8_0", false, 3, {{1, 4e10}, {16, 2e10}, {512, 1e9}}};
    one.kv_bytes_per_s = 3e10, one.attention_ops_per_s = 1e12;
    two = one;
    two.n_products = 2;
    two.products[1] = (struct profile_product){"q8_0", true, 2, {{1, 1e10}, {512, 4e9}}};
    assert_int_equal(roofline_init(&a, &in.shape, "q8_0", NULL, &one, 1, NULL), 0);
    assert_int_equal(roofline_init(&b, &in.shape, "q8_0", NULL, &two, 1, NULL), 0);
    assert_true(!a.model.prompt_way && b.model.prompt_way);
    roofline_decode(&a, 8, 100, &t);
    roofline_decode(&b, 8, 100, &u);
    assert_true(t.expected_s == u.expected_s && t.weights_s > 0);

    /* 512 rows: all layers at the prompt's rate, but of the last one what is left out for all but the last row */
    struct traffic_load prefill = {0}, mixed = {0}, decoding = {0};
    traffic_add(&prefill, &b.model, 0, 512, 512, 1);
    roofline_step(&b, &prefill, &u);
    const struct traffic_model *m = &b.model;
    double layers = m->attention_bytes + m->ffn_bytes;
    assert_true(m->last_bytes > layers / 20 && m->last_bytes < layers / 16);
    double expected = (layers - m->last_bytes) / 4e9 + m->last_bytes / 1e10 + m->output_bytes / 4e10;
    assert_true(fabs(u.weights_s / expected - 1) < 1e-9 && u.expected_s >= u.ceiling_s);
    struct traffic_load one_way = {0};
    traffic_add(&one_way, &a.model, 0, 512, 512, 1);
    roofline_step(&a, &one_way, &t);
    assert_true(t.weights_s > 3 * u.weights_s);

    /* Both: less than one after the other, for weights are read once; no less than what computes. */
    traffic_add_many(&decoding, m, 8, 100, 1, 1);
    mixed = decoding;
    traffic_add(&mixed, m, 0, 511, 512, 0);
    struct roofline_time alone, both;
    roofline_step(&b, &decoding, &alone);
    roofline_step(&b, &mixed, &both);
    assert_true(both.weights_s < alone.weights_s + u.weights_s && both.weights_s > u.weights_s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured_products),
        cmocka_unit_test(test_published_figures),
        cmocka_unit_test(test_memory_wall),
        cmocka_unit_test(test_surface),
        cmocka_unit_test(test_sweet_spot_meets_the_targets),
        cmocka_unit_test(test_bandwidth_against_compute),
        cmocka_unit_test(test_lengths_experts_parallel),
        cmocka_unit_test(test_what_if),
        cmocka_unit_test(test_wrong_input),
        cmocka_unit_test(test_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
