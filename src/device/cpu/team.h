/* A team of worker threads that run one function together, region by region, between barriers.
 *
 * team_start hands all workers a function and returns; team_wait waits until every worker has returned from it. Inside,
 * workers meet at team_barrier. Waiting spins for some microseconds and then sleeps in the kernel (futex), so that
 * short regions cost no system call and idle workers no processor. When there are more workers than processors nobody
 * spins.
 *
 * Workers are bound one to a core in the machine's order, then to further hardware threads (hwloc), within what the
 * process may use. One thread owns a team. Nothing is allocated after team_create.
 */
#ifndef WEIR_DEVICE_CPU_TEAM_H
#define WEIR_DEVICE_CPU_TEAM_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define TEAM_MAX_THREADS 1024

struct team; /* opaque */

/* n_threads 0: one for each physical core that the process may use. */
int team_create(struct team **out, uint32_t n_threads, bool pin, struct err *e);
void team_destroy(struct team *t);

uint32_t team_size(const struct team *t);

void team_start(struct team *t, void (*fn)(void *user, uint32_t thread), void *user);
void team_wait(struct team *t);
void team_run(struct team *t, void (*fn)(void *user, uint32_t thread), void *user); /* start and wait */

/* Called by every worker of the team, from within fn. What was written before is visible after. */
void team_barrier(struct team *t);

#endif
