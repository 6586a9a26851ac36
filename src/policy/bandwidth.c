/* Bandwidth admission, and the expectations that it rests on: how long steps take, how long outputs get, how much
 * memory the running sequences will hold at their worst. */
#include "policy/sched_impl.h"

#include <math.h>
#include <string.h>

/* Waiting ones are refused a little before their limit: predictions of the last step or two are rough. */
#define LATE_MARGIN 0.95

/* With few sequences a single long output upsets the sum, so each is expected longer than its mean; many even out. */
#define QUANTILE_FEW 0.8
#define FEW_SEQUENCES 16

/* The peak is kept so many standard deviations of the predictions' error away from the pool's end. */
#define ERROR_MARGIN 1.0
#define LENGTH_ERROR_GAIN 0.01

/* A prompt that takes so many steps of the inter-token target shares the time for prefill with others: it keeps half of
 * it, or twice what it needs to be in time itself. No more than two such at once; those behind them that are not long
 * pass the ones that wait for that. */
#define LONG_STEPS 8.0
#define LONG_SHARE 0.5
#define MAX_LONG 2
#define MAX_PASSED 16
#define LONG_SAFETY 2.0

/* What recomputation costs follows the fitted speed of the device, every so many steps. */
#define RECOMPUTE_COST_EVERY 256

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

/* Seconds of q's n rows behind n_past positions, in steps of nothing else. */
static double predict_rows_s(const struct sched *s, const struct seq *q, uint32_t n_past, uint32_t n)
{
    uint32_t step = s->config.max_step_tokens;
    struct traffic_load load = {0};
    double whole_steps = floor((double)n / step), seconds = 0;
    if (whole_steps > 0) {
        traffic_add(&load, &s->config.model, n_past + (n - step) / 2, step, q->n_prompt, 0);
        seconds = whole_steps * calibrate_predict_s(&s->forecast.steps, &load);
    }
    if (n % step) {
        memset(&load, 0, sizeof load);
        traffic_add(&load, &s->config.model, n_past + n - n % step, n % step, q->n_prompt, 1);
        seconds += calibrate_predict_s(&s->forecast.steps, &load);
    }
    return seconds;
}

static double predict_prefill_s(const struct sched *s, const struct seq *q)
{
    uint32_t n_idle, n_cached = kv_count_ready(s, q, &n_idle) * s->config.chunk_tokens;
    return predict_rows_s(s, q, n_cached, q->n_tokens - n_cached);
}

void forecast_queued(struct sched *s, struct seq *q)
{
    if (s->config.has_model)
        q->prefill_s = predict_prefill_s(s, q);
}

double forecast_output_tokens(const struct sched *s, const struct seq *q)
{
    struct length_class c = class_of(q);
    return length_expected(s->forecast.lengths, &c, 0);
}

/* Chunks that other running sequences hold too are counted with them. */
static void add_to_peak(struct sched *s, struct seq *q)
{
    uint32_t n_shared = 0;
    for (uint32_t i = 0; i < q->n_table; i++)
        n_shared += s->pool.refs[q->table[i]] > 1;
    q->end_step = s->forecast.n_rounds + expected_remaining(s, q);
    struct peak_seq p = {.id = q->id,
                         .base_step = s->forecast.n_rounds,
                         .base_tokens = q->n_tokens - n_shared * s->config.chunk_tokens,
                         .end_step = q->end_step};
    peak_add(&s->forecast.peak, &p);
}

static uint32_t rows_left(const struct seq *q)
{
    return q->n_tokens - q->n_past > 1 ? q->n_tokens - q->n_past : 0;
}

static bool takes_long(const struct sched *s, double prefill_s)
{
    return (s->pipeline.traits & NODE_SHARES_PREFILL) && prefill_s > LONG_STEPS * s->classes[1].itl_target_s;
}

static void count_prefill(struct sched *s, struct seq *q, uint32_t n_rows)
{
    struct forecast *f = &s->forecast;
    double left_s = predict_rows_s(s, q, q->n_past, n_rows);
    f->n_prefilling = f->n_prefilling + (n_rows > 0) - (q->rows_left > 0);
    f->prefill_rows = f->prefill_rows + n_rows - q->rows_left;
    f->prefill_s = f->n_prefilling ? f->prefill_s + left_s - q->left_s : 0;
    /* Once long, long to its end: the last rows read the whole context and take longer than they seem to. */
    bool is_long = n_rows > 0 && (q->is_long || takes_long(s, left_s));
    f->n_long = f->n_long + is_long - q->is_long;
    f->long_rows = f->long_rows + (is_long ? n_rows : 0) - (q->is_long ? q->rows_left : 0);
    f->long_s = f->n_long ? f->long_s + (is_long ? left_s : 0) - (q->is_long ? q->left_s : 0) : 0;
    q->is_long = is_long;
    q->rows_left = n_rows;
    q->left_s = left_s;
}

