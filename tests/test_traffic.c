#include "policy/calibrate.h"
#include "policy/traffic.h"

#include "base/rng.h"
#include "test.h"

#include <math.h>

/* A dense model in f16: 4 layers, embd 64, 8 heads over 2 KV heads of 16, ff 128, vocab 1000. */
static struct traffic_model dense(void)
{
    double attention = 4.0 * (64 * 128 + 2 * 32 * 64 + 128 * 64), ffn = 4.0 * 3 * 64 * 128;
    return (struct traffic_model){
        .n_layer = 4,
        .attention_bytes = 2 * attention,
        .ffn_bytes = 2 * ffn,
        .norm_bytes = 4 * 2 * 64 * 4,
        .output_bytes = 1000 * 64 * 2,
        .embedding_bytes = 1000 * 64 * 2,
        .embedding_row_bytes = 128,
        .row_params = attention + ffn,
        .output_params = 1000 * 64,
        .kv_token_bytes = 2 * 2 * 16 * 2,
        .pair_flops = 4 * 8 * 16,
        .row_act_bytes = 1000,
        .output_act_bytes = 8000,
    };
}

/* What the header says, row by row and layer by layer. */
static void count(const struct traffic_model *m, uint32_t n_past, uint32_t n, uint32_t n_outputs,
                  double *read_positions, double *pairs)
{
    *read_positions = *pairs = 0;
    uint32_t block = m->kv_block_rows ? m->kv_block_rows : n, end = n_past + n;
    for (uint32_t layer = 0; layer < m->n_layer; layer++) {
        bool window = layer<m->n_layer_window, leaves_out = m->last_bytes> 0 && layer + 1 == m->n_layer;
        for (uint32_t first = leaves_out ? end - n_outputs : n_past; first < end; first += block) {
            for (uint32_t pos = 0; pos < end; pos++) {
                bool seen = false;
                for (uint32_t row = first; row < first + block && row < end; row++) {
                    bool visible = pos <= row && (!window || pos + m->window > row);
                    *pairs += visible;
                    seen |= visible;
                }
                *read_positions += seen;
            }
        }
    }
}

static void test_counts_by_definition(void **state)
{
    (void)state;
    struct rng r = {7};
    for (int i = 0; i < 400; i++) {
        struct traffic_model m = dense();
        if (i % 2) {
            m.n_layer_window = 1 + (uint32_t)rng_below(&r, 4);
            m.window = 1 + (uint32_t)rng_below(&r, 40);
        }
        if (i % 4 >= 2)
            m.kv_block_rows = 1 + (uint32_t)rng_below(&r, 20);
        if (i % 8 >= 4)
            m.last_params = (m.row_params - 4096) / 4, m.last_bytes = 2 * m.last_params;
        struct traffic_load l = {0};
        m.prompt_way = i % 16 >= 8;
        double positions = 0, pairs = 0;
        uint32_t rows = 0, outputs = 0, prompts = 0, n_seqs = 1 + (uint32_t)rng_below(&r, 4);
        for (uint32_t s = 0; s < n_seqs; s++) {
            uint32_t past = (uint32_t)rng_below(&r, 80), n = 1 + (uint32_t)rng_below(&r, i % 3 ? 1 : 60);
            double p, q;
            uint32_t n_outputs = (uint32_t)rng_below(&r, n < 3 ? n + 1 : 4), n_prompt = (uint32_t)rng_below(&r, 160);
            count(&m, past, n, n_outputs, &p, &q);
            positions += p, pairs += q, rows += n, outputs += n_outputs;
            for (uint32_t k = past; k < past + n; k++)
                prompts += k < n_prompt;
            traffic_add(&l, &m, past, n, n_prompt, n_outputs);
        }
        struct traffic_cost c;
        traffic_cost(&m, &l, &c);
        assert_true(c.kv_read_bytes == positions * m.kv_token_bytes);
        assert_true(c.attention_flops == pairs * m.pair_flops);
        assert_true(c.kv_write_bytes == 4.0 * rows * m.kv_token_bytes);
        double per_output = m.last_params + m.output_params, last = m.last_bytes + m.output_bytes;
        assert_true(c.output_flops == 2 * outputs * per_output);
        assert_true(c.matmul_flops == 2 * rows * (m.row_params - m.last_params) + c.output_flops);
        assert_true(c.output_weight_bytes == (outputs ? last : 0));
        assert_true(l.n_prompt_rows == (m.prompt_way ? prompts : 0));
        assert_true(c.prompt_flops == 2.0 * l.n_prompt_rows * (m.row_params - m.last_params));
        assert_true(c.prompt_params == (l.n_prompt_rows ? m.row_params - m.last_params : 0));
        assert_true(c.weight_bytes ==
                    m.attention_bytes + m.ffn_bytes - m.last_bytes + rows * 128 + c.output_weight_bytes);
    }
}

