/* `weir replay`: the real scheduler against a trace on simulated devices. */
#include "base/json.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/policy.h"
#include "cli/replay_sim.h"
#include "device/profile.h"
#include "model/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RUNS 64 /* policies x rates of one command */
#define MAX_LIST 16

struct replay_args {
    const char *model, *weights, *kv, *device, *policies, *rates, *slo, *json_path;
    uint32_t replicas, tensor_parallel, max_running, max_queued, max_step_tokens, chunk_tokens, max_context, max_tokens,
        seed, limit;
    double memory_fraction, bandwidth_limit, noise, slow_from_s, slow_to_s, slow_factor;
    bool synthetic, no_prefix_cache;
    struct trace_synthesis s;
};

struct run_row {
    struct sched_policy policy;
    double rate_scale;
    struct replay_result result;
};

/* --- figures ---------------------------------------------------------------------------------------------------- */

enum figure { FIG_TTFT, FIG_ITL, FIG_E2E };

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Quantiles of one figure over finished requests; zeros if there are none. */
static void quantiles(const struct replay_result *r, enum figure f, const double *q, double *out, int n)
{
    float *v = mem_array(r->n_requests, sizeof *v);
    uint32_t k = 0;
    for (uint32_t i = 0; v && i < r->n_requests; i++) {
        const struct replay_request *p = &r->requests[i];
        if (p->state == REPLAY_DONE)
            v[k++] = f == FIG_TTFT ? p->ttft_s : f == FIG_ITL ? p->mean_itl_s : p->e2e_s;
    }
    if (k)
        qsort(v, k, sizeof *v, by_value);
    for (int j = 0; j < n; j++)
        out[j] = k ? (double)v[(uint32_t)(q[j] * (k - 1) + 0.5)] : 0;
    free(v);
}

struct summary {
    double goodput_per_s, good_share, requests_per_s, output_tokens_per_s;
    double ttft[3], itl[3], e2e[3], gap_p99_s; /* p50, p90, p99 */
    double refused_share, recomputed_share, prefix_hit_share, waste_share;
    double bandwidth_utilisation, compute_utilisation, busy_share;
};

static void summarise(const struct run_row *row, const struct replay_config *c, struct summary *s)
{
    static const double q[3] = {0.5, 0.9, 0.99};
    const struct replay_result *r = &row->result;
    double span = fmax(r->end_s, 1e-9);
    uint32_t good = replay_n_good(r, &c->slo), done = 0, refused = 0;
    double bandwidth = 0, compute = 0;
    for (uint32_t i = 0; i < r->n_requests; i++) {
        done += r->requests[i].state == REPLAY_DONE;
        refused += r->requests[i].state == REPLAY_REFUSED;
    }
    for (uint32_t i = 0; i < c->n_replicas; i++) {
        bandwidth += c->replicas[i].device.bytes_per_s;
        compute += c->replicas[i].device.matmul_flops_per_s;
    }
    /* Requests that arrive by the clock set the span that goodput is measured over; a tail of late ones does not thin
     * it. */
    double arrivals_s = 0;
    for (uint32_t i = 0; i < r->n_requests; i++)
        arrivals_s = fmax(arrivals_s, r->requests[i].arrival_s);
    double offered_s = fmax(arrivals_s, 1e-9);
    *s = (struct summary){
        .goodput_per_s = good / offered_s,
        .good_share = (double)good / r->n_requests,
        .requests_per_s = done / span,
        .output_tokens_per_s = (double)r->generated_tokens / span,
        .gap_p99_s = replay_gap_quantile(&r->gaps, 0.99),
        .refused_share = (double)refused / r->n_requests,
        .recomputed_share =
            (double)r->sched.recomputed_tokens / fmax(1, (double)(r->sched.prompt_tokens + r->sched.generated_tokens)),
        .prefix_hit_share = (double)r->sched.prefix_hit_tokens / fmax(1, (double)r->sched.prefix_query_tokens),
        .waste_share = r->waste_chunk_s / fmax(1e-9, r->held_chunk_s),
        .bandwidth_utilisation = r->bytes / (span * bandwidth),
        .compute_utilisation = r->flops / (span * compute),
        .busy_share = r->busy_s / (span * c->n_replicas),
    };
    quantiles(r, FIG_TTFT, q, s->ttft, 3);
    quantiles(r, FIG_ITL, q, s->itl, 3);
    quantiles(r, FIG_E2E, q, s->e2e, 3);
}

/* --- output ----------------------------------------------------------------------------------------------------- */

