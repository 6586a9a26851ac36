/* Steps of sequences of similar length, on devices where mixed lengths cost time (traffic_model.mixed_length_waste).
 *
 * In one step with the longest all others wait for it; in a step of their own they read the weights once more. The
 * decoding sequences are put into buckets by length, four to an octave, and cut into ranges of buckets, each time where it
 * saves most, as long as a round (a step of each range) is predicted to take less than they did together. So everybody has
 * a token a round, and sooner than in one step of all; what prefill gets of the tightest target is shared out over the
 * round's steps (batch.c).
 *
 * The ranges take turns. As sequences grow, come and go, other ranges become better, but somebody may have to wait longer
 * than a round then: the cuts change only when everybody is predicted to have a token within its target all the same, and
 * if no order of the ranges achieves that, all run together if that does. Who was left out in SCHED_MAX_LEFT_OUT plans in a
 * row has everybody run with it in any case.
 *
 * Admission counts with the same: what a round takes longer than a step without any waste, with the newcomer in it.
 */
#include "policy/sched_impl.h"

#include <math.h>

#define MAX_RANGES 4
#define PAYS 0.95 /* a cut must make a round this much shorter */

/* Buckets from .. to-1 and their sum. */
struct range {
    uint32_t from, to;
    struct traffic_load load;
    double step_s;
    double due_s;    /* when the first of its members' next tokens is, for it to keep its target */
    uint32_t waited; /* plans in which one of them was left out, at most */
};

struct round {
    struct range ranges[MAX_RANGES];
    uint32_t n;
    double round_s, even_s; /* all its steps; one step of all, were there no waste */
};

static uint32_t bucket_of(uint32_t length)
{
    uint32_t octave = 31 - (uint32_t)__builtin_clz(length | 1);
    return 4 * octave + (octave >= 2 ? (length >> (octave - 2)) & 3 : 0);
}

static void add_length(const struct sched *s, struct traffic_load *buckets, uint32_t length)
{
    traffic_add(&buckets[bucket_of(length)], &s->config.model, length - 1, 1, 0, 1);
}

static void add_load(struct traffic_load *to, const struct traffic_load *l)
{
    to->n_seqs += l->n_seqs;
    to->n_rows += l->n_rows;
    to->n_outputs += l->n_outputs;
    to->n_prompt_rows += l->n_prompt_rows;
    to->full_positions += l->full_positions;
    to->window_positions += l->window_positions;
    to->full_pairs += l->full_pairs;
    to->window_pairs += l->window_pairs;
    to->last_positions += l->last_positions;
    to->last_pairs += l->last_pairs;
    to->n_decoding += l->n_decoding;
    to->longest = l->longest > to->longest ? l->longest : to->longest;
    to->decode_positions += l->decode_positions;
    to->near_positions += l->near_positions;
}

/* whole has all of part, and something longer. */
static struct traffic_load without(const struct traffic_load *whole, const struct traffic_load *part)
{
    struct traffic_load l = *whole;
    l.n_seqs -= part->n_seqs;
    l.n_rows -= part->n_rows;
    l.n_outputs -= part->n_outputs;
    l.n_prompt_rows -= part->n_prompt_rows;
    l.full_positions -= part->full_positions;
    l.window_positions -= part->window_positions;
    l.full_pairs -= part->full_pairs;
    l.window_pairs -= part->window_pairs;
    l.last_positions -= part->last_positions;
    l.last_pairs -= part->last_pairs;
    l.n_decoding -= part->n_decoding;
    l.decode_positions -= part->decode_positions;
    l.near_positions -= part->near_positions;
    return l;
}

static struct range range_of(const struct sched *s, const struct traffic_load *buckets, uint32_t from, uint32_t to)
{
    struct range r = {.from = from, .to = to};
    for (uint32_t i = from; i < to; i++)
        if (buckets[i].n_seqs > 0)
            add_load(&r.load, &buckets[i]);
    r.step_s = calibrate_predict_s(&s->forecast.steps, &r.load);
    return r;
}

/* Cuts the range where it saves most, if it does. */
static bool cut(const struct sched *s, const struct traffic_load *buckets, struct range *r, struct range *rest)
{
    const struct range whole = *r;
    double least_s = PAYS * whole.step_s;
    uint32_t at = 0;
    struct traffic_load below = {0};
    for (uint32_t i = whole.from; i + 1 < whole.to; i++) {
        if (buckets[i].n_seqs == 0)
            continue;
        add_load(&below, &buckets[i]);
        if (below.n_seqs == whole.load.n_seqs)
            break;
        struct traffic_load above = without(&whole.load, &below);
        double both_s =
            calibrate_predict_s(&s->forecast.steps, &below) + calibrate_predict_s(&s->forecast.steps, &above);
        if (both_s < least_s) {
            least_s = both_s;
            at = i + 1;
        }
    }
    if (at == 0)
        return false;
    *r = range_of(s, buckets, whole.from, at);
    *rest = range_of(s, buckets, at, whole.to);
    return true;
}

