/* Accounts: parts of a step add up to what the device counted; requests' bytes add up to the engine's; what other
 * threads see of a running engine. */
#include "tokenizer_check.h"

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/watch.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

static const struct traffic_model dense = {.n_layer = 4,
                                           .attention_bytes = 40001,
                                           .ffn_bytes = 100003,
                                           .norm_bytes = 500,
                                           .output_bytes = 30011,
                                           .embedding_row_bytes = 128,
                                           .row_params = 70000,
                                           .output_params = 15000,
                                           .kv_token_bytes = 256,
                                           .kv_block_rows = 8,
                                           .last_bytes = 30007,
                                           .last_params = 15000,
                                           .pair_flops = 512,
                                           .row_act_bytes = 3000,
                                           .output_act_bytes = 1000};

static struct traffic_model experts(void)
{
    struct traffic_model m = dense;
    m.n_expert = 8;
    m.n_expert_used = 2;
    m.expert_bytes = 800009;
    m.expert_params = 400000;
    m.last_expert_bytes = 200003;
    m.last_expert_params = 100000;
    m.n_layer_window = 2;
    m.window = 16;
    return m;
}

static void parts_add_up_to_what_was_counted(void **state)
{
    (void)state;
    struct rng rng = {.state = 5};
    const struct traffic_model moe = experts(), *const models[] = {&dense, &moe, NULL};
    for (int round = 0; round < 3000; round++) {
        struct usage_part parts[100];
        struct usage_share shares[100];
        uint32_t n = 1 + (uint32_t)rng_below(&rng, 100);
        for (uint32_t i = 0; i < n; i++)
            parts[i] = (struct usage_part){.n_past = (uint32_t)rng_below(&rng, 1000),
                                           .n_rows = rng_below(&rng, 4) ? 1 : 1 + (uint32_t)rng_below(&rng, 200),
                                           .n_outputs = (uint32_t)rng_below(&rng, 2)};
        uint64_t scale = rng_below(&rng, 3) ? (uint64_t)1 << 44 : 50;
        struct step_traffic total = {.weight_bytes = rng_below(&rng, scale),
                                     .kv_read_bytes = rng_below(&rng, scale),
                                     .kv_write_bytes = rng_below(&rng, scale),
                                     .activation_bytes = rng_below(&rng, scale),
                                     .flops = (double)rng_below(&rng, scale)};
        struct usage_rates r = {.model = models[round % 3], .bytes_per_s = 1e10, .flops_per_s = round % 2 ? 1e11 : 0};
        usage_share(&r, parts, n, &total, 0.25, shares);
        struct gen_traffic sum = {0};
        double seconds = 0;
        for (uint32_t i = 0; i < n; i++) {
            gen_traffic_add(&sum, &shares[i].traffic);
            seconds += shares[i].device_s;
            assert_true(shares[i].device_s >= 0);
        }
        assert_true(sum.weight_bytes == total.weight_bytes && sum.kv_read_bytes == total.kv_read_bytes &&
                    sum.kv_write_bytes == total.kv_write_bytes && sum.activation_bytes == total.activation_bytes &&
                    (double)sum.flops == total.flops && sum.tier_bytes == 0);
        assert_true(fabs(seconds - 0.25) < 1e-9);
    }
}

