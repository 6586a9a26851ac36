/* The engine on a fake device that verifies chunk tables by what it computes, and on the CPU device with a small model.
 *
 * The fake device's keys and values are hashes of (token, position), and its logits a function of all of them read
 * through the chunk table. So a request's text comes out right only if every chunk of its table holds what it should,
 * whether computed, shared, copied or computed again after a preemption.
 */
#include "test.h"
#include "tokenizer_build.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "engine/stop.h"
#include "model/forward.h"
#include "model/model.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

enum { END_TOKEN = 256, N_VOCAB = 258, MAX_TOKENS = 512 };

/* ---- the fake device ---- */

struct fake {
    struct device base;
    struct model model;
    uint64_t *kv; /* [n_chunks][chunk_tokens] */
    float *logits;
    struct step_result result;
    atomic_int fail_in; /* steps until one fails; < 0: never */
    atomic_int n_steps, delay_us;
    bool utf8; /* writes two-byte characters */
};

static uint64_t kv_of(int32_t token, uint32_t position)
{
    return hash_u64((uint64_t)(uint32_t)token << 32 | (position + 1));
}

static void logits_of(uint64_t state, bool utf8, int32_t last, float *logits)
{
    for (uint32_t v = 0; v < N_VOCAB; v++)
        logits[v] = -20;
    if (utf8) { /* 0xC3 and a continuation in turn, with some ASCII between */
        bool lead = last == 0xC3;
        for (uint32_t v = 0; v < 4; v++)
            logits[lead ? 0xA0 + v : v ? 'a' + v : 0xC3] = (float)(hash_u64(state + v) % 1000) / 250;
        return;
    }
    for (uint32_t v = 'a'; v <= 'p'; v++)
        logits[v] = (float)(hash_u64(state + v) % 1000) / 250;
    if (state % 37 == 0)
        logits[END_TOKEN] = 5;
}

static int fake_start(struct device *d, const struct step *s, struct err *e)
{
    struct fake *f = (struct fake *)d;
    uint32_t ct = d->config.chunk_tokens, n = 0;
    atomic_fetch_add(&f->n_steps, 1);
    if (atomic_load(&f->delay_us))
        usleep((useconds_t)atomic_load(&f->delay_us));
    if (atomic_load(&f->fail_in) >= 0 && atomic_fetch_sub(&f->fail_in, 1) == 0)
        return err_set(e, WEIR_EIO, "the fake device was told to fail");
    for (uint32_t i = 0; i < s->n_seqs; i++)
        for (uint32_t r = 0; r < s->seqs[i].n_rows; r++) {
            uint32_t p = s->seqs[i].n_past + r;
            f->kv[s->seqs[i].chunks[p / ct] * ct + p % ct] = kv_of(s->tokens[s->seqs[i].first_row + r], p);
        }
    for (uint32_t i = 0; i < s->n_seqs; i++)
        for (uint32_t r = 0; r < s->seqs[i].n_rows; r++) {
            uint32_t row = s->seqs[i].first_row + r;
            if (n == s->n_outputs || s->output_rows[n] != row)
                continue;
            uint64_t state = 0;
            for (uint32_t p = 0; p <= s->seqs[i].n_past + r; p++)
                state = hash_u64(state ^ f->kv[s->seqs[i].chunks[p / ct] * ct + p % ct]);
            logits_of(state, f->utf8, s->tokens[row], f->logits + (size_t)n++ * N_VOCAB);
        }
    f->result = (struct step_result){.logits = f->logits, .seconds = 1e-4, .traffic = {.weight_bytes = 1000}};
    return 0;
}

static int fake_wait(struct device *d, struct step_result *out, struct err *e)
{
    (void)e;
    *out = ((struct fake *)d)->result;
    return 0;
}

static void fake_copy(struct device *d, uint32_t src, uint32_t dst, uint32_t n_tokens)
{
    struct fake *f = (struct fake *)d;
    uint32_t ct = d->config.chunk_tokens;
    memcpy(f->kv + dst * ct, f->kv + src * ct, n_tokens * sizeof *f->kv);
}

static void fake_poison(struct device *d, uint32_t chunk)
{
    struct fake *f = (struct fake *)d;
    memset(f->kv + chunk * d->config.chunk_tokens, 0xee, d->config.chunk_tokens * sizeof *f->kv);
}

static uint64_t fake_memory(const struct device *d)
{
    return d->config.n_chunks;
}

