/* The device's edges: refused configurations and steps, worker teams of any size, counted traffic, chunk copies. */
#include "test.h"

#include "device/cpu/team.h"
#include "device/device.h"
#include "model/forward.h"
#include "model/model.h"

#include <math.h>
#include <stdatomic.h>

struct fixture {
    struct model *model;
    struct forward *forward;
};

static void open_model(struct fixture *f, const char *path)
{
    struct err e = {0};
    struct gguf *g = NULL;
    if (gguf_open(&g, path, &e) || model_open(&f->model, g, &e) || forward_create(&f->forward, f->model, &e))
        fail_msg("%s: %s", path, e.msg);
}

static void close_model(struct fixture *f)
{
    forward_destroy(f->forward);
    model_close(f->model);
}

static struct device_config small_config(void)
{
    return (struct device_config){.n_threads = 2,
                                  .kv_type = KV_F16,
                                  .chunk_tokens = 16,
                                  .n_chunks = 8,
                                  .max_step_tokens = 32,
                                  .max_step_seqs = 3,
                                  .max_outputs = 4,
                                  .max_context = 64};
}

static struct device *create(const struct fixture *f, const struct device_config *c)
{
    struct err e = {0};
    struct device *d = NULL;
    if (device_cpu_create(&d, f->forward, c, &e))
        fail_msg("%s", e.msg);
    return d;
}

static void run(struct device *d, const struct step *s, struct step_result *r)
{
    struct err e = {0};
    if (device_start(d, s, &e) || device_wait(d, r, &e))
        fail_msg("%s", e.msg);
}

/* By the model and the type alone: Mixtral's, 40 of which 8 are used, and Qwen3's 128 of which 8 are. */
static void test_experts_that_fill_tiles(void **state)
{
    (void)state;
    assert_true(device_cpu_experts_fill_tiles(8, 2, false) && device_cpu_experts_fill_tiles(8, 2, true));
    assert_true(device_cpu_experts_fill_tiles(40, 8, false) && !device_cpu_experts_fill_tiles(40, 8, true));
    assert_false(device_cpu_experts_fill_tiles(128, 8, false) || device_cpu_experts_fill_tiles(128, 8, true));
}

/* ---- teams ---- */

struct relay {
    struct team *team;
    uint32_t rounds, cells[64];
    atomic_uint wrong;
};

/* Each worker writes its cell, meets the others, and checks its neighbour's. */
static void relay_worker(void *user, uint32_t thread)
{
    struct relay *r = user;
    uint32_t n = team_size(r->team);
    for (uint32_t i = 1; i <= r->rounds; i++) {
        r->cells[thread] = i;
        team_barrier(r->team);
        if (r->cells[(thread + 1) % n] != i)
            atomic_fetch_add(&r->wrong, 1);
        team_barrier(r->team);
    }
}

static void test_team(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 1, 2, 3, 7, 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int pin = 0; pin < 2; pin++) {
            struct err e = {0};
            struct relay r = {.rounds = sizes[i] > 8 ? 20 : 200};
            if (team_create(&r.team, sizes[i], pin, &e))
                fail_msg("%s", e.msg);
            assert_true(sizes[i] ? team_size(r.team) == sizes[i] : team_size(r.team) >= 1);
            if (team_size(r.team) > 64)
                skip();
            for (int job = 0; job < 5; job++)
                team_run(r.team, relay_worker, &r);
            assert_int_equal(atomic_load(&r.wrong), 0);
            team_destroy(r.team);
        }
    }
    struct err e = {0};
    struct team *t = NULL;
    assert_int_equal(team_create(&t, TEAM_MAX_THREADS + 1, false, &e), WEIR_EINVAL);
    team_destroy(NULL);
}

/* Sleeping workers are woken again. */
static void test_team_sleeps(void **state)
{
    (void)state;
    struct relay r = {.rounds = 3};
    assert_int_equal(team_create(&r.team, 3, false, NULL), 0);
    for (int job = 0; job < 5; job++) {
        usleep(3000);
        team_run(r.team, relay_worker, &r);
    }
    assert_int_equal(atomic_load(&r.wrong), 0);
    team_destroy(r.team);
}

/* ---- devices ---- */

