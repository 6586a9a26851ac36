/* A long prompt beside sequences that decode, on simulated devices that the scheduler has to get to know: the decoding
 * sequences keep their inter-token target, short requests that arrive meanwhile get their first token soon, and the long
 * prompt goes on. Devices of several speeds, whose steps differ from the scheduler's model in form and by noise, also
 * when they slow down by half on the way. */
#include "base/rng.h"
#include "policy/sched.h"
#include "test.h"

#include <math.h>

enum { N_STREAMS = 16, N_LONG = 16384, N_SHORT = 32, MAX_IDS = 512, N_SEEDS = 8 };

#define WARM_S 8.0
#define TARGET_S 0.1

/* What steps really take: each product bound by bytes or by whole tiles of rows, whichever is more; attention of prompts
 * by arithmetic on tiles, that of decoding sequences by bytes. */
struct device {
    double bytes_per_s, flops_per_s, attention_flops_per_s, kv_bytes_per_s, fixed_s;
    uint32_t tile;
    double prompt_flops_per_s,
        unpack_rows; /* of a prompt's rows, if they go a way of their own; besides those it has */
};

static const struct device cpu = {10e9, 0.35e12, 0.17e12, 60e9, 3e-4, 4, 0, 0};

static struct traffic_model two_layers(void)
{
    double attention = 2.0 * (2 * 2048 * 2048 + 2 * 512 * 2048), ffn = 2.0 * 3 * 2048 * 8192, q8 = 34.0 / 32;
    return (struct traffic_model){.n_layer = 2,
                                  .attention_bytes = q8 * attention,
                                  .ffn_bytes = q8 * ffn,
                                  .output_bytes = q8 * 32000 * 2048,
                                  .embedding_row_bytes = q8 * 2048,
                                  .row_params = attention + ffn,
                                  .output_params = 32000.0 * 2048,
                                  .kv_token_bytes = 2 * 8 * 64 * 2,
                                  .pair_flops = 4 * 32 * 64};
}

static double tiles(uint32_t n, uint32_t tile)
{
    return (double)((n + tile - 1) / tile * tile);
}

static double rows_s(const struct device *d, uint32_t n, uint32_t n_prompt)
{
    if (!(d->prompt_flops_per_s > 0) || n_prompt == 0)
        return tiles(n, d->tile) / d->flops_per_s;
    return tiles(n - n_prompt, d->tile) / d->flops_per_s +
           (tiles(n_prompt, 16) + d->unpack_rows) / d->prompt_flops_per_s;
}

/* n_prompt: rows of prompts. */
static double step_s(const struct device *d, const struct traffic_model *m, const struct plan *p, uint32_t n_prompt)
{
    double outputs = 0, seconds = d->fixed_s;
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        const struct plan_seq *q = &p->seqs[i];
        double end = q->n_past + q->n_tokens, pairs = tiles(q->n_tokens, d->tile) * (q->n_past + q->n_tokens / 2.0);
        double bytes_s = m->n_layer * m->kv_token_bytes * end / d->kv_bytes_per_s;
        seconds += fmax(bytes_s, m->n_layer * m->pair_flops * pairs / d->attention_flops_per_s);
        outputs += q->samples;
    }
    double layers = m->attention_bytes + m->ffn_bytes;
    seconds += fmax(layers / d->bytes_per_s, 2 * m->row_params * rows_s(d, p->n_tokens, n_prompt));
    return seconds + fmax(m->output_bytes / d->bytes_per_s, 2 * outputs * m->output_params / d->flops_per_s);
}

struct world {
    struct sched *s;
    struct traffic_model model;
    struct device device;
    double noise, slow_from_s, slow_until_s; /* half as fast between these */
    struct rng rng;
    double now_s, last_s[MAX_IDS], asked_s[MAX_IDS], waited_s[MAX_IDS]; /* by id */
    uint32_t n_prompt[MAX_IDS];
    uint64_t n_ids;
    uint32_t n_gaps, n_over; /* of the streams, while there are others */
    double longest_s;
    uint32_t n_open_long;
};