static void fake_destroy(struct device *d)
{
    struct fake *f = (struct fake *)d;
    free(f->kv);
    free(f->logits);
    free(f);
}

static const struct device_ops fake_ops = {.name = "fake",
                                           .destroy = fake_destroy,
                                           .start = fake_start,
                                           .wait = fake_wait,
                                           .copy_chunk = fake_copy,
                                           .poison_chunk = fake_poison,
                                           .memory_bytes = fake_memory};

static struct fake *fake_create(const struct engine_config *c)
{
    struct fake *f = calloc(1, sizeof *f);
    f->model.n_vocab = N_VOCAB;
    f->base = (struct device){.ops = &fake_ops, .model = &f->model, .config = engine_device_config(c)};
    f->kv = calloc((size_t)f->base.config.n_chunks * f->base.config.chunk_tokens, sizeof *f->kv);
    f->logits = calloc((size_t)f->base.config.max_outputs * N_VOCAB, sizeof *f->logits);
    atomic_init(&f->fail_in, -1);
    return f;
}

/* What a request alone would give: greedy, from the definition. */
static uint32_t reference(const int32_t *prompt, uint32_t n_prompt, uint32_t max_new, char *text)
{
    uint64_t state = 0;
    float logits[N_VOCAB];
    uint32_t n = 0, p = 0;
    for (; p < n_prompt; p++)
        state = hash_u64(state ^ kv_of(prompt[p], p));
    while (n < max_new) {
        logits_of(state, false, 0, logits);
        int32_t best = 0;
        for (int32_t v = 1; v < N_VOCAB; v++)
            if (logits[v] > logits[best])
                best = v;
        if (best == END_TOKEN)
            break;
        text[n++] = (char)best;
        state = hash_u64(state ^ kv_of(best, p++));
    }
    text[n] = 0;
    return n;
}

/* ---- a client ---- */

struct client {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    char text[4 * MAX_TOKENS], prompt_text[4 * MAX_TOKENS];
    size_t n_text, n_prompt_text;
    int32_t ids[MAX_TOKENS], prompt_ids[MAX_TOKENS];
    float logprobs[MAX_TOKENS], prompt_logprobs[MAX_TOKENS];
    uint32_t n_ids, n_prompt_ids, n_terminal;
    struct gen_event end;
    char stop_text[64];
    struct engine *engine;
    uint32_t cancel_after; /* tokens; 0: never */
    bool utf8_broken;
};

static void client_sink(const struct gen_event *ev)
{
    struct client *c = ev->user;
    pthread_mutex_lock(&c->lock);
    c->utf8_broken |= !utf8_valid(ev->text, ev->n_text);
    char *text = ev->is_prompt ? c->prompt_text : c->text;
    size_t *n = ev->is_prompt ? &c->n_prompt_text : &c->n_text;
    memcpy(text + *n, ev->text, ev->n_text);
    text[ *n += ev->n_text] = 0;
    if (ev->has_token && ev->is_prompt) {
        c->prompt_logprobs[c->n_prompt_ids] = ev->sample->logprob;
        c->prompt_ids[c->n_prompt_ids++] = ev->sample->id;
    } else if (ev->has_token) {
        c->logprobs[c->n_ids] = ev->sample->logprob;
        c->ids[c->n_ids++] = ev->sample->id;
        if (c->n_ids == c->cancel_after)
            engine_cancel(c->engine, ev->id);
    }
    if (ev->finish != FINISH_NONE) {
        c->end = *ev;
        c->n_terminal++;
        snprintf(c->stop_text, sizeof c->stop_text, "%s", ev->stop_text ? ev->stop_text : "");
        pthread_cond_signal(&c->ended);
    }
    pthread_mutex_unlock(&c->lock);
}

static struct client *client_create(struct engine *en)
{
    struct client *c = calloc(1, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->ended, NULL);
    c->engine = en;
    return c;
}

static void client_destroy(struct client *c)
{
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->ended);
    free(c);
}

static enum finish_reason client_wait(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->n_terminal)
        pthread_cond_wait(&c->ended, &c->lock);
    enum finish_reason finish = c->end.finish;
    pthread_mutex_unlock(&c->lock);
    return finish;
}

static struct gen_request greedy(const int32_t *prompt, uint32_t n, uint32_t max_new)
{
    struct gen_request r = {.n_prompt = n, .max_new_tokens = max_new, .sink = client_sink};
    r.prompt = malloc(n * sizeof *prompt);
    memcpy(r.prompt, prompt, n * sizeof *prompt);
    sampling_params_default(&r.sampling);
    r.sampling.temperature = 0;
    return r;
}

