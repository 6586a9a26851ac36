#include "policy/index_map.h"

#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int index_map_init(struct index_map *m, uint32_t max, struct err *e)
{
    uint64_t n_cells = 8;
    while (n_cells < (uint64_t)max * 2)
        n_cells *= 2;
    *m = (struct index_map){.mask = n_cells - 1, .max = max};
    m->keys = mem_array(n_cells, sizeof *m->keys);
    m->values = mem_array(n_cells, sizeof *m->values);
    if (!m->keys || !m->values) {
        index_map_finish(m);
        return err_set(e, WEIR_ENOMEM, "no memory for an index of %u entries", max);
    }
    memset(m->values, 0xff, n_cells * sizeof *m->values);
    return 0;
}

void index_map_finish(struct index_map *m)
{
    free(m->keys);
    free(m->values);
    *m = (struct index_map){0};
}

/* The key's cell, or the empty cell where it would go. */
static uint64_t find_cell(const struct index_map *m, uint64_t key)
{
    uint64_t at = hash_u64(key) & m->mask;
    while (m->values[at] != INDEX_NONE && m->keys[at] != key)
        at = (at + 1) & m->mask;
    return at;
}

uint32_t index_map_find(const struct index_map *m, uint64_t key)
{
    return m->values[find_cell(m, key)];
}

void index_map_insert(struct index_map *m, uint64_t key, uint32_t value)
{
    uint64_t at = find_cell(m, key);
    assert(m->n < m->max && value != INDEX_NONE && m->values[at] == INDEX_NONE);
    m->keys[at] = key;
    m->values[at] = value;
    m->n++;
}

void index_map_remove(struct index_map *m, uint64_t key)
{
    uint64_t hole = find_cell(m, key);
    assert(m->values[hole] != INDEX_NONE);
    m->n--;
    for (uint64_t at = (hole + 1) & m->mask; m->values[at] != INDEX_NONE; at = (at + 1) & m->mask) {
        uint64_t home = hash_u64(m->keys[at]) & m->mask;
        if (((at - home) & m->mask) < ((at - hole) & m->mask))
            continue; /* its home lies behind the hole: it may not move there */
        m->keys[hole] = m->keys[at];
        m->values[hole] = m->values[at];
        hole = at;
    }
    m->values[hole] = INDEX_NONE;
}