static void expect_no_device(const struct fixture *f, const struct device_config *c, int code, const char *words)
{
    struct err e = {0};
    struct device *d = NULL;
    int rc = device_cpu_create(&d, f->forward, c, &e);
    if (rc != code || !strstr(e.msg, words))
        fail_msg("expected %s with \"%s\", got %d: %s", err_name(code), words, rc, e.msg);
}

static void test_refused_configs(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, "tests/golden/llama3.gguf");
    assert_int_not_equal(f.model->head_dim % 32, 0);
    struct device_config c = small_config();
    c.chunk_tokens = KV_CHUNK_MAX_TOKENS + 1;
    expect_no_device(&f, &c, WEIR_EINVAL, "chunks of 257 tokens");
    c.chunk_tokens = 0;
    expect_no_device(&f, &c, WEIR_EINVAL, "chunks of 0 tokens");
    c.chunk_tokens = 24;
    expect_no_device(&f, &c, WEIR_EINVAL, "chunks of 24 tokens; the device supports multiples of 16");
    c = small_config();
    c.n_chunks = 0;
    expect_no_device(&f, &c, WEIR_EINVAL, "at least one chunk");
    c = small_config();
    c.max_step_tokens = 1u << 20;
    expect_no_device(&f, &c, WEIR_EINVAL, "a step of 1048576 tokens");
    c = small_config();
    c.kv_type = KV_Q8_0;
    expect_no_device(&f, &c, WEIR_EUNSUPPORTED, "heads of 16 elements");
    c = small_config();
    c.n_threads = 5000;
    expect_no_device(&f, &c, WEIR_EINVAL, "5000 threads");
    close_model(&f);
}

static void expect_no_step(struct device *d, const struct step *s, const char *words)
{
    struct err e = {0};
    int rc = device_start(d, s, &e);
    if (rc != WEIR_EINVAL || !strstr(e.msg, words))
        fail_msg("expected EINVAL with \"%s\", got %d: %s", words, rc, e.msg);
}

static void test_refused_steps(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, "tests/golden/llama3.gguf");
    struct device_config c = small_config();
    struct device *d = create(&f, &c);
    int32_t tokens[40] = {1, 2, 3};
    const uint32_t chunks[4] = {0, 1, 2, 3}, far[4] = {0, 8, 2, 3}, outputs[5] = {2, 1, 2, 3, 4};
    struct step_seq q[4] = {{.n_rows = 3, .chunks = chunks, .n_chunks = 1}};
    const struct step good = {.n_rows = 3, .n_seqs = 1, .tokens = tokens, .seqs = q, .output_rows = outputs};

    struct step s = good;
    s.n_rows = 0;
    expect_no_step(d, &s, "a step of 0 rows");
    s.n_rows = 33;
    expect_no_step(d, &s, "a step of 33 rows");
    s = good;
    s.n_seqs = 4;
    expect_no_step(d, &s, "4 sequences");
    s = good;
    s.n_outputs = 5;
    expect_no_step(d, &s, "5 outputs");
    s.n_outputs = 2;
    expect_no_step(d, &s, "output row 1 is out of range or order");
    s = good;
    s.n_rows = 4;
    expect_no_step(d, &s, "has 4 rows but its sequences 3");
    tokens[1] = -1;
    expect_no_step(d, &good, "token -1 of row 1");
    tokens[1] = (int32_t)f.model->n_vocab;
    expect_no_step(d, &good, "is not in the vocabulary");
    tokens[1] = 2;
    q[0].n_past = 62;
    expect_no_step(d, &good, "reaches 65 tokens; the device's context is 64");
    q[0].n_past = UINT32_MAX;
    expect_no_step(d, &good, "the device's context is 64");
    q[0].n_past = 14;
    expect_no_step(d, &good, "has 1 chunks for 17 tokens; it needs 2");
    q[0].n_chunks = 2;
    q[0].chunks = far;
    expect_no_step(d, &good, "refers to chunk 8 of 8");
    q[0].chunks = chunks;
    q[0].first_row = 1;
    expect_no_step(d, &good, "must follow row 0");
    q[0].first_row = 0;
    q[0].n_past = 0;

    struct step_result r;
    s = good;
    s.n_outputs = 1;
    run(d, &s, &r); /* what was refused has left it usable */
    assert_true(isfinite(r.logits[0]));
    assert_true(r.seconds > 0);
    device_destroy(d);
    device_destroy(NULL);
    close_model(&f);
}