static uint64_t submit(struct world *w, uint32_t n_prompt, uint32_t max_new_tokens)
{
    struct sched_event refusal;
    uint64_t id = ++w->n_ids;
    assert_true(id < MAX_IDS);
    struct sched_request r = {.id = id, .n_prompt = n_prompt, .max_new_tokens = max_new_tokens};
    assert_int_equal(sched_submit(w->s, &r, w->now_s, &refusal), 0);
    w->asked_s[id] = w->now_s;
    w->n_prompt[id] = n_prompt;
    return id;
}

static double gaussian(struct rng *r)
{
    return sqrt(-2 * log(1 - rng_unit(r))) * cos(6.283185307179586 * rng_unit(r));
}

static void token(struct world *w, uint64_t id)
{
    if (!w->last_s[id])
        w->waited_s[id] = w->now_s - w->asked_s[id];
    double gap_s = w->now_s - w->last_s[id];
    if (w->n_open_long && id <= N_STREAMS && w->last_s[id]) {
        w->n_gaps++;
        w->n_over += gap_s > TARGET_S;
        w->longest_s = fmax(w->longest_s, gap_s);
    }
    w->last_s[id] = w->now_s;
}

static void step(struct world *w)
{
    struct seq_outcome outcomes[64] = {0};
    struct plan p;
    uint32_t n_prompt = 0;
    assert_true(sched_plan(w->s, w->now_s, &p));
    for (uint32_t i = 0; i < p.n_seqs; i++)
        n_prompt += p.seqs[i].n_past < w->n_prompt[p.seqs[i].id] ? p.seqs[i].n_tokens : 0;
    double slow = w->now_s >= w->slow_from_s && w->now_s < w->slow_until_s ? 2 : 1;
    double seconds = slow * step_s(&w->device, &w->model, &p, n_prompt) * exp(w->noise * gaussian(&w->rng));
    w->now_s += seconds;
    for (uint32_t i = 0; i < p.n_seqs; i++) {
        outcomes[i].sampled = p.seqs[i].samples;
        if (p.seqs[i].samples)
            token(w, p.seqs[i].id);
    }
    sched_commit(w->s, &p, &(struct sched_outcome){.seqs = outcomes, .seconds = seconds}, w->now_s);
    for (struct sched_event ev; sched_next_event(w->s, &ev);) {
        assert_int_equal(ev.state, SCHED_FINISHED);
        assert_true(ev.id > N_STREAMS);
    }
}

/* The streams decode; then n_long long prompts arrive, and a short request half a second after each one's first token. */
static void play(struct world *w, uint32_t n_long)
{
    struct sched_config c = {.chunk_tokens = 32,
                             .n_chunks = 4096,
                             .max_running = 64,
                             .max_queued = 100,
                             .max_step_tokens = 512,
                             .max_context = 20000,
                             .has_model = true,
                             .model = w->model,
                             .device = {.bytes_per_s = 20e9, .matmul_flops_per_s = 0.2e12}, /* a guess */
                             .itl_target_s = TARGET_S};
    struct err e;
    assert_int_equal(sched_create(&w->s, &c, &e), 0);
    w->now_s = 1;
    for (int i = 0; i < N_STREAMS; i++)
        submit(w, 64, 8000);
    while (w->now_s < WARM_S)
        step(w);
    uint64_t longs[2] = {0};
    for (uint32_t i = 0; i < n_long; i++)
        longs[i] = submit(w, N_LONG, 1);
    w->n_open_long = n_long;
    double next_s = w->now_s;
    for (uint64_t brief = 0; w->n_open_long;) {
        if (w->now_s >= next_s && (!brief || w->last_s[brief])) {
            brief = submit(w, N_SHORT, 1);
            next_s = w->now_s + 0.5;
        }
        step(w);
        w->n_open_long = 0;
        for (uint32_t i = 0; i < n_long; i++)
            w->n_open_long += !w->last_s[longs[i]];
        assert_true(w->now_s < 600);
    }
    sched_check(w->s);
    sched_destroy(w->s);
}

