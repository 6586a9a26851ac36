#include "server/monitor.h"

#include <math.h>
#include <string.h>

#define SLICE_S (MONITOR_WINDOW_S / MONITOR_SLICES)
#define BINS_PER_OCTAVE 4
#define FIRST_BIN_S 1e-6

static struct monitor_sample take_sample(const struct monitor *m)
{
    const struct engine_stats *st = &m->stats;
    return (struct monitor_sample){
        .t_s = m->looked_s,
        .traffic = st->traffic,
        .hardware_bytes = m->hardware_bytes,
        .busy_s = st->busy_s,
        .n_steps = st->n_steps,
        .prompt_tokens = st->sched.prompt_tokens,
        .generated_tokens = st->sched.generated_tokens,
        .n_rows = m->n_rows,
        .error_sum = st->sched.prediction.abs_sum,
        .n_errors = st->sched.prediction.n,
    };
}

const char *monitor_peak_source(const struct monitor_figures *f)
{
    return f->peak_configured ? "configured" : "measured";
}

void monitor_init(struct monitor *m, struct engine *en, const struct monitor_figures *f, double now_s)
{
    *m = (struct monitor){.engine = en, .figures = *f, .looked_s = now_s, .slice_began_s = now_s};
    engine_stats(en, &m->stats);
    m->samples[m->n_samples++] = m->second_began = take_sample(m);
}

void monitor_look(struct monitor *m, double now_s)
{
    struct step_record some[64];
    uint32_t n;
    uint64_t n_lost;
    do {
        n = engine_take_steps(m->engine, some, 64, &n_lost);
        m->n_lost_steps += n_lost;
        for (uint32_t i = 0; i < n; i++) {
            m->steps[m->n_steps++ % MONITOR_STEPS] = some[i];
            m->n_rows += some[i].n_rows;
            if (some[i].seconds > m->slowest_now.seconds)
                m->slowest_now = some[i];
            if (m->on_step)
                m->on_step(m->user, &some[i]);
        }
    } while (n == 64);
    engine_stats(m->engine, &m->stats);
    m->looked_s = now_s;
}

static double per(double amount, double of)
{
    return of > 0 ? amount / of : 0;
}

static double difference(uint64_t later, uint64_t earlier)
{
    return later > earlier ? (double)(later - earlier) : 0;
}

static struct monitor_rates between(const struct monitor_sample *a, const struct monitor_sample *b)
{
    double s = b->t_s - a->t_s, n_steps = difference(b->n_steps, a->n_steps);
    double n_errors = difference(b->n_errors, a->n_errors);
    struct monitor_rates r = {
        .seconds = s,
        .weight_bytes_per_s = per(difference(b->traffic.weight_bytes, a->traffic.weight_bytes), s),
        .kv_read_bytes_per_s = per(difference(b->traffic.kv_read_bytes, a->traffic.kv_read_bytes), s),
        .kv_write_bytes_per_s = per(difference(b->traffic.kv_write_bytes, a->traffic.kv_write_bytes), s),
        .activation_bytes_per_s = per(difference(b->traffic.activation_bytes, a->traffic.activation_bytes), s),
        .tier_bytes_per_s = per(difference(b->tier_bytes, a->tier_bytes), s),
        .flops_per_s = per(b->traffic.flops - a->traffic.flops, s),
        .hardware_bytes_per_s = per(difference(b->hardware_bytes, a->hardware_bytes), s),
        .busy = per(b->busy_s - a->busy_s, s),
        .steps_per_s = per(n_steps, s),
        .rows_per_step = per(difference(b->n_rows, a->n_rows), n_steps),
        .prompt_tokens_per_s = per(difference(b->prompt_tokens, a->prompt_tokens), s),
        .output_tokens_per_s = per(difference(b->generated_tokens, a->generated_tokens), s),
        .prediction_error = n_errors > 0 ? (b->error_sum - a->error_sum) / n_errors : (double)NAN,
    };
    r.memory_bytes_per_s = r.weight_bytes_per_s + r.kv_read_bytes_per_s + r.kv_write_bytes_per_s + r.tier_bytes_per_s;
    return r;
}