static void compose(const struct sched *s, const struct traffic_load *buckets, bool may_cut, struct round *out)
{
    *out = (struct round){.n = 1};
    out->ranges[0] = range_of(s, buckets, 0, SCHED_LENGTH_BUCKETS);
    struct traffic_load even = out->ranges[0].load;
    even.n_decoding = 0;
    out->even_s = calibrate_predict_s(&s->forecast.steps, &even);
    out->round_s = out->ranges[0].step_s;
    if (!may_cut || out->even_s >= PAYS * out->round_s)
        return; /* no cut saves more than the waste */
    for (uint32_t i = 0; i < out->n && out->n < MAX_RANGES;)
        if (cut(s, buckets, &out->ranges[i], &out->ranges[out->n]))
            out->n++;
        else
            i++;
    out->round_s = 0;
    for (uint32_t i = 0; i < out->n; i++)
        out->round_s += out->ranges[i].step_s;
}

/* --- what admission counts with --------------------------------------------------------------------------------- */

/* All that run are known by their tokens; whether they decode yet or not. */
void lengths_look(struct sched *s)
{
    if (!(s->config.model.mixed_length_waste > 0))
        return;
    for (uint32_t i = 0; i < SCHED_LENGTH_BUCKETS; i++)
        s->lengths.running[i] = (struct traffic_load){0};
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        lengths_started(s, &s->seqs[slot]);
}

void lengths_started(struct sched *s, const struct seq *q)
{
    if (s->config.model.mixed_length_waste > 0)
        add_length(s, s->lengths.running, q->n_tokens);
}

double lengths_extra_s(const struct sched *s, const struct seq *q)
{
    if (!(s->config.model.mixed_length_waste > 0))
        return 0;
    struct traffic_load buckets[SCHED_LENGTH_BUCKETS];
    struct round r;
    for (uint32_t i = 0; i < SCHED_LENGTH_BUCKETS; i++)
        buckets[i] = s->lengths.running[i];
    if (q)
        add_length(s, buckets, q->n_tokens);
    compose(s, buckets, s->pipeline.traits & NODE_HOMOGENEOUS, &r);
    return fmax(0, r.round_s - r.even_s);
}

/* --- whose turn it is ------------------------------------------------------------------------------------------- */

/* The decoding sequences, by length. */
struct decoding {
    struct traffic_load buckets[SCHED_LENGTH_BUCKETS];
    double due_s[SCHED_LENGTH_BUCKETS];
    uint32_t waited[SCHED_LENGTH_BUCKETS];
};

/* Plans in which it was left out since it last had its turn. */
static uint32_t left_out(const struct sched *s, const struct seq *q)
{
    uint64_t turn = q->turn > s->lengths.whole_turn ? q->turn : s->lengths.whole_turn;
    return (uint32_t)(s->forecast.n_plans - turn);
}

static void look_at_decoding(const struct sched *s, struct decoding *d)
{
    double promised_s = forecast_target_s(s);
    *d = (struct decoding){0};
    for (uint32_t i = 0; i < SCHED_LENGTH_BUCKETS; i++)
        d->due_s[i] = INFINITY;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        const struct seq *q = &s->seqs[slot];
        if (q->n_tokens - q->n_past > 1)
            continue;
        uint32_t bucket = bucket_of(q->n_past + 1), n = left_out(s, q);
        add_length(s, d->buckets, q->n_past + 1);
        d->waited[bucket] = n > d->waited[bucket] ? n : d->waited[bucket];
        double since_s = fmax(q->turn_s, s->lengths.whole_s);
        d->due_s[bucket] = fmin(d->due_s[bucket], since_s + fmax(q->itl_target_s, promised_s));
    }
}

static void look_at_members(const struct decoding *d, struct range *r)
{
    r->due_s = INFINITY;
    for (uint32_t i = r->from; i < r->to; i++) {
        r->due_s = fmin(r->due_s, d->due_s[i]);
        r->waited = d->waited[i] > r->waited ? d->waited[i] : r->waited;
    }
}

/* By the cuts of the last round. */
static void compose_as_before(const struct sched *s, const struct decoding *d, struct round *out)
{
    const struct lengths *l = &s->lengths;
    *out = (struct round){0};
    for (uint32_t i = 0, from = 0; i <= l->n_cuts; i++) {
        struct range r = range_of(s, d->buckets, from, i < l->n_cuts ? l->cuts[i] : SCHED_LENGTH_BUCKETS);
        if (r.load.n_seqs == 0)
            continue; /* nobody is left there: the next one's */
        from = r.to;
        out->ranges[out->n++] = r;
        out->round_s += r.step_s;
    }
}

