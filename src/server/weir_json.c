#include "server/weir_json.h"

#include <math.h>
#include <string.h>

/* ---- Common parts ---- */

double weir_price(const struct monitor_figures *f)
{
    return f->price_per_bandwidth_hour < 0 ? (double)NAN : f->price_per_bandwidth_hour;
}

double weir_money(const struct monitor_figures *f, double bandwidth_s)
{
    return bandwidth_s / 3600 * weir_price(f);
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : (double)NAN;
}

double weir_or_null(double v)
{
    return v > 0 ? v : (double)NAN;
}

void weir_json_traffic(struct json_out *o, const struct gen_traffic *t)
{
    json_begin_object(o, "bytes");
    json_add_u64(o, "weights", t->weight_bytes);
    json_add_u64(o, "kv_read", t->kv_read_bytes);
    json_add_u64(o, "kv_write", t->kv_write_bytes);
    json_add_u64(o, "activations", t->activation_bytes);
    json_add_u64(o, "tier", t->tier_bytes);
    json_close(o);
    json_add_u64(o, "memory_bytes", gen_memory_bytes(t));
    json_add_u64(o, "flops", t->flops);
}

static void put_times(struct json_out *o, const struct request_sums *s, double prepare_s)
{
    static const char *const names[GEN_N_PHASES] = {"queued_s",    "prefill_s", "decode_s",
                                                    "preempted_s", "stalled_s", "tier_s"};
    json_begin_object(o, "time");
    json_add_f64(o, "prepare_s", prepare_s);
    for (int i = 0; i < GEN_N_PHASES; i++)
        json_add_f64(o, names[i], s->phase_s[i]);
    json_close(o);
    json_begin_object(o, "queued_for");
    for (int i = 0; i < SCHED_N_WAITS; i++) {
        if (s->queued_s[i] > 0)
            json_add_f64(o, sched_wait_names[i], s->queued_s[i]);
    }
    json_close(o);
}

void weir_json_cost(struct json_out *o, const struct request_sums *s, double bandwidth_s, double prepare_s,
                    const struct monitor_figures *f)
{
    weir_json_traffic(o, &s->traffic);
    json_add_f64(o, "bandwidth_s", bandwidth_s);
    json_add_f64(o, "device_s", s->device_s);
    json_add_f64(o, "money", weir_money(f, bandwidth_s));
    put_times(o, s, prepare_s);
}

const char *weir_refusal_name(enum sched_reason r)
{
    switch (r) {
    case SCHED_REFUSED_TOO_LONG:
        return "too_long";
    case SCHED_REFUSED_NEVER_FITS:
        return "never_fits";
    case SCHED_REFUSED_QUEUE_FULL:
        return "queue_full";
    case SCHED_REFUSED_LATE:
        return "late";
    case SCHED_REFUSED_PRESSURE:
        return "memory";
    default:
        return NULL;
    }
}

/* ---- The state ---- */

