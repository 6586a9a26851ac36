/* Predictions that speculation rests on: how long an output will get, and whether a conversation will go on.
 *
 * Output length. For each class of request a discrete survival curve over log-spaced length buckets, estimated online
 * as Kaplan and Meier (1958) do, so that outputs which were cut short (cancelled, or ended by max_new_tokens) count as
 * "at least this long" and not as lengths. Classes form a chain from general to special (all traffic; prompt-length
 * bucket;
 * + limits; + API key); the special one's hazard is shrunk towards its parent's, so that a new key starts with what is
 * known in general. Old observations fade (half-life in observations). The predictor is told true lengths only when
 * requests end.
 *
 * Continuation. A conversation that ended its turn continues with a probability by its number of turns (a Beta-shrunk
 * frequency), after a gap whose logarithm is normal. Given that nothing came for t seconds,
 *   P(continue | t) = p S(t) / (p S(t) + 1 - p),  S(t) = 1 - Phi((ln t - mu) / sigma).
 *
 * Pure; all memory at creation; one owner. Lengths in tokens, times in seconds. Both keep their own calibration:
 * quantile coverage and Brier score.
 */
#ifndef WEIR_POLICY_PREDICT_H
#define WEIR_POLICY_PREDICT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* --- output length ---------------------------------------------------------------------------------------------- */

struct length_class {
    uint32_t n_prompt;       /* tokens */
    uint32_t max_new_tokens; /* the request's limit: outputs never pass it */
    uint64_t key;            /* hash of the API key; 0: none */
};

struct length_predictor; /* opaque */

struct length_predictor_config {
    uint32_t n_classes;       /* slots for special classes; on a collision the older one is replaced. 0: 4,096 */
    double half_life;         /* observations of a class after which one weighs half. 0: 2,000 */
    double prior_mean_tokens; /* before anything is observed lengths are geometric with this mean. 0: 256 */
};

int length_predictor_create(struct length_predictor **out, const struct length_predictor_config *c, struct err *e);
void length_predictor_destroy(struct length_predictor *p);

/* A request ended after n_tokens. censored: it would have gone on (cancelled, preempted for good, length limit). */
void length_observe(struct length_predictor *p, const struct length_class *c, uint32_t n_tokens, bool censored);

/* Total output length (>= n_so_far, <= max_new_tokens) that the request will stay under with probability q, given that
 * it has produced n_so_far already. q in (0, 1). */
uint32_t length_quantile(const struct length_predictor *p, const struct length_class *c, uint32_t n_so_far, double q);

/* Expected total output length under the same condition. */
double length_expected(const struct length_predictor *p, const struct length_class *c, uint32_t n_so_far);

/* Of the uncensored outputs so far, the share that ended at or below the quantile predicted at their start, for
 * q = 0.5, 0.8, 0.9, 0.95 (LENGTH_N_LEVELS). 0 before the first. Close to q: calibrated. */
#define LENGTH_N_LEVELS 4
void length_coverage(const struct length_predictor *p, double out[LENGTH_N_LEVELS]);

/* --- continuation ----------------------------------------------------------------------------------------------- */

#define CONTINUE_MAX_TURNS 16 /* longer conversations share the last class */

struct continuation_predictor {
    double n_ended[CONTINUE_MAX_TURNS], n_returned[CONTINUE_MAX_TURNS]; /* decided ones, fading */
    double n_waiting[CONTINUE_MAX_TURNS]; /* undecided ones, each by how much of the usual gap has passed */
    double gap_weight, gap_mean, gap_m2;  /* of ln(gap): Welford, fading */
    double brier_sum;
    uint64_t brier_n, n_continued;
};

void continuation_init(struct continuation_predictor *p);

/* A conversation of `turns` answered turns (>= 1) was taken up again gap_s after it went idle. predicted: the chance of
 * that as it was seen when it went idle. */
void continuation_returned(struct continuation_predictor *p, uint32_t turns, double gap_s, double predicted);

/* It did not come back for so long (idle_s) that the caller stops to watch it. */
void continuation_expired(struct continuation_predictor *p, uint32_t turns, double idle_s, double predicted);

/* Those that are still watched, all of them anew: one that has been idle for long is nearly one that did not come
 * back. Without them only quick returns would count at first. */
void continuation_waiting_begin(struct continuation_predictor *p);
void continuation_waiting(struct continuation_predictor *p, uint32_t turns, double idle_s);

/* The chance that it still comes back, after idle_s without a word. */
double continuation_probability(const struct continuation_predictor *p, uint32_t turns, double idle_s);

/* The chance that it comes back within the next window_s. */
double continuation_within(const struct continuation_predictor *p, uint32_t turns, double idle_s, double window_s);

/* The idle time after which the chance has fallen under p_min: when to stop watching. */
double continuation_horizon_s(const struct continuation_predictor *p, uint32_t turns, double p_min);

/* The gap that a conversation which does go on stays under with probability q. */
double continuation_gap_quantile_s(const struct continuation_predictor *p, double q);

/* Mean squared error of the probability at the moment the turn ended, against what came. 0 before the first. */
double continuation_brier(const struct continuation_predictor *p);

/* The share of turns, of those decided so far, that were followed by another. */
double continuation_rate(const struct continuation_predictor *p);

/* All that was learned, saved or loaded into a new one (policy/state_io.h). */
struct state_io;
void length_predictor_io(struct state_io *x, struct length_predictor *p);
void continuation_io(struct state_io *x, struct continuation_predictor *p);

#endif
