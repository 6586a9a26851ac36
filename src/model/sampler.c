#include "model/sampler.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/sampler_scan.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define IN_PROMPT 0x80000000u /* in seen[]: the prompt has it; the other bits count it in the output */
#define MAX_CACHED_ENDS 64
#define FIRST_CUT 1024 /* candidates that top_p looks at before it takes all */

struct candidate {
    float logit;
    float weight;
    token_id id;
};

struct sampler {
    struct sampling_params p;
    struct logit_bias *bias;
    struct rng rng;
    uint32_t n_vocab;

    /* Tokens seen, for the penalties: a word for each token of the vocabulary and the list of those not 0. NULL when
     * no penalty is on. */
    uint32_t *seen; /* [n_vocab] */
    token_id *seen_ids;
    uint32_t n_seen;

    /* End tokens of the tokenizer, found on first use; ids from ends_from on have not been looked at. */
    token_id ends[MAX_CACHED_ENDS];
    uint32_t n_ends;
    token_id ends_from;

    float *work;                  /* [n_vocab]: logits as adjusted, if they are */
    double *block_sums;           /* [ceil(n_vocab / SCAN_BLOCK)] */
    struct candidate *candidates; /* [n_candidates] */
    size_t n_candidates;
};

void sampling_params_default(struct sampling_params *p)
{
    *p = (struct sampling_params){
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1, .top_k = 0, .min_p = 0};
}

static int check_range(const char *name, float value, float lo, float hi, struct err *e)
{
    if (value >= lo && value <= hi)
        return 0;
    return err_set(e, WEIR_EINVAL, "%s is %g; it must be between %g and %g", name, (double)value, (double)lo,
                   (double)hi);
}

static int check_params(const struct sampling_params *p, uint32_t n_vocab, struct err *e)
{
    int r = 0;
    if ((r = check_range("temperature", p->temperature, 0, FLT_MAX, e)) ||
        (r = check_range("min_p", p->min_p, 0, 1, e)) ||
        (r = check_range("presence_penalty", p->presence_penalty, -2, 2, e)) ||
        (r = check_range("frequency_penalty", p->frequency_penalty, -2, 2, e)))
        return r;
    if (!(p->top_p > 0 && p->top_p <= 1))
        return err_set(e, WEIR_EINVAL, "top_p is %g; it must be above 0 and at most 1", (double)p->top_p);
    if (!(p->repetition_penalty > 0 && p->repetition_penalty <= FLT_MAX))
        return err_set(e, WEIR_EINVAL, "repetition_penalty is %g; it must be above 0", (double)p->repetition_penalty);
    if (p->top_logprobs < -1 || p->top_logprobs > SAMPLER_MAX_TOP_LOGPROBS)
        return err_set(e, WEIR_EINVAL, "top_logprobs is %d; it must be between 0 and %d, or -1 for none",
                       (int)p->top_logprobs, SAMPLER_MAX_TOP_LOGPROBS);
    if (n_vocab == 0 || n_vocab > INT32_MAX)
        return err_set(e, WEIR_EINVAL, "the vocabulary has %u tokens", (unsigned)n_vocab);
    if (p->n_bias > SAMPLER_MAX_BIAS)
        return err_set(e, WEIR_EINVAL, "logit_bias has %u entries; at most %d are taken", (unsigned)p->n_bias,
                       SAMPLER_MAX_BIAS);
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= n_vocab)
            return err_set(e, WEIR_EINVAL, "logit_bias names token %d; the vocabulary has ids 0 to %u",
                           (int)p->bias[i].id, (unsigned)n_vocab - 1);
        if (!(p->bias[i].bias <= 100))
            return err_set(e, WEIR_EINVAL, "logit_bias of token %d is %g; it must be between -100 and 100",
                           (int)p->bias[i].id, (double)p->bias[i].bias);
    }
    return 0;
}

