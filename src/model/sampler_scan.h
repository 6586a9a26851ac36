/* Passes over a vocabulary of logits, the parts of sampling whose time is memory traffic: four floats at a time, with
 * the compiler's portable vectors. Values may be anything, NaN and infinities included, where it says so.
 */
#ifndef WEIR_MODEL_SAMPLER_SCAN_H
#define WEIR_MODEL_SAMPLER_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#define SCAN_BLOCK 1024

struct scan_max {
    float max;    /* NaN is skipped; -INFINITY if there is nothing else */
    size_t at;    /* the first index that holds it; 0 if there is none */
    bool regular; /* neither NaN nor +INFINITY seen: the sums below may be taken */
};

struct scan_max scan_max(const float *x, size_t n);

/* Sum of exp((x[i] - max) * scale), each term to float precision, the sum in double. x has neither NaN nor +INFINITY,
 * max is finite and no less than any x, scale > 0. block_sums (may be NULL) receives the ceil(n / SCAN_BLOCK) partial
 * sums. */
double scan_sum_exp(const float *x, size_t n, float max, float scale, double *block_sums);

/* The terms of one block themselves: out[n], n <= SCAN_BLOCK. */
void scan_exp(const float *x, size_t n, float max, float scale, float *out);

/* The first index from `from` on with x[i] > threshold, or n. NaN is never greater. */
size_t scan_above(const float *x, size_t from, size_t n, float threshold);

#endif
