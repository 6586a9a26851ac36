/* Batch composition: which rows run in the next step.
 *
 * One pass over the running sequences in their order of service. When chunks run out a younger one gives up its own, or the
 * sequence waits if all were preempted as often as may be; and since the pass goes from the oldest to the youngest, whoever is preempted has no rows in the plan yet.
 */
#include "policy/sched_impl.h"

#include <assert.h>
#include <math.h>

static bool is_decoding(const struct seq *q)
{
    return q->n_tokens - q->n_past == 1;
}

/* Under pressure prompts advance more slowly, by a chunk at least. */
static uint32_t fewer_rows(uint32_t n_rows, unsigned shift, uint32_t chunk_tokens)
{
    uint32_t few = n_rows >> shift > chunk_tokens ? n_rows >> shift : chunk_tokens;
    return few < n_rows ? few : n_rows;
}

/* What a step that decodes in step_s has for prefill besides. Where ranges of lengths take turns, an equal part of what the
 * round leaves of the limit, but nobody's target. */
static double limit_for_turn(const struct draft *d, double step_s, double limit_s)
{
    if (d->n_ranges == 0)
        return limit_s;
    return step_s + fmax(0, fmin((limit_s - d->round_s) / d->n_ranges, d->slack_s + limit_s - d->budget_s));
}

/* What decoding sequences take is put aside before any prefill gets its share. */
void batch_begin(struct sched *s, struct draft *d)
{
    uint32_t n_decoding = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        if (!is_decoding(&s->seqs[slot]) || !takes_part(d, &s->seqs[slot]))
            continue;
        n_decoding++;
        if (s->config.has_model)
            traffic_add(&d->load, &s->config.model, s->seqs[slot].n_past, 1, s->seqs[slot].n_prompt, 1);
    }
    d->rows_left = s->config.max_step_tokens - n_decoding;
    d->rows_left = fewer_rows(d->rows_left, d->prefill_shift, s->config.chunk_tokens);
    d->outputs_left = s->config.max_step_outputs - s->running.n;
    d->short_rows = s->forecast.prefill_rows - s->forecast.long_rows;
    d->short_s = fmax(0, s->forecast.prefill_s - s->forecast.long_s);
    if (d->timed) { /* however long decoding takes, prefill goes on */
        const struct calibration *c = &s->forecast.steps;
        struct traffic_load least = d->load;
        forecast_add_first_row(s, &least);
        double step_s = calibrate_predict_s(c, &least), bound_s = calibrate_bound_s(c, &least);
        d->bound_s = fmax(limit_for_turn(d, bound_s, d->bound_s), bound_s / (1 - MIN_PREFILL_SHARE));
        d->budget_s = fmax(limit_for_turn(d, step_s, d->budget_s), step_s / (1 - MIN_PREFILL_SHARE));
    }
}

/* Rows up to the first chunk border behind which a chunk need not be computed: it will be taken in the next step. */
static uint32_t rows_until_shared(const struct sched *s, const struct seq *q, uint32_t n_rows)
{
    uint32_t chunk_tokens = s->config.chunk_tokens, chunk;
    for (uint32_t index = q->n_past / chunk_tokens + 1; index * chunk_tokens < q->n_past + n_rows; index++)
        if (kv_lookup(s, q, index, &chunk) != NEXT_COMPUTE)
            return index * chunk_tokens - q->n_past;
    return n_rows;
}

/* Of n_rows as many as the wanted logits allow: outputs_left, and one more on the last row, which is put aside for
 * every sequence. *n_wanted: what they take of outputs_left. */
static uint32_t rows_within_outputs(const struct seq *q, uint32_t n_rows, uint32_t outputs_left, uint32_t *n_wanted)
{
    uint32_t from = q->n_past > q->n_computed ? q->n_past : q->n_computed, end = q->n_past + n_rows;
    uint32_t upto = end < q->n_prompt_logits ? end : q->n_prompt_logits; /* positions from .. upto-1 are wanted */
    *n_wanted = 0;
    if (from >= upto)
        return n_rows;
    *n_wanted = upto - from - (end == upto);
    if (*n_wanted <= outputs_left)
        return n_rows;
    *n_wanted = outputs_left;
    return from + outputs_left + 1 - q->n_past;
}

/* Of n_rows as many as the chunks allow, which are taken. Younger sequences are preempted only if not even one row
 * would run. */
static uint32_t rows_with_chunks(struct sched *s, struct seq *q, uint32_t slot, uint32_t n_rows)
{
    uint32_t needed = chunks_for(s, q->n_past + n_rows) - q->n_table;
    bool has_room = q->n_table * s->config.chunk_tokens > q->n_past;
    while (needed > 0 && kv_available(s) == 0 && !has_room) {
        if (s->retention.pinned.n > 0) {
            kv_give_up_pin(s);
            continue;
        }
        uint32_t victim = pressure_victim(s, slot);
        if (victim == INDEX_NONE)
            break;
        seq_preempt(s, victim);
    }
    while (s->running.n == 1 && needed > kv_available(s) && s->retention.pinned.n > 0)
        kv_give_up_pin(s); /* nobody else's end will give it what it needs */
    if (needed > kv_available(s)) {
        needed = kv_available(s);
        n_rows = (q->n_table + needed) * s->config.chunk_tokens - q->n_past;
    }
    kv_extend(s, q, needed);
    return n_rows;
}