static void test_no_logits_no_output_matrix(void **state)
{
    (void)state;
    struct traffic_model m = dense();
    struct traffic_load l = {0};
    struct traffic_cost c;
    traffic_cost(&m, &l, &c);
    assert_true(traffic_bytes(&c) == 0 && traffic_flops(&c) == 0);
    traffic_add(&l, &m, 0, 16, 16, 0);
    traffic_cost(&m, &l, &c);
    assert_true(c.weight_bytes == m.attention_bytes + m.ffn_bytes + 16 * 128);
}

static void test_incremental(void **state)
{
    (void)state;
    struct traffic_model m = dense();
    m.n_layer_window = 2, m.window = 100;
    m.mixed_length_waste = 0.5;
    struct traffic_load l = {0}, many = {0};
    for (int i = 0; i < 9; i++)
        traffic_add(&l, &m, 777, 1, 0, 1);
    traffic_add_many(&many, &m, 9, 777, 1, 1);
    assert_memory_equal(&l, &many, sizeof l);
    struct traffic_cost c;
    traffic_cost(&m, &l, &c);
    assert_true(9 * traffic_decode_kv_bytes(&m, 777) == c.kv_read_bytes + c.kv_write_bytes);
    assert_true(c.kv_idle_bytes == 0); /* of equal length */
}

/* What mixed lengths lose, by the padded batch; nothing of it counts as moved. */
static void test_mixed_lengths(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {8000, 90, 1000, 1, 350};
    struct traffic_model m = dense();
    m.n_layer_window = 2, m.window = 400;
    struct traffic_load sum = {0};
    struct traffic_cost even, mixed, prompt;
    for (int i = 0; i < 5; i++)
        traffic_add(&sum, &m, lengths[i] - 1, 1, 0, 1);
    traffic_cost(&m, &sum, &even);
    assert_true(even.kv_idle_bytes == 0 && sum.n_decoding == 0);
    m.mixed_length_waste = 0.25;
    sum = (struct traffic_load){0};
    for (int i = 0; i < 5; i++)
        traffic_add(&sum, &m, lengths[i] - 1, 1, 0, 1);
    traffic_cost(&m, &sum, &mixed);
    double padded = 5 * 8000.0 - (8000 + 90 + 1000 + 1 + 350), near = 5 * 400.0 - (400 + 90 + 400 + 1 + 350);
    double lost = 0.25 * m.kv_token_bytes * ((m.n_layer - 2) * padded + 2 * near);
    assert_true(fabs(mixed.kv_idle_bytes - lost) <= 1e-9 * lost);
    assert_true(traffic_bytes(&mixed) == traffic_bytes(&even));
    assert_true(traffic_kv_time_bytes(&mixed) == mixed.kv_read_bytes + mixed.kv_write_bytes + mixed.kv_idle_bytes);
    traffic_add(&sum, &m, 20000, 64, UINT32_MAX, 1); /* rows of a prompt */
    traffic_cost(&m, &sum, &prompt);
    assert_true(prompt.kv_idle_bytes == mixed.kv_idle_bytes);
    struct calibration c;
    calibrate_init(&c, &m, &(struct calibrate_prior){.bytes_per_s = 1e9, .matmul_flops_per_s = 1e12});
    struct traffic_load no_waste = sum;
    no_waste.n_decoding = 0;
    double lost_s = calibrate_predict_s(&c, &sum) - calibrate_predict_s(&c, &no_waste);
    assert_true(fabs(lost_s - lost / 1e9) < 1e-9 * lost_s);
}

