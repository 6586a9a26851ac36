#include "base/ring.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int ring_init(struct ring *r, size_t capacity, struct err *e)
{
    *r = (struct ring){.capacity = capacity, .wake_fd = -1};
    assert(capacity > 0);
    r->slots = mem_array(capacity, sizeof *r->slots);
    if (!r->slots)
        return err_set(e, WEIR_ENOMEM, "no memory for a ring of %zu messages", capacity);
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake_fd < 0) {
        free(r->slots);
        r->slots = NULL;
        return err_errno(e, "eventfd");
    }
    pthread_mutex_init(&r->lock, NULL);
    return 0;
}

void ring_finish(struct ring *r)
{
    if (!r->slots)
        return;
    close(r->wake_fd);
    pthread_mutex_destroy(&r->lock);
    free(r->slots);
    *r = (struct ring){.wake_fd = -1};
}

void ring_kick(struct ring *r)
{
    uint64_t one = 1;
    ssize_t n = write(r->wake_fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so the consumer is awake already */
}

int ring_push(struct ring *r, void *message)
{
    pthread_mutex_lock(&r->lock);
    int full = r->count == r->capacity;
    if (!full) {
        r->slots[(r->head + r->count) % r->capacity] = message;
        r->count++;
    }
    pthread_mutex_unlock(&r->lock);
    if (full)
        return WEIR_EBUSY;
    ring_kick(r);
    return 0;
}

size_t ring_drain(struct ring *r, void **out, size_t max)
{
    uint64_t ignored;
    ssize_t got = read(r->wake_fd, &ignored, sizeof ignored);
    (void)got; /* EAGAIN: nothing to clear */
    pthread_mutex_lock(&r->lock);
    size_t n = r->count < max ? r->count : max;
    for (size_t i = 0; i < n; i++)
        out[i] = r->slots[(r->head + i) % r->capacity];
    r->head = (r->head + n) % r->capacity;
    r->count -= n;
    size_t left = r->count;
    pthread_mutex_unlock(&r->lock);
    if (left)
        ring_kick(r);
    return n;
}

void ring_wait(struct ring *r, double timeout_s)
{
    struct pollfd p = {.fd = r->wake_fd, .events = POLLIN};
    poll(&p, 1, timeout_s < 0 ? -1 : (int)ceil(fmin(timeout_s, 3600) * 1e3));
}
