/* The engine thread: arrivals in, a plan, a step on the device, tokens out. */
#include "engine/engine_impl.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <string.h>

/* Ends. */

static void end_gen(struct engine *en, struct gen *g, const struct sched_event *why)
{
    struct engine_shared *sh = en->shared;
    uint32_t slot = slot_of(g->id);
    if (why->state == SCHED_REFUSED) {
        g->finish = FINISH_REFUSED;
    } else if (why->state == SCHED_CANCELLED) {
        g->finish = FINISH_CANCELLED;
    } else if (why->state == SCHED_FAILED) {
        g->finish = FINISH_FAILED;
        g->error = "the device failed during a step of this request";
    }
    assert(g->finish != FINISH_NONE);
    accounts_ended(en, g, clock_monotonic_s());
    gen_deliver_end(g, why);
    en->gens[slot] = NULL;
    gen_destroy(g);
    pthread_mutex_lock(&sh->lock);
    sh->slot_ids[slot] = 0;
    sh->n_live--;
    sh->unused_slots[en->n_slots - sh->n_live - 1] = slot;
    pthread_mutex_unlock(&sh->lock);
}

static void take_events(struct engine *en)
{
    struct sched_event ev;
    while (sched_next_event(en->sched, &ev)) {
        struct gen *g = en->gens[slot_of(ev.id)];
        recorder_event(en->recorder, &ev, g->n_tokens - g->n_prompt);
        end_gen(en, g, &ev);
    }
}

/* Arrivals and cancels. */

static struct sched_request request_of(const struct engine *en, const struct gen *g)
{
    return (struct sched_request){
        .id = g->id,
        .n_prompt = g->n_prompt,
        .max_new_tokens = g->max_new_tokens,
        .chunk_hashes = g->hashes,
        .n_chunk_hashes = g->n_hashes,
        .n_prompt_logits = g->echo && g->logprobs ? g->n_prompt - 1 : 0, /* the last row's are sampled from */
        .n_pinned = g->n_pinned,
        .priority = g->priority,
        .itl_target_s = g->itl_target_s,
        .ttft_limit_s = g->ttft_limit_s,
        .key = recorder_key(en->recorder, g->key),
    };
}

static void arrive(struct engine *en, struct gen *g)
{
    struct sched_request r = request_of(en, g);
    struct sched_event refusal;
    double now_s = clock_monotonic_s();
    en->gens[slot_of(g->id)] = g;
    bool refused = sched_submit(en->sched, &r, now_s, &refusal) != 0;
    recorder_submit(en->recorder, &r, now_s, refused ? (int)refusal.reason : -1);
    accounts_submitted(en, g);
    if (refused)
        end_gen(en, g, &refusal);
    else
        take_events(en);
}

static void cancel(struct engine *en, uint64_t id)
{
    double now_s = clock_monotonic_s();
    sched_cancel(en->sched, id, now_s);
    recorder_cancel(en->recorder, id, now_s);
}

/* Cancels are taken before arrivals: whoever was cancelled has been pushed before. */
static bool read_inbox(struct engine *en)
{
    struct engine_shared *sh = en->shared;
    pthread_mutex_lock(&sh->lock);
    uint32_t n_cancels = sh->n_cancels;
    bool stopping = sh->stopping;
    for (uint32_t i = 0; i < n_cancels; i++) {
        en->cancels[i] = sh->slot_cancels[sh->cancels[i]];
        sh->slot_cancels[sh->cancels[i]] = 0;
    }
    sh->n_cancels = 0;
    pthread_mutex_unlock(&sh->lock);
    size_t n = ring_drain(&en->inbox, en->arrivals, en->inbox.capacity);
    for (size_t i = 0; i < n; i++)
        arrive(en, en->arrivals[i]);
    for (uint32_t i = 0; i < n_cancels; i++)
        cancel(en, en->cancels[i]);
    for (uint32_t slot = 0; stopping && slot < en->n_slots; slot++)
        if (en->gens[slot])
            cancel(en, en->gens[slot]->id);
    take_events(en);
    return stopping;
}

/* A step. */

/* Rows of the sequence whose logits are wanted: those before prompt tokens that are still to be echoed with
 * log-probabilities, and the one that is sampled from. */