static void test_experts(void **state)
{
    (void)state;
    struct traffic_model m = dense();
    m.n_expert = 128, m.n_expert_used = 8, m.expert_bytes = 128e6, m.expert_params = 64e6;
    assert_true(fabs(traffic_distinct_experts(&m, 1) - 8) < 1e-9);
    assert_true(traffic_distinct_experts(&m, 0) == 0);
    assert_true(fabs(traffic_distinct_experts(&m, 1e6) - 128) < 1e-6);
    /* against drawing them */
    struct rng r = {11};
    for (uint32_t rows = 2; rows <= 64; rows *= 2) {
        double mean = 0;
        for (int trial = 0; trial < 300; trial++) {
            bool hit[128] = {0};
            for (uint32_t b = 0; b < rows; b++) {
                bool own[128] = {0};
                for (int k = 0; k < 8;) {
                    uint64_t e = rng_below(&r, 128);
                    if (!own[e])
                        own[e] = hit[e] = true, k++;
                }
            }
            for (int e = 0; e < 128; e++)
                mean += hit[e] / 300.0;
        }
        double expected = traffic_distinct_experts(&m, rows);
        assert_true(fabs(mean - expected) < 0.02 * expected);
    }
    struct traffic_load l = {0};
    struct traffic_cost c;
    traffic_add(&l, &m, 0, 1, 1, 0);
    traffic_cost(&m, &l, &c);
    double without = m.attention_bytes + m.ffn_bytes + 128;
    assert_true(fabs(c.weight_bytes - without - 8e6) < 1e-3);
    assert_true(fabs(c.matmul_flops - 2 * (m.row_params + 4e6)) < 1e-3);
    m.n_expert_used = 128;
    traffic_cost(&m, &l, &c);
    assert_true(c.weight_bytes == without + 128e6);
}

/* ---- calibration against devices that are not of its form ---- */

struct fake_device {
    double bytes_per_s, flops_per_s, attention_flops_per_s, kv_bytes_per_s, fixed_s, seq_s;
    double few_rows_flops_per_s; /* what products of up to 16 rows reach: neither side of the roofline */
    double tile;                 /* rows are rounded up to it */
    bool hard_roof;              /* max() instead of a smooth join */
    double noise, outliers;      /* deviation of log time; share of steps that take 1.5 to 6 times as long */
    double slow;                 /* all of it, times this */
    double prompt_flops_per_s;   /* of a prompt's rows in tiles of 16; 0: they go the way of all, with them */
    double unpack_rows;          /* for which those take so many times a row's time more */
};

static double arithmetic_s(const struct fake_device *d, double rows, double flops)
{
    double padded = ceil(rows / d->tile) * d->tile / rows;
    double peak =
        rows <= 16 ? d->few_rows_flops_per_s : d->flops_per_s / (1 + 48 / rows); /* efficiency rises with rows */
    return rows > 0 ? flops * padded / peak : 0;
}

static double product(const struct fake_device *d, double rows, double prompt_rows, double bytes, double flops)
{
    if (rows <= 0)
        return 0;
    double a = bytes / d->bytes_per_s, others = d->prompt_flops_per_s > 0 ? rows - prompt_rows : rows;
    double b = arithmetic_s(d, others, flops * others / rows);
    if (others < rows)
        b += flops / rows * (ceil(prompt_rows / 16) * 16 + d->unpack_rows) / d->prompt_flops_per_s;
    return d->hard_roof ? fmax(a, b) : a + 0.7 * b;
}