static void put_machine(struct json_out *o, const struct state_frame *f, const struct monitor_rates *now)
{
    const struct monitor_figures *fig = &f->monitor->figures;
    const struct engine_stats *st = &f->monitor->stats;
    json_begin_object(o, "bandwidth");
    json_add_str(o, "source", "counted");
    json_add_f64(o, "peak_bytes_per_s", weir_or_null(fig->peak_bytes_per_s));
    json_add_str(o, "peak_source", monitor_peak_source(fig));
    json_add_f64(o, "sustained_bytes_per_s", monitor_sustained_bytes_per_s(f->monitor));
    json_add_f64(o, "current_bytes_per_s", now->memory_bytes_per_s);
    json_add_f64(o, "utilisation", ratio(now->memory_bytes_per_s, fig->peak_bytes_per_s));
    json_begin_object(o, "by_class_bytes_per_s");
    json_add_f64(o, "weights", now->weight_bytes_per_s);
    json_add_f64(o, "kv_read", now->kv_read_bytes_per_s);
    json_add_f64(o, "kv_write", now->kv_write_bytes_per_s);
    json_add_f64(o, "tier", now->tier_bytes_per_s);
    json_add_f64(o, "activations", now->activation_bytes_per_s);
    json_close(o);
    json_begin_object(o, "total_bytes");
    json_add_u64(o, "weights", st->traffic.weight_bytes);
    json_add_u64(o, "kv_read", st->traffic.kv_read_bytes);
    json_add_u64(o, "kv_write", st->traffic.kv_write_bytes);
    json_add_u64(o, "tier", 0);
    json_add_u64(o, "activations", st->traffic.activation_bytes);
    json_close(o);
    if (f->hardware_source) {
        json_begin_object(o, "hardware");
        json_add_str(o, "source", f->hardware_source);
        json_add_f64(o, "current_bytes_per_s", now->hardware_bytes_per_s);
        json_add_u64(o, "total_bytes", f->monitor->hardware_bytes);
        json_close(o);
    } else {
        json_add_null(o, "hardware");
    }
    json_close(o);
    json_begin_object(o, "compute");
    json_add_f64(o, "peak_flops_per_s", weir_or_null(fig->peak_flops_per_s));
    json_add_f64(o, "current_flops_per_s", now->flops_per_s);
    json_add_f64(o, "utilisation", ratio(now->flops_per_s, fig->peak_flops_per_s));
    json_add_f64(o, "intensity_flops_per_byte", ratio(now->flops_per_s, now->memory_bytes_per_s));
    json_add_f64(o, "total_flops", st->traffic.flops);
    json_close(o);
}

static void put_steps(struct json_out *o, const struct state_frame *f, const struct monitor_rates *now)
{
    const struct engine_stats *st = &f->monitor->stats;
    const struct calibrate_errors *e = &st->sched.prediction;
    json_begin_object(o, "steps");
    json_add_u64(o, "total", st->n_steps);
    json_add_f64(o, "per_s", now->steps_per_s);
    json_add_f64(o, "busy", now->busy);
    json_add_f64(o, "rows_per_step", now->rows_per_step);
    json_add_f64(o, "last_s", st->last_step_s);
    json_add_f64(o, "last_bytes", st->last_step_bytes);
    json_add_f64(o, "prompt_tokens_per_s", now->prompt_tokens_per_s);
    json_add_f64(o, "output_tokens_per_s", now->output_tokens_per_s);
    if (f->monitor->slowest.seconds > 0)
        weir_json_step(o, "slowest", &f->monitor->slowest, &f->monitor->figures, f->wall_s - f->now_s);
    else
        json_add_null(o, "slowest");
    json_close(o);
    json_begin_object(o, "prediction");
    json_add_u64(o, "steps", e->n);
    json_add_f64(o, "abs_error_p50", e->n ? calibrate_error_quantile(e, 0.5) : (double)NAN);
    json_add_f64(o, "abs_error_p90", e->n ? calibrate_error_quantile(e, 0.9) : (double)NAN);
    json_add_f64(o, "mean_error", ratio(e->signed_sum, (double)e->n));
    json_close(o);
}

static void put_requests(struct json_out *o, const struct sched_stats *st)
{
    json_begin_object(o, "requests");
    json_add_u64(o, "submitted", st->n_submitted);
    json_add_u64(o, "admitted", st->n_admitted);
    json_add_u64(o, "finished", st->n_finished);
    json_add_u64(o, "refused", st->n_refused);
    json_add_u64(o, "cancelled", st->n_cancelled);
    json_add_u64(o, "failed", st->n_failed);
    json_add_u64(o, "preemptions", st->n_preemptions);
    json_add_u64(o, "recomputed_tokens", st->recomputed_tokens);
    json_begin_object(o, "refused_by");
    for (int r = 0; r < SCHED_N_REASONS; r++) {
        const char *name = weir_refusal_name((enum sched_reason)r);
        if (name)
            json_add_u64(o, name, st->n_refused_by[r]);
    }
    json_close(o);
    json_close(o);
}

/* [owner, cells] runs. */
static void put_map(struct json_out *o, const struct engine_view *v)
{
    json_begin_object(o, "map");
    json_add_u64(o, "chunks_per_cell", v->chunks_per_cell);
    json_begin_array(o, "cells");
    for (uint32_t i = 0, n; i < v->n_cells; i += n) {
        for (n = 1; i + n < v->n_cells && v->cells[i + n] == v->cells[i]; n++)
            ;
        json_begin_array(o, NULL);
        json_add_i64(o, NULL, v->cells[i]);
        json_add_u64(o, NULL, n);
        json_close(o);
    }
    json_close(o);
    json_close(o);
}