static uint64_t send(struct engine *en, struct client *c, struct gen_request *r)
{
    uint64_t id;
    struct err e = {0};
    r->user = c;
    if (engine_submit(en, r, &id, &e))
        fail_msg("%s", e.msg);
    return id;
}

/* ---- a fixture: tokenizer of bytes, small engine ---- */

struct fixture {
    struct tokenizer *tokenizer;
    struct engine_config config;
    struct engine *engine;
    struct fake *device;
};

static struct tokenizer *byte_tokenizer(void)
{
    static struct vocab_build v;
    v.n = 0;
    vocab_add_byte_level(&v);
    vocab_add(&v, "<end>", TYPE_CONTROL, 0);
    vocab_add(&v, "<other>", TYPE_CONTROL, 0);
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, "gpt-2");
    gguf_build_u32(&g, "tokenizer.ggml.eos_token_id", END_TOKEN);
    gguf_build_u32(&g, "tokenizer.ggml.bos_token_id", END_TOKEN);
    struct tokenizer *t;
    struct err e = {0};
    if (tokenizer_from(&g, &t, &e))
        fail_msg("%s", e.msg);
    return t;
}

static void start_engine(struct fixture *f, uint32_t n_chunks, uint32_t max_running)
{
    *f = (struct fixture){.config = {.sched = {.chunk_tokens = 4,
                                               .n_chunks = n_chunks,
                                               .max_running = max_running,
                                               .max_queued = 100,
                                               .max_step_tokens = 24,
                                               .max_context = 256,
                                               .prefix_cache = true},
                                     .max_inbox = 100}};
    f->tokenizer = byte_tokenizer();
    f->device = fake_create(&f->config);
    struct err e = {0};
    if (engine_create_on(&f->engine, &f->device->base, f->tokenizer, &f->config, &e))
        fail_msg("%s", e.msg);
}

static void stop_engine(struct fixture *f)
{
    engine_destroy(f->engine);
    tokenizer_destroy(f->tokenizer);
}

/* The figures after everything ended: they follow the last event by a moment. */
static struct engine_stats settled_stats(struct engine *en)
{
    struct engine_stats st;
    for (int i = 0; i < 5000; i++) {
        bool idle = engine_idle(en);
        engine_stats(en, &st);
        if (idle && st.sched.n_queued + st.sched.n_running == 0)
            break;
        usleep(1000);
    }
    return st;
}

static uint32_t random_prompt(struct rng *rng, int32_t *prompt)
{
    uint32_t n = 1 + (uint32_t)rng_below(rng, 40), shared = (uint32_t)rng_below(rng, 41);
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = i < shared ? (int32_t)('A' + i % 20) : (int32_t)rng_below(rng, 200);
    return n;
}

/* ---- tests ---- */

static void text_is_the_same_alone_and_in_a_crowd(void **state)
{
    (void)state;
    static const uint32_t pools[] = {200, 40, 28};
    enum { N = 60 };
    for (size_t k = 0; k < sizeof pools / sizeof *pools; k++) {
        struct fixture f;
        start_engine(&f, pools[k], 8);
        struct rng rng = {k};
        struct client *clients[N];
        char expected[N][MAX_TOKENS + 1];
        for (int i = 0; i < N; i++) {
            int32_t prompt[64];
            uint32_t n = random_prompt(&rng, prompt), max_new = 1 + (uint32_t)rng_below(&rng, 60);
            reference(prompt, n, max_new, expected[i]);
            struct gen_request r = greedy(prompt, n, max_new);
            clients[i] = client_create(f.engine);
            send(f.engine, clients[i], &r);
        }
        for (int i = 0; i < N; i++) {
            enum finish_reason finish = client_wait(clients[i]);
            assert_true(finish == FINISH_STOP || finish == FINISH_LENGTH);
            assert_string_equal(clients[i]->text, expected[i]);
            assert_int_equal(clients[i]->n_ids, strlen(expected[i]));
        }
        struct engine_stats st = settled_stats(f.engine);
        assert_true(engine_idle(f.engine));
        assert_int_equal(st.sched.n_finished, N);
        assert_int_equal(st.sched.chunks_active, 0);
        assert_true(st.sched.prefix_hit_tokens > 0 && st.healthy && st.n_steps > 0);
        assert_int_equal(st.traffic.weight_bytes, 1000 * st.n_steps);
        if (pools[k] == 28)
            assert_true(st.sched.n_preemptions > 0);
        stop_engine(&f); /* nothing comes after the ends */
        for (int i = 0; i < N; i++) {
            assert_int_equal(clients[i]->n_terminal, 1);
            client_destroy(clients[i]);
        }
    }
}

