/* A bounded ring of pointers from one or many producers to one consumer, with an eventfd to wake the consumer.
 *
 * How threads of weir talk: a message is one heap object; pushing it hands it over. Producers are serialised by a
 * mutex (messages are few: requests and batches of tokens, not bytes); the consumer takes everything there is. A push
 * to a full ring is refused (WEIR_EBUSY) and the message stays the caller's: that is the back-pressure.
 *
 * wake_fd is readable while messages may be waiting: poll it, then ring_drain until 0. ring_kick wakes the consumer
 * without a message.
 */
#ifndef WEIR_BASE_RING_H
#define WEIR_BASE_RING_H

#include "base/err.h"

#include <pthread.h>
#include <stddef.h>

struct ring {
    pthread_mutex_t lock;
    void **slots;
    size_t capacity, head, count; /* head: next to take */
    int wake_fd;
};

int ring_init(struct ring *r, size_t capacity, struct err *e);

/* Messages still inside are the caller's to drain first. Safe on a zeroed ring whose init failed. */
void ring_finish(struct ring *r);

int ring_push(struct ring *r, void *message); /* 0 or WEIR_EBUSY */

/* Takes up to max messages in order, clears the wake-up, returns how many. Never blocks. */
size_t ring_drain(struct ring *r, void **out, size_t max);

void ring_kick(struct ring *r);

/* Blocks until kicked or pushed to, or timeout_s passed (negative: no limit). Consumer only. */
void ring_wait(struct ring *r, double timeout_s);

#endif
