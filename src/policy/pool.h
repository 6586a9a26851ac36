/* The KV chunk pool: who holds which chunk. It counts references; the memory itself is the device's.
 *
 * A chunk is in one of three states:
 *
 *   free    nobody's; on the free list, reused last-in first-out (its lines may still be in the processor's caches)
 *   active  `refs` sequences hold it in their chunk tables
 *   idle    no sequence holds it, but its content is kept (a cached prefix)
 *
 *   free -alloc-> active -unref (last)-> idle -free-> free
 *                    ^---------ref---------'
 *
 * Every operation is O(1). Pure; memory is taken once, at init. One owner.
 */
#ifndef WEIR_POLICY_POOL_H
#define WEIR_POLICY_POOL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define POOL_NONE UINT32_MAX

struct pool {
    uint32_t n_chunks, n_free, n_active, n_idle; /* the last three add up to the first */
    uint32_t *free_list;                         /* [n_free], the last is taken next */
    uint32_t *refs;                              /* [n_chunks] */
    bool *is_free;                               /* [n_chunks] */
};

int pool_init(struct pool *p, uint32_t n_chunks, struct err *e);
void pool_finish(struct pool *p);

uint32_t pool_alloc(struct pool *p);         /* with one reference; POOL_NONE if none is free */
void pool_ref(struct pool *p, uint32_t c);   /* active or idle */
bool pool_unref(struct pool *p, uint32_t c); /* true: that was the last reference, the chunk is idle now */
void pool_free(struct pool *p, uint32_t c);  /* idle */

#endif