/* What the device counts when it walks what the model says: each then gets its own to the byte. */
static void everybody_gets_his_own(void **state)
{
    (void)state;
    static const struct usage_part parts[] = {{100, 1, 1, 0}, {999, 1, 1, 0}, {0, 64, 0, 64}, {40, 8, 1, 0}};
    enum { N = 4 };
    struct traffic_load all = {0};
    struct traffic_cost cost, own;
    for (uint32_t i = 0; i < N; i++)
        traffic_add(&all, &dense, parts[i].n_past, parts[i].n_rows, parts[i].n_prompt, parts[i].n_outputs);
    traffic_cost(&dense, &all, &cost);
    struct step_traffic total = {.weight_bytes = (uint64_t)cost.weight_bytes,
                                 .kv_read_bytes = (uint64_t)cost.kv_read_bytes,
                                 .kv_write_bytes = (uint64_t)cost.kv_write_bytes,
                                 .activation_bytes = (uint64_t)cost.activation_bytes,
                                 .flops = traffic_flops(&cost)};
    struct usage_rates r = {.model = &dense, .bytes_per_s = 1e9, .flops_per_s = 1e9};
    struct usage_share s[N];
    usage_share(&r, parts, N, &total, 1, s);
    for (uint32_t i = 0; i < N; i++) {
        struct traffic_load l = {0};
        traffic_add(&l, &dense, parts[i].n_past, parts[i].n_rows, parts[i].n_prompt, parts[i].n_outputs);
        traffic_cost(&dense, &l, &own);
        assert_true(fabs((double)s[i].traffic.kv_read_bytes - own.kv_read_bytes) <= 1);
        assert_true(fabs((double)s[i].traffic.kv_write_bytes - own.kv_write_bytes) <= 1);
        assert_true(fabs((double)s[i].traffic.flops - traffic_flops(&own)) <= 1);
        double layers = (40001 + 100003 - 30007) / 4.0 + parts[i].n_rows * 128.0;
        double weights = layers + (parts[i].n_outputs ? (30011 + 30007) / 3.0 : 0);
        assert_true(fabs((double)s[i].traffic.weight_bytes - weights) <= 1);
    }
    assert_true(s[2].device_s > s[1].device_s); /* arithmetic counts where it takes longer */
    struct traffic_model two_ways = dense;
    struct usage_share faster[N];
    two_ways.prompt_way = true;
    r = (struct usage_rates){.model = &two_ways, .bytes_per_s = 1e9, .flops_per_s = 1e9, .prompt_flops_per_s = 2e9};
    usage_share(&r, parts, N, &total, 1, faster);
    assert_true(faster[2].device_s < s[2].device_s && faster[2].device_s > 0.5 * s[2].device_s);
    assert_memory_equal(&faster[2].traffic, &s[2].traffic, sizeof s[2].traffic);
}

static void spans_are_joined_and_bounded(void **state)
{
    (void)state;
    struct gen_usage u = {0};
    gen_usage_span(&u, GEN_QUEUED, 1, 0, 0);
    gen_usage_span(&u, GEN_PREFILL, 1.5, 10, 4);
    gen_usage_span(&u, GEN_PREFILL, 2, 10, 4);
    assert_int_equal(u.n_spans, 2);
    assert_true(u.spans[1].begin_s == 1 && u.spans[1].end_s == 2 && u.spans[1].memory_bytes == 20);
    assert_int_equal(u.spans[1].n_rows, 8);
    for (int i = 0; i < 100; i++)
        gen_usage_span(&u, i % 2 ? GEN_STALLED : GEN_DECODE, 3 + i, 1, 1);
    assert_int_equal(u.n_spans, GEN_MAX_SPANS);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < u.n_spans; i++) {
        bytes += u.spans[i].memory_bytes;
        assert_true(i == 0 || u.spans[i].begin_s == u.spans[i - 1].end_s);
    }
    assert_int_equal(bytes, 120);
    assert_true(u.spans[GEN_MAX_SPANS - 1].end_s == 102);
    double sum = 0;
    for (int i = 0; i < GEN_N_PHASES; i++)
        sum += u.phase_s[i];
    assert_true(fabs(sum - 102) < 1e-9);
}

/* ---- an engine on a device that counts at random ---- */

struct fake {
    struct device base;
    struct model model;
    float *logits;
    struct rng rng;
    struct step_result result;
    uint32_t fail_every;
    uint64_t n_steps;
};

static int fake_start(struct device *d, const struct step *s, struct err *e)
{
    struct fake *f = (struct fake *)d;
    for (uint32_t i = 0; i < s->n_outputs * N_VOCAB; i++)
        f->logits[i] = i % N_VOCAB == 'a' + f->n_steps % 7 ? 5 : 0;
    usleep(20);
    if (++f->n_steps % f->fail_every == 0)
        return err_set(e, WEIR_EIO, "told to fail");
    f->result = (struct step_result){.logits = f->logits,
                                     .seconds = 2e-5,
                                     .traffic = {.weight_bytes = rng_below(&f->rng, 1u << 30),
                                                 .kv_read_bytes = rng_below(&f->rng, 1u << 20),
                                                 .kv_write_bytes = rng_below(&f->rng, 1u << 10),
                                                 .activation_bytes = rng_below(&f->rng, 1u << 10),
                                                 .flops = (double)rng_below(&f->rng, 1u << 30)}};
    return 0;
}