static void print_table(const struct run_row *rows, int n, const struct replay_config *c)
{
    printf("\n%-14s %6s %9s %7s %9s %8s %8s %8s %8s %8s %7s %7s %7s %6s %6s\n", "policy", "rate", "goodput/s", "good",
           "tokens/s", "TTFT p50", "p99 s", "ITL p50", "p99 ms", "gap p99", "refused", "recomp.", "prefix", "waste",
           "MBU");
    for (int i = 0; i < n; i++) {
        struct summary s;
        summarise(&rows[i], c, &s);
        printf(
            "%-14s %5.2fx %9.3f %6.1f%% %9.0f %8.2f %8.2f %8.1f %8.1f %8.1f %6.1f%% %6.2f%% %6.1f%% %5.1f%% %5.1f%%\n",
            rows[i].policy.name, rows[i].rate_scale, s.goodput_per_s, 100 * s.good_share, s.output_tokens_per_s,
            s.ttft[0], s.ttft[2], 1e3 * s.itl[0], 1e3 * s.itl[2], 1e3 * s.gap_p99_s, 100 * s.refused_share,
            100 * s.recomputed_share, 100 * s.prefix_hit_share, 100 * s.waste_share, 100 * s.bandwidth_utilisation);
    }
    printf("\ngood: first token within %g s and mean inter-token time within %g ms. gap: between any two tokens.\n"
           "MBU: bytes moved over what the devices sustain. waste: unused part of KV chunks.\n",
           c->slo.ttft_s, 1e3 * c->slo.itl_s);
}

static json_t *three(const double *q)
{
    return json_pack("{s:f,s:f,s:f}", "p50", q[0], "p90", q[1], "p99", q[2]);
}

static json_t *series_json(const struct replay_result *r, double bandwidth, double compute)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < r->n_series; i++) {
        const struct replay_point *p = &r->series[i];
        double span = fmax(p->span_s, 1e-9);
        json_array_append_new(a, json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "t_s", i * r->series_span_s, "mbu",
                                           p->bytes / (r->series_span_s * bandwidth), "compute",
                                           p->flops / (r->series_span_s * compute), "running", p->running_s / span,
                                           "queued", p->queued_s / span, "chunks_active", p->chunks_active_s / span,
                                           "tokens_per_s", p->generated / r->series_span_s, "refused_per_s",
                                           p->refused / r->series_span_s));
    }
    return a;
}

static json_t *run_json(const struct run_row *row, const struct replay_config *c)
{
    struct summary s;
    summarise(row, c, &s);
    const struct replay_result *r = &row->result;
    double bandwidth = 0, compute = 0;
    for (uint32_t i = 0; i < c->n_replicas; i++) {
        bandwidth += c->replicas[i].device.bytes_per_s;
        compute += c->replicas[i].device.matmul_flops_per_s;
    }
    json_t *o = json_pack("{s:s,s:f,s:f,s:f,s:f,s:f,s:o,s:o,s:o,s:f,s:f,s:f,s:f,s:f}", "policy", row->policy.name,
                          "rate_scale", row->rate_scale, "goodput_per_s", s.goodput_per_s, "good_share", s.good_share,
                          "requests_per_s", s.requests_per_s, "output_tokens_per_s", s.output_tokens_per_s, "ttft_s",
                          three(s.ttft), "mean_itl_s", three(s.itl), "e2e_s", three(s.e2e), "gap_p99_s", s.gap_p99_s,
                          "refused_share", s.refused_share, "recomputed_share", s.recomputed_share, "prefix_hit_share",
                          s.prefix_hit_share, "kv_waste_share", s.waste_share);
    json_object_set_new(o, "bandwidth_utilisation", json_real(s.bandwidth_utilisation));
    json_object_set_new(o, "compute_utilisation", json_real(s.compute_utilisation));
    json_object_set_new(o, "busy_share", json_real(s.busy_share));
    json_object_set_new(o, "simulated_s", json_real(r->end_s));
    json_object_set_new(o, "preemptions", json_integer((json_int_t)r->sched.n_preemptions));
    json_object_set_new(o, "step_prediction_error",
                        json_real(r->sched.prediction.abs_sum / fmax(1, (double)r->sched.prediction.n)));
    json_object_set_new(o, "steps", json_integer((json_int_t)r->n_steps));
    json_object_set_new(o, "series", series_json(r, bandwidth, compute));
    return o;
}