static void test_any_number_of_threads(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, "tests/golden/qwen3moe.gguf");
    float *first = NULL;
    static const uint32_t sizes[] = {1, 2, 5, 16, 64};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct device_config c = small_config();
        c.n_threads = sizes[i];
        c.pin_threads = true;
        struct device *d = create(&f, &c);
        const int32_t tokens[20] = {5, 6, 7, 8, 9};
        const uint32_t chunks[2] = {3, 1}, outputs[1] = {19};
        const struct step_seq q = {.n_rows = 20, .chunks = chunks, .n_chunks = 2};
        const struct step s = {
            .n_rows = 20, .n_seqs = 1, .n_outputs = 1, .tokens = tokens, .seqs = &q, .output_rows = outputs};
        struct step_result r;
        run(d, &s, &r);
        size_t bytes = f.model->n_vocab * sizeof(float);
        if (!first)
            first = memcpy(malloc(bytes), r.logits, bytes);
        assert_memory_equal(first, r.logits, bytes);
        device_destroy(d);
    }
    free(first);
    close_model(&f);
}

static void test_traffic(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, "tests/golden/llama2.gguf");
    struct device_config c = small_config();
    struct device *d = create(&f, &c);
    const struct model *m = f.model;
    const int32_t tokens[20] = {1};
    const uint32_t chunks[2] = {0, 1}, outputs[1] = {0};
    struct step_seq q = {.n_rows = 20, .chunks = chunks, .n_chunks = 2};
    struct step s = {.n_rows = 20, .n_seqs = 1, .tokens = tokens, .seqs = &q, .output_rows = outputs};
    struct step_result r;
    run(d, &s, &r);
    uint64_t row = 2ull * m->n_layer * m->n_head_kv * kv_row_bytes(KV_F16, m->head_dim); /* K and V of a token */
    assert_int_equal(r.traffic.kv_write_bytes, 20 * row);
    q = (struct step_seq){.n_rows = 1, .n_past = 20, .chunks = chunks, .n_chunks = 2};
    s.n_rows = s.n_outputs = 1;
    run(d, &s, &r);
    assert_int_equal(r.traffic.kv_write_bytes, row);
    assert_int_equal(r.traffic.kv_read_bytes, 21 * row);
    /* Every matrix once, of the embedding one row; the norms are activations' business. */
    uint64_t matrices = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->file, i);
        matrices += t->n_dims == 2 ? t->n_bytes : 0;
    }
    assert_false(m->output_is_tied);
    assert_int_equal(r.traffic.weight_bytes, matrices - (uint64_t)(m->n_vocab - 1) * m->token_embd.row_bytes);
    double products = (double)(matrices / 4 - (uint64_t)m->n_vocab * m->n_embd) * 2;
    double attention = 4.0 * m->head_dim * m->n_head * 21 * m->n_layer;
    assert_true(fabs(r.traffic.flops - products - attention) < 1);
    assert_true(r.traffic.activation_bytes > 0);
    device_destroy(d);
    close_model(&f);
}

static void on_progress(double fraction, void *user)
{
    double *last = user;
    assert_true(fraction >= *last && fraction <= 1);
    *last = fraction;
}

static void test_loading(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, "tests/golden/mixtral.gguf");
    struct device_config c = small_config();
    double last = 0;
    c.progress = on_progress;
    c.progress_user = &last;
    struct device *d = create(&f, &c);
    assert_true(last >= 1);
    size_t chunk = device_chunk_bytes(f.model, KV_F16, 16);
    assert_int_equal(chunk, 2ull * f.model->n_layer * f.model->n_head_kv * 16 * f.model->head_dim * 2);
    assert_true(device_memory_bytes(d) > 8 * chunk);
    assert_string_equal(d->ops->name, "cpu");
    assert_int_equal(d->config.n_threads, 2);
    device_destroy(d);
    close_model(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts_that_fill_tiles),
        cmocka_unit_test(test_team),
        cmocka_unit_test(test_team_sleeps),
        cmocka_unit_test(test_refused_configs),
        cmocka_unit_test(test_refused_steps),
        cmocka_unit_test(test_any_number_of_threads),
        cmocka_unit_test(test_traffic),
        cmocka_unit_test(test_loading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
