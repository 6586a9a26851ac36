/* The sampler against a direct computation of the exact distribution: in double precision, with a full sort. */
#include "base/rng.h"
#include "model/sampler.h"
#include "model/sampler_scan.h"
#include "test.h"

#include <float.h>
#include <math.h>

/* Draws are many times slower with every access checked, and need not be as many for that. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define DRAWS(n) ((n) / 10)
#else
#define DRAWS(n) (n)
#endif

/* The sampler asks a tokenizer one thing only: this one ends on the ids it lists. */
struct tokenizer {
    const token_id *ends;
    size_t n_ends;
};

bool tokenizer_is_end(const struct tokenizer *t, token_id id)
{
    for (size_t i = 0; i < t->n_ends; i++) {
        if (t->ends[i] == id)
            return true;
    }
    return false;
}

static struct sampling_params defaults(void)
{
    struct sampling_params p;
    sampling_params_default(&p);
    return p;
}

static struct sampler *create(struct sampling_params p, uint32_t n_vocab)
{
    struct sampler *s;
    struct err e = {0};
    if (sampler_create(&s, &p, n_vocab, &e))
        fail_msg("%s", e.msg);
    return s;
}

static token_id sample(struct sampler *s, const float *logits)
{
    struct sample out;
    sampler_sample(s, logits, NULL, &out);
    return out.id;
}

