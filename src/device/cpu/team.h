/* A team of worker threads that run one function together, region by region, between barriers.
 *
 * team_start hands all workers a function and returns; team_wait waits until every worker has returned from it. Inside,
 * workers meet at team_barrier. Waiting spins for some microseconds and then sleeps in the kernel (futex), so that
 * short regions cost no system call and idle workers no processor. When there are more workers than processors nobody
 * spins.
 *
 * Workers are spread over what the process may use (hwloc): evenly over NUMA nodes and caches, one to a core before any
 * shares a core, neighbours close to each other. One thread owns a team. Nothing is allocated after team_create.
 */
#ifndef WEIR_DEVICE_CPU_TEAM_H
#define WEIR_DEVICE_CPU_TEAM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEAM_MAX_THREADS 1024

struct team; /* opaque */

/* n_threads 0: one for each physical core that the process may use, no more than its control group's quota of processor
 * time is worth (quota.h). */
int team_create(struct team **out, uint32_t n_threads, bool pin, struct err *e);
void team_destroy(struct team *t);

uint32_t team_size(const struct team *t);

/* Where a worker is bound: the hardware thread's number in the system, -1 if it is not bound; the NUMA node's index. */
int32_t team_processor(const struct team *t, uint32_t thread);
uint32_t team_node(const struct team *t, uint32_t thread);
uint32_t team_n_nodes(const struct team *t); /* that have workers */

/* Whole pages of [p, p + n_bytes) are moved to the worker's node, or come to lie there; or are spread over all nodes of
 * the team, as they are touched for the first time. Advice: nothing on a machine of one node, and where the system
 * refuses. From any thread. */
void team_bind_memory(const struct team *t, uint32_t thread, const void *p, size_t n_bytes);
void team_interleave_memory(const struct team *t, void *p, size_t n_bytes);

void team_start(struct team *t, void (*fn)(void *user, uint32_t thread), void *user);
void team_wait(struct team *t);
void team_run(struct team *t, void (*fn)(void *user, uint32_t thread), void *user); /* start and wait */

/* Called by every worker of the team, from within fn. What was written before is visible after. */
void team_barrier(struct team *t);

/* The same; while it waits, a worker asks for what it will read next, for as much as a second-level cache keeps. */
void team_barrier_asking(struct team *t, const void *next, size_t n_bytes);

#endif
