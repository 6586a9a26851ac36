/* Steps of sequences of similar length, on devices where mixed lengths cost time. */
#include "base/rng.h"
#include "policy/sched.h"
#include "test.h"

#include <math.h>

#ifdef WEIR_DEBUG
#define N_SEEDS 50
#else
#define N_SEEDS 1000
#endif

enum { MAX_SEQS = 48, MAX_LEFT_OUT = 8 };

static const struct sched_policy without = {
    "without",
    {"fair", "age-bound", "pressure", "expire", "reserve", "admit-bandwidth", "share-prefill", "time-budget", "batch"}};

/* 1 GB/s: weights take 4 ms a step, a position of the context 20 us, so 200 of them cost as much as the weights. */
static struct sched_config config_of(double waste, double weight_factor, bool with_node)
{
    return (struct sched_config){.chunk_tokens = 16,
                                 .n_chunks = 4096,
                                 .max_running = MAX_SEQS,
                                 .max_queued = 100,
                                 .max_step_tokens = 1024,
                                 .max_context = 16384,
                                 .has_model = true,
                                 .model = {.n_layer = 2,
                                           .attention_bytes = 1e6 * weight_factor,
                                           .ffn_bytes = 2e6 * weight_factor,
                                           .output_bytes = 1e6 * weight_factor,
                                           .row_params = 1.5e5,
                                           .output_params = 5e4,
                                           .kv_token_bytes = 1e4,
                                           .pair_flops = 10,
                                           .mixed_length_waste = waste},
                                 .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e11, .confidence = 1},
                                 .pipeline = with_node ? NULL : &without,
                                 .itl_target_s = 1};
}

struct world {
    struct sched *s;
    double now_s, token_s[MAX_SEQS + 1], longest_gap_s; /* from a sequence's token to its next */
    uint32_t sat_out[MAX_SEQS + 1], sat_out_most;       /* plans in a row without its only row */
    uint64_t n_sat_out, schedule, n_steps;
    uint32_t n_left[MAX_SEQS + 1], n_ended;
};

static void begin(struct world *w, const struct sched_config *c)
{
    struct err e = {0};
    *w = (struct world){.now_s = 1};
    assert_int_equal(sched_create(&w->s, c, &e), 0);
}

static void submit(struct world *w, uint64_t id, uint32_t n_prompt, uint32_t n_out)
{
    struct sched_event refusal;
    struct sched_request r = {.id = id, .n_prompt = n_prompt, .max_new_tokens = n_out};
    w->n_left[id] = n_out;
    assert_int_equal(sched_submit(w->s, &r, w->now_s, &refusal), 0);
}

static bool step(struct world *w)
{
    struct plan p;
    struct seq_outcome o[MAX_SEQS] = {0};
    struct sched_seq_view running[MAX_SEQS];
    if (!sched_plan(w->s, w->now_s, &p))
        return false;
    if (w->n_steps++ % 8 == 0)
        sched_check(w->s);
    uint32_t n = sched_view_running(w->s, running, MAX_SEQS);
    for (uint32_t i = 0; i < n; i++)
        w->sat_out[running[i].id] += running[i].n_tokens - running[i].n_past == 1;
    w->now_s += p.predicted_s;
    for (uint32_t i = 0; i < p.n_seqs; i++) {
        uint64_t id = p.seqs[i].id;
        w->sat_out[id] -= w->sat_out[id] > 0; /* not this one */
        w->n_sat_out += w->sat_out[id];
        w->sat_out_most = w->sat_out[id] > w->sat_out_most ? w->sat_out[id] : w->sat_out_most;
        w->sat_out[id] = 0;
        w->schedule = w->schedule * 31 + id * 7 + p.seqs[i].n_tokens;
        o[i].sampled = p.seqs[i].samples;
        if (!p.seqs[i].samples)
            continue;
        if (w->token_s[id] > 0)
            w->longest_gap_s = fmax(w->longest_gap_s, w->now_s - w->token_s[id]);
        w->token_s[id] = w->now_s;
        o[i].finished = --w->n_left[id] == 0;
    }
    sched_commit(w->s, &p, &(struct sched_outcome){.seqs = o, .seconds = p.predicted_s}, w->now_s);
    for (struct sched_event ev; sched_next_event(w->s, &ev); w->n_ended++)
        assert_int_equal(ev.state, SCHED_FINISHED);
    return true;
}

static double finish(struct world *w, struct sched_stats *st)
{
    double began_s = w->now_s;
    while (step(w))
        ;
    sched_stats(w->s, st);
    sched_destroy(w->s);
    return w->now_s - began_s;
}

/* Thirty of 50 tokens beside two of 4,000: together all would wait for the long ones. */
static double two_long_among_short(struct world *w, double waste, double weight_factor, bool with_node,
                                   struct sched_stats *st)
{
    struct sched_config c = config_of(waste, weight_factor, with_node);
    c.itl_target_s = 10; /* all are admitted */
    begin(w, &c);
    for (uint64_t id = 1; id <= 32; id++)
        submit(w, id, id % 16 == 7 ? 4000 : 40 + (uint32_t)id, 200);
    return finish(w, st);
}