static void put_kv(struct json_out *o, const struct state_frame *f)
{
    const struct engine_stats *es = &f->monitor->stats;
    const struct sched_stats *st = &es->sched;
    uint64_t room = (uint64_t)st->chunks_active * f->info->chunk_tokens;
    json_begin_object(o, "kv");
    json_add_u64(o, "chunk_tokens", f->info->chunk_tokens);
    json_add_u64(o, "chunk_bytes", f->info->chunk_bytes);
    json_begin_object(o, "chunks");
    json_add_u64(o, "total", st->chunks_total);
    json_add_u64(o, "active", st->chunks_active);
    json_add_u64(o, "cached", st->chunks_cached);
    json_add_u64(o, "free", st->chunks_free);
    json_close(o);
    json_add_u64(o, "used_tokens", room - st->tail_tokens);
    json_add_f64(o, "fragmentation", room ? (double)st->tail_tokens / (double)room : 0);
    json_add_f64(o, "access_efficiency", ratio(es->kv_useful_bytes, (double)es->traffic.kv_read_bytes));
    json_begin_object(o, "prefix");
    json_add_u64(o, "query_tokens", st->prefix_query_tokens);
    json_add_u64(o, "hit_tokens", st->prefix_hit_tokens);
    json_add_f64(o, "hit_rate", ratio((double)st->prefix_hit_tokens, (double)st->prefix_query_tokens));
    json_close(o);
    json_begin_array(o, "tiers");
    json_begin_object(o, NULL);
    json_add_str(o, "name", "memory");
    json_add_u64(o, "capacity_bytes", st->chunks_total * f->info->chunk_bytes);
    json_add_u64(o, "used_bytes", (st->chunks_active + (uint64_t)st->chunks_cached) * f->info->chunk_bytes);
    json_add_u64(o, "hit_tokens", st->prefix_hit_tokens);
    json_close(o);
    json_close(o);
    json_begin_object(o, "evicted");
    json_add_u64(o, "one_use", st->memory.retention.evicted_one_use);
    json_add_u64(o, "reused", st->memory.retention.evicted_reused);
    json_add_u64(o, "pinned", st->memory.retention.evicted_pinned);
    json_close(o);
    json_begin_object(o, "retention");
    json_add_f64(o, "value_per_s", st->memory.retention.value_per_s);
    json_add_f64(o, "victim_value", st->memory.retention.victim_value);
    json_add_u64(o, "reused_chunks", st->memory.retention.reused);
    json_add_u64(o, "missed_chunks", st->memory.retention.missed);
    json_add_u64(o, "pinned_chunks", st->memory.retention.pinned_chunks);
    json_close(o);
    json_add_null(o, "prefetch");
    if (f->view)
        put_map(o, f->view);
    else
        json_add_null(o, "map");
    json_close(o);
}