static double fake_step(const struct fake_device *d, const struct traffic_model *m, const struct traffic_load *l,
                        struct rng *r)
{
    struct traffic_cost c;
    traffic_cost(m, l, &c);
    double of = 2.0 * l->n_outputs * m->output_params, ob = l->n_outputs ? m->output_bytes : 0;
    double t = d->fixed_s + d->seq_s * l->n_seqs +
               product(d, l->n_rows, l->n_prompt_rows, c.weight_bytes - ob, c.matmul_flops - of) +
               product(d, l->n_outputs, 0, ob, of) + (c.kv_read_bytes + c.kv_write_bytes) / d->kv_bytes_per_s +
               c.attention_flops / d->attention_flops_per_s;
    double gauss = 0;
    for (int i = 0; i < 12; i++)
        gauss += rng_unit(r);
    t *= d->slow * exp(d->noise * (gauss - 6));
    if (rng_unit(r) < d->outliers)
        t *= 1.5 + 4.5 * rng_unit(r);
    return t;
}

/* Decode-only, prefill of many sizes, and both. */
static void draw_load(struct traffic_load *l, const struct traffic_model *m, struct rng *r)
{
    *l = (struct traffic_load){0};
    int kind = (int)rng_below(r, 4);
    if (kind != 1) {
        uint32_t n = 1u << rng_below(r, 6);
        n += (uint32_t)rng_below(r, n);
        for (uint32_t i = 0; i < n; i++)
            traffic_add(l, m, (uint32_t)(exp(log(16) + rng_unit(r) * log(500))), 1, 0, 1);
    }
    if (kind != 0) {
        uint32_t n = (uint32_t)exp(rng_unit(r) * log(2048));
        traffic_add(l, m, (uint32_t)rng_below(r, 8) * n, n, UINT32_MAX, rng_below(r, 2) ? 1 : 0);
    }
}

