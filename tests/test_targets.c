/* Inter-token targets and limits of the first token: by class of priority and by request. */
#include "policy/sched.h"
#include "test.h"

#include <math.h>

/* A device of 1 GB/s and 100 GFLOP/s, a model whose decode step takes 4 ms and a prompt's row about 30 us. */
static struct sched_config config_of(double itl_target_s, double ttft_limit_s)
{
    return (struct sched_config){.chunk_tokens = 16,
                                 .n_chunks = 8192,
                                 .max_running = 64,
                                 .max_queued = 100,
                                 .max_step_tokens = 4096,
                                 .max_context = 16384,
                                 .has_model = true,
                                 .model = {.n_layer = 2,
                                           .attention_bytes = 1e6,
                                           .ffn_bytes = 2e6,
                                           .output_bytes = 1e6,
                                           .row_params = 1.5e6,
                                           .output_params = 5e5,
                                           .kv_token_bytes = 10,
                                           .pair_flops = 10},
                                 .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e11, .confidence = 1},
                                 .itl_target_s = itl_target_s,
                                 .ttft_limit_s = ttft_limit_s};
}

struct world {
    struct sched *s;
    struct plan p;
    double now_s;
};

static void start(struct world *w, const struct sched_config *c)
{
    struct err e = {0};
    *w = (struct world){.now_s = 1};
    assert_int_equal(sched_create(&w->s, c, &e), 0);
}

static int submit(struct world *w, const struct sched_request *r, struct sched_event *refusal)
{
    struct sched_event ignored;
    return sched_submit(w->s, r, w->now_s, refusal ? refusal : &ignored);
}

static uint32_t rows_of(const struct world *w, uint64_t id)
{
    for (uint32_t i = 0; i < w->p.n_seqs; i++)
        if (w->p.seqs[i].id == id)
            return w->p.seqs[i].n_tokens;
    return 0;
}

static bool step(struct world *w)
{
    struct seq_outcome outcomes[64] = {0};
    if (!sched_plan(w->s, w->now_s, &w->p))
        return false;
    for (uint32_t i = 0; i < w->p.n_seqs; i++)
        outcomes[i].sampled = w->p.seqs[i].samples;
    w->now_s += w->p.predicted_s;
    struct plan p = w->p;
    sched_commit(w->s, &p, &(struct sched_outcome){.seqs = outcomes, .seconds = p.predicted_s}, w->now_s);
    sched_check(w->s);
    return true;
}

/* The seconds of steps in which 1 decodes while 2, a long prompt, is prefilled. */
static double longest_step_s(struct world *w, const struct sched_request *first)
{
    submit(w, first, NULL);
    for (int i = 0; i < 5; i++)
        step(w);
    submit(w, &(struct sched_request){.id = 2, .n_prompt = 12000, .max_new_tokens = 5, .priority = first->priority},
           NULL);
    double longest_s = 0;
    uint32_t n_rows = 0;
    for (int i = 0; i < 2000 && n_rows < 12000; i++) {
        assert_true(step(w));
        assert_int_equal(rows_of(w, 1), 1);
        n_rows += rows_of(w, 2);
        longest_s = w->p.predicted_s > longest_s ? w->p.predicted_s : longest_s;
    }
    assert_int_equal(n_rows, 12000);
    sched_destroy(w->s);
    return longest_s;
}

static void prefill_keeps_the_tightest_target(void **state)
{
    (void)state;
    struct world w;
    struct sched_config c = config_of(0.1, 0);
    struct sched_request r = {.id = 1, .n_prompt = 16, .max_new_tokens = 5000};
    start(&w, &c);
    double usual_s = longest_step_s(&w, &r);
    assert_true(usual_s > 0.06 && usual_s <= 0.08); /* 0.8 of the target */
    start(&w, &c);
    r.itl_target_s = 0.03;
    double own_s = longest_step_s(&w, &r);
    assert_true(own_s > 0.018 && own_s <= 0.024);
    start(&w, &c);
    r.itl_target_s = 0;
    r.priority = 1; /* four times the target */
    double flex_s = longest_step_s(&w, &r);
    assert_true(flex_s > 0.12); /* all of max_step_tokens */
    c.high.itl_target_s = 0.02;
    start(&w, &c);
    r.priority = -2;
    double high_s = longest_step_s(&w, &r);
    assert_true(high_s > 0.012 && high_s <= 0.016);
    start(&w, &c);
    r.itl_target_s = 1e-6; /* cannot be: twice what one alone takes */
    double impossible_s = longest_step_s(&w, &r);
    assert_true(impossible_s > 0.004 && impossible_s <= 0.0085);
}

/* When the one with the tight target has gone, the others' holds again. */
static void targets_go_with_their_requests(void **state)
{
    (void)state;
    struct world w;
    struct sched_config c = config_of(0.1, 0);
    start(&w, &c);
    submit(&w, &(struct sched_request){.id = 1, .n_prompt = 16, .max_new_tokens = 5000}, NULL);
    submit(&w, &(struct sched_request){.id = 3, .n_prompt = 16, .max_new_tokens = 5000, .itl_target_s = 0.02}, NULL);
    for (int i = 0; i < 3; i++)
        step(&w);
    submit(&w, &(struct sched_request){.id = 2, .n_prompt = 12000, .max_new_tokens = 5}, NULL);
    step(&w);
    assert_true(w.p.predicted_s <= 0.016);
    sched_cancel(w.s, 3, w.now_s);
    step(&w);
    assert_true(w.p.predicted_s > 0.06 && w.p.predicted_s <= 0.08);
    sched_destroy(w.s);
}

