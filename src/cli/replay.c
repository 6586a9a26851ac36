/* `weir replay`: the real scheduler against a trace, or against a recording of a live server, on simulated devices. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/suggest.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/page.h"
#include "cli/policy.h"
#include "cli/replay_report.h"
#include "device/profile.h"
#include "model/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RUNS 128 /* policies x rates of one command */
#define MAX_LIST 32
#define MAX_REPORT_BYTES ((size_t)64 << 20)
#define ATTENTION_ROWS 512 /* at which a fitted device's arithmetic is told */

struct replay_args {
    const char *model, *weights, *kv, *device, *policies, *rates, *slo, *router, *json_path, *html_path;
    struct option_list prices;
    uint32_t replicas, tensor_parallel, max_running, max_queued, max_step_tokens, max_preemptions, chunk_tokens,
        max_context, max_tokens, seed, limit;
    double memory_fraction, bandwidth_limit, noise, slow_from_s, slow_to_s, slow_factor;
    double speculative_limit, pin_limit; /* NAN: not given, and max_preemptions 0 */
    const char *retention;
    bool synthetic, no_prefix_cache;
    struct trace_synthesis s;
};

/* One command's work. */
struct job {
    const struct replay_args *a;
    const char *path; /* NULL: synthetic */
    struct shape shape;
    struct trace trace;
    struct playback playback;
    bool is_recording;
    struct replay_config config;
    struct replay_replica replicas[REPLAY_MAX_REPLICAS];
    char *device_names, *policy_names, *rate_names;
    struct replay_report report;
    struct replay_run runs[MAX_RUNS];
    struct {
        const char *what;
        double began_s, shown_s;
    } bar;
};

/* --- small things ----------------------------------------------------------------------------------------------- */

static void progress(double fraction, void *user)
{
    struct job *j = user;
    double now_s = clock_monotonic_s(), spent_s = now_s - j->bar.began_s;
    if (!isatty(STDERR_FILENO) || now_s - j->bar.shown_s < 0.1)
        return;
    j->bar.shown_s = now_s;
    char cells[31];
    for (int i = 0; i < 30; i++)
        cells[i] = i < 30 * fraction ? '#' : '.';
    cells[30] = 0;
    fprintf(stderr, "\r%-24.24s [%s] %3.0f %%", j->bar.what, cells, 100 * fraction);
    if (fraction > 0.02 && fraction < 1)
        fprintf(stderr, ", %.0f s left ", spent_s * (1 - fraction) / fraction);
}

static void begin_bar(struct job *j, const char *what)
{
    j->bar.what = what;
    j->bar.began_s = clock_monotonic_s();
}

static void end_bar(void)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%79s\r", "");
}

/* Splits a comma-separated list in a copy that the caller frees. */
static int split_list(const char *text, char **copy, const char *items[MAX_LIST], struct err *e)
{
    int n = 0;
    free(*copy);
    *copy = mem_strndup(text, strlen(text));
    for (char *s = *copy; s; n++) {
        if (n == MAX_LIST)
            return err_set(e, WEIR_EINVAL, "more than %d items in '%s'", MAX_LIST, text);
        items[n] = s;
        s = strchr(s, ',');
        if (s)
            *s++ = 0;
        if (!*items[n])
            return err_set(e, WEIR_EINVAL, "an empty item in '%s'", text);
    }
    return *copy ? n : err_set(e, WEIR_ENOMEM, "no memory");
}

