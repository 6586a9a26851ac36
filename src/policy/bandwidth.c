/* Bandwidth admission, and the expectations that it rests on: how long steps take, how long outputs get, how much
 * memory the running sequences will hold at their worst. */
#include "policy/sched_impl.h"

#include <math.h>
#include <string.h>

/* The share of running time that prefill gets at least, for predictions of waiting time. */
#define MIN_PREFILL_SHARE 0.05

/* Waiting ones are refused a little before their limit: predictions of the last step or two are rough. */
#define LATE_MARGIN 0.95

/* With few sequences a single long output upsets the sum, so each is expected longer than its mean; many even out. */
#define QUANTILE_FEW 0.8
#define FEW_SEQUENCES 16

int forecast_init(struct sched *s, struct err *e)
{
    struct forecast *f = &s->forecast;
    uint32_t chunk_tokens = s->config.chunk_tokens;
    if (chunk_tokens > 256 || (chunk_tokens & (chunk_tokens - 1)))
        return err_set(e, WEIR_EINVAL,
                       "scheduler: chunk_tokens is %u, with a traffic model it must be a power of two up to 256",
                       chunk_tokens);
    calibrate_init(&f->steps, &s->config.model, &s->config.device);
    int rc = length_predictor_create(&f->lengths, &(struct length_predictor_config){0}, e);
    return rc ? rc : peak_init(&f->peak, s->config.max_running, chunk_tokens, e);
}

void forecast_finish(struct sched *s)
{
    length_predictor_destroy(s->forecast.lengths);
    peak_finish(&s->forecast.peak);
}

static struct length_class class_of(const struct seq *q)
{
    return (struct length_class){.n_prompt = q->n_prompt, .max_new_tokens = q->max_tokens - q->n_prompt, .key = q->key};
}

/* Output tokens that a sequence will still produce, at least one. */
static uint32_t expected_remaining(const struct sched *s, const struct seq *q)
{
    struct length_class c = class_of(q);
    uint32_t n_out = q->n_tokens - q->n_prompt;
    double total = length_expected(s->forecast.lengths, &c, n_out);
    if (s->running.n < FEW_SEQUENCES)
        total = fmax(total, (double)length_quantile(s->forecast.lengths, &c, n_out, QUANTILE_FEW));
    double left = ceil(total) - (double)n_out;
    return left < 1 ? 1 : (uint32_t)left;
}

/* --- what has happened ------------------------------------------------------------------------------------------ */

static double predict_prefill_s(const struct sched *s, const struct seq *q)
{
    uint32_t n_idle, n_cached = kv_count_ready(s, q, &n_idle) * s->config.chunk_tokens;
    uint32_t n = q->n_tokens - n_cached, step = s->config.max_step_tokens;
    struct traffic_load load = {0};
    double whole_steps = floor((double)n / step), seconds = 0;
    if (whole_steps > 0) {
        traffic_add(&load, &s->config.model, n_cached + (n - step) / 2, step, 1);
        seconds = whole_steps * calibrate_predict_s(&s->forecast.steps, &load);
    }
    if (n % step) {
        memset(&load, 0, sizeof load);
        traffic_add(&load, &s->config.model, q->n_tokens - n % step, n % step, 1);
        seconds += calibrate_predict_s(&s->forecast.steps, &load);
    }
    return seconds;
}

void forecast_submitted(struct sched *s, struct seq *q)
{
    if (!s->config.has_model)
        return;
    q->prefill_s = predict_prefill_s(s, q);
    s->forecast.queued_prefill_s += q->prefill_s;
}

void forecast_left_queue(struct sched *s, struct seq *q)
{
    s->forecast.queued_prefill_s = s->n_queued ? s->forecast.queued_prefill_s - q->prefill_s : 0;
    q->prefill_s = 0;
}

/* Chunks that other running sequences hold too are counted with them. */
static struct peak_seq peak_of(const struct sched *s, const struct seq *q)
{
    uint32_t n_shared = 0;
    for (uint32_t i = 0; i < q->n_table; i++)
        n_shared += s->pool.refs[q->table[i]] > 1;
    return (struct peak_seq){.id = q->id,
                             .base_step = s->forecast.n_plans,
                             .base_tokens = q->n_tokens - n_shared * s->config.chunk_tokens,
                             .end_step = s->forecast.n_plans + expected_remaining(s, q)};
}