static void it_groups_where_that_pays(void **state)
{
    (void)state;
    struct world w;
    struct sched_stats st;
    double even_s = two_long_among_short(&w, 0, 1, true, &st);
    double together_s = two_long_among_short(&w, 1, 1, false, &st);
    assert_int_equal(st.n_grouped_steps, 0);
    double grouped_s = two_long_among_short(&w, 1, 1, true, &st);
    assert_true(st.n_grouped_steps > 300 && st.n_left_out > 3000);
    assert_true(together_s > 5 * even_s && grouped_s < 1.3 * even_s);
    assert_true(st.left_out_most <= 3); /* rounds of four steps at most */
    assert_int_equal(st.n_overdue_steps, 0);
    double half_s = two_long_among_short(&w, 0.5, 1, true, &st);
    assert_true(half_s <= grouped_s * 1.01);
}

/* Where weights take longer than what is lost. */
static void it_leaves_the_batch_alone_where_it_does_not(void **state)
{
    (void)state;
    struct world a, b;
    struct sched_stats st;
    double with_s = two_long_among_short(&a, 1, 1000, true, &st);
    assert_int_equal(st.n_grouped_steps + st.n_left_out, 0);
    double without_s = two_long_among_short(&b, 1, 1000, false, &st);
    assert_true(with_s == without_s && a.schedule == b.schedule);

    struct sched_config c = config_of(1, 1, true); /* equal lengths */
    begin(&a, &c);
    for (uint64_t id = 1; id <= 32; id++)
        submit(&a, id, 100, 50);
    finish(&a, &st);
    assert_int_equal(st.n_grouped_steps, 0);
}

static void random_traffic(struct world *w, uint64_t seed, const struct sched_config *c, struct sched_stats *st)
{
    struct rng rng = {seed};
    begin(w, c);
    for (uint64_t id = 1; id <= MAX_SEQS; id++) {
        double length = exp(rng_unit(&rng) * log(3000));
        submit(w, id, 1 + (uint32_t)length, 1 + (uint32_t)rng_below(&rng, 80));
        for (uint64_t k = rng_below(&rng, 4); k > 0; k--)
            step(w);
    }
    finish(w, st);
    assert_int_equal(w->n_ended, MAX_SEQS);
}

static void without_waste_it_does_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct world a, b;
        struct sched_stats st;
        struct sched_config with = config_of(0, 1, true), other = config_of(0, 1, false);
        random_traffic(&a, seed, &with, &st);
        assert_int_equal(st.n_grouped_steps + st.n_left_out + st.n_overdue_steps + st.left_out_most, 0);
        random_traffic(&b, seed, &other, &st);
        assert_true(a.schedule == b.schedule && a.now_s == b.now_s);
    }
}

/* Who decodes sits out a bounded number of plans, and all of that is counted; nobody's gap passes the target, but by a
 * fifth at most where a long newcomer makes a round longer that has begun; and it takes half of the time in all, never
 * more. */
static void everybody_keeps_the_target(void **state)
{
    (void)state;
    uint64_t n_grouped = 0;
    double with_s = 0, without_s = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world w;
        struct sched_stats st;
        struct rng rng = {seed ^ 77};
        double waste = 0.1 + 0.9 * rng_unit(&rng), factor = exp(2 * rng_unit(&rng));
        struct sched_config c = config_of(waste, factor, true);
        c.itl_target_s = 0.3 + rng_unit(&rng);
        random_traffic(&w, seed, &c, &st);
        n_grouped += st.n_grouped_steps;
        with_s += w.now_s;
        assert_true(w.sat_out_most <= MAX_LEFT_OUT && st.left_out_most <= MAX_LEFT_OUT);
        assert_int_equal(w.sat_out_most, st.left_out_most);
        assert_int_equal(w.n_sat_out, st.n_left_out);
        if (w.longest_gap_s > 1.2 * c.itl_target_s)
            fail_msg("seed %llu: a gap of %g s, target %g", (unsigned long long)seed, w.longest_gap_s, c.itl_target_s);
        double own_s = w.now_s;
        c.pipeline = &without;
        random_traffic(&w, seed, &c, &st);
        without_s += w.now_s;
        if (own_s > w.now_s)
            fail_msg("seed %llu: %g s in all, %g without the node", (unsigned long long)seed, own_s, w.now_s);
    }
    print_message("%llu grouped steps, %.0f s in all, %.0f without\n", (unsigned long long)n_grouped, with_s,
                  without_s);
    assert_true(n_grouped > 10 * N_SEEDS && with_s < 0.6 * without_s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_groups_where_that_pays),
        cmocka_unit_test(it_leaves_the_batch_alone_where_it_does_not),
        cmocka_unit_test(without_waste_it_does_nothing),
        cmocka_unit_test(everybody_keeps_the_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
