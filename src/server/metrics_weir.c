/* weir's own metrics: bytes, bandwidth, the KV pool, the scheduler, the server. */
#include "server/metrics.h"

#include <math.h>
#include <stdio.h>
#include <sys/resource.h>

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void render_bandwidth(struct metrics_out *o, const struct metrics_info *info)
{
    const struct monitor *m = info->monitor;
    const struct monitor_figures *f = &m->figures;
    struct monitor_rates now = monitor_rates(m, 1);
    double sustained = monitor_sustained_bytes_per_s(m);
    metrics_family(o, "weir_memory_bandwidth_peak_bytes_per_second", "gauge",
                   "Read bandwidth of this machine: measured when the server started, or configured.");
    metrics_labelled(o, "", "source", monitor_peak_source(f), f->peak_bytes_per_s);
    metrics_one(o, "weir_memory_bandwidth_sustained_bytes_per_second", "gauge",
                "Memory traffic over the time in steps, last minute.", "", isnan(sustained) ? 0 : sustained);
    metrics_family(o, "weir_memory_bandwidth_current_bytes_per_second", "gauge",
                   "Memory traffic of the last second, by who counted it.");
    metrics_value(o, "source=\"counted\"", now.memory_bytes_per_s);
    if (info->hardware_source)
        metrics_value(o, "source=\"hardware\"", now.hardware_bytes_per_s);
    metrics_family(o, "weir_memory_bandwidth_utilisation_ratio", "gauge",
                   "The same as a fraction of the peak; above 1 caches serve.");
    metrics_value(o, "source=\"counted\"", ratio(now.memory_bytes_per_s, f->peak_bytes_per_s));
    if (info->hardware_source) {
        metrics_value(o, "source=\"hardware\"", ratio(now.hardware_bytes_per_s, f->peak_bytes_per_s));
        metrics_family(o, "weir_hardware_memory_bytes", "counter",
                       "Bytes that the memory controllers moved, for whomever.");
        metrics_labelled(o, "", "counter", info->hardware_source, (double)m->hardware_bytes);
    }
    metrics_one(o, "weir_compute_peak_flops_per_second", "gauge",
                "Operations of a large product, measured when the server started.", "", f->peak_flops_per_s);
    metrics_one(o, "weir_compute_current_flops_per_second", "gauge", "Operations of the last second.", "",
                now.flops_per_s);
    metrics_one(o, "weir_compute_utilisation_ratio", "gauge", "The same as a fraction of the measured peak.", "",
                ratio(now.flops_per_s, f->peak_flops_per_s));
    metrics_one(o, "weir_arithmetic_intensity_flops_per_byte", "gauge", "Operations over memory traffic, last second.",
                "", ratio(now.flops_per_s, now.memory_bytes_per_s));
    metrics_one(o, "weir_step_busy_ratio", "gauge", "Share of the last second spent in steps.", "", now.busy);
}

static void render_steps(struct metrics_out *o, const struct engine_stats *s)
{
    const struct calibrate_errors *e = &s->sched.prediction;
    metrics_one(o, "weir_steps", "counter", "Steps run.", "", (double)s->n_steps);
    metrics_one(o, "weir_step_seconds", "counter", "Time in steps.", "", s->busy_s);
    metrics_family(o, "weir_step_bytes", "counter", "Bytes moved by steps, counted where they move, by class.");
    metrics_value(o, "class=\"weights\"", (double)s->traffic.weight_bytes);
    metrics_value(o, "class=\"kv_read\"", (double)s->traffic.kv_read_bytes);
    metrics_value(o, "class=\"kv_write\"", (double)s->traffic.kv_write_bytes);
    metrics_value(o, "class=\"activations\"", (double)s->traffic.activation_bytes);
    metrics_one(o, "weir_step_flops", "counter", "Floating-point operations of steps.", "", s->traffic.flops);
    metrics_one(o, "weir_last_step_seconds", "gauge", "Duration of the last step.", "", s->last_step_s);
    metrics_one(o, "weir_last_step_bytes", "gauge", "Bytes moved by the last step.", "", s->last_step_bytes);
    metrics_one(o, "weir_engine_healthy", "gauge", "1 while the device works.", "", s->healthy);
    struct histogram abs = {.bounds = calibrate_abs_bounds, .n_bounds = CALIBRATE_ABS_BUCKETS - 1, .sum = e->abs_sum};
    for (int i = 0; i < CALIBRATE_ABS_BUCKETS; i++)
        abs.counts[i] = e->abs[i];
    metrics_histogram(o, "weir_step_prediction_error_ratio",
                      "Predicted against measured step times: the error's size over the measured time.", "", &abs);
    metrics_one(o, "weir_step_prediction_bias_ratio", "gauge",
                "Mean of the same errors with their sign: above 0 predictions are too long.", "",
                ratio(e->signed_sum, (double)e->n));
}

