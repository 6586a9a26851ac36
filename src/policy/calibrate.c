#include "policy/calibrate.h"

#include "policy/state_io.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define CLIP_DEVIATIONS 3.0
#define BIAS_RATE 0.1
#define BIAS_CHANGED 1.0     /* four clipped innovations on one side in a row, or more that are smaller */
#define REOPEN_VARIANCE 0.16 /* of log time, common to all parameters: a factor of 1.5 */
#define REOPEN_SINGLE_VARIANCE 0.01
#define LEAST_GAIN 0.02  /* of what is measured: loads known better than that against the noise learn no less */
#define UNPACK_ROWS 64.0 /* guessed: two tiles of rows, or a few */
#define NOISE_START 0.0064
#define NOISE_MIN 2.5e-5 /* 0.5 % */
#define NOISE_MAX 0.09
#define NOISE_RATE 0.02
#define MAX_MOVE 1.5          /* of a log parameter in one update */
#define MAX_LOG_PARAM 100.0   /* beyond any device: what was measured then is nonsense */
#define BOUND_DEVIATIONS 2.33 /* passed once in a hundred times, were errors Gaussian */

const double calibrate_abs_bounds[CALIBRATE_ABS_BUCKETS - 1] = {0.005, 0.01, 0.02, 0.035, 0.05, 0.075,
                                                                0.1,   0.2,  0.3,  0.5,   1.0};
const double calibrate_signed_bounds[CALIBRATE_SIGNED_BUCKETS - 1] = {-0.5, -0.3, -0.2, -0.1, -0.05, -0.02, -0.01, 0,
                                                                      0.01, 0.02, 0.05, 0.1,  0.2,   0.3,   0.5};

/* ---- start ---- */

/* Correlation of two knots of the curve: halves about every two doublings of rows. */
static double knot_correlation(int i, int j)
{
    return exp(-fabs((double)(i - j)) / 3.0);
}

void calibrate_init(struct calibration *c, const struct traffic_model *m, const struct calibrate_prior *p)
{
    assert(p->bytes_per_s > 0 && p->matmul_flops_per_s > 0);
    memset(c, 0, sizeof *c);
    c->model = *m;
    c->noise = NOISE_START;
    double attention = p->attention_flops_per_s > 0 ? p->attention_flops_per_s : p->matmul_flops_per_s;
    c->log_param[CALIBRATE_FIXED] = log(p->fixed_s > 0 ? p->fixed_s : 1e-5);
    c->log_param[CALIBRATE_SEQ] = log(p->seq_s > 0 ? p->seq_s : 1e-7);
    c->log_param[CALIBRATE_BYTE] = c->log_param[CALIBRATE_KV] = -log(p->bytes_per_s);
    c->log_param[CALIBRATE_FLOP] = -log(p->matmul_flops_per_s);
    c->log_param[CALIBRATE_ATTENTION] = -log(attention);

    double prompt = p->prompt_flops_per_s > 0 ? p->prompt_flops_per_s : p->matmul_flops_per_s;
    c->log_param[CALIBRATE_PROMPT] = log(p->matmul_flops_per_s / prompt);
    c->log_param[CALIBRATE_UNPACK] = log(UNPACK_ROWS);

    static const double guess_deviation[CALIBRATE_CURVE] = {2.0, 2.0, 0.7, 1.0, 0.7, 1.0};
    const double curve_deviation = 0.6, prompt_deviation = m->prompt_way ? 1.0 : 0;
    double trust = fmin(fmax(p->confidence, 0), 1), scale = 1 - 0.8 * trust;
    for (int i = 0; i < CALIBRATE_N; i++) {
        double sd = i < CALIBRATE_CURVE    ? guess_deviation[i]
                    : i < CALIBRATE_PROMPT ? curve_deviation
                                           : prompt_deviation;
        c->cov_max[i] = sd * sd;
        c->cov[i][i] = sd * sd * scale * scale;
    }
    for (int i = 0; i < CALIBRATE_KNOTS; i++) {
        for (int j = 0; j < CALIBRATE_KNOTS; j++) {
            double sd = curve_deviation * scale;
            c->cov[CALIBRATE_CURVE + i][CALIBRATE_CURVE + j] = sd * sd * knot_correlation(i, j);
        }
    }
    for (int i = 0; i < CALIBRATE_N; i++)
        c->param[i] = exp(c->log_param[i]);
}

/* ---- prediction ---- */

/* curve(n) = w0 * knot k + w1 * knot k+1 */
struct curve_at {
    int k;
    double w0, w1;
};