static float normal(struct rng *r) /* Box and Muller 1958 */
{
    double u = 1 - rng_unit(r), v = rng_unit(r);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static float *normal_logits(uint32_t n, float spread, uint64_t seed)
{
    struct rng r = {seed};
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (uint32_t i = 0; i < n; i++)
        x[i] = spread * normal(&r);
    return x;
}

/* -- The exact distribution --------------------------------------------------------------------------------------- */

struct ranked {
    double logit;
    uint32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* out[n]: the probability of each token after top_k, temperature, top_p, min_p. */
static void exact_distribution(const struct sampling_params *p, const float *logits, uint32_t n, double *out)
{
    struct ranked *r = malloc(n * sizeof *r);
    assert_non_null(r);
    for (uint32_t i = 0; i < n; i++)
        r[i] = (struct ranked){(double)logits[i], i};
    qsort(r, n, sizeof *r, by_rank);
    uint32_t kept = p->top_k > 0 && (uint32_t)p->top_k < n ? (uint32_t)p->top_k : n;
    double sum = 0, passed = 0;
    for (uint32_t i = 0; i < n; i++)
        out[r[i].id] = i < kept ? exp((r[i].logit - r[0].logit) / (double)p->temperature) : 0;
    for (uint32_t i = 0; i < kept; i++)
        sum += out[r[i].id];
    for (uint32_t i = 0; i < kept; i++) {
        double w = out[r[i].id];
        if (p->top_p < 1 && passed >= (double)p->top_p * sum)
            out[r[i].id] = 0;
        passed += w;
        if (w < (double)p->min_p * out[r[0].id])
            out[r[i].id] = 0;
    }
    sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += out[i];
    for (uint32_t i = 0; i < n; i++)
        out[i] /= sum;
    free(r);
}

/* Pearson's test of n_draws against the exact distribution; cells expecting under 10 are pooled. The bound is
 * mean + 5 standard deviations of chi-square: with a fixed seed it either holds or it does not. */
static void check_draws(struct sampling_params p, const float *logits, uint32_t n, uint32_t n_draws)
{
    double *exact = malloc(n * sizeof *exact);
    uint32_t *drawn = calloc(n, sizeof *drawn);
    assert_true(exact && drawn);
    exact_distribution(&p, logits, n, exact);
    struct sampler *s = create(p, n);
    for (uint32_t i = 0; i < n_draws; i++) {
        token_id id = sample(s, logits);
        assert_in_range(id, 0, n - 1);
        drawn[id]++;
    }
    double chi2 = 0, pooled_expected = 0, pooled_drawn = 0;
    int cells = 0;
    for (uint32_t i = 0; i < n; i++) {
        double expected = exact[i] * n_draws;
        if (exact[i] == 0 && drawn[i])
            fail_msg("token %u is not in the set but was drawn", i);
        if (expected < 10) {
            pooled_expected += expected;
            pooled_drawn += drawn[i];
            continue;
        }
        chi2 += (drawn[i] - expected) * (drawn[i] - expected) / expected;
        cells++;
    }
    if (pooled_expected >= 10) {
        chi2 += (pooled_drawn - pooled_expected) * (pooled_drawn - pooled_expected) / pooled_expected;
        cells++;
    }
    double df = cells - 1;
    if (chi2 > df + 5 * sqrt(2 * df) + 1e-9)
        fail_msg("chi-square %.1f for %g degrees of freedom", chi2, df);
    sampler_destroy(s);
    free(exact);
    free(drawn);
}

/* -- Tests -------------------------------------------------------------------------------------------------------- */

static void draws_follow_the_distribution(void **state)
{
    (void)state;
    float *x = normal_logits(37, 1.5f, 1);
    struct sampling_params p = defaults();
    p.seed = 11;
    check_draws(p, x, 37, DRAWS(60000));
    p.temperature = 0.5f;
    check_draws(p, x, 37, DRAWS(60000));
    p.temperature = 3;
    check_draws(p, x, 37, DRAWS(60000));
    p.top_k = 5;
    check_draws(p, x, 37, DRAWS(60000));
    p.top_k = 37;
    check_draws(p, x, 37, DRAWS(60000));
    p.top_k = 20;
    p.top_p = 0.8f;
    check_draws(p, x, 37, DRAWS(60000));
    p.min_p = 0.3f;
    check_draws(p, x, 37, DRAWS(60000));
    p.top_k = 0;
    check_draws(p, x, 37, DRAWS(60000));
    p.top_p = 1;
    check_draws(p, x, 37, DRAWS(60000));
    p = defaults();
    p.top_p = 0.5f;
    check_draws(p, x, 37, DRAWS(60000));
    free(x);
}

static void draws_follow_the_distribution_of_large_vocabularies(void **state)
{
    (void)state;
    const uint32_t n = 20011;
    float *peaked = normal_logits(n, 3, 2), *flat = normal_logits(n, 0.3f, 3);
    struct sampling_params p = defaults();
    p.seed = 5;
    check_draws(p, peaked, n, DRAWS(3000));
    check_draws(p, flat, n, DRAWS(1500));
    p.top_p = 0.6f; /* within the first cut of candidates, and far past it */
    check_draws(p, peaked, n, DRAWS(3000));
    check_draws(p, flat, n, DRAWS(1500));
    p.top_k = 3000;
    check_draws(p, flat, n, DRAWS(1500));
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0.2f;
    check_draws(p, flat, n, DRAWS(1500));
    check_draws(p, peaked, n, DRAWS(3000));
    free(peaked);
    free(flat);
}

/* Every token of the exact set is drawn and none outside it, for many shapes of distribution. */
static void filters_keep_the_exact_set(void **state)
{
    (void)state;
    struct rng r = {99};
    for (int round = 0; round < DRAWS(60); round++) {
        uint32_t n = 2 + (uint32_t)rng_below(&r, 60);
        float *x = normal_logits(n, 0.2f + (float)rng_unit(&r), rng_u64(&r));
        for (uint32_t i = 0; i < n; i++)
            x[i] = roundf(x[i] * 4) / 4; /* with ties */
        struct sampling_params p = defaults();
        p.seed = (uint64_t)round;
        if (round % 2)
            p.top_k = 1 + (int32_t)rng_below(&r, n);
        if (round % 3)
            p.top_p = 0.05f + 0.9f * (float)rng_unit(&r);
        if (round % 5 == 0)
            p.min_p = 0.05f + 0.9f * (float)rng_unit(&r);
        double exact[64];
        exact_distribution(&p, x, n, exact);
        bool drawn[64] = {0};
        struct sampler *s = create(p, n);
        for (int i = 0; i < 8000; i++)
            drawn[sample(s, x)] = true;
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(drawn[i], exact[i] > 0);
        sampler_destroy(s);
        free(x);
    }
}

static void ties_go_to_the_lower_id(void **state)
{
    (void)state;
    float x[3000];
    for (int i = 0; i < 3000; i++)
        x[i] = i >= 100 ? 2 : 1;
    struct sampling_params p = defaults();
    p.temperature = 0;
    struct sampler *s = create(p, 3000);
    assert_int_equal(sample(s, x), 100);
    sampler_destroy(s);

    p = defaults();
    p.top_k = 4;
    s = create(p, 3000);
    for (int i = 0; i < 500; i++)
        assert_in_range(sample(s, x), 100, 103);
    sampler_destroy(s);

    p = defaults();
    p.top_p = 0.5f; /* 1,434 of the 2,900 twos: they weigh e each, the hundred ones 1 */
    s = create(p, 3000);
    double total = 2900 * exp(1.0) + 100;
    token_id last = 100 + (token_id)ceil(0.5 * total / exp(1.0)) - 1, seen = 0;
    for (int i = 0; i < DRAWS(6000); i++) {
        token_id id = sample(s, x);
        assert_in_range(id, 100, last);
        seen = id > seen ? id : seen;
    }
    assert_true(seen > last - 20 * (6000 / DRAWS(6000)));
    sampler_destroy(s);

    p = defaults();
    p.min_p = 1;
    s = create(p, 3000);
    for (int i = 0; i < 500; i++)
        assert_true(sample(s, x) >= 100);
    sampler_destroy(s);
}

static void greedy_takes_the_arg_max(void **state)
{
    (void)state;
    struct sampling_params p = defaults();
    p.temperature = 0;
    for (uint32_t n = 1; n < 5000; n = n * 2 + 1) {
        struct sampler *s = create(p, n);
        for (uint64_t seed = 0; seed < 8; seed++) {
            float *x = normal_logits(n, 2, seed * 7919 + n);
            uint32_t best = 0;
            for (uint32_t i = 1; i < n; i++)
                best = x[i] > x[best] ? i : best;
            assert_int_equal(sample(s, x), best);
            free(x);
        }
        sampler_destroy(s);
    }
}

static void cold_and_hot_temperatures_are_safe(void **state)
{
    (void)state;
    float x[] = {1, 5, 4.9999f, -3};
    struct sampling_params p = defaults();
    for (int filters = 0; filters < 2; filters++) {
        p.min_p = filters ? 1e-9f : 0;
        p.temperature = FLT_MIN / 4; /* subnormal */
        struct sampler *s = create(p, 4);
        for (int i = 0; i < 100; i++)
            assert_int_equal(sample(s, x), 1);
        sampler_destroy(s);
        p.temperature = FLT_MAX;
        s = create(p, 4);
        int drawn[4] = {0};
        for (int i = 0; i < 4000; i++)
            drawn[sample(s, x)]++;
        for (int i = 0; i < 4; i++)
            assert_in_range(drawn[i], 850, 1150);
        sampler_destroy(s);
    }
}

static void same_seed_same_tokens(void **state)
{
    (void)state;
    const uint32_t n = 5000;
    struct sampling_params p = defaults();
    p.seed = 42;
    p.top_p = 0.9f;
    p.repetition_penalty = 1.1f;
    struct sampler *a = create(p, n), *b = create(p, n);
    p.seed = 43;
    struct sampler *c = create(p, n), *other = create(p, n);
    int same = 0;
    for (uint64_t step = 0; step < 200; step++) {
        float *x = normal_logits(n, 2, step);
        token_id id = sample(a, x);
        for (uint64_t i = 0; i < step % 3; i++)
            sample(other, x); /* what else is in the batch has no say */
        assert_int_equal(id, sample(b, x));
        same += id == sample(c, x);
        free(x);
    }
    assert_true(same < 100);
    sampler_destroy(a);
    sampler_destroy(b);
    sampler_destroy(c);
    sampler_destroy(other);
}

static void penalties_follow_their_formula(void **state)
{
    (void)state;
    enum { N = 50 };
    struct sampling_params p = defaults();
    p.temperature = 0;
    p.repetition_penalty = 1.3f;
    p.presence_penalty = 0.4f;
    p.frequency_penalty = 0.25f;
    struct logit_bias bias[] = {{7, 1.5f}, {9, -100}, {7, 0.5f}};
    p.bias = bias;
    p.n_bias = 3;
    struct sampler *s = create(p, N);
    bool seen[N] = {0};
    int count[N] = {0};
    token_id prompt[] = {3, 4, 4, 8, 20, -5, N, 1 << 30};
    sampler_note_prompt(s, prompt, sizeof prompt / sizeof *prompt);
    seen[3] = seen[4] = seen[8] = seen[20] = true;
    int distinct = 0;
    for (uint64_t step = 0; step < 400; step++) {
        float *x = normal_logits(N, 1, step / 4); /* repeated, so that penalties decide */
        int best = -1;
        float best_logit = -INFINITY;
        for (int i = 0; i < N; i++) {
            float l = x[i] + (i == 7 ? 2.0f : 0);
            if (i == 9)
                continue;
            if (seen[i])
                l = l > 0 ? l / 1.3f : l * 1.3f;
            if (count[i])
                l -= 0.4f + 0.25f * (float)count[i];
            if (l > best_logit) {
                best = i;
                best_logit = l;
            }
        }
        assert_int_equal(sample(s, x), best);
        seen[best] = true;
        distinct += !count[best]++;
        free(x);
    }
    assert_true(distinct > 40);
    sampler_destroy(s);
}

static void presence_and_frequency_do_not_count_the_prompt(void **state)
{
    (void)state;
    struct sampling_params p = defaults();
    p.temperature = 0;
    p.presence_penalty = 2;
    struct sampler *s = create(p, 3);
    token_id prompt[] = {1, 1, 1};
    sampler_note_prompt(s, prompt, 3);
    float x[] = {0, 1, -5};
    assert_int_equal(sample(s, x), 1);
    assert_int_equal(sample(s, x), 0);
    sampler_destroy(s);
}

static void biases_move_and_forbid(void **state)
{
    (void)state;
    float x[64] = {0};
    struct logit_bias bias[] = {{5, 3}, {6, -100}, {7, -1000}, {8, -INFINITY}};
    struct sampling_params p = defaults();
    p.bias = bias;
    p.n_bias = 4;
    struct sampler *s = create(p, 64);
    bias[0].bias = -3; /* the sampler has its own copy */
    int drawn[64] = {0};
    for (int i = 0; i < 40000; i++)
        drawn[sample(s, x)]++;
    assert_int_equal(drawn[6] + drawn[7] + drawn[8], 0);
    double expected = 40000 * exp(3) / (exp(3) + 60);
    assert_true(fabs(drawn[5] - expected) < 5 * sqrt(expected));
    sampler_destroy(s);
}

static void ends_can_be_forbidden(void **state)
{
    (void)state;
    token_id ids[100];
    for (int i = 0; i < 100; i++)
        ids[i] = i * 3; /* more than the sampler remembers */
    for (size_t n_ends = 1; n_ends <= 100; n_ends += 33) {
        struct tokenizer t = {ids, n_ends};
        struct sampling_params p = defaults();
        p.min_p = 0.01f;
        struct sampler *s = create(p, 400);
        float x[400];
        for (int i = 0; i < 400; i++)
            x[i] = i % 3 ? 0 : 3;
        bool end_seen = false;
        struct sample out;
        for (int i = 0; i < 300; i++) {
            sampler_sample(s, x, &t, &out);
            assert_false(tokenizer_is_end(&t, out.id));
            sampler_sample(s, x, NULL, &out);
            end_seen |= tokenizer_is_end(&t, out.id);
        }
        assert_true(end_seen || n_ends == 1);
        sampler_destroy(s);
    }
}

static void broken_logits_are_survived(void **state)
{
    (void)state;
    struct rng r = {4};
    const float odd[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, -0.0f, 1e-45f};
    struct logit_bias bias[] = {{3, 100}, {4, -100}};
    for (int round = 0; round < 3000; round++) {
        uint32_t n = 5 + (uint32_t)rng_below(&r, 40);
        float x[64];
        bool any = false;
        for (uint32_t i = 0; i < n; i++) {
            x[i] = rng_below(&r, 3) ? odd[rng_below(&r, round % 2 ? 7 : 1 + (uint64_t)round / 2 % 7)] : (float)i;
            if (round % 17 == 0)
                x[i] = odd[rng_below(&r, 3)];
            any |= x[i] > -INFINITY;
        }
        struct sampling_params p = defaults();
        p.temperature = round % 4 ? (float)(round % 4) / 2 : 0;
        p.top_k = round % 5 ? 0 : 3;
        p.top_p = round % 6 ? 1 : 0.7f;
        p.min_p = round % 7 ? 0 : 0.1f;
        p.repetition_penalty = round % 3 ? 1 : 1.5f;
        p.frequency_penalty = round % 8 ? 0 : 1;
        p.bias = bias;
        p.n_bias = round % 9 ? 0 : 2;
        p.top_logprobs = 5;
        struct sampler *s = create(p, n);
        for (int i = 0; i < 4; i++) {
            struct sample out;
            sampler_sample(s, x, NULL, &out);
            assert_in_range(out.id, 0, n - 1);
            if (any && !p.n_bias) /* what is impossible is not drawn while something is possible */
                assert_true(x[out.id] > -INFINITY);
            assert_true(out.logprob >= SAMPLER_MIN_LOGPROB && out.logprob <= 1e-6f);
            for (uint32_t j = 0; j < out.n_top; j++)
                assert_true(out.top[j].logprob >= SAMPLER_MIN_LOGPROB && out.top[j].logprob <= 1e-6f);
        }
        sampler_destroy(s);
    }
}

static void all_forbidden_falls_back_to_the_arg_max(void **state)
{
    (void)state;
    struct logit_bias bias[] = {{0, -100}, {1, -100}, {2, -100}};
    struct sampling_params p = defaults();
    p.bias = bias;
    p.n_bias = 3;
    struct sampler *s = create(p, 3);
    assert_int_equal(sample(s, (float[]){1, 3, 2}), 1);
    assert_int_equal(sample(s, (float[]){NAN, NAN, NAN}), 0);
    sampler_destroy(s);
}

static void logprobs_are_the_models(void **state)
{
    (void)state;
    const uint32_t n = 6007;
    float *x = normal_logits(n, 4, 77);
    x[17] = -INFINITY;
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        max = (double)x[i] > max ? (double)x[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    double lse = max + log(sum);
    struct ranked *r = malloc(n * sizeof *r);
    assert_non_null(r);
    for (uint32_t i = 0; i < n; i++)
        r[i] = (struct ranked){(double)x[i], i};
    qsort(r, n, sizeof *r, by_rank);

    struct sampling_params p = defaults();
    p.temperature = 0.3f; /* these and all else do not change what is reported */
    p.top_p = 0.5f;
    struct logit_bias bias = {3, 50};
    p.bias = &bias;
    p.n_bias = 1;
    for (p.top_logprobs = 0; p.top_logprobs <= 20; p.top_logprobs += 10) {
        for (int filter = 0; filter < 2; filter++) {
            p.top_p = filter ? 0.5f : 1;
            struct sampler *s = create(p, n);
            struct sample out;
            sampler_sample(s, x, NULL, &out);
            assert_int_equal(out.id, 3);
            assert_float_equal(out.logprob, (float)((double)x[3] - lse), 2e-5f);
            assert_int_equal(out.n_top, p.top_logprobs);
            for (uint32_t i = 0; i < out.n_top; i++) {
                assert_int_equal(out.top[i].id, r[i].id);
                assert_float_equal(out.top[i].logprob, (float)(r[i].logit - lse), 2e-5f);
            }
            sampler_logprobs(s, x, 17, &out);
            assert_int_equal(out.id, 17);
            assert_true(out.logprob == SAMPLER_MIN_LOGPROB);
            assert_int_equal(out.n_top, p.top_logprobs);
            sampler_destroy(s);
        }
    }
    free(r);
    free(x);
}

static void logits_of_any_offset_give_the_same(void **state)
{
    (void)state;
    float x[256], y[256];
    for (int i = 0; i < 256; i++) {
        x[i] = (float)(i * 37 % 256) / 64;
        y[i] = x[i] - 4096; /* exact in float */
    }
    struct sampling_params p = defaults();
    p.top_logprobs = 3;
    struct sampler *a = create(p, 256), *b = create(p, 256);
    for (int i = 0; i < 200; i++) {
        struct sample u, v;
        sampler_sample(a, x, NULL, &u);
        sampler_sample(b, y, NULL, &v);
        assert_int_equal(u.id, v.id);
        assert_float_equal(u.logprob, v.logprob, 1e-3f);
    }
    sampler_destroy(a);
    sampler_destroy(b);
}

static void scans_equal_the_plain_loops(void **state)
{
    (void)state;
    for (size_t n = 1; n < 2600; n = n < 20 ? n + 1 : n * 2 - 3) {
        float *x = normal_logits((uint32_t)n, 6, n);
        size_t at = 0;
        double sum = 0, worst = 0;
        for (size_t i = 1; i < n; i++)
            at = x[i] > x[at] ? i : at;
        struct scan_max m = scan_max(x, n);
        assert_true(m.max == x[at] && m.at == at && m.regular);
        for (size_t i = 0; i < n; i++)
            sum += exp(((double)x[i] - (double)m.max) * 0.75);
        assert_true(fabs(scan_sum_exp(x, n, m.max, 0.75f, NULL) / sum - 1) < 1e-6);
        float e[SCAN_BLOCK];
        size_t k = n < SCAN_BLOCK ? n : SCAN_BLOCK;
        scan_exp(x, k, m.max, 1, e);
        for (size_t i = 0; i < k; i++) {
            double exact = exp((double)(x[i] - m.max));
            worst = fmax(worst, fabs((double)e[i] / exact - 1));
        }
        assert_true(worst < 2.5e-7);
        for (size_t i = 0; i < n; i = scan_above(x, i + 1, n, 3)) {
            size_t next = i;
            while (next < n && !(x[next] > 3))
                next++;
            assert_int_equal(scan_above(x, i, n, 3), next);
        }
        x[n - 1] = NAN;
        assert_false(scan_max(x, n).regular);
        x[n - 1] = INFINITY;
        assert_false(scan_max(x, n).regular);
        assert_int_equal(scan_max(x, n).at, n - 1);
        free(x);
    }
    float one;
    scan_exp((float[]){2}, 1, 2, 7, &one);
    assert_true(one == 1);
    scan_exp((float[]){-1e30f}, 1, 2, 7, &one);
    assert_true(one == 0);
}

static void parameters_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t at;
        float values[4];
    } wrong[] = {
        {"temperature", offsetof(struct sampling_params, temperature), {-1, NAN, INFINITY, -0.001f}},
        {"top_p", offsetof(struct sampling_params, top_p), {0, -1, 1.01f, NAN}},
        {"min_p", offsetof(struct sampling_params, min_p), {-0.1f, 1.1f, NAN, INFINITY}},
        {"repetition_penalty", offsetof(struct sampling_params, repetition_penalty), {0, -1, NAN, INFINITY}},
        {"presence_penalty", offsetof(struct sampling_params, presence_penalty), {-2.1f, 2.1f, NAN, INFINITY}},
        {"frequency_penalty", offsetof(struct sampling_params, frequency_penalty), {-2.1f, 2.1f, NAN, INFINITY}},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        for (int j = 0; j < 4; j++) {
            struct sampling_params p = defaults();
            memcpy((char *)&p + wrong[i].at, &wrong[i].values[j], sizeof(float));
            struct sampler *s;
            struct err e = {0};
            assert_int_equal(sampler_create(&s, &p, 10, &e), WEIR_EINVAL);
            assert_null(s);
            assert_non_null(strstr(e.msg, wrong[i].name));
        }
    }
    struct sampler *s;
    struct err e = {0};
    struct sampling_params p = defaults();
    assert_int_equal(sampler_create(&s, &p, 0, &e), WEIR_EINVAL);
    p.top_logprobs = 21;
    assert_int_equal(sampler_create(&s, &p, 10, &e), WEIR_EINVAL);
    p = defaults();
    p.n_bias = 1;
    p.bias = &(struct logit_bias){10, 1};
    assert_int_equal(sampler_create(&s, &p, 10, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "token 10"));
    p.bias = &(struct logit_bias){1, 101};
    assert_int_equal(sampler_create(&s, &p, 10, &e), WEIR_EINVAL);
    p.bias = &(struct logit_bias){1, NAN};
    assert_int_equal(sampler_create(&s, &p, 10, &e), WEIR_EINVAL);
    p.n_bias = SAMPLER_MAX_BIAS + 1;
    assert_int_equal(sampler_create(&s, &p, 10, &e), WEIR_EINVAL);
    sampler_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(draws_follow_the_distribution_of_large_vocabularies),
        cmocka_unit_test(filters_keep_the_exact_set),
        cmocka_unit_test(ties_go_to_the_lower_id),
        cmocka_unit_test(greedy_takes_the_arg_max),
        cmocka_unit_test(cold_and_hot_temperatures_are_safe),
        cmocka_unit_test(same_seed_same_tokens),
        cmocka_unit_test(penalties_follow_their_formula),
        cmocka_unit_test(presence_and_frequency_do_not_count_the_prompt),
        cmocka_unit_test(biases_move_and_forbid),
        cmocka_unit_test(ends_can_be_forbidden),
        cmocka_unit_test(broken_logits_are_survived),
        cmocka_unit_test(all_forbidden_falls_back_to_the_arg_max),
        cmocka_unit_test(logprobs_are_the_models),
        cmocka_unit_test(logits_of_any_offset_give_the_same),
        cmocka_unit_test(scans_equal_the_plain_loops),
        cmocka_unit_test(parameters_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