static void put_memory(struct json_out *o, const struct memory_stats *m, double chunk_bytes)
{
    static const char *const coverage[] = {"p50", "p80", "p90", "p95"};
    const struct pressure_stats *p = &m->pressure;
    const struct reserve_stats *r = &m->reserve;
    const struct calibration_stats *c = &m->calibration;
    json_begin_object(o, "pressure");
    json_add_u64(o, "level", p->level);
    json_begin_array(o, "levels");
    for (int i = 0; i < PRESSURE_N_LEVELS; i++)
        json_add_str(o, NULL, pressure_level_names[i]);
    json_close(o);
    json_begin_array(o, "level_s");
    for (int i = 0; i < PRESSURE_N_LEVELS; i++)
        json_add_f64(o, NULL, p->level_s[i]);
    json_close(o);
    json_begin_array(o, "rises");
    for (int i = 0; i < PRESSURE_N_LEVELS; i++)
        json_add_u64(o, NULL, p->n_entered[i]);
    json_close(o);
    json_add_str(o, "cause", pressure_cause_names[p->cause]);
    json_begin_object(o, "reservations");
    json_add_f64(o, "base_bytes", r->base_chunks * chunk_bytes);
    json_add_f64(o, "predicted_bytes", r->predicted_chunks * chunk_bytes);
    json_add_f64(o, "speculative_bytes", r->speculative_chunks * chunk_bytes);
    json_add_f64(o, "limit_bytes", r->limit_chunks * chunk_bytes);
    json_add_u64(o, "conversations", r->n_watched);
    json_add_u64(o, "made", r->n_made);
    json_add_u64(o, "kept", r->n_kept);
    json_add_u64(o, "expired", r->n_expired);
    json_add_u64(o, "revoked", r->n_revoked);
    json_close(o);
    json_close(o);
    json_begin_object(o, "calibration");
    json_begin_object(o, "length_coverage");
    for (int i = 0; i < 4; i++)
        json_add_f64(o, coverage[i], c->n_lengths ? c->length_coverage[i] : (double)NAN);
    json_close(o);
    json_add_u64(o, "lengths", c->n_lengths);
    json_add_f64(o, "continuation_brier", c->n_continuations ? c->continuation_brier : (double)NAN);
    json_add_f64(o, "continuation_rate", c->n_continuations ? c->continuation_rate : (double)NAN);
    json_add_u64(o, "continuations", c->n_continuations);
    json_add_u64(o, "peaks", c->n_peaks);
    json_add_f64(o, "peak_mean_abs_error", ratio(c->peak_abs_error_sum, (double)c->n_peaks));
    json_close(o);
}

static void put_running(struct json_out *o, const struct state_frame *f)
{
    json_begin_array(o, "running");
    for (uint32_t i = 0; f->view && i < f->view->n_running; i++) {
        const struct engine_seq *e = f->running[i].seq;
        const struct sched_seq_view *s = &e->seq;
        uint64_t memory_bytes = gen_memory_bytes(&e->usage.traffic);
        json_begin_object(o, NULL);
        json_add_str(o, "id", f->running[i].id);
        json_add_str(o, "key", f->running[i].key);
        json_add_str(o, "phase", s->n_tokens - s->n_past == 1 && s->n_tokens > s->n_prompt ? "decode" : "prefill");
        json_add_f64(o, "age_s", f->view->now_s - s->submitted_s);
        json_add_u64(o, "prompt_tokens", s->n_prompt);
        json_add_u64(o, "output_tokens", s->n_tokens - s->n_prompt);
        json_add_u64(o, "length_tokens", s->n_past);
        json_add_u64(o, "max_tokens", s->max_tokens);
        json_add_u64(o, "cached_tokens", s->n_cached);
        json_add_u64(o, "chunks", s->n_chunks);
        json_add_u64(o, "preemptions", s->n_preemptions);
        json_add_f64(o, "bytes_per_token", e->next_token_bytes > 0 ? round(e->next_token_bytes) : (double)NAN);
        json_add_u64(o, "memory_bytes", memory_bytes);
        json_add_f64(o, "bandwidth_s", ratio((double)memory_bytes, f->monitor->figures.peak_bytes_per_s));
        json_close(o);
    }
    json_close(o);
}

static void put_queue(struct json_out *o, const struct state_frame *f)
{
    const struct sched_stats *st = &f->monitor->stats.sched;
    const char *reason = sched_wait_names[st->waiting_for];
    bool any = f->view && f->view->n_queued;
    json_begin_object(o, "queue");
    json_add_u64(o, "length", st->n_queued);
    json_add_str(o, "blocked_by", st->n_queued ? reason : NULL);
    json_add_f64(o, "head_waited_s", any ? f->view->now_s - f->queued[0].seq->seq.submitted_s : 0);
    json_begin_array(o, "requests");
    for (uint32_t i = 0; any && i < f->view->n_queued; i++) {
        const struct sched_seq_view *s = &f->queued[i].seq->seq;
        json_begin_object(o, NULL);
        json_add_str(o, "id", f->queued[i].id);
        json_add_str(o, "key", f->queued[i].key);
        json_add_f64(o, "waited_s", f->view->now_s - s->submitted_s);
        json_add_u64(o, "prompt_tokens", s->n_prompt);
        json_add_i64(o, "priority", s->priority);
        json_add_str(o, "reason", sched_wait_names[f->view->stats.sched.waiting_for]);
        json_add_bool(o, "preempted", s->n_preemptions > 0);
        json_close(o);
    }
    json_close(o);
    json_close(o);
}

