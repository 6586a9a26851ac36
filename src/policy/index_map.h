/* A fixed-size map from 64-bit keys to 32-bit indices: open addressing, linear probing, deletion by shifting back (no
 * tombstones, so look-ups stay short for ever). At most `max` keys; memory is taken once, at init. One owner.
 */
#ifndef WEIR_POLICY_INDEX_MAP_H
#define WEIR_POLICY_INDEX_MAP_H

#include "base/err.h"

#include <stdint.h>

#define INDEX_NONE UINT32_MAX

struct index_map {
    uint64_t *keys;   /* [mask + 1] */
    uint32_t *values; /* [mask + 1]; INDEX_NONE: empty */
    uint64_t mask;
    uint32_t n, max;
};

int index_map_init(struct index_map *m, uint32_t max, struct err *e);
void index_map_finish(struct index_map *m);

uint32_t index_map_find(const struct index_map *m, uint64_t key);         /* INDEX_NONE if absent */
void index_map_insert(struct index_map *m, uint64_t key, uint32_t value); /* key must be absent, n < max */
void index_map_remove(struct index_map *m, uint64_t key);                 /* key must be there */

#endif
