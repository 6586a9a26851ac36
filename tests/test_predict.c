#include "policy/predict.h"

#include "base/rng.h"
#include "test.h"

#include <math.h>

static double normal(struct rng *r)
{
    return sqrt(-2 * log(1 - rng_unit(r))) * cos(6.283185307179586 * rng_unit(r));
}

static struct length_predictor *new_predictor(void)
{
    struct length_predictor *p;
    struct err e;
    assert_int_equal(length_predictor_create(&p, &(struct length_predictor_config){0}, &e), 0);
    return p;
}

static void knows_the_prior_before_data(void **state)
{
    (void)state;
    struct length_predictor *p = new_predictor();
    struct length_class c = {.n_prompt = 100, .max_new_tokens = 100000};
    double mean = length_expected(p, &c, 0);
    assert_true(mean > 230 && mean < 285);
    /* A geometric length has no memory: after 1,000 tokens about as many are still to come. */
    assert_true(length_expected(p, &c, 1000) - 1000 > 200 && length_expected(p, &c, 1000) - 1000 < 320);
    uint32_t median = length_quantile(p, &c, 0, 0.5);
    assert_true(median > 155 && median < 200);
    c.max_new_tokens = 10;
    assert_int_equal(length_quantile(p, &c, 0, 0.9), 10);
    assert_true(length_expected(p, &c, 0) <= 10);
    assert_int_equal(length_quantile(p, &c, 10, 0.5), 10);
    length_predictor_destroy(p);
}

/* Log-normal lengths: quantiles are met in the long run, also conditioned on what was produced already. */
static void quantiles_are_calibrated(void **state)
{
    (void)state;
    struct length_predictor *p = new_predictor();
    struct length_class c = {.n_prompt = 500, .max_new_tokens = 1 << 20, .key = 7};
    struct rng r = {1};
    uint32_t late = 0, below = 0;
    for (int i = 0; i < 6000; i++) {
        uint32_t n = (uint32_t)fmax(1, exp(5 + 0.8 * normal(&r)));
        if (i > 1000 && n > 200) {
            late++;
            below += n <= length_quantile(p, &c, 200, 0.8);
        }
        length_observe(p, &c, n, false);
    }
    double share = (double)below / late;
    assert_true(late > 1000 && share > 0.74 && share < 0.86);
    double got[LENGTH_N_LEVELS];
    static const double want[LENGTH_N_LEVELS] = {0.5, 0.8, 0.9, 0.95};
    length_coverage(p, got);
    for (int k = 0; k < LENGTH_N_LEVELS; k++)
        assert_true(fabs(got[k] - want[k]) < 0.04);
    double mean = length_expected(p, &c, 0), truth = exp(5 + 0.32);
    assert_true(mean > 0.9 * truth && mean < 1.1 * truth);
    length_predictor_destroy(p);
}

/* Half of the outputs are cut at random: the curve must not shrink to the cut lengths. */
static void censoring_does_not_bias(void **state)
{
    (void)state;
    struct length_predictor *p = new_predictor();
    struct length_class c = {.n_prompt = 500, .max_new_tokens = 1 << 20};
    struct rng r = {2};
    for (int i = 0; i < 8000; i++) {
        double n = 400 * -log(1 - rng_unit(&r)), cut = 400 * -log(1 - rng_unit(&r));
        length_observe(p, &c, (uint32_t)fmax(1, fmin(n, cut)), cut < n);
    }
    double mean = length_expected(p, &c, 0);
    assert_true(mean > 340 && mean < 460);
    length_predictor_destroy(p);
}

static void classes_differ_and_new_keys_inherit(void **state)
{
    (void)state;
    struct length_predictor *p = new_predictor();
    struct length_class small = {.n_prompt = 100, .max_new_tokens = 4096, .key = 1};
    struct length_class large = {.n_prompt = 100, .max_new_tokens = 4096, .key = 2};
    struct length_class fresh = {.n_prompt = 100, .max_new_tokens = 4096, .key = 3};
    for (int i = 0; i < 500; i++) {
        length_observe(p, &small, 20, false);
        length_observe(p, &large, 1000, false);
    }
    assert_true(length_quantile(p, &small, 0, 0.8) < 60);
    assert_true(length_quantile(p, &large, 0, 0.5) > 700);
    double mean = length_expected(p, &fresh, 0);
    assert_true(mean > 300 && mean < 700);
    /* Whoever has passed 100 tokens is one of the long ones. */
    assert_true(length_expected(p, &fresh, 100) > 800);
    length_predictor_destroy(p);
}

/* Quantiles grow with q, never fall under what was produced, never pass the limit; over random states. */
static void quantiles_keep_their_order(void **state)
{
    (void)state;
    struct length_predictor *p = new_predictor();
    struct rng r = {3};
    for (int i = 0; i < 3000; i++) {
        struct length_class c = {.n_prompt = (uint32_t)rng_below(&r, 100000) + 1,
                                 .max_new_tokens = (uint32_t)rng_below(&r, 1u << rng_below(&r, 21)) + 1,
                                 .key = rng_below(&r, 5)};
        uint32_t sofar = (uint32_t)rng_below(&r, c.max_new_tokens), before = sofar;
        for (double q = 0.05; q < 1; q += 0.1) {
            uint32_t n = length_quantile(p, &c, sofar, q);
            assert_true(n >= before && n <= c.max_new_tokens);
            before = n;
        }
        double mean = length_expected(p, &c, sofar);
        assert_true(mean >= sofar && mean <= c.max_new_tokens);
        length_observe(p, &c, (uint32_t)rng_below(&r, c.max_new_tokens) + 1, rng_below(&r, 3) == 0);
    }
    length_predictor_destroy(p);
}

static void continuation_learns(void **state)
{
    (void)state;
    struct continuation_predictor p;
    continuation_init(&p);
    struct rng r = {4};
    for (int i = 0; i < 5000; i++) {
        uint32_t turns = 1 + (uint32_t)rng_below(&r, 4);
        if (rng_unit(&r) < 0.2 * turns)
            continuation_returned(&p, turns, exp(3 + 0.7 * normal(&r)), continuation_probability(&p, turns, 0));
        else
            continuation_expired(&p, turns, 3600, continuation_probability(&p, turns, 0));
    }
    for (uint32_t t = 1; t <= 4; t++)
        assert_true(fabs(continuation_probability(&p, t, 0) - 0.2 * t) < 0.05);
    double now = continuation_probability(&p, 2, 0), later = continuation_probability(&p, 2, 60),
           never = continuation_probability(&p, 2, 3000);
    assert_true(now > later && later > never && never < 0.01);
    double horizon = continuation_horizon_s(&p, 2, 0.05);
    assert_true(fabs(continuation_probability(&p, 2, horizon) - 0.05) < 0.001);
    assert_true(continuation_brier(&p) < 0.22);
    /* Stopping to watch after a second teaches nothing. */
    struct continuation_predictor q = p;
    continuation_expired(&q, 2, 1, 0.5);
    assert_memory_equal(&p, &q, sizeof p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_the_prior_before_data), cmocka_unit_test(quantiles_are_calibrated),
        cmocka_unit_test(censoring_does_not_bias),     cmocka_unit_test(classes_differ_and_new_keys_inherit),
        cmocka_unit_test(quantiles_keep_their_order),  cmocka_unit_test(continuation_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