static int parse_slo(const char *text, struct replay_slo *slo, struct err *e)
{
    char *copy = NULL;
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

/* --- replicas --------------------------------------------------------------------------------------------------- */

/* What the memory holds beside weights and activations. */
static int size_kv(const struct job *j, const struct profile *p, uint32_t *n_chunks, struct err *e)
{
    const struct replay_args *a = j->a;
    const struct traffic_model *m = &j->config.model;
    double devices = a->tensor_parallel, weights = traffic_resident_weight_bytes(m);
    double activations = a->model || !j->is_recording
                             ? shape_activation_bytes(&j->shape, a->max_step_tokens, a->max_running, 2)
                             : m->row_act_bytes / fmax(1, m->n_layer) * a->max_step_tokens;
    double chunk_bytes = traffic_kv_bytes(m, a->chunk_tokens);
    double free_bytes = devices * p->tiers[0].capacity_bytes * a->memory_fraction - weights - activations;
    if (free_bytes < 2 * chunk_bytes)
        return err_set(
            e, WEIR_EINVAL,
            "%s with %.1f GB of weights leaves no room for KV on %g x %s (%.0f GB each): choose --weights of "
            "fewer bits, more --tp, or a larger device",
            j->report.model, weights / 1e9, devices, p->name, p->tiers[0].capacity_bytes / 1e9);
    *n_chunks = (uint32_t)fmin(floor(free_bytes / chunk_bytes), 1e9);
    return 0;
}

/* What was asked for of the scheduler, over its defaults or what was recorded. */
static int set_scheduling(const struct replay_args *a, struct sched_config *c, struct err *e)
{
    if (a->retention && strcmp(a->retention, "value") && strcmp(a->retention, "lru"))
        return err_set(e, WEIR_EINVAL, "--retention is \"%s\", it must be value or lru", a->retention);
    if (a->retention)
        c->lru_retention = !strcmp(a->retention, "lru");
    if (!isnan(a->speculative_limit))
        c->speculative_limit = a->speculative_limit > 0 ? a->speculative_limit : -1;
    if (!isnan(a->pin_limit))
        c->pin_limit = a->pin_limit > 0 ? a->pin_limit : -1;
    if (a->max_preemptions)
        c->max_preemptions = a->max_preemptions;
    return 0;
}

static bool asks_for_scheduling(const struct replay_args *a)
{
    return a->retention || !isnan(a->speculative_limit) || !isnan(a->pin_limit) || a->max_preemptions;
}

static int make_replica(const struct job *j, const char *device, struct replay_replica *out, struct err *e)
{
    const struct replay_args *a = j->a;
    const struct traffic_model *m = &j->config.model;
    struct profile p;
    uint32_t n_chunks = 0, own_context = j->is_recording && !a->model ? j->playback.sched.max_context : j->shape.n_ctx;
    int fail = profile_open(&p, device, e);
    if (!fail)
        fail = size_kv(j, &p, &n_chunks, e);
    if (fail)
        return fail;
    double devices = a->tensor_parallel;
    struct traffic_model own_model = *m;
    own_model.mixed_length_waste = p.mixed_length_waste;
    own_model.prompt_way = false; /* a recording's device may have one */
    *out = (struct replay_replica){
        .name = device,
        .price_per_hour = devices * p.price_per_hour,
        .sched = {.chunk_tokens = a->chunk_tokens,
                  .n_chunks = n_chunks,
                  .max_running = a->max_running,
                  .max_queued = a->max_queued,
                  .max_step_tokens = a->max_step_tokens,
                  .max_context = a->max_context ? a->max_context : own_context,
                  .prefix_cache = !a->no_prefix_cache,
                  .has_model = true,
                  .model = own_model,
                  .itl_target_s = j->report.slo.itl_s,
                  .ttft_limit_s = j->report.slo.ttft_s,
                  .bandwidth_limit = a->bandwidth_limit},
        .device = {.bytes_per_s = devices * p.tiers[0].bytes_per_s * p.attain_bandwidth,
                   .matmul_flops_per_s =
                       devices * p.attain_compute * p.ops_per_s[profile_compute_type(shape_compute_type(a->weights))],
                   .fixed_s = p.step_overhead_s + m->n_layer * p.layer_overhead_s,
                   .confidence = 1},
    };
    /* The scheduler knows the data sheet and has to find out what the device really does. */
    out->sched.device = out->device;
    out->sched.device.bytes_per_s = devices * p.tiers[0].bytes_per_s;
    out->sched.device.confidence = 0.3;
    return set_scheduling(a, &out->sched, e);
}

/* The device that the recording was made on, as its steps showed it. */
static int recorded_replica(struct job *j, struct err *e)
{
    const struct playback *p = &j->playback;
    if (!p->sched.has_model || !p->n_fitted)
        return err_set(e, WEIR_EINVAL,
                       "%s does not tell how fast its device is (%s): name a --device%s to try other policies", j->path,
                       p->sched.has_model ? "its steps could not be reproduced" : "its policy had no traffic model",
                       p->sched.has_model ? "" : " and a --model");
    j->replicas[0] = (struct replay_replica){.name = "recorded", .sched = p->sched, .fitted = &p->fitted};
    if (j->a->slo) {
        j->replicas[0].sched.itl_target_s = j->report.slo.itl_s;
        j->replicas[0].sched.ttft_limit_s = j->report.slo.ttft_s;
    }
    int fail = set_scheduling(j->a, &j->replicas[0].sched, e);
    return fail ? fail : 1;
}

/* --device: names, or 2xNAME. Returns how many. */
static int make_replicas(struct job *j, struct err *e)
{
    const char *devices[MAX_LIST];
    if (j->is_recording && !j->a->device && !j->a->model)
        return recorded_replica(j, e);
    int n = split_list(j->a->device ? j->a->device : "h100-sxm", &j->device_names, devices, e), total = 0;
    for (int i = 0; i < n; i++) {
        char *rest;
        unsigned long times = strtoul(devices[i], &rest, 10);
        if (rest != devices[i] && *rest == 'x' && times >= 1 && times <= REPLAY_MAX_REPLICAS)
            devices[i] = rest + 1;
        else
            times = 1;
        for (uint32_t k = 0; k < times * j->a->replicas; k++) {
            if (total == REPLAY_MAX_REPLICAS)
                return err_set(e, WEIR_EINVAL, "at most %d replicas", REPLAY_MAX_REPLICAS);
            int fail = make_replica(j, devices[i], &j->replicas[total++], e);
            if (fail)
                return fail;
        }
    }
    return n < 0 ? n : total;
}

static int apply_prices(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->a->prices.n; i++) {
        const char *text = j->a->prices.items[i], *eq = strrchr(text, '=');
        char *end, name[128];
        double price = strtod(eq ? eq + 1 : text, &end);
        if (*end || end == (eq ? eq + 1 : text) || !(price > 0) || !(price < 1e6))
            return err_set(e, WEIR_EINVAL, "--price: '%s' is neither a price an hour nor NAME=PRICE", text);
        snprintf(name, sizeof name, "%.*s", eq ? (int)(eq - text) : 0, text);
        bool found = false;
        for (uint32_t k = 0; k < j->config.n_replicas; k++) {
            if (eq && !suggest_same(j->replicas[k].name, name))
                continue;
            j->replicas[k].price_per_hour = price * j->a->tensor_parallel;
            found = true;
        }
        if (!found)
            return err_set(e, WEIR_EINVAL, "--price: %s is not among the devices", name);
    }
    return 0;
}

