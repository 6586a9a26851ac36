#include "server/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double itl_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double request_bounds[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double token_bounds[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                      2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
static const double prepare_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};

#define COUNT_OF(a) ((uint32_t)(sizeof(a) / sizeof *(a)))
#define HISTOGRAM(table) ((struct histogram){.bounds = (table), .n_bounds = COUNT_OF(table)})

_Static_assert(COUNT_OF(ttft_bounds) <= METRICS_MAX_BUCKETS, "buckets");

void metrics_init(struct metrics *m)
{
    *m = (struct metrics){.ttft = HISTOGRAM(ttft_bounds),
                          .itl = HISTOGRAM(itl_bounds),
                          .e2e = HISTOGRAM(request_bounds),
                          .queue = HISTOGRAM(request_bounds),
                          .prefill = HISTOGRAM(request_bounds),
                          .decode = HISTOGRAM(request_bounds),
                          .prompt_tokens = HISTOGRAM(token_bounds),
                          .generation_tokens = HISTOGRAM(token_bounds),
                          .prepare = HISTOGRAM(prepare_bounds)};
}

void histogram_add(struct histogram *h, double v)
{
    uint32_t i = 0;
    while (i < h->n_bounds && v > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += v;
}

void metrics_response(struct metrics *m, int status)
{
    for (int i = 0; i < METRICS_MAX_STATUS; i++) {
        if (m->responses[i].status && m->responses[i].status != status)
            continue;
        m->responses[i].status = status;
        m->responses[i].n++;
        return;
    }
}

/* Label values: backslash, quote and newline escaped. */
static void put_label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"')
            buf_addc(out, '\\');
        if (*c == '\n')
            buf_adds(out, "\\n");
        else
            buf_addc(out, *c);
    }
    buf_addc(out, '"');
}

static void put_help(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* label: text between the braces, may be empty. */
static void put_value(struct buf *out, const char *name, const char *label, double v)
{
    buf_printf(out, *label ? "%s{%s} " : "%s%s ", name, label);
    if (v == floor(v) && fabs(v) < 1e15)
        buf_printf(out, "%.0f\n", v);
    else
        buf_printf(out, "%.9g\n", v);
}

static void put_one(struct buf *out, const char *name, const char *type, const char *help, const char *label, double v)
{
    put_help(out, name, type, help);
    put_value(out, name, label, v);
}

static void put_histogram(struct buf *out, const char *name, const char *help, const char *label,
                          const struct histogram *h)
{
    put_help(out, name, "histogram", help);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->n_bounds; i++) {
        sum += h->counts[i];
        buf_printf(out, "%s_bucket{%s,le=\"%.9g\"} %" PRIu64 "\n", name, label, h->bounds[i], sum);
    }
    sum += h->counts[h->n_bounds];
    buf_printf(out, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, label, sum);
    buf_printf(out, "%s_sum{%s} %.9g\n%s_count{%s} %" PRIu64 "\n", name, label, h->sum, name, label, sum);
}

static void render_vllm(struct buf *out, const struct metrics *m, const struct sched_stats *s,
                        const struct metrics_info *info, const char *model)
{
    double used = s->chunks_total ? (double)s->chunks_active / s->chunks_total : 0;
    put_one(out, "vllm:num_requests_running", "gauge", "Requests in the running batch.", model, s->n_running);
    put_one(out, "vllm:num_requests_waiting", "gauge", "Requests waiting to be scheduled.", model, s->n_queued);
    put_one(out, "vllm:kv_cache_usage_perc", "gauge", "Fraction of the KV chunks in use (1: all).", model, used);
    put_one(out, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.", model,
            (double)s->prefix_query_tokens);
    put_one(out, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", model,
            (double)s->prefix_hit_tokens);
    put_one(out, "vllm:num_preemptions_total", "counter", "Preempted requests.", model, (double)s->n_preemptions);
    put_one(out, "vllm:prompt_tokens_total", "counter", "Prompt tokens processed.", model, (double)s->prompt_tokens);
    put_one(out, "vllm:generation_tokens_total", "counter", "Tokens generated.", model, (double)s->generated_tokens);
    put_help(out, "vllm:request_success_total", "counter", "Ended requests by reason.");
    const struct {
        const char *reason;
        uint64_t n;
    } ends[] = {{"stop", m->finished_stop},
                {"length", m->finished_length},
                {"abort", m->finished_abort},
                {"error", m->finished_error}};
    for (size_t i = 0; i < COUNT_OF(ends); i++)
        buf_printf(out, "vllm:request_success_total{%s,finished_reason=\"%s\"} %" PRIu64 "\n", model, ends[i].reason,
                   ends[i].n);
    put_histogram(out, "vllm:time_to_first_token_seconds", "Arrival to first token.", model, &m->ttft);
    put_histogram(out, "vllm:inter_token_latency_seconds", "Between tokens of a request.", model, &m->itl);
    put_histogram(out, "vllm:e2e_request_latency_seconds", "Arrival to last token.", model, &m->e2e);
    put_histogram(out, "vllm:request_queue_time_seconds", "Waiting to be scheduled.", model, &m->queue);
    put_histogram(out, "vllm:request_prefill_time_seconds", "First scheduled to first token.", model, &m->prefill);
    put_histogram(out, "vllm:request_decode_time_seconds", "First token to last token.", model, &m->decode);
    put_histogram(out, "vllm:request_prompt_tokens", "Prompt tokens of a request.", model, &m->prompt_tokens);
    put_histogram(out, "vllm:request_generation_tokens", "Tokens generated for a request.", model,
                  &m->generation_tokens);
    put_help(out, "vllm:cache_config_info", "gauge", "Shape of the KV pool.");
    buf_printf(out, "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%u\"} 1\n", model, info->chunk_tokens,
               info->n_chunks);
}