static bool has_output_penalty(const struct sampling_params *p)
{
    return p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static bool has_filter(const struct sampler *s)
{
    return (s->p.top_k > 0 && (uint32_t)s->p.top_k < s->n_vocab) || s->p.top_p < 1 || s->p.min_p > 0;
}

static size_t n_blocks(const struct sampler *s)
{
    return (s->n_vocab + (size_t)SCAN_BLOCK - 1) / SCAN_BLOCK;
}

/* Candidates that finding the best k takes: room to gather between two cuts. */
static size_t room_for(size_t k, size_t n_vocab)
{
    size_t room = 2 * k < k + FIRST_CUT ? k + FIRST_CUT : 2 * k;
    return room < n_vocab ? room : n_vocab;
}

int sampler_create(struct sampler **out, const struct sampling_params *p, uint32_t n_vocab, struct err *e)
{
    *out = NULL;
    int r = check_params(p, n_vocab, e);
    if (r)
        return r;
    struct sampler *s = mem_array(1, sizeof *s);
    if (!s)
        return err_set(e, WEIR_ENOMEM, "no memory for a sampler");
    s->p = *p;
    s->n_vocab = n_vocab;
    s->rng.state = p->seed;
    if (has_filter(s))
        s->n_candidates = n_vocab;
    else if (p->top_logprobs > 0)
        s->n_candidates = room_for((size_t)p->top_logprobs, n_vocab);

    bool penalties = has_output_penalty(p) || p->repetition_penalty != 1;
    s->bias = mem_array(p->n_bias, sizeof *s->bias);
    s->work = mem_aligned(n_vocab * sizeof *s->work);
    s->block_sums = mem_array(n_blocks(s), sizeof *s->block_sums);
    s->candidates = mem_aligned(s->n_candidates * sizeof *s->candidates);
    if (penalties) {
        s->seen = mem_aligned(n_vocab * sizeof *s->seen);
        s->seen_ids = mem_aligned(n_vocab * sizeof *s->seen_ids);
    }
    if (!s->bias || !s->work || !s->block_sums || !s->candidates || (penalties && (!s->seen || !s->seen_ids))) {
        sampler_destroy(s);
        return err_set(e, WEIR_ENOMEM, "no memory for a sampler of %u tokens", (unsigned)n_vocab);
    }
    if (p->n_bias)
        memcpy(s->bias, p->bias, p->n_bias * sizeof *s->bias);
    s->p.bias = s->bias;
    *out = s;
    return 0;
}

void sampler_destroy(struct sampler *s)
{
    if (!s)
        return;
    free(s->bias);
    free(s->block_sums);
    mem_free_aligned(s->work, s->n_vocab * sizeof *s->work);
    mem_free_aligned(s->candidates, s->n_candidates * sizeof *s->candidates);
    mem_free_aligned(s->seen, s->n_vocab * sizeof *s->seen);
    mem_free_aligned(s->seen_ids, s->n_vocab * sizeof *s->seen_ids);
    free(s);
}

static uint32_t *seen_word(struct sampler *s, token_id id)
{
    if (!s->seen || id < 0 || (uint32_t)id >= s->n_vocab)
        return NULL;
    if (!s->seen[id])
        s->seen_ids[s->n_seen++] = id;
    return &s->seen[id];
}

void sampler_note_prompt(struct sampler *s, const token_id *ids, size_t n)
{
    if (s->p.repetition_penalty == 1)
        return;
    for (size_t i = 0; i < n; i++) {
        uint32_t *word = seen_word(s, ids[i]);
        if (word)
            *word |= IN_PROMPT;
    }
}

static void note_output(struct sampler *s, token_id id)
{
    uint32_t *word = seen_word(s, id);
    if (word && (*word & ~IN_PROMPT) != ~IN_PROMPT)
        ++*word;
}

/* -- Adjusting ---------------------------------------------------------------------------------------------------- */

static void penalise(const struct sampler *s, float *logits)
{
    for (uint32_t i = 0; i < s->n_seen; i++) {
        token_id id = s->seen_ids[i];
        float l = logits[id];
        /* Keskar et al. 2019 (CTRL), section 4.1, with the sign minded. */
        l = l > 0 ? l / s->p.repetition_penalty : l * s->p.repetition_penalty;
        uint32_t count = s->seen[id] & ~IN_PROMPT;
        if (count)
            l -= s->p.presence_penalty + s->p.frequency_penalty * (float)count;
        logits[id] = l;
    }
}

static void forbid_ends(struct sampler *s, const struct tokenizer *t, float *logits)
{
    for (uint32_t i = 0; i < s->n_ends; i++)
        logits[s->ends[i]] = -INFINITY;
    for (token_id id = s->ends_from; (uint32_t)id < s->n_vocab; id++) {
        bool may_cache = id == s->ends_from && s->n_ends < MAX_CACHED_ENDS;
        bool end = tokenizer_is_end(t, id);
        if (end)
            logits[id] = -INFINITY;
        if (end && may_cache)
            s->ends[s->n_ends++] = id;
        if (may_cache)
            s->ends_from = id + 1;
    }
}

/* The logits to sample from: the caller's own if nothing changes them, else a changed copy. After it no value is NaN
 * or +INFINITY. */
static const float *adjust(struct sampler *s, const float *logits, const struct tokenizer *forbid_end_of,
                           struct scan_max *max)
{
    *max = scan_max(logits, s->n_vocab);
    if (!s->p.n_bias && !s->n_seen && !forbid_end_of && max->regular)
        return logits;
    float *w = s->work;
    memcpy(w, logits, s->n_vocab * sizeof *w);
    for (uint32_t i = 0; i < s->p.n_bias; i++)
        w[s->bias[i].id] += s->bias[i].bias <= -100 ? -INFINITY : s->bias[i].bias;
    if (forbid_end_of)
        forbid_ends(s, forbid_end_of, w);
    penalise(s, w);
    *max = scan_max(w, s->n_vocab);
    if (!max->regular) {
        for (uint32_t i = 0; i < s->n_vocab; i++)
            w[i] = isnan(w[i]) ? -INFINITY : w[i] < FLT_MAX ? w[i] : FLT_MAX;
        *max = scan_max(w, s->n_vocab);
    }
    return w;
}

/* -- Selecting ---------------------------------------------------------------------------------------------------- */

/* The total order of candidates: by logit, the lower id first on a tie. */
static bool better(struct candidate a, struct candidate b)
{
    return (a.logit > b.logit) | ((a.logit == b.logit) & (a.id < b.id));
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate t = *a;
    *a = *b;
    *b = t;
}

/* Permutes c so that its best m come first, where m is the least number whose weights add up to target or more (n if
 * none does), and returns m. Quickselect: expected O(n). */
static size_t best_prefix(struct candidate *c, size_t n, double target)
{
    size_t lo = 0, hi = n;
    double before = 0; /* weight of c[0..lo) */
    while (lo < hi) {
        /* A scattered pivot: no order that logits come in makes it quadratic. */
        size_t pivot = lo + (size_t)(hash_u64(lo * 31 + hi) % (hi - lo));
        swap(&c[pivot], &c[hi - 1]);
        size_t mid = lo;
        double left = 0;
        const struct candidate p = c[hi - 1];
        for (size_t i = lo; i < hi - 1; i++) { /* without a branch: half of them would be guessed wrong */
            struct candidate v = c[i];
            bool is_better = better(v, p);
            c[i] = c[mid];
            c[mid] = v;
            mid += is_better;
            left += is_better ? (double)v.weight : 0;
        }
        swap(&c[mid], &c[hi - 1]);
        if (before + left >= target) {
            hi = mid;
        } else {
            before += left + (double)c[mid].weight;
            lo = mid + 1;
            if (before >= target)
                return lo;
        }
    }
    return lo;
}

/* Writes the best k tokens (-INFINITY never counts) to c in no order, all with weight 1; returns how many. c has room
 * for room_for(k, n). */
static size_t select_best(const float *x, size_t n, size_t k, struct candidate *c)
{
    size_t room = room_for(k, n), len = 0;
    float threshold = -INFINITY;
    for (size_t i = scan_above(x, 0, n, threshold); i < n; i = scan_above(x, i + 1, n, threshold)) {
        if (len == room) {
            len = best_prefix(c, len, (double)k);
            threshold = c[0].logit;
            for (size_t j = 1; j < len; j++)
                threshold = c[j].logit < threshold ? c[j].logit : threshold;
            if (!(x[i] > threshold))
                continue;
        }
        c[len++] = (struct candidate){.logit = x[i], .weight = 1, .id = (token_id)i};
    }
    return len > k ? best_prefix(c, len, (double)k) : len;
}

static int by_id(const void *a, const void *b)
{
    token_id x = ((const struct candidate *)a)->id, y = ((const struct candidate *)b)->id;
    return (x > y) - (x < y);
}

static int by_rank(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return better(*y, *x) - better(*x, *y);
}

static double weigh(struct candidate *c, size_t n, float max, float scale)
{
    double sum = 0;
    for (size_t i = 0; i < n; i += 64) {
        float part[64];
        size_t k = n - i < 64 ? n - i : 64;
        for (size_t j = 0; j < k; j++)
            part[j] = c[i + j].logit;
        scan_exp(part, k, max, scale, part);
        for (size_t j = 0; j < k; j++) {
            c[i + j].weight = part[j];
            sum += (double)part[j];
        }
    }
    return sum;
}

/* All tokens with a logit above `above`, and those equal to it up to `last_id`, by rising id; c has room for n. */
static size_t collect(const float *x, size_t n, float above, token_id last_id, struct candidate *c)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        c[len] = (struct candidate){.logit = x[i], .id = (token_id)i};
        len += (x[i] > above) | ((x[i] == above) & ((token_id)i <= last_id));
    }
    return len;
}