/* What the replicas reach together. */
static struct replay_capacity capacity(const struct replay_replica *replicas, uint32_t n)
{
    struct replay_capacity c = {.n_replicas = n};
    for (uint32_t i = 0; i < n; i++) {
        const struct replay_replica *r = &replicas[i];
        c.bytes_per_s += r->fitted ? calibrate_bytes_per_s(r->fitted) : r->device.bytes_per_s;
        c.flops_per_s += r->fitted ? calibrate_flops_per_s(r->fitted, ATTENTION_ROWS) : r->device.matmul_flops_per_s;
        c.price_per_hour += r->price_per_hour;
        c.n_chunks += r->sched.n_chunks;
    }
    return c;
}

/* --- runs ------------------------------------------------------------------------------------------------------- */

/* NAME[:max-step-tokens=N][:max-running=N][:max-queued=N]: a policy with settings of its own. */
static int set_policy(struct job *j, const char *text, struct replay_run *run, struct err *e)
{
    char name[256];
    uint32_t n = j->config.n_replicas, step = 0, running = 0, queued = 0;
    snprintf(run->label, sizeof run->label, "%s", strrchr(text, '/') ? strrchr(text, '/') + 1 : text);
    snprintf(name, sizeof name, "%s", text);
    char *settings = strchr(name, ':'), *rest = NULL;
    if (settings)
        *settings++ = 0;
    for (char *s = settings ? strtok_r(settings, ":", &rest) : NULL; s; s = strtok_r(NULL, ":", &rest)) {
        char end;
        if (sscanf(s, "max-step-tokens=%u%c", &step, &end) != 1 && sscanf(s, "max-running=%u%c", &running, &end) != 1 &&
            sscanf(s, "max-queued=%u%c", &queued, &end) != 1)
            return err_set(e, WEIR_EINVAL,
                           "--policy %s: '%s' is none of max-step-tokens=N, max-running=N, max-queued=N", text, s);
    }
    int fail = policy_open(&run->policy, name, e);
    for (uint32_t i = 0; i < n; i++) {
        struct sched_config *c = &j->replicas[i].sched;
        c->policy = NULL;
        c->pipeline = &run->policy;
        if (step)
            c->max_step_tokens = step;
        if (running)
            c->max_running = running;
        if (queued)
            c->max_queued = queued;
        if (c->max_running > c->max_step_tokens)
            return err_set(e, WEIR_EINVAL, "--policy %s: %u running sequences need as many rows in a step, not %u",
                           text, c->max_running, c->max_step_tokens);
    }
    run->max_step_tokens = j->replicas[0].sched.max_step_tokens;
    run->max_running = j->replicas[0].sched.max_running;
    return fail;
}

