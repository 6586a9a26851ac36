#include "cli/load.h"

#include "base/clock.h"
#include "base/embed.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/policy.h"
#include "model/forward.h"
#include "model/gguf.h"
#include "model/model.h"
#include "model/shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEMPLATE_BYTES ((size_t)4 << 20)
#define BANDWIDTH_PROBE_BYTES ((size_t)256 << 20) /* several times the last-level cache of one thread's share */
#define BANDWIDTH_PROBE_S 0.15
#define ARITHMETIC_PROBE_S 0.05

void load_config_default(struct load_config *c)
{
    *c = (struct load_config){.kv_type = "f16",
                              .max_running = 32,
                              .max_queued = 256,
                              .max_step_tokens = 512,
                              .chunk_tokens = 32,
                              .policy = "weir",
                              .itl_target_s = 0.1,
                              .age_bound_s = 30,
                              .bandwidth_limit = 0.8,
                              .retention = "value",
                              .pin_limit = 0.1,
                              .speculative_limit = 0.3,
                              .max_preemptions = 4,
                              .log_level = "info",
                              .log_format = "text"};
}

static int choose(const char *what, const char *value, const char *const *names, struct err *e)
{
    for (int i = 0; names[i]; i++) {
        if (!strcmp(names[i], value))
            return i;
    }
    struct buf list;
    buf_init(&list, 256);
    for (int i = 0; names[i]; i++)
        buf_printf(&list, "%s%s", i ? ", " : "", names[i]);
    err_set(e, WEIR_EINVAL, "--%s: '%s' is not one of %s", what, value, list.data);
    buf_finish(&list);
    return WEIR_EINVAL;
}

int load_setup_log(const struct load_config *c, struct err *e)
{
    static const char *const levels[] = {"debug", "info", "warn", "error", "off", NULL};
    static const char *const formats[] = {"text", "json", NULL};
    int level = choose("log-level", c->log_level, levels, e);
    int format = level < 0 ? level : choose("log-format", c->log_format, formats, e);
    if (format < 0)
        return format;
    log_setup((enum log_level)level, (enum log_format)format);
    return 0;
}

static uint64_t read_number(const char *path, const char *key, uint64_t unit)
{
    char *text;
    size_t n;
    if (file_read(path, 65536, &text, &n, NULL))
        return UINT64_MAX;
    const char *at = *key ? strstr(text, key) : text;
    char *end = text;
    uint64_t v = at ? strtoull(at + strlen(key), &end, 10) : 0;
    bool valid = at && end != at + strlen(key);
    free(text);
    return valid ? v * unit : UINT64_MAX;
}

/* Memory that this process may still take: the machine's, or its control group's if that is less. */
static uint64_t available_bytes(void)
{
    uint64_t machine = read_number("/proc/meminfo", "MemAvailable:", 1024);
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", "", 1);
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "", 1);
    if (limit != UINT64_MAX && used != UINT64_MAX) {
        uint64_t left = limit > used ? limit - used : 0;
        if (left < machine)
            return left;
    }
    return machine == UINT64_MAX ? (uint64_t)4 << 30 : machine;
}

/* A model that does not fit is not read at the start: it would push itself out again. */
static bool fits_memory(const struct model *m)
{
    uint64_t total = gguf_file_bytes(m->file);
    if (total <= available_bytes())
        return true;
    LOG(LOG_WARN, "the model is larger than free memory: it will be read from disk again and again",
        {"model_bytes", log_u64(total)});
    return false;
}

/* On a terminal: how much of the weights has been read, and how fast. */
struct load_progress {
    const struct model *model;
    double began_s;
    unsigned shown;
};

static void show_progress(double fraction, void *user)
{
    struct load_progress *p = user;
    unsigned percent = (unsigned)(fraction * 100);
    if (percent == p->shown)
        return;
    p->shown = percent;
    double bytes = fraction * (double)p->model->weight_bytes, seconds = clock_monotonic_s() - p->began_s;
    fprintf(stderr, "\rloading %s: %3u %%, %.1f GB/s%s", p->model->name, percent, bytes / seconds / 1e9,
            percent == 100 ? "\n" : "");
}

static int open_model(struct loaded *l, const struct load_config *c, struct err *e)
{
    struct gguf *file;
    int r;
    if (c->model_path) {
        r = gguf_open(&file, c->model_path, e);
    } else {
        const struct embed_file *demo = embed_find("demo_model");
        if (!demo)
            return err_set(e, WEIR_EINVAL, "this build carries no demo model: give the path of a GGUF file");
        r = gguf_open_memory(&file, demo->begin, (size_t)(demo->end - demo->begin), e);
    }
    if (r)
        return r;
    r = tokenizer_create(&l->tokenizer, file, e);
    if (!r)
        r = model_open(&l->model, file, e);
    if (r) {
        gguf_close(file);
        return c->model_path ? err_prefix(e, "%s", c->model_path) : r;
    }
    return forward_create(&l->forward, l->model, e);
}

