/* What scheduling costs: microseconds of sched_plan, sched_commit and sched_submit with many running and many waiting.
 *
 *   sched_cost [policy]
 *
 * A steady state: as many sequences run as may, requests arrive as others end, so that the queue keeps its length. Two
 * lines for each size: memory for all of them, and little memory, so that the head of the queue waits for it.
 */
#include "base/clock.h"
#include "base/rng.h"
#include "policy/sched.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_WARM = 400, N_MEASURED = 400, N_KEYS = 50 };

struct load {
    struct sched *s;
    struct rng rng;
    double now_s;
    uint32_t *left; /* [n_ids]: output tokens to come */
    uint64_t n_ids;
    struct seq_outcome *outcomes;
    double plan_s, commit_s, submit_s, predicted_s;
    uint64_t n_plans, n_submits, n_rows;
};

static void submit(struct load *l)
{
    uint64_t id = ++l->n_ids;
    l->left[id] = 50 + (uint32_t)rng_below(&l->rng, 400);
    struct sched_request r = {.id = id,
                              .n_prompt = 50 + (uint32_t)rng_below(&l->rng, 500),
                              .max_new_tokens = 1000,
                              .key = rng_below(&l->rng, N_KEYS)};
    struct sched_event refusal;
    double began = clock_monotonic_s();
    int r2 = sched_submit(l->s, &r, l->now_s, &refusal);
    l->submit_s += clock_monotonic_s() - began;
    l->n_submits++;
    if (r2)
        abort();
}

static void step(struct load *l)
{
    struct plan p;
    double t0 = clock_monotonic_s();
    if (!sched_plan(l->s, l->now_s, &p))
        abort();
    double t1 = clock_monotonic_s();
    for (uint32_t i = 0; i < p.n_seqs; i++) {
        bool last = p.seqs[i].samples && --l->left[p.seqs[i].id] == 0;
        l->outcomes[i] = (struct seq_outcome){.sampled = p.seqs[i].samples, .finished = last};
    }
    l->n_rows += p.n_tokens;
    l->now_s += p.predicted_s > 0 ? p.predicted_s : 0.05;
    double t2 = clock_monotonic_s();
    sched_commit(l->s, &p, &(struct sched_outcome){.seqs = l->outcomes, .seconds = p.predicted_s}, l->now_s);
    double t3 = clock_monotonic_s();
    l->plan_s += t1 - t0;
    l->commit_s += t3 - t2;
    l->n_plans++;
    for (struct sched_event ev; sched_next_event(l->s, &ev);)
        submit(l);
}

static void measure(const char *policy, uint32_t n_running, uint32_t n_queued, bool tight)
{
    struct sched_config c = {.chunk_tokens = 32,
                             .n_chunks = n_running * (tight ? 12 : 48),
                             .max_running = n_running,
                             .max_queued = n_queued + n_running + 16,
                             .max_step_tokens = n_running * 4,
                             .max_context = 8192,
                             .prefix_cache = true,
                             .policy = policy,
                             .has_model = true,
                             /* Llama-3.1-8B in bf16 on a device that is fast enough for so many */
                             .model = {.n_layer = 32,
                                       .attention_bytes = 2.7e9,
                                       .ffn_bytes = 11.3e9,
                                       .output_bytes = 1.05e9,
                                       .embedding_bytes = 1.05e9,
                                       .row_params = 7e9,
                                       .output_params = 5.3e8,
                                       .kv_token_bytes = 4096,
                                       .pair_flops = 16384},
                             .device = {.bytes_per_s = 1e14, .matmul_flops_per_s = 1e17, .confidence = 1},
                             .itl_target_s = 0.1};
    struct load l = {.rng = {.state = 1}, .now_s = 1};
    struct err e;
    l.left = calloc((size_t)n_queued + 300 * (size_t)n_running + 1000000, sizeof *l.left);
    l.outcomes = calloc(n_running, sizeof *l.outcomes);
    if (!l.left || !l.outcomes || sched_create(&l.s, &c, &e)) {
        fprintf(stderr, "sched_cost: %s\n", e.msg);
        exit(1);
    }
    for (uint32_t i = 0; i < n_queued + n_running; i++)
        submit(&l);
    for (int i = 0; i < N_WARM; i++)
        step(&l);
    l.plan_s = l.commit_s = l.submit_s = 0;
    l.n_plans = l.n_submits = l.n_rows = 0;
    for (int i = 0; i < N_MEASURED; i++)
        step(&l);
    struct sched_stats st;
    sched_stats(l.s, &st);
    printf("%8u %8u %8u %7s %9.1f %9.1f %9.2f %9.1f\n", st.n_running, st.n_queued, n_running,
           tight ? "little" : "ample", 1e6 * l.plan_s / (double)l.n_plans, 1e6 * l.commit_s / (double)l.n_plans,
           1e6 * l.submit_s / (double)(l.n_submits ? l.n_submits : 1), (double)l.n_submits / (double)l.n_plans);
    fflush(stdout);
    sched_destroy(l.s);
    free(l.left);
    free(l.outcomes);
}

int main(int argc, char **argv)
{
    static const uint32_t running[] = {256, 1024, 8192}, queued[] = {0, 1000, 100000};
    printf("%8s %8s %8s %7s %9s %9s %9s %9s\n", "running", "waiting", "at most", "memory", "plan us", "commit us",
           "submit us", "arrivals");
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            for (int tight = 0; tight < 2; tight++)
                measure(argc > 1 ? argv[1] : "weir", running[i], queued[k], tight);
    return 0;
}