static void put_cost(struct json_out *o, const struct state_frame *f)
{
    const struct monitor_figures *fig = &f->monitor->figures;
    json_begin_object(o, "latency");
    json_add_f64(o, "window_s", MONITOR_WINDOW_S);
    json_add_f64(o, "ttft_p50_s", monitor_latency_quantile(&f->monitor->ttft, 0.5));
    json_add_f64(o, "ttft_p95_s", monitor_latency_quantile(&f->monitor->ttft, 0.95));
    json_add_f64(o, "itl_p50_s", monitor_latency_quantile(&f->monitor->itl, 0.5));
    json_add_f64(o, "itl_p95_s", monitor_latency_quantile(&f->monitor->itl, 0.95));
    json_close(o);
    if (fig->price_per_bandwidth_hour < 0) {
        json_add_null(o, "cost");
        return;
    }
    struct monitor_rates minute = monitor_rates(f->monitor, MONITOR_WINDOW_S);
    double per_s = weir_money(fig, ratio(minute.memory_bytes_per_s, fig->peak_bytes_per_s));
    json_begin_object(o, "cost");
    json_add_f64(o, "price_per_bandwidth_hour", fig->price_per_bandwidth_hour);
    json_add_str(o, "currency", f->info->currency);
    json_add_f64(o, "bandwidth_s_total", f->bandwidth_s_total);
    json_add_f64(o, "money_total", f->money_total);
    json_add_f64(o, "money_per_hour", per_s * 3600);
    json_add_f64(o, "money_per_million_tokens", ratio(per_s * 1e6, minute.output_tokens_per_s));
    json_close(o);
}

static void put_column(struct json_out *o, const struct monitor *m, const char *name,
                       double (*value)(const struct monitor *m, const struct monitor_second *s))
{
    json_begin_array(o, name);
    for (uint64_t i = m->n_history > MONITOR_HISTORY ? m->n_history - MONITOR_HISTORY : 0; i < m->n_history; i++)
        json_add_f64(o, NULL, value(m, &m->history[i % MONITOR_HISTORY]));
    json_close(o);
}

#define COLUMN(name, expression)                                                                                       \
    static double name(const struct monitor *m, const struct monitor_second *s)                                        \
    {                                                                                                                  \
        (void)m;                                                                                                       \
        return expression;                                                                                             \
    }
COLUMN(col_time, floor(s->time_s))
COLUMN(col_bandwidth, ratio(s->rates.memory_bytes_per_s, m->figures.peak_bytes_per_s))
COLUMN(col_compute, ratio(s->rates.flops_per_s, m->figures.peak_flops_per_s))
COLUMN(col_weights, round(s->rates.weight_bytes_per_s))
COLUMN(col_kv_read, round(s->rates.kv_read_bytes_per_s))
COLUMN(col_kv_write, round(s->rates.kv_write_bytes_per_s))
COLUMN(col_tier, round(s->rates.tier_bytes_per_s))
COLUMN(col_activations, round(s->rates.activation_bytes_per_s))
COLUMN(col_hardware, s->has_hardware ? round(s->rates.hardware_bytes_per_s) : (double)NAN)
COLUMN(col_running, s->n_running)
COLUMN(col_queued, s->n_queued)
COLUMN(col_kv, s->kv_active)
COLUMN(col_tokens, s->rates.output_tokens_per_s)
COLUMN(col_error, s->rates.prediction_error)
COLUMN(col_pressure, s->pressure)
COLUMN(col_slowest, weir_or_null(s->slowest_s))
COLUMN(col_slowest_predicted, weir_or_null(s->slowest_predicted_s))

