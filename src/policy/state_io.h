/* Saving and loading of the scheduler's state (policy/state.h) by one function for each part, which goes through its
 * members once and does both: what is saved is what is loaded.
 *
 * Saving hands bytes to `put`. Loading takes them from at .. end, which are hostile: whatever is missing or out of range
 * sets `bad`, and every value after it is 0, so loops over loaded counts end. Numbers: integers as LEB128, doubles as
 * their bits, little-endian.
 */
#ifndef WEIR_POLICY_STATE_IO_H
#define WEIR_POLICY_STATE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_io {
    void (*put)(void *user, const void *bytes, size_t n); /* NULL: loading */
    void *user;
    const uint8_t *at, *end;
    bool bad;
};

static inline bool io_loads(const struct state_io *x)
{
    return !x->put;
}

/* While loading: what does not hold is bad. Returns whether all is well so far. */
static inline bool io_must(struct state_io *x, bool condition)
{
    x->bad = io_loads(x) && (x->bad || !condition);
    return !x->bad;
}

void io_u64(struct state_io *x, uint64_t *v);
void io_u32(struct state_io *x, uint32_t *v);
void io_upto(struct state_io *x, uint32_t *v, uint32_t max);
void io_i32(struct state_io *x, int32_t *v);
void io_bool(struct state_io *x, bool *v);
void io_f64(struct state_io *x, double *v);    /* finite, up to 1e30 */
void io_size(struct state_io *x, double *v);   /* and not negative */
void io_tag(struct state_io *x, double *v);    /* any but not a number */
void io_weight(struct state_io *x, float *v);  /* finite, not negative */
void io_hash(struct state_io *x, uint64_t *v); /* 8 bytes */
void io_u64s(struct state_io *x, uint64_t *v, size_t n);
void io_f64s(struct state_io *x, double *v, size_t n);
void io_sizes(struct state_io *x, double *v, size_t n);

#endif