static int fake_wait(struct device *d, struct step_result *out, struct err *e)
{
    (void)e;
    *out = ((struct fake *)d)->result;
    return 0;
}

static void fake_copy(struct device *d, uint32_t src, uint32_t dst, uint32_t n)
{
    (void)d, (void)src, (void)dst, (void)n;
}

static void fake_destroy(struct device *d)
{
    free(((struct fake *)d)->logits);
    free(d);
}

static const struct device_ops fake_ops = {
    .name = "fake", .destroy = fake_destroy, .start = fake_start, .wait = fake_wait, .copy_chunk = fake_copy};

struct ledger {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct gen_traffic sum;
    double device_s;
    uint64_t n_ended, n_preemptions;
    bool wrong;
    struct engine *engine;
};

static void sink(const struct gen_event *ev)
{
    struct ledger *l = ev->user;
    if (ev->has_token && ev->id % 13 == 5 && ev->n_output_tokens == 3)
        engine_cancel(l->engine, ev->id);
    if (ev->finish == FINISH_NONE)
        return;
    const struct gen_usage *u = ev->usage;
    double time = 0, waits = 0, spans = 0;
    for (int i = 0; i < GEN_N_PHASES; i++)
        time += u->phase_s[i];
    for (int i = 0; i < SCHED_N_WAITS; i++)
        waits += u->queued_s[i];
    for (uint32_t i = 0; i < u->n_spans; i++)
        spans += u->spans[i].end_s - u->spans[i].begin_s;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < u->n_spans; i++)
        bytes += u->spans[i].memory_bytes;
    pthread_mutex_lock(&l->lock);
    gen_traffic_add(&l->sum, &u->traffic);
    l->device_s += u->device_s;
    l->n_preemptions += u->n_preemptions;
    l->n_ended++;
    l->wrong |= fabs(time - spans) > 1e-6 || bytes != gen_memory_bytes(&u->traffic) || u->spans[0].phase != GEN_QUEUED;
    l->wrong |= fabs(waits - u->phase_s[GEN_QUEUED]) > 1e-6;
    l->wrong |= ev->finish == FINISH_LENGTH && u->n_steps < ev->n_output_tokens;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

struct watcher {
    struct engine *engine;
    atomic_bool stop;
    uint64_t n_steps, n_lost, last_index;
    atomic_uint n_views;
    struct gen_traffic sum;
    bool wrong;
};

static void take_steps(struct watcher *w)
{
    struct step_record r[100];
    uint64_t lost;
    uint32_t n;
    while ((n = engine_take_steps(w->engine, r, 100, &lost)) || lost) {
        w->n_lost += lost;
        for (uint32_t i = 0; i < n; i++) {
            w->wrong |= r[i].index <= w->last_index || r[i].n_prefill_rows > r[i].n_rows || !r[i].n_seqs;
            w->last_index = r[i].index;
            gen_traffic_add(&w->sum, &r[i].traffic);
            w->n_steps++;
        }
    }
}

static void *watch(void *arg)
{
    struct watcher *w = arg;
    struct engine_stats before = {0}, st;
    while (!atomic_load(&w->stop)) {
        engine_stats(w->engine, &st);
        w->wrong |= st.n_steps < before.n_steps || st.traffic.weight_bytes < before.traffic.weight_bytes;
        w->wrong |= st.sched.chunks_free + st.sched.chunks_active + st.sched.chunks_cached != st.sched.chunks_total;
        before = st;
        take_steps(w);
        engine_ask_view(w->engine);
        const struct engine_view *v = engine_take_view(w->engine);
        if (v) {
            atomic_fetch_add(&w->n_views, 1);
            w->wrong |= v->n_running > 8 || v->n_cells != 30;
            for (uint32_t i = 0; i < v->n_cells; i++)
                w->wrong |= v->cells[i] < SCHED_CHUNK_SHARED || v->cells[i] >= (int16_t)v->n_running;
        }
        usleep(200);
    }
    return NULL;
}