static void put_history(struct json_out *o, const struct monitor *m)
{
    static const struct {
        const char *name;
        double (*value)(const struct monitor *m, const struct monitor_second *s);
    } columns[] = {
        {"time_s", col_time},
        {"bandwidth_utilisation", col_bandwidth},
        {"compute_utilisation", col_compute},
        {"weights_bytes_per_s", col_weights},
        {"kv_read_bytes_per_s", col_kv_read},
        {"kv_write_bytes_per_s", col_kv_write},
        {"tier_bytes_per_s", col_tier},
        {"activations_bytes_per_s", col_activations},
        {"hardware_bytes_per_s", col_hardware},
        {"running", col_running},
        {"queued", col_queued},
        {"kv_active", col_kv},
        {"output_tokens_per_s", col_tokens},
        {"prediction_error", col_error},
        {"pressure", col_pressure},
        {"slowest_step_s", col_slowest},
        {"slowest_step_predicted_s", col_slowest_predicted},
    };
    json_begin_object(o, "history");
    json_add_u64(o, "interval_s", 1);
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        put_column(o, m, columns[i].name, columns[i].value);
    json_close(o);
}

static void put_info(struct json_out *o, const struct weir_info *in)
{
    json_begin_object(o, "model");
    json_add_str(o, "name", in->model);
    json_add_u64(o, "n_layers", in->n_layers);
    json_add_u64(o, "context_tokens", in->max_context);
    json_add_f64(o, "weight_bytes", in->weight_bytes);
    json_add_f64(o, "kv_token_bytes", in->kv_token_bytes);
    json_close(o);
    json_begin_object(o, "policy");
    json_add_str(o, "name", in->policy);
    json_add_f64(o, "itl_target_s", weir_or_null(in->itl_target_s));
    json_add_f64(o, "ttft_limit_s", weir_or_null(in->ttft_limit_s));
    json_add_f64(o, "bandwidth_limit", weir_or_null(in->bandwidth_limit));
    json_add_u64(o, "max_running", in->max_running);
    json_add_u64(o, "max_queued", in->max_queued);
    json_add_u64(o, "max_step_tokens", in->max_step_tokens);
    json_close(o);
}

void weir_json_state(struct buf *out, const struct state_frame *f, bool with_history)
{
    struct json_out out_state = json_out_begin(out), *o = &out_state;
    struct monitor_rates now = monitor_rates(f->monitor, 1);
    json_begin_object(o, NULL);
    json_add_str(o, "object", "weir.state");
    json_add_time(o, "time_s", f->wall_s);
    json_add_f64(o, "uptime_s", f->uptime_s);
    json_add_str(o, "version", WEIR_VERSION);
    json_add_str(o, "health", f->health);
    json_add_f64(o, "interval_s", f->interval_s);
    put_info(o, f->info);
    put_machine(o, f, &now);
    put_steps(o, f, &now);
    put_requests(o, &f->monitor->stats.sched);
    put_kv(o, f);
    put_memory(o, &f->monitor->stats.sched.memory, (double)f->info->chunk_bytes);
    put_running(o, f);
    put_queue(o, f);
    put_cost(o, f);
    if (with_history)
        put_history(o, f->monitor);
    json_close(o);
}

/* ---- A step ---- */

void weir_json_step(struct json_out *o, const char *name, const struct step_record *r, const struct monitor_figures *f,
                    double wall_offset_s)
{
    double memory_bytes = (double)gen_memory_bytes(&r->traffic);
    json_begin_object(o, name);
    json_add_u64(o, "step", r->index);
    json_add_time(o, "time_s", r->begin_s + wall_offset_s);
    json_add_f64(o, "seconds", r->seconds);
    json_add_f64(o, "predicted_s", weir_or_null(r->predicted_s));
    json_add_u64(o, "sequences", r->n_seqs);
    json_add_u64(o, "rows", r->n_rows);
    json_add_u64(o, "prefill_sequences", r->n_prefill_seqs);
    json_add_u64(o, "prefill_rows", r->n_prefill_rows);
    json_add_u64(o, "decode_rows", r->n_rows - r->n_prefill_rows);
    json_add_u64(o, "outputs", r->n_outputs);
    json_add_u64(o, "copies", r->n_copies);
    weir_json_traffic(o, &r->traffic);
    json_add_f64(o, "predicted_bytes", weir_or_null(round(r->predicted_bytes)));
    json_add_f64(o, "bandwidth_utilisation", ratio(memory_bytes, r->seconds * f->peak_bytes_per_s));
    json_add_f64(o, "compute_utilisation", ratio((double)r->traffic.flops, r->seconds * f->peak_flops_per_s));
    json_add_u64(o, "running", r->n_running);
    json_add_u64(o, "queued", r->n_queued);
    json_add_u64(o, "preempted", r->n_preempted);
    json_add_bool(o, "failed", r->failed);
    json_close(o);
}

