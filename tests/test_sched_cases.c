/* Directed cases of the scheduler, and crowds. */
#include "base/rng.h"
#include "policy/sched.h"
#include "test.h"

/* A scheduler with a prefix cache and chunks of 4 tokens. */

struct bench {
    struct sched *s;
    struct plan p;
    uint64_t hashes[8][64];
    double now_s;
};

static void bench_create(struct bench *b, uint32_t n_chunks, uint32_t max_running, uint32_t max_step_tokens)
{
    struct sched_config c = {.chunk_tokens = 4,
                             .n_chunks = n_chunks,
                             .max_running = max_running,
                             .max_queued = 4,
                             .max_step_tokens = max_step_tokens,
                             .max_context = 100,
                             .prefix_cache = true};
    *b = (struct bench){.now_s = 1};
    assert_int_equal(sched_create(&b->s, &c, NULL), 0);
}

/* Request `id` whose chunks 0 .. n_shared-1 are those of everyone, and the rest its own. */
static int bench_submit(struct bench *b, uint64_t id, uint32_t n_prompt, uint32_t max_new, uint32_t n_shared,
                        int32_t priority, struct sched_event *refusal)
{
    struct sched_event ignored;
    for (uint32_t i = 0; i < n_prompt / 4; i++)
        b->hashes[id][i] = i < n_shared ? 1000 + i : id * 100 + i;
    struct sched_request r = {.id = id,
                              .n_prompt = n_prompt,
                              .max_new_tokens = max_new,
                              .chunk_hashes = b->hashes[id],
                              .n_chunk_hashes = n_prompt / 4,
                              .priority = priority};
    return sched_submit(b->s, &r, b->now_s, refusal ? refusal : &ignored);
}

static const struct plan_seq *bench_seq(const struct bench *b, uint64_t id)
{
    for (uint32_t i = 0; i < b->p.n_seqs; i++)
        if (b->p.seqs[i].id == id)
            return &b->p.seqs[i];
    return NULL;
}

static bool bench_plan(struct bench *b)
{
    bool any = sched_plan(b->s, b->now_s, &b->p);
    sched_check(b->s);
    return any;
}

static void bench_commit(struct bench *b)
{
    struct seq_outcome outcomes[8] = {0};
    for (uint32_t i = 0; i < b->p.n_seqs; i++)
        outcomes[i].sampled = b->p.seqs[i].samples;
    b->now_s += 0.5;
    sched_commit(b->s, &b->p, &(struct sched_outcome){.seqs = outcomes, .seconds = 0.5}, b->now_s);
    sched_check(b->s);
}

static uint32_t bench_finish(struct bench *b)
{
    struct sched_event ev;
    uint32_t n = 0;
    for (bool any = true; any;) {
        any = bench_plan(b);
        if (any)
            bench_commit(b);
        while (sched_next_event(b->s, &ev))
            n += ev.state == SCHED_FINISHED;
    }
    return n;
}

static void equal_prompts_at_once_are_computed_once(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 64, 4, 16);
    for (uint64_t id = 1; id <= 4; id++)
        bench_submit(&b, id, 42, 1, 10, 0, NULL);
    uint32_t n_rows = 0;
    while (bench_plan(&b)) {
        n_rows += b.p.n_tokens;
        bench_commit(&b);
        for (struct sched_event ev; sched_next_event(b.s, &ev);)
            ;
    }
    assert_int_equal(n_rows, 42 + 3 * 2); /* the first computes all, the others their last two */
    sched_destroy(b.s);
}

static void a_full_hit_computes_one_row(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 16, 2, 32);
    bench_submit(&b, 1, 8, 1, 2, 0, NULL);
    assert_int_equal(bench_finish(&b), 1);
    bench_submit(&b, 2, 8, 1, 2, 0, NULL);
    assert_true(bench_plan(&b));
    assert_int_equal(b.p.n_tokens, 1);
    assert_int_equal(b.p.seqs[0].n_past, 7);
    assert_int_equal(b.p.seqs[0].n_cached, 7);
    assert_true(b.p.seqs[0].samples);
    assert_int_equal(b.p.n_copies, 1);
    assert_int_equal(b.p.copies[0].n_tokens, 3);
    assert_int_equal(b.p.copies[0].dst, b.p.seqs[0].chunks[1]);
    bench_commit(&b);
    sched_destroy(b.s);
}