/* --router, or what belongs to the policy: one that needs the traffic model looks at headroom, the field's at counts. */
static int set_router(struct job *j, const struct replay_run *run, struct err *e)
{
    bool needs_model = false;
    int fail = sched_policy_check(&run->policy, &needs_model, e);
    const char *name = j->a->router ? j->a->router : needs_model ? "headroom" : "least-loaded";
    j->config.router = strcmp(name, "headroom") ? REPLAY_ROUTE_LEAST_LOADED : REPLAY_ROUTE_HEADROOM;
    if (!fail && j->config.router == REPLAY_ROUTE_LEAST_LOADED && strcmp(name, "least-loaded") != 0)
        return err_set(e, WEIR_EINVAL, "--router is headroom or least-loaded, not '%s'", name);
    return fail;
}

static int run_one(struct job *j, const char *policy, double rate_scale, struct err *e)
{
    struct replay_run *run = &j->runs[j->report.n_runs];
    struct sched_config own[REPLAY_MAX_REPLICAS] = {0};
    for (uint32_t i = 0; i < j->config.n_replicas; i++)
        own[i] = j->replicas[i].sched;
    *run = (struct replay_run){.rate_scale = rate_scale, .capacity = capacity(j->replicas, j->config.n_replicas)};
    int fail = set_policy(j, policy, run, e);
    if (!fail)
        fail = set_router(j, run, e);
    j->config.rate_scale = rate_scale;
    begin_bar(j, run->label);
    if (!fail)
        fail = replay_run(&j->config, &run->result, e);
    if (!fail) {
        j->report.n_runs++;
        fail = replay_summarise(&run->result, &j->report.slo, &run->capacity, &run->summary, e);
    }
    for (uint32_t i = 0; i < j->config.n_replicas; i++)
        j->replicas[i].sched = own[i];
    return fail;
}

static int run_all(struct job *j, struct err *e)
{
    const char *policies[MAX_LIST], *rates[MAX_LIST];
    int n_policies = split_list(j->a->policies ? j->a->policies : "weir,vllm", &j->policy_names, policies, e);
    int n_rates = n_policies < 0 ? n_policies : split_list(j->a->rates ? j->a->rates : "1", &j->rate_names, rates, e);
    if (n_rates < 0)
        return n_rates;
    if (n_policies * n_rates + (int)j->report.n_runs > MAX_RUNS)
        return err_set(e, WEIR_EINVAL, "at most %d runs (policies x rates) at once", MAX_RUNS);
    for (int i = 0; i < n_rates; i++) {
        char *end;
        double scale = strtod(rates[i], &end);
        if (*end || !(scale > 0 && scale < 1e6))
            return err_set(e, WEIR_EINVAL, "--rate-scale takes positive numbers, not '%s'", rates[i]);
        for (int k = 0; k < n_policies; k++) {
            int fail = run_one(j, policies[k], scale, e);
            if (fail)
                return fail;
        }
    }
    end_bar();
    return 0;
}