void forecast_started(struct sched *s, const struct seq *q)
{
    if (!s->config.has_model)
        return;
    struct peak_seq p = peak_of(s, q);
    peak_add(&s->forecast.peak, &p);
}

void forecast_stopped(struct sched *s, const struct seq *q)
{
    if (s->config.has_model)
        peak_remove(&s->forecast.peak, q->id);
}

/* The plan's load as it is, not as it was drafted. */
void forecast_planned(struct sched *s)
{
    s->forecast.n_plans++;
    s->predicted_s = 0;
    if (!s->config.has_model)
        return;
    s->load = s->padding;
    for (uint32_t i = 0; i < s->n_plan; i++)
        traffic_add(&s->load, &s->config.model, s->plan_seqs[i].n_past, s->plan_seqs[i].n_tokens,
                    s->plan_seqs[i].samples);
    s->predicted_s = calibrate_predict_s(&s->forecast.steps, &s->load);
}

void forecast_committed(struct sched *s, double seconds)
{
    if (s->config.has_model)
        calibrate_update(&s->forecast.steps, &s->load, seconds);
}

/* A sequence that outlives its prediction gets a new one, given how far it came. */
void forecast_produced(struct sched *s, const struct seq *q)
{
    struct forecast *f = &s->forecast;
    if (!s->config.has_model || f->peak.n == 0)
        return;
    if (f->peak.seqs[f->peak.n - 1].end_step > f->n_plans)
        return; /* nobody's end has passed */
    for (uint32_t i = f->peak.n; i-- > 0 && f->peak.seqs[i].end_step <= f->n_plans;) {
        if (f->peak.seqs[i].id != q->id)
            continue;
        peak_remove(&f->peak, q->id);
        struct peak_seq p = peak_of(s, q);
        peak_add(&f->peak, &p);
        return;
    }
}

void forecast_ended(struct sched *s, const struct seq *q, bool by_itself)
{
    if (!s->config.has_model || q->n_tokens == q->n_prompt)
        return;
    struct length_class c = class_of(q);
    length_observe(s->forecast.lengths, &c, q->n_tokens - q->n_prompt, !by_itself);
}

/* --- waiting ---------------------------------------------------------------------------------------------------- */

/* Seconds of a step in which n sequences decode and read n_positions together. */
static double decode_step_s(const struct sched *s, uint32_t n, double n_positions)
{
    const struct traffic_model *m = &s->config.model;
    struct traffic_load load = {
        .n_seqs = n, .n_rows = n, .n_outputs = n, .full_positions = n_positions, .full_pairs = n_positions};
    load.window_positions = load.window_pairs =
        m->n_layer_window ? fmin(n_positions, (double)n * m->window) : n_positions;
    return calibrate_predict_s(&s->forecast.steps, &load);
}

/* The inter-token time that can be promised: the target, or where one sequence alone cannot reach it, twice what that
 * one takes, so that sequences still share the weights that they read. */
static double target_s(const struct sched *s)
{
    return fmax(s->config.itl_target_s, 2 * decode_step_s(s, 1, s->config.chunk_tokens));
}

/* What prefill gets of the time while the present sequences decode at their target. */
static double prefill_share(const struct sched *s)
{
    uint64_t tokens = peak_chunks(&s->forecast.peak, s->forecast.n_plans, NULL) * s->config.chunk_tokens;
    double busy = s->running.n ? decode_step_s(s, s->running.n, (double)tokens) / target_s(s) : 0;
    return fmax(MIN_PREFILL_SHARE, 1 - busy);
}

/* Prefill that admitted sequences still have before them: rows, and seconds if nothing else ran. */
static uint64_t running_prefill(const struct sched *s, double *seconds)
{
    uint64_t n_rows = 0;
    *seconds = 0;
    for (uint32_t slot = s->running.last; slot != INDEX_NONE; slot = s->seqs[slot].prev) {
        const struct seq *r = &s->seqs[slot];
        uint32_t left = r->n_tokens - r->n_past;
        if (left == 1)
            break; /* in order of service those who still prefill are the last ones */
        struct traffic_load load = {0};
        traffic_add(&load, &s->config.model, r->n_past, left, 1);
        *seconds += calibrate_predict_s(&s->forecast.steps, &load);
        n_rows += left;
    }
    return n_rows;
}