static struct traffic_model llama_1b(void)
{
    double attention = 16.0 * (2 * 2048 * 2048 + 2 * 512 * 2048), ffn = 16.0 * 3 * 2048 * 8192, q8 = 34.0 / 32;
    return (struct traffic_model){
        .n_layer = 16,
        .attention_bytes = q8 * attention,
        .ffn_bytes = q8 * ffn,
        .norm_bytes = 33 * 2048 * 4,
        .output_bytes = q8 * 128256 * 2048,
        .embedding_row_bytes = q8 * 2048,
        .row_params = attention + ffn,
        .output_params = 128256.0 * 2048,
        .kv_token_bytes = 2 * 8 * 64 * 2,
        .pair_flops = 4 * 32 * 64,
        .row_act_bytes = 1e6,
        .output_act_bytes = 1e6,
    };
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median absolute error over n more steps, against what the device would take without noise and outliers; learns. */
static double median_error(struct calibration *c, const struct fake_device *d, struct rng *r, int n)
{
    double errors[4096];
    assert_true(n <= 4096);
    struct fake_device clean = *d;
    struct traffic_model real = c->model; /* whatever the calibration is told of */
    clean.noise = clean.outliers = 0;
    real.prompt_way = true;
    for (int i = 0; i < n; i++) {
        struct traffic_load l, real_load;
        struct rng same = *r;
        draw_load(&l, &c->model, r);
        draw_load(&real_load, &real, &same);
        double truth = fake_step(&clean, &real, &real_load, r);
        errors[i] = fabs(calibrate_predict_s(c, &l) / truth - 1);
        double predicted = calibrate_update(c, &l, fake_step(d, &real, &real_load, r));
        assert_true(predicted > 0 && isfinite(predicted));
        for (int k = 0; k < CALIBRATE_N; k++)
            assert_true(isfinite(c->log_param[k]) && c->param[k] > 0 && c->cov[k][k] > 0);
    }
    qsort(errors, (size_t)n, sizeof *errors, by_value);
    return errors[n / 2];
}

static const struct fake_device devices[] = {
    /* a CPU socket, a small CPU, a GPU, a laptop whose caches make KV faster than weights */
    {200e9, 6e12, 2e12, 150e9, 1e-3, 2e-5, 1.2e12, 1, false, 0.03, 0.03, 1, 0, 0},
    {30e9, 0.4e12, 0.1e12, 25e9, 3e-4, 1e-6, 0.15e12, 4, true, 0.05, 0.05, 1, 0, 0},
    {3e12, 700e12, 300e12, 2.5e12, 2e-4, 1e-7, 200e12, 8, true, 0.02, 0.02, 1, 0, 0},
    {60e9, 2e12, 0.5e12, 120e9, 5e-4, 5e-6, 0.5e12, 16, false, 0.08, 0.1, 1, 0, 0},
};
#define N_DEVICES (sizeof devices / sizeof *devices)

/* Wrong by several times, as a guess would be. */
static const struct calibrate_prior guess = {.bytes_per_s = 100e9, .matmul_flops_per_s = 3e12};

static void test_calibration_is_quick(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    for (size_t d = 0; d < N_DEVICES; d++) {
        for (uint64_t seed = 1; seed <= 20; seed++) {
            struct rng r = {seed * 1000 + d};
            struct calibration c;
            calibrate_init(&c, &m, &guess);
            median_error(&c, &devices[d], &r, 200);
            double error = median_error(&c, &devices[d], &r, 400);
            if (error > 0.08)
                print_message("device %zu seed %d: median error %.3f\n", d, (int)seed, error);
            assert_true(error < 0.10);
        }
    }
}

static void test_calibration_tracks_a_slower_device(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    for (size_t d = 0; d < N_DEVICES; d++) {
        for (uint64_t seed = 1; seed <= 10; seed++) {
            struct rng r = {seed * 77 + d};
            struct calibration c;
            calibrate_init(&c, &m, &guess);
            median_error(&c, &devices[d], &r, 1500);
            struct fake_device slow = devices[d];
            slow.slow = 2;
            median_error(&c, &slow, &r, 40);
            double slowed = median_error(&c, &slow, &r, 200);
            median_error(&c, &devices[d], &r, 40);
            double back = median_error(&c, &devices[d], &r, 200);
            if (slowed > 0.1 || back > 0.1)
                print_message("device %zu seed %d: %.3f slowed, %.3f back\n", d, (int)seed, slowed, back);
            assert_true(slowed < 0.10 && back < 0.10);
        }
    }
}

/* Devices on which a prompt's rows go a way of their own, three times as fast: each as it is told of that, and not. */
static void test_prompts_have_a_rate_of_their_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_DEVICES + 2; i++) {
        struct fake_device d = {30e9, 0.9e12, 1e12, 25e9, 5e-4, 5e-6, 0.7e12, 1, true, 0.03, 0.03, 1, 2.4e12, 66};
        if (i == N_DEVICES)
            d.prompt_flops_per_s = 4.5e12, d.unpack_rows = 0;
        if (i < N_DEVICES) {
            d = devices[i];
            d.prompt_flops_per_s = 3 * d.flops_per_s;
            d.unpack_rows = 64;
        }
        double error[2] = {0};
        for (uint64_t seed = 1; seed <= 10; seed++) {
            for (int told = 0; told < 2; told++) {
                struct traffic_model m = llama_1b();
                struct rng r = {seed * 1000 + i};
                struct calibration c;
                m.prompt_way = told;
                calibrate_init(&c, &m, &guess);
                median_error(&c, &d, &r, 200);
                error[told] += median_error(&c, &d, &r, 400) / 10;
            }
        }
        print_message("device %zu: median error %.1f %% by one rate, %.1f %% by two\n", i, 100 * error[0],
                      100 * error[1]);
        assert_true(error[1] < fmax(0.9 * error[0], 0.04)); /* one is all but always bound by memory */
    }
}