static uint32_t list_outputs(const struct gen *g, const struct plan_seq *p, uint32_t first_row, uint32_t *out)
{
    uint32_t n = 0, end = p->n_past + p->n_tokens;
    if (g->echo && g->logprobs)
        for (uint32_t pos = g->n_echoed - 1; pos < end && pos + 1 < g->n_prompt; pos++)
            out[n++] = first_row + pos - p->n_past;
    if (p->samples)
        out[n++] = first_row + p->n_tokens - 1;
    return n;
}

/* Called by the device's threads during the step, which leave everything else of the engine alone. */
static void sample_seq(void *engine, uint32_t seq, const float *logits)
{
    struct engine *en = engine;
    const struct plan_seq *p = &en->plan->seqs[seq];
    if (p->samples)
        gen_sample(en->gens[slot_of(p->id)], en->tokenizer, logits + (size_t)en->seq_last_output[seq] * en->n_vocab);
}

static struct step build_step(struct engine *en, const struct plan *plan, double now_s)
{
    struct step s = {.tokens = en->row_tokens,
                     .seqs = en->seqs,
                     .output_rows = en->output_rows,
                     .sample = sample_seq,
                     .sample_user = en};
    en->plan = plan;
    for (uint32_t i = 0; i < plan->n_seqs; i++) {
        const struct plan_seq *p = &plan->seqs[i];
        struct gen *g = en->gens[slot_of(p->id)];
        g->n_cached = p->n_cached;
        if (g->scheduled_s <= 0) {
            accounts_scheduled(en, g, now_s);
            g->scheduled_s = now_s;
        }
        gen_begin_echo(g, en);
        memcpy(en->row_tokens + s.n_rows, g->tokens + p->n_past, p->n_tokens * sizeof *en->row_tokens);
        en->seqs[i] = (struct step_seq){.first_row = s.n_rows,
                                        .n_rows = p->n_tokens,
                                        .n_past = p->n_past,
                                        .chunks = p->chunks,
                                        .n_chunks = p->n_chunks,
                                        .n_prompt = g->n_prompt};
        en->seq_outputs[i] = list_outputs(g, p, s.n_rows, en->output_rows + s.n_outputs);
        s.n_outputs += en->seq_outputs[i];
        en->seq_last_output[i] = s.n_outputs - 1;
        s.n_rows += p->n_tokens;
        s.n_seqs++;
    }
    assert(s.n_outputs <= en->config.max_step_outputs);
    return s;
}

static void process_outputs(struct engine *en, const struct plan *plan, const float *logits, double now_s)
{
    for (uint32_t i = 0; i < plan->n_seqs; i++) {
        const struct plan_seq *p = &plan->seqs[i];
        struct gen *g = en->gens[slot_of(p->id)];
        uint32_t n_full = (p->n_past + p->n_tokens) / en->config.chunk_tokens, n_known = g->n_hashes;
        struct seq_outcome *o = &en->outcomes[i];
        bool is_first = p->samples && g->n_tokens == g->n_prompt;
        *o = (struct seq_outcome){0};
        if (en->config.prefix_cache) {
            gen_hash(g, en->config.chunk_tokens, n_full);
            o->n_chunk_hashes = n_full;
        }
        for (uint32_t n = en->seq_outputs[i]; n > 0; n--, logits += en->n_vocab) {
            if (n > 1 || !p->samples) {
                gen_echo_next(g, logits);
                continue;
            }
            o->sampled = true;
            o->finished = gen_next_token(g, en, now_s);
        }
        recorder_outcome(en->recorder, p, o, is_first, g->hashes + n_known, g->n_hashes - n_known);
    }
}

static void count_step(struct engine *en, const struct step_result *r, bool failed)
{
    struct engine_stats *st = &en->stats;
    st->n_steps++;
    st->n_failed_steps += failed;
    st->healthy = !failed;
    if (failed)
        return;
    const struct step_traffic *t = &r->traffic;
    st->busy_s += r->seconds;
    st->last_step_s = r->seconds;
    st->last_step_bytes = (double)(t->weight_bytes + t->kv_read_bytes + t->kv_write_bytes + t->activation_bytes);
    st->traffic.weight_bytes += t->weight_bytes;
    st->traffic.kv_read_bytes += t->kv_read_bytes;
    st->traffic.kv_write_bytes += t->kv_write_bytes;
    st->traffic.activation_bytes += t->activation_bytes;
    st->traffic.flops += t->flops;
}