static int write_json(const char *path, const struct run_row *rows, int n, const struct replay_config *c,
                      const struct replay_args *a, struct err *e)
{
    json_t *runs = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(runs, run_json(&rows[i], c));
    json_t *root =
        json_pack("{s:s,s:s,s:i,s:{s:f,s:f},s:o}", "model", a->model, "device", a->device, "requests",
                  (int)c->trace->n_requests, "slo", "ttft_s", c->slo.ttft_s, "itl_s", c->slo.itl_s, "runs", runs);
    int fail = 0;
    if (!root ||
        (!strcmp(path, "-") ? json_dumpf(root, stdout, JSON_INDENT(1)) : json_dump_file(root, path, JSON_INDENT(1))))
        fail = err_errno(e, "%s", path);
    json_decref(root);
    return fail;
}

static void progress(double fraction, void *user)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s %3.0f %% ", (const char *)user, 100 * fraction);
}

/* --- set-up ----------------------------------------------------------------------------------------------------- */

/* Splits a comma-separated list in a copy that the caller frees. */
static int split_list(const char *text, char **copy, const char *items[MAX_LIST], struct err *e)
{
    int n = 0;
    *copy = mem_strndup(text, strlen(text));
    for (char *s = *copy; s; n++) {
        if (n == MAX_LIST)
            return err_set(e, WEIR_EINVAL, "more than %d items in '%s'", MAX_LIST, text);
        items[n] = s;
        s = strchr(s, ',');
        if (s)
            *s++ = 0;
    }
    return *copy ? n : err_set(e, WEIR_ENOMEM, "no memory");
}

static int parse_slo(const char *text, struct replay_slo *slo, struct err *e)
{
    char *copy;
    const char *items[MAX_LIST];
    int n = split_list(text, &copy, items, e);
    for (int i = 0; i < n; i++) {
        double v;
        char end;
        if (sscanf(items[i], "ttft=%lf%c", &v, &end) == 1 && v > 0)
            slo->ttft_s = v;
        else if (sscanf(items[i], "itl=%lf%c", &v, &end) == 1 && v > 0)
            slo->itl_s = v;
        else
            n = err_set(e, WEIR_EINVAL, "--slo is like ttft=2,itl=0.1 (seconds), not '%s'", text);
    }
    free(copy);
    return n < 0 ? n : 0;
}

static int make_replica(const struct replay_args *a, const struct shape *shape, const struct traffic_model *m,
                        const struct replay_slo *slo, const char *device, struct replay_replica *out, struct err *e)
{
    struct profile p;
    int fail = profile_open(&p, device, e);
    if (fail)
        return fail;
    double devices = a->tensor_parallel;
    double chunk_bytes = traffic_kv_bytes(m, a->chunk_tokens);
    double free_bytes = devices * p.tiers[0].capacity_bytes * a->memory_fraction - traffic_resident_weight_bytes(m) -
                        shape_activation_bytes(shape, a->max_step_tokens, a->max_running, 2);
    if (free_bytes < 2 * chunk_bytes)
        return err_set(
            e, WEIR_EINVAL,
            "%s with %.1f GB of weights leaves no room for KV on %g x %s (%.0f GB each): choose --weights of "
            "fewer bits, more --tp, or a larger device",
            shape->name, traffic_resident_weight_bytes(m) / 1e9, devices, p.name, p.tiers[0].capacity_bytes / 1e9);
    uint32_t context = a->max_context ? a->max_context : shape->n_ctx;
    double n_chunks = fmin(floor(free_bytes / chunk_bytes), 1e9);
    *out = (struct replay_replica){
        .name = device,
        .sched = {.chunk_tokens = a->chunk_tokens,
                  .n_chunks = (uint32_t)n_chunks,
                  .max_running = a->max_running,
                  .max_queued = a->max_queued,
                  .max_step_tokens = a->max_step_tokens,
                  .max_context = context,
                  .prefix_cache = !a->no_prefix_cache,
                  .has_model = true,
                  .model = *m,
                  .itl_target_s = slo->itl_s,
                  .ttft_limit_s = slo->ttft_s,
                  .bandwidth_limit = a->bandwidth_limit},
        .device = {.bytes_per_s = devices * p.tiers[0].bytes_per_s * p.attain_bandwidth,
                   .matmul_flops_per_s =
                       devices * p.attain_compute * p.ops_per_s[profile_compute_type(shape_compute_type(a->weights))],
                   .fixed_s = p.step_overhead_s + shape->n_layer * p.layer_overhead_s,
                   .confidence = 1},
    };
    /* The scheduler knows the data sheet and has to find out what the device really does. */
    out->sched.device = out->device;
    out->sched.device.bytes_per_s = devices * p.tiers[0].bytes_per_s;
    out->sched.device.confidence = 0.3;
    return 0;
}