static struct curve_at curve_at(uint32_t n)
{
    n = n ? n : 1; /* prompts alone read the weights all the same */
    int k = 31 - __builtin_clz(n | 1);
    if (k >= CALIBRATE_KNOTS - 1)
        return (struct curve_at){CALIBRATE_CURVE + CALIBRATE_KNOTS - 2, 0, 1};
    double u = (double)(n - (1u << k)) / (double)(1u << k);
    return (struct curve_at){CALIBRATE_CURVE + k, 1 - u, u};
}

/* The weights that a step reads once, and what multiplies with them. */
struct product {
    uint32_t n; /* rows, but those of a prompt that go another way */
    double bytes, flops;
    double prompt_flops, prompt_row_flops; /* of those; of one of them, through all matrices that they meet */
};

/* Seconds of it, and its derivatives by the logarithms of its parameters added to grad if wanted. */
static double product_s(const struct calibration *c, const struct product *p, double *grad)
{
    struct curve_at at = curve_at(p->n);
    double c0 = at.w0 * c->param[at.k], c1 = at.w1 * c->param[at.k + 1], curve = c0 + c1;
    double mem = c->param[CALIBRATE_BYTE] * p->bytes, op = c->param[CALIBRATE_FLOP] * p->flops;
    /* All in units of the curve. */
    double prompt_flop = c->param[CALIBRATE_FLOP] * c->param[CALIBRATE_PROMPT] / curve;
    double unpack = prompt_flop * c->param[CALIBRATE_UNPACK] * p->prompt_row_flops;
    double prompt = prompt_flop * p->prompt_flops + unpack, ops = op + prompt;
    double roof = sqrt(mem * mem + ops * ops), s = curve * roof;
    if (grad && roof > 0) {
        double per_knot = roof - ops * prompt / roof; /* the curve is not the prompt's */
        grad[CALIBRATE_BYTE] += curve * mem * mem / roof;
        grad[CALIBRATE_FLOP] += curve * ops * ops / roof;
        grad[CALIBRATE_PROMPT] += curve * ops * prompt / roof;
        grad[CALIBRATE_UNPACK] += curve * ops * unpack / roof;
        grad[at.k] += c0 * per_knot;
        grad[at.k + 1] += c1 * per_knot;
    }
    return s;
}

static double products_s(const struct calibration *c, const struct traffic_load *l, const struct traffic_cost *cost,
                         double *grad)
{
    double out_bytes = cost->output_weight_bytes, out_flops = cost->output_flops;
    const struct product layers = {.n = l->n_rows - l->n_prompt_rows,
                                   .bytes = cost->weight_bytes - out_bytes,
                                   .flops = cost->matmul_flops - out_flops - cost->prompt_flops,
                                   .prompt_flops = cost->prompt_flops,
                                   .prompt_row_flops = 2 * cost->prompt_params};
    double s = product_s(c, &layers, grad);
    if (l->n_outputs)
        s += product_s(c, &(struct product){.n = l->n_outputs, .bytes = out_bytes, .flops = out_flops}, grad);
    return s;
}

static double predict(const struct calibration *c, const struct traffic_load *l, struct calibrate_parts *parts,
                      double *grad)
{
    if (!l->n_rows)
        return 0;
    const struct traffic_model *m = &c->model;
    struct traffic_cost cost;
    traffic_cost(m, l, &cost);
    double kv_bytes = traffic_kv_time_bytes(&cost);

    double fixed = c->param[CALIBRATE_FIXED], seq = c->param[CALIBRATE_SEQ] * l->n_seqs;
    double kv = c->param[CALIBRATE_KV] * kv_bytes, att = c->param[CALIBRATE_ATTENTION] * cost.attention_flops;
    double weights = products_s(c, l, &cost, grad);
    if (grad) {
        grad[CALIBRATE_FIXED] += fixed;
        grad[CALIBRATE_SEQ] += seq;
        grad[CALIBRATE_KV] += kv;
        grad[CALIBRATE_ATTENTION] += att;
    }
    if (parts)
        *parts = (struct calibrate_parts){fixed + seq, weights, kv, att};
    return fixed + seq + weights + kv + att;
}

double calibrate_predict_s(const struct calibration *c, const struct traffic_load *l)
{
    return predict(c, l, NULL, NULL);
}

double calibrate_predict_parts(const struct calibration *c, const struct traffic_load *l, struct calibrate_parts *parts)
{
    *parts = (struct calibrate_parts){0};
    return predict(c, l, parts, NULL);
}

