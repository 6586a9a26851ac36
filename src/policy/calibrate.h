/* How long a step takes: a roofline whose parameters are fitted online to measured steps.
 *
 *   t = fixed + seq * n_seqs
 *     + M(rows, bytes and flops of the layers' weights) + M(outputs, those of the output matrix and of what the device
 *       runs of the last layer for them only)
 *     + kv * (KV bytes read, written and waited for) + attention * attention flops
 *   M(n, b, f) = curve(n) * sqrt((byte * b)^2 + (flop * f)^2)
 *
 * Where a prompt's rows multiply in a way of their own (traffic_model.prompt_way), the first M is that of the other rows,
 * but reads the weights for both: to curve(n) * flop * f, in the root, it adds
 *   flop * prompt * (flops of the prompt's rows and those of `unpack` more: bringing weights into the form of that way)
 * Without such a way nothing of this is there, and nothing is learned of it.
 *
 * The two sides of the roofline (Williams, Waterman, Patterson 2009) are joined smoothly, and curve() is the device's
 * efficiency by number of rows, for a product of a few rows with a quantised matrix is bound by neither: knots at 1, 2,
 * 4, ... rows, linear between.
 *
 * Fitting is an extended Kalman filter on the logarithms of the parameters, which are therefore positive, and of the
 * time, so that errors are relative. Neighbouring knots of the curve are correlated beforehand, so row counts that were
 * never measured follow those that were. Innovations beyond three deviations are clipped (Huber), so single slow steps
 * do little; several in a row on the same side mean that the device changed, and open the filter.
 *
 * One update costs CALIBRATE_N^2 multiply-adds, a prediction a few. Pure; caller's memory, no pointers inside but the
 * model's; one owner. A struct calibration may be copied.
 */
#ifndef WEIR_POLICY_CALIBRATE_H
#define WEIR_POLICY_CALIBRATE_H

#include "policy/traffic.h"

#include <stdbool.h>
#include <stdint.h>

#define CALIBRATE_KNOTS 14 /* curve at 1, 2, 4, ... 8192 rows; constant beyond */

/* State of the filter: logarithms of seconds per unit, but for the last two. */
enum calibrate_param {
    CALIBRATE_FIXED,                                      /* seconds a step */
    CALIBRATE_SEQ,                                        /* seconds a sequence */
    CALIBRATE_BYTE,                                       /* seconds a weight byte */
    CALIBRATE_FLOP,                                       /* seconds a matmul operation */
    CALIBRATE_KV,                                         /* seconds a KV byte */
    CALIBRATE_ATTENTION,                                  /* seconds an attention operation */
    CALIBRATE_CURVE,                                      /* first knot */
    CALIBRATE_PROMPT = CALIBRATE_CURVE + CALIBRATE_KNOTS, /* an operation of a prompt's rows, in those of others */
    CALIBRATE_UNPACK,                                     /* rows; see above */
    CALIBRATE_N,
};

/* What is believed before anything is measured: a profile's figures, or rough ones; off by several times is fine. */
struct calibrate_prior {
    double bytes_per_s;           /* sustained memory bandwidth */
    double matmul_flops_per_s;    /* of a large product */
    double prompt_flops_per_s;    /* of one with a prompt's rows, where they go another way; 0: as matmul */
    double attention_flops_per_s; /* 0: as matmul */
    double fixed_s;               /* overhead of a step; 0: 1e-5 */
    double seq_s;                 /* and of a sequence; 0: 1e-7 */
    double confidence;            /* 0: the figures are guesses; 1: measured on this very device. In between: between */
};

/* Errors as (predicted - measured) / measured. Bucket i of abs holds |error| <= calibrate_abs_bounds[i], bucket i of
 * signed error <= calibrate_signed_bounds[i], above the one before; the last bucket the rest. Counts, not cumulative.
 */
#define CALIBRATE_ABS_BUCKETS 12
#define CALIBRATE_SIGNED_BUCKETS 16
extern const double calibrate_abs_bounds[CALIBRATE_ABS_BUCKETS - 1];
extern const double calibrate_signed_bounds[CALIBRATE_SIGNED_BUCKETS - 1];

struct calibrate_errors {
    uint64_t n;
    double abs_sum, signed_sum;
    uint64_t abs[CALIBRATE_ABS_BUCKETS], signed_[CALIBRATE_SIGNED_BUCKETS];
};

struct calibration {
    struct traffic_model model;
    double log_param[CALIBRATE_N], param[CALIBRATE_N]; /* param = exp(log_param) */
    double cov[CALIBRATE_N][CALIBRATE_N];
    double cov_max[CALIBRATE_N]; /* variances never pass those of the start */
    double noise;                /* variance of log(measured / predicted) that no parameter explains */
    double bias;                 /* leaky mean of innovations, in deviations: > 0 slower than predicted */
    double excess;               /* log(measured / predicted) of the last steps: the largest, halved with each step */
    uint64_t n_updates, n_clipped, n_reopened;
    struct calibrate_errors errors;
};

void calibrate_init(struct calibration *c, const struct traffic_model *m, const struct calibrate_prior *p);

/* Seconds the step would take; 0 for the empty step. */
double calibrate_predict_s(const struct calibration *c, const struct traffic_load *l);

/* The same, and its parts. */
struct calibrate_parts {
    double overhead_s, weights_s, kv_s, attention_s;
};
double calibrate_predict_parts(const struct calibration *c, const struct traffic_load *l,
                               struct calibrate_parts *parts);

/* A step of this load took measured_s. Returns what was predicted before learning from it. Times that are not positive
 * and finite, and empty steps, are ignored (0). */
double calibrate_update(struct calibration *c, const struct traffic_load *l, double measured_s);

/* What a step of this load passes once or twice in a hundred times: the prediction, as much longer as the parameters'
 * uncertainty and the noise make likely, or as the last steps were longer than predicted. */
double calibrate_bound_s(const struct calibration *c, const struct traffic_load *l);

/* The most rows of a sequence (with n_past positions in the cache, n_prompt of a prompt, wanting no logits but the last
 * row's) that can join the load with the step predicted within budget_s, and its bound within bound_s; 0 if not even one fits.
 * O(log max_tokens). */
uint32_t calibrate_fit_tokens(const struct calibration *c, const struct traffic_load *l, uint32_t n_past,
                              uint32_t n_prompt, uint32_t max_tokens, double budget_s, double bound_s);

/* The fitted figures in the units that people know. */
double calibrate_bytes_per_s(const struct calibration *c); /* weights, at one row */
double calibrate_kv_bytes_per_s(const struct calibration *c);
double calibrate_flops_per_s(const struct calibration *c, double n_rows); /* matmul, with n_rows of a prompt */

/* One standard deviation of a prediction of this load, relative: parameters' uncertainty and noise. */
double calibrate_uncertainty(const struct calibration *c, const struct traffic_load *l);

/* Quantile of the absolute relative error, interpolated in its histogram; 0 while empty. */
double calibrate_error_quantile(const struct calibrate_errors *e, double q);

/* All that was learned, saved or loaded into a new one (policy/state_io.h). */
struct state_io;
void calibrate_io(struct state_io *x, struct calibration *c);

#endif
