/* Retention: which idle cached chunk goes when the pool needs one.
 *
 * Least recently used: the order in which chunks became idle. A finished sequence gives up its chunks from its tail to
 * its head, so a prefix goes after everything that was built on it. Another measure of worth replaces the inside of
 * this file: its users only add, remove and ask for the victim. O(1); memory is taken once, at init. One owner.
 */
#ifndef WEIR_POLICY_RETENTION_H
#define WEIR_POLICY_RETENTION_H

#include "base/err.h"

#include <stdint.h>

struct retention {
    uint32_t *older, *newer; /* [n_chunks]: a list threaded through the chunks; RETENTION_NONE at the ends */
    uint32_t oldest, newest;
    uint32_t n;
};

#define RETENTION_NONE UINT32_MAX

int retention_init(struct retention *r, uint32_t n_chunks, struct err *e);
void retention_finish(struct retention *r);

void retention_add(struct retention *r, uint32_t chunk);    /* it became idle */
void retention_remove(struct retention *r, uint32_t chunk); /* it is used again, or was the victim */
uint32_t retention_victim(const struct retention *r);       /* RETENTION_NONE while n is 0 */

#endif
