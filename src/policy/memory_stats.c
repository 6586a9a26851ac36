#include "policy/sched_impl.h"

const char *const pressure_level_names[PRESSURE_N_LEVELS] = {
    [PRESSURE_NONE] = "none",
    [PRESSURE_SMALL_PREFILL] = "small-prefill",
    [PRESSURE_DROP_SPECULATION] = "drop-speculation",
    [PRESSURE_EVICT] = "evict",
    [PRESSURE_DEMOTE] = "demote",
    [PRESSURE_STOP_ADMITTING] = "stop-admitting",
    [PRESSURE_PREEMPT] = "preempt",
    [PRESSURE_REFUSE] = "refuse",
};

const char *const pressure_cause_names[PRESSURE_N_CAUSES] = {
    [PRESSURE_CAUSE_NONE] = "none",
    [PRESSURE_CAUSE_PEAK] = "peak",
    [PRESSURE_CAUSE_NEAR] = "near",
    [PRESSURE_CAUSE_EXHAUSTED] = "exhausted",
};

void memory_stats_fill(const struct sched *s, struct memory_stats *out)
{
    out->reserve.base_chunks = s->pool.n_active;
    out->retention = s->retention.stats;
    const struct continuation_predictor *p = &s->talks.predictor;
    out->reserve.n_watched = s->talks.n;
    out->calibration.continuation_brier = continuation_brier(p);
    out->calibration.continuation_rate = continuation_rate(p);
    out->calibration.n_continuations = p->brier_n;
    if (s->config.has_model)
        length_coverage(s->forecast.lengths, out->calibration.length_coverage);
}
