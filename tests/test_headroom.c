/* sched_headroom against what the scheduler then does: who is within the limits is admitted by the next plan, who is
 * beyond them waits; asking changes nothing. */
#include "policy/sched.h"

#include "base/hash.h"
#include "base/rng.h"
#include "test.h"

static struct sched *make(uint32_t n_chunks)
{
    struct sched *s;
    struct err e = {0};
    struct sched_config c = {
        .chunk_tokens = 16,
        .n_chunks = n_chunks,
        .max_running = 64,
        .max_queued = 64,
        .max_step_tokens = 1 << 14,
        .max_context = 4096,
        .has_model = true,
        .model = {.n_layer = 4,
                  .attention_bytes = 1e8,
                  .ffn_bytes = 2e8,
                  .output_bytes = 1e7,
                  .row_params = 1.5e8,
                  .output_params = 5e6,
                  .kv_token_bytes = 4096,
                  .pair_flops = 8192},
        .device = {.bytes_per_s = 1e11, .matmul_flops_per_s = 1e13, .confidence = 1},
        .itl_target_s = 0.01,
    };
    if (sched_create(&s, &c, &e))
        fail_msg("%s", e.msg);
    return s;
}

static struct sched_request request(struct rng *g, uint64_t id)
{
    return (struct sched_request){
        .id = id, .n_prompt = 1 + (uint32_t)rng_below(g, 2000), .max_new_tokens = 1 + (uint32_t)rng_below(g, 1000)};
}

/* Runs a plan, in which some may end. True if nobody waits then. */
static bool step(struct sched *s, struct rng *g, double *now_s)
{
    struct plan p;
    struct seq_outcome o[64];
    struct sched_event ev;
    struct sched_stats st;
    if (!sched_plan(s, *now_s, &p))
        return true;
    for (uint32_t i = 0; i < p.n_seqs; i++) {
        o[i] = (struct seq_outcome){.sampled = p.seqs[i].samples, .finished = p.seqs[i].samples && !rng_below(g, 150)};
    }
    *now_s += p.predicted_s;
    sched_commit(s, &p, &(struct sched_outcome){.seqs = o, .seconds = p.predicted_s}, *now_s);
    while (sched_next_event(s, &ev))
        ;
    sched_stats(s, &st);
    return st.n_queued == 0;
}

static void agrees_with_admission(void **state)
{
    (void)state;
    uint32_t n_admitted = 0, n_waited = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct rng g = {seed};
        struct sched *s = make(400 + (uint32_t)rng_below(&g, 1200));
        struct sched_event refusal;
        double now_s = 0;
        for (uint64_t id = 1; id < 150; id++) {
            struct sched_stats st;
            struct sched_headroom h, again;
            struct sched_request r = request(&g, id);
            sched_stats(s, &st);
            bool can = sched_headroom(s, &r, &h);
            assert_true(can && sched_headroom(s, &r, &again));
            assert_memory_equal(&h, &again, sizeof h);
            assert_int_equal(sched_submit(s, &r, now_s, &refusal), 0);
            bool runs = step(s, &g, &now_s);
            bool is_alone = st.n_queued == 0 && st.n_running > 0;
            if (is_alone && h.share > 1) {
                assert_false(runs);
                n_waited++;
            }
            /* The present must have room too, besides the predicted peak, and the next step for its prefill. */
            uint32_t n_free = st.chunks_free, n_running = st.n_running, needed = r.n_prompt / 16 + 1 + n_running / 4;
            sched_stats(s, &st);
            bool for_prefill = !runs && st.waiting_for == SCHED_WAIT_PREFILL;
            if (is_alone && h.share <= 0.999 && needed < n_free && n_running < 60 && !for_prefill) {
                assert_true(runs);
                n_admitted++;
            }
            for (uint64_t k = rng_below(&g, 60); k; k--)
                step(s, &g, &now_s);
        }
        sched_destroy(s);
    }
    assert_true(n_admitted > 500 && n_waited > 30);
}

static void larger_and_busier_is_fuller(void **state)
{
    (void)state;
    struct sched *s = make(2000), *small = make(500);
    struct sched_headroom h, more;
    struct sched_event refusal;
    struct rng g = {1};
    double now_s = 0;
    struct sched_request r = {.id = 99, .n_prompt = 500, .max_new_tokens = 500},
                         longer = {.id = 99, .n_prompt = 3000, .max_new_tokens = 500};
    assert_true(sched_headroom(s, &r, &h) && sched_headroom(s, &longer, &more));
    assert_true(more.kv_share > h.kv_share && more.wait_s > h.wait_s && more.bandwidth_share > h.bandwidth_share);
    assert_true(sched_headroom(small, &r, &more) && more.kv_share > 3.9 * h.kv_share && more.share >= more.kv_share);
    assert_int_equal(sched_submit(s, &longer, now_s, &refusal), 0);
    r.id = 1;
    assert_true(sched_headroom(s, &r, &more) && more.wait_s > h.wait_s);
    step(s, &g, &now_s);
    assert_true(sched_headroom(s, &r, &more) && more.kv_share > h.kv_share && more.bandwidth_share > h.bandwidth_share);
    r.ttft_limit_s = 1e-3;
    assert_true(sched_headroom(s, &r, &h) && h.share >= h.wait_s / 1e-3 && h.share > more.share);
    r.n_prompt = 5000;
    assert_false(sched_headroom(s, &r, &h));
    sched_destroy(s);
    sched_destroy(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_admission),
        cmocka_unit_test(larger_and_busier_is_fuller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
