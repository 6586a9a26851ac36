/* The ladder under memory pressure (enum pressure_level, policy/memory_stats.h).
 *
 * Before each step the level is set by what the next steps need (HORIZON steps of those who decode, and the prefill of
 * one step) against the chunks that are free or cached, by the predicted peak, and by whether the last step had to
 * preempt. It rises at once, and falls by one rung when CALM steps in a row would have done with less. What a rung does:
 *
 *   small-prefill      half of the prefill rows of a step; from the next rung on a quarter
 *   drop-speculation   reservations are revoked; also when they alone have kept the head of the queue waiting
 *   evict              cached chunks are given up ahead of need, so that the next steps find free ones
 *   demote             there is no other tier yet: passed over
 *   stop-admitting     nobody starts while somebody runs
 *   preempt            in batch.c, when a chunk is needed and there is none: pressure_victim
 *   refuse             requests are refused at arrival, when preempting went on for REFUSE_AFTER_S
 *
 * No livelock: nobody before the one who needs a chunk in the order of service is preempted, so the first always goes on;
 * each preemption doubles the margin that the victim must find before it comes back. After max_preemptions it is no victim
 * any more: it goes first, when all such ones that run fit the pool at their longest, so that they never need each other's
 * chunks. Who would need one of theirs waits.
 */
#include "policy/sched_impl.h"

#include <math.h>

#define HORIZON 2
#define CALM 16
#define BLOCKED_BY_SPECULATION 8 /* steps in a row */
#define REFUSE_AFTER_S 10.0
#define REFUSE_AFTER_PREEMPTIONS 8

/* What the next steps take. */
struct need {
    uint32_t decode, prefill; /* chunks */
};

static struct need need_of(const struct sched *s)
{
    uint32_t n_decoding = s->running.n - s->forecast.n_prefilling, chunk_tokens = s->config.chunk_tokens;
    uint64_t rows = s->forecast.prefill_rows;
    if (rows > s->config.max_step_tokens)
        rows = s->config.max_step_tokens;
    return (struct need){.decode = n_decoding * HORIZON / chunk_tokens + (n_decoding > 0),
                         .prefill = (uint32_t)(rows / chunk_tokens) + (rows > 0)};
}

/* Exact where it matters: when the bound passes the pool. */
static uint32_t predicted_peak(const struct sched *s)
{
    const struct forecast *f = &s->forecast;
    uint64_t peak;
    if (!peak_upper(&f->peak, f->n_rounds, NULL, &peak) || peak > s->pool.n_chunks - s->retention.pinned.n)
        peak = peak_chunks(&f->peak, f->n_rounds, NULL);
    return (uint32_t)peak;
}

static enum pressure_level level_wanted(const struct sched *s, struct need n, enum pressure_cause *cause)
{
    const struct pressure *p = &s->pressure;
    uint32_t available = kv_available(s);
    double capacity = s->pool.n_chunks - s->retention.pinned.n, peak = s->forecast.predicted_chunks;
    *cause = PRESSURE_CAUSE_EXHAUSTED;
    if (p->exhausted) {
        bool long_since = p->n_preempted >= REFUSE_AFTER_PREEMPTIONS && s->now_s - p->stopped_since_s > REFUSE_AFTER_S;
        return long_since ? PRESSURE_REFUSE : PRESSURE_PREEMPT;
    }
    *cause = PRESSURE_CAUSE_NEAR;
    if (available < n.decode)
        return PRESSURE_STOP_ADMITTING;
    if (available < 2 * n.decode + n.prefill / 4)
        return PRESSURE_EVICT;
    if (available < 3 * n.decode + n.prefill / 2)
        return PRESSURE_DROP_SPECULATION;
    if (p->n_blocked_by_speculation >= BLOCKED_BY_SPECULATION) {
        *cause = PRESSURE_CAUSE_PEAK;
        return PRESSURE_DROP_SPECULATION;
    }
    if (available < 4 * n.decode + n.prefill)
        return PRESSURE_SMALL_PREFILL;
    *cause = PRESSURE_CAUSE_PEAK;
    return peak > capacity ? PRESSURE_SMALL_PREFILL : PRESSURE_NONE;
}