/* Its rows beside those that decode: as many as a step of that time really holds. */
static void test_fit_tokens_of_a_prompt(void **state)
{
    (void)state;
    const struct fake_device d = {60e9, 1.8e12, 2e12, 50e9, 5e-4, 5e-6, 1.4e12, 1, true, 0.02, 0, 1, 4.8e12, 30};
    struct traffic_model m = llama_1b();
    m.prompt_way = true;
    struct rng r = {3};
    struct calibration c;
    struct fake_device clean = d;
    clean.noise = 0;
    calibrate_init(&c, &m, &guess);
    median_error(&c, &d, &r, 1000);
    for (uint32_t n_decoding = 1; n_decoding <= 16; n_decoding *= 4) {
        struct traffic_load l = {0};
        traffic_add_many(&l, &m, n_decoding, 500, 1, 1);
        uint32_t n = calibrate_fit_tokens(&c, &l, 0, 4096, 4096, 0.1, INFINITY);
        traffic_add(&l, &m, 0, n, 4096, 1);
        assert_int_equal(l.n_prompt_rows, n);
        double s = fake_step(&clean, &m, &l, &r);
        if (s < 0.085 || s > 0.115)
            print_message("%u rows beside %u that decode take %.3f s\n", n, n_decoding, s);
        assert_true(s > 0.085 && s < 0.115);
    }
}

/* On a device that has one way only, nothing is learned of another and no prediction depends on it. */
static void test_one_way_only(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct calibrate_prior other = guess;
    other.prompt_flops_per_s = 100 * guess.matmul_flops_per_s;
    struct calibration a, b;
    struct rng r = {8};
    calibrate_init(&a, &m, &guess);
    calibrate_init(&b, &m, &other);
    double ratio = b.param[CALIBRATE_PROMPT], unpack = b.param[CALIBRATE_UNPACK];
    for (int i = 0; i < 2000; i++) {
        struct traffic_load l;
        draw_load(&l, &m, &r);
        struct fake_device d = devices[0];
        d.slow = i < 1000 ? 1 : 3;
        double took = fake_step(&d, &m, &l, &r);
        assert_true(l.n_prompt_rows == 0);
        assert_true(calibrate_bound_s(&a, &l) == calibrate_bound_s(&b, &l));
        assert_true(calibrate_update(&a, &l, took) == calibrate_update(&b, &l, took));
    }
    assert_true(b.n_reopened > 0 && b.param[CALIBRATE_PROMPT] == ratio && b.param[CALIBRATE_UNPACK] == unpack);
}

/* A way that turns out to be no faster: its rate comes to be the other's, and predictions stay good. */
static void test_two_ways_of_one_rate(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct fake_device d = {60e9, 1.8e12, 2e12, 50e9, 5e-4, 5e-6, 1.8e12, 1, false, 0.03, 0.03, 1, 1.8e12, 10};
        struct traffic_model m = llama_1b();
        m.prompt_way = true;
        struct calibrate_prior wrong = guess;
        wrong.prompt_flops_per_s = 4 * guess.matmul_flops_per_s;
        struct calibration c;
        struct rng r = {seed};
        calibrate_init(&c, &m, &wrong);
        median_error(&c, &d, &r, 1000);
        assert_true(median_error(&c, &d, &r, 400) < 0.1);
        double at_256 = calibrate_flops_per_s(&c, 256);
        if (at_256 < 0.75 * 1.8e12 || at_256 > 1.8e12 * 1.3)
            print_message("seed %u: %.2e\n", (unsigned)seed, at_256);
        assert_true(at_256 > 0.75 * 1.8e12 && at_256 < 1.3 * 1.8e12);
    }
}

static void test_one_wild_step_does_little(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct rng r = {5};
    struct calibration c;
    calibrate_init(&c, &m, &guess);
    median_error(&c, &devices[0], &r, 500);
    struct traffic_load l = {0};
    traffic_add_many(&l, &m, 8, 1000, 1, 1);
    double before = calibrate_predict_s(&c, &l);
    calibrate_update(&c, &l, before * 1000);
    double after = calibrate_predict_s(&c, &l);
    assert_true(after >= before && after < 1.1 * before);
    struct calibration copy = c;
    assert_true(calibrate_update(&c, &l, 0) == 0 && calibrate_update(&c, &l, -1) == 0);
    assert_true(calibrate_update(&c, &l, NAN) == 0 && calibrate_update(&c, &l, INFINITY) == 0);
    struct traffic_load none = {0};
    assert_true(calibrate_update(&c, &none, 1) == 0 && calibrate_predict_s(&c, &none) == 0);
    assert_memory_equal(&c, &copy, sizeof c);
}