/* --- traffic ---------------------------------------------------------------------------------------------------- */

/* The live run is the first row. Its figures move to the report. */
static int open_recording(struct job *j, struct err *e)
{
    struct playback *p = &j->playback;
    begin_bar(j, "playing");
    int fail = playback_open(p, j->path, progress, j, e);
    end_bar();
    if (fail)
        return fail;
    j->is_recording = true;
    j->report.playback = p;
    j->report.slo.itl_s = p->sched.itl_target_s;
    if (p->sched.ttft_limit_s > 0)
        j->report.slo.ttft_s = p->sched.ttft_limit_s;
    if (j->a->slo)
        fail = parse_slo(j->a->slo, &j->report.slo, e);
    struct replay_replica live = {.name = "recorded", .sched = p->sched, .fitted = p->n_fitted ? &p->fitted : NULL};
    struct replay_run *run = &j->runs[0];
    *run = (struct replay_run){.label = "live",
                               .policy = p->policy,
                               .is_live = true,
                               .max_step_tokens = p->sched.max_step_tokens,
                               .max_running = p->sched.max_running,
                               .rate_scale = 1,
                               .capacity = capacity(&live, 1),
                               .result = p->live};
    p->live = (struct replay_result){0};
    j->report.n_runs = 1;
    j->replicas[0] = live;
    j->config.n_replicas = 1;
    return fail ? fail : replay_summarise(&run->result, &j->report.slo, &run->capacity, &run->summary, e);
}

static int open_traffic(struct job *j, struct err *e)
{
    const struct replay_args *a = j->a;
    int fail = 0;
    if (a->synthetic)
        fail = trace_synthesise(&j->trace, &a->s, e);
    else if (record_is_recording(j->path))
        return open_recording(j, e);
    else
        fail = trace_read(&j->trace, j->path, e);
    if (!fail && a->slo)
        fail = parse_slo(a->slo, &j->report.slo, e);
    return fail;
}

/* What the requests run on: --model, or a recording's own. */
static int open_model(struct job *j, struct err *e)
{
    const struct replay_args *a = j->a;
    if (j->is_recording && !a->model) {
        j->config.model = j->playback.sched.model;
        j->report.model = j->playback.model;
        j->report.weights = j->report.kv = "recorded";
        return 0;
    }
    int fail = shape_open(&j->shape, a->model ? a->model : "llama-3.1-8b", e);
    if (!fail)
        fail = shape_traffic(&j->shape, a->weights, a->kv, &j->config.model, e);
    j->report.model = j->shape.name;
    j->report.weights = a->weights ? a->weights : j->shape.exact ? j->shape.file_format : "bf16";
    j->report.kv = a->kv ? a->kv : "f16";
    return fail;
}

static int write_report(const struct job *j, struct err *e)
{
    const struct replay_args *a = j->a;
    struct buf b;
    int fail = 0;
    buf_init(&b, MAX_REPORT_BYTES);
    if (a->html_path) {
        replay_report_html(&j->report, &b);
        fail = page_write(&b, a->html_path, e);
        buf_clear(&b);
    }
    if (!fail && a->json_path) {
        replay_report_json(&j->report, &b);
        fail = page_write(&b, a->json_path, e);
        buf_clear(&b);
    }
    bool stdout_is_taken = (a->json_path && !strcmp(a->json_path, "-")) || (a->html_path && !strcmp(a->html_path, "-"));
    if (!fail && !stdout_is_taken) {
        replay_report_text(&j->report, &b);
        fail = page_write(&b, "-", e);
    }
    buf_finish(&b);
    return fail;
}