static void render_steps(struct buf *out, const struct engine_stats *s)
{
    put_one(out, "weir_steps_total", "counter", "Steps run.", "", (double)s->n_steps);
    put_one(out, "weir_step_seconds_total", "counter", "Time in steps.", "", s->busy_s);
    put_help(out, "weir_step_bytes_total", "counter", "Bytes moved by steps, counted where they move, by class.");
    put_value(out, "weir_step_bytes_total", "class=\"weights\"", (double)s->traffic.weight_bytes);
    put_value(out, "weir_step_bytes_total", "class=\"kv_read\"", (double)s->traffic.kv_read_bytes);
    put_value(out, "weir_step_bytes_total", "class=\"kv_write\"", (double)s->traffic.kv_write_bytes);
    put_value(out, "weir_step_bytes_total", "class=\"activations\"", (double)s->traffic.activation_bytes);
    put_one(out, "weir_step_flops_total", "counter", "Floating-point operations of steps.", "", s->traffic.flops);
    put_one(out, "weir_last_step_seconds", "gauge", "Duration of the last step.", "", s->last_step_s);
    put_one(out, "weir_last_step_bytes", "gauge", "Bytes moved by the last step.", "", s->last_step_bytes);
    put_one(out, "weir_engine_healthy", "gauge", "1 while the device works.", "", s->healthy);
}

static void render_pool(struct buf *out, const struct sched_stats *s)
{
    put_help(out, "weir_kv_chunks", "gauge", "KV chunks by state.");
    put_value(out, "weir_kv_chunks", "state=\"active\"", s->chunks_active);
    put_value(out, "weir_kv_chunks", "state=\"cached\"", s->chunks_cached);
    put_value(out, "weir_kv_chunks", "state=\"free\"", s->chunks_free);
    put_one(out, "weir_kv_evicted_chunks_total", "counter", "Cached chunks given up.", "", (double)s->n_evicted_chunks);
    put_one(out, "weir_recomputed_tokens_total", "counter", "Tokens computed again after a preemption.", "",
            (double)s->recomputed_tokens);
    put_help(out, "weir_requests_total", "counter", "Requests by how they ended.");
    put_value(out, "weir_requests_total", "state=\"finished\"", (double)s->n_finished);
    put_value(out, "weir_requests_total", "state=\"refused\"", (double)s->n_refused);
    put_value(out, "weir_requests_total", "state=\"cancelled\"", (double)s->n_cancelled);
    put_value(out, "weir_requests_total", "state=\"failed\"", (double)s->n_failed);
}

void metrics_render(struct buf *out, const struct metrics *m, const struct engine_stats *s,
                    const struct metrics_info *info)
{
    struct buf label;
    buf_init(&label, 1024);
    put_label(&label, "model_name", info->model);
    const char *model = label.failed ? "model_name=\"\"" : label.data;
    render_vllm(out, m, &s->sched, info, model);
    render_pool(out, &s->sched);
    render_steps(out, s);
    put_histogram(out, "weir_prepare_seconds", "Parsing, templating and tokenising of a request.", model, &m->prepare);
    buf_finish(&label);
    put_help(out, "weir_http_responses_total", "counter", "HTTP answers by status.");
    for (int i = 0; i < METRICS_MAX_STATUS && m->responses[i].status; i++)
        buf_printf(out, "weir_http_responses_total{code=\"%d\"} %" PRIu64 "\n", m->responses[i].status,
                   m->responses[i].n);
    put_one(out, "weir_http_connections", "gauge", "Open connections.", "", info->connections);
    put_one(out, "weir_http_busy_connections", "gauge", "Connections with an unanswered request.", "",
            info->busy_connections);
    put_one(out, "weir_http_disconnects_total", "counter", "Clients that left before their answer was complete.", "",
            (double)m->disconnects);
    put_one(out, "weir_http_slow_readers_total", "counter", "Clients cut off because they did not read.", "",
            (double)m->slow_readers);
    put_one(out, "weir_uptime_seconds", "gauge", "Since the server started.", "", info->uptime_s);
    put_help(out, "weir_build_info", "gauge", "The running version.");
    buf_adds(out, "weir_build_info{version=\"" WEIR_VERSION "\"} 1\n");
}
