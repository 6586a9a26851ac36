/* An engine on a fake device that verifies chunk tables by what it computes, and a client of it.
 *
 * The fake device's keys and values are hashes of (token, position), and its logits a function of all of them read
 * through the chunk table. So a request's text comes out right only if every chunk of its table holds what it should,
 * whether computed, shared, copied or computed again after a preemption.
 */
#ifndef WEIR_TESTS_ENGINE_FAKE_H
#define WEIR_TESTS_ENGINE_FAKE_H

#include "tokenizer_check.h"

#include "base/hash.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "model/model.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MAX_TOKENS = 512 };

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

static inline uint64_t kv_of(int32_t token, uint32_t position)
{
    return hash_u64((uint64_t)(uint32_t)token << 32 | (position + 1));
}

static inline void logits_of(uint64_t state, bool utf8, int32_t last, float *logits)
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

static inline int fake_start(struct device *d, const struct step *s, struct err *e)
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

static inline int fake_wait(struct device *d, struct step_result *out, struct err *e)
{
    (void)e;
    *out = ((struct fake *)d)->result;
    return 0;
}

static inline void fake_copy(struct device *d, uint32_t src, uint32_t dst, uint32_t n_tokens)
{
    struct fake *f = (struct fake *)d;
    uint32_t ct = d->config.chunk_tokens;
    memcpy(f->kv + dst * ct, f->kv + src * ct, n_tokens * sizeof *f->kv);
}

static inline void fake_poison(struct device *d, uint32_t chunk)
{
    struct fake *f = (struct fake *)d;
    memset(f->kv + chunk * d->config.chunk_tokens, 0xee, d->config.chunk_tokens * sizeof *f->kv);
}

static inline uint64_t fake_memory(const struct device *d)
{
    return d->config.n_chunks;
}

static inline void fake_destroy(struct device *d)
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

static inline struct fake *fake_create(const struct engine_config *c)
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
static inline uint32_t reference(const int32_t *prompt, uint32_t n_prompt, uint32_t max_new, char *text)
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

static inline void client_sink(const struct gen_event *ev)
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

static inline struct client *client_create(struct engine *en)
{
    struct client *c = calloc(1, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->ended, NULL);
    c->engine = en;
    return c;
}

static inline void client_destroy(struct client *c)
{
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->ended);
    free(c);
}

static inline enum finish_reason client_wait(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->n_terminal)
        pthread_cond_wait(&c->ended, &c->lock);
    enum finish_reason finish = c->end.finish;
    pthread_mutex_unlock(&c->lock);
    return finish;
}

static inline struct gen_request greedy(const int32_t *prompt, uint32_t n, uint32_t max_new)
{
    struct gen_request r = {.n_prompt = n, .max_new_tokens = max_new, .sink = client_sink};
    r.prompt = malloc(n * sizeof *prompt);
    memcpy(r.prompt, prompt, n * sizeof *prompt);
    sampling_params_default(&r.sampling);
    r.sampling.temperature = 0;
    return r;
}

static inline uint64_t send(struct engine *en, struct client *c, struct gen_request *r)
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

static inline void start_engine(struct fixture *f, uint32_t n_chunks, uint32_t max_running)
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

static inline void stop_engine(struct fixture *f)
{
    engine_destroy(f->engine);
    tokenizer_destroy(f->tokenizer);
}

/* The figures after everything ended: they follow the last event by a moment. */
static inline struct engine_stats settled_stats(struct engine *en)
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

static inline uint32_t random_prompt(struct rng *rng, int32_t *prompt)
{
    uint32_t n = 1 + (uint32_t)rng_below(rng, 40), shared = (uint32_t)rng_below(rng, 41);
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = i < shared ? (int32_t)('A' + i % 20) : (int32_t)rng_below(rng, 200);
    return n;
}

#endif