/* Logits counted in steps of 1/WEIGHT_STEPS of the exponent below the best: how far down the tokens of a given
 * probability reach, and above which logit all of them surely belong to those. */
#define WEIGHT_STEPS 64
#define N_WEIGHT_STEPS (87 * WEIGHT_STEPS)

struct reach {
    float all_above, none_below; /* logits; the border lies between them */
};

static struct reach find_reach(const float *x, size_t n, float max, float scale, double target)
{
    uint32_t counts[N_WEIGHT_STEPS + 1] = {0};
    float steps = scale * WEIGHT_STEPS;
    for (size_t i = 0; i < n; i++) {
        float step = (max - x[i]) * steps;
        counts[step < N_WEIGHT_STEPS ? (int)step : N_WEIGHT_STEPS]++;
    }
    /* A step's tokens weigh between its two ends, and rounding moves a token by less than a step. */
    double least = 0, most = 0;
    size_t inside = 0, outside = 0;
    for (; outside < N_WEIGHT_STEPS && least < target; outside++) {
        double most_each = exp(-((double)outside - 1) / WEIGHT_STEPS);
        least += counts[outside] * exp(-((double)outside + 2) / WEIGHT_STEPS);
        most += counts[outside] * most_each;
        if (most < target)
            inside = outside + 1;
    }
    return (struct reach){
        .all_above = inside > 1 ? max - (float)(inside - 1) / steps : INFINITY,
        .none_below = outside < N_WEIGHT_STEPS ? max - (float)(outside + 2) / steps : -INFINITY,
    };
}

