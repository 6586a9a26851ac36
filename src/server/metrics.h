/* What /metrics shows: counters and histograms of requests, kept by the network thread, and the engine's own numbers,
 * in Prometheus' text format (version 0.0.4).
 *
 * The `vllm:` names have vLLM's meaning and buckets, so that dashboards, autoscalers and gateways made for it work;
 * weir's own begin with `weir_`. Label values from outside are escaped and bounded: the model's name only.
 * Not thread-safe: one owner.
 */
#ifndef WEIR_SERVER_METRICS_H
#define WEIR_SERVER_METRICS_H

#include "base/buf.h"
#include "engine/engine.h"

#include <stdint.h>

#define METRICS_MAX_BUCKETS 24
#define METRICS_MAX_STATUS 24

struct histogram {
    const double *bounds; /* ascending upper bounds; one more bucket is open-ended */
    uint32_t n_bounds;
    uint64_t counts[METRICS_MAX_BUCKETS + 1];
    double sum;
};

void histogram_add(struct histogram *h, double v);

struct metrics {
    struct histogram ttft, itl, e2e, queue, prefill, decode, prompt_tokens, generation_tokens, prepare;
    uint64_t finished_stop, finished_length, finished_abort, finished_error;
    uint64_t slow_readers, disconnects;
    struct {
        int status;
        uint64_t n;
    } responses[METRICS_MAX_STATUS];
};

void metrics_init(struct metrics *m);
void metrics_response(struct metrics *m, int status);

struct metrics_info {
    const char *model;
    uint32_t chunk_tokens, n_chunks, max_context;
    uint32_t connections, busy_connections;
    double uptime_s;
};

void metrics_render(struct buf *out, const struct metrics *m, const struct engine_stats *s,
                    const struct metrics_info *info);

#endif
