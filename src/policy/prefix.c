#include "policy/prefix.h"

#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

uint64_t prefix_hash_root(uint64_t salt)
{
    return hash_bytes(&salt, sizeof salt, 0x77656972); /* any constant; it keeps roots apart from other hashes */
}

uint64_t prefix_hash_next(uint64_t previous, const int32_t *tokens, uint32_t n)
{
    return hash_bytes(tokens, n * sizeof *tokens, previous);
}

int prefix_init(struct prefix_index *x, uint32_t n_chunks, struct err *e)
{
    *x = (struct prefix_index){0};
    int rc = index_map_init(&x->by_hash, n_chunks, e);
    if (rc)
        return rc;
    x->hash = mem_array(n_chunks, sizeof *x->hash);
    x->state = mem_array(n_chunks, sizeof *x->state);
    if (!x->hash || !x->state) {
        prefix_finish(x);
        return err_set(e, WEIR_ENOMEM, "no memory for a prefix index of %u chunks", n_chunks);
    }
    return 0;
}

void prefix_finish(struct prefix_index *x)
{
    index_map_finish(&x->by_hash);
    free(x->hash);
    free(x->state);
    *x = (struct prefix_index){0};
}

uint32_t prefix_find(const struct prefix_index *x, uint64_t hash)
{
    return index_map_find(&x->by_hash, hash);
}

void prefix_insert(struct prefix_index *x, uint64_t hash, uint32_t chunk, enum prefix_state state)
{
    assert(x->state[chunk] == PREFIX_NONE && state != PREFIX_NONE);
    index_map_insert(&x->by_hash, hash, chunk);
    x->hash[chunk] = hash;
    x->state[chunk] = (uint8_t)state;
}

void prefix_remove(struct prefix_index *x, uint32_t chunk)
{
    if (x->state[chunk] == PREFIX_NONE)
        return;
    index_map_remove(&x->by_hash, x->hash[chunk]);
    x->state[chunk] = PREFIX_NONE;
}