/* The same where the set is large: only the tokens around its border are ranked. By rising id. */
static size_t select_many(const float *x, size_t n, float max, float scale, double target, struct candidate *c)
{
    struct reach r = find_reach(x, n, max, scale, target);
    size_t len = collect(x, n, r.none_below, INT32_MAX, c), inside = 0;
    if (weigh(c, len, max, scale) < target) { /* logits so large that steps drown in their rounding */
        len = collect(x, n, -INFINITY, INT32_MAX, c);
        weigh(c, len, max, scale);
    }
    double sum = 0;
    for (size_t i = 0; i < len; i++) {
        if (c[i].logit > r.all_above) {
            sum += (double)c[i].weight;
            swap(&c[i], &c[inside++]);
        }
    }
    size_t ranked = best_prefix(c + inside, len - inside, target - sum);
    if (!ranked)
        return best_prefix(c, len, target);
    struct candidate worst = c[inside];
    for (size_t i = inside; i < inside + ranked; i++)
        worst = better(worst, c[i]) ? c[i] : worst;
    len = collect(x, n, worst.logit, worst.id, c);
    weigh(c, len, max, scale);
    return len;
}

/* The smallest set of most probable tokens that holds top_p of the whole vocabulary's probability, weighed. */
static size_t select_top_p(struct sampler *s, const float *x, float max, float scale)
{
    struct candidate *c = s->candidates;
    double target = (double)s->p.top_p * scan_sum_exp(x, s->n_vocab, max, scale, NULL);
    size_t len = select_best(x, s->n_vocab, FIRST_CUT, c);
    double sum = weigh(c, len, max, scale);
    return sum < target ? select_many(x, s->n_vocab, max, scale, target, c) : best_prefix(c, len, target);
}

