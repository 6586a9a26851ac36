#include "server/metrics.h"

#include <stdio.h>
#include <string.h>

static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double itl_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double request_bounds[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double token_bounds[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                      2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
static const double row_bounds[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double n_bounds[] = {1, 2, 5, 10, 20};
static const double prepare_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};

#define COUNT_OF(a) ((uint32_t)(sizeof(a) / sizeof *(a)))
#define HISTOGRAM(table) ((struct histogram){.bounds = (table), .n_bounds = COUNT_OF(table)})

_Static_assert(COUNT_OF(ttft_bounds) <= METRICS_MAX_BUCKETS, "buckets");

void metrics_init(struct metrics *m, uint32_t max_context)
{
    struct histogram tokens = HISTOGRAM(token_bounds); /* as vLLM's: as far as the context goes */
    while (tokens.n_bounds > 1 && token_bounds[tokens.n_bounds - 1] > max_context)
        tokens.n_bounds--;
    *m = (struct metrics){.ttft = HISTOGRAM(ttft_bounds),
                          .itl = HISTOGRAM(itl_bounds),
                          .mean_itl = HISTOGRAM(itl_bounds),
                          .e2e = HISTOGRAM(request_bounds),
                          .queue = HISTOGRAM(request_bounds),
                          .prefill = HISTOGRAM(request_bounds),
                          .decode = HISTOGRAM(request_bounds),
                          .inference = HISTOGRAM(request_bounds),
                          .prompt_tokens = tokens,
                          .generation_tokens = tokens,
                          .max_generation_tokens = tokens,
                          .computed_tokens = tokens,
                          .params_max_tokens = tokens,
                          .params_n = HISTOGRAM(n_bounds),
                          .step_rows = HISTOGRAM(row_bounds),
                          .prepare = HISTOGRAM(prepare_bounds)};
    m->keys[METRICS_MAX_KEYS].name = "(others)";
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

void metrics_usage(struct metrics *m, const char *name, const struct request_sums *s, double bandwidth_s)
{
    uint32_t i = 0;
    while (i < m->n_keys && strcmp(m->keys[i].name, name))
        i++;
    if (i == m->n_keys && m->n_keys < METRICS_MAX_KEYS)
        m->keys[m->n_keys++].name = name;
    struct metrics_key *k = &m->keys[i < m->n_keys ? i : METRICS_MAX_KEYS];
    k->n_requests++;
    k->memory_bytes += gen_memory_bytes(&s->traffic);
    k->flops += s->traffic.flops;
    k->bandwidth_s += bandwidth_s;
}

static void render_queue(struct metrics_out *o, const struct sched_stats *s, const struct weir_info *in,
                         const char *labels)
{
    double used = s->chunks_total ? (double)s->chunks_active / s->chunks_total : 0;
    metrics_one(o, "vllm:num_requests_running", "gauge", "Requests in the running batch.", labels, s->n_running);
    metrics_one(o, "vllm:num_requests_waiting", "gauge", "Requests waiting to be scheduled.", labels, s->n_queued);
    metrics_family(o, "vllm:num_requests_waiting_by_reason", "gauge", "The same by reason.");
    metrics_labelled(o, labels, "reason", "capacity", s->n_queued);
    metrics_labelled(o, labels, "reason", "deferred", 0);
    metrics_one(o, "vllm:kv_cache_usage_perc", "gauge", "Fraction of the KV chunks in use (1: all).", labels, used);
    metrics_one(o, "vllm:gpu_cache_usage_perc", "gauge", "The former name of vllm:kv_cache_usage_perc.", labels, used);
    metrics_family(o, "vllm:cache_config_info", "gauge", "Shape of the KV pool.");
    struct buf all;
    char number[24];
    buf_init(&all, METRICS_MAX_LABELS * 2);
    buf_adds(&all, labels);
    snprintf(number, sizeof number, "%u", in->chunk_tokens);
    metrics_put_label(&all, "block_size", number);
    snprintf(number, sizeof number, "%u", in->n_chunks);
    metrics_put_label(&all, "num_gpu_blocks", number);
    metrics_put_label(&all, "num_cpu_blocks", "0");
    metrics_put_label(&all, "cache_dtype", in->kv_type);
    metrics_put_label(&all, "enable_prefix_caching", in->prefix_cache ? "True" : "False");
    if (!all.failed)
        metrics_value(o, all.data, 1);
    buf_finish(&all);
}

static void render_counters(struct metrics_out *o, const struct metrics *m, const struct sched_stats *s,
                            const char *labels)
{
    double hits = (double)s->prefix_hit_tokens, prompt = (double)s->prompt_tokens;
    metrics_one(o, "vllm:prefix_cache_queries", "counter", "Prompt tokens looked up in the prefix cache.", labels,
                (double)s->prefix_query_tokens);
    metrics_one(o, "vllm:prefix_cache_hits", "counter", "Prompt tokens found in the prefix cache.", labels, hits);
    metrics_one(o, "vllm:num_preemptions", "counter", "Preempted requests.", labels, (double)s->n_preemptions);
    metrics_one(o, "vllm:prompt_tokens", "counter", "Prompt tokens processed.", labels, prompt);
    metrics_one(o, "vllm:prompt_tokens_cached", "counter", "Prompt tokens taken from the cache.", labels, hits);
    metrics_family(o, "vllm:prompt_tokens_by_source", "counter", "Prompt tokens by where their KV came from.");
    metrics_labelled(o, labels, "source", "local_compute", prompt > hits ? prompt - hits : 0);
    metrics_labelled(o, labels, "source", "local_cache_hit", hits);
    metrics_one(o, "vllm:generation_tokens", "counter", "Tokens generated.", labels, (double)s->generated_tokens);
    metrics_family(o, "vllm:request_success", "counter", "Ended requests by reason.");
    metrics_labelled(o, labels, "finished_reason", "stop", (double)m->finished_stop);
    metrics_labelled(o, labels, "finished_reason", "length", (double)m->finished_length);
    metrics_labelled(o, labels, "finished_reason", "abort", (double)m->finished_abort);
    metrics_labelled(o, labels, "finished_reason", "error", (double)m->finished_error);
}

static void render_histograms(struct metrics_out *o, const struct metrics *m, const char *labels)
{
    const struct {
        const char *name, *help;
        const struct histogram *h;
    } all[] = {
        {"vllm:time_to_first_token_seconds", "Arrival to first token.", &m->ttft},
        {"vllm:inter_token_latency_seconds", "Between tokens of a request.", &m->itl},
        {"vllm:time_per_output_token_seconds", "The former name of vllm:inter_token_latency_seconds.", &m->itl},
        {"vllm:request_time_per_output_token_seconds", "Mean of a request's inter-token times.", &m->mean_itl},
        {"vllm:e2e_request_latency_seconds", "Arrival to last token.", &m->e2e},
        {"vllm:request_queue_time_seconds", "Waiting to be scheduled.", &m->queue},
        {"vllm:request_prefill_time_seconds", "First scheduled to first token.", &m->prefill},
        {"vllm:request_decode_time_seconds", "First token to last token.", &m->decode},
        {"vllm:request_inference_time_seconds", "First scheduled to last token.", &m->inference},
        {"vllm:request_prompt_tokens", "Prompt tokens of a request.", &m->prompt_tokens},
        {"vllm:request_generation_tokens", "Tokens generated for a request.", &m->generation_tokens},
        {"vllm:request_max_num_generation_tokens", "The longest of a request's choices.", &m->max_generation_tokens},
        {"vllm:request_prefill_kv_computed_tokens", "Prompt tokens computed, not found.", &m->computed_tokens},
        {"vllm:request_params_n", "Choices that a request asks for.", &m->params_n},
        {"vllm:request_params_max_tokens", "Tokens that a request may generate.", &m->params_max_tokens},
        {"vllm:iteration_tokens_total", "Tokens in a step.", &m->step_rows},
    };
    for (size_t i = 0; i < COUNT_OF(all); i++)
        metrics_histogram(o, all[i].name, all[i].help, labels, all[i].h);
}

void metrics_render(struct buf *out, const struct metrics *m, const struct metrics_info *info, bool open_metrics)
{
    struct metrics_out o = {.buf = out, .open_metrics = open_metrics};
    const struct sched_stats *s = &info->monitor->stats.sched;
    struct buf labels;
    buf_init(&labels, METRICS_MAX_LABELS / 2);
    metrics_put_label(&labels, "model_name", info->info->model);
    if (labels.failed) { /* a name of hundreds of bytes */
        buf_clear(&labels);
        metrics_put_label(&labels, "model_name", "");
    }
    metrics_put_label(&labels, "engine", "0");
    render_queue(&o, s, info->info, labels.data);
    render_counters(&o, m, s, labels.data);
    render_histograms(&o, m, labels.data);
    buf_finish(&labels);
    metrics_render_weir(&o, m, info);
    metrics_end(&o);
}