/* Months of one and the same step: nothing degenerates, and the rest is not forgotten. */
static void test_monotonous_load(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct rng r = {9};
    struct calibration c;
    calibrate_init(&c, &m, &guess);
    median_error(&c, &devices[0], &r, 500);
    struct traffic_load decode = {0}, prefill = {0};
    traffic_add_many(&decode, &m, 4, 500, 1, 1);
    traffic_add(&prefill, &m, 0, 512, 512, 1);
    struct fake_device clean = devices[0];
    clean.noise = clean.outliers = 0;
    for (int i = 0; i < 100000; i++)
        calibrate_update(&c, &decode, fake_step(&devices[0], &m, &decode, &r));
    assert_true(fabs(calibrate_predict_s(&c, &decode) / fake_step(&clean, &m, &decode, &r) - 1) < 0.03);
    assert_true(fabs(calibrate_predict_s(&c, &prefill) / fake_step(&clean, &m, &prefill, &r) - 1) < 0.25);
    double u = calibrate_uncertainty(&c, &prefill);
    assert_true(u > calibrate_uncertainty(&c, &decode) && u < 2);
}

/* Decode steps cannot tell the fixed overhead from the weights' time, so where the prior says that it is small, it has
 * to be. */
static void test_figures_are_found(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct rng r = {21};
    struct calibration c;
    struct fake_device d = devices[2];
    d.fixed_s = 1e-5;
    calibrate_init(&c, &m, &guess);
    median_error(&c, &d, &r, 2000);
    assert_true(fabs(calibrate_bytes_per_s(&c) / d.bytes_per_s - 1) < 0.15);
    assert_true(fabs(calibrate_kv_bytes_per_s(&c) / d.kv_bytes_per_s - 1) < 0.15);
    assert_true(fabs(calibrate_flops_per_s(&c, 2048) / d.flops_per_s - 1) < 0.15);
}

/* Hardly a step passes its bound, whatever the device, once the scheduler has seen some; and a step that took twice as
 * long as predicted makes the next bound twice as long. */
static void test_bound(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    int n_over = 0, n_steps = 0;
    for (size_t d = 0; d < N_DEVICES; d++) {
        struct rng r = {d + 1};
        struct calibration c;
        struct traffic_load l;
        struct fake_device steady = devices[d];
        steady.outliers = 0;
        calibrate_init(&c, &m, &guess);
        for (int i = 0; i < 2000; i++) {
            draw_load(&l, &m, &r);
            double bound = calibrate_bound_s(&c, &l), took = fake_step(&steady, &m, &l, &r);
            assert_true(bound > calibrate_predict_s(&c, &l));
            n_over += i >= 200 && took > bound;
            n_steps += i >= 200;
            calibrate_update(&c, &l, took);
        }
        double predicted = calibrate_predict_s(&c, &l);
        calibrate_update(&c, &l, 2 * predicted);
        assert_true(calibrate_bound_s(&c, &l) >= 2 * predicted * (1 - 1e-9));
        assert_true(calibrate_fit_tokens(&c, &l, 0, UINT32_MAX, 4096, INFINITY, calibrate_bound_s(&c, &l)) < 4096);
    }
    if (n_over * 33 > n_steps)
        print_message("%d of %d steps over their bound\n", n_over, n_steps);
    assert_true(n_over * 33 <= n_steps);
}