static void a_conversation_hits_what_was_generated(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    int32_t turn[128] = {'h', 'e', 'l', 'l', 'o'};
    struct client *a = client_create(f.engine), *b = client_create(f.engine);
    struct gen_request r = greedy(turn, 5, 40);
    r.ignore_eos = true;
    send(f.engine, a, &r);
    client_wait(a);
    assert_int_equal(a->n_ids, 40);
    memcpy(turn + 5, a->ids, 40 * sizeof *turn);
    r = greedy(turn, 45, 5);
    send(f.engine, b, &r);
    client_wait(b);
    assert_int_equal(b->end.n_cached_tokens, 44); /* 11 full chunks; the last token's was computed in no step before */
    assert_true(b->end.queued_s >= 0 && b->end.prefill_s > 0);
    r = greedy(turn, 45, 5);
    r.cache_salt = 1;
    struct client *c = client_create(f.engine);
    send(f.engine, c, &r);
    client_wait(c);
    assert_int_equal(c->end.n_cached_tokens, 0);
    assert_string_equal(b->text, c->text);
    stop_engine(&f);
    client_destroy(a);
    client_destroy(b);
    client_destroy(c);
}

static void stop_strings_end_the_text_before_them(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    const int32_t prompt[] = {1, 2, 3};
    char full[MAX_TOKENS + 1], stop[8], expected[MAX_TOKENS + 1];
    uint32_t n = reference(prompt, 3, 30, full);
    assert_true(n > 15);
    snprintf(stop, sizeof stop, "%.4s", full + 9);
    const char *stops[] = {"zzz", stop};
    for (int keep = 0; keep < 2; keep++) {
        struct client *c = client_create(f.engine);
        struct gen_request r = greedy(prompt, 3, 30);
        r.stops = stops;
        r.n_stops = 2;
        r.keep_stop_text = keep;
        send(f.engine, c, &r);
        assert_int_equal(client_wait(c), FINISH_STOP);
        size_t at = (size_t)(strstr(full, stop) - full);
        snprintf(expected, sizeof expected, "%.*s", (int)(at + (keep ? 4 : 0)), full);
        assert_string_equal(c->text, expected);
        assert_string_equal(c->stop_text, stop);
        assert_int_equal(c->end.n_output_tokens, at + 4);
        client_destroy(c);
    }
    /* Not before min_new_tokens; and what was held back for a stop string that does not come is given at the end. */
    struct client *c = client_create(f.engine);
    struct gen_request r = greedy(prompt, 3, 15);
    char beginning[8];
    snprintf(beginning, sizeof beginning, "%.2s!", full + 13);
    const char *more[] = {stop, beginning};
    r.stops = more;
    r.n_stops = 2;
    r.min_new_tokens = 15;
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_LENGTH);
    assert_int_equal(strlen(c->text), 15);
    assert_memory_equal(c->text, full, 15);
    stop_engine(&f);
    client_destroy(c);
}