static int replay(struct job *j, struct err *e)
{
    const struct replay_args *a = j->a;
    int fail = open_traffic(j, e);
    if (!fail)
        fail = open_model(j, e);
    bool simulates = !j->is_recording || a->policies || a->device || a->model || a->rates || asks_for_scheduling(a);
    if (!fail && simulates) {
        int n = make_replicas(j, e);
        j->config.n_replicas = n > 0 ? (uint32_t)n : 0;
        fail = n < 0 ? n : apply_prices(j, e);
    }
    struct trace *t = j->is_recording ? &j->playback.trace : &j->trace;
    if (a->limit && a->limit < t->n_requests)
        t->n_requests = a->limit;
    j->config.trace = t;
    j->report.n_requests = t->n_requests;
    j->report.n_replicas = j->config.n_replicas;
    if (!fail && simulates)
        fail = run_all(j, e);
    if (!fail)
        fail = write_report(j, e);
    if (!fail && *j->playback.difference)
        fail =
            err_set(e, WEIR_EFORMAT, "%s: the decisions could not be reproduced: %s", j->path, j->playback.difference);
    return fail;
}

static int run_job(const struct replay_args *a, const char *path, struct err *e)
{
    struct job *j = mem_array(1, sizeof *j);
    if (!j)
        return err_set(e, WEIR_ENOMEM, "no memory");
    j->a = a;
    j->path = path;
    j->config = (struct replay_config){.replicas = j->replicas,
                                       .max_new_tokens = a->max_tokens,
                                       .noise = a->noise,
                                       .slow_from_s = a->slow_from_s,
                                       .slow_to_s = a->slow_to_s,
                                       .slow_factor = a->slow_factor,
                                       .seed = a->seed,
                                       .progress = progress,
                                       .user = j};
    j->report = (struct replay_report){.source = path ? path : "synthetic traffic",
                                       .replicas = j->replicas,
                                       .tensor_parallel = a->tensor_parallel,
                                       .seed = a->seed,
                                       .slo = {.ttft_s = 2, .itl_s = 0.1},
                                       .runs = j->runs};
    int fail = replay(j, e);
    for (uint32_t i = 0; i < j->report.n_runs; i++)
        replay_result_finish(&j->runs[i].result);
    playback_close(&j->playback);
    trace_finish(&j->trace);
    free(j->device_names);
    free(j->policy_names);
    free(j->rate_names);
    free(j);
    return fail;
}

/* --- the command ------------------------------------------------------------------------------------------------ */

static void print_help(const struct option_def *defs)
{
    printf("usage: weir replay TRACE [options]\n"
           "       weir replay RECORDING [options]\n"
           "       weir replay --synthetic [options]\n\n"
           "Runs the scheduler of `weir serve` against a trace on simulated devices, and compares policies.\n"
           "Traces: the Azure LLM inference trace (CSV), Mooncake (JSON lines), or CSV or JSON lines with the columns\n"
           "arrival_s, prompt_tokens, output_tokens and, if known, max_tokens, conversation, key, priority.\n"
           "Recordings: of `weir serve --record`. Alone: reproduces the live decisions and says whether all are equal\n"
           "(exit status 1 if not). With --policy, --device, --model, --rate-scale, --retention, --speculative-limit,\n"
           "--pin-limit or --max-preemptions also: what would have been.\n");
    options_help(defs);
    printf("\nExamples:\n"
           "  weir replay AzureLLMInferenceTrace_conv.csv --model llama-3.1-8b --device h100-sxm --html report.html\n"
           "  weir replay conversation_trace.jsonl --model llama-3.1-70b --weights fp8 --device h200 --tp 2 \\\n"
           "              --rate-scale 0.5,1,2 --slo ttft=5,itl=0.1 --json out.json\n"
           "  weir replay trace.csv --policy weir,vllm,vllm:max-step-tokens=2048,weir-without-budget.json\n"
           "  weir replay trace.csv --device 2xh100-sxm,4xl40s --price h100-sxm=2.5 --price l40s=0.9\n"
           "  weir replay --synthetic --requests 1000000 --rate 20 --mean-turns 3 --shared-prefix 512\n"
           "  weir replay flight.rec                                  # what the server did, decision by decision\n"
           "  weir replay flight.rec --policy weir,vllm --rate-scale 1,2\n");
}

