#include "device/profile.h"

#include "test.h"

#include <jansson.h>
#include <math.h>

static void test_built_in(void **state)
{
    (void)state;
    unsigned n = 0;
    for (const char *name; (name = profile_name(n)); n++) {
        struct profile p;
        struct err e = {0};
        if (profile_open(&p, name, &e))
            fail_msg("%s: %s", name, e.msg);
        assert_true(p.watts > 0 && p.tiers[0].capacity_bytes >= 24e9);
        assert_true(p.ops_per_s[PROFILE_INT8] >= p.ops_per_s[PROFILE_F16]);
        assert_true(p.ops_per_s[PROFILE_F16] / p.tiers[0].bytes_per_s > 10); /* all are memory-bound at few rows */
        /* every group of figures says where it is from */
        char *text;
        assert_int_equal(profile_source_text(name, &text, &e), 0);
        json_t *sources = json_loads(text, 0, NULL);
        static const char *const groups[] = {"memory", "compute_ops_per_s", "links", "watts", "attainable"};
        for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
            const char *s = json_string_value(json_object_get(sources, groups[i]));
            if (!s || strlen(s) < 10)
                fail_msg("%s has no source for %s", name, groups[i]);
        }
        json_decref(sources);
        free(text);
    }
    assert_true(n >= 15);
}

static void test_names_and_factors(void **state)
{
    (void)state;
    struct profile p, q;
    struct err e = {0};
    assert_int_equal(profile_open(&p, "H100", &e), 0);
    assert_int_equal(profile_open(&q, "h100-sxm:bandwidth=2:compute=0.8:capacity=1.5", &e), 0);
    assert_true(q.tiers[0].bytes_per_s == 2 * p.tiers[0].bytes_per_s);
    assert_true(fabs(q.ops_per_s[PROFILE_FP8] / p.ops_per_s[PROFILE_FP8] - 0.8) < 1e-12);
    assert_true(q.tiers[0].capacity_bytes == 120e9);
    static const struct {
        const char *what, *says;
        int rc;
    } wrong[] = {
        {"h10", "did you mean h100", WEIR_ENOTFOUND},
        {"rtx4091", "did you mean rtx-4090?", WEIR_ENOTFOUND},
        {"abacus", "a100-40, ", WEIR_ENOTFOUND},
        {"no/such.json", "no/such.json", WEIR_EIO},
        {"h100:bandwith=2", "did you mean bandwidth", WEIR_EINVAL},
        {"h100:bandwidth", "no factor", WEIR_EINVAL},
        {"h100:bandwidth=-1", "no factor", WEIR_EINVAL},
        {"h100:bandwidth=2x", "no factor", WEIR_EINVAL},
        {"", "empty", WEIR_EINVAL},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(profile_open(&p, wrong[i].what, &e), wrong[i].rc);
        if (!strstr(e.msg, wrong[i].says))
            fail_msg("'%s' says: %s", wrong[i].what, e.msg);
    }
}

#define GOOD                                                                                                           \
    "\"name\":\"x\",\"kind\":\"cpu\",\"compute_ops_per_s\":{\"f16\":1e12},"                                            \
    "\"memory\":[{\"name\":\"DDR\",\"capacity_bytes\":1e9,\"bandwidth_bytes_per_s\":1e10}]"

static int parse(struct profile *p, const char *json, struct err *e)
{
    *e = (struct err){0};
    return profile_parse(p, json, strlen(json), "x.json", e);
}