static void rise(struct sched *s, enum pressure_level to, enum pressure_cause cause)
{
    struct pressure *p = &s->pressure;
    for (int level = (int)p->stats.level + 1; level <= (int)to; level++)
        p->stats.n_entered[level] += level != PRESSURE_DEMOTE;
    if (p->stats.level < PRESSURE_STOP_ADMITTING && to >= PRESSURE_STOP_ADMITTING) {
        p->stopped_since_s = s->now_s;
        p->n_preempted = 0;
    }
    p->stats.level = to;
    p->stats.cause = cause;
    p->stats.n_by_cause[cause]++;
}

static void fall(struct sched *s)
{
    struct pressure *p = &s->pressure;
    p->stats.n_left[p->stats.level]++;
    p->stats.level = p->stats.level == PRESSURE_STOP_ADMITTING ? PRESSURE_EVICT : p->stats.level - 1;
}

void stage_pressure(struct sched *s, struct draft *d)
{
    struct pressure *p = &s->pressure;
    struct need n = need_of(s);
    enum pressure_cause cause;
    s->forecast.predicted_chunks = predicted_peak(s);
    p->n_blocked_by_speculation = p->blocked_by_speculation ? p->n_blocked_by_speculation + 1 : 0;
    p->blocked_by_speculation = false;
    enum pressure_level wanted = level_wanted(s, n, &cause);
    p->n_calm = wanted < p->stats.level ? p->n_calm + 1 : 0;
    if (wanted > p->stats.level) {
        rise(s, wanted, cause);
    } else if (p->n_calm >= CALM) {
        fall(s);
        p->n_calm = 0;
    }
    p->exhausted = false;

    d->prefill_shift = p->stats.level == PRESSURE_NONE ? 0 : p->stats.level == PRESSURE_SMALL_PREFILL ? 1 : 2;
    d->closed = p->stats.level >= PRESSURE_STOP_ADMITTING;
    if (p->stats.level >= PRESSURE_DROP_SPECULATION)
        reserve_revoke(&s->reserve, &s->talks);
    else if (s->reserve.revoked)
        reserve_restore(&s->reserve, &s->talks);
    while (p->stats.level >= PRESSURE_EVICT && s->pool.n_free < n.decode && s->retention.n > 0)
        kv_evict(s);
}

void pressure_advance(struct sched *s, double to_s)
{
    if (s->stats.n_submitted > 0) /* before that time has no origin */
        s->pressure.stats.level_s[s->pressure.stats.level] += to_s - s->now_s;
}

void pressure_preempted(struct sched *s, const struct seq *q)
{
    struct pressure *p = &s->pressure;
    p->exhausted = true;
    p->n_preempted++;
    if (q->n_preemptions > p->stats.n_preempted_most)
        p->stats.n_preempted_most = q->n_preemptions;
}

/* Bytes of keys and values that would have to be computed again: chunks that others hold are not lost. */
static double loss_bytes(const struct sched *s, const struct seq *q)
{
    uint32_t lost = q->n_past;
    for (uint32_t i = 0; i < q->n_table && s->pool.refs[q->table[i]] > 1; i++)
        lost -= s->config.chunk_tokens;
    return traffic_kv_bytes(&s->config.model, lost);
}

/* Who gives way to the sequence that needs a chunk: the youngest, or, with the ladder, of the younger ones the one that
 * loses least. */
uint32_t pressure_victim(const struct sched *s, uint32_t slot)
{
    uint32_t victim = INDEX_NONE, last = s->running.last;
    double least = INFINITY;
    if (last == slot || is_spent(s, &s->seqs[last])) /* then all of them are */
        return INDEX_NONE;
    if (!(s->pipeline.traits & NODE_PRESSURE))
        return last;
    for (uint32_t i = s->seqs[slot].next; i != INDEX_NONE; i = s->seqs[i].next) {
        const struct seq *q = &s->seqs[i];
        double loss = loss_bytes(s, q);
        bool frees = q->n_table > 0 && s->pool.refs[q->table[q->n_table - 1]] == 1;
        if (frees && !is_spent(s, q) && loss <= least) {
            least = loss;
            victim = i;
        }
    }
    return victim != INDEX_NONE ? victim : last;
}
