/* What AMX instructions do, in plain C, after Intel's Software Developer's Manual, volume 2 (LDTILECFG, TILELOADD,
 * TDPBSSD, TDPBSUD, TDPBF16PS). Included by amx.h. What would raise an exception fails an assertion. */
#ifndef WEIR_KERNEL_X86_AMX_EMULATED_H
#define WEIR_KERNEL_X86_AMX_EMULATED_H

#include "kernel/half.h"

#include <math.h>

#define AMX_NAME(family) family##_amx_emulated

static _Thread_local struct {
    struct tile_config config;
    uint8_t tile[8][TILE_ROWS][64];
} amx;

static inline void tile_begin(const struct tile_config *c)
{
    assert(c->palette == 1 && c->start_row == 0);
    for (int i = 0; i < 8; i++)
        assert(c->rows[i] <= TILE_ROWS && c->row_bytes[i] <= 64 && !c->rows[i] == !c->row_bytes[i]);
    amx.config = *c;
    memset(amx.tile, 0, sizeof amx.tile);
}

static inline void tile_end(void)
{
    amx.config.palette = 0;
}

static inline void tile_zero(int n)
{
    assert(amx.config.palette == 1 && amx.config.rows[n]);
    memset(amx.tile[n], 0, sizeof amx.tile[n]);
}

static inline void tile_load(int n, const void *p, size_t stride)
{
    tile_zero(n);
    for (size_t r = 0; r < amx.config.rows[n]; r++)
        memcpy(amx.tile[n][r], (const uint8_t *)p + r * stride, amx.config.row_bytes[n]);
}

#define tile_load_stream tile_load

static inline void tile_store(int n, void *p, size_t stride)
{
    assert(amx.config.palette == 1 && amx.config.rows[n]);
    for (size_t r = 0; r < amx.config.rows[n]; r++)
        memcpy((uint8_t *)p + r * stride, amx.tile[n][r], amx.config.row_bytes[n]);
}

/* Shapes as the products need them: C [m][n], A [m][k], B [k][n]. */
static inline void tile_check(int c, int a, int b)
{
    const struct tile_config *f = &amx.config;
    assert(f->palette == 1 && f->rows[c] == f->rows[a] && f->row_bytes[a] == 4 * f->rows[b] &&
           f->row_bytes[b] == f->row_bytes[c] && c != a && c != b && a != b);
}

static inline void tile_dot_bytes(int c, int a, int b, int unsigned_b)
{
    tile_check(c, a, b);
    const size_t n = amx.config.row_bytes[c] / 4, k = amx.config.rows[b];
    for (size_t m = 0; m < amx.config.rows[c]; m++) {
        int32_t sum[16];
        memcpy(sum, amx.tile[c][m], sizeof sum);
        for (size_t i = 0; i < k; i++) {
            for (size_t j = 0; j < n; j++) {
                for (size_t l = 0; l < 4; l++) {
                    const uint8_t w = amx.tile[b][i][4 * j + l];
                    sum[j] += (int8_t)amx.tile[a][m][4 * i + l] * (unsigned_b ? w : (int8_t)w);
                }
            }
        }
        memcpy(amx.tile[c][m], sum, sizeof sum);
    }
}

static inline void tile_dot_s8(int c, int a, int b)
{
    tile_dot_bytes(c, a, b, 0);
}

static inline void tile_dot_s8u8(int c, int a, int b)
{
    tile_dot_bytes(c, a, b, 1);
}

/* Subnormal operands and results are zeros; pairs are summed in two chains that start from zero, then added. */
static inline float tile_flush(float f)
{
    return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f;
}

static inline float tile_bf16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return tile_flush(bf16_to_f32(h));
}

static inline void tile_dot_bf16(int c, int a, int b)
{
    tile_check(c, a, b);
    const size_t n = amx.config.row_bytes[c] / 4, k = amx.config.rows[b];
    for (size_t m = 0; m < amx.config.rows[c]; m++) {
        float sum[16];
        memcpy(sum, amx.tile[c][m], sizeof sum);
        for (size_t j = 0; j < n; j++) {
            float even = 0, odd = 0;
            for (size_t i = 0; i < k; i++) {
                const uint8_t *w = &amx.tile[a][m][4 * i], *x = &amx.tile[b][i][4 * j];
                even = tile_flush(fmaf(tile_bf16(w), tile_bf16(x), even));
                odd = tile_flush(fmaf(tile_bf16(w + 2), tile_bf16(x + 2), odd));
            }
            sum[j] = tile_flush(tile_flush(sum[j]) + tile_flush(even + odd));
        }
        memcpy(amx.tile[c][m], sum, sizeof sum);
    }
}

#endif