static int open_template(struct loaded *l, const struct load_config *c, struct err *e)
{
    char *source = NULL;
    size_t n = 0;
    int r = c->template_path ? file_read(c->template_path, MAX_TEMPLATE_BYTES, &source, &n, e) : 0;
    if (!r)
        r = chat_template_open(&l->chat, l->model->file, l->tokenizer, source, NULL, e);
    free(source);
    if (r == WEIR_ENOTFOUND)
        return 0; /* completions only */
    if (r)
        return err_prefix(e, "chat template%s%s", c->template_path ? " " : "",
                          c->template_path ? c->template_path : "");
    l->template_knows_developer = chat_template_mentions(l->chat, "developer");
    return 0;
}

/* Chunks and context that go together: what is asked for, else what fits. */
static int size_kv(struct loaded *l, const struct load_config *c, struct err *e)
{
    struct engine_config *ec = &l->config;
    size_t chunk_bytes = device_chunk_bytes(l->model, ec->device.kv_type, c->chunk_tokens);
    uint64_t context = c->context ? c->context : l->model->n_ctx_train;
    uint64_t per_seq = (context + c->chunk_tokens - 1) / c->chunk_tokens;
    uint64_t useful = per_seq * c->max_running, n = c->kv_chunks;
    /* Weights in the page cache count as available; they are to stay there. */
    uint64_t free_bytes = available_bytes(), weights = gguf_file_bytes(l->model->file);
    uint64_t budget = c->kv_memory_bytes ? c->kv_memory_bytes : free_bytes > weights ? (free_bytes - weights) / 2 : 0;
    if (!n && c->kv_memory_bytes)
        n = budget / chunk_bytes;
    else if (!n)
        n = budget / chunk_bytes < useful ? budget / chunk_bytes : useful;
    if (!n || n > UINT32_MAX / 2)
        return err_set(e, WEIR_EINVAL, "KV memory of %llu chunks of %zu bytes is not usable; see --kv-memory",
                       (unsigned long long)n, chunk_bytes);
    if (n < per_seq && c->context)
        return err_set(e, WEIR_EINVAL,
                       "a context of %llu tokens needs %llu KV chunks (%.1f GiB), but there are %llu; lower --ctx, "
                       "raise --kv-memory or use --kv-type q8_0",
                       (unsigned long long)context, (unsigned long long)per_seq,
                       (double)per_seq * (double)chunk_bytes / (1 << 30), (unsigned long long)n);
    if (n < per_seq)
        context = n * c->chunk_tokens;
    ec->sched.n_chunks = (uint32_t)n;
    ec->sched.max_context = (uint32_t)context;
    l->kv_bytes = (size_t)n * chunk_bytes;
    return 0;
}

/* The type that most of the weights' bytes have. */
static enum tensor_type main_weight_type(const struct gguf *file)
{
    uint64_t bytes[TENSOR_TYPE_COUNT] = {0};
    enum tensor_type most = gguf_tensor_at(file, 0)->type;
    for (uint64_t i = 0; i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        bytes[t->type] += t->n_bytes;
        most = bytes[t->type] > bytes[most] ? t->type : most;
    }
    return most;
}

/* What the scheduler knows of the model and believes of the machine: its read bandwidth, as told or measured now for a
 * moment, and a rough guess of its arithmetic. Steps correct both. */
static int describe_work(struct loaded *l, const struct load_config *c, struct err *e)
{
    struct sched_config *sc = &l->config.sched;
    struct shape shape;
    int r = shape_from_gguf(&shape, l->model->file, e);
    if (!r)
        r = shape_traffic(&shape, NULL, c->kv_type, &sc->model, e);
    if (r)
        return r;
    sc->model.kv_token_bytes =
        2.0 * l->model->n_head_kv * (double)kv_row_bytes(l->config.device.kv_type, l->model->head_dim);
    device_cpu_describe(l->model, &l->config.device, &sc->model);
    double bytes_per_s = c->read_bytes_per_s;
    if (bytes_per_s <= 0)
        r = device_cpu_read_bandwidth(c->threads, BANDWIDTH_PROBE_BYTES, BANDWIDTH_PROBE_S, &bytes_per_s, e);
    if (r)
        return r;
    const enum tensor_type type = main_weight_type(l->model->file);
    double flops_per_s = 0, prompt_flops_per_s = 0;
    r = device_cpu_matmul_rate(type, false, c->threads, ARITHMETIC_PROBE_S, &flops_per_s, e);
    if (!r && sc->model.prompt_way)
        r = device_cpu_matmul_rate(type, true, c->threads, ARITHMETIC_PROBE_S, &prompt_flops_per_s, e);
    if (r)
        return r;
    sc->has_model = true;
    sc->device = (struct calibrate_prior){.bytes_per_s = bytes_per_s,
                                          .matmul_flops_per_s = flops_per_s,
                                          .prompt_flops_per_s = prompt_flops_per_s,
                                          .confidence = 0.2};
    return 0;
}

