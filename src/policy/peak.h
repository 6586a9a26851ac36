/* The future peak: the most KV chunks that a set of running sequences will hold at once, from their predicted lengths.
 *
 * Sequences grow by a token a step and give everything back when they end. While sequence k is still there, all those
 * that end later are too, so the peak lies just before some sequence's end:
 *
 *   peak = max over k of  sum over i with remaining_i >= remaining_k of ceil((held_i + remaining_k) / chunk_tokens)
 *
 * Summing what each would need at its own end instead counts sequences that never coexist, and refuses requests that
 * fit; looking only at what is held now admits too many, and preempts later. Exact in chunks.
 *
 * A peak_set keeps its sequences ordered by their end, as a step number that does not change from step to step, so
 * that a test is one walk. O(n) insert, remove (a move of memory) and test; the upper bound is O(1). Memory at creation.
 * Pure; one owner.
 */
#ifndef WEIR_POLICY_PEAK_H
#define WEIR_POLICY_PEAK_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct peak_seq {
    uint64_t id;
    uint64_t end_step;    /* the step after which its chunks are free; later than the set's now */
    uint64_t base_step;   /* the step when it held base_tokens; it grows by one token a step from there */
    uint32_t base_tokens; /* its own tokens; those in chunks that it shares are counted by the caller, once */
};

struct peak_set {
    struct peak_seq *seqs; /* [n] by end_step, latest first */
    uint32_t n, capacity;
    uint32_t chunk_tokens; /* a power of two up to 256 */
    uint64_t upper_chunks; /* what each holds at its own end, summed */
};

int peak_init(struct peak_set *p, uint32_t capacity, uint32_t chunk_tokens, struct err *e);
void peak_finish(struct peak_set *p);

/* Adds a sequence (id not in the set; the set is not full). */
void peak_add(struct peak_set *p, const struct peak_seq *s);

/* Removes the one with this id and end if it is there: ended, preempted, or to be added again with a new prediction. */
void peak_remove(struct peak_set *p, uint64_t id, uint64_t end_step);

/* The most chunks held at any step from now_step on, with one more sequence if candidate is not NULL (it need not be
 * ordered in). Sequences whose end has passed count as ending at the next step: the caller revises them. */
uint64_t peak_chunks(const struct peak_set *p, uint64_t now_step, const struct peak_seq *candidate);

/* Not less than that, at the price of counting together what is never there together. False if it isn't known: the end
 * of some sequence has passed. */
bool peak_upper(const struct peak_set *p, uint64_t now_step, const struct peak_seq *candidate, uint64_t *chunks);

#endif