static void test_validation(void **state)
{
    (void)state;
    struct profile p;
    struct err e;
    assert_int_equal(parse(&p, "{" GOOD "}", &e), 0);
    assert_true(p.ops_per_s[PROFILE_INT8] == 1e12 && p.numa_nodes == 1 && p.attain_bandwidth == 0.8);
    static const struct {
        const char *json, *says;
    } wrong[] = {
        {"", "not a JSON object"},
        {"{" GOOD, "not a JSON object"},
        {"{" GOOD ",\"name\":\"y\"}", "not a JSON object (line 1: duplicate"},
        {"{" GOOD ",\"wats\":3}", "unknown key 'wats'; did you mean watts?"},
        {"{" GOOD ",\"watts\":-3}", "watts outside of"},
        {"{" GOOD ",\"watts\":\"3\"}", "watts outside of"},
        {"{" GOOD ",\"attainable\":{\"bandwidth\":1.2}}", "bandwidth outside of 0.01 to 1"},
        {"{" GOOD ",\"links\":[{\"name\":\"l\",\"to\":\"moon\",\"bandwidth_bytes_per_s\":1e9}]}",
         "\"peer\" or \"host\""},
        {"{" GOOD ",\"attainable\":{\"mixed_length_waste\":1.2}}", "mixed_length_waste outside of 0 to 1"},
        {"{" GOOD ",\"links\":3}", "list of at most 4"},
        {"{" GOOD ",\"products\":{\"q8_0\":[[4,1e9],[2,1e9]]}}", "rising rows"},
        {"{" GOOD ",\"products\":{\"q8_0\":[]}}", "1 to 16 points"},
        {"{" GOOD ",\"prompt_products\":{\"q8_0\":[[0,1]]}}", "\"prompt_products\" has a point"},
        {"{" GOOD ",\"prompt_products\":7}", "\"prompt_products\" must be an object"},
        {"{" GOOD ",\"products\":[]}", "\"products\" must be an object"},
        {"{" GOOD ",\"attainable\":1}", "attainable must be an object"},
        {"{" GOOD ",\"attention\":{\"kv_bytes_per_s\":1e9}}", "lacks ops_per_s"},
        {"{\"name\":\"x\",\"kind\":\"cpu\"}", "\"memory\" must be a list"},
        {"{\"name\":\"x\",\"kind\":\"tpu\",\"memory\":[{\"name\":\"D\"}]}", "lacks capacity_bytes"},
        {"{\"kind\":\"cpu\"}", "short \"name\""},
        {"{\"name\":\"x\",\"kind\":\"cpu\",\"compute_ops_per_s\":{\"fp16\":1e12},\"memory\":[{\"name\":\"D\","
         "\"capacity_bytes\":1e9,\"bandwidth_bytes_per_s\":1e10}]}",
         "did you mean f16?"},
        {"{\"name\":\"x\",\"kind\":\"cpu\",\"compute_ops_per_s\":{\"f16\":1e12},\"memory\":[{\"name\":\"D\","
         "\"capacity_bytes\":1e9,\"bandwidth_bytes_per_s\":1e10},{\"name\":\"E\",\"capacity_bytes\":1e9,"
         "\"bandwidth_bytes_per_s\":2e10}]}",
         "fastest first"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(parse(&p, wrong[i].json, &e), WEIR_EFORMAT);
        if (!strstr(e.msg, wrong[i].says))
            fail_msg("'%s' says: %s", wrong[i].json, e.msg);
    }
}

static void test_written_and_read_back(void **state)
{
    (void)state;
    struct profile p, q;
    struct err e = {0};
    assert_int_equal(profile_open(&p, "epyc-9755", &e), 0);
    p.price_per_hour = 1.25;
    p.n_products = 2;
    p.products[0] = (struct profile_product){"q8_0", false, 3, {{1, 4e10}, {4, 2e10}, {16, 1e10}}};
    p.products[1] = (struct profile_product){"q8_0", true, 2, {{1, 1e10}, {512, 5e9}}};
    p.kv_bytes_per_s = 3e10, p.attention_ops_per_s = 1e11;
    assert_true(p.mixed_length_waste == 0);
    p.mixed_length_waste = 0.25;
    char *text = profile_format(&p, "measured on 1 January");
    assert_non_null(text);
    if (profile_parse(&q, text, strlen(text), "epyc-9755", &e))
        fail_msg("%s", e.msg);
    free(text);
    assert_memory_equal(&p.tiers, &q.tiers, sizeof p.tiers);
    assert_memory_equal(&p.products, &q.products, sizeof p.products);
    assert_true(p.kv_bytes_per_s == q.kv_bytes_per_s && p.attention_ops_per_s == q.attention_ops_per_s);
    /* between points linear in seconds, flat before, by rows beyond */
    assert_true(fabs(profile_product_s(&q, "q8_0", false, 1) * 4e10 - 1) < 1e-9);
    assert_true(fabs(profile_product_s(&q, "q8_0", false, 0.5) * 4e10 - 1) < 1e-9);
    assert_true(fabs(profile_product_s(&q, "q8_0", false, 10) - (1 / 2e10 + 1 / 1e10) / 2) < 1e-15);
    assert_true(fabs(profile_product_s(&q, "q8_0", false, 64) * 1e10 / 4 - 1) < 1e-9);
    assert_true(profile_product_s(&q, "f16", false, 1) == 0 && profile_product_peak(&q, "f16", false) == 0);
    assert_true(fabs(profile_product_s(&q, "q8_0", true, 1) * 1e10 - 1) < 1e-9);
    assert_true(fabs(profile_product_peak(&q, "q8_0", false) / 1.6e11 - 1) < 1e-9);
    assert_true(fabs(profile_product_peak(&q, "q8_0", true) / 2.56e12 - 1) < 1e-9);
    assert_memory_equal(&p.links, &q.links, sizeof p.links);
    assert_true(p.price_per_hour == q.price_per_hour && p.watts == q.watts && p.is_cpu == q.is_cpu);
    assert_true(q.mixed_length_waste == 0.25);
    assert_true(p.attain_bandwidth == q.attain_bandwidth && p.numa_remote_fraction == q.numa_remote_fraction);
    for (int i = 0; i < PROFILE_COMPUTE_COUNT; i++)
        assert_true(fabs(p.ops_per_s[i] / q.ops_per_s[i] - 1) < 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_built_in),
        cmocka_unit_test(test_names_and_factors),
        cmocka_unit_test(test_validation),
        cmocka_unit_test(test_written_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