/* The most rows, up to hi, whose step takes up to limit_s by that measure. */
static uint32_t fit(const struct calibration *c, const struct traffic_load *l, uint32_t n_past, uint32_t n_prompt,
                    uint32_t hi, double limit_s,
                    double (*measure)(const struct calibration *, const struct traffic_load *))
{
    for (uint32_t lo = 0, mid = hi; lo < hi; mid = hi - (hi - lo) / 2) { /* lo fits, or is 0 */
        struct traffic_load with = *l;
        traffic_add(&with, &c->model, n_past, mid, n_prompt, 1);
        if (measure(c, &with) <= limit_s)
            lo = mid;
        else
            hi = mid - 1;
    }
    return hi;
}

uint32_t calibrate_fit_tokens(const struct calibration *c, const struct traffic_load *l, uint32_t n_past,
                              uint32_t n_prompt, uint32_t max_tokens, double budget_s, double bound_s)
{
    uint32_t n = fit(c, l, n_past, n_prompt, max_tokens, budget_s, calibrate_predict_s);
    return fit(c, l, n_past, n_prompt, n, bound_s, calibrate_bound_s); /* mostly all of them */
}

double calibrate_bytes_per_s(const struct calibration *c)
{
    return 1 / (c->param[CALIBRATE_BYTE] * c->param[CALIBRATE_CURVE]);
}

double calibrate_kv_bytes_per_s(const struct calibration *c)
{
    return 1 / c->param[CALIBRATE_KV];
}

double calibrate_flops_per_s(const struct calibration *c, double n_rows)
{
    uint32_t n = n_rows < 1 ? 1 : n_rows > 1e9 ? 1000000000 : (uint32_t)n_rows;
    struct traffic_load l = {0};
    struct traffic_cost cost;
    traffic_add(&l, &c->model, 0, n, n, 0);
    traffic_cost(&c->model, &l, &cost);
    double s = products_s(c, &l, &cost, NULL);
    return s > 0 ? cost.matmul_flops / s : 0;
}

/* ---- fitting ---- */

/* ph = P h; returns h' P h. */
static double spread(const struct calibration *c, const double *h, double *ph)
{
    double hph = 0;
    for (int i = 0; i < CALIBRATE_N; i++) {
        double s = 0;
        for (int j = 0; j < CALIBRATE_N; j++)
            s += c->cov[i][j] * h[j];
        ph[i] = s;
        hph += s * h[i];
    }
    return fmax(hph, 0); /* rounding */
}

/* The device may have changed, most likely as a whole. No variance passes that of the start. */
static void reopen(struct calibration *c)
{
    c->bias = 0;
    c->noise = fmin(c->noise, NOISE_START);
    c->n_reopened++;

    double shrink[CALIBRATE_N];
    for (int i = 0; i < CALIBRATE_N; i++) {
        /* The curve multiplies byte and flop, which carry the common change already. */
        if (i < CALIBRATE_CURVE) {
            for (int j = 0; j < CALIBRATE_CURVE; j++)
                c->cov[i][j] += REOPEN_VARIANCE;
        }
        c->cov[i][i] += REOPEN_SINGLE_VARIANCE;
        shrink[i] = c->cov[i][i] > c->cov_max[i] ? sqrt(c->cov_max[i] / c->cov[i][i]) : 1;
    }
    for (int i = 0; i < CALIBRATE_N; i++) {
        for (int j = 0; j < CALIBRATE_N; j++)
            c->cov[i][j] *= shrink[i] * shrink[j];
    }
}

static int bucket(const double *bounds, int n_bounds, double x)
{
    int i = 0;
    while (i < n_bounds && x > bounds[i])
        i++;
    return i;
}

static void record(struct calibrate_errors *e, double predicted, double measured)
{
    double error = (predicted - measured) / measured;
    e->n++;
    e->signed_sum += error;
    e->abs_sum += fabs(error);
    e->signed_[bucket(calibrate_signed_bounds, CALIBRATE_SIGNED_BUCKETS - 1, error)]++;
    e->abs[bucket(calibrate_abs_bounds, CALIBRATE_ABS_BUCKETS - 1, fabs(error))]++;
}

/* A leaky mean of innovations in deviations; true when so many lie on one side that the device has changed. */
static bool changed(struct calibration *c, double deviations)
{
    double z = fmin(fmax(deviations, -CLIP_DEVIATIONS), CLIP_DEVIATIONS);
    c->bias += BIAS_RATE * (z - c->bias);
    return fabs(c->bias) > BIAS_CHANGED;
}