static void stop_matcher_agrees_with_a_plain_search(void **state)
{
    (void)state;
    struct rng rng = {11};
    for (int round = 0; round < 20000; round++) {
        char strings[3][8], text[40], sent[48] = "";
        const char *list[3];
        uint32_t n = 1 + (uint32_t)rng_below(&rng, 3);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t length = 1 + (uint32_t)rng_below(&rng, 5);
            for (uint32_t k = 0; k < length; k++)
                strings[i][k] = (char)('a' + rng_below(&rng, 2));
            strings[i][length] = 0;
            list[i] = strings[i];
        }
        uint32_t n_text = (uint32_t)rng_below(&rng, 39);
        for (uint32_t i = 0; i < n_text; i++)
            text[i] = (char)('a' + rng_below(&rng, 3));
        text[n_text] = 0;
        struct stop_matcher m;
        assert_int_equal(stop_init(&m, list, n, 1000, NULL), 0);
        int found = -1;
        for (uint32_t i = 0; i < n_text && found < 0; i++) { /* letter by letter */
            size_t n_before;
            buf_addc(&m.text, text[i]);
            found = stop_scan(&m, &n_before);
            strncat(sent, m.text.data ? m.text.data : "", n_before);
            buf_consume(&m.text, n_before);
        }
        /* The first place where any string is complete, and of those that end there the one that begins first. */
        size_t expected = n_text;
        bool any = false;
        for (uint32_t end = 1; end <= n_text && !any; end++)
            for (uint32_t i = 0; i < n; i++) {
                size_t length = strlen(strings[i]);
                if (end >= length && memcmp(text + end - length, strings[i], length) == 0) {
                    expected = any && expected < end - length ? expected : end - length;
                    any = true;
                }
            }
        assert_int_equal(found >= 0, any);
        if (!any)
            strncat(sent, m.text.data ? m.text.data : "", m.text.len);
        assert_int_equal(strlen(sent), expected);
        assert_memory_equal(sent, text, expected);
        stop_finish(&m);
    }
    struct stop_matcher m;
    const char *bad[] = {"", "\xff"};
    assert_int_equal(stop_init(&m, bad, 1, 100, NULL), WEIR_EINVAL);
    assert_int_equal(stop_init(&m, bad + 1, 1, 100, NULL), WEIR_EINVAL);
}

static void text_comes_in_whole_characters(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    f.device->utf8 = true;
    struct client *c[8];
    for (int i = 0; i < 8; i++) {
        const int32_t prompt[] = {'x', i};
        struct gen_request r = greedy(prompt, 2, 31 + (uint32_t)i);
        c[i] = client_create(f.engine);
        send(f.engine, c[i], &r);
    }
    for (int i = 0; i < 8; i++) {
        assert_int_equal(client_wait(c[i]), FINISH_LENGTH);
        assert_false(c[i]->utf8_broken);
        bool cut = c[i]->ids[c[i]->n_ids - 1] == 0xC3; /* in the middle of a character: replaced at the end */
        assert_int_equal(c[i]->n_text, c[i]->n_ids + (cut ? 2 : 0));
    }
    stop_engine(&f);
    for (int i = 0; i < 8; i++)
        client_destroy(c[i]);
}

static void end_tokens_end_unless_told(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    int32_t prompt[2] = {0, 7};
    char text[MAX_TOKENS + 1];
    uint32_t n = 0;
    while ((n = reference(prompt, 2, 100, text)) == 100 || n < 3)
        prompt[0]++;
    struct client *a = client_create(f.engine), *b = client_create(f.engine), *c = client_create(f.engine);
    struct gen_request r = greedy(prompt, 2, 100);
    send(f.engine, a, &r);
    assert_int_equal(client_wait(a), FINISH_STOP);
    assert_int_equal(a->n_text, n);
    assert_int_equal(a->end.n_output_tokens, n + 1);
    assert_int_equal(a->n_ids, n);
    r = greedy(prompt, 2, 100);
    r.ignore_eos = true;
    send(f.engine, b, &r);
    assert_int_equal(client_wait(b), FINISH_LENGTH);
    assert_int_equal(b->n_ids, 100);
    assert_int_equal(b->ids[n], END_TOKEN);
    r = greedy(prompt, 2, 100);
    r.min_new_tokens = n + 5;
    send(f.engine, c, &r);
    client_wait(c);
    assert_true(c->n_ids >= n + 5);
    assert_memory_equal(c->text, text, n);
    stop_engine(&f);
    client_destroy(a);
    client_destroy(b);
    client_destroy(c);
}

