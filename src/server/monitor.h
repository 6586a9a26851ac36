/* What the network thread remembers of the running engine: figures of the last seconds, a second-by-second history, the
 * last steps, and quantiles of latencies. Fed from the engine's watch (engine/watch.h) twice a second and whenever
 * somebody asks. Not thread-safe: one owner.
 */
#ifndef WEIR_SERVER_MONITOR_H
#define WEIR_SERVER_MONITOR_H

#include "engine/watch.h"

#include <stdbool.h>
#include <stdint.h>

#define MONITOR_HISTORY 600 /* seconds */
#define MONITOR_SAMPLES 160 /* of half a second: more than WINDOW_S */
#define MONITOR_WINDOW_S 60.0
#define MONITOR_STEPS 512

/* The machine, as measured when the server started or as configured. 0: not known. */
struct monitor_figures {
    double peak_bytes_per_s, peak_flops_per_s;
    bool peak_configured;            /* peak_bytes_per_s was told, not measured */
    double price_per_bandwidth_hour; /* < 0: none */
};

/* Sums as of one moment. */
struct monitor_sample {
    double t_s;
    struct step_traffic traffic;
    uint64_t tier_bytes, hardware_bytes;
    double busy_s;
    uint64_t n_steps, prompt_tokens, generated_tokens, n_rows;
    double error_sum;
    uint64_t n_errors;
};

/* What happened between two samples. */
struct monitor_rates {
    double seconds;
    double weight_bytes_per_s, kv_read_bytes_per_s, kv_write_bytes_per_s, tier_bytes_per_s, activation_bytes_per_s;
    double memory_bytes_per_s, flops_per_s, hardware_bytes_per_s;
    double busy; /* share of the time in steps */
    double steps_per_s, rows_per_step, prompt_tokens_per_s, output_tokens_per_s;
    double prediction_error; /* mean absolute; NAN without steps */
};

struct monitor_second {
    double time_s; /* wall */
    struct monitor_rates rates;
    uint32_t n_running, n_queued;
    double kv_active;
    uint32_t pressure;
    bool has_hardware;
    double slowest_s, slowest_predicted_s; /* its longest step; 0: none ended */
};

/* Counts in quarter octaves from 1 us to 4096 s, by slice of time, so that old ones can be forgotten. */
#define MONITOR_SLICES 6
#define MONITOR_BINS 128
struct monitor_latency {
    uint32_t counts[MONITOR_SLICES][MONITOR_BINS];
};

struct monitor {
    struct engine *engine;
    struct monitor_figures figures;
    struct engine_stats stats; /* as of the last look */
    double looked_s;

    struct monitor_sample samples[MONITOR_SAMPLES]; /* a ring; the newest is n_samples - 1 */
    uint64_t n_samples;
    struct monitor_second history[MONITOR_HISTORY];
    uint64_t n_history;
    struct monitor_sample second_began;

    struct step_record steps[MONITOR_STEPS];
    uint64_t n_steps, n_lost_steps, n_rows;
    struct step_record slowest, slowest_now; /* between the last two ticks; since the last one. seconds 0: none */
    double second_slowest_s, second_slowest_predicted_s;
    void (*on_step)(void *user, const struct step_record *r);
    void *user;

    struct monitor_latency ttft, itl;
    uint32_t slice;
    double slice_began_s;

    bool has_hardware; /* hardware_bytes is kept up to date by the owner */
    uint64_t hardware_bytes;
};

/* Where peak_bytes_per_s comes from: "measured" or "configured". */
const char *monitor_peak_source(const struct monitor_figures *f);

void monitor_init(struct monitor *m, struct engine *en, const struct monitor_figures *f, double now_s);

/* Brings stats and steps up to date. */
void monitor_look(struct monitor *m, double now_s);

/* Every half second: monitor_look, and samples for rates and history. */
void monitor_tick(struct monitor *m, double now_s, double wall_s);

/* Rates of about the last `seconds` (at most MONITOR_WINDOW_S) until the last look. */
struct monitor_rates monitor_rates(const struct monitor *m, double seconds);

/* Memory traffic over the time in steps, in the last minute; NAN without steps. */
double monitor_sustained_bytes_per_s(const struct monitor *m);

void monitor_latency_add(struct monitor *m, struct monitor_latency *l, double seconds);
double monitor_latency_quantile(const struct monitor_latency *l, double q); /* of the last minute; NAN while empty */

#endif