/* Of short requests, for the first token. */
static double longest_wait_s(const struct world *w, uint32_t n_long)
{
    double longest_s = 0;
    for (uint64_t id = N_STREAMS + n_long + 1; id <= w->n_ids; id++)
        longest_s = fmax(longest_s, w->last_s[id] ? w->waited_s[id] : w->now_s - w->asked_s[id]);
    return longest_s;
}

static struct device scaled(double speed)
{
    struct device d = cpu;
    d.bytes_per_s *= speed;
    d.flops_per_s *= speed;
    d.attention_flops_per_s *= speed;
    d.kv_bytes_per_s *= speed;
    return d;
}

/* Decoding alone takes half of the target, a third, a tenth. */
static void streams_keep_their_target(void **state)
{
    (void)state;
    static const double speeds[] = {0.7, 1, 3};
    for (uint64_t i = 0; i < 3 * N_SEEDS; i++) {
        double speed = speeds[i % 3];
        uint32_t n_long = speed >= 1 && i % 2 ? 2 : 1;
        struct world w = {.model = two_layers(), .device = scaled(speed), .noise = 0.05, .rng = {i}};
        play(&w, n_long);
        if (w.n_over * 100 > w.n_gaps || longest_wait_s(&w, n_long) > 0.4)
            print_message("speed %.1f, %u long, seed %u: %u of %u gaps over, longest %.3f s; short %.2f s\n", speed,
                          n_long, (unsigned)i, w.n_over, w.n_gaps, w.longest_s, longest_wait_s(&w, n_long));
        assert_true(w.n_gaps > 1000 && w.n_over * 100 <= w.n_gaps); /* p99 */
        assert_true(longest_wait_s(&w, n_long) < 0.4);
        assert_true((w.now_s - WARM_S) * speed < 60 * n_long);
    }
}

static void streams_keep_their_target_on_a_device_that_slows_down(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world w = {.model = two_layers(),
                          .device = scaled(1),
                          .noise = 0.05,
                          .slow_from_s = WARM_S + 5,
                          .slow_until_s = WARM_S + 15,
                          .rng = {seed}};
        play(&w, 1);
        assert_true(w.n_gaps > 1000 && w.n_over * 50 <= w.n_gaps); /* a few steps after each change, and p99 */
        assert_true(longest_wait_s(&w, 1) < 1);
        assert_true(w.now_s - WARM_S < 60);
    }
}

/* Prompts go a way of their own at three times the rate; decoding alone takes half of the target, or nearly all that a
 * step may. */
static void streams_keep_their_target_where_prompts_go_another_way(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 2 * N_SEEDS; i++) {
        struct world w = {.model = two_layers(), .device = scaled(i % 2 ? 0.7 : 1), .noise = 0.05, .rng = {i}};
        w.model.prompt_way = true;
        w.device.prompt_flops_per_s = 3 * w.device.flops_per_s;
        w.device.unpack_rows = 40;
        play(&w, 1);
        if (w.n_over * 100 > w.n_gaps || longest_wait_s(&w, 1) > 0.4)
            print_message("seed %u: %u of %u gaps over, longest %.3f s; short %.2f s; all %.1f s\n", (unsigned)i,
                          w.n_over, w.n_gaps, w.longest_s, longest_wait_s(&w, 1), w.now_s - WARM_S);
        assert_true(w.n_gaps > 1000 && w.n_over * 100 <= w.n_gaps); /* p99 */
        assert_true(longest_wait_s(&w, 1) < 0.4);
        assert_true(w.now_s - WARM_S < 90);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_keep_their_target),
        cmocka_unit_test(streams_keep_their_target_on_a_device_that_slows_down),
        cmocka_unit_test(streams_keep_their_target_where_prompts_go_another_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
