#include "policy/state_io.h"

#include <math.h>
#include <string.h>

#define MAX_SIZE 1e30

static uint8_t get(struct state_io *x)
{
    if (!io_must(x, x->at < x->end))
        return 0;
    return *x->at++;
}

void io_u64(struct state_io *x, uint64_t *v)
{
    uint8_t bytes[10];
    size_t n = 0;
    if (x->put) {
        uint64_t left = *v;
        for (; left >= 128; left >>= 7)
            bytes[n++] = (uint8_t)(left | 128);
        bytes[n++] = (uint8_t)left;
        x->put(x->user, bytes, n);
        return;
    }
    uint64_t sum = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint64_t byte = get(x);
        io_must(x, shift < 63 || byte < 2);
        sum |= (byte & 127) << shift;
        if (byte < 128)
            break;
    }
    *v = x->bad ? 0 : sum;
}

void io_upto(struct state_io *x, uint32_t *v, uint32_t max)
{
    uint64_t wide = *v;
    io_u64(x, &wide);
    *v = io_must(x, wide <= max) ? (uint32_t)wide : 0;
}

void io_u32(struct state_io *x, uint32_t *v)
{
    io_upto(x, v, UINT32_MAX);
}

void io_i32(struct state_io *x, int32_t *v)
{
    uint32_t bits = (uint32_t)*v;
    io_u32(x, &bits);
    *v = (int32_t)bits;
}

void io_bool(struct state_io *x, bool *v)
{
    uint32_t bit = *v;
    io_upto(x, &bit, 1);
    *v = bit;
}

void io_hash(struct state_io *x, uint64_t *v)
{
    uint8_t bytes[8];
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(*v >> 8 * i);
    if (x->put) {
        x->put(x->user, bytes, sizeof bytes);
        return;
    }
    for (int i = 0; i < 8; i++)
        sum |= (uint64_t)get(x) << 8 * i;
    *v = x->bad ? 0 : sum;
}

void io_weight(struct state_io *x, float *v)
{
    uint32_t bits;
    uint8_t bytes[4];
    memcpy(&bits, v, sizeof bits);
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(bits >> 8 * i);
    if (x->put) {
        x->put(x->user, bytes, sizeof bytes);
        return;
    }
    bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= (uint32_t)get(x) << 8 * i;
    memcpy(v, &bits, sizeof bits);
    if (!io_must(x, *v >= 0 && (double)*v <= MAX_SIZE))
        *v = 0;
}

void io_tag(struct state_io *x, double *v)
{
    uint64_t bits;
    memcpy(&bits, v, sizeof bits);
    io_hash(x, &bits);
    memcpy(v, &bits, sizeof bits);
    if (io_loads(x) && !io_must(x, !isnan(*v)))
        *v = 0;
}

void io_f64(struct state_io *x, double *v)
{
    io_tag(x, v);
    if (io_loads(x) && !io_must(x, fabs(*v) <= MAX_SIZE))
        *v = 0;
}

void io_size(struct state_io *x, double *v)
{
    io_f64(x, v);
    if (io_loads(x) && !io_must(x, *v >= 0))
        *v = 0;
}

void io_u64s(struct state_io *x, uint64_t *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        io_u64(x, &v[i]);
}

void io_f64s(struct state_io *x, double *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        io_f64(x, &v[i]);
}

void io_sizes(struct state_io *x, double *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        io_size(x, &v[i]);
}