static void render_pool(struct metrics_out *o, const struct engine_stats *es, const struct weir_info *in)
{
    const struct sched_stats *s = &es->sched;
    const struct retention_stats *r = &s->memory.retention;
    metrics_family(o, "weir_kv_chunks", "gauge", "KV chunks by state.");
    metrics_value(o, "state=\"active\"", s->chunks_active);
    metrics_value(o, "state=\"cached\"", s->chunks_cached);
    metrics_value(o, "state=\"free\"", s->chunks_free);
    metrics_one(o, "weir_kv_chunk_bytes", "gauge", "Bytes of a KV chunk.", "", (double)in->chunk_bytes);
    metrics_one(o, "weir_kv_fragmentation_ratio", "gauge", "Share of the active chunks' room that holds no token.", "",
                ratio((double)s->tail_tokens, (double)s->chunks_active * in->chunk_tokens));
    metrics_one(o, "weir_kv_access_efficiency_ratio", "gauge", "Useful over touched bytes of the KV reads so far.", "",
                ratio(es->kv_useful_bytes, (double)es->traffic.kv_read_bytes));
    metrics_one(o, "weir_kv_evicted_chunks", "counter", "Cached chunks given up.", "", (double)s->n_evicted_chunks);
    metrics_family(o, "weir_kv_evictions", "counter", "The same by what they had been.");
    metrics_value(o, "reason=\"one_use\"", (double)r->evicted_one_use);
    metrics_value(o, "reason=\"reused\"", (double)r->evicted_reused);
    metrics_value(o, "reason=\"pinned\"", (double)r->evicted_pinned);
    metrics_one(o, "weir_kv_missed_chunks", "counter", "Chunks computed anew that had been evicted not long ago.", "",
                (double)r->missed);
    metrics_one(o, "weir_kv_reused_chunks", "counter", "Cached chunks taken up again.", "", (double)r->reused);
    metrics_one(o, "weir_kv_pinned_chunks", "gauge", "Cached chunks that are pinned.", "", r->pinned_chunks);
    metrics_one(o, "weir_kv_retention_value_ratio", "gauge",
                "Seconds of recomputation that all that is cached is expected to save, a second.", "", r->value_per_s);
    metrics_one(o, "weir_kv_victim_value_ratio", "gauge",
                "The same of the last chunk evicted: what one more chunk of memory is worth.", "", r->victim_value);
    metrics_one(o, "weir_recomputed_tokens", "counter", "Tokens computed again after a preemption.", "",
                (double)s->recomputed_tokens);
}