double calibrate_update(struct calibration *c, const struct traffic_load *l, double measured_s)
{
    if (!l->n_rows || !(measured_s > 0) || !isfinite(measured_s))
        return 0;
    double h[CALIBRATE_N] = {0}, ph[CALIBRATE_N];
    double predicted = predict(c, l, NULL, h);
    for (int i = 0; i < CALIBRATE_N; i++)
        h[i] /= predicted;
    record(&c->errors, predicted, measured_s);
    c->n_updates++;

    double innovation = log(measured_s / predicted);
    c->excess = fmax(innovation, c->excess / 2);
    double hph = spread(c, h, ph);
    if (changed(c, innovation / sqrt(hph + c->noise))) {
        reopen(c);
        hph = spread(c, h, ph);
    }
    double limit = CLIP_DEVIATIONS * sqrt(hph + c->noise);
    bool clipped = fabs(innovation) > limit;
    c->n_clipped += clipped;
    /* A clipped innovation counts as a noisier measurement: the further out, the less it moves. */
    double excess = clipped ? innovation / limit : 1, noise = c->noise * excess * excess;
    double nu = clipped ? copysign(limit, innovation) : innovation;
    double variance = hph + noise;
    bool certain = hph < LEAST_GAIN * noise;
    for (int i = 0; i < CALIBRATE_N; i++) {
        double move = ph[i] * nu / variance;
        c->log_param[i] += fmin(fmax(move, -MAX_MOVE), MAX_MOVE);
        c->log_param[i] = fmin(fmax(c->log_param[i], -MAX_LOG_PARAM), MAX_LOG_PARAM);
        c->param[i] = exp(c->log_param[i]);
        for (int j = 0; j < CALIBRATE_N && !certain; j++)
            c->cov[i][j] -= ph[i] * ph[j] / variance;
        c->cov[i][i] = fmax(c->cov[i][i], 1e-12); /* rounding */
    }
    /* Outliers say little about the noise; only where most steps are clipped does it grow. */
    c->noise += NOISE_RATE * ((clipped ? 2 * c->noise : fmax(nu * nu - hph, 0)) - c->noise);
    c->noise = fmin(fmax(c->noise, NOISE_MIN), NOISE_MAX);
    return predicted;
}

double calibrate_uncertainty(const struct calibration *c, const struct traffic_load *l)
{
    double h[CALIBRATE_N] = {0}, ph[CALIBRATE_N];
    double predicted = predict(c, l, NULL, h);
    if (!(predicted > 0))
        return 0;
    for (int i = 0; i < CALIBRATE_N; i++)
        h[i] /= predicted;
    return sqrt(spread(c, h, ph) + c->noise);
}

double calibrate_bound_s(const struct calibration *c, const struct traffic_load *l)
{
    return calibrate_predict_s(c, l) * exp(fmax(BOUND_DEVIATIONS * calibrate_uncertainty(c, l), c->excess));
}

double calibrate_error_quantile(const struct calibrate_errors *e, double q)
{
    if (!e->n)
        return 0;
    double rank = q * (double)e->n, below = 0;
    for (int i = 0; i < CALIBRATE_ABS_BUCKETS - 1; i++) {
        double in = (double)e->abs[i], left = i ? calibrate_abs_bounds[i - 1] : 0;
        if (below + in >= rank && in > 0)
            return left + (calibrate_abs_bounds[i] - left) * (rank - below) / in;
        below += in;
    }
    return calibrate_abs_bounds[CALIBRATE_ABS_BUCKETS - 2];
}

void calibrate_io(struct state_io *x, struct calibration *c)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof(struct calibration) - sizeof(struct traffic_model) == 4696, "new members?");
#endif
    io_f64s(x, c->log_param, CALIBRATE_N);
    for (int i = 0; i < CALIBRATE_N; i++) {
        io_must(x, fabs(c->log_param[i]) <= MAX_LOG_PARAM);
        c->param[i] = exp(c->log_param[i]);
        io_f64s(x, c->cov[i], CALIBRATE_N);
    }
    io_size(x, &c->noise);
    io_must(x, c->noise >= NOISE_MIN && c->noise <= NOISE_MAX);
    io_f64(x, &c->bias);
    io_f64(x, &c->excess);
    io_u64(x, &c->n_updates);
    io_u64(x, &c->n_clipped);
    io_u64(x, &c->n_reopened);
    io_u64(x, &c->errors.n);
    io_size(x, &c->errors.abs_sum);
    io_f64(x, &c->errors.signed_sum);
    io_u64s(x, c->errors.abs, CALIBRATE_ABS_BUCKETS);
    io_u64s(x, c->errors.signed_, CALIBRATE_SIGNED_BUCKETS);
}