int cmd_replay(int argc, char **argv)
{
    struct replay_args a = {.replicas = 1,
                            .tensor_parallel = 1,
                            .max_running = 256,
                            .max_queued = 100000,
                            .max_step_tokens = 8192,
                            .chunk_tokens = 32,
                            .max_tokens = 2048,
                            .memory_fraction = 0.9,
                            .speculative_limit = NAN,
                            .pin_limit = NAN,
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
        OPTION("device", OPT_STR, &a.device, "LIST",
               "hardware profiles: names or files, 2xNAME for two (default h100-sxm)"),
        OPTION("replicas", OPT_U32, &a.replicas, "N", "replicas of each device (default 1)", .min = 1, .max = 64),
        OPTION("tp", OPT_U32, &a.tensor_parallel, "N", "devices that share one replica (default 1)", .min = 1,
               .max = 64),
        OPTION("memory-fraction", OPT_F64, &a.memory_fraction, "F", "of the device's memory to use (default 0.9)",
               .min = 0.01, .max = 1),
        OPTION("price", OPT_LIST, &a.prices, "[DEVICE=]P", "price of a device-hour (may be repeated)"),
        OPTIONS_TITLE("Scheduling"),
        OPTION("policy", OPT_STR, &a.policies, "LIST",
               "weir, fcfs, vllm, contiguous, static, compute-first, files (default weir,vllm); each may have "
               "settings: vllm:max-step-tokens=2048:max-running=256:max-queued=64"),
        OPTION("router", OPT_STR, &a.router, "NAME",
               "which replica gets a request: headroom (default of weir) or least-loaded (default of others)"),
        OPTION("bandwidth-limit", OPT_F64, &a.bandwidth_limit, "F",
               "share of the inter-token target that weir plans to use (default 0.8)", .max = 1),
        OPTION("max-running", OPT_U32, &a.max_running, "N", "sequences in a step (default 256)", .min = 1,
               .max = 1 << 16),
        OPTION("max-queued", OPT_U32, &a.max_queued, "N", "waiting requests (default 100000)", .min = 1,
               .max = 1 << 24),
        OPTION("max-step-tokens", OPT_U32, &a.max_step_tokens, "N", "tokens in a step (default 8192)", .min = 1,
               .max = 1 << 20),
        OPTION("chunk-tokens", OPT_U32, &a.chunk_tokens, "N", "tokens in a KV chunk (default 32)", .min = 1,
               .max = 256),
        OPTION("ctx", OPT_U32, &a.max_context, "TOKENS", "context limit (default: the model's)", .max = 1 << 24),
        OPTION("max-tokens", OPT_U32, &a.max_tokens, "N", "output limit of requests that state none (default 2048)",
               .min = 1, .max = 1 << 20),
        OPTION("no-prefix-cache", OPT_FLAG, &a.no_prefix_cache, NULL, "do not share and keep equal prefixes"),
        OPTION("retention", OPT_STR, &a.retention, "KIND",
               "which cached prefix goes first: value, lru (default value; baselines: always lru)"),
        OPTION("pin-limit", OPT_F64, &a.pin_limit, "F", "share of the KV memory that may be pinned (default 0.1)",
               .max = 0.9),
        OPTION("speculative-limit", OPT_F64, &a.speculative_limit, "F",
               "share of free memory and bandwidth kept for conversations that may go on (default 0.3)", .max = 1),
        OPTION("max-preemptions", OPT_U32, &a.max_preemptions, "N",
               "who was preempted so often is preempted no more, and goes first (default 4; not the field's policies)",
               .min = 1, .max = 1000),
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
        OPTION("gap-sigma", OPT_F64, &a.s.gap_sigma, "S", "of its logarithm (default 1)", .max = 5),
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
        OPTION("html", OPT_STR, &a.html_path, "FILE", "the same as one page with charts"),
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
        fail = run_job(&a, a.synthetic ? NULL : o.positional[0], &e);
    if (fail)
        fprintf(stderr, "weir replay: %s\n", e.msg);
    options_finish(&o);
    return fail ? (fail == WEIR_EINVAL || fail == WEIR_ENOTFOUND ? 2 : status) : 0;
}