static void render_queue(struct metrics_out *o, const struct sched_stats *s)
{
    metrics_family(o, "weir_requests", "counter", "Requests by how they ended.");
    metrics_value(o, "state=\"finished\"", (double)s->n_finished);
    metrics_value(o, "state=\"refused\"", (double)s->n_refused);
    metrics_value(o, "state=\"cancelled\"", (double)s->n_cancelled);
    metrics_value(o, "state=\"failed\"", (double)s->n_failed);
    metrics_one(o, "weir_admissions", "counter", "Requests that started.", "", (double)s->n_admitted);
    metrics_family(o, "weir_refusals", "counter", "Refused requests by reason.");
    for (int i = 0; i < SCHED_N_REASONS; i++) {
        const char *name = weir_refusal_name((enum sched_reason)i);
        if (name)
            metrics_labelled(o, "", "reason", name, (double)s->n_refused_by[i]);
    }
    metrics_family(o, "weir_queue_requests", "gauge", "Waiting requests by what the head of the queue waits for.");
    for (int i = 0; i < SCHED_N_WAITS; i++)
        metrics_labelled(o, "", "reason", sched_wait_names[i], (int)s->waiting_for == i ? s->n_queued : 0);
    metrics_family(o, "weir_queue_wait_seconds", "counter", "Time in which the head of the queue waited, by what for.");
    for (int i = 0; i < SCHED_N_WAITS; i++)
        metrics_labelled(o, "", "reason", sched_wait_names[i], s->waited_s[i]);
}

static void render_memory(struct metrics_out *o, const struct memory_stats *m, double chunk_bytes)
{
    const struct reserve_stats *r = &m->reserve;
    metrics_one(o, "weir_pressure_level", "gauge", "Rung of the ladder under memory pressure; 0: none.", "",
                m->pressure.level);
    metrics_family(o, "weir_pressure_seconds", "counter", "Time at each rung.");
    for (int i = 0; i < PRESSURE_N_LEVELS; i++)
        metrics_labelled(o, "", "level", pressure_level_names[i], m->pressure.level_s[i]);
    metrics_family(o, "weir_pressure_rises", "counter", "Rises to each rung.");
    for (int i = 1; i < PRESSURE_N_LEVELS; i++)
        metrics_labelled(o, "", "level", pressure_level_names[i], (double)m->pressure.n_entered[i]);
    metrics_family(o, "weir_reservation_bytes", "gauge",
                   "KV memory: held by running sequences (base), at their predicted peak, reserved for conversations "
                   "that may go on (speculative), and the bound of those (limit).");
    metrics_value(o, "kind=\"base\"", r->base_chunks * chunk_bytes);
    metrics_value(o, "kind=\"predicted\"", r->predicted_chunks * chunk_bytes);
    metrics_value(o, "kind=\"speculative\"", r->speculative_chunks * chunk_bytes);
    metrics_value(o, "kind=\"limit\"", r->limit_chunks * chunk_bytes);
    metrics_family(o, "weir_reservations", "counter", "Speculative reservations by how they ended, and those made.");
    metrics_value(o, "event=\"made\"", (double)r->n_made);
    metrics_value(o, "event=\"capped\"", (double)r->n_capped);
    metrics_value(o, "event=\"kept\"", (double)r->n_kept);
    metrics_value(o, "event=\"expired\"", (double)r->n_expired);
    metrics_value(o, "event=\"revoked\"", (double)r->n_revoked);
}

static void render_calibration(struct metrics_out *o, const struct calibration_stats *c)
{
    static const char *const quantiles[] = {"p50", "p80", "p90", "p95"};
    metrics_family(o, "weir_output_length_coverage_ratio", "gauge",
                   "Share of outputs that were no longer than the predicted quantile.");
    for (int i = 0; i < 4; i++)
        metrics_labelled(o, "", "predicted", quantiles[i], c->length_coverage[i]);
    metrics_one(o, "weir_output_lengths", "counter", "Outputs that ended by themselves.", "", (double)c->n_lengths);
    metrics_one(o, "weir_continuation_brier_score", "gauge",
                "Mean squared error of the predicted chance that a conversation goes on.", "", c->continuation_brier);
    metrics_one(o, "weir_continuation_ratio", "gauge", "Share of turns that were continued.", "", c->continuation_rate);
    metrics_one(o, "weir_memory_peaks", "counter", "Peaks of memory that were forecast and came to pass.", "",
                (double)c->n_peaks);
    metrics_one(o, "weir_memory_peak_error_ratio", "gauge", "Mean size of their relative errors.", "",
                ratio(c->peak_abs_error_sum, (double)c->n_peaks));
}

