/* The forward pass on the CPU device: logits against references that are not this code (tests/golden), at every ISA
 * level, and the same to the last bit however a request is batched, cut, shared or spread over threads. */
#include "kernel_levels.h"
#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "device/device.h"
#include "model/forward.h"
#include "model/model.h"

#include <dirent.h>
#include <math.h>

#define MAX_TOKENS 1300
#define MAX_SEQS 8

/* Debug and sanitised builds run an excerpt: the same paths, fewer models, tokens and ISA levels. */
#ifdef WEIR_DEBUG
#define EXCERPT 1
#else
#define EXCERPT 0
#endif

static uint32_t chunk_tokens = 32; /* of the devices that are opened */

struct golden {
    uint32_t n_tokens, n_vocab, n_positions;
    int32_t *tokens, *positions;
    float *logits, float_tolerance, int8_tolerance;
};

static void read_exactly(FILE *f, void *out, size_t n)
{
    if (fread(out, 1, n, f) != n)
        fail_msg("a golden file is too short");
}

static struct golden golden_read(const char *path)
{
    struct golden g;
    char magic[4];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    read_exactly(f, magic, 4);
    assert_memory_equal(magic, "WVEC", 4);
    read_exactly(f, &g.n_tokens, 4);
    read_exactly(f, &g.n_vocab, 4);
    read_exactly(f, &g.n_positions, 4);
    size_t n_logits = (size_t)g.n_positions * g.n_vocab;
    g.tokens = mem_array(g.n_tokens, 4);
    g.positions = mem_array(g.n_positions, 4);
    g.logits = mem_array(n_logits, 4);
    read_exactly(f, g.tokens, 4 * (size_t)g.n_tokens);
    read_exactly(f, g.positions, 4 * (size_t)g.n_positions);
    read_exactly(f, g.logits, 4 * n_logits);
    read_exactly(f, &g.float_tolerance, 4);
    read_exactly(f, &g.int8_tolerance, 4);
    fclose(f);
    return g;
}

static void golden_free(struct golden *g)
{
    free(g->tokens);
    free(g->positions);
    free(g->logits);
}

struct loaded {
    struct model *model;
    struct forward *forward;
};

static struct loaded load(const char *name)
{
    char path[512];
    struct err e = {0};
    struct gguf *g = NULL;
    struct loaded l = {0};
    snprintf(path, sizeof path, "tests/golden/%s.gguf", name);
    if (gguf_open(&g, path, &e) || model_open(&l.model, g, &e) || forward_create(&l.forward, l.model, &e))
        fail_msg("%s: %s", path, e.msg);
    return l;
}

static void unload(struct loaded *l)
{
    forward_destroy(l->forward);
    model_close(l->model);
}

/* A device with enough chunks for MAX_SEQS sequences of n_tokens, all of them poisoned: what is read without having
 * been written shows. */
static struct device *open_device(const struct loaded *l, const struct kernels *k, enum kv_type kv, uint32_t n_threads,
                                  uint32_t n_tokens)
{
    struct err e = {0};
    struct device *d = NULL;
    const struct device_config c = {.n_threads = n_threads,
                                    .kv_type = kv,
                                    .chunk_tokens = chunk_tokens,
                                    .n_chunks = MAX_SEQS * (n_tokens / chunk_tokens + 1),
                                    .max_step_tokens = MAX_SEQS * n_tokens,
                                    .max_step_seqs = MAX_SEQS,
                                    .max_outputs = MAX_SEQS * n_tokens,
                                    .max_context = n_tokens,
                                    .kernels = k};
    if (device_cpu_create(&d, l->forward, &c, &e))
        fail_msg("%s", e.msg);
    for (uint32_t i = 0; i < c.n_chunks; i++)
        device_poison_chunk(d, i);
    return d;
}

/* A sequence that is fed to a device bit by bit; the logits of every position are kept. */
struct feed {
    const int32_t *tokens;
    uint32_t n_tokens, n_past, n_prompt;
    uint32_t chunks[MAX_TOKENS];
    float *logits; /* [n_tokens][n_vocab]; a row that was not asked for begins with a NaN */
};

/* Chunk tables that no two feeds share, in descending order. */
static void feed_init(struct feed *f, const struct device *d, const int32_t *tokens, uint32_t n_tokens, uint32_t index)
{
    /* What follows the prompt may be decoded row by row or, after a preemption, in pieces. */
    *f = (struct feed){.tokens = tokens, .n_tokens = n_tokens, .n_prompt = n_tokens * 2 / 3};
    f->logits = mem_array((size_t)n_tokens * d->model->n_vocab, sizeof(float));
    for (uint32_t i = 0; i < n_tokens; i++)
        f->logits[(size_t)i * d->model->n_vocab] = NAN;
    uint32_t n = d->config.n_chunks / MAX_SEQS;
    for (uint32_t i = 0; i * chunk_tokens < n_tokens; i++)
        f->chunks[i] = index * n + (n - 1 - i);
}