/* The tokens that top_k, top_p and min_p leave, weighed by their probability over that of the best. */
static size_t select_candidates(struct sampler *s, const float *x, float max, float scale)
{
    struct candidate *c = s->candidates;
    size_t len;
    if (s->p.top_k > 0 && (uint32_t)s->p.top_k < s->n_vocab) {
        len = select_best(x, s->n_vocab, (size_t)s->p.top_k, c);
        double sum = weigh(c, len, max, scale);
        if (s->p.top_p < 1)
            len = best_prefix(c, len, (double)s->p.top_p * sum);
    } else if (s->p.top_p < 1) {
        len = select_top_p(s, x, max, scale);
    } else {
        /* min_p alone. Its logit, lowered by more than rounding can err, so that the weights decide below. */
        float floor = max + logf(s->p.min_p) / scale;
        floor -= fabsf(floor) * 1e-5f + 1e-5f / scale;
        len = 0;
        for (size_t i = scan_above(x, 0, s->n_vocab, floor); i < s->n_vocab;
             i = scan_above(x, i + 1, s->n_vocab, floor))
            c[len++] = (struct candidate){.logit = x[i], .id = (token_id)i};
        weigh(c, len, max, scale);
    }
    size_t kept = 0;
    for (size_t i = 0; i < len; i++) {
        if (c[i].weight >= s->p.min_p)
            c[kept++] = c[i];
    }
    return kept;
}

/* -- Drawing ------------------------------------------------------------------------------------------------------ */

/* Both draws walk the tokens by rising id: rounding differences between logits then move a choice only where they
 * move the cumulative probability, not where they swap two ranks. */

static token_id draw_candidate(struct sampler *s, struct candidate *c, size_t n)
{
    bool sorted = true;
    for (size_t i = 1; sorted && i < n; i++)
        sorted = c[i - 1].id < c[i].id;
    if (!sorted)
        qsort(c, n, sizeof *c, by_id);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)c[i].weight;
    double left = rng_unit(&s->rng) * sum;
    token_id id = c[0].id;
    for (size_t i = 0; i < n; i++) {
        if (!(c[i].weight > 0))
            continue;
        id = c[i].id;
        left -= (double)c[i].weight;
        if (left < 0)
            break;
    }
    return id;
}

