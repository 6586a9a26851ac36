#include "policy/pool.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

int pool_init(struct pool *p, uint32_t n_chunks, struct err *e)
{
    *p = (struct pool){.n_chunks = n_chunks, .n_free = n_chunks};
    p->free_list = mem_array(n_chunks, sizeof *p->free_list);
    p->refs = mem_array(n_chunks, sizeof *p->refs);
    p->is_free = mem_array(n_chunks, sizeof *p->is_free);
    if (!p->free_list || !p->refs || !p->is_free) {
        pool_finish(p);
        return err_set(e, WEIR_ENOMEM, "no memory for a pool of %u chunks", n_chunks);
    }
    for (uint32_t c = 0; c < n_chunks; c++) {
        p->free_list[c] = n_chunks - 1 - c; /* chunk 0 goes first */
        p->is_free[c] = true;
    }
    return 0;
}

void pool_finish(struct pool *p)
{
    free(p->free_list);
    free(p->refs);
    free(p->is_free);
    *p = (struct pool){0};
}

uint32_t pool_alloc(struct pool *p)
{
    if (p->n_free == 0)
        return POOL_NONE;
    uint32_t c = p->free_list[--p->n_free];
    assert(p->is_free[c] && p->refs[c] == 0);
    p->is_free[c] = false;
    p->refs[c] = 1;
    p->n_active++;
    return c;
}

void pool_ref(struct pool *p, uint32_t c)
{
    assert(c < p->n_chunks && !p->is_free[c]);
    if (p->refs[c]++ == 0) {
        p->n_idle--;
        p->n_active++;
    }
}

bool pool_unref(struct pool *p, uint32_t c)
{
    assert(c < p->n_chunks && p->refs[c] > 0);
    if (--p->refs[c] > 0)
        return false;
    p->n_active--;
    p->n_idle++;
    return true;
}

void pool_free(struct pool *p, uint32_t c)
{
    assert(c < p->n_chunks && !p->is_free[c] && p->refs[c] == 0);
    p->is_free[c] = true;
    p->free_list[p->n_free++] = c;
    p->n_idle--;
}
