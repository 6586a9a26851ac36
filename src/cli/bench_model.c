/* `weir bench model`: prefill and decode of a real model file on the CPU device, against what memory gives. */
#include "cli/bench_model.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/options.h"
#include "device/device.h"
#include "model/forward.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_TOKENS 32
#define MAX_PROMPT (1 << 22)

struct bench {
    const char *path, *kv_type, *prompt_list;
    uint32_t threads, gen, streams, step_tokens, prefill, repeat;
    double read_gb_s; /* measured if 0 */
    bool json;

    struct model *model;
    struct forward *forward;
    struct device *device;
    double load_s;
    uint32_t *prompt; /* [streams]: tokens of each stream's prompt */
    uint32_t longest; /* the stream of the longest one */
    int32_t *tokens;  /* [longest prompt + gen] */
    uint32_t *chunks; /* [streams][chunks_per_stream] */
    uint32_t chunks_per_stream;
    double best_step_s;
    double *prefill_rate, *decode_rate; /* [repeat]: tokens/s of each run */
    struct read_probe *probe;           /* NULL: read_gb_s was given */
    double *read_rate;                  /* [repeat * (gen / STEPS_PER_READ + 1)], bytes/s */
    uint32_t n_read;
};

/* Memory is measured between the steps: after the first and every so many. */
#define READ_BYTES ((size_t)192 << 20)
#define STEPS_PER_READ 8

/* What a phase took and moved. */
struct phase {
    double seconds;
    uint64_t n_tokens;
    struct step_traffic traffic;
};

static void add_step(struct phase *p, const struct step_result *r, uint32_t n_tokens)
{
    p->seconds += r->seconds;
    p->n_tokens += n_tokens;
    p->traffic.weight_bytes += r->traffic.weight_bytes;
    p->traffic.kv_read_bytes += r->traffic.kv_read_bytes;
    p->traffic.kv_write_bytes += r->traffic.kv_write_bytes;
    p->traffic.activation_bytes += r->traffic.activation_bytes;
    p->traffic.flops += r->traffic.flops;
}

static int run_step(struct bench *b, const struct step *s, struct phase *p, struct err *e)
{
    struct step_result r;
    int rc = device_start(b->device, s, e);
    if (!rc)
        rc = device_wait(b->device, &r, e);
    if (!rc)
        add_step(p, &r, s->n_rows);
    return rc;
}

static uint32_t *chunks_of(const struct bench *b, uint32_t stream)
{
    return b->chunks + (size_t)stream * b->chunks_per_stream;
}