/* "itl=0.5,ttft=10,weight=0.25", each at most once. */
static int parse_tier(const char *option, const char *text, struct sched_class *out, struct err *e)
{
    char copy[128], *rest = copy;
    if (!text)
        return 0;
    if (strlen(text) >= sizeof copy)
        return err_set(e, WEIR_EINVAL, "--%s: too long", option);
    memcpy(copy, text, strlen(text) + 1);
    for (char *item; (item = strsep(&rest, ","));) {
        double v;
        char end;
        double *to = NULL;
        if (sscanf(item, "itl=%lf%c", &v, &end) == 1)
            to = &out->itl_target_s;
        else if (sscanf(item, "ttft=%lf%c", &v, &end) == 1)
            to = &out->ttft_limit_s;
        else if (sscanf(item, "weight=%lf%c", &v, &end) == 1 && v >= 1e-3 && v <= 1e3)
            to = &out->weight;
        if (!to || *to > 0 || !(v > 0 && v < 1e6))
            return err_set(e, WEIR_EINVAL,
                           "--%s is like itl=0.5,ttft=10,weight=0.25 (seconds; a weight of 0.001 to 1000), not '%s'",
                           option, text);
        *to = v;
    }
    return 0;
}

static int start_engine(struct loaded *l, const struct load_config *c, struct err *e)
{
    static const char *const kv_types[] = {"f16", "q8_0", NULL};
    int kv_type = choose("kv-type", c->kv_type, kv_types, e);
    if (kv_type < 0)
        return kv_type;
    static const char *const retentions[] = {"value", "lru", NULL};
    int retention = choose("retention", c->retention, retentions, e);
    if (retention < 0)
        return retention;
    l->config = (struct engine_config){
        .sched = {.chunk_tokens = c->chunk_tokens,
                  .max_running = c->max_running,
                  .max_queued = c->max_queued,
                  .max_step_tokens = c->max_step_tokens > c->max_running ? c->max_step_tokens : c->max_running,
                  .prefix_cache = !c->no_prefix_cache,
                  .pipeline = &l->policy,
                  .itl_target_s = c->itl_target_s,
                  .ttft_limit_s = c->ttft_limit_s,
                  .high = l->high,
                  .low = l->low,
                  .age_bound_s = c->age_bound_s,
                  .bandwidth_limit = c->bandwidth_limit,
                  .lru_retention = retention == 1,
                  .pin_limit = c->pin_limit > 0 ? c->pin_limit : -1,
                  .speculative_limit = c->speculative_limit > 0 ? c->speculative_limit : -1,
                  .max_preemptions = c->max_preemptions},
        .device = {.n_threads = c->threads, .pin_threads = !c->no_pin, .kv_type = kv_type ? KV_Q8_0 : KV_F16},
        .max_inbox = c->max_queued + c->max_running,
        .no_accounts = c->no_accounts,
        .record_path = c->record_path,
        .record_max_bytes = c->record_max_bytes,
    };
    struct load_progress progress = {.model = l->model};
    struct device_config *d = &l->config.device;
    d->lazy_weights = !fits_memory(l->model);
    if (!c->quiet && isatty(STDERR_FILENO)) {
        d->progress = show_progress;
        d->progress_user = &progress;
    }
    int r = size_kv(l, c, e);
    if (!r)
        r = describe_work(l, c, e);
    progress.began_s = clock_monotonic_s();
    return r ? r : engine_create(&l->engine, l->forward, l->tokenizer, &l->config, e);
}

int load_open(struct loaded *l, const struct load_config *c, struct err *e)
{
    *l = (struct loaded){0};
    double began = clock_monotonic_s();
    int r = policy_open(&l->policy, c->policy, e);
    if (!r)
        r = parse_tier("tier-priority", c->tier_priority, &l->high, e);
    if (!r)
        r = parse_tier("tier-flex", c->tier_flex, &l->low, e);
    if (!r)
        r = open_model(l, c, e);
    if (!r)
        r = open_template(l, c, e);
    if (!r)
        r = start_engine(l, c, e);
    l->seconds = clock_monotonic_s() - began;
    if (r)
        load_close(l);
    return r;
}

void load_stop_engine(struct loaded *l)
{
    engine_destroy(l->engine);
    l->engine = NULL;
}

void load_close(struct loaded *l)
{
    load_stop_engine(l);
    chat_template_destroy(l->chat);
    forward_destroy(l->forward);
    tokenizer_destroy(l->tokenizer);
    model_close(l->model);
    *l = (struct loaded){0};
}
