/* Forecast peaks against what came: now and then the predicted peak of all that run is noted, and the most chunks that
 * these same sequences hold at once until the last of them has ended. Those that join later are not counted, as they
 * were not when the forecast was made.
 */
#include "policy/sched_impl.h"

#include <math.h>

#define EVERY_PLANS 64 /* between the end of one and the next */
#define LOOK_EVERY 4   /* plans */
#define MIN_SEQUENCES 4
#define TOLERANCE 0.05

static uint32_t own_chunks(const struct seq *q)
{
    return q->n_table > q->probe_shared ? q->n_table - q->probe_shared : 0;
}

static void begin(struct sched *s)
{
    struct peak_probe *p = &s->probe;
    *p = (struct peak_probe){.n_members = s->running.n,
                             .predicted = peak_chunks(&s->forecast.peak, s->forecast.n_rounds, NULL)};
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next) {
        struct seq *q = &s->seqs[slot];
        q->probed = true;
        q->probe_shared = 0;
        for (uint32_t i = 0; i < q->n_table; i++)
            q->probe_shared += s->pool.refs[q->table[i]] > 1;
    }
}

static void look(struct sched *s)
{
    uint64_t held = 0;
    for (uint32_t slot = s->running.first; slot != INDEX_NONE; slot = s->seqs[slot].next)
        held += s->seqs[slot].probed ? own_chunks(&s->seqs[slot]) : 0;
    s->probe.actual = held > s->probe.actual ? held : s->probe.actual;
}

void probe_planned(struct sched *s)
{
    if (s->probe.n_members == 0 && s->forecast.n_plans >= s->probe.next_plan && s->running.n >= MIN_SEQUENCES)
        begin(s);
    else if (s->probe.n_members > 0 && s->forecast.n_plans % LOOK_EVERY == 0)
        look(s);
}

void probe_stopped(struct sched *s, struct seq *q)
{
    struct peak_probe *p = &s->probe;
    if (!q->probed)
        return;
    q->probed = false;
    if (--p->n_members > 0)
        return;
    p->next_plan = s->forecast.n_plans + EVERY_PLANS;
    if (p->actual == 0)
        return; /* all ended before it was looked at */
    struct calibration_stats *c = &s->stats.memory.calibration;
    double error = ((double)p->predicted - (double)p->actual) / (double)p->actual;
    c->n_peaks++;
    c->peak_error_sum += error;
    c->peak_abs_error_sum += fabs(error);
    c->n_peaks_under += error < -TOLERANCE;
    c->n_peaks_over += error > TOLERANCE;
}