static void prompt_logits_are_computed_in_spite_of_the_cache(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 16, 2, 32);
    bench_submit(&b, 1, 17, 1, 4, 0, NULL);
    assert_int_equal(bench_finish(&b), 1);
    for (uint32_t i = 0; i < 4; i++)
        b.hashes[2][i] = 1000 + i;
    struct sched_request r = {
        .id = 2, .n_prompt = 17, .max_new_tokens = 1, .chunk_hashes = b.hashes[2], .n_chunk_hashes = 4};
    r.n_prompt_logits = 6; /* two chunks to compute, two to share */
    struct sched_event refusal;
    assert_int_equal(sched_submit(b.s, &r, b.now_s, &refusal), 0);
    assert_true(bench_plan(&b));
    assert_int_equal(b.p.seqs[0].n_past, 0);
    assert_int_equal(b.p.seqs[0].n_tokens, 8);
    bench_commit(&b);
    assert_true(bench_plan(&b));
    assert_int_equal(b.p.seqs[0].n_past, 16);
    assert_int_equal(b.p.seqs[0].n_tokens, 1);
    assert_int_equal(b.p.seqs[0].n_cached, 8);
    bench_commit(&b);
    struct sched_stats st;
    sched_stats(b.s, &st);
    assert_int_equal(st.chunks_active + st.chunks_cached, 4); /* the two computed again were not kept twice */
    sched_destroy(b.s);
}

static void decoding_goes_on_beside_a_long_prefill(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 64, 4, 8);
    bench_submit(&b, 1, 4, 50, 0, 0, NULL);
    assert_true(bench_plan(&b));
    bench_commit(&b);
    bench_submit(&b, 2, 60, 5, 0, 0, NULL);
    for (uint32_t i = 0; i < 8; i++) {
        assert_true(bench_plan(&b));
        assert_int_equal(bench_seq(&b, 1)->n_tokens, 1);
        assert_true(bench_seq(&b, 1)->samples);
        assert_int_equal(bench_seq(&b, 2)->n_past, i * 7);
        assert_int_equal(bench_seq(&b, 2)->n_tokens, i < 8 ? 7 : 4);
        assert_false(bench_seq(&b, 2)->samples);
        bench_commit(&b);
    }
    assert_true(bench_plan(&b));
    assert_int_equal(bench_seq(&b, 2)->n_tokens, 4);
    assert_true(bench_seq(&b, 2)->samples);
    bench_commit(&b);
    sched_destroy(b.s);
}

static void the_youngest_is_preempted_and_goes_on_where_it_was(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 8, 2, 32);
    bench_submit(&b, 1, 8, 20, 0, 0, NULL); /* grows to 7 chunks */
    bench_submit(&b, 2, 8, 20, 0, 0, NULL);
    uint32_t n_preempted_at = 0;
    struct sched_stats st;
    do {
        assert_true(bench_plan(&b));
        const struct plan_seq *first = bench_seq(&b, 1);
        assert_non_null(first);
        n_preempted_at = first->n_past;
        bench_commit(&b);
        sched_stats(b.s, &st);
    } while (st.n_preemptions == 0);
    assert_true(n_preempted_at < 27);
    assert_null(bench_seq(&b, 2));
    assert_int_equal(bench_finish(&b), 2);
    sched_stats(b.s, &st);
    assert_int_equal(st.generated_tokens, 40);
    assert_int_equal(st.n_preemptions, 1);
    assert_true(st.recomputed_tokens > 0);
    sched_destroy(b.s);
}

static void a_full_queue_says_when_to_come_back(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 32, 1, 16);
    for (uint64_t id = 1; id <= 4; id++)
        assert_int_equal(bench_submit(&b, id, 4, 4, 0, 0, NULL), 0);
    struct sched_event refusal;
    assert_int_equal(bench_submit(&b, 5, 4, 4, 0, 0, &refusal), WEIR_EBUSY);
    assert_true(refusal.retry_after_s > 0);
    /* One leaves the queue every 2 s (4 steps of 0.5 s): half of the queue needs about 5 s. */
    for (uint64_t next = 5; b.now_s < 200;) {
        assert_true(bench_plan(&b));
        bench_commit(&b);
        for (struct sched_event ev; sched_next_event(b.s, &ev);)
            ;
        if (bench_submit(&b, next, 4, 4, 0, 0, &refusal) == 0)
            next = next == 7 ? 1 : next + 1;
    }
    assert_int_equal(bench_submit(&b, 0, 4, 4, 0, 0, &refusal), WEIR_EINVAL);
    while (bench_submit(&b, 7, 4, 4, 0, 0, &refusal) == 0)
        ;
    if (refusal.reason == SCHED_REFUSED_QUEUE_FULL)
        assert_true(refusal.retry_after_s > 3 && refusal.retry_after_s < 8);
    sched_destroy(b.s);
}