/* The first n tokens of a stream's prompt alone, in steps of step_tokens. */
static int prefill_stream(struct bench *b, uint32_t stream, uint32_t n_tokens, struct phase *p, struct err *e)
{
    for (uint32_t past = 0; past < n_tokens;) {
        uint32_t n = n_tokens - past < b->step_tokens ? n_tokens - past : b->step_tokens, last = n - 1;
        const struct step_seq q = {.n_rows = n,
                                   .n_past = past,
                                   .chunks = chunks_of(b, stream),
                                   .n_chunks = b->chunks_per_stream,
                                   .n_prompt = n_tokens};
        past += n;
        const struct step s = {.n_rows = n,
                               .n_seqs = 1,
                               .n_outputs = past == n_tokens,
                               .tokens = b->tokens + past - n,
                               .seqs = &q,
                               .output_rows = &last};
        int rc = run_step(b, &s, p, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* Every stream's prompt; or only the beginning of the longest, whose keys and values fill all caches over and over. */
static int prefill(struct bench *b, struct phase *p, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && !b->prefill && i < b->streams; i++)
        rc = prefill_stream(b, i, b->prompt[i], p, e);
    if (rc || !b->prefill)
        return rc;
    rc = prefill_stream(b, b->longest, b->prefill, p, e);
    uint32_t n_filled = (b->prefill + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    const uint32_t *from = chunks_of(b, b->longest);
    for (uint32_t i = 0; !rc && i < b->streams; i++) {
        uint32_t *to = chunks_of(b, i);
        for (uint32_t c = 0; c * CHUNK_TOKENS < b->prompt[i]; c++) {
            if (to[c] != from[c % n_filled])
                device_copy_chunk(b->device, from[c % n_filled], to[c], CHUNK_TOKENS);
        }
    }
    return rc;
}

/* One token of every stream a step. */
static int decode(struct bench *b, struct phase *p, struct err *e)
{
    struct step_seq *seqs = mem_array(b->streams, sizeof *seqs);
    uint32_t *rows = mem_array(b->streams, sizeof *rows);
    int32_t *tokens = mem_array(b->streams, sizeof *tokens);
    int rc = seqs && rows && tokens ? 0 : err_set(e, WEIR_ENOMEM, "no memory for the steps");
    for (uint32_t g = 0; !rc && g < b->gen; g++) {
        for (uint32_t i = 0; i < b->streams; i++) {
            rows[i] = i;
            tokens[i] = b->tokens[b->prompt[i] + g];
            seqs[i] = (struct step_seq){.first_row = i,
                                        .n_rows = 1,
                                        .n_past = b->prompt[i] + g,
                                        .chunks = chunks_of(b, i),
                                        .n_chunks = b->chunks_per_stream};
        }
        const struct step s = {.n_rows = b->streams,
                               .n_seqs = b->streams,
                               .n_outputs = b->streams,
                               .tokens = tokens,
                               .seqs = seqs,
                               .output_rows = rows};
        double before = p->seconds;
        rc = run_step(b, &s, p, e);
        double step_s = p->seconds - before;
        b->best_step_s = b->best_step_s > 0 && b->best_step_s < step_s ? b->best_step_s : step_s;
        if (!rc && b->probe && g % STEPS_PER_READ == 0)
            b->read_rate[b->n_read++] = device_cpu_read_probe_pass(b->probe);
    }
    free(seqs);
    free(rows);
    free(tokens);
    return rc;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* The phases are sums over all runs; rates are medians of the runs'. */
static void report(struct bench *b, const struct phase *pre, const struct phase *dec)
{
    const struct step_traffic *t = &dec->traffic;
    double n_steps = (double)b->gen * b->repeat;
    /* Activations stay in the caches; what comes from memory is weights, keys and values. */
    double kv_bytes = (double)(t->kv_read_bytes + t->kv_write_bytes) / n_steps;
    double bytes = (double)t->weight_bytes / n_steps + kv_bytes;
    double prefill_rate = median(b->prefill_rate, b->repeat), decode_rate = median(b->decode_rate, b->repeat);
    if (b->probe)
        b->read_gb_s = median(b->read_rate, b->n_read) / 1e9;
    double step_s = b->streams / decode_rate, gb_s = bytes / step_s / 1e9;
    double prefill_gflop_s = pre->traffic.flops / (double)pre->n_tokens * prefill_rate / 1e9;
    if (b->json) {
        printf("{\"model\": \"%s\", \"threads\": %u, \"prompt\": \"%s\", \"streams\": %u, \"kv_type\": \"%s\", "
               "\"repeat\": %u, \"read_gb_s\": %.3f, \"load_s\": %.3f, \"prefill_tokens_s\": %.2f, "
               "\"prefill_gflop_s\": %.2f, \"decode_tokens_s\": %.2f, \"step_s\": %.6f, \"step_s_best\": %.6f, "
               "\"step_bytes\": %.0f, \"step_kv_bytes\": %.0f, \"step_gflop\": %.3f, \"decode_gb_s\": %.3f, "
               "\"share\": %.4f}\n",
               b->model->arch_name, b->device->config.n_threads, b->prompt_list, b->streams, b->kv_type, b->repeat,
               b->read_gb_s, b->load_s, prefill_rate, prefill_gflop_s, decode_rate, step_s, b->best_step_s, bytes,
               kv_bytes, t->flops / n_steps / 1e9, gb_s, gb_s / b->read_gb_s);
        return;
    }
    printf("model      %s, %.1f MB of weights, %u threads, %u stream(s)\n", b->model->name,
           (double)b->model->weight_bytes / 1e6, b->device->config.n_threads, b->streams);
    printf("load       %8.2f s, %.2f GB/s\n", b->load_s, (double)b->model->weight_bytes / b->load_s / 1e9);
    printf("read       %8.2f GB/s, %s\n", b->read_gb_s, b->probe ? "measured between the steps" : "as given");
    printf("prefill    %8.1f tokens/s, prompts of %s, %.1f GFLOP/s\n", prefill_rate, b->prompt_list, prefill_gflop_s);
    printf("decode     %8.1f tokens/s, %.2f ms a step (best %.2f)\n", decode_rate, step_s * 1e3, b->best_step_s * 1e3);
    printf("           %8.2f GB/s, %.0f %% of the measured bandwidth; %.1f MB of weights, %.2f of keys and values a "
           "step\n",
           gb_s, 100 * gb_s / b->read_gb_s, (double)t->weight_bytes / n_steps / 1e6, kv_bytes / 1e6);
}

/* "8192,1024": the prompt of the first stream, then of all others. */
static int read_prompts(struct bench *b, struct err *e)
{
    const char *at = b->prompt_list;
    b->prompt = mem_array(b->streams, sizeof *b->prompt);
    if (!b->prompt)
        return err_set(e, WEIR_ENOMEM, "no memory for the prompts");
    for (uint32_t i = 0; i < b->streams; i++) {
        if (*at) {
            char *end;
            unsigned long n = strtoul(at, &end, 10);
            if (*at < '0' || *at > '9' || (*end && *end != ',') || n < 1 || n > MAX_PROMPT)
                return err_set(e, WEIR_EINVAL, "--prompt is '%s'; it takes numbers from 1 to %d with commas between",
                               b->prompt_list, MAX_PROMPT);
            b->prompt[i] = (uint32_t)n;
            at = end + (*end == ',');
        } else {
            b->prompt[i] = b->prompt[i - 1];
        }
        if (b->prompt[i] > b->prompt[b->longest])
            b->longest = i;
    }
    if (*at)
        return err_set(e, WEIR_EINVAL, "--prompt names more prompts than the %u of --streams", b->streams);
    if (b->prefill > b->prompt[b->longest])
        return err_set(e, WEIR_EINVAL, "--prefill is more than the longest prompt");
    return 0;
}

static int open_device(struct bench *b, struct err *e)
{
    struct gguf *file = NULL;
    int rc = gguf_open(&file, b->path, e);
    if (rc)
        return rc;
    if ((rc = model_open(&b->model, file, e))) {
        gguf_close(file);
        return rc;
    }
    if ((rc = forward_create(&b->forward, b->model, e)))
        return rc;
    uint32_t total = b->prompt[b->longest] + b->gen;
    b->chunks_per_stream = (total + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    const struct device_config c = {.n_threads = b->threads,
                                    .pin_threads = true,
                                    .kv_type = !strcmp(b->kv_type, "q8_0") ? KV_Q8_0 : KV_F16,
                                    .chunk_tokens = CHUNK_TOKENS,
                                    .n_chunks = b->streams * b->chunks_per_stream,
                                    .max_step_tokens = b->step_tokens > b->streams ? b->step_tokens : b->streams,
                                    .max_step_seqs = b->streams,
                                    .max_outputs = b->streams,
                                    .max_context = total};
    double begin_s = clock_monotonic_s();
    if ((rc = device_cpu_create(&b->device, b->forward, &c, e)))
        return rc;
    b->load_s = clock_monotonic_s() - begin_s;
    b->tokens = mem_array(total, sizeof *b->tokens);
    b->chunks = mem_array(c.n_chunks, sizeof *b->chunks);
    b->prefill_rate = mem_array(b->repeat, sizeof *b->prefill_rate);
    b->decode_rate = mem_array(b->repeat, sizeof *b->decode_rate);
    b->read_rate = mem_array((size_t)b->repeat * (b->gen / STEPS_PER_READ + 1), sizeof *b->read_rate);
    if (!b->tokens || !b->chunks || !b->prefill_rate || !b->decode_rate || !b->read_rate)
        return err_set(e, WEIR_ENOMEM, "no memory for the prompt");
    struct rng r = {1};
    for (uint32_t i = 0; i < total; i++)
        b->tokens[i] = (int32_t)rng_below(&r, b->model->n_vocab);
    for (uint32_t i = 0; i < c.n_chunks; i++)
        b->chunks[i] = i;
    return 0;
}

static int run(struct bench *b, struct err *e)
{
    struct phase pre = {0}, dec = {0};
    int rc = read_prompts(b, e);
    if (!rc)
        rc = open_device(b, e);
    if (!rc && !(b->read_gb_s > 0))
        rc = device_cpu_read_probe_create(&b->probe, b->threads, READ_BYTES, e);
    struct phase warm_up = {0}; /* scratch and caches are touched for the first time */
    if (!rc)
        rc = prefill_stream(b, b->longest, b->prompt[b->longest] < 512 ? b->prompt[b->longest] : 512, &warm_up, e);
    for (uint32_t i = 0; !rc && i < b->repeat; i++) {
        struct phase was_pre = pre, was_dec = dec;
        rc = prefill(b, &pre, e);
        if (!rc)
            rc = decode(b, &dec, e);
        b->prefill_rate[i] = (double)(pre.n_tokens - was_pre.n_tokens) / (pre.seconds - was_pre.seconds);
        b->decode_rate[i] = (double)(dec.n_tokens - was_dec.n_tokens) / (dec.seconds - was_dec.seconds);
    }
    if (!rc)
        report(b, &pre, &dec);
    return rc;
}

static void finish(struct bench *b)
{
    device_cpu_read_probe_destroy(b->probe);
    device_destroy(b->device);
    forward_destroy(b->forward);
    model_close(b->model);
    free(b->tokens);
    free(b->chunks);
    free(b->prompt);
    free(b->prefill_rate);
    free(b->decode_rate);
    free(b->read_rate);
}

static void help(const struct option_def *defs)
{
    printf(
        "usage: weir bench model MODEL.gguf [options]\n\n"
        "Runs random tokens through a model and prints prefill and decode speed, and the share of the measured read\n"
        "bandwidth that decode reaches. WEIR_ISA (ref, avx2, avx512, vnni, bf16, amx) caps the instructions.\n\n");
    options_help(defs);
    printf("\nexamples:\n"
           "  weir bench model model.gguf                          a prompt of 512, then 64 tokens of one stream\n"
           "  weir bench model model.gguf --prompt 128 --streams 16\n"
           "  weir bench model model.gguf --prompt 8192,1024 --streams 8 --prefill 512 --repeat 5\n"
           "                                                       decode over caches of mixed lengths\n"
           "  weir bench model model.gguf --prompt 4096 --kv-type q8_0 --json\n");
}

int bench_model(int argc, char **argv)
{
    struct bench b = {.kv_type = "f16", .prompt_list = "512", .gen = 64, .streams = 1, .step_tokens = 512, .repeat = 1};
    const struct option_def defs[] = {
        OPTION("threads", OPT_U32, &b.threads, "N", "threads (default: one for each core)", .max = 1024),
        OPTION("prompt", OPT_STR, &b.prompt_list, "N[,N...]",
               "prompt tokens of the first stream, the second ...; the last for all others (default 512)"),
        OPTION("prefill", OPT_U32, &b.prefill, "N",
               "run only N tokens of the longest prompt; copies of their keys and values fill the caches (default: "
               "all of every prompt)"),
        OPTION("gen", OPT_U32, &b.gen, "N", "tokens to decode (default 64)", .min = 1, .max = 1 << 20),
        OPTION("streams", OPT_U32, &b.streams, "N", "sequences decoded together (default 1)", .min = 1, .max = 4096),
        OPTION("step-tokens", OPT_U32, &b.step_tokens, "N", "prompt tokens of a step (default 512)", .min = 1,
               .max = 65536),
        OPTION("kv-type", OPT_STR, &b.kv_type, "TYPE", "f16 or q8_0 (default f16)"),
        OPTION("repeat", OPT_U32, &b.repeat, "N", "runs of both phases; medians are printed (default 1)", .min = 1,
               .max = 1000),
        OPTION("read-gb-s", OPT_F64, &b.read_gb_s, "X", "the machine's read bandwidth (default: measured)"),
        OPTION("json", OPT_FLAG, &b.json, NULL, "one JSON object"),
        OPTIONS_END};
    struct options o;
    struct err e = {0};
    int status = 2;
    int rc = options_parse(&o, defs, argc, argv, &e);
    if (!rc && o.help) {
        help(defs);
        status = 0;
    } else if (!rc && o.n_positional != 1) {
        err_set(&e, WEIR_EINVAL, "name one model file");
    } else if (!rc && strcmp(b.kv_type, "f16") != 0 && strcmp(b.kv_type, "q8_0") != 0) {
        err_set(&e, WEIR_EINVAL, "--kv-type is '%s'; it may be f16 or q8_0", b.kv_type);
    } else if (!rc) {
        b.path = o.positional[0];
        status = run(&b, &e) ? 1 : 0;
    }
    if (e.code)
        fprintf(stderr, "weir bench model: %s\n", e.msg);
    finish(&b);
    options_finish(&o);
    return status;
}