void forecast_moved(struct sched *s, struct seq *q)
{
    if (s->config.has_model && rows_left(q) != q->rows_left)
        count_prefill(s, q, rows_left(q));
}

static void count_tightest(struct sched *s)
{
    struct forecast *f = &s->forecast;
    f->tightest_s = INFINITY;
    f->n_tightest = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        double t = s->seqs[slot].itl_target_s;
        f->n_tightest = t < f->tightest_s ? 1 : f->n_tightest + (t == f->tightest_s);
        f->tightest_s = fmin(t, f->tightest_s);
    }
}

void forecast_started(struct sched *s, struct seq *q)
{
    struct forecast *f = &s->forecast;
    if (!s->config.has_model)
        return;
    lengths_started(s, q);
    q->turn = f->n_plans;
    q->turn_s = s->now_s;
    add_to_peak(s, q);
    q->predicted_tokens = q->n_tokens + (uint32_t)(q->end_step - f->n_rounds);
    count_prefill(s, q, rows_left(q));
    if (s->running.n == 1 || q->itl_target_s < f->tightest_s) {
        f->tightest_s = q->itl_target_s;
        f->n_tightest = 0;
    }
    f->n_tightest += q->itl_target_s == f->tightest_s;
}

/* It is no longer in the running list. */
void forecast_stopped(struct sched *s, struct seq *q)
{
    if (!s->config.has_model)
        return;
    peak_remove(&s->forecast.peak, q->id, q->end_step);
    probe_stopped(s, q);
    count_prefill(s, q, 0);
    if (q->itl_target_s == s->forecast.tightest_s && --s->forecast.n_tightest == 0)
        count_tightest(s);
}

/* The plan's load as it is, not as it was drafted. */
void forecast_planned(struct sched *s, const struct draft *d)
{
    struct forecast *f = &s->forecast;
    f->n_plans++;
    f->part = d->n_ranges > 0 ? f->part + 1.0 / d->n_ranges : 1;
    if (f->part >= 1) {
        f->n_rounds++;
        f->part -= 1;
    }
    s->predicted_s = 0;
    if (!s->config.has_model)
        return;
    probe_planned(s);
    s->load = s->padding;
    for (uint32_t i = 0; i < s->n_plan; i++)
        traffic_add(&s->load, &s->config.model, s->plan_seqs[i].n_past, s->plan_seqs[i].n_tokens,
                    s->seqs[s->plan_slots[i]].n_prompt, s->plan_seqs[i].samples);
    s->predicted_s = calibrate_predict_s(&s->forecast.steps, &s->load);
}

/* Seconds to compute a chunk behind n_past tokens, in steps as full as they get. */
static double chunk_s(const struct sched *s, uint32_t n_past)
{
    struct traffic_load load = {0};
    traffic_add(&load, &s->config.model, n_past, s->config.max_step_tokens, UINT32_MAX, 0);
    return calibrate_predict_s(&s->forecast.steps, &load) * s->config.chunk_tokens / s->config.max_step_tokens;
}

void forecast_committed(struct sched *s, double seconds)
{
    if (!s->config.has_model)
        return;
    calibrate_update(&s->forecast.steps, &s->load, seconds);
    if (s->stats.n_steps % RECOMPUTE_COST_EVERY == 1) {
        double at_start_s = chunk_s(s, 0), far_s = chunk_s(s, s->config.max_context);
        retention_set_cost(&s->retention, at_start_s, fmax(0, far_s - at_start_s) / s->config.max_context);
    }
}

/* A sequence that outlives its prediction gets a new one, given how far it came. */
void forecast_produced(struct sched *s, struct seq *q)
{
    if (!s->config.has_model || q->end_step > s->forecast.n_rounds)
        return;
    peak_remove(&s->forecast.peak, q->id, q->end_step);
    add_to_peak(s, q);
}