/* One step: n[i] tokens of feeds[i]. The logits of every output_every-th row are asked for. */
static void feed_step(struct device *d, struct feed *const *feeds, const uint32_t *n, uint32_t n_feeds,
                      uint32_t output_every)
{
    struct err e = {0};
    struct step_result result;
    struct step_seq seqs[MAX_SEQS];
    uint32_t rows = 0, n_outputs = 0;
    int32_t *tokens = mem_array(d->config.max_step_tokens, sizeof *tokens);
    uint32_t *outputs = mem_array(d->config.max_step_tokens, sizeof *outputs);
    for (uint32_t i = 0; i < n_feeds; i++) {
        struct feed *f = feeds[i];
        seqs[i] = (struct step_seq){.first_row = rows,
                                    .n_rows = n[i],
                                    .n_past = f->n_past,
                                    .chunks = f->chunks,
                                    .n_chunks = (f->n_past + n[i] + chunk_tokens - 1) / chunk_tokens,
                                    .n_prompt = f->n_prompt};
        for (uint32_t j = 0; j < n[i]; j++, rows++) {
            tokens[rows] = f->tokens[f->n_past + j];
            if (rows % output_every == output_every - 1)
                outputs[n_outputs++] = rows;
        }
    }
    const struct step s = {.n_rows = rows,
                           .n_seqs = n_feeds,
                           .n_outputs = n_outputs,
                           .tokens = tokens,
                           .seqs = seqs,
                           .output_rows = outputs};
    if (device_start(d, &s, &e) || device_wait(d, &result, &e))
        fail_msg("%s", e.msg);
    size_t n_vocab = d->model->n_vocab;
    for (uint32_t o = 0, i = 0; o < n_outputs; o++) {
        while (outputs[o] >= seqs[i].first_row + seqs[i].n_rows)
            i++;
        memcpy(feeds[i]->logits + (feeds[i]->n_past + outputs[o] - seqs[i].first_row) * n_vocab,
               result.logits + o * n_vocab, n_vocab * sizeof(float));
    }
    for (uint32_t i = 0; i < n_feeds; i++)
        feeds[i]->n_past += n[i];
    free(tokens);
    free(outputs);
}

/* The whole sequence alone, `piece` tokens a step (0: all at once). */
static void feed_all(struct device *d, struct feed *f, uint32_t piece)
{
    while (f->n_past < f->n_tokens) {
        uint32_t left = f->n_tokens - f->n_past, n = piece && piece < left ? piece : left;
        feed_step(d, &f, &n, 1, 1);
    }
}

/* ---- against references ---- */

static bool rounds_to_int8(const struct kernels *k, const struct model *m)
{
    const struct tensor *const w[] = {&m->output, &m->layers[0].q, &m->layers[0].v, &m->layers[0].down,
                                      &m->layers[0].down_x.t};
    for (size_t i = 0; i < sizeof w / sizeof *w; i++) {
        if (w[i]->n_in && (k->act_format[w[i]->type] == ACT_Q8 || k->act_format[w[i]->type] == ACT_Q8K))
            return true;
    }
    return false;
}

/* RMS of the difference over RMS of the reference. */
static double relative_error(const struct golden *g, const struct feed *f)
{
    double diff = 0, ref = 0;
    for (uint32_t p = 0; p < g->n_positions; p++) {
        for (uint32_t v = 0; v < g->n_vocab; v++) {
            double want = (double)g->logits[(size_t)p * g->n_vocab + v];
            double got = (double)f->logits[(size_t)g->positions[p] * g->n_vocab + v];
            diff += (got - want) * (got - want);
            ref += want * want;
        }
    }
    return sqrt(diff / ref);
}