static void echo_gives_the_prompt_with_its_logprobs(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    int32_t prompt[50];
    for (int i = 0; i < 50; i++)
        prompt[i] = 'A' + i % 26;
    for (int round = 0; round < 4; round++) { /* the later ones with a warm cache, beside others */
        struct client *c[3] = {client_create(f.engine), client_create(f.engine), client_create(f.engine)};
        struct gen_request r = greedy(prompt, 50, 5);
        r.echo = true;
        send(f.engine, c[0], &r);
        r = greedy(prompt, 50, 5);
        r.echo = r.logprobs = true;
        r.sampling.top_logprobs = 2;
        send(f.engine, c[1], &r);
        r = greedy(prompt, 50, 0);
        r.echo = r.logprobs = r.prompt_only = true;
        send(f.engine, c[2], &r);
        char expected[51] = {0};
        for (int i = 0; i < 50; i++)
            expected[i] = (char)prompt[i];
        for (int k = 0; k < 3; k++) {
            assert_int_equal(client_wait(c[k]), FINISH_LENGTH);
            assert_string_equal(c[k]->prompt_text, expected);
            assert_int_equal(c[k]->n_ids, k == 2 ? 0 : 5);
        }
        assert_string_equal(c[0]->text, c[1]->text);
        assert_int_equal(c[2]->n_text, 0);
        assert_int_equal(c[0]->n_prompt_ids, 0);
        for (int k = 1; k < 3; k++) {
            assert_int_equal(c[k]->n_prompt_ids, 50);
            assert_true(isnan(c[k]->prompt_logprobs[0]));
            uint64_t st = 0;
            for (uint32_t p = 0; p < 50; p++) {
                assert_int_equal(c[k]->prompt_ids[p], prompt[p]);
                if (p > 0) {
                    float logits[N_VOCAB];
                    logits_of(st, false, 0, logits);
                    double sum = 0;
                    for (int v = 0; v < N_VOCAB; v++)
                        sum += exp((double)logits[v]);
                    assert_true(fabs((double)logits[prompt[p]] - log(sum) - (double)c[k]->prompt_logprobs[p]) < 1e-4);
                }
                st = hash_u64(st ^ kv_of(prompt[p], p));
            }
        }
        for (int k = 0; k < 3; k++)
            client_destroy(c[k]);
    }
    stop_engine(&f);
}

static void seeds_give_the_same_text_in_any_company(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 60, 8);
    const int32_t prompt[] = {5, 6, 7, 8, 9};
    struct client *c[10];
    for (int i = 0; i < 10; i++) {
        struct gen_request r = greedy(prompt, 5, 40);
        r.ignore_eos = true;
        r.sampling.temperature = 1;
        r.sampling.seed = (uint64_t)i / 2;
        c[i] = client_create(f.engine);
        send(f.engine, c[i], &r);
        if (i == 0)
            client_wait(c[0]); /* alone */
    }
    for (int i = 0; i < 10; i++)
        client_wait(c[i]);
    for (int i = 0; i < 10; i += 2)
        assert_string_equal(c[i]->text, c[i + 1]->text);
    assert_string_not_equal(c[0]->text, c[2]->text);
    stop_engine(&f);
    for (int i = 0; i < 10; i++)
        client_destroy(c[i]);
}

static void cancelled_requests_end_once_and_free_their_memory(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 2);
    atomic_store(&f.device->delay_us, 2000);
    const int32_t prompt[] = {1, 2, 3};
    struct client *c[5];
    uint64_t ids[5];
    for (int i = 0; i < 5; i++) {
        struct gen_request r = greedy(prompt, 3, 200);
        r.ignore_eos = true;
        c[i] = client_create(f.engine);
        c[i]->cancel_after = i == 0 ? 3 : 0; /* from its own sink */
        ids[i] = send(f.engine, c[i], &r);
    }
    engine_cancel(f.engine, ids[4]); /* queued, or not even seen */
    engine_cancel(f.engine, ids[4]);
    engine_cancel(f.engine, 12345);
    assert_int_equal(client_wait(c[4]), FINISH_CANCELLED);
    assert_int_equal(client_wait(c[0]), FINISH_CANCELLED);
    assert_true(c[0]->n_ids <= 4);
    for (int i = 1; i < 4; i++)
        engine_cancel(f.engine, ids[i]);
    for (int i = 1; i < 4; i++)
        assert_int_equal(client_wait(c[i]), FINISH_CANCELLED);
    struct engine_stats st = settled_stats(f.engine);
    assert_int_equal(st.sched.n_cancelled, 5);
    assert_int_equal(st.sched.chunks_active, 0);
    int n_steps = atomic_load(&f.device->n_steps);
    usleep(30000);
    assert_int_equal(atomic_load(&f.device->n_steps), n_steps); /* idle means idle */
    engine_cancel(f.engine, ids[1]);
    stop_engine(&f);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(c[i]->n_terminal, 1);
        client_destroy(c[i]);
    }
}

