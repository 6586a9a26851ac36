/* Shared prefixes: chunks found by the chain hash of everything up to and including their tokens.
 *
 *   h[i] = H(h[i-1], tokens of chunk i), h[-1] = H(salt)
 *
 * Two sequences with equal h[i] hold equal keys and values in chunk i (64-bit XXH3; the salt separates tenants that
 * must not share).
 */
#ifndef WEIR_POLICY_PREFIX_H
#define WEIR_POLICY_PREFIX_H

#include <stddef.h>
#include <stdint.h>

/* The chain's start. */
uint64_t prefix_hash_root(uint64_t salt);

/* The next link over n tokens (a whole chunk). */
uint64_t prefix_hash_next(uint64_t previous, const int32_t *tokens, uint32_t n);

#endif