static void priority_goes_first(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 32, 1, 16);
    bench_submit(&b, 1, 4, 2, 0, 1, NULL);
    bench_submit(&b, 2, 4, 2, 0, 0, NULL);
    bench_submit(&b, 3, 4, 2, 0, -1, NULL);
    bench_submit(&b, 4, 4, 2, 0, 0, NULL);
    static const uint64_t order[] = {3, 2, 4, 1};
    for (uint32_t i = 0; i < 8; i++) {
        assert_true(bench_plan(&b));
        assert_true(b.p.seqs[0].id == order[i / 2]);
        bench_commit(&b);
    }
    sched_destroy(b.s);
}

static void bad_configs_are_named(void **state)
{
    (void)state;
    struct sched_config good = {
        .chunk_tokens = 4, .n_chunks = 8, .max_running = 2, .max_queued = 4, .max_step_tokens = 4, .max_context = 32};
    struct sched *s;
    struct err e = {0};
    struct sched_config c = good;
    c.max_running = 5;
    assert_int_equal(sched_create(&s, &c, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "max_running"));
    c = good;
    c.policy = "lottery";
    assert_int_equal(sched_create(&s, &c, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "lottery"));
    assert_null(s);
    sched_destroy(s);
    c = good;
    c.has_model = true;
    c.model = (struct traffic_model){.n_layer = 2, .ffn_bytes = 10, .row_params = 10, .last_bytes = 11};
    assert_int_equal(sched_create(&s, &c, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "last_bytes"));
    c = good;
    c.policy = "fcfs";
    assert_int_equal(sched_create(&s, &c, &e), 0);
    sched_destroy(s);
}

/* Many at once: a hundred thousand waiting, two thousand running. */
static void a_crowd_is_served(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct sched_config c = {.chunk_tokens = 32,
                             .n_chunks = 16384,
                             .max_running = 2048,
                             .max_queued = N,
                             .max_step_tokens = 16384,
                             .max_context = 4096,
                             .prefix_cache = true};
    struct sched *s;
    assert_int_equal(sched_create(&s, &c, NULL), 0);
    struct sched_event ev;
    uint64_t *hashes = calloc(N, sizeof *hashes);
    for (uint64_t id = 1; id <= N; id++) {
        hashes[id - 1] = id % 100;
        struct sched_request r = {.id = id,
                                  .n_prompt = 32 + (uint32_t)(id % 50),
                                  .max_new_tokens = 10 + (uint32_t)(id % 30),
                                  .chunk_hashes = &hashes[id - 1],
                                  .n_chunk_hashes = 1,
                                  .priority = (int32_t)(id % 5)};
        assert_int_equal(sched_submit(s, &r, 0, &ev), 0);
    }
    struct plan p;
    struct seq_outcome *outcomes = calloc(c.max_running, sizeof *outcomes);
    uint32_t n_finished = 0, n_most = 0;
    for (double t = 0; sched_plan(s, t, &p); t += 0.1) {
        for (uint32_t i = 0; i < p.n_seqs; i++)
            outcomes[i] = (struct seq_outcome){.sampled = p.seqs[i].samples};
        n_most = p.n_seqs > n_most ? p.n_seqs : n_most;
        sched_commit(s, &p, &(struct sched_outcome){.seqs = outcomes}, t);
        while (sched_next_event(s, &ev))
            n_finished += ev.state == SCHED_FINISHED;
    }
    sched_check(s);
    assert_int_equal(n_finished, N);
    assert_true(n_most > 1500);
    free(outcomes);
    free(hashes);
    sched_destroy(s);
}

/* Well over a million events under the default policy: keys, priorities, cancels, failing steps, a device that slows
 * down by half, and outputs ten times as long as those that the predictor learned from. */