void forecast_ended(struct sched *s, const struct seq *q, bool by_itself)
{
    if (!s->config.has_model || q->n_tokens == q->n_prompt)
        return;
    s->stats.memory.calibration.n_lengths += by_itself;
    if (by_itself && q->predicted_tokens > 0) {
        double error = (double)q->n_tokens - q->predicted_tokens;
        s->forecast.length_error2 += LENGTH_ERROR_GAIN * (error * error - s->forecast.length_error2);
    }
    struct length_class c = class_of(q);
    length_observe(s->forecast.lengths, &c, q->n_tokens - q->n_prompt, !by_itself);
}

/* --- waiting ---------------------------------------------------------------------------------------------------- */

/* Seconds of a step in which n sequences decode and read n_positions together. */
static double decode_step_s(const struct sched *s, uint32_t n, double n_positions)
{
    struct traffic_load load = traffic_decoding(&s->config.model, n, n_positions);
    return calibrate_predict_s(&s->forecast.steps, &load);
}

/* The inter-token time that can be promised to all that run, and to q: the tightest target, or where one sequence alone
 * cannot reach it, twice what that one takes, so that sequences still share the weights that they read. */
static double target_s(const struct sched *s, const struct seq *q)
{
    double t = s->running.n ? s->forecast.tightest_s : q ? q->itl_target_s : s->classes[1].itl_target_s;
    if (q)
        t = fmin(t, q->itl_target_s);
    double alone_s = decode_step_s(s, 1, s->config.chunk_tokens);
    if (s->running.n) /* such steps are measured now: not less than one of them alone */
        alone_s = fmin(alone_s, decode_step_s(s, s->running.n, (double)s->pool.n_active * s->config.chunk_tokens));
    return fmax(t, 2 * alone_s);
}

double forecast_target_s(const struct sched *s)
{
    return target_s(s, NULL);
}

/* What prefill gets of the time while the present sequences decode at their target; once a step is often enough. */
static double prefill_share(struct sched *s)
{
    struct forecast *f = &s->forecast;
    if (s->running.n == 0)
        return 1;
    if (f->share_as_of != f->n_plans + 1) {
        uint64_t tokens = peak_chunks(&f->peak, f->n_rounds, NULL) * s->config.chunk_tokens;
        struct traffic_load load = traffic_decoding(&s->config.model, s->running.n, (double)tokens);
        forecast_add_first_row(s, &load);
        double busy_s = calibrate_predict_s(&f->steps, &load) + lengths_extra_s(s, NULL);
        f->share = fmax(MIN_PREFILL_SHARE, 1 - busy_s / target_s(s, NULL));
        f->share_as_of = f->n_plans + 1;
    }
    return f->share;
}

/* Running prefill that is done before q's, which has its share beside long ones. */
static double running_ahead_s(const struct sched *s, const struct seq *q)
{
    const struct forecast *f = &s->forecast;
    if (f->n_long == 0 || takes_long(s, q->prefill_s))
        return f->prefill_s;
    double short_s = f->prefill_s - f->long_s + q->prefill_s;
    return fmin(f->prefill_s, short_s / (1 - LONG_SHARE) - q->prefill_s);
}

double forecast_wait_s(struct sched *s, const struct seq *q)
{
    double ahead_s = queue_ahead_s(s, q), all_s = queue_all_s(s);
    double wait_s = (running_ahead_s(s, q) + ahead_s + q->prefill_s) / prefill_share(s);
    if (s->forecast.blocked && all_s > 0)
        wait_s =
            fmax(wait_s, 2 * drain_retry_after(&s->drain, s->n_queued, s->now_s) * (ahead_s / all_s) + q->prefill_s);
    return wait_s;
}

/* Would its first token come too late to be of use, with ahead_s of prefill before it? Nothing was produced for it yet.
 */
static bool is_late(const struct sched *s, const struct seq *q, double ahead_s, double share)
{
    double limit_s = q->ttft_limit_s;
    return limit_s > 0 && q->n_tokens == q->n_prompt && q->n_preemptions == 0 &&
           s->now_s - q->submitted_s + (ahead_s + q->prefill_s) / share > LATE_MARGIN * limit_s;
}

/* Refuses those that are late, at the head of the queue and among those who wait longest: their work would only delay
 * others beyond their limit too. */