static void render_keys(struct metrics_out *o, const struct metrics *m)
{
    static const struct {
        const char *name, *help;
    } families[] = {{"weir_usage_requests", "Requests by API key's name."},
                    {"weir_usage_memory_bytes", "Memory traffic by API key's name."},
                    {"weir_usage_flops", "Operations by API key's name."},
                    {"weir_usage_bandwidth_seconds", "Seconds of the whole memory bandwidth by API key's name."}};
    for (size_t f = 0; f < 4; f++) {
        metrics_family(o, families[f].name, "counter", families[f].help);
        for (uint32_t i = 0; i <= METRICS_MAX_KEYS; i++) {
            const struct metrics_key *k = &m->keys[i];
            double values[] = {(double)k->n_requests, (double)k->memory_bytes, (double)k->flops, k->bandwidth_s};
            if (k->n_requests)
                metrics_labelled(o, "", "key", k->name, values[f]);
        }
    }
}

static void render_server(struct metrics_out *o, const struct metrics *m, const struct metrics_info *info)
{
    struct rusage cpu;
    metrics_histogram(o, "weir_prepare_seconds", "Parsing, templating and tokenising of a request.", "", &m->prepare);
    metrics_family(o, "weir_http_responses", "counter", "HTTP answers by status.");
    for (int i = 0; i < METRICS_MAX_STATUS && m->responses[i].status; i++) {
        char status[16];
        snprintf(status, sizeof status, "%d", m->responses[i].status);
        metrics_labelled(o, "", "code", status, (double)m->responses[i].n);
    }
    metrics_one(o, "weir_http_connections", "gauge", "Open connections.", "", info->connections);
    metrics_one(o, "weir_http_busy_connections", "gauge", "Connections with an unanswered request.", "",
                info->busy_connections);
    metrics_one(o, "weir_http_disconnects", "counter", "Clients that left before their answer was complete.", "",
                (double)m->disconnects);
    metrics_one(o, "weir_http_slow_readers", "counter", "Clients cut off because they did not read.", "",
                (double)m->slow_readers);
    metrics_one(o, "weir_stream_listeners", "gauge", "Listeners of the live state.", "", info->listeners);
    metrics_one(o, "weir_lost_step_records", "counter", "Steps that nobody took note of in time.", "",
                (double)info->monitor->n_lost_steps);
    if (info->has_otlp) {
        metrics_family(o, "weir_traced_requests", "counter",
                       "Requests whose spans went to the collector, or could not.");
        metrics_value(o, "result=\"sent\"", (double)info->otlp.sent);
        metrics_value(o, "result=\"dropped\"", (double)info->otlp.dropped);
    }
    metrics_one(o, "weir_uptime_seconds", "gauge", "Since the server started.", "", info->uptime_s);
    if (!getrusage(RUSAGE_SELF, &cpu))
        metrics_one(o, "process_cpu_seconds", "counter", "Processor time of this process.", "",
                    (double)(cpu.ru_utime.tv_sec + cpu.ru_stime.tv_sec) +
                        1e-6 * (double)(cpu.ru_utime.tv_usec + cpu.ru_stime.tv_usec));
    metrics_one(o, "weir_build_info", "gauge", "The running version.", "version=\"" WEIR_VERSION "\"", 1);
}

void metrics_render_weir(struct metrics_out *o, const struct metrics *m, const struct metrics_info *info)
{
    const struct engine_stats *s = &info->monitor->stats;
    render_bandwidth(o, info);
    render_steps(o, s);
    render_pool(o, s, info->info);
    render_queue(o, &s->sched);
    render_memory(o, &s->sched.memory, (double)info->info->chunk_bytes);
    render_calibration(o, &s->sched.memory.calibration);
    render_keys(o, m);
    render_server(o, m, info);
}