static void a_failed_step_ends_its_requests_only(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    const int32_t prompt[] = {1, 2, 3};
    atomic_store(&f.device->fail_in, 5);
    struct client *a = client_create(f.engine), *b = client_create(f.engine);
    struct gen_request r = greedy(prompt, 3, 50);
    r.ignore_eos = true;
    send(f.engine, a, &r);
    assert_int_equal(client_wait(a), FINISH_FAILED);
    assert_int_equal(a->n_ids, 5);
    r = greedy(prompt, 3, 50);
    r.ignore_eos = true;
    send(f.engine, b, &r);
    assert_int_equal(client_wait(b), FINISH_LENGTH);
    assert_memory_equal(a->text, b->text, 5);
    struct engine_stats st = settled_stats(f.engine);
    assert_int_equal(st.n_failed_steps, 1);
    assert_true(st.healthy);
    stop_engine(&f);
    client_destroy(a);
    client_destroy(b);
}

static void bad_and_impossible_requests_are_refused(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 10, 4); /* 40 tokens */
    int32_t prompt[300] = {0};
    struct client *c = client_create(f.engine);
    struct gen_request r = greedy(prompt, 3, 5);
    uint64_t id;
    struct err e = {0};
    r.prompt[1] = N_VOCAB;
    assert_int_equal(engine_submit(f.engine, &r, &id, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "prompt"));
    r.prompt[1] = 0;
    r.n_prompt = 0;
    assert_int_equal(engine_submit(f.engine, &r, &id, &e), WEIR_EINVAL);
    r.n_prompt = 3;
    r.sampling.top_p = 7;
    assert_int_equal(engine_submit(f.engine, &r, &id, &e), WEIR_EINVAL);
    free(r.prompt);
    r = greedy(prompt, 300, 5);
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_REFUSED);
    assert_int_equal(c->end.refusal.reason, SCHED_REFUSED_TOO_LONG);
    client_destroy(c);
    c = client_create(f.engine);
    r = greedy(prompt, 30, 100);
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_REFUSED);
    assert_int_equal(c->end.refusal.reason, SCHED_REFUSED_NEVER_FITS);
    client_destroy(c);
    c = client_create(f.engine);
    r = greedy(prompt, 30, 0); /* as far as it goes */
    r.ignore_eos = true;
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_LENGTH);
    assert_int_equal(c->end.n_output_tokens, 11);
    client_destroy(c);
    stop_engine(&f);
}

static void drain_and_shutdown_end_everything(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 2);
    atomic_store(&f.device->delay_us, 500);
    const int32_t prompt[] = {1, 2, 3};
    struct client *c[4];
    for (int i = 0; i < 4; i++) {
        struct gen_request r = greedy(prompt, 3, i < 2 ? 10 : 0);
        r.ignore_eos = true;
        c[i] = client_create(f.engine);
        send(f.engine, c[i], &r);
    }
    engine_drain(f.engine);
    struct gen_request late = greedy(prompt, 3, 10);
    uint64_t id;
    struct err e;
    assert_int_equal(engine_submit(f.engine, &late, &id, &e), WEIR_EBUSY);
    free(late.prompt);
    assert_int_equal(client_wait(c[0]), FINISH_LENGTH);
    assert_int_equal(client_wait(c[1]), FINISH_LENGTH);
    assert_false(engine_idle(f.engine));
    stop_engine(&f);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(c[i]->n_terminal, 1);
        if (i >= 2)
            assert_int_equal(c[i]->end.finish, FINISH_CANCELLED);
        client_destroy(c[i]);
    }
}

/* Several threads submit and cancel at once; the ids, ends and memory must stay straight. */

struct hammer {
    struct engine *engine;
    uint64_t seed;
    uint32_t n_ended;
};

static void *hammer_run(void *arg)
{
    struct hammer *h = arg;
    struct rng rng = {h->seed};
    for (int i = 0; i < 60; i++) {
        int32_t prompt[64];
        uint32_t n = random_prompt(&rng, prompt), max_new = 1 + (uint32_t)rng_below(&rng, 20);
        struct client *c = client_create(h->engine);
        struct gen_request r = greedy(prompt, n, max_new);
        r.user = c;
        uint64_t id;
        if (engine_submit(h->engine, &r, &id, NULL)) {
            free(r.prompt);
            client_destroy(c);
            continue;
        }
        bool cancels = rng_below(&rng, 3) == 0;
        if (cancels)
            engine_cancel(h->engine, id);
        enum finish_reason finish = client_wait(c);
        if (finish == FINISH_STOP || finish == FINISH_LENGTH) {
            char expected[MAX_TOKENS + 1];
            reference(prompt, n, max_new, expected);
            h->n_ended += strcmp(c->text, expected) == 0;
        } else {
            h->n_ended += cancels && finish == FINISH_CANCELLED;
        }
        client_destroy(c);
    }
    return NULL;
}