static struct fake *fake_create(const struct engine_config *c)
{
    struct fake *f = calloc(1, sizeof *f);
    f->model.n_vocab = N_VOCAB;
    f->base = (struct device){.ops = &fake_ops, .model = &f->model, .config = engine_device_config(c)};
    f->logits = calloc((size_t)f->base.config.max_outputs * N_VOCAB, sizeof *f->logits);
    f->rng.state = 3;
    f->fail_every = 101;
    return f;
}

static void submit_all(struct engine *en, struct ledger *l, uint32_t n)
{
    struct rng rng = {.state = 11};
    for (uint32_t i = 0; i < n; i++) {
        struct err e;
        uint64_t id;
        struct gen_request r = {.n_prompt = 1 + (uint32_t)rng_below(&rng, 40),
                                .max_new_tokens = 1 + (uint32_t)rng_below(&rng, 60),
                                .sink = sink,
                                .user = l};
        sampling_params_default(&r.sampling);
        r.prompt = malloc(r.n_prompt * sizeof *r.prompt);
        for (uint32_t k = 0; k < r.n_prompt; k++)
            r.prompt[k] = (int32_t)rng_below(&rng, 3);
        while (engine_submit(en, &r, &id, &e))
            usleep(100);
        usleep(i % 20 ? 100 : 3000); /* now and then the queue runs dry */
    }
}

static void requests_add_up_to_the_engine(void **state)
{
    (void)state;
    enum { N = 400 };
    struct engine_config c = {.sched = {.chunk_tokens = 4,
                                        .n_chunks = 30,
                                        .max_running = 8,
                                        .max_queued = 40,
                                        .max_step_tokens = 24,
                                        .max_context = 112,
                                        .prefix_cache = true,
                                        .policy = "fcfs",
                                        .has_model = true,
                                        .model = dense,
                                        .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e9}},
                              .max_inbox = 40};
    struct tokenizer *t = byte_tokenizer();
    struct ledger l = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct err e = {0};
    if (engine_create_on(&l.engine, &fake_create(&c)->base, t, &c, &e))
        fail_msg("%s", e.msg);
    struct watcher w = {.engine = l.engine};
    pthread_t thread;
    pthread_create(&thread, NULL, watch, &w);
    submit_all(l.engine, &l, N);
    pthread_mutex_lock(&l.lock);
    while (l.n_ended < N)
        pthread_cond_wait(&l.changed, &l.lock);
    pthread_mutex_unlock(&l.lock);
    struct engine_stats st;
    do {
        engine_stats(l.engine, &st);
        usleep(1000);
    } while (st.sched.n_running + st.sched.n_queued > 0 || !engine_idle(l.engine));
    for (int i = 0; i < 2000 && !atomic_load(&w.n_views); i++) /* also from an idle engine */
        usleep(1000);
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    take_steps(&w);
    assert_false(l.wrong);
    assert_false(w.wrong);
    assert_true(atomic_load(&w.n_views) > 0);
    assert_int_equal(w.n_steps + w.n_lost, st.n_steps);
    assert_true(st.traffic.weight_bytes == l.sum.weight_bytes && st.traffic.kv_read_bytes == l.sum.kv_read_bytes &&
                st.traffic.kv_write_bytes == l.sum.kv_write_bytes &&
                st.traffic.activation_bytes == l.sum.activation_bytes && st.traffic.flops == (double)l.sum.flops);
    assert_true(w.n_lost || w.sum.weight_bytes == st.traffic.weight_bytes);
    assert_true(fabs(l.device_s - st.busy_s) < 1e-6);
    assert_true(l.n_preemptions > 0 && st.n_failed_steps > 0);
    assert_true(l.n_preemptions <= st.sched.n_preemptions);
    engine_destroy(l.engine);
    tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_add_up_to_what_was_counted),
        cmocka_unit_test(everybody_gets_his_own),
        cmocka_unit_test(spans_are_joined_and_bounded),
        cmocka_unit_test(requests_add_up_to_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