/* Before b: it was left out longer; or it is due earlier. */
static bool goes_before(const struct range *a, const struct range *b, bool by_due)
{
    return by_due ? a->due_s < b->due_s : a->waited > b->waited;
}

/* Of the tightest promised target, what is kept for wrong predictions. */
static double spare_s(const struct sched *s)
{
    return (1 - s->config.bandwidth_limit) * forecast_target_s(s);
}

/* In that order; the seconds that are left where time is shortest, besides what is kept for wrong predictions. < 0:
 * somebody may be late. */
static double order(const struct sched *s, struct round *r, bool by_due)
{
    for (uint32_t i = 1; i < r->n; i++) {
        for (uint32_t k = i; k > 0 && goes_before(&r->ranges[k], &r->ranges[k - 1], by_due); k--) {
            struct range x = r->ranges[k];
            r->ranges[k] = r->ranges[k - 1];
            r->ranges[k - 1] = x;
        }
    }
    double at_s = s->now_s, slack_s = INFINITY;
    for (uint32_t i = 0; i < r->n; i++) {
        at_s += r->ranges[i].step_s;
        slack_s = fmin(slack_s, r->ranges[i].due_s - at_s);
    }
    return slack_s - spare_s(s);
}

/* In turns if everybody is in time then, else by who is due first if that helps. */
static double take_turns(const struct sched *s, const struct decoding *d, struct round *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        look_at_members(d, &r->ranges[i]);
    double slack_s = order(s, r, false);
    if (slack_s < 0)
        slack_s = order(s, r, true);
    return slack_s < 0 ? order(s, r, false) : slack_s;
}

/* The best round, the last one's cuts, or all together: the first that leaves time to spare, else the one that leaves
 * most; where somebody is late in all of them, the best round, which makes up for it soonest. Returns the slack. */
static double choose(const struct sched *s, const struct decoding *d, struct round *r)
{
    struct round best, next;
    double most_s = -INFINITY;
    compose(s, d->buckets, true, &best);
    *r = best;
    for (int i = 0; i < 3 && most_s < 0; i++) {
        next = best;
        if (i == 1)
            compose_as_before(s, d, &next);
        else if (i == 2)
            compose(s, d->buckets, false, &next);
        double slack_s = next.n > 0 ? take_turns(s, d, &next) : -INFINITY;
        if (i == 0 || (slack_s > most_s && slack_s > -spare_s(s))) {
            most_s = slack_s;
            *r = next;
        }
    }
    return most_s;
}

/* --- the node --------------------------------------------------------------------------------------------------- */

bool lengths_in_range(const struct draft *d, const struct seq *q)
{
    uint32_t bucket = bucket_of(q->n_past + 1);
    return q->n_tokens - q->n_past > 1 || (bucket >= d->from_bucket && bucket < d->to_bucket);
}

/* In the order of lengths. */
static void keep_cuts(struct sched *s, const struct round *r)
{
    struct lengths *l = &s->lengths;
    l->n_cuts = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t at = r->ranges[i].from, k = l->n_cuts;
        if (at == 0)
            continue;
        for (; k > 0 && l->cuts[k - 1] > at; k--)
            l->cuts[k] = l->cuts[k - 1];
        l->cuts[k] = at;
        l->n_cuts++;
    }
}

void stage_homogeneous(struct sched *s, struct draft *d)
{
    if (!(s->config.model.mixed_length_waste > 0) || s->running.n == 0)
        return;
    struct decoding decoding;
    struct round r;
    look_at_decoding(s, &decoding);
    double slack_s = choose(s, &decoding, &r);
    for (uint32_t i = 0; i < r.n && r.n > 1; i++) {
        if (r.ranges[i].waited >= SCHED_MAX_LEFT_OUT) {
            s->stats.n_overdue_steps++;
            return;
        }
    }
    keep_cuts(s, &r);
    d->n_ranges = r.n;
    d->round_s = r.round_s;
    d->slack_s = slack_s;
    d->from_bucket = r.ranges[0].from;
    d->to_bucket = r.ranges[0].to;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        struct seq *q = &s->seqs[slot];
        if (lengths_in_range(d, q)) {
            q->turn = s->forecast.n_plans + 1;
            q->turn_s = s->now_s;
            continue;
        }
        uint32_t n = left_out(s, q) + 1;
        d->n_left_out++;
        d->left_out_most = n > d->left_out_most ? n : d->left_out_most;
    }
}

void lengths_planned(struct sched *s, const struct draft *d)
{
    if (d->n_ranges <= 1) {
        s->lengths.whole_turn = s->forecast.n_plans + 1;
        s->lengths.whole_s = s->now_s;
        return;
    }
    s->stats.n_grouped_steps++;
    s->stats.n_left_out += d->n_left_out;
    if (d->left_out_most > s->stats.left_out_most)
        s->stats.left_out_most = d->left_out_most;
}
