#include "policy/predict.h"

#include "base/hash.h"
#include "base/mem.h"
#include "policy/state_io.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- output length ---------------------------------------------------------------------------------------------- */

/* Four buckets an octave from 1 to 2^20 tokens: a bucket's width is 19 % of its length. */
#define PER_OCTAVE 4
#define N_BUCKETS (20 * PER_OCTAVE + 1)
#define SHRINKAGE 12.0 /* observations at risk that the parent's hazard counts as */

/* at_risk[i]: observations that reached bucket i; ended[i]: those that ended in it. */
struct curve {
    uint64_t id; /* 0: free */
    float at_risk[N_BUCKETS], ended[N_BUCKETS];
};

enum { LEVEL_ALL, LEVEL_PROMPT, LEVEL_LIMIT, LEVEL_KEY, N_LEVELS };

static const double coverage_levels[LENGTH_N_LEVELS] = {0.5, 0.8, 0.9, 0.95};

struct length_predictor {
    struct curve all;
    struct curve *special; /* [n_classes], direct-mapped by class id */
    uint32_t n_classes;
    float keep; /* weight left of an old observation when a new one of its class comes */
    double prior_hazard[N_BUCKETS];
    uint64_t covered[LENGTH_N_LEVELS], n_observed;
};

/* Bucket i holds lengths from first_of[i] to first_of[i + 1] - 1: ceil(2^(i / PER_OCTAVE)). */
static const uint32_t first_of[N_BUCKETS + 1] = {
    1,      2,      2,      2,      2,      3,      3,      4,      4,      5,      6,       7,      8,      10,
    12,     14,     16,     20,     23,     27,     32,     39,     46,     54,     64,      77,     91,     108,
    128,    153,    182,    216,    256,    305,    363,    431,    512,    609,    725,     862,    1024,   1218,
    1449,   1723,   2048,   2436,   2897,   3445,   4096,   4871,   5793,   6889,   8192,    9742,   11586,  13778,
    16384,  19484,  23171,  27555,  32768,  38968,  46341,  55109,  65536,  77936,  92682,   110218, 131072, 155872,
    185364, 220436, 262144, 311744, 370728, 440872, 524288, 623488, 741456, 881744, 1048576, 1246975};