/* Of n_rows as many as the step's time allows. The first prefill of a step, or of a round of steps, gets a row at least:
 * nobody starves. */
static uint32_t rows_within_time(const struct sched *s, const struct draft *d, const struct seq *q, uint32_t n_rows)
{
    uint32_t fit =
        calibrate_fit_tokens(&s->forecast.steps, &d->load, q->n_past, q->n_prompt, n_rows, d->budget_s, d->bound_s);
    if (fit > 0 || d->has_prefill || d->yields || d->from_bucket > 0)
        return fit;
    /* One alone would pass for a sequence that decodes, and everybody would wait for its whole context. */
    return s->config.model.mixed_length_waste > 0 && n_rows > 1 ? 2 : 1;
}

static uint32_t plan_rows(struct sched *s, struct draft *d, struct seq *q, uint32_t slot)
{
    uint32_t chunk;
    bool decodes = is_decoding(q);
    kv_take_ready(s, q);
    bool copied = (decodes || d->rows_left > 0) && kv_copy_last(s, q);
    forecast_moved(s, q);
    if (!decodes && d->rows_left == 0)
        return 0;
    if (!copied && q->n_past == q->n_table * s->config.chunk_tokens && q->n_waits < SCHED_MAX_PREFIX_WAITS &&
        kv_lookup(s, q, q->n_table, &chunk) == NEXT_PENDING) {
        q->n_waits++;
        return 0;
    }
    uint32_t n_rows = q->n_tokens - q->n_past, n_wanted;
    if (!decodes && n_rows > d->rows_left)
        n_rows = d->rows_left;
    if (!decodes && d->timed)
        n_rows = rows_within_time(s, d, q, n_rows);
    if (n_rows == 0)
        return 0;
    n_rows = rows_until_shared(s, q, n_rows);
    n_rows = rows_within_outputs(q, n_rows, d->outputs_left, &n_wanted);
    n_rows = rows_with_chunks(s, q, slot, n_rows);
    if (n_rows == 0)
        return 0;
    q->n_waits = 0;
    d->outputs_left -= n_wanted; /* at most: rows cut for want of chunks want fewer */
    d->rows_left -= decodes ? 0 : n_rows;
    d->has_prefill = d->has_prefill || !decodes;
    if (s->config.has_model && !decodes)
        traffic_add(&d->load, &s->config.model, q->n_past, n_rows, q->n_prompt, q->n_past + n_rows == q->n_tokens);
    return n_rows;
}

/* Gives a running sequence its rows of the step, if there are any for it. */
void batch_one(struct sched *s, struct draft *d, uint32_t slot)
{
    struct seq *q = &s->seqs[slot];
    uint32_t n_rows = plan_rows(s, d, q, slot);
    if (n_rows == 0)
        return;
    q->in_plan = true;
    s->plan_slots[s->n_plan] = slot;
    s->plan_seqs[s->n_plan++] = (struct plan_seq){
        .id = q->id,
        .n_past = q->n_past,
        .n_tokens = n_rows,
        .n_cached = q->n_cached,
        .samples = q->n_past + n_rows == q->n_tokens,
        .chunks = q->table,
        .n_chunks = q->n_table,
    };
    s->n_plan_tokens += n_rows;
}

/* Of what is left, what a long prompt takes: all that others do not need, and the first one its share at least. */
static double share_of(double share, double left, double others)
{
    return fmax(share * left, left - others);
}

static void batch_long(struct sched *s, struct draft *d, uint32_t slot)
{
    struct draft own = *d;
    double share = slot == d->first_long ? d->share : 0;
    own.rows_left = (uint32_t)share_of(share, d->rows_left, (double)d->short_rows);
    if (d->timed) {
        const struct calibration *c = &s->forecast.steps;
        double planned_s = calibrate_predict_s(c, &d->load), bound_s = calibrate_bound_s(c, &d->load);
        own.budget_s = planned_s + share_of(share, fmax(0, d->budget_s - planned_s), d->short_s);
        own.bound_s = bound_s + share_of(share, fmax(0, d->bound_s - bound_s), d->short_s);
        own.yields = d->short_rows > 0 && s->forecast.n_plans % 2; /* where not even a row fits they take turns */
    }
    uint32_t n_rows = own.rows_left;
    batch_one(s, &own, slot);
    d->rows_left -= n_rows - own.rows_left;
    d->outputs_left = own.outputs_left;
    d->has_prefill = own.has_prefill;
    d->load = own.load;
}

static void batch_all(struct sched *s, struct draft *d)
{
    batch_begin(s, d);
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        const struct seq *q = &s->seqs[slot];
        if (!takes_part(d, q))
            continue;
        if (d->share > 0 && q->is_long) {
            batch_long(s, d, slot);
            continue;
        }
        d->short_rows -= q->is_long ? 0 : q->rows_left;
        d->short_s = d->short_rows ? d->short_s - q->left_s : 0;
        batch_one(s, d, slot);
    }
}

void stage_batch(struct sched *s, struct draft *d)
{
    struct draft together = *d;
    batch_all(s, d);
    if (s->n_plan == 0 && d->n_ranges > 1) { /* they wait for chunks that others compute or hold */
        *d = together;
        d->n_ranges = d->from_bucket = 0;
        batch_all(s, d);
    }
    lengths_planned(s, d);
}
