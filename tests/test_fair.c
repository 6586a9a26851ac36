/* Fair queueing between API keys, priorities, the age bound. */
#include "base/rng.h"
#include "policy/sched.h"
#include "test.h"

enum { MAX_IDS = 70000 };

/* A scheduler on a device whose steps take what its model predicts; what each request did, by id. */
struct line {
    struct sched *s;
    double now_s;
    uint64_t n_ids;
    double submitted_s[MAX_IDS], started_s[MAX_IDS]; /* started_s: 0 until it had rows */
    uint32_t n_tokens[MAX_IDS], n_end[MAX_IDS];
    uint64_t key[MAX_IDS];
    double busy_s[8]; /* by key, of steps of one sequence */
    uint32_t n_ended, n_steps;
};

static const struct traffic_model model = {.n_layer = 2,
                                           .attention_bytes = 1e6,
                                           .ffn_bytes = 2e6,
                                           .output_bytes = 1e6,
                                           .row_params = 1.5e6,
                                           .output_params = 5e5,
                                           .kv_token_bytes = 1e4,
                                           .pair_flops = 1e4};

static struct sched_config config_of(uint32_t max_running, uint32_t max_queued)
{
    return (struct sched_config){.chunk_tokens = 16,
                                 .n_chunks = 4096,
                                 .max_running = max_running,
                                 .max_queued = max_queued,
                                 .max_step_tokens = 256,
                                 .max_context = 1024,
                                 .has_model = true,
                                 .model = model,
                                 .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e11, .confidence = 1},
                                 .itl_target_s = 1,
                                 .age_bound_s = 1e6};
}

static struct line *line_create(const struct sched_config *c)
{
    struct line *l = calloc(1, sizeof *l);
    struct err e = {0};
    assert_int_equal(sched_create(&l->s, c, &e), 0);
    return l;
}

static void line_destroy(struct line *l)
{
    sched_destroy(l->s);
    free(l);
}

static uint64_t submit(struct line *l, uint64_t key, int32_t priority, uint32_t n_prompt, uint32_t n_out)
{
    uint64_t id = ++l->n_ids;
    assert_true(id < MAX_IDS);
    struct sched_event refusal;
    struct sched_request r = {
        .id = id, .n_prompt = n_prompt, .max_new_tokens = n_out, .priority = priority, .key = key};
    assert_int_equal(sched_submit(l->s, &r, l->now_s, &refusal), 0);
    l->submitted_s[id] = l->now_s;
    l->n_tokens[id] = n_prompt;
    l->n_end[id] = n_prompt + n_out;
    l->key[id] = key;
    return id;
}

static bool step(struct line *l)
{
    struct plan p;
    struct seq_outcome outcomes[64] = {0};
    if (!sched_plan(l->s, l->now_s, &p))
        return false;
    for (uint32_t i = 0; i < p.n_seqs; i++) {
        uint64_t id = p.seqs[i].id;
        if (l->started_s[id] == 0)
            l->started_s[id] = l->now_s;
        outcomes[i].sampled = p.seqs[i].samples;
        l->n_tokens[id] += p.seqs[i].samples;
        outcomes[i].finished = l->n_tokens[id] == l->n_end[id];
    }
    double seconds = p.predicted_s > 0 ? p.predicted_s : 0.01;
    l->now_s += seconds;
    if (p.n_seqs == 1 && l->key[p.seqs[0].id] < 8)
        l->busy_s[l->key[p.seqs[0].id]] += seconds;
    sched_commit(l->s, &p, &(struct sched_outcome){.seqs = outcomes, .seconds = seconds}, l->now_s);
    if (++l->n_steps % 32 == 0)
        sched_check(l->s);
    for (struct sched_event ev; sched_next_event(l->s, &ev);)
        l->n_ended++;
    return true;
}

static uint32_t started_of(const struct line *l, uint64_t key)
{
    uint32_t n = 0;
    for (uint64_t id = 1; id <= l->n_ids; id++)
        n += l->key[id] == key && l->started_s[id] > 0;
    return n;
}

static void a_heavy_key_does_not_delay_a_light_one(void **state)
{
    (void)state;
    struct sched_config c = config_of(2, 1000);
    struct line *l = line_create(&c);
    l->now_s = 1;
    for (int i = 0; i < 500; i++)
        submit(l, 1, 0, 200, 20);
    for (int i = 0; i < 30; i++)
        step(l);
    for (int round = 0; round < 10; round++) {
        uint32_t before = started_of(l, 1);
        uint64_t id = submit(l, 2, 0, 200, 20);
        while (l->started_s[id] == 0)
            assert_true(step(l));
        assert_true(started_of(l, 1) - before <= 3); /* of hundreds that came earlier */
        for (int i = 0; i < 10; i++)
            step(l);
    }
    while (step(l))
        ;
    assert_int_equal(l->n_ended, l->n_ids);
    line_destroy(l);
}

/* Two keys that always want more: one with few long requests, one with many short ones. */
static void shares_are_of_bytes_not_of_requests(void **state)
{
    (void)state;
    struct sched_config c = config_of(1, 4000);
    struct line *l = line_create(&c);
    l->now_s = 1;
    for (int i = 0; i < 100; i++)
        submit(l, 1, 0, 800, 100);
    for (int i = 0; i < 1000; i++)
        submit(l, 2, 0, 80, 10);
    for (int i = 0; i < 5000; i++)
        step(l);
    double ratio = l->busy_s[2] / l->busy_s[1];
    assert_true(started_of(l, 1) >= 5 && ratio > 0.8 && ratio < 1.25);
    line_destroy(l);
}