static void check_golden(const char *name, const struct golden *g, const struct loaded *l, const struct kernels *k,
                         enum kv_type kv)
{
    /* The prompts of models with experts are chosen so that rounding activations leaves the choice of experts as it
     * is; that says nothing of rounding the cache. */
    if (kv == KV_Q8_0 && (l->model->head_dim % 32 || l->model->n_expert))
        return;
    struct device *d = open_device(l, k, kv, 2, g->n_tokens);
    struct feed f;
    feed_init(&f, d, g->tokens, g->n_tokens, 0);
    feed_all(d, &f, 0);
    double error = relative_error(g, &f);
    /* Keys and values in blocks of 32 int8 are rounded more finely than the int8 tolerance's activations. */
    bool int8 = kv == KV_Q8_0 || rounds_to_int8(k, l->model);
    double tolerance = (double)(int8 ? g->int8_tolerance : g->float_tolerance);
    if (getenv("WEIR_TEST_VERBOSE"))
        printf("%-20s %-7s %s error %.2e tolerance %.2e\n", name, kernel_isa_name(k->isa),
               kv == KV_F16 ? "f16 " : "q8_0", error, tolerance);
    if (!(error <= tolerance))
        fail_msg("%s at %s, %s cache: error %g over the tolerance %g", name, kernel_isa_name(k->isa),
                 kv == KV_F16 ? "f16" : "q8_0", error, tolerance);
    free(f.logits);
    device_destroy(d);
}

static void test_golden(void **state)
{
    (void)state;
    DIR *dir = opendir("tests/golden");
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char name[256], path[512];
        size_t len = strlen(entry->d_name);
        if (len < 4 || len >= sizeof name || strcmp(entry->d_name + len - 4, ".vec") != 0)
            continue;
        memcpy(name, entry->d_name, len - 4);
        name[len - 4] = 0;
        snprintf(path, sizeof path, "tests/golden/%s.vec", name);
        struct golden g = golden_read(path);
        struct loaded l = load(name);
        assert_int_equal(g.n_vocab, l.model->n_vocab);
        const struct kernels *best = kernels_get(NULL);
        assert_non_null(best);
        EACH_LEVEL(k)
        {
            if (EXCERPT && k != best)
                continue;
            check_golden(name, &g, &l, k, KV_F16);
            check_golden(name, &g, &l, k, KV_Q8_0);
        }
        unload(&l);
        golden_free(&g);
        n++;
    }
    closedir(dir);
    assert_true(n >= 30);
}

/* The smallest chunks, some of a size that divides nothing, and the largest. */
static void test_chunk_sizes(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "mistral-window", "type-q8_0"};
    static const uint32_t sizes[] = {KV_BLOCK_TOKENS, 48, KV_CHUNK_MAX_TOKENS};
    const struct kernels *best = kernels_get(NULL);
    assert_non_null(best);
    for (size_t i = 0; i < 9; i++) {
        char path[512];
        snprintf(path, sizeof path, "tests/golden/%s.vec", names[i / 3]);
        struct golden g = golden_read(path);
        struct loaded l = load(names[i / 3]);
        chunk_tokens = sizes[i % 3];
        check_golden(names[i / 3], &g, &l, best, KV_F16);
        check_golden(names[i / 3], &g, &l, best, KV_Q8_0);
        unload(&l);
        golden_free(&g);
    }
    chunk_tokens = 32;
}

/* ---- the same to the last bit ---- */

static const struct kernels *same_kernels; /* NULL: the best */

static void random_tokens(int32_t *out, uint32_t n, uint32_t n_vocab, uint64_t seed)
{
    struct rng r = {seed};
    for (uint32_t i = 0; i < n; i++)
        out[i] = (int32_t)rng_below(&r, n_vocab);
}

static void expect_same(const struct feed *a, const struct feed *b, uint32_t from, uint32_t n_vocab, const char *what)
{
    uint32_t n_compared = 0;
    assert_int_equal(a->n_tokens, b->n_tokens);
    for (uint32_t p = from; p < a->n_tokens; p++) {
        if (isnan(b->logits[(size_t)p * n_vocab]))
            continue;
        n_compared++;
        if (memcmp(a->logits + (size_t)p * n_vocab, b->logits + (size_t)p * n_vocab, n_vocab * sizeof(float)))
            fail_msg("%s: logits differ at position %u", what, p);
    }
    assert_true(n_compared > (a->n_tokens - from) / 5);
}

struct same_case {
    const char *model;
    enum kv_type kv;
    uint32_t n_tokens;
};

