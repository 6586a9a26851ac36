#include "engine/engine.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/random.h>

#define DEFAULT_PROMPT_OUTPUTS 32        /* rows of prompt log-probabilities in a step, beside those that are sampled */
#define MAX_ECHO_BYTES ((size_t)1 << 28) /* text of an echoed prompt */

_Static_assert(ENGINE_MAX_STOPS == STOP_MAX_STRINGS && ENGINE_MAX_STOP_BYTES == STOP_MAX_BYTES, "one bound");

static uint32_t max_outputs(const struct sched_config *c)
{
    uint64_t n = c->max_step_outputs ? c->max_step_outputs : (uint64_t)c->max_running + DEFAULT_PROMPT_OUTPUTS;
    return n < c->max_step_tokens ? (uint32_t)n : c->max_step_tokens;
}

struct device_config engine_device_config(const struct engine_config *c)
{
    struct device_config d = c->device;
    d.chunk_tokens = c->sched.chunk_tokens;
    d.n_chunks = c->sched.n_chunks;
    d.max_step_tokens = c->sched.max_step_tokens;
    d.max_step_seqs = c->sched.max_running;
    d.max_outputs = max_outputs(&c->sched);
    d.max_context = c->sched.max_context;
    return d;
}

static void destroy_shared(struct engine_shared *sh)
{
    if (!sh)
        return;
    pthread_mutex_destroy(&sh->lock);
    free(sh->slot_ids);
    free(sh->slot_uses);
    free(sh->slot_cancels);
    free(sh->unused_slots);
    free(sh->cancels);
    free(sh);
}

static int create_shared(struct engine_shared **out, uint32_t n_slots, struct err *e)
{
    struct engine_shared *sh = mem_array(1, sizeof *sh);
    if (!sh)
        return err_set(e, WEIR_ENOMEM, "no memory for an engine");
    pthread_mutex_init(&sh->lock, NULL);
    *out = sh;
    sh->slot_ids = mem_array(n_slots, sizeof *sh->slot_ids);
    sh->slot_uses = mem_array(n_slots, sizeof *sh->slot_uses);
    sh->slot_cancels = mem_array(n_slots, sizeof *sh->slot_cancels);
    sh->unused_slots = mem_array(n_slots, sizeof *sh->unused_slots);
    sh->cancels = mem_array(n_slots, sizeof *sh->cancels);
    if (!sh->slot_ids || !sh->slot_uses || !sh->slot_cancels || !sh->unused_slots || !sh->cancels)
        return err_set(e, WEIR_ENOMEM, "no memory for an engine of %u requests", n_slots);
    for (uint32_t i = 0; i < n_slots; i++)
        sh->unused_slots[i] = n_slots - 1 - i;
    return 0;
}

static int take_memory(struct engine *en, const struct engine_config *c, struct err *e)
{
    int rc = sched_create(&en->sched, &en->config, e);
    if (!rc)
        rc = create_shared(&en->shared, en->n_slots, e);
    if (!rc)
        rc = ring_init(&en->inbox, c->max_inbox, e);
    if (!rc)
        rc = accounts_init(en, !c->no_accounts, e);
    if (!rc)
        rc = watch_init(&en->watch, !c->no_accounts, e);
    if (rc)
        return rc;
    en->gens = mem_array(en->n_slots, sizeof *en->gens);
    en->cancels = mem_array(en->n_slots, sizeof *en->cancels);
    en->arrivals = mem_array(c->max_inbox, sizeof *en->arrivals);
    en->row_tokens = mem_array(en->config.max_step_tokens, sizeof *en->row_tokens);
    en->output_rows = mem_array(en->config.max_step_outputs, sizeof *en->output_rows);
    en->seq_outputs = mem_array(en->config.max_running, sizeof *en->seq_outputs);
    en->seq_last_output = mem_array(en->config.max_running, sizeof *en->seq_last_output);
    en->seqs = mem_array(en->config.max_running, sizeof *en->seqs);
    en->outcomes = mem_array(en->config.max_running, sizeof *en->outcomes);
    if (!en->gens || !en->cancels || !en->arrivals || !en->row_tokens || !en->output_rows || !en->seq_outputs ||
        !en->seq_last_output || !en->seqs || !en->outcomes)
        return err_set(e, WEIR_ENOMEM, "no memory for an engine of %u requests", en->n_slots);
    return 0;
}

static void free_engine(struct engine *en)
{
    ring_finish(&en->inbox);
    accounts_finish(en);
    watch_finish(&en->watch);
    sched_destroy(en->sched);
    recorder_close(en->recorder);
    destroy_shared(en->shared);
    if (en->device)
        device_destroy(en->device);
    buf_finish(&en->scratch);
    free(en->gens);
    free(en->cancels);
    free(en->arrivals);
    free(en->row_tokens);
    free(en->output_rows);
    free(en->seq_outputs);
    free(en->seq_last_output);
    free(en->seqs);
    free(en->outcomes);
    free(en);
}