void stage_expire(struct sched *s, struct draft *d)
{
    (void)d;
    if (s->n_queued == 0)
        return;
    double share = prefill_share(s);
    while (s->n_queued > 0) {
        const struct seq *first = &s->seqs[s->queue.first], *oldest = &s->seqs[s->queue.by_wait.first];
        if (is_late(s, first, running_ahead_s(s, first), share))
            seq_end(s, s->queue.first, SCHED_REFUSED, SCHED_REFUSED_LATE);
        else if (is_late(s, oldest, running_ahead_s(s, oldest) + queue_ahead_s(s, oldest), share))
            seq_end(s, s->queue.by_wait.first, SCHED_REFUSED, SCHED_REFUSED_LATE);
        else
            return;
    }
}

/* What long prompts take of the time for prefill, by what the first of them needs. */
void stage_share_prefill(struct sched *s, struct draft *d)
{
    uint32_t n = s->forecast.n_long, first = INDEX_NONE;
    if (n == 0)
        return;
    for (uint32_t slot = s->running.last; n > 0; slot = s->seqs[slot].prev) { /* mostly they are the last ones */
        if (s->seqs[slot].is_long) {
            first = slot;
            n--;
        }
    }
    const struct seq *q = &s->seqs[first];
    d->first_long = first;
    d->share = LONG_SHARE;
    if (q->ttft_limit_s > 0 && q->n_tokens == q->n_prompt) {
        double until_s = q->submitted_s + LATE_MARGIN * q->ttft_limit_s - s->now_s;
        double need = until_s > 0 ? LONG_SAFETY * q->left_s / (until_s * prefill_share(s)) : 1;
        d->share = fmin(1, fmax(LONG_SHARE, need));
    }
}

/* --- admission -------------------------------------------------------------------------------------------------- */

/* q at the future peak, without n_shared chunks that others hold. */
static struct peak_seq newcomer(const struct sched *s, const struct seq *q, uint32_t n_shared)
{
    return (struct peak_seq){.id = q->id,
                             .base_step = s->forecast.n_rounds,
                             .base_tokens = q->n_tokens - n_shared * s->config.chunk_tokens,
                             .end_step = s->forecast.n_rounds + expected_remaining(s, q)};
}

/* What predicted lengths may be off by, all together: errors of one sequence are independent of the others'. */
static double error_margin_tokens(const struct sched *s)
{
    return ERROR_MARGIN * sqrt((s->running.n + 1) * s->forecast.length_error2);
}

void forecast_headroom(struct sched *s, struct seq *q, struct sched_headroom *out)
{
    uint32_t n_idle, n_ready = kv_count_ready(s, q, &n_idle);
    struct peak_seq p = newcomer(s, q, n_ready - n_idle);
    uint64_t peak = peak_chunks(&s->forecast.peak, s->forecast.n_rounds, &p);
    double positions = (double)(peak + n_ready - n_idle) * s->config.chunk_tokens;
    q->prefill_s = predict_prefill_s(s, q);
    out->kv_share =
        ((double)peak + error_margin_tokens(s) / s->config.chunk_tokens) / (s->pool.n_chunks - s->retention.pinned.n);
    out->bandwidth_share = (decode_step_s(s, s->running.n + 1, positions) + lengths_extra_s(s, q)) /
                           (s->config.bandwidth_limit * target_s(s, q));
    out->wait_s = (running_ahead_s(s, q) + queue_all_s(s) + q->prefill_s) / prefill_share(s);
}

/* Does a peak of so many chunks fit the pool, and a decode step at it the bandwidth? n_cached of q's chunks are not among
 * them, as others hold them. If not, what it waits for is noted. */
