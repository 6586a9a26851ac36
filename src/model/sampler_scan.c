#include "model/sampler_scan.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

static inline f32x4 load4(const float *p)
{
    f32x4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline f32x4 all4(float x)
{
    return (f32x4){x, x, x, x};
}

static inline f32x4 pick4(i32x4 mask, f32x4 yes, f32x4 no)
{
    return (f32x4)((mask & (i32x4)yes) | (~mask & (i32x4)no));
}

static inline bool any4(i32x4 mask)
{
    uint64_t half[2];
    memcpy(half, &mask, sizeof half);
    return half[0] | half[1];
}

/* The last, partial vector of an array, filled up with -INFINITY: changes no maximum and no sum. */
static inline f32x4 tail4(const float *p, size_t n)
{
    f32x4 v = all4(-INFINITY);
    memcpy(&v, p, n * sizeof *p);
    return v;
}

/* exp for x <= 0 to about one unit in the last place: 2^k * e^r with |r| <= ln2 / 2, e^r by its Taylor series to r^7
 * (error under 6e-9). exp4(0) is exactly 1; below -87, where floats end, the result is 0. */
static inline f32x4 exp4(f32x4 x)
{
    i32x4 representable = x > all4(-87.0f);
    x = pick4(representable, x, all4(0));
    f32x4 shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    f32x4 k = shifted - 12582912.0f;
    f32x4 r = x - k * 0.693359375f + k * 2.12194440e-4f; /* ln 2 in two parts, the first of them exact */
    f32x4 e = all4(1.0f / 5040);
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    i32x4 exponent = ((i32x4)shifted - 0x4b400000) * (1 << 23);
    return (f32x4)((i32x4)((f32x4)((i32x4)e + exponent)) & representable);
}

struct scan_max scan_max(const float *x, size_t n)
{
    float best = -INFINITY;
    size_t best_block = 0;
    i32x4 irregular = {0};
    for (size_t b = 0; b < n; b += SCAN_BLOCK) {
        size_t end = n - b < SCAN_BLOCK ? n : b + SCAN_BLOCK;
        f32x4 m = all4(-INFINITY);
        for (size_t i = b; i < end; i += 4) {
            f32x4 v = end - i < 4 ? tail4(x + i, end - i) : load4(x + i);
            m = pick4(v > m, v, m);
            irregular |= ~(v < all4(INFINITY));
        }
        for (int lane = 0; lane < 4; lane++) {
            if (m[lane] > best) {
                best = m[lane];
                best_block = b;
            }
        }
    }
    struct scan_max s = {.max = best, .regular = !any4(irregular)};
    if (best > -INFINITY) {
        s.at = best_block;
        while (!(x[s.at] == best))
            s.at++;
    }
    return s;
}

double scan_sum_exp(const float *x, size_t n, float max, float scale, double *block_sums)
{
    double total = 0;
    for (size_t b = 0; b < n; b += SCAN_BLOCK) {
        size_t block_end = n - b < SCAN_BLOCK ? n : b + SCAN_BLOCK;
        double sum = 0;
        for (size_t i = b; i < block_end;) { /* 64 terms at most add up in float */
            size_t end = block_end - i < 64 ? block_end : i + 64;
            f32x4 sums = all4(0);
            for (; i < end; i += 4) {
                f32x4 v = end - i < 4 ? tail4(x + i, end - i) : load4(x + i);
                sums += exp4((v - max) * scale);
            }
            sum += (double)sums[0] + (double)sums[1] + (double)sums[2] + (double)sums[3];
        }
        if (block_sums)
            block_sums[b / SCAN_BLOCK] = sum;
        total += sum;
    }
    return total;
}

void scan_exp(const float *x, size_t n, float max, float scale, float *out)
{
    for (size_t i = 0; i < n; i += 4) {
        size_t width = n - i < 4 ? n - i : 4;
        f32x4 v = width < 4 ? tail4(x + i, width) : load4(x + i);
        v = exp4((v - max) * scale);
        memcpy(out + i, &v, width * sizeof *out);
    }
}

size_t scan_above(const float *x, size_t from, size_t n, float threshold)
{
    size_t i = from;
    for (; n - i >= 8; i += 8) {
        if (any4((load4(x + i) > threshold) | (load4(x + i + 4) > threshold)))
            break;
    }
    while (i < n && !(x[i] > threshold))
        i++;
    return i;
}
