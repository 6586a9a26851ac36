/* How fast the queue drains, for Retry-After. */
#include "policy/sched_impl.h"

#include <math.h>

#define DRAIN_WINDOW_S 30.0       /* departures are forgotten with this time constant */
#define DRAIN_UNKNOWN_RETRY_S 5.0 /* while nothing has left the queue yet */
#define DRAIN_MAX_RETRY_S 600.0

void drain_note(struct drain_rate *r, double now_s)
{
    if (!r->started)
        *r = (struct drain_rate){.since_s = now_s, .last_s = now_s, .started = true};
    r->n = r->n * exp((r->last_s - now_s) / DRAIN_WINDOW_S) + 1;
    r->last_s = now_s;
}

/* When half of the queue will have left: later than the next free place, so that those who are told to come back do
 * not all come for that one. */
double drain_retry_after(const struct drain_rate *r, uint32_t n_queued, double now_s)
{
    if (!r->started || now_s <= r->since_s)
        return DRAIN_UNKNOWN_RETRY_S;
    double n = r->n * exp((r->last_s - now_s) / DRAIN_WINDOW_S);
    double window_s = DRAIN_WINDOW_S * (1 - exp((r->since_s - now_s) / DRAIN_WINDOW_S));
    double wait_s = 0.5 * (n_queued + 1) * window_s / n;
    return wait_s < DRAIN_MAX_RETRY_S ? wait_s : DRAIN_MAX_RETRY_S;
}
