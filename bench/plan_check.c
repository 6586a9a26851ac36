/* What `weir plan --device this` predicts against what steps take: measures this machine, then runs steps of each model,
 * decoding over a grid of batch and context, and prompts, and prints both with the median absolute error.
 *
 *   make build/gcc/bench/plan_check && build/gcc/bench/plan_check MODEL.gguf...
 */
#include "base/mem.h"
#include "base/rng.h"
#include "device/device.h"
#include "device/measure.h"
#include "device/roofline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_TOKENS 32u
#define MAX_BATCH 16u
#define MAX_PROMPT 512u
#define MAX_CONTEXT 4096u
#define MAX_TOKENS (MAX_BATCH * 2048u) /* of a step's cache */
#define STEPS 5
#define MAX_POINTS 512

static const uint32_t batches[] = {1, 4, 16}, contexts[] = {64, 512, 2048}, prompts[] = {32, 128, 512};
static double errors[MAX_POINTS];
static size_t n_errors;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void die(const struct err *e)
{
    fprintf(stderr, "plan_check: %s\n", e->msg);
    exit(1);
}

/* The median of STEPS steps. The cache holds zeros: their values do not matter for time. */
static double median_s(struct device *d, const struct step *s, int32_t *tokens, uint32_t n_vocab)
{
    double seconds[STEPS];
    struct rng r = {s->n_rows};
    struct err e = {0};
    for (int k = 0; k < STEPS; k++) {
        struct step_result out;
        for (uint32_t i = 0; i < s->n_rows; i++)
            tokens[i] = (int32_t)rng_below(&r, n_vocab);
        if (device_start(d, s, &e) || device_wait(d, &out, &e))
            die(&e);
        seconds[k] = out.seconds;
    }
    qsort(seconds, STEPS, sizeof *seconds, by_value);
    return seconds[STEPS / 2];
}

static uint32_t chunks[MAX_TOKENS / CHUNK_TOKENS + MAX_BATCH]; /* each its own number */

static double decode_s(struct device *d, uint32_t batch, uint32_t context, uint32_t n_vocab)
{
    struct step_seq seqs[MAX_BATCH];
    uint32_t rows[MAX_BATCH], per_seq = (context + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    int32_t tokens[MAX_BATCH];
    for (uint32_t i = 0; i < batch; i++) {
        rows[i] = i;
        seqs[i] = (struct step_seq){i, 1, context - 1, chunks + (size_t)i * per_seq, per_seq, 0};
    }
    const struct step s = {
        .n_rows = batch, .n_seqs = batch, .n_outputs = batch, .tokens = tokens, .seqs = seqs, .output_rows = rows};
    return median_s(d, &s, tokens, n_vocab);
}

static double prefill_s(struct device *d, uint32_t n, uint32_t n_vocab)
{
    const struct step_seq seq = {0, n, 0, chunks, (n + CHUNK_TOKENS - 1) / CHUNK_TOKENS, n};
    const uint32_t last = n - 1;
    int32_t tokens[MAX_PROMPT];
    const struct step s = {
        .n_rows = n, .n_seqs = 1, .n_outputs = 1, .tokens = tokens, .seqs = &seq, .output_rows = &last};
    return median_s(d, &s, tokens, n_vocab);
}

static void print_point(const struct shape *s, const char *what, uint32_t rows, uint32_t context, double expected_s,
                        double took_s)
{
    double error = expected_s / took_s - 1;
    printf("| %s %s | %s | %u | %u | %.1f | %.1f | %+.0f %% |\n", s->name, s->file_format, what, rows, context,
           rows / expected_s, rows / took_s, 100 * error);
    if (n_errors < MAX_POINTS)
        errors[n_errors++] = fabs(error);
}

static void check(const char *path, const struct profile *p)
{
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct forward *f = NULL;
    struct device *d = NULL;
    struct shape shape;
    struct roofline r;
    struct err e = {0};
    struct device_config c = {.pin_threads = true,
                              .kv_type = KV_F16,
                              .chunk_tokens = CHUNK_TOKENS,
                              .n_chunks = MAX_TOKENS / CHUNK_TOKENS,
                              .max_step_tokens = MAX_PROMPT,
                              .max_step_seqs = MAX_BATCH,
                              .max_outputs = MAX_BATCH,
                              .max_context = MAX_CONTEXT};
    if (gguf_open(&g, path, &e) || shape_from_gguf(&shape, g, &e) || model_open(&m, g, &e) ||
        forward_create(&f, m, &e) || device_cpu_create(&d, f, &c, &e) ||
        roofline_init(&r, &shape, NULL, NULL, p, 1, &e))
        die(&e);
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        for (size_t k = 0; k < sizeof contexts / sizeof *contexts; k++) {
            if (batches[b] * contexts[k] > MAX_TOKENS || contexts[k] > m->n_ctx_train)
                continue;
            struct roofline_time t;
            roofline_decode(&r, batches[b], contexts[k] - 1, &t);
            print_point(&shape, "decode", batches[b], contexts[k], t.expected_s,
                        decode_s(d, batches[b], contexts[k], m->n_vocab));
        }
    }
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        print_point(&shape, "prompt", prompts[i], prompts[i], roofline_prefill_s(&r, prompts[i], MAX_PROMPT),
                    prefill_s(d, prompts[i], m->n_vocab));
    device_destroy(d);
    forward_destroy(f);
    model_close(m);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    static struct profile p;
    if (measure_profile(&p, 0, NULL, &e))
        die(&e);
    for (uint32_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        chunks[i] = i;
    printf("| model | step | rows | context | predicted tokens/s | measured | error of the prediction's seconds |\n"
           "|---|---|---|---|---|---|---|\n");
    for (int i = 1; i < argc; i++)
        check(argv[i], &p);
    qsort(errors, n_errors, sizeof *errors, by_value);
    if (n_errors)
        printf("\n%zu points, median absolute error %.1f %%, 90 %% of them within %.1f %%\n", n_errors,
               100 * errors[n_errors / 2], 100 * errors[n_errors * 9 / 10]);
    return 0;
}