static void a_priority_is_a_weight(void **state)
{
    (void)state;
    struct sched_config c = config_of(1, 4000);
    struct line *l = line_create(&c);
    l->now_s = 1;
    for (int i = 0; i < 300; i++) {
        submit(l, 1, 1, 100, 10); /* weights 1/4, 1 and 4 */
        submit(l, 2, 0, 100, 10);
        submit(l, 3, -1, 100, 10);
    }
    while (started_of(l, 3) < 200)
        step(l);
    assert_true(started_of(l, 2) >= 40 && started_of(l, 2) <= 60);
    assert_true(started_of(l, 1) >= 8 && started_of(l, 1) <= 16);
    uint64_t id = submit(l, 1, -1, 100, 10); /* its own backlog does not hold it up */
    for (int i = 0; i < 60; i++)
        step(l);
    assert_true(l->started_s[id] > 0);
    line_destroy(l);
}

/* A key that was predicted to move little and moves much pays with its next requests. */
static void what_was_moved_corrects_what_was_predicted(void **state)
{
    (void)state;
    struct sched_config c = config_of(1, 200);
    struct line *l = line_create(&c);
    l->now_s = 1;
    for (int round = 0; round < 60; round++) { /* each keeps one in the queue; key 1's are ten times as long */
        submit(l, 1, 0, 50, 500);
        submit(l, 2, 0, 50, 50);
    }
    for (int i = 0; i < 4000; i++)
        step(l);
    double first = 0, second = 0;
    for (uint64_t id = 1; id <= l->n_ids; id++)
        *(l->key[id] == 1 ? &first : &second) += l->started_s[id] > 0;
    assert_true(second > 1.5 * first); /* limits are known: the prediction already differs */
    line_destroy(l);
}

static void age_goes_first(void **state)
{
    (void)state;
    static const char *const policies[] = {"weir", "fcfs"};
    for (int k = 0; k < 2; k++) {
        struct sched_config c = config_of(1, 1000);
        c.policy = policies[k];
        c.age_bound_s = 2;
        struct line *l = line_create(&c);
        l->now_s = 1;
        for (int i = 0; i < 5; i++)
            submit(l, 1, 3, 20, 5);
        double waited_s = 0;
        for (int i = 0; i < 2000; i++) { /* there is always one of high priority */
            struct sched_stats st;
            sched_stats(l->s, &st);
            while (st.n_queued++ < 10)
                submit(l, 2, -3, 100, 5);
            step(l);
        }
        for (uint64_t id = 1; id <= 5; id++) {
            assert_true(l->started_s[id] > 0);
            waited_s =
                l->started_s[id] - l->submitted_s[id] > waited_s ? l->started_s[id] - l->submitted_s[id] : waited_s;
        }
        assert_true(waited_s < c.age_bound_s + 1); /* ten admissions at 0.05 s */
        line_destroy(l);
    }
}

/* More keys than are remembered. */
static void keys_are_bounded(void **state)
{
    (void)state;
    struct sched_config c = config_of(64, 26000);
    struct line *l = line_create(&c);
    l->now_s = 1;
    for (uint64_t key = 1; key <= 5500; key++)
        submit(l, key, 0, 8, 1);
    for (int i = 0; i < 50; i++)
        step(l);
    for (uint64_t key = 1; key <= 20000; key++) {
        submit(l, key * 977, 0, 8, 1);
        if (key % 50 == 0)
            step(l);
    }
    while (step(l))
        ;
    assert_int_equal(l->n_ended, l->n_ids);
    line_destroy(l);
}

/* Whatever the lengths: of keys that always want more, none gets ahead by more than a few requests. */
static void random_backlogs_share_alike(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct rng rng = {.state = seed};
        struct sched_config c = config_of(1, 4000);
        struct line *l = line_create(&c);
        l->now_s = 1;
        uint64_t n_keys = 2 + rng_below(&rng, 4);
        for (uint64_t key = 1; key <= n_keys; key++) {
            uint32_t prompt = 30 + (uint32_t)rng_below(&rng, 700), out = 1 + (uint32_t)rng_below(&rng, 60);
            for (uint32_t i = 0; i < 500; i++)
                submit(l, key, 0, 1 + (uint32_t)rng_below(&rng, prompt), 1 + (uint32_t)rng_below(&rng, out));
        }
        bool all_wait = true;
        for (int i = 0; i < 2500 && all_wait; i++) {
            step(l);
            for (uint64_t key = 1; key <= n_keys && i % 20 == 0; key++)
                all_wait &= started_of(l, key) < 480;
        }
        double low = 1e30, high = 0;
        for (uint64_t key = 1; key <= n_keys; key++) {
            low = l->busy_s[key] < low ? l->busy_s[key] : low;
            high = l->busy_s[key] > high ? l->busy_s[key] : high;
        }
        if (!(high - low <= 0.15 * high + 1)) /* a long request takes up to 1 s */
            fail_msg("seed %u: %g s of one key, %g s of another", (unsigned)seed, high, low);
        line_destroy(l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_heavy_key_does_not_delay_a_light_one),
        cmocka_unit_test(shares_are_of_bytes_not_of_requests),
        cmocka_unit_test(a_priority_is_a_weight),
        cmocka_unit_test(what_was_moved_corrects_what_was_predicted),
        cmocka_unit_test(age_goes_first),
        cmocka_unit_test(keys_are_bounded),
        cmocka_unit_test(random_backlogs_share_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