/* Alone, in pieces, on any number of threads. */
static void check_pieces(const struct same_case *s, const struct loaded *l, const int32_t *tokens,
                         const struct feed *whole)
{
    static const uint32_t pieces[] = {1, 7, 32, 0};
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        /* A piece for each number of threads; all pieces on three. */
        for (uint32_t i = 0; i < 4; i++) {
            if (n_threads != 3 && i != n_threads % 4)
                continue;
            struct device *d = open_device(l, same_kernels, s->kv, n_threads, s->n_tokens);
            struct feed f;
            char what[96];
            snprintf(what, sizeof what, "%s in pieces of %u on %u threads", s->model, pieces[i], n_threads);
            feed_init(&f, d, tokens, s->n_tokens, 1);
            /* Tokens one by one, of a long prompt only the last ones. */
            uint32_t n_whole = s->n_tokens - 60;
            if (pieces[i] == 1 && s->n_tokens > 200)
                feed_step(d, &(struct feed *){&f}, &n_whole, 1, 1);
            feed_all(d, &f, pieces[i]);
            expect_same(whole, &f, 0, l->model->n_vocab, what);
            free(f.logits);
            device_destroy(d);
        }
    }
}

/* Among others, which are of other lengths, begin and end at other times, and prefill beside. */
static void check_batched(const struct same_case *s, const struct loaded *l, const int32_t *tokens,
                          const struct feed *whole)
{
    struct device *d = open_device(l, same_kernels, s->kv, 2, s->n_tokens);
    int32_t other_tokens[MAX_TOKENS];
    random_tokens(other_tokens, s->n_tokens, l->model->n_vocab, 99);
    struct feed feeds[5];
    feed_init(&feeds[2], d, tokens, s->n_tokens, 2);
    for (uint32_t i = 0; i < 5; i++) {
        if (i != 2)
            feed_init(&feeds[i], d, other_tokens + i, (s->n_tokens - i) / (i % 3 + 1), i);
    }
    struct rng r = {5};
    while (feeds[2].n_past < s->n_tokens) {
        struct feed *in[5];
        uint32_t n[5], n_feeds = 0;
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t left = feeds[i].n_tokens - feeds[i].n_past;
            uint32_t want = rng_below(&r, 2) ? 1 : (uint32_t)rng_below(&r, 90);
            if (!left || !want)
                continue;
            in[n_feeds] = &feeds[i];
            n[n_feeds++] = want < left ? want : left;
        }
        if (n_feeds)
            feed_step(d, in, n, n_feeds, 3);
    }
    expect_same(whole, &feeds[2], 0, l->model->n_vocab, s->model);
    for (uint32_t i = 0; i < 5; i++)
        free(feeds[i].logits);
    device_destroy(d);
}

/* Behind the full chunks of another sequence with the same beginning; the tail once as a copied part of a chunk. */
static void check_shared(const struct same_case *s, const struct loaded *l, const int32_t *tokens,
                         const struct feed *whole)
{
    struct device *d = open_device(l, same_kernels, s->kv, 2, s->n_tokens);
    uint32_t n_shared = s->n_tokens * 2 / 3 / chunk_tokens, n_tail = 5;
    struct feed first, second;
    feed_init(&first, d, tokens, s->n_tokens, 0);
    feed_init(&second, d, tokens, s->n_tokens, 1);
    feed_all(d, &first, 0);
    memcpy(second.chunks, first.chunks, n_shared * sizeof *second.chunks);
    device_copy_chunk(d, first.chunks[n_shared], second.chunks[n_shared], n_tail);
    second.n_past = n_shared * chunk_tokens + n_tail;
    feed_all(d, &second, 11);
    expect_same(whole, &second, n_shared * chunk_tokens + n_tail, l->model->n_vocab, s->model);
    free(first.logits);
    free(second.logits);
    device_destroy(d);
}

/* A prompt as it is served: only its last row's logits are asked for, so the steps before have none. */
static void check_last_only(const struct same_case *s, const struct loaded *l, const int32_t *tokens,
                            const struct feed *whole)
{
    size_t n_vocab = l->model->n_vocab;
    for (uint32_t piece = 13; piece <= s->n_tokens; piece += s->n_tokens - 13) {
        struct device *d = open_device(l, same_kernels, s->kv, 2, s->n_tokens);
        struct feed f;
        feed_init(&f, d, tokens, s->n_tokens, 3);
        while (f.n_past < s->n_tokens) {
            uint32_t left = s->n_tokens - f.n_past, n = piece < left ? piece : left;
            feed_step(d, &(struct feed *){&f}, &n, 1, n == left ? n : UINT32_MAX);
        }
        assert_memory_equal(f.logits + (s->n_tokens - 1) * n_vocab, whole->logits + (s->n_tokens - 1) * n_vocab,
                            n_vocab * sizeof(float));
        free(f.logits);
        device_destroy(d);
    }
}