static bool fits(struct sched *s, const struct seq *q, uint64_t peak, uint32_t n_cached)
{
    double chunk_tokens = s->config.chunk_tokens, capacity = s->pool.n_chunks - s->retention.pinned.n;
    s->pressure.blocked_by_speculation = false;
    if (q->n_preemptions > 0)
        peak += ((uint64_t)s->running.n + 1) << (q->n_preemptions < 32 ? q->n_preemptions : 32);
    s->stats.waiting_for = SCHED_WAIT_KV;
    double margin = error_margin_tokens(s) / chunk_tokens;
    if ((double)peak + margin > capacity)
        return false;
    s->stats.waiting_for = SCHED_WAIT_BANDWIDTH;
    double positions = (double)(peak + n_cached) * chunk_tokens;
    double limit_s = s->config.bandwidth_limit * target_s(s, q);
    double even_s = decode_step_s(s, s->running.n + 1, positions), step_s = even_s + lengths_extra_s(s, q);
    if (step_s > limit_s)
        return false;
    /* Room for those that are likely to come back: of memory, and of bandwidth, of each a share of what is there. */
    double available = (double)(s->pool.n_chunks - s->pool.n_active) * chunk_tokens;
    double tokens = reserve_tokens(&s->reserve, &s->talks, available);
    if (tokens == 0)
        return true;
    double now_s = decode_step_s(s, s->running.n, (double)s->pool.n_active * chunk_tokens);
    double more_s = decode_step_s(s, s->running.n + 1, positions + tokens) - even_s;
    more_s = fmin(more_s, s->reserve.limit * fmax(0, limit_s - now_s));
    s->pressure.blocked_by_speculation =
        (double)peak + margin + tokens / chunk_tokens > capacity || step_s + more_s > limit_s;
    return !s->pressure.blocked_by_speculation;
}

/* Would the peak of memory and the step at that peak stay within bounds with q? */
static bool admits(struct sched *s, const struct seq *q)
{
    uint32_t n_idle, n_ready = kv_count_ready(s, q, &n_idle);
    /* What is held and promised now must fit: predictions do not bind the present. */
    uint64_t needed = chunks_for(s, q->n_tokens) - n_ready + n_idle, peak;
    if (needed + s->running.n / 4 > kv_available(s) || !spent_fits(s, q))
        return false;
    struct peak_seq p = newcomer(s, q, n_ready - n_idle);
    if (peak_upper(&s->forecast.peak, s->forecast.n_rounds, &p, &peak) && fits(s, q, peak, n_ready - n_idle))
        return true; /* all ends at once would fit */
    peak = peak_chunks(&s->forecast.peak, s->forecast.n_rounds, &p);
    return fits(s, q, peak, n_ready - n_idle);
}

/* Is there as much prefill as the next step can hold, beside q? It could not begin then: better it waits where it can
 * still be refused or overtaken. Long ones leave half of the step to others. */
static bool prefill_fills_step(const struct sched *s, const struct seq *q)
{
    const struct forecast *f = &s->forecast;
    return f->prefill_s - f->long_s >= LONG_SHARE * s->config.bandwidth_limit * target_s(s, q);
}

/* The next to start, but for its prefill and memory; INDEX_NONE: too many long ones run for those that wait. */
static uint32_t next_to_start(const struct sched *s)
{
    uint32_t slot = s->queue.first;
    for (int i = 0; s->forecast.n_long >= MAX_LONG && slot != INDEX_NONE && takes_long(s, s->seqs[slot].prefill_s); i++)
        slot = i < MAX_PASSED ? queue_after(s, slot) : INDEX_NONE;
    return slot;
}

void stage_admit_bandwidth(struct sched *s, struct draft *d)
{
    s->forecast.blocked = false;
    while (s->n_queued > 0 && s->running.n < s->config.max_running) {
        uint32_t slot = next_to_start(s);
        if (slot == INDEX_NONE || prefill_fills_step(s, &s->seqs[slot])) {
            s->stats.waiting_for = SCHED_WAIT_PREFILL;
            return;
        }
        s->stats.waiting_for = SCHED_WAIT_KV;
        if (s->running.n > 0 && (d->closed || !admits(s, &s->seqs[slot]))) {
            s->forecast.blocked = true;
            return;
        }
        admit_slot(s, slot);
        if (s->pipeline.traits & NODE_REFUSES_LATE)
            stage_expire(s, d); /* its prefill delays those behind it */
    }
    s->forecast.blocked = s->n_queued > 0;
}

/* Prefill fills what decoding leaves of the inter-token target: of bandwidth_limit times that as predicted, and of all of
 * it where the prediction is as far off as it may well be. With nobody decoding there is nobody to keep waiting, and only
 * max_step_tokens bounds the step. */
void stage_time_budget(struct sched *s, struct draft *d)
{
    for (uint32_t slot = s->running.first; slot != INDEX_NONE && !d->timed; slot = s->seqs[slot].next)
        d->timed = s->seqs[slot].n_tokens > s->seqs[slot].n_prompt;
    d->bound_s = target_s(s, NULL);
    d->budget_s = d->bound_s * s->config.bandwidth_limit;
}
