/* What /metrics shows: counters and histograms of requests, kept by the network thread, and the engine's own numbers.
 *
 * The `vllm:` names have vLLM's meaning, labels and buckets, so that dashboards, autoscalers and gateways made for it
 * work; weir's own begin with `weir_`. Label values from outside are escaped and bounded: the model's name, and the names
 * of the first METRICS_MAX_KEYS API keys. Not thread-safe: one owner.
 */
#ifndef WEIR_SERVER_METRICS_H
#define WEIR_SERVER_METRICS_H

#include "server/metrics_text.h"
#include "server/otlp.h"
#include "server/weir_json.h"

#include <stdint.h>

#define METRICS_MAX_STATUS 24
#define METRICS_MAX_KEYS 100 /* names shown; the others are one together */

/* What the requests under one name used. */
struct metrics_key {
    const char *name;
    uint64_t n_requests, memory_bytes, flops;
    double bandwidth_s;
};

struct metrics {
    struct histogram ttft, itl, e2e, queue, prefill, decode, inference, mean_itl;
    struct histogram prompt_tokens, generation_tokens, max_generation_tokens, computed_tokens;
    struct histogram params_n, params_max_tokens, step_rows, prepare;
    uint64_t finished_stop, finished_length, finished_abort, finished_error;
    uint64_t slow_readers, disconnects;
    struct {
        int status;
        uint64_t n;
    } responses[METRICS_MAX_STATUS];
    struct metrics_key keys[METRICS_MAX_KEYS + 1]; /* by first use; the last one: all others */
    uint32_t n_keys;
};

void metrics_init(struct metrics *m, uint32_t max_context);
void metrics_response(struct metrics *m, int status);

/* name lives as long as m. */
void metrics_usage(struct metrics *m, const char *name, const struct request_sums *s, double bandwidth_s);

struct metrics_info {
    const struct weir_info *info;
    const struct monitor *monitor; /* just looked */
    uint32_t connections, busy_connections, listeners;
    double uptime_s;
    const char *hardware_source; /* NULL: none */
    bool has_otlp;
    struct otlp_counts otlp;
};

void metrics_render(struct buf *out, const struct metrics *m, const struct metrics_info *info, bool open_metrics);

/* weir's own names (metrics_weir.c). */
void metrics_render_weir(struct metrics_out *o, const struct metrics *m, const struct metrics_info *info);

#endif