static void threads_submit_and_cancel_at_once(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 30, 4);
    struct hammer h[4];
    pthread_t threads[4];
    for (uint64_t i = 0; i < 4; i++) {
        h[i] = (struct hammer){.engine = f.engine, .seed = i};
        pthread_create(&threads[i], NULL, hammer_run, &h[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(h[i].n_ended, 60);
    }
    stop_engine(&f);
}

/* ---- the real thing: a small model on the CPU device ---- */

static void the_cpu_gives_the_same_tokens_alone_and_in_a_crowd(void **state)
{
    (void)state;
    enum { N = 12, N_NEW = 24 };
    struct err e = {0};
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct forward *fw = NULL;
    if (gguf_open(&g, "tests/golden/llama2.gguf", &e) || model_open(&m, g, &e) || forward_create(&fw, m, &e))
        fail_msg("%s", e.msg);
    struct tokenizer *t = byte_tokenizer();
    int32_t tokens[2][N][N_NEW];
    uint64_t n_preemptions = 0;
    for (int crowd = 0; crowd < 2; crowd++) {
        struct engine_config c = {.sched = {.chunk_tokens = 16,
                                            .n_chunks = crowd ? 7 : 50,
                                            .max_running = crowd ? 6 : 1,
                                            .max_queued = 50,
                                            .max_step_tokens = crowd ? 13 : 64,
                                            .max_context = 96,
                                            .prefix_cache = crowd},
                                  .device = {.n_threads = 2, .kv_type = KV_F16},
                                  .max_inbox = 50};
        struct engine *en;
        if (engine_create(&en, fw, t, &c, &e))
            fail_msg("%s", e.msg);
        struct client *clients[N];
        for (int i = 0; i < N; i++) {
            int32_t prompt[40];
            uint32_t n = 20 + (uint32_t)i;
            for (uint32_t k = 0; k < n; k++)
                prompt[k] = (int32_t)((k < 17 ? k * 7 : k * (uint32_t)(i + 3)) % m->n_vocab);
            struct gen_request r = greedy(prompt, n, N_NEW);
            r.ignore_eos = true;
            r.sampling.temperature = (float)(i % 2);
            r.sampling.seed = (uint64_t)i;
            clients[i] = client_create(en);
            send(en, clients[i], &r);
        }
        for (int i = 0; i < N; i++) {
            assert_int_equal(client_wait(clients[i]), FINISH_LENGTH);
            assert_int_equal(clients[i]->n_ids, N_NEW);
            memcpy(tokens[crowd][i], clients[i]->ids, sizeof tokens[crowd][i]);
        }
        struct engine_stats st = settled_stats(en);
        n_preemptions = st.sched.n_preemptions;
        assert_true(st.traffic.weight_bytes > 0 && st.busy_s > 0);
        assert_true(!crowd || st.sched.prefix_hit_tokens > 0);
        engine_destroy(en);
        for (int i = 0; i < N; i++)
            client_destroy(clients[i]);
    }
    assert_true(n_preemptions > 0);
    for (int i = 0; i < N; i++)
        assert_memory_equal(tokens[0][i], tokens[1][i], sizeof tokens[0][i]);
    tokenizer_destroy(t);
    forward_destroy(fw);
    model_close(m);
}

int main(void)
{
    log_setup(LOG_OFF, LOG_TEXT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_the_same_alone_and_in_a_crowd),
        cmocka_unit_test(a_conversation_hits_what_was_generated),
        cmocka_unit_test(stop_strings_end_the_text_before_them),
        cmocka_unit_test(stop_matcher_agrees_with_a_plain_search),
        cmocka_unit_test(text_comes_in_whole_characters),
        cmocka_unit_test(end_tokens_end_unless_told),
        cmocka_unit_test(echo_gives_the_prompt_with_its_logprobs),
        cmocka_unit_test(seeds_give_the_same_text_in_any_company),
        cmocka_unit_test(cancelled_requests_end_once_and_free_their_memory),
        cmocka_unit_test(a_failed_step_ends_its_requests_only),
        cmocka_unit_test(bad_and_impossible_requests_are_refused),
        cmocka_unit_test(drain_and_shutdown_end_everything),
        cmocka_unit_test(threads_submit_and_cancel_at_once),
        cmocka_unit_test(the_cpu_gives_the_same_tokens_alone_and_in_a_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
