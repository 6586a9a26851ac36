/* Speculative reservation: memory and bandwidth held back for conversations that are likely to go on soon.
 *
 * A conversation between its turns (policy/conversation.h) will need, when it comes back, the memory of its whole text
 * and of what the next turn adds, and at every step the bandwidth to read it. What is expected of that at any one time
 * within the next `window_s`, which is how long a request stays, is reserved:
 *
 *   reservation = P(continues within the window | idle for so long) x (its tokens + a turn's growth)
 *
 * in tokens: times the bytes of a token's keys and values it is memory, and over the promised inter-token time it is
 * bandwidth. All reservations together stay under a share (`limit`) of what is not held by running sequences; above it
 * all shrink alike. They are promises to nobody: under pressure they are revoked, and made again when it has passed.
 *
 * O(1), but for a refresh, once a second and more seldom when many are watched: O(watched). Pure; one owner.
 */
#ifndef WEIR_POLICY_RESERVE_H
#define WEIR_POLICY_RESERVE_H

#include "policy/conversation.h"
#include "policy/memory_stats.h"

struct reserve {
    double limit;    /* share of what is available */
    double window_s; /* mean time from a request's start to its end */
    double refresh_at_s;
    bool revoked;
    struct reserve_stats stats;
};

void reserve_init(struct reserve *r, double limit);

/* A request ran for so long. */
void reserve_ran(struct reserve *r, double seconds);

/* The conversation's turn ended now: its reservation is made. */
void reserve_make(struct reserve *r, struct conversations *c, uint32_t i, double now_s);

/* The conversation goes on: before it is taken from c. */
void reserve_used(struct reserve *r, const struct conversations *c, uint32_t i);

/* All reservations as of now, if it is time. */
void reserve_refresh(struct reserve *r, struct conversations *c, double now_s);

void reserve_revoke(struct reserve *r, const struct conversations *c);
void reserve_restore(struct reserve *r, const struct conversations *c);

/* Tokens that are reserved while available_tokens are not held by anyone: limit x available_tokens at most. */
double reserve_tokens(const struct reserve *r, const struct conversations *c, double available_tokens);

/* Do the sums add up? O(watched). */
bool reserve_is_sound(const struct conversations *c);

#endif