/* A tight target is not promised beside a crowd that makes it impossible. */
static void admission_keeps_the_tightest_target(void **state)
{
    (void)state;
    struct world w;
    struct sched_config c = config_of(0.1, 0);
    c.model.kv_token_bytes = 2e3; /* a context of 5,000 reads 20 MB: 20 ms */
    start(&w, &c);
    submit(&w, &(struct sched_request){.id = 1, .n_prompt = 5000, .max_new_tokens = 40}, NULL);
    for (int i = 0; i < 20; i++)
        step(&w);
    submit(&w, &(struct sched_request){.id = 2, .n_prompt = 16, .max_new_tokens = 5, .itl_target_s = 0.02}, NULL);
    step(&w);
    assert_int_equal(rows_of(&w, 2), 0);
    for (int i = 0; i < 30; i++) /* the first has ended by then */
        step(&w);
    struct sched_event ev;
    assert_true(sched_next_event(w.s, &ev) && ev.id == 1);
    assert_true(sched_next_event(w.s, &ev) && ev.id == 2 && ev.state == SCHED_FINISHED);
    sched_destroy(w.s);
}

static void a_request_may_have_a_limit_of_its_own(void **state)
{
    (void)state;
    struct world w;
    struct sched_config c = config_of(0.1, 0);
    struct sched_event refusal;
    start(&w, &c);
    for (uint64_t id = 1; id <= 10; id++) /* 0.3 s of prefill each */
        assert_int_equal(submit(&w, &(struct sched_request){.id = id, .n_prompt = 9000, .max_new_tokens = 5}, NULL), 0);
    struct sched_request r = {.id = 20, .n_prompt = 100, .max_new_tokens = 5, .ttft_limit_s = 0.5};
    assert_int_equal(submit(&w, &r, &refusal), WEIR_EBUSY);
    assert_int_equal(refusal.reason, SCHED_REFUSED_LATE);
    assert_true(refusal.retry_after_s >= 1);
    r.key = 7; /* not behind the others: a flow of its own */
    assert_int_equal(submit(&w, &r, &refusal), 0);
    r.id = 21;
    r.key = 0;
    r.ttft_limit_s = 60;
    assert_int_equal(submit(&w, &r, &refusal), 0);
    while (step(&w))
        ;
    struct sched_stats st;
    sched_stats(w.s, &st);
    assert_int_equal(st.n_finished, 12);
    sched_destroy(w.s);
    c.ttft_limit_s = 0.2; /* the server's bounds the request's */
    start(&w, &c);
    int n_taken = 0;
    for (r.id = 1, r.n_prompt = 3000; n_taken < 10 && !submit(&w, &r, &refusal); r.id++)
        n_taken++;
    assert_true(n_taken > 0 && n_taken < 5);
    sched_destroy(w.s);
}

/* A long prompt leaves time for the first tokens of short ones; alone it has all of it. */
static void a_long_prompt_does_not_freeze_newcomers(void **state)
{
    (void)state;
    static const struct sched_policy fcfs = {
        "fcfs prefill", {"fair", "age-bound", "expire", "admit-bandwidth", "time-budget", "batch"}};
    double waited_s[2], took_s[2];
    for (int k = 0; k < 2; k++) {
        struct world w;
        struct sched_config c = config_of(0.02, 0);
        c.max_context = 1 << 17;
        c.pipeline = k ? &fcfs : NULL;
        start(&w, &c);
        submit(&w, &(struct sched_request){.id = 1, .n_prompt = 16, .max_new_tokens = 5000}, NULL);
        for (int i = 0; i < 3; i++)
            step(&w);
        submit(&w, &(struct sched_request){.id = 2, .n_prompt = 65000, .max_new_tokens = 1}, NULL);
        double began_s = w.now_s;
        waited_s[k] = 0;
        took_s[k] = 0;
        for (uint64_t id = 3; took_s[k] == 0; id++) { /* every fifth step a short one arrives, twenty times */
            double submitted_s = w.now_s;
            if (id < 23)
                submit(&w, &(struct sched_request){.id = id, .n_prompt = 60, .max_new_tokens = 1}, NULL);
            for (int i = 0; i < 5 || (id == 22 && took_s[k] == 0); i++) {
                assert_true(step(&w));
                assert_true(rows_of(&w, 1) == 1 && w.p.predicted_s <= 0.016);
                for (struct sched_event ev; sched_next_event(w.s, &ev);) {
                    if (ev.id == 2)
                        took_s[k] = w.now_s - began_s;
                    else if (ev.id == id)
                        waited_s[k] = fmax(waited_s[k], w.now_s - submitted_s);
                }
            }
        }
        sched_destroy(w.s);
    }
    assert_true(waited_s[0] > 0 && waited_s[0] < 0.05); /* two steps or three */
    assert_true(waited_s[1] == 0);                      /* none was served while the long one ran */
    assert_true(took_s[0] < 1.1 * took_s[1]);           /* they took less of it than half */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_keeps_the_tightest_target),
        cmocka_unit_test(targets_go_with_their_requests),
        cmocka_unit_test(admission_keeps_the_tightest_target),
        cmocka_unit_test(a_request_may_have_a_limit_of_its_own),
        cmocka_unit_test(a_long_prompt_does_not_freeze_newcomers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