static int make_replicas(const struct replay_args *a, const struct shape *shape, const struct traffic_model *m,
                         const struct replay_slo *slo, struct replay_replica out[REPLAY_MAX_REPLICAS], char **names,
                         struct err *e)
{
    const char *devices[MAX_LIST];
    int n = split_list(a->device, names, devices, e), total = 0;
    for (int i = 0; i < n; i++) {
        for (uint32_t k = 0; k < a->replicas; k++) {
            if (total == REPLAY_MAX_REPLICAS)
                return err_set(e, WEIR_EINVAL, "at most %d replicas", REPLAY_MAX_REPLICAS);
            int fail = make_replica(a, shape, m, slo, devices[i], &out[total++], e);
            if (fail)
                return fail;
        }
    }
    return n < 0 ? n : total;
}

static int load_trace(const struct replay_args *a, const char *path, struct trace *t, struct err *e)
{
    int fail = a->synthetic ? trace_synthesise(t, &a->s, e) : trace_read(t, path, e);
    if (!fail && a->limit && a->limit < t->n_requests)
        t->n_requests = a->limit;
    return fail;
}

static int run_all(const struct replay_args *a, struct replay_config *c, struct replay_replica *replicas,
                   struct run_row rows[MAX_RUNS], int *n_rows, char *lists[2], struct err *e)
{
    const char *policies[MAX_LIST], *rates[MAX_LIST];
    int n_policies = split_list(a->policies, &lists[0], policies, e);
    int n_rates = n_policies < 0 ? n_policies : split_list(a->rates, &lists[1], rates, e);
    if (n_rates < 0)
        return n_rates;
    if (n_policies * n_rates > MAX_RUNS)
        return err_set(e, WEIR_EINVAL, "at most %d runs (policies x rates) at once", MAX_RUNS);
    for (int i = 0; i < n_rates; i++) {
        char *end;
        c->rate_scale = strtod(rates[i], &end);
        if (*end || !(c->rate_scale > 0 && c->rate_scale < 1e6))
            return err_set(e, WEIR_EINVAL, "--rate-scale takes positive numbers, not '%s'", rates[i]);
        for (int k = 0; k < n_policies; k++) {
            struct run_row *row = &rows[*n_rows];
            *row = (struct run_row){.rate_scale = c->rate_scale};
            int fail = policy_open(&row->policy, policies[k], e);
            for (uint32_t j = 0; j < c->n_replicas; j++)
                replicas[j].sched.pipeline = &row->policy;
            c->user = row->policy.name;
            if (!fail)
                fail = replay_run(c, &row->result, e);
            if (fail)
                return fail;
            ++*n_rows;
        }
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r                          \r");
    return 0;
}

static int replay(const struct replay_args *a, const char *path, struct err *e)
{
    struct shape shape;
    struct trace trace = {0};
    struct replay_replica replicas[REPLAY_MAX_REPLICAS];
    struct replay_config c = {.trace = &trace,
                              .replicas = replicas,
                              .max_new_tokens = a->max_tokens,
                              .slo = {.ttft_s = 2, .itl_s = 0.1},
                              .noise = a->noise,
                              .slow_from_s = a->slow_from_s,
                              .slow_to_s = a->slow_to_s,
                              .slow_factor = a->slow_factor,
                              .seed = a->seed,
                              .progress = progress};
    char *names = NULL, *lists[2] = {NULL, NULL};
    struct run_row *rows = mem_array(MAX_RUNS, sizeof *rows);
    int n_rows = 0;
    int fail = rows ? shape_open(&shape, a->model, e) : err_set(e, WEIR_ENOMEM, "no memory");
    if (!fail)
        fail = shape_traffic(&shape, a->weights, a->kv, &c.model, e);
    if (!fail)
        fail = parse_slo(a->slo, &c.slo, e);
    if (!fail) {
        int n = make_replicas(a, &shape, &c.model, &c.slo, replicas, &names, e);
        c.n_replicas = n > 0 ? (uint32_t)n : 0;
        fail = n < 0 ? n : 0;
    }
    if (!fail)
        fail = load_trace(a, path, &trace, e);
    if (!fail)
        fail = run_all(a, &c, replicas, rows, &n_rows, lists, e);
    if (!fail && (!a->json_path || strcmp(a->json_path, "-"))) {
        printf("%u requests, %s (%s weights, %s KV) on %u x %s, %u KV chunks of %u tokens each\n", trace.n_requests,
               shape.name, a->weights ? a->weights : "own", a->kv ? a->kv : "f16", c.n_replicas, a->device,
               replicas[0].sched.n_chunks, a->chunk_tokens);
        print_table(rows, n_rows, &c);
    }
    if (!fail && a->json_path)
        fail = write_json(a->json_path, rows, n_rows, &c, a, e);
    for (int i = 0; i < n_rows; i++)
        replay_result_finish(&rows[i].result);
    free(rows);
    free(names);
    free(lists[0]);
    free(lists[1]);
    trace_finish(&trace);
    return fail;
}

/* --- the command ------------------------------------------------------------------------------------------------ */

static void print_help(const struct option_def *defs)
{
    printf("usage: weir replay TRACE [options]\n"
           "       weir replay --synthetic [options]\n\n"
           "Runs the scheduler of `weir serve` against a trace on simulated devices, and compares policies.\n"
           "Traces: the Azure LLM inference trace (CSV), Mooncake (JSON lines), or CSV or JSON lines with the columns\n"
           "arrival_s, prompt_tokens, output_tokens and, if known, conversation, key, priority.\n");
    options_help(defs);
    printf("\nExamples:\n"
           "  weir replay AzureLLMInferenceTrace_conv.csv --model llama-3.1-8b --device h100-sxm\n"
           "  weir replay conversation_trace.jsonl --model llama-3.1-70b --weights fp8 --device h200 --tp 2 \\\n"
           "              --rate-scale 0.5,1,2 --slo ttft=5,itl=0.1 --json out.json\n"
           "  weir replay --synthetic --requests 10000 --rate 8 --mean-turns 3 --shared-prefix 512\n");
}

int cmd_replay(int argc, char **argv)
{
    struct replay_args a = {.model = "llama-3.1-8b",
                            .device = "h100-sxm",
                            .policies = "weir,vllm",
                            .rates = "1",
                            .slo = "ttft=2,itl=0.1",
                            .replicas = 1,
                            .tensor_parallel = 1,
                            .max_running = 256,
                            .max_queued = 100000,
                            .max_step_tokens = 2048,
                            .chunk_tokens = 32,
                            .max_tokens = 2048,
                            .memory_fraction = 0.9,
                            .s = {.n_requests = 10000,
                                  .rate_per_s = 4,
                                  .burstiness = 1,
                                  .prompt_median = 400,
                                  .prompt_sigma = 1,
                                  .output_median = 150,
                                  .output_sigma = 0.8,
                                  .mean_turns = 1,
                                  .gap_median_s = 30,
                                  .gap_sigma = 1,
                                  .max_context = 32768}};
    const struct option_def defs[] = {
        OPTIONS_TITLE("Model and devices"),
        OPTION("model", OPT_STR, &a.model, "MODEL", "GGUF file, config.json, or preset (default llama-3.1-8b)"),
        OPTION("weights", OPT_STR, &a.weights, "FORMAT", "f16, fp8, q4_k_m, ... (default: the model's own)"),
        OPTION("kv", OPT_STR, &a.kv, "FORMAT", "f16, fp8, q8_0, ... (default f16)"),
        OPTION("device", OPT_STR, &a.device, "LIST", "hardware profiles, files or names (default h100-sxm)"),
        OPTION("replicas", OPT_U32, &a.replicas, "N", "replicas of each device (default 1)", .min = 1, .max = 64),
        OPTION("tp", OPT_U32, &a.tensor_parallel, "N", "devices that share one replica (default 1)", .min = 1,
               .max = 64),
        OPTION("memory-fraction", OPT_F64, &a.memory_fraction, "F", "of the device's memory to use (default 0.9)",
               .min = 0.01, .max = 1),
        OPTIONS_TITLE("Scheduling"),
        OPTION("policy", OPT_STR, &a.policies, "LIST",
               "weir, fcfs, vllm, contiguous, static, compute-first, files (default weir,vllm)"),
        OPTION("bandwidth-limit", OPT_F64, &a.bandwidth_limit, "F",
               "share of the inter-token target that weir plans to use (default 0.8)", .max = 1),
        OPTION("max-running", OPT_U32, &a.max_running, "N", "sequences in a step (default 256)", .min = 1,
               .max = 1 << 16),
        OPTION("max-queued", OPT_U32, &a.max_queued, "N", "waiting requests (default 100000)", .min = 1,
               .max = 1 << 24),
        OPTION("max-step-tokens", OPT_U32, &a.max_step_tokens, "N", "tokens in a step (default 2048)", .min = 1,
               .max = 1 << 20),
        OPTION("chunk-tokens", OPT_U32, &a.chunk_tokens, "N", "tokens in a KV chunk (default 32)", .min = 1,
               .max = 256),
        OPTION("ctx", OPT_U32, &a.max_context, "TOKENS", "context limit (default: the model's)", .max = 1 << 24),
        OPTION("max-tokens", OPT_U32, &a.max_tokens, "N", "output limit that requests state (default 2048)", .min = 1,
               .max = 1 << 20),
        OPTION("no-prefix-cache", OPT_FLAG, &a.no_prefix_cache, NULL, "do not share and keep equal prefixes"),
        OPTIONS_TITLE("Traffic"),
        OPTION("rate-scale", OPT_STR, &a.rates, "LIST", "arrivals so many times faster (default 1)"),
        OPTION("limit", OPT_U32, &a.limit, "N", "the first N requests only"),
        OPTION("slo", OPT_STR, &a.slo, "SLO", "what counts as good (default ttft=2,itl=0.1, seconds)"),
        OPTION("synthetic", OPT_FLAG, &a.synthetic, NULL, "make up the trace, by the options below"),
        OPTION("requests", OPT_U32, &a.s.n_requests, "N", "how many (default 10000)", .min = 1,
               .max = TRACE_MAX_REQUESTS),
        OPTION("rate", OPT_F64, &a.s.rate_per_s, "R", "conversations that begin, a second (default 4)", .min = 1e-6),
        OPTION("burstiness", OPT_F64, &a.s.burstiness, "CV", "variation of the gaps; 1: Poisson (default 1)",
               .min = 0.01, .max = 100),
        OPTION("prompt-median", OPT_F64, &a.s.prompt_median, "N", "new tokens of a prompt (default 400)", .min = 1),
        OPTION("prompt-sigma", OPT_F64, &a.s.prompt_sigma, "S", "of its logarithm (default 1)", .max = 5),
        OPTION("output-median", OPT_F64, &a.s.output_median, "N", "output tokens (default 150)", .min = 1),
        OPTION("output-sigma", OPT_F64, &a.s.output_sigma, "S", "of its logarithm (default 0.8)", .max = 5),
        OPTION("mean-turns", OPT_F64, &a.s.mean_turns, "N", "turns of a conversation (default 1)", .min = 1),
        OPTION("gap-median", OPT_F64, &a.s.gap_median_s, "S", "from an answer to the next turn (default 30)"),
        OPTION("shared-prefix", OPT_U32, &a.s.shared_prefix_tokens, "N", "tokens that all prompts begin with"),
        OPTION("keys", OPT_U32, &a.s.n_keys, "N", "API keys (default 1)"),
        OPTIONS_TITLE("Simulation"),
        OPTION("noise", OPT_F64, &a.noise, "SIGMA", "of the logarithm of step times (default 0)", .max = 2),
        OPTION("slow-from", OPT_F64, &a.slow_from_s, "S", "devices are slower from here ..."),
        OPTION("slow-to", OPT_F64, &a.slow_to_s, "S", "... to here ..."),
        OPTION("slow-factor", OPT_F64, &a.slow_factor, "F", "... by this factor", .max = 1000),
        OPTION("seed", OPT_U32, &a.seed, "N", "of traffic and noise (default 0)"),
        OPTIONS_TITLE("Output"),
        OPTION("json", OPT_STR, &a.json_path, "FILE", "all figures and time series; - is standard output"),
        OPTIONS_END,
    };
    struct options o;
    struct err e = {0};
    int fail = options_parse(&o, defs, argc, argv, &e);
    if (!fail && o.help) {
        print_help(defs);
        options_finish(&o);
        return 0;
    }
    if (!fail && o.n_positional != (a.synthetic ? 0 : 1))
        fail = err_set(&e, WEIR_EINVAL, "%s",
                       a.synthetic ? "--synthetic takes no trace" : "name one trace, or --synthetic");
    int status = fail ? 2 : 1;
    a.s.seed = a.seed;
    if (!fail)
        fail = replay(&a, a.synthetic ? NULL : o.positional[0], &e);
    if (fail)
        fprintf(stderr, "weir replay: %s\n", e.msg);
    options_finish(&o);
    return fail ? status : 0;
}