double forecast_wait_s(const struct sched *s, const struct seq *q)
{
    double running_s, own_s = predict_prefill_s(s, q);
    running_prefill(s, &running_s);
    double wait_s = (running_s + s->forecast.queued_prefill_s + own_s) / prefill_share(s);
    if (s->forecast.blocked && s->n_queued > 0)
        wait_s = fmax(wait_s, 2 * drain_retry_after(&s->drain, s->n_queued, s->now_s) + own_s);
    return wait_s;
}

/* Refuses those at the head of the queue whose first token would come too late to be of use: their work would only
 * delay others beyond their limit too. Nothing was produced for them yet. */
void stage_expire(struct sched *s, struct draft *d)
{
    (void)d;
    double share = prefill_share(s), running_s;
    running_prefill(s, &running_s);
    while (s->config.ttft_limit_s > 0 && s->n_queued > 0) {
        const struct seq *q = &s->seqs[s->queue[0]];
        bool late =
            s->now_s - q->submitted_s + (running_s + q->prefill_s) / share > LATE_MARGIN * s->config.ttft_limit_s;
        if (!late || q->n_tokens > q->n_prompt || q->n_preemptions > 0)
            return;
        seq_end(s, s->queue[0], SCHED_REFUSED, SCHED_REFUSED_LATE);
    }
}

/* --- admission -------------------------------------------------------------------------------------------------- */

/* Would the peak of memory and the step at that peak stay within bounds with q? If not, what it waits for is noted. */
static bool admits(struct sched *s, const struct seq *q)
{
    uint32_t n_idle, n_ready = kv_count_ready(s, q, &n_idle), chunk_tokens = s->config.chunk_tokens;
    struct peak_seq p = {.id = q->id,
                         .base_step = s->forecast.n_plans,
                         .base_tokens = q->n_tokens - (n_ready - n_idle) * chunk_tokens,
                         .end_step = s->forecast.n_plans + expected_remaining(s, q)};
    uint64_t peak = peak_chunks(&s->forecast.peak, s->forecast.n_plans, &p);
    uint64_t margin = (uint64_t)1 << (q->n_preemptions < 32 ? q->n_preemptions : 32);
    if (q->n_preemptions > 0)
        peak += margin * (s->running.n + 1);
    if (peak > s->pool.n_chunks)
        return false;
    /* What is held and promised now must fit as well: predictions do not bind the present. */
    uint64_t needed = chunks_for(s, q->n_tokens) - n_ready + n_idle;
    if (needed + s->running.n / 4 > kv_available(s))
        return false;
    double positions = (double)(peak + n_ready - n_idle) * chunk_tokens;
    s->stats.waiting_for = SCHED_WAIT_BANDWIDTH;
    return decode_step_s(s, s->running.n + 1, positions) <= s->config.bandwidth_limit * target_s(s);
}

void stage_admit_bandwidth(struct sched *s, struct draft *d)
{
    double running_s;
    uint64_t n_rows = running_prefill(s, &running_s);
    s->forecast.blocked = false;
    while (s->n_queued > 0 && s->running.n < s->config.max_running) {
        const struct seq *q = &s->seqs[s->queue[0]];
        if (n_rows >= s->config.max_step_tokens) {
            s->stats.waiting_for = SCHED_WAIT_PREFILL;
            return; /* it could not begin now: better it waits where it can still be refused or overtaken */
        }
        s->stats.waiting_for = SCHED_WAIT_KV;
        if (s->running.n > 0 && !admits(s, q)) {
            s->forecast.blocked = true;
            return;
        }
        admit_next(s);
        n_rows += q->n_tokens - q->n_past;
        stage_expire(s, d);
    }
    s->forecast.blocked = s->n_queued > 0;
}

/* Prefill fills what decoding leaves of the inter-token target. With nobody decoding there is nobody to keep waiting,
 * and only max_step_tokens bounds the step. */
void stage_time_budget(struct sched *s, struct draft *d)
{
    for (uint32_t slot = s->running.first; slot != INDEX_NONE && !d->timed; slot = s->seqs[slot].next)
        d->timed = s->seqs[slot].n_tokens > s->seqs[slot].n_prompt;
    d->budget_s = target_s(s) * s->config.bandwidth_limit;
}