static void test_fit_tokens(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct rng r = {2};
    struct calibration c;
    calibrate_init(&c, &m, &guess);
    median_error(&c, &devices[0], &r, 500);
    struct traffic_load l = {0};
    traffic_add_many(&l, &m, 16, 800, 1, 1);
    double base = calibrate_predict_s(&c, &l);
    assert_int_equal(calibrate_fit_tokens(&c, &l, 0, UINT32_MAX, 4096, base * 0.5, INFINITY), 0);
    assert_int_equal(calibrate_fit_tokens(&c, &l, 0, UINT32_MAX, 0, 1, INFINITY), 0);
    assert_int_equal(calibrate_fit_tokens(&c, &l, 0, UINT32_MAX, 4096, 1e9, INFINITY), 4096);
    uint32_t last = 0;
    for (double budget = base * 1.05; budget < base * 20; budget *= 1.3) {
        uint32_t n = calibrate_fit_tokens(&c, &l, 3000, UINT32_MAX, 4096, budget, INFINITY);
        struct traffic_load with = l;
        if (n) {
            traffic_add(&with, &m, 3000, n, UINT32_MAX, 1);
            assert_true(calibrate_predict_s(&c, &with) <= budget);
        }
        assert_true(n >= last);
        last = n;
    }
    assert_true(last > 100);
}

static void test_parts_and_errors_add_up(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct rng r = {31};
    struct calibration c;
    calibrate_init(&c, &m, &guess);
    median_error(&c, &devices[1], &r, 300);
    struct traffic_load l = {0};
    traffic_add_many(&l, &m, 5, 300, 7, 1);
    struct calibrate_parts p;
    double s = calibrate_predict_parts(&c, &l, &p);
    assert_true(fabs(p.overhead_s + p.weights_s + p.kv_s + p.attention_s - s) < 1e-12 * s);
    uint64_t abs_n = 0, signed_n = 0;
    for (int i = 0; i < CALIBRATE_ABS_BUCKETS; i++)
        abs_n += c.errors.abs[i];
    for (int i = 0; i < CALIBRATE_SIGNED_BUCKETS; i++)
        signed_n += c.errors.signed_[i];
    assert_int_equal(abs_n, 300);
    assert_int_equal(signed_n, 300);
    assert_int_equal(c.errors.n, 300);

    struct calibrate_errors e = {.n = 100, .abs = {[2] = 50, [6] = 50}};
    assert_true(fabs(calibrate_error_quantile(&e, 0.5) - 0.02) < 1e-12);
    assert_true(fabs(calibrate_error_quantile(&e, 0.25) - 0.015) < 1e-12);
    assert_true(fabs(calibrate_error_quantile(&e, 1) - 0.1) < 1e-12);
}

/* A prior that was measured on the device itself is not thrown away by the first steps. */
static void test_confident_prior(void **state)
{
    (void)state;
    struct traffic_model m = llama_1b();
    struct calibrate_prior p = {.bytes_per_s = 3e12,
                                .matmul_flops_per_s = 700e12,
                                .attention_flops_per_s = 300e12,
                                .fixed_s = 2e-4,
                                .seq_s = 1e-7,
                                .confidence = 1};
    struct calibration c;
    struct rng r = {4};
    calibrate_init(&c, &m, &p);
    assert_true(median_error(&c, &devices[2], &r, 30) < 0.30);
    assert_true(median_error(&c, &devices[2], &r, 200) < 0.10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_by_definition),
        cmocka_unit_test(test_no_logits_no_output_matrix),
        cmocka_unit_test(test_incremental),
        cmocka_unit_test(test_mixed_lengths),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_calibration_is_quick),
        cmocka_unit_test(test_calibration_tracks_a_slower_device),
        cmocka_unit_test(test_one_wild_step_does_little),
        cmocka_unit_test(test_monotonous_load),
        cmocka_unit_test(test_figures_are_found),
        cmocka_unit_test(test_fit_tokens),
        cmocka_unit_test(test_prompts_have_a_rate_of_their_own),
        cmocka_unit_test(test_fit_tokens_of_a_prompt),
        cmocka_unit_test(test_one_way_only),
        cmocka_unit_test(test_two_ways_of_one_rate),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_parts_and_errors_add_up),
        cmocka_unit_test(test_confident_prior),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
