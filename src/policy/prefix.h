/* Shared prefixes: chunks found by the chain hash of everything up to and including their tokens.
 *
 *   h[i] = H(h[i-1], tokens of chunk i), h[-1] = H(salt)
 *
 * Two sequences with equal h[i] hold equal keys and values in chunk i (64-bit XXH3; the salt separates tenants that
 * must not share). Only full chunks have a hash.
 *
 * The index knows a chunk from the moment that a running sequence takes it to compute it: it is PENDING until its rows
 * have run, so that others who need the same prefix can wait for it instead of computing it twice, then READY. Each
 * hash names at most one chunk and each chunk has at most one hash. O(1); memory is taken once, at init. One owner.
 */
#ifndef WEIR_POLICY_PREFIX_H
#define WEIR_POLICY_PREFIX_H

#include "base/err.h"
#include "policy/index_map.h"

#include <stddef.h>
#include <stdint.h>

/* The chain's start. */
uint64_t prefix_hash_root(uint64_t salt);

/* The next link over n tokens (a whole chunk). */
uint64_t prefix_hash_next(uint64_t previous, const int32_t *tokens, uint32_t n);

enum prefix_state { PREFIX_NONE, PREFIX_PENDING, PREFIX_READY };

struct prefix_index {
    struct index_map by_hash; /* hash to chunk */
    uint64_t *hash;           /* [n_chunks] */
    uint8_t *state;           /* [n_chunks]: enum prefix_state */
};

int prefix_init(struct prefix_index *x, uint32_t n_chunks, struct err *e);
void prefix_finish(struct prefix_index *x);

uint32_t prefix_find(const struct prefix_index *x, uint64_t hash); /* PENDING or READY chunk, or INDEX_NONE */
void prefix_insert(struct prefix_index *x, uint64_t hash, uint32_t chunk, enum prefix_state state); /* both new */
void prefix_remove(struct prefix_index *x, uint32_t chunk); /* nothing if it is not in the index */

#endif
