/* Which rows of a product a worker computes: its share, as they were placed on its node (weights.c). But of workers that
 * share a memory one is always served a little faster, and the others' rests would be read with half of the bandwidth. So
 * the last quarter of each share is up for whoever of the node comes first, in pieces that get smaller.
 *
 * A cursor holds the number of the deal that it belongs to, so nothing needs to be reset between two products. */
#include "device/cpu/cpu.h"

#define MIN_PIECE_BYTES ((size_t)48 << 10)
#define MAX_ROWS 64 /* of a step: what a piece costs beside its weights grows with them */

void cpu_deal_begin(struct cpu *c, uint32_t thread, const struct tensor *w, struct deal *d)
{
    const bool alone = c->n_threads == 1 || c->step.n_rows > MAX_ROWS;
    *d = (struct deal){.n_rows = w->n_out,
                       .number = ++c->threads[thread].n_deals,
                       .n_shares = alone ? 1 : c->n_threads,
                       .min_units = alone ? UINT32_MAX : (uint32_t)(MIN_PIECE_BYTES / (ROW_UNIT * w->row_bytes)) + 1};
}

/* Takes units of those that are left, [*at, *at + returned) of n. */
static uint32_t take(_Atomic uint64_t *cursor, const struct deal *d, uint32_t n, uint32_t *at)
{
    uint64_t was = atomic_load_explicit(cursor, memory_order_relaxed), now;
    uint32_t units;
    do {
        *at = was >> 32 == d->number ? (uint32_t)was : 0;
        const uint32_t left = n - *at, some = *at ? left / 2 : n - n / 4;
        units = some > d->min_units ? some : d->min_units < left ? d->min_units : left;
        if (!units)
            return 0;
        now = (uint64_t)d->number << 32 | (*at + units);
    } while (!atomic_compare_exchange_weak_explicit(cursor, &was, now, memory_order_relaxed, memory_order_relaxed));
    return units;
}

bool cpu_deal_next(struct cpu *c, uint32_t thread, struct deal *d, uint32_t *begin, uint32_t *end)
{
    for (; d->n_passed < d->n_shares; d->n_passed++) {
        const uint32_t whose = (thread + d->n_passed) % c->n_threads;
        uint32_t first, last, at, units;
        if (team_node(c->team, whose) != team_node(c->team, thread))
            continue;
        cpu_share(c, whose, d->n_rows, ROW_UNIT, &first, &last);
        units = take(&c->threads[whose].cursor, d, (last - first + ROW_UNIT - 1) / ROW_UNIT, &at);
        if (!units)
            continue;
        *begin = first + at * ROW_UNIT;
        *end = last - *begin > units * ROW_UNIT ? *begin + units * ROW_UNIT : last;
        return true;
    }
    return false;
}

void cpu_meet(struct cpu *c, uint32_t thread, const struct tensor *next)
{
    uint32_t begin = 0, end = 0;
    if (next && next->data)
        cpu_share(c, thread, next->n_out, ROW_UNIT, &begin, &end);
    if (end > begin)
        team_barrier_asking(c->team, next->data + begin * next->row_bytes, (end - begin) * next->row_bytes);
    else
        team_barrier(c->team);
}