/* ---- A request ---- */

const char *weir_state_name(enum finish_reason f)
{
    switch (f) {
    case FINISH_REFUSED:
        return "refused";
    case FINISH_CANCELLED:
        return "cancelled";
    case FINISH_FAILED:
        return "failed";
    default:
        return "finished";
    }
}

static const char *reason_name(enum finish_reason f, enum sched_reason refusal)
{
    return f == FINISH_STOP      ? "stop"
           : f == FINISH_LENGTH  ? "length"
           : f == FINISH_REFUSED ? weir_refusal_name(refusal)
                                 : NULL;
}

/* Of a choice: how it ended, or what it is doing. */
static const char *choice_state(const struct choice_record *c)
{
    if (c->finish != FINISH_NONE)
        return weir_state_name(c->finish);
    return gen_phase_names[c->usage.n_spans ? c->usage.spans[c->usage.n_spans - 1].phase : GEN_QUEUED];
}

/* Times of a time line count from the request's arrival. */
static void put_choice(struct json_out *o, const struct choice_record *c, uint32_t index, double offset_s)
{
    json_begin_object(o, NULL);
    json_add_u64(o, "index", index);
    json_add_str(o, "state", choice_state(c));
    json_add_str(o, "reason", reason_name(c->finish, c->refusal));
    json_add_u64(o, "output_tokens", c->n_output_tokens);
    json_begin_array(o, "timeline");
    for (uint32_t i = 0; i < c->usage.n_spans; i++) {
        const struct gen_span *s = &c->usage.spans[i];
        json_begin_object(o, NULL);
        json_add_str(o, "phase", gen_phase_names[s->phase]);
        if (s->phase == GEN_QUEUED)
            json_add_str(o, "reason", sched_wait_names[s->reason]);
        json_add_f64(o, "begin_s", s->begin_s + offset_s);
        json_add_f64(o, "end_s", s->end_s + offset_s);
        json_add_u64(o, "tokens", s->n_rows);
        json_add_u64(o, "bytes", s->memory_bytes);
        json_close(o);
    }
    json_close(o);
    json_close(o);
}

void weir_json_request(struct json_out *o, const struct request_record *r, const char *live_state,
                       const struct monitor_figures *f, bool with_timeline)
{
    const struct request_sums *s = &r->sums;
    json_begin_object(o, NULL);
    json_add_str(o, "object", "weir.request");
    json_add_str(o, "id", r->id);
    json_add_str(o, "key", r->key->name);
    json_add_str(o, "kind", r->kind == API_CHAT ? "chat" : "completion");
    json_add_str(o, "state", live_state ? live_state : weir_state_name(s->finish));
    json_add_str(o, "reason", live_state ? NULL : reason_name(s->finish, s->refusal));
    json_add_bool(o, "stream", r->stream);
    json_add_str(o, "trace_id", r->trace.trace_id);
    json_add_time(o, "arrived_s", r->arrived_wall_s);
    json_add_f64(o, "total_s", r->total_s);
    json_add_f64(o, "ttft_s", r->ttft_s < 0 ? (double)NAN : r->ttft_s);
    json_add_u64(o, "prompt_tokens", s->prompt_tokens);
    json_add_u64(o, "cached_tokens", s->cached_tokens);
    json_add_u64(o, "output_tokens", s->output_tokens);
    json_add_u64(o, "steps", s->n_steps);
    weir_json_cost(o, s, r->bandwidth_s, r->prepare_s, f);
    if (with_timeline) {
        json_begin_array(o, "choices");
        for (uint32_t i = 0; i < r->n_choices && i < RECORD_CHOICES; i++)
            put_choice(o, &r->choices[i], i, r->prepare_s);
        json_close(o);
    }
    json_close(o);
}
