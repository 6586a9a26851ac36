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

struct bench {
    const char *path, *kv_type;
    uint32_t threads, prompt, gen, streams, step_tokens;
    double read_gb_s; /* measured if 0 */
    bool json;

    struct model *model;
    struct forward *forward;
    struct device *device;
    double load_s;
    int32_t *tokens;  /* [prompt + gen] */
    uint32_t *chunks; /* [streams][chunks_per_stream] */
    uint32_t chunks_per_stream;
    double *step_s; /* [gen] */
};

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

/* Every stream's prompt alone, in steps of step_tokens. */
static int prefill(struct bench *b, struct phase *p, struct err *e)
{
    for (uint32_t i = 0; i < b->streams; i++) {
        for (uint32_t past = 0; past < b->prompt;) {
            uint32_t n = b->prompt - past < b->step_tokens ? b->prompt - past : b->step_tokens, last = n - 1;
            const struct step_seq q = {.n_rows = n,
                                       .n_past = past,
                                       .chunks = b->chunks + (size_t)i * b->chunks_per_stream,
                                       .n_chunks = b->chunks_per_stream};
            past += n;
            const struct step s = {.n_rows = n,
                                   .n_seqs = 1,
                                   .n_outputs = past == b->prompt,
                                   .tokens = b->tokens + past - n,
                                   .seqs = &q,
                                   .output_rows = &last};
            int rc = run_step(b, &s, p, e);
            if (rc)
                return rc;
        }
    }
    return 0;
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
            tokens[i] = b->tokens[b->prompt + g];
            seqs[i] = (struct step_seq){.first_row = i,
                                        .n_rows = 1,
                                        .n_past = b->prompt + g,
                                        .chunks = b->chunks + (size_t)i * b->chunks_per_stream,
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
        b->step_s[g] = p->seconds - before;
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

static void report(struct bench *b, const struct phase *pre, const struct phase *dec)
{
    const struct step_traffic *t = &dec->traffic;
    qsort(b->step_s, b->gen, sizeof *b->step_s, compare_doubles);
    double median_s = b->step_s[b->gen / 2];
    /* Activations stay in the caches; what comes from memory is weights, keys and values. */
    double bytes = (double)(t->weight_bytes + t->kv_read_bytes + t->kv_write_bytes) / b->gen;
    double gb_s = bytes / median_s / 1e9, prefill_rate = (double)pre->n_tokens / pre->seconds;
    if (b->json) {
        printf("{\"model\": \"%s\", \"threads\": %u, \"prompt\": %u, \"streams\": %u, \"read_gb_s\": %.3f, "
               "\"load_s\": %.3f, \"prefill_tokens_s\": %.2f, \"prefill_gflop_s\": %.2f, \"decode_tokens_s\": %.2f, "
               "\"step_s\": %.6f, \"step_s_best\": %.6f, \"step_bytes\": %.0f, \"decode_gb_s\": %.3f, \"share\": "
               "%.4f}\n",
               b->model->arch_name, b->device->config.n_threads, b->prompt, b->streams, b->read_gb_s, b->load_s,
               prefill_rate, pre->traffic.flops / pre->seconds / 1e9, b->streams / median_s, median_s, b->step_s[0],
               bytes, gb_s, gb_s / b->read_gb_s);
        return;
    }
    printf("model      %s, %.1f MB of weights, %u threads, %u stream(s)\n", b->model->name,
           (double)b->model->weight_bytes / 1e6, b->device->config.n_threads, b->streams);
    printf("load       %8.2f s, %.2f GB/s\n", b->load_s, (double)b->model->weight_bytes / b->load_s / 1e9);
    printf("read       %8.2f GB/s, measured\n", b->read_gb_s);
    printf("prefill    %8.1f tokens/s, %u tokens each, %.1f GFLOP/s\n", prefill_rate, b->prompt,
           pre->traffic.flops / pre->seconds / 1e9);
    printf("decode     %8.1f tokens/s, %.2f ms a step (median; best %.2f)\n", b->streams / median_s, median_s * 1e3,
           b->step_s[0] * 1e3);
    printf("           %8.2f GB/s, %.0f %% of the measured bandwidth; %.1f MB of weights, %.2f of keys and values a "
           "step\n",
           gb_s, 100 * gb_s / b->read_gb_s, (double)t->weight_bytes / b->gen / 1e6,
           (double)(t->kv_read_bytes + t->kv_write_bytes) / b->gen / 1e6);
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
    uint32_t total = b->prompt + b->gen;
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
    b->step_s = mem_array(b->gen, sizeof *b->step_s);
    if (!b->tokens || !b->chunks || !b->step_s)
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
    int rc = open_device(b, e);
    if (!rc && !(b->read_gb_s > 0)) {
        double bytes_s = 0;
        rc = device_cpu_read_bandwidth(b->threads, (size_t)512 << 20, 1, &bytes_s, e);
        b->read_gb_s = bytes_s / 1e9;
    }
    if (rc || (rc = prefill(b, &pre, e)) || (rc = decode(b, &dec, e)))
        return rc;
    report(b, &pre, &dec);
    return 0;
}

static void finish(struct bench *b)
{
    device_destroy(b->device);
    forward_destroy(b->forward);
    model_close(b->model);
    free(b->tokens);
    free(b->chunks);
    free(b->step_s);
}

static void help(const struct option_def *defs)
{
    printf(
        "usage: weir bench model MODEL.gguf [options]\n\n"
        "Runs random tokens through a model and prints prefill and decode speed, and the share of the measured read\n"
        "bandwidth that decode reaches. WEIR_ISA (ref, avx2, avx512, vnni, bf16) caps the instructions.\n\n");
    options_help(defs);
    printf("\nexamples:\n"
           "  weir bench model model.gguf                          a prompt of 512, then 64 tokens of one stream\n"
           "  weir bench model model.gguf --prompt 128 --streams 16\n"
           "  weir bench model model.gguf --prompt 4096 --kv-type q8_0 --json\n");
}

int bench_model(int argc, char **argv)
{
    struct bench b = {.kv_type = "f16", .prompt = 512, .gen = 64, .streams = 1, .step_tokens = 512};
    const struct option_def defs[] = {
        OPTION("threads", OPT_U32, &b.threads, "N", "threads (default: one for each core)", .max = 1024),
        OPTION("prompt", OPT_U32, &b.prompt, "N", "prompt tokens of each stream (default 512)", .min = 1,
               .max = 1 << 22),
        OPTION("gen", OPT_U32, &b.gen, "N", "tokens to decode (default 64)", .min = 1, .max = 1 << 20),
        OPTION("streams", OPT_U32, &b.streams, "N", "sequences decoded together (default 1)", .min = 1, .max = 4096),
        OPTION("step-tokens", OPT_U32, &b.step_tokens, "N", "prompt tokens of a step (default 512)", .min = 1,
               .max = 65536),
        OPTION("kv-type", OPT_STR, &b.kv_type, "TYPE", "f16 or q8_0 (default f16)"),
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
