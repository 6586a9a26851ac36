#include "policy/sched_impl.h"

#include <math.h>

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

/* Of bandwidth: what all would take if each produced a token every inter-token target. */
static void fill_bandwidth(const struct sched *s, double reserved_tokens, struct reserve_stats *out)
{
    const struct traffic_model *m = &s->config.model;
    double target_s = s->classes[1].itl_target_s, held = (double)s->pool.n_active * s->config.chunk_tokens;
    double limit = s->config.bandwidth_limit * calibrate_bytes_per_s(&s->forecast.steps);
    out->base_bytes_per_s =
        s->running.n ? (traffic_layer_weight_bytes(m, s->running.n) + traffic_kv_bytes(m, held)) / target_s : 0;
    out->speculative_bytes_per_s = traffic_kv_bytes(m, reserved_tokens) / target_s;
    out->limit_bytes_per_s = s->reserve.limit * fmax(0, limit - out->base_bytes_per_s);
    out->speculative_bytes_per_s = fmin(out->speculative_bytes_per_s, out->limit_bytes_per_s);
}

void memory_stats_fill(const struct sched *s, struct memory_stats *out)
{
    uint32_t chunk_tokens = s->config.chunk_tokens, n_free = s->pool.n_chunks - s->pool.n_active;
    double tokens = reserve_tokens(&s->reserve, &s->talks, (double)n_free * chunk_tokens);
    out->reserve = s->reserve.stats;
    out->reserve.base_chunks = s->pool.n_active;
    out->reserve.predicted_chunks = s->running.n ? s->forecast.predicted_chunks : 0;
    out->reserve.speculative_chunks = (uint32_t)(tokens / chunk_tokens);
    out->reserve.limit_chunks = (uint32_t)(s->reserve.limit * n_free);
    out->retention = s->retention.stats;
    out->pressure = s->pressure.stats;
    const struct continuation_predictor *p = &s->talks.predictor;
    out->reserve.n_watched = s->talks.n;
    out->calibration.continuation_brier = continuation_brier(p);
    out->calibration.continuation_rate = continuation_rate(p);
    out->calibration.n_continuations = p->brier_n;
    if (!s->config.has_model)
        return;
    fill_bandwidth(s, tokens, &out->reserve);
    length_coverage(s->forecast.lengths, out->calibration.length_coverage);
}