static void check_same(const struct same_case *s)
{
    struct loaded l = load(s->model);
    int32_t tokens[MAX_TOKENS];
    random_tokens(tokens, s->n_tokens, l.model->n_vocab, 7);
    struct device *d = open_device(&l, same_kernels, s->kv, 1, s->n_tokens);
    struct feed whole;
    feed_init(&whole, d, tokens, s->n_tokens, 0);
    feed_all(d, &whole, 0);
    device_destroy(d);
    for (size_t i = 0; i < (size_t)s->n_tokens * l.model->n_vocab; i++)
        assert_true(isfinite(whole.logits[i]));
    check_pieces(s, &l, tokens, &whole);
    check_batched(s, &l, tokens, &whole);
    check_shared(s, &l, tokens, &whole);
    check_last_only(s, &l, tokens, &whole);
    free(whole.logits);
    unload(&l);
}

static void test_same_short(void **state)
{
    (void)state;
    static const struct same_case cases[] = {
        {"llama3", KV_F16, 150},       {"llama-bias", KV_F16, 100},   {"mistral-window", KV_F16, 150},
        {"type-q5_0", KV_Q8_0, 150},   {"qwen2", KV_F16, 100},        {"qwen3", KV_F16, 100},
        {"mixtral", KV_F16, 100},      {"qwen3moe", KV_Q8_0, 80},     {"qwen3moe-q4_k", KV_F16, 100},
        {"mixtral-q8_0", KV_F16, 100}, {"mixed-q4_k_m", KV_F16, 100}, {"type-q8_0", KV_Q8_0, 100},
        {"type-q4_0", KV_F16, 100},    {"type-bf16", KV_F16, 100},    {"type-f16", KV_F16, 100},
        {"type-iq4_xs", KV_F16, 100},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct same_case c = cases[i];
        if (EXCERPT && i % 3)
            continue;
        c.n_tokens -= EXCERPT ? c.n_tokens / 2 : 0;
        check_same(&c);
    }
}

/* Over several spans of attention, so that items are cut between threads. */
static void test_same_long(void **state)
{
    (void)state;
    check_same(&(struct same_case){"type-q8_0", KV_F16, EXCERPT ? 580 : MAX_TOKENS});
    if (!EXCERPT)
        check_same(&(struct same_case){"mistral", KV_Q8_0, 1100});
}

/* The same kernels, counted: products as tiles, and as rows. */
static enum tensor_type counted_type;
static _Atomic uint32_t n_as_tiles, n_as_rows;

static void as_tiles(const struct matmul_args *a)
{
    n_as_tiles++;
    kernels_of_level(LEVEL_EMULATED)->matmul_prompt[counted_type](a);
}

static void as_rows(const struct matmul_args *a)
{
    n_as_rows++;
    kernels_of_level(LEVEL_EMULATED)->matmul[counted_type](a);
}

static void check_same_counted(const char *model, enum tensor_type t)
{
    const struct kernels *all = same_kernels;
    struct kernels counted = *all;
    counted.matmul_prompt[t] = as_tiles;
    counted.matmul[t] = as_rows;
    counted_type = t;
    n_as_tiles = n_as_rows = 0;
    same_kernels = &counted;
    check_same(&(struct same_case){model, KV_F16, EXCERPT ? 40 : 100});
    same_kernels = all;
    assert_true(n_as_tiles > 0);
    assert_int_equal(n_as_rows > 0, t != TENSOR_BF16); /* all rows of which go through tiles */
}

/* Where a prompt's rows take another way than those that follow: over emulated tiles, on any machine with AVX-512. */
static void test_same_with_tiles(void **state)
{
    (void)state;
    same_kernels = kernels_of_level(LEVEL_EMULATED);
    if (!same_kernels)
        skip();
    check_same(&(struct same_case){"llama3", KV_F16, EXCERPT ? 80 : 150});
    check_same(&(struct same_case){"mistral-window", KV_F16, EXCERPT ? 60 : 150});
    check_same(&(struct same_case){"type-q8_0", KV_Q8_0, EXCERPT ? 60 : 150});
    check_same(&(struct same_case){"type-q4_k", KV_F16, EXCERPT ? 40 : 100});
    check_same_counted("type-f16", TENSOR_F16);
    check_same_counted("type-bf16", TENSOR_BF16);
    check_same(&(struct same_case){"mixtral-q8_0", KV_F16, EXCERPT ? 40 : 100});
    check_same(&(struct same_case){"qwen3moe-q4_k", KV_F16, EXCERPT ? 40 : 80});
    same_kernels = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_chunk_sizes),     cmocka_unit_test(test_same_short),
        cmocka_unit_test(test_same_long), cmocka_unit_test(test_same_with_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