/* The newest sample that is at least so old, else the oldest one. */
static const struct monitor_sample *sample_before(const struct monitor *m, double t_s)
{
    uint64_t oldest = m->n_samples > MONITOR_SAMPLES ? m->n_samples - MONITOR_SAMPLES : 0;
    for (uint64_t i = m->n_samples; i-- > oldest;) {
        if (m->samples[i % MONITOR_SAMPLES].t_s <= t_s)
            return &m->samples[i % MONITOR_SAMPLES];
    }
    return &m->samples[oldest % MONITOR_SAMPLES];
}

struct monitor_rates monitor_rates(const struct monitor *m, double seconds)
{
    struct monitor_sample now = take_sample(m);
    const struct monitor_sample *last = &m->samples[(m->n_samples - 1) % MONITOR_SAMPLES];
    struct monitor_rates r = between(sample_before(m, m->looked_s - seconds), &now);
    /* Read when samples are taken, and not in between. */
    r.hardware_bytes_per_s = between(sample_before(m, last->t_s - seconds), last).hardware_bytes_per_s;
    return r;
}

double monitor_sustained_bytes_per_s(const struct monitor *m)
{
    struct monitor_rates r = monitor_rates(m, MONITOR_WINDOW_S);
    return r.busy > 0 ? r.memory_bytes_per_s / r.busy : (double)NAN;
}

static void end_second(struct monitor *m, const struct monitor_sample *now, double wall_s)
{
    const struct sched_stats *st = &m->stats.sched;
    m->history[m->n_history++ % MONITOR_HISTORY] = (struct monitor_second){
        .time_s = wall_s,
        .rates = between(&m->second_began, now),
        .n_running = st->n_running,
        .n_queued = st->n_queued,
        .kv_active = per(st->chunks_active, st->chunks_total),
        .pressure = st->memory.pressure.level,
        .has_hardware = m->has_hardware,
        .slowest_s = m->second_slowest_s,
        .slowest_predicted_s = m->second_slowest_predicted_s,
    };
    m->second_began = *now;
    m->second_slowest_s = m->second_slowest_predicted_s = 0;
}

void monitor_tick(struct monitor *m, double now_s, double wall_s)
{
    monitor_look(m, now_s);
    m->slowest = m->slowest_now;
    m->slowest_now = (struct step_record){0};
    if (m->slowest.seconds > m->second_slowest_s) {
        m->second_slowest_s = m->slowest.seconds;
        m->second_slowest_predicted_s = m->slowest.predicted_s;
    }
    struct monitor_sample now = take_sample(m);
    m->samples[m->n_samples++ % MONITOR_SAMPLES] = now;
    if (now_s - m->second_began.t_s >= 0.95)
        end_second(m, &now, wall_s);
    for (; now_s - m->slice_began_s >= SLICE_S; m->slice_began_s += SLICE_S) {
        m->slice = (m->slice + 1) % MONITOR_SLICES;
        memset(m->ttft.counts[m->slice], 0, sizeof m->ttft.counts[0]);
        memset(m->itl.counts[m->slice], 0, sizeof m->itl.counts[0]);
    }
}

void monitor_latency_add(struct monitor *m, struct monitor_latency *l, double seconds)
{
    double bin = seconds > FIRST_BIN_S ? log2(seconds / FIRST_BIN_S) * BINS_PER_OCTAVE : 0;
    l->counts[m->slice][bin < MONITOR_BINS - 1 ? (uint32_t)bin : MONITOR_BINS - 1]++;
}

double monitor_latency_quantile(const struct monitor_latency *l, double q)
{
    uint64_t counts[MONITOR_BINS] = {0}, n = 0;
    for (uint32_t s = 0; s < MONITOR_SLICES; s++) {
        for (uint32_t b = 0; b < MONITOR_BINS; b++) {
            counts[b] += l->counts[s][b];
            n += l->counts[s][b];
        }
    }
    double wanted = q * (double)n, sum = 0;
    for (uint32_t b = 0; n && b < MONITOR_BINS; b++) {
        if (sum + (double)counts[b] < wanted || !counts[b]) {
            sum += (double)counts[b];
            continue;
        }
        double within = (wanted - sum) / (double)counts[b];
        return FIRST_BIN_S * exp2((b + within) / BINS_PER_OCTAVE);
    }
    return (double)NAN;
}
