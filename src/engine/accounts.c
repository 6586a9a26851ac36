/* Who used what: the shares of each step, and the time line of each request. */
#include "base/mem.h"
#include "engine/engine_impl.h"

#include <stdlib.h>
#include <string.h>

int accounts_init(struct engine *en, bool wanted, struct err *e)
{
    const struct sched_config *c = &en->config;
    en->keeps_accounts = wanted;
    if (!wanted)
        return 0;
    en->once = c->model;
    en->once.kv_block_rows = 0;
    const double prompt_flops_per_s = c->device.prompt_flops_per_s;
    en->rates = (struct usage_rates){.model = c->has_model ? &en->config.model : NULL,
                                     .bytes_per_s = c->device.bytes_per_s,
                                     .flops_per_s = c->device.matmul_flops_per_s,
                                     .prompt_flops_per_s =
                                         prompt_flops_per_s > 0 ? prompt_flops_per_s : c->device.matmul_flops_per_s};
    en->parts = mem_array(c->max_running, sizeof *en->parts);
    en->shares = mem_array(c->max_running, sizeof *en->shares);
    return en->parts && en->shares ? 0 : err_set(e, WEIR_ENOMEM, "no memory for the accounts of an engine");
}

void accounts_finish(struct engine *en)
{
    free(en->parts);
    free(en->shares);
}

void accounts_submitted(struct engine *en, struct gen *g)
{
    struct sched_stats st;
    if (!en->keeps_accounts)
        return;
    sched_stats(en->sched, &st);
    memcpy(g->waited_s, st.waited_s, sizeof g->waited_s);
}

/* The end of the wait for the first step. */
static void leave_queue(struct engine *en, struct gen *g, double now_s)
{
    struct sched_stats st;
    enum sched_wait most = SCHED_WAIT_STEP;
    double known_s = 0;
    sched_stats(en->sched, &st);
    for (int i = 0; i < SCHED_N_WAITS; i++)
        known_s += g->usage.queued_s[i] = st.waited_s[i] - g->waited_s[i];
    double rest_s =
        now_s - g->submitted_s - known_s; /* a step ran when it came: the scheduler did not know of it yet */
    g->usage.queued_s[SCHED_WAIT_STEP] += rest_s > 0 ? rest_s : 0;
    for (int i = 0; i < SCHED_N_WAITS; i++) {
        if (g->usage.queued_s[i] > g->usage.queued_s[most])
            most = (enum sched_wait)i;
    }
    gen_usage_span(&g->usage, GEN_QUEUED, now_s - g->submitted_s, 0, 0);
    g->usage.spans[0].reason = most;
}

void accounts_scheduled(struct engine *en, struct gen *g, double now_s)
{
    if (en->keeps_accounts)
        leave_queue(en, g, now_s);
}

static void count_seq(struct engine *en, struct gen *g, const struct plan_seq *p, const struct usage_share *share,
                      double begin_s, double now_s)
{
    struct gen_usage *u = &g->usage;
    if (u->n_steps > 0 && p->n_past < g->n_past) {
        gen_usage_span(u, GEN_PREEMPTED, begin_s - g->submitted_s, 0, 0);
        u->n_preemptions++;
    } else if (u->n_steps > 0 && g->last_step + 1 < en->stats.n_steps) {
        gen_usage_span(u, GEN_STALLED, begin_s - g->submitted_s, 0, 0);
    }
    bool decodes = p->n_tokens == 1 && g->n_tokens > g->n_prompt;
    gen_usage_span(u, decodes ? GEN_DECODE : GEN_PREFILL, now_s - g->submitted_s, gen_memory_bytes(&share->traffic),
                   p->n_tokens);
    gen_traffic_add(&u->traffic, &share->traffic);
    u->device_s += share->device_s;
    u->n_steps++;
    g->n_past = p->n_past + p->n_tokens;
    g->last_step = en->stats.n_steps;
}

void accounts_step(struct engine *en, const struct plan *plan, const struct step_result *r, double begin_s,
                   double now_s, bool failed)
{
    if (!en->keeps_accounts)
        return;
    struct traffic_load load = {0};
    struct step_record rec = {.index = en->stats.n_steps,
                              .begin_s = begin_s,
                              .seconds = failed ? now_s - begin_s : r->seconds,
                              .predicted_s = plan->predicted_s,
                              .predicted_bytes = plan->predicted_bytes,
                              .n_seqs = plan->n_seqs,
                              .n_rows = plan->n_tokens,
                              .n_copies = plan->n_copies,
                              .failed = failed};
    struct sched_stats st;
    sched_stats(en->sched, &st); /* as the plan left them */
    rec.n_queued = st.n_queued;
    rec.n_running = st.n_running;
    rec.n_preempted = (uint32_t)(st.n_preemptions - en->stats.sched.n_preemptions);
    for (uint32_t i = 0; i < plan->n_seqs; i++) {
        const struct plan_seq *p = &plan->seqs[i];
        en->parts[i] = (struct usage_part){.n_past = p->n_past,
                                           .n_rows = p->n_tokens,
                                           .n_outputs = en->seq_outputs[i],
                                           .n_prompt = en->gens[slot_of(p->id)]->n_prompt};
        rec.n_outputs += en->seq_outputs[i];
        if (en->rates.model)
            traffic_add(&load, &en->once, p->n_past, p->n_tokens, 0, en->seq_outputs[i]);
    }
    usage_share(&en->rates, en->parts, plan->n_seqs, &r->traffic, r->seconds, en->shares);
    for (uint32_t i = 0; i < plan->n_seqs; i++) {
        struct gen *g = en->gens[slot_of(plan->seqs[i].id)];
        bool decodes = plan->seqs[i].n_tokens == 1 && g->n_tokens > g->n_prompt;
        rec.n_prefill_seqs += !decodes;
        rec.n_prefill_rows += decodes ? 0 : plan->seqs[i].n_tokens;
        gen_traffic_add(&rec.traffic, &en->shares[i].traffic);
        count_seq(en, g, &plan->seqs[i], &en->shares[i], begin_s, now_s);
    }
    if (en->rates.model && !failed) {
        struct traffic_cost cost;
        traffic_cost(&en->once, &load, &cost);
        en->stats.kv_useful_bytes += cost.kv_read_bytes;
    }
    watch_step(&en->watch, &rec);
}

void accounts_ended(struct engine *en, struct gen *g, double now_s)
{
    if (!en->keeps_accounts)
        return;
    if (g->usage.n_spans == 0)
        leave_queue(en, g, now_s);
    else if (g->last_step + 1 < en->stats.n_steps) /* left out since */
        gen_usage_span(&g->usage, GEN_STALLED, now_s - g->submitted_s, 0, 0);
}