int engine_create_on(struct engine **out, struct device *d, const struct tokenizer *t, const struct engine_config *c,
                     struct err *e)
{
    *out = NULL;
    struct engine *en = mem_array(1, sizeof *en);
    if (!en) {
        device_destroy(d);
        return err_set(e, WEIR_ENOMEM, "no memory for an engine");
    }
    en->device = d;
    en->tokenizer = t;
    en->n_vocab = d->model->n_vocab;
    en->config = c->sched;
    en->config.max_step_outputs = max_outputs(&c->sched);
    buf_init(&en->scratch, MAX_ECHO_BYTES);
    en->stats.healthy = true;
    en->watch.view_fd = -1;
    uint64_t n_slots = (uint64_t)c->max_inbox + c->sched.max_queued + c->sched.max_running;
    int rc = 0;
    if (c->max_inbox == 0 || n_slots > 1u << 26)
        rc = err_set(e, WEIR_EINVAL, "engine: max_inbox is %u, it must be 1 or more and sensible", c->max_inbox);
    en->n_slots = (uint32_t)n_slots;
    if (!rc && getrandom(&en->hash_secret, sizeof en->hash_secret, 0) != (ssize_t)sizeof en->hash_secret)
        rc = err_errno(e, "getrandom");
    if (!rc)
        rc = take_memory(en, c, e);
    if (!rc && c->record_path)
        rc = recorder_open(&en->recorder, c->record_path, c->record_max_bytes, d->model->name, &en->config,
                           clock_monotonic_s(), e);
    if (!rc) {
        sched_stats(en->sched, &en->stats.sched);
        watch_publish(en);
        int failed = pthread_create(&en->thread, NULL, engine_run, en);
        if (failed)
            rc = err_set(e, WEIR_ENOMEM, "no thread for the engine (error %d)", failed);
    }
    if (rc) {
        free_engine(en);
        return rc;
    }
    *out = en;
    return 0;
}

int engine_create(struct engine **out, const struct forward *f, const struct tokenizer *t,
                  const struct engine_config *c, struct err *e)
{
    struct device *d;
    struct device_config dc = engine_device_config(c);
    *out = NULL;
    int rc = device_cpu_create(&d, f, &dc, e);
    return rc ? rc : engine_create_on(out, d, t, c, e);
}

void engine_drain(struct engine *en)
{
    pthread_mutex_lock(&en->shared->lock);
    en->shared->draining = true;
    pthread_mutex_unlock(&en->shared->lock);
}

bool engine_idle(const struct engine *en)
{
    pthread_mutex_lock(&en->shared->lock);
    bool idle = en->shared->n_live == 0;
    pthread_mutex_unlock(&en->shared->lock);
    return idle;
}

void engine_destroy(struct engine *en)
{
    if (!en)
        return;
    pthread_mutex_lock(&en->shared->lock);
    en->shared->draining = en->shared->stopping = true;
    pthread_mutex_unlock(&en->shared->lock);
    ring_kick(&en->inbox);
    pthread_join(en->thread, NULL);
    assert(en->shared->n_live == 0);
    free_engine(en);
}

/* The slot is taken and the message pushed under one lock, so that a stopping engine knows of every request. */
int engine_submit(struct engine *en, const struct gen_request *r, uint64_t *id, struct err *e)
{
    struct gen *g;
    int rc = gen_create(&g, en, r, e);
    if (rc)
        return rc;
    struct engine_shared *sh = en->shared;
    pthread_mutex_lock(&sh->lock);
    if (sh->draining) {
        rc = err_set(e, WEIR_EBUSY, "the server is shutting down");
    } else if (sh->n_live == en->n_slots) {
        rc = err_set(e, WEIR_EBUSY, "too many requests, try again later");
    } else {
        uint32_t slot = sh->unused_slots[en->n_slots - sh->n_live - 1];
        g->id = (uint64_t)(sh->slot_uses[slot] + 1) << 32 | slot;
        *id = g->id;
        if (ring_push(&en->inbox, g)) {
            rc = err_set(e, WEIR_EBUSY, "too many requests, try again later");
        } else {
            sh->slot_uses[slot]++;
            sh->slot_ids[slot] = *id;
            sh->n_live++;
        }
    }
    pthread_mutex_unlock(&sh->lock);
    if (rc)
        gen_destroy(g);
    else
        free(r->prompt);
    return rc;
}

void engine_cancel(struct engine *en, uint64_t id)
{
    struct engine_shared *sh = en->shared;
    uint32_t slot = slot_of(id);
    pthread_mutex_lock(&sh->lock);
    bool is_live = id != 0 && slot < en->n_slots && sh->slot_ids[slot] == id;
    if (is_live) {
        if (sh->slot_cancels[slot] == 0)
            sh->cancels[sh->n_cancels++] = slot;
        sh->slot_cancels[slot] = id; /* in place of one who held the slot before and has ended */
    }
    pthread_mutex_unlock(&sh->lock);
    if (is_live)
        ring_kick(&en->inbox);
}