static token_id draw_any(struct sampler *s, const float *x, float max, float scale)
{
    double left = rng_unit(&s->rng) * scan_sum_exp(x, s->n_vocab, max, scale, s->block_sums);
    size_t block = 0;
    for (size_t b = 0; b < n_blocks(s); b++) {
        if (!(s->block_sums[b] > 0))
            continue;
        block = b;
        if (left < s->block_sums[b])
            break;
        left -= s->block_sums[b];
    }
    size_t from = block * SCAN_BLOCK, n = s->n_vocab - from < SCAN_BLOCK ? s->n_vocab - from : SCAN_BLOCK;
    float weights[SCAN_BLOCK];
    scan_exp(x + from, n, max, scale, weights);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(weights[i] > 0))
            continue;
        at = i; /* the last of them if rounding leaves something */
        left -= (double)weights[i];
        if (left < 0)
            break;
    }
    return (token_id)(from + at);
}

/* -- Log-probabilities -------------------------------------------------------------------------------------------- */

static float finite_or_end(float logit)
{
    return isnan(logit) ? -INFINITY : logit < FLT_MAX ? logit : FLT_MAX;
}

/* log of the sum of exp over the raw logits; -INFINITY if all are. */
static double log_sum_exp(const float *x, size_t n)
{
    struct scan_max m = scan_max(x, n);
    if (m.max == -INFINITY)
        return -INFINITY;
    if (m.regular)
        return (double)m.max + log(scan_sum_exp(x, n, m.max, 1, NULL));
    float max = finite_or_end(m.max);
    double sum = 0; /* at least 1 after the loop: the maximum is among them */
    for (size_t i = 0; i < n; i++)
        sum += exp((double)finite_or_end(x[i]) - (double)max);
    return (double)max + log(fmax(sum, 1));
}

static float logprob_of(float logit, double lse)
{
    double l = (double)finite_or_end(logit) - lse;
    return l > SAMPLER_MIN_LOGPROB ? (float)l : SAMPLER_MIN_LOGPROB; /* also for -inf - -inf */
}

void sampler_logprobs(struct sampler *s, const float *logits, token_id id, struct sample *out)
{
    assert(id >= 0 && (uint32_t)id < s->n_vocab);
    double lse = log_sum_exp(logits, s->n_vocab);
    out->id = id;
    out->logprob = logprob_of(logits[id], lse);
    out->n_top = 0;
    if (s->p.top_logprobs <= 0)
        return;
    struct candidate *c = s->candidates;
    size_t n = select_best(logits, s->n_vocab, (size_t)s->p.top_logprobs, c);
    qsort(c, n, sizeof *c, by_rank);
    for (size_t i = 0; i < n; i++)
        out->top[i] = (struct token_logprob){c[i].id, logprob_of(c[i].logit, lse)};
    out->n_top = (uint32_t)n;
}

static token_id choose(struct sampler *s, const float *logits, const struct tokenizer *forbid_end_of)
{
    struct scan_max max;
    const float *x = adjust(s, logits, forbid_end_of, &max);
    if (max.max == -INFINITY) /* all forbidden or broken: what the model itself likes best, or token 0 */
        return (token_id)scan_max(logits, s->n_vocab).at;
    if (s->p.temperature == 0)
        return (token_id)max.at;
    /* So cold that the quotient would overflow is the same as colder still. */
    float scale = s->p.temperature > 1e-30f ? 1 / s->p.temperature : 1e30f;
    if (!has_filter(s))
        return draw_any(s, x, max.max, scale);
    return draw_candidate(s, s->candidates, select_candidates(s, x, max.max, scale));
}

void sampler_sample(struct sampler *s, const float *logits, const struct tokenizer *forbid_end_of, struct sample *out)
{
    token_id id = choose(s, logits, forbid_end_of);
    if (has_output_penalty(&s->p) || s->p.repetition_penalty != 1)
        note_output(s, id);
    if (s->p.top_logprobs >= 0)
        sampler_logprobs(s, logits, id, out);
    else
        *out = (struct sample){.id = id};
}