static void a_soak_loses_nobody(void **state)
{
    (void)state;
    enum { N = 200000, N_RUNNING = 256 };
    struct sched_config c = {.chunk_tokens = 16,
                             .n_chunks = 3000,
                             .max_running = N_RUNNING,
                             .max_queued = 2000,
                             .max_step_tokens = 2048,
                             .max_context = 2048,
                             .prefix_cache = true,
                             .has_model = true,
                             .model = {.n_layer = 2,
                                       .attention_bytes = 1e6,
                                       .ffn_bytes = 2e6,
                                       .output_bytes = 1e6,
                                       .row_params = 1.5e6,
                                       .output_params = 5e5,
                                       .kv_token_bytes = 100,
                                       .pair_flops = 10},
                             .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e11},
                             .ttft_limit_s = 5};
    struct sched *s;
    assert_int_equal(sched_create(&s, &c, NULL), 0);
    struct rng rng = {.state = 3};
    uint32_t *left = calloc(N + 1, sizeof *left);
    struct seq_outcome *outcomes = calloc(N_RUNNING, sizeof *outcomes);
    uint32_t n_ended = 0, n_refused = 0, n[SCHED_FAILED + 1] = {0};
    uint64_t n_events = 0;
    double now_s = 0;
    for (uint64_t id = 1; id <= N || n_ended + n_refused < N; n_events++) {
        struct sched_event ev;
        for (uint64_t k = rng_below(&rng, 3); k > 0 && id <= N; k--, id++, n_events++) {
            left[id] = (id > N / 2 ? 10 : 1) * (1 + (uint32_t)rng_below(&rng, 30));
            struct sched_request r = {.id = id,
                                      .n_prompt = 1 + (uint32_t)rng_below(&rng, 200),
                                      .max_new_tokens = 1000,
                                      .key = rng_below(&rng, 20),
                                      .priority = (int32_t)rng_below(&rng, 3) - 1};
            n_refused += sched_submit(s, &r, now_s, &ev) != 0;
        }
        if (rng_below(&rng, 10) == 0)
            sched_cancel(s, id - rng_below(&rng, id < 50 ? id : 50), now_s);
        struct plan p;
        if (sched_plan(s, now_s, &p)) {
            bool failed = rng_below(&rng, 500) == 0;
            for (uint32_t i = 0; i < p.n_seqs; i++) {
                bool sampled = p.seqs[i].samples;
                outcomes[i] =
                    (struct seq_outcome){.sampled = sampled, .finished = sampled && --left[p.seqs[i].id] == 0};
            }
            n_events += p.n_seqs;
            double seconds = p.predicted_s * (id > N / 3 && id < 2 * N / 3 ? 2 : 1);
            now_s += seconds;
            sched_commit(
                s, &p, &(struct sched_outcome){.seqs = failed ? NULL : outcomes, .failed = failed, .seconds = seconds},
                now_s);
        }
        for (; sched_next_event(s, &ev); n_ended++)
            n[ev.state]++;
        if (n_events % 997 == 0)
            sched_check(s);
    }
    sched_check(s);
    struct sched_stats st;
    sched_stats(s, &st);
    assert_int_equal(n_ended + n_refused, N);
    assert_int_equal(st.n_running + st.n_queued + st.chunks_active, 0);
    print_message("%llu events: %u finished, %u cancelled, %u failed, %u refused\n", (unsigned long long)n_events,
                  n[SCHED_FINISHED], n[SCHED_CANCELLED], n[SCHED_FAILED], n[SCHED_REFUSED] + n_refused);
    assert_true(n_events > 1000000 && n[SCHED_FINISHED] > N / 4 && n[SCHED_CANCELLED] > 0 && n[SCHED_FAILED] > 0);
    free(left);
    free(outcomes);
    sched_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_prompts_at_once_are_computed_once),
        cmocka_unit_test(a_full_hit_computes_one_row),
        cmocka_unit_test(prompt_logits_are_computed_in_spite_of_the_cache),
        cmocka_unit_test(decoding_goes_on_beside_a_long_prefill),
        cmocka_unit_test(the_youngest_is_preempted_and_goes_on_where_it_was),
        cmocka_unit_test(a_full_queue_says_when_to_come_back),
        cmocka_unit_test(priority_goes_first),
        cmocka_unit_test(bad_configs_are_named),
        cmocka_unit_test(a_crowd_is_served),
        cmocka_unit_test(a_soak_loses_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