static uint32_t bucket_of(uint32_t n)
{
    uint32_t low = 0, high = N_BUCKETS - 1; /* the answer is in low .. high */
    while (low < high) {
        uint32_t mid = (low + high + 1) / 2;
        if (first_of[mid] <= n)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

static uint64_t class_id(const struct length_class *c, int level)
{
    uint64_t prompt = bucket_of(c->n_prompt) / (2 * PER_OCTAVE); /* a factor of four */
    uint64_t limit = bucket_of(c->max_new_tokens) / (2 * PER_OCTAVE);
    uint64_t id = (uint64_t)level << 32 | prompt << 16;
    if (level >= LEVEL_LIMIT)
        id |= limit;
    id = hash_u64(id + 1);
    if (level == LEVEL_KEY)
        id = hash_u64(id ^ c->key);
    return id ? id : 1;
}

int length_predictor_create(struct length_predictor **out, const struct length_predictor_config *c, struct err *e)
{
    struct length_predictor *p = mem_array(1, sizeof *p);
    uint32_t n = c->n_classes ? c->n_classes : 4096;
    struct curve *special = mem_array(n, sizeof *special);
    if (!p || !special) {
        free(p);
        free(special);
        return err_set(e, WEIR_ENOMEM, "no memory for %u classes of the length predictor", n);
    }
    p->special = special;
    p->n_classes = n;
    p->keep = (float)exp2(-1 / (c->half_life > 0 ? c->half_life : 2000));
    double per_token = 1 / (c->prior_mean_tokens > 1 ? c->prior_mean_tokens : 256);
    for (uint32_t i = 0; i < N_BUCKETS; i++)
        p->prior_hazard[i] = 1 - exp(-per_token * (double)(first_of[i + 1] - first_of[i]));
    *out = p;
    return 0;
}

void length_predictor_destroy(struct length_predictor *p)
{
    if (!p)
        return;
    free(p->special);
    free(p);
}

/* The class's curve, or NULL if none is kept (claim: take the slot over). */
static struct curve *find_curve(const struct length_predictor *p, const struct length_class *c, int level, bool claim)
{
    union {
        const struct length_predictor *in;
        struct length_predictor *out;
    } self = {.in = p};
    if (level == LEVEL_ALL)
        return &self.out->all;
    uint64_t id = class_id(c, level);
    struct curve *curve = &p->special[id % p->n_classes];
    if (curve->id != id) {
        if (!claim)
            return NULL;
        memset(curve, 0, sizeof *curve);
        curve->id = id;
    }
    return curve;
}

static void observe_curve(struct curve *c, uint32_t bucket, bool censored, float keep)
{
    for (uint32_t i = 0; i < N_BUCKETS; i++) {
        c->at_risk[i] *= keep;
        c->ended[i] *= keep;
    }
    /* A censored output says nothing about the bucket in which it was cut. */
    for (uint32_t i = 0; i < bucket; i++)
        c->at_risk[i] += 1;
    if (!censored) {
        c->at_risk[bucket] += 1;
        c->ended[bucket] += 1;
    }
}

/* The class's hazard by bucket, from `from` to that of its limit: the chance that an output which reaches bucket i ends
 * in it. */
static void hazards(const struct length_predictor *p, const struct length_class *c, uint32_t from,
                    double out[N_BUCKETS])
{
    uint32_t end = bucket_of(c->max_new_tokens) + 1;
    memcpy(out + from, p->prior_hazard + from, (end - from) * sizeof *out);
    int last = c->key ? LEVEL_KEY : LEVEL_LIMIT;
    for (int level = LEVEL_ALL; level <= last; level++) {
        const struct curve *curve = find_curve(p, c, level, false);
        for (uint32_t i = from; curve && i < end; i++)
            out[i] = ((double)curve->ended[i] + SHRINKAGE * out[i]) / ((double)curve->at_risk[i] + SHRINKAGE);
    }
}

/* Within a bucket lengths are taken as uniform: of bucket `from` only the part from n_so_far on is left. */
static double left_of_bucket(uint32_t i, uint32_t n_so_far)
{
    double first = (double)first_of[i], end = (double)first_of[i + 1];
    return end > first ? (end - fmax(first, (double)n_so_far)) / (end - first) : 0;
}

uint32_t length_quantile(const struct length_predictor *p, const struct length_class *c, uint32_t n_so_far, double q)
{
    assert(q > 0 && q < 1);
    if (n_so_far >= c->max_new_tokens)
        return n_so_far;
    double h[N_BUCKETS], alive = 1;
    uint32_t from = bucket_of(n_so_far);
    hazards(p, c, from, h);
    for (uint32_t i = from; i < N_BUCKETS; i++) {
        double share = i == from ? left_of_bucket(i, n_so_far) : 1;
        double dies = alive * h[i] * share / (1 - h[i] * (1 - share));
        if (1 - (alive - dies) >= q) {
            double first = fmax((double)first_of[i], (double)n_so_far), end = (double)first_of[i + 1];
            double into = (q - (1 - alive)) / dies;
            double n = ceil(first + into * (end - 1 - first));
            return n < (double)c->max_new_tokens ? (uint32_t)fmax(n, (double)n_so_far) : c->max_new_tokens;
        }
        alive -= dies;
        if (first_of[i + 1] >= c->max_new_tokens)
            break;
    }
    return c->max_new_tokens;
}

double length_expected(const struct length_predictor *p, const struct length_class *c, uint32_t n_so_far)
{
    if (n_so_far >= c->max_new_tokens)
        return (double)n_so_far;
    double h[N_BUCKETS], alive = 1, sum = 0, cap = (double)c->max_new_tokens;
    uint32_t from = bucket_of(n_so_far);
    hazards(p, c, from, h);
    for (uint32_t i = from; i < N_BUCKETS && (double)first_of[i] < cap; i++) {
        double share = i == from ? left_of_bucket(i, n_so_far) : 1;
        double dies = alive * h[i] * share / (1 - h[i] * (1 - share));
        double first = fmax((double)first_of[i], (double)n_so_far), end = (double)first_of[i + 1] - 1;
        sum += dies * fmin(cap, (first + fmax(first, end)) / 2);
        alive -= dies;
    }
    return fmin(cap, fmax((double)n_so_far, sum + alive * cap)); /* against rounding */
}

void length_observe(struct length_predictor *p, const struct length_class *c, uint32_t n_tokens, bool censored)
{
    uint32_t bucket = bucket_of(n_tokens);
    if (!censored) {
        for (int k = 0; k < LENGTH_N_LEVELS; k++)
            p->covered[k] += n_tokens <= length_quantile(p, c, 0, coverage_levels[k]);
        p->n_observed++;
    }
    int last = c->key ? LEVEL_KEY : LEVEL_LIMIT;
    for (int level = LEVEL_ALL; level <= last; level++)
        observe_curve(find_curve(p, c, level, true), bucket, censored, p->keep);
}

void length_coverage(const struct length_predictor *p, double out[LENGTH_N_LEVELS])
{
    for (int k = 0; k < LENGTH_N_LEVELS; k++)
        out[k] = p->n_observed ? (double)p->covered[k] / (double)p->n_observed : 0;
}

/* --- continuation ----------------------------------------------------------------------------------------------- */

/* Priors: half of all conversations go on, after about a minute (a factor of e^1.5 around it), each worth a few
 * observations; and old observations fade with a half-life of 5,000. */
#define PRIOR_WEIGHT 4.0
#define PRIOR_CONTINUE 0.5
#define PRIOR_LN_GAP 4.1
#define PRIOR_SIGMA 1.5
#define KEEP 0.99986

void continuation_init(struct continuation_predictor *p)
{
    *p = (struct continuation_predictor){
        .gap_weight = PRIOR_WEIGHT, .gap_mean = PRIOR_LN_GAP, .gap_m2 = PRIOR_WEIGHT * PRIOR_SIGMA * PRIOR_SIGMA};
}

static uint32_t turn_class(uint32_t turns)
{
    assert(turns >= 1);
    return turns < CONTINUE_MAX_TURNS ? turns - 1 : CONTINUE_MAX_TURNS - 1;
}

/* The frequency over all turn counts is what the few of one turn count are shrunk to. */
static double base_probability(const struct continuation_predictor *p, uint32_t turns)
{
    double ended = 0, returned = 0;
    for (uint32_t i = 0; i < CONTINUE_MAX_TURNS; i++) {
        ended += p->n_ended[i] + p->n_waiting[i];
        returned += p->n_returned[i];
    }
    double all = (returned + PRIOR_WEIGHT * PRIOR_CONTINUE) / (ended + PRIOR_WEIGHT);
    uint32_t i = turn_class(turns);
    return (p->n_returned[i] + 4 * PRIOR_WEIGHT * all) / (p->n_ended[i] + p->n_waiting[i] + 4 * PRIOR_WEIGHT);
}

static double gap_survival(const struct continuation_predictor *p, double idle_s)
{
    if (idle_s <= 0)
        return 1;
    double sigma = sqrt(p->gap_m2 / p->gap_weight);
    return 0.5 * erfc((log(idle_s) - p->gap_mean) / (fmax(sigma, 0.05) * sqrt(2)));
}

double continuation_probability(const struct continuation_predictor *p, uint32_t turns, double idle_s)
{
    double base = base_probability(p, turns), s = gap_survival(p, idle_s);
    return base * s / (base * s + 1 - base);
}

double continuation_within(const struct continuation_predictor *p, uint32_t turns, double idle_s, double window_s)
{
    double base = base_probability(p, turns), s = gap_survival(p, idle_s), later = gap_survival(p, idle_s + window_s);
    return base * (s - later) / (base * s + 1 - base);
}

double continuation_horizon_s(const struct continuation_predictor *p, uint32_t turns, double p_min)
{
    double low = 1e-3, high = 1e8;
    if (continuation_probability(p, turns, low) <= p_min)
        return 0;
    for (int i = 0; i < 64; i++) {
        double mid = sqrt(low * high);
        if (continuation_probability(p, turns, mid) > p_min)
            low = mid;
        else
            high = mid;
    }
    return high;
}

double continuation_gap_quantile_s(const struct continuation_predictor *p, double q)
{
    assert(q > 0 && q < 1);
    double low = 1e-3, high = 1e8;
    for (int i = 0; i < 64; i++) {
        double mid = sqrt(low * high);
        if (1 - gap_survival(p, mid) < q)
            low = mid;
        else
            high = mid;
    }
    return high;
}

static void decided(struct continuation_predictor *p, uint32_t turns, bool returned, double predicted)
{
    double miss = predicted - (returned ? 1 : 0);
    p->brier_sum += miss * miss;
    p->brier_n++;
    p->n_continued += returned;
    uint32_t i = turn_class(turns);
    p->n_ended[i] = p->n_ended[i] * KEEP + 1;
    p->n_returned[i] = p->n_returned[i] * KEEP + (returned ? 1 : 0);
}

void continuation_returned(struct continuation_predictor *p, uint32_t turns, double gap_s, double predicted)
{
    decided(p, turns, true, predicted);
    double x = log(fmax(gap_s, 1e-3));
    p->gap_weight = p->gap_weight * KEEP + 1;
    p->gap_m2 *= KEEP;
    double d = x - p->gap_mean;
    p->gap_mean += d / p->gap_weight;
    p->gap_m2 += d * (x - p->gap_mean);
}

void continuation_expired(struct continuation_predictor *p, uint32_t turns, double idle_s, double predicted)
{
    /* Somebody who was watched for a second has not left: only a wait that most returns would have ended counts. */
    if (gap_survival(p, idle_s) < 0.5)
        decided(p, turns, false, predicted);
}

void continuation_waiting_begin(struct continuation_predictor *p)
{
    memset(p->n_waiting, 0, sizeof p->n_waiting);
}

void continuation_waiting(struct continuation_predictor *p, uint32_t turns, double idle_s)
{
    p->n_waiting[turn_class(turns)] += 1 - gap_survival(p, idle_s);
}

double continuation_rate(const struct continuation_predictor *p)
{
    return p->brier_n ? (double)p->n_continued / (double)p->brier_n : 0;
}

double continuation_brier(const struct continuation_predictor *p)
{
    return p->brier_n ? p->brier_sum / (double)p->brier_n : 0;
}

/* --- saving and loading ----------------------------------------------------------------------------------------- */

/* Up to the last bucket that was reached. */
static void curve_io(struct state_io *x, struct curve *c)
{
    uint32_t n = N_BUCKETS;
    while (n > 0 && c->at_risk[n - 1] == 0 && c->ended[n - 1] == 0)
        n--;
    io_upto(x, &n, N_BUCKETS);
    for (uint32_t i = 0; i < n; i++) {
        io_weight(x, &c->at_risk[i]);
        io_weight(x, &c->ended[i]);
        io_must(x, c->ended[i] <= c->at_risk[i]);
    }
}

void length_predictor_io(struct state_io *x, struct length_predictor *p)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof(struct length_predictor) == 1360, "new members?");
#endif
    uint32_t n = 0, at = 0;
    curve_io(x, &p->all);
    for (uint32_t i = 0; i < p->n_classes; i++)
        n += p->special[i].id != 0;
    io_upto(x, &n, p->n_classes);
    for (uint32_t k = 0; k < n; k++, at++) {
        while (!io_loads(x) && !p->special[at].id)
            at++;
        io_upto(x, &at, p->n_classes - 1);
        io_hash(x, &p->special[at].id);
        if (!io_must(x, p->special[at].id % p->n_classes == at))
            return;
        curve_io(x, &p->special[at]);
    }
    io_u64s(x, p->covered, LENGTH_N_LEVELS);
    io_u64(x, &p->n_observed);
}

void continuation_io(struct state_io *x, struct continuation_predictor *p)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof *p == 432, "new members?");
#endif
    io_sizes(x, p->n_ended, CONTINUE_MAX_TURNS);
    io_sizes(x, p->n_returned, CONTINUE_MAX_TURNS);
    io_sizes(x, p->n_waiting, CONTINUE_MAX_TURNS);
    for (int i = 0; i < CONTINUE_MAX_TURNS; i++)
        io_must(x, p->n_returned[i] <= p->n_ended[i]);
    io_size(x, &p->gap_weight);
    io_f64(x, &p->gap_mean);
    io_size(x, &p->gap_m2);
    io_must(x, p->gap_weight >= 1e-3);
    io_size(x, &p->brier_sum);
    io_u64(x, &p->brier_n);
    io_u64(x, &p->n_continued);
}