static void run_step(struct engine *en, const struct plan *plan)
{
    struct err e = {0};
    struct step_result result = {0};
    for (uint32_t i = 0; i < plan->n_copies; i++)
        device_copy_chunk(en->device, plan->copies[i].src, plan->copies[i].dst, plan->copies[i].n_tokens);
    double begin_s = clock_monotonic_s();
    struct step step = build_step(en, plan, begin_s);
    int rc = device_start(en->device, &step, &e);
    if (!rc)
        rc = device_wait(en->device, &result, &e);
    double now_s = clock_monotonic_s();
    count_step(en, &result, rc != 0);
    accounts_step(en, plan, &result, begin_s, now_s, rc != 0);
    if (rc)
        LOG(LOG_ERROR, "device step failed", {"error", log_str(e.msg)}, {"requests", log_u64(plan->n_seqs)});
    else
        process_outputs(en, plan, result.logits, now_s);
    struct sched_outcome o = {
        .seqs = rc ? NULL : en->outcomes,
        .failed = rc != 0,
        .seconds = result.seconds,
        .bytes = rc ? 0 : en->stats.last_step_bytes,
    };
    now_s = clock_monotonic_s();
    sched_commit(en->sched, plan, &o, now_s);
    recorder_commit(en->recorder, &o, now_s);
    take_events(en);
}

static void rotate_recording(struct engine *en)
{
    recorder_rotate(en->recorder, clock_monotonic_s());
    for (uint32_t slot = 0; slot < en->n_slots; slot++) {
        const struct gen *g = en->gens[slot];
        if (!g)
            continue;
        struct sched_request r = request_of(en, g);
        recorder_live(en->recorder, &r, g->n_tokens - g->n_prompt);
    }
    recorder_state(en->recorder, en->sched);
}

static bool plan_step(struct engine *en, struct plan *plan)
{
    double now_s = clock_monotonic_s();
    bool planned = sched_plan(en->sched, now_s, plan);
    recorder_plan(en->recorder, plan, now_s);
    if (!planned)
        take_events(en); /* of those that were refused */
    return planned;
}

/* A change of the pressure's level, with what caused it. */
static void log_pressure(enum pressure_level was, const struct sched_stats *st)
{
    const struct pressure_stats *p = &st->memory.pressure;
    if (p->level == was)
        return;
    LOG(p->level > was && p->level >= PRESSURE_STOP_ADMITTING ? LOG_WARN : LOG_INFO,
        p->level > was ? "memory pressure rises" : "memory pressure falls",
        {"from", log_str(pressure_level_names[was])}, {"to", log_str(pressure_level_names[p->level])},
        {"cause", log_str(pressure_cause_names[p->level > was ? p->cause : PRESSURE_CAUSE_NONE])},
        {"chunks_free", log_u64(st->chunks_free)}, {"chunks_cached", log_u64(st->chunks_cached)},
        {"predicted_chunks", log_u64(st->memory.reserve.predicted_chunks)}, {"running", log_u64(st->n_running)},
        {"queued", log_u64(st->n_queued)});
}

void *engine_run(void *engine)
{
    struct engine *en = engine;
    for (;;) {
        struct plan plan;
        if (recorder_is_full(en->recorder))
            rotate_recording(en);
        bool stopping = read_inbox(en);
        bool planned = !stopping && plan_step(en, &plan);
        if (planned)
            run_step(en, &plan);
        enum pressure_level was = en->stats.sched.memory.pressure.level;
        sched_stats(en->sched, &en->stats.sched);
        log_pressure(was, &en->stats.sched);
        watch_publish(en);
        watch_view(en);
        if (stopping)
            return NULL; /* everything was cancelled, and nothing more comes in */
        if (!planned) {
            recorder_flush(en->recorder);
            ring_wait(&en->inbox, -1);
        }
    }
}
