/* weir bench kernels: one product after the other through memory that no cache holds, as a decode step walks its
 * weights; and with many tokens, where arithmetic is the limit. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "device/cpu/team.h"
#include "device/device.h"
#include "kernel/kernel.h"
#include "kernel/lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL_TOKENS 512
#define ATTN_CHUNK_TOKENS 32
#define MAX_QUERIES 256 /* a block of a prompt's rows, with four heads each */
#define SPAN_CHUNKS (ATTN_SPAN_TOKENS / ATTN_CHUNK_TOKENS)

struct bench {
    const struct bench_config *config;
    const struct kernels *k;
    struct team *team;
    double read_bytes_per_s;

    uint32_t n_tokens;
    void (*matmul)(const struct matmul_args *a);
    size_t row_bytes, n_matrices; /* what fits config->bytes */
    uint8_t *weights;
    uint8_t *x;
    size_t x_row_bytes;
    float *y;                /* [n_tokens][rows] */
    uint8_t *matmul_scratch; /* [threads][MATMUL_SCRATCH_BYTES] */

    enum kv_type kv_type;
    uint32_t n_q, head_dim;
    size_t kv_area_bytes;
    uint8_t *scratch;
};

static const enum tensor_type types[] = {
    TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_K, TENSOR_Q6_K, TENSOR_F16,  TENSOR_BF16,   TENSOR_F32,    TENSOR_Q4_1,
    TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q5_K, TENSOR_IQ4_NL, TENSOR_IQ4_XS, TENSOR_MXFP4,
};

/* The rows of one worker, in whole panels of 16. */
static void share(const struct bench *b, uint32_t thread, uint32_t *first, uint32_t *end)
{
    const uint64_t rows = b->config->rows, panels = (rows + 15) / 16, n = team_size(b->team);
    const uint64_t begin = panels * thread / n * 16, stop = panels * (thread + 1) / n * 16;
    *first = (uint32_t)(begin < rows ? begin : rows);
    *end = (uint32_t)(stop < rows ? stop : rows);
}

/* Bytes from 0x20 to 0x2f make sane numbers of every type: speed does not depend on them. The worker that will read a
 * row writes it. */
static void fill(void *user, uint32_t thread)
{
    struct bench *b = user;
    struct rng rng = {.state = thread};
    uint32_t first, end;
    share(b, thread, &first, &end);
    for (size_t m = 0; m < b->n_matrices; m++) {
        uint8_t *w = b->weights + (m * b->config->rows + first) * b->row_bytes;
        size_t n = (size_t)(end - first) * b->row_bytes;
        for (size_t i = 0; i < n; i += 8) {
            uint64_t word = (rng_u64(&rng) & 0x0f0f0f0f0f0f0f0fu) | 0x2020202020202020u;
            memcpy(w + i, &word, n - i < 8 ? n - i : 8);
        }
    }
}

static void multiply(void *user, uint32_t thread)
{
    const struct bench *b = user;
    uint32_t first, end;
    share(b, thread, &first, &end);
    for (size_t m = 0; m < b->n_matrices && end > first; m++) {
        struct matmul_args a = {.w = b->weights + (m * b->config->rows + first) * b->row_bytes,
                                .w_row_bytes = b->row_bytes,
                                .n_rows = end - first,
                                .n_cols = b->config->cols,
                                .x = b->x,
                                .x_row_bytes = b->x_row_bytes,
                                .n_tokens = b->n_tokens,
                                .y = b->y + first,
                                .y_stride = b->config->rows,
                                .scratch = b->matmul_scratch + thread * MATMUL_SCRATCH_BYTES};
        b->matmul(&a);
    }
}

static double best_seconds(struct bench *b, void (*fn)(void *, uint32_t))
{
    const double end_s = clock_monotonic_s() + b->config->seconds;
    double best = 1e30;
    for (int n = 0; n < 3 || clock_monotonic_s() < end_s; n++) {
        double begin_s = clock_monotonic_s();
        team_run(b->team, fn, b);
        double took_s = clock_monotonic_s() - begin_s;
        best = took_s < best ? took_s : best;
    }
    return best;
}

/* The same, with the read bandwidth measured just before and just after: other load on the machine comes and goes. */
static int best_beside_reads(struct bench *b, void (*fn)(void *, uint32_t), double *seconds, struct err *e)
{
    const struct bench_config *c = b->config;
    double before = 0, after = 0;
    int rc = device_cpu_read_bandwidth(team_size(b->team), c->bytes, c->seconds / 2, &before, e);
    if (rc)
        return rc;
    *seconds = best_seconds(b, fn);
    rc = device_cpu_read_bandwidth(team_size(b->team), c->bytes, c->seconds / 2, &after, e);
    b->read_bytes_per_s = before > after ? before : after;
    return rc;
}

static void report(const struct bench *b, const char *kernel, uint32_t n_tokens, double bytes, double ops,
                   double seconds)
{
    const double rate = bytes / seconds, share_of_read = rate / b->read_bytes_per_s;
    if (b->config->json)
        printf("{\"bench\":\"kernels\",\"isa\":\"%s\",\"kernel\":\"%s\",\"threads\":%u,\"tokens\":%u,"
               "\"bytes_per_s\":%.0f,\"read_bytes_per_s\":%.0f,\"share_of_read_bandwidth\":%.4f,\"ops_per_s\":%.0f}\n",
               kernel_isa_name(b->k->isa), kernel, team_size(b->team), n_tokens, rate, b->read_bytes_per_s,
               share_of_read, ops / seconds);
    else
        printf("  %-16s %6u %8.1f %8.1f %6.0f %% %10.1f\n", kernel, n_tokens, rate / 1e9, b->read_bytes_per_s / 1e9,
               100 * share_of_read, ops / seconds / 1e9);
    fflush(stdout);
}

/* prompt: the way of a prompt's rows, where there is one. */
static int bench_matmul(struct bench *b, enum tensor_type t, uint32_t n_tokens, bool prompt, struct err *e)
{
    const struct bench_config *c = b->config;
    struct product_way way = product_way(b->k, t, prompt);
    char name[32];
    const bool as_rows = way.lanes && (c->as_rows || c->rows % LANES);
    if (prompt && (!way.parts || b->k->prompt_way_only[t] || as_rows))
        return 0;
    if (as_rows)
        way = (struct product_way){.matmul = b->k->matmul[t]};
    snprintf(name, sizeof name, "%s%s", tensor_type_name((uint32_t)t), prompt ? " prompt" : way.lanes ? " lanes" : "");
    b->matmul = way.matmul;
    b->n_tokens = n_tokens;
    b->row_bytes = tensor_type_row_bytes(t, c->cols);
    const size_t matrix_bytes = b->row_bytes * c->rows;
    /* Many tokens: the arithmetic of few matrices takes long enough. */
    const size_t wanted_bytes = n_tokens >= 64 ? matrix_bytes : c->bytes;
    b->n_matrices = wanted_bytes / matrix_bytes ? wanted_bytes / matrix_bytes : 1;
    b->x_row_bytes = product_row_bytes(b->k, t, &way, c->cols);
    const size_t x_rows = (n_tokens + PROMPT_TILE_TOKENS - 1) / PROMPT_TILE_TOKENS * PROMPT_TILE_TOKENS;
    const size_t weight_bytes = b->n_matrices * matrix_bytes, x_bytes = b->x_row_bytes * x_rows;
    const size_t y_bytes = (size_t)n_tokens * c->rows * sizeof *b->y;
    b->weights = mem_aligned(weight_bytes + 64);
    b->x = mem_aligned(x_bytes);
    b->y = mem_aligned(y_bytes);
    float *row = mem_array(c->cols, sizeof *row);
    int rc = 0;
    if (b->weights && b->x && b->y && row) {
        struct rng rng = {.state = 1};
        for (uint32_t i = 0; i < n_tokens; i++) {
            for (uint32_t j = 0; j < c->cols; j++)
                row[j] = (float)rng_unit(&rng) - 0.5f;
            product_pack(b->k, t, &way, row, c->cols, i, b->x);
        }
        team_run(b->team, fill, b);
        double seconds;
        rc = best_beside_reads(b, multiply, &seconds, e);
        if (!rc)
            report(b, name, n_tokens, (double)weight_bytes,
                   2.0 * (double)n_tokens * c->rows * c->cols * (double)b->n_matrices, seconds);
    } else {
        rc = err_set(e, WEIR_ENOMEM, "no memory for %zu bytes of weights; a smaller --bytes needs less", weight_bytes);
    }
    free(row);
    mem_free_aligned(b->y, y_bytes);
    mem_free_aligned(b->x, x_bytes);
    mem_free_aligned(b->weights, weight_bytes + 64);
    return rc;
}

/* ---- attention ---- */

/* Each worker has a part of the chunks, keys beside values, and goes through it span by span. */
static void attend(void *user, uint32_t thread)
{
    const struct bench *b = user;
    const size_t area = b->kv_area_bytes, n_chunks = b->config->bytes / (2 * area), n = team_size(b->team);
    uint32_t first[MAX_QUERIES] = {0}, last[MAX_QUERIES];
    float m[MAX_QUERIES], l[MAX_QUERIES];
    const void *k[SPAN_CHUNKS], *v[SPAN_CHUNKS], *next[SPAN_CHUNKS];
    for (uint32_t i = 0; i < b->n_q; i++)
        last[i] = ATTN_SPAN_TOKENS;
    struct attn_args a = {.q = (const float *)(const void *)b->x,
                          .n_q = b->n_q,
                          .head_dim = b->head_dim,
                          .kv_type = b->kv_type,
                          .prompt = b->n_q == MAX_QUERIES,
                          .chunk_tokens = ATTN_CHUNK_TOKENS,
                          .n_chunks = SPAN_CHUNKS,
                          .k = k,
                          .v = v,
                          .next = next,
                          .first = first,
                          .last = last,
                          .out = {m, l, b->y + (size_t)thread * b->n_q * b->head_dim},
                          .scratch = b->scratch + thread * attn_scratch_bytes(b->head_dim)};
    const size_t end = n_chunks * (thread + 1) / n;
    for (size_t i = n_chunks * thread / n; i + SPAN_CHUNKS <= end; i += SPAN_CHUNKS) {
        for (size_t j = 0; j < SPAN_CHUNKS; j++) {
            k[j] = b->weights + (i + j) * 2 * area;
            v[j] = b->weights + (i + j) * 2 * area + area;
            next[j] = b->weights + (i + SPAN_CHUNKS + j) * 2 * area;
        }
        a.n_next = i + 2 * SPAN_CHUNKS <= end ? SPAN_CHUNKS : 0;
        b->k->attention(&a);
    }
}

static void fill_bytes(void *user, uint32_t thread)
{
    const struct bench *b = user;
    const size_t n = b->config->bytes / team_size(b->team);
    struct rng rng = {.state = thread};
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t word = (rng_u64(&rng) & 0x0f0f0f0f0f0f0f0fu) | 0x2020202020202020u;
        memcpy(b->weights + thread * n + i, &word, sizeof word);
    }
}

static int bench_attention(struct bench *b, enum kv_type t, uint32_t n_q, uint32_t head_dim, struct err *e)
{
    const size_t bytes = b->config->bytes, q_bytes = (size_t)n_q * head_dim * sizeof(float);
    const size_t acc_bytes = q_bytes * team_size(b->team);
    b->kv_type = t;
    b->n_q = n_q;
    b->head_dim = head_dim;
    const size_t scratch_bytes = attn_scratch_bytes(head_dim) * team_size(b->team);
    b->kv_area_bytes = kv_area_bytes(t, head_dim, ATTN_CHUNK_TOKENS);
    b->scratch = mem_aligned(scratch_bytes);
    b->weights = mem_aligned(bytes);
    b->x = mem_aligned(q_bytes);
    b->y = mem_aligned(acc_bytes);
    int rc = 0;
    if (b->weights && b->x && b->y && b->scratch) {
        char name[64];
        snprintf(name, sizeof name, "attn %s %ux%u", t == KV_F16 ? "F16" : "Q8_0", n_q, head_dim);
        team_run(b->team, fill_bytes, b);
        for (size_t i = 0; i < (size_t)n_q * head_dim; i++)
            ((float *)(void *)b->x)[i] = (float)(i % 17) / 170;
        const double values = (double)bytes / (double)b->kv_area_bytes * ATTN_CHUNK_TOKENS * head_dim;
        double seconds;
        rc = best_beside_reads(b, attend, &seconds, e);
        if (!rc)
            report(b, name, n_q, (double)bytes, 2 * values * n_q, seconds);
    } else {
        rc = err_set(e, WEIR_ENOMEM, "no memory for %zu bytes of keys and values", bytes);
    }
    mem_free_aligned(b->scratch, scratch_bytes);
    mem_free_aligned(b->y, acc_bytes);
    mem_free_aligned(b->x, q_bytes);
    mem_free_aligned(b->weights, bytes);
    return rc;
}

int bench_kernels(const struct bench_config *c, struct err *e)
{
    struct bench b = {.config = c, .k = kernels_get(e)};
    if (!b.k)
        return WEIR_EINVAL;
    int rc = team_create(&b.team, c->n_threads, true, e);
    if (rc)
        return rc;
    const size_t scratch_bytes = team_size(b.team) * MATMUL_SCRATCH_BYTES;
    b.matmul_scratch = mem_aligned(scratch_bytes);
    if (!b.matmul_scratch) {
        team_destroy(b.team);
        return err_set(e, WEIR_ENOMEM, "no memory for %zu bytes of scratch", scratch_bytes);
    }
    if (!c->json)
        printf("%s\nkernels at level %s, %u threads, matrices of %u x %u\n\n"
               "  kernel           tokens     GB/s     read   share      Gop/s\n",
               kernel_cpu_description(), kernel_isa_name(b.k->isa), team_size(b.team), c->rows, c->cols);
    const uint32_t both[] = {1, PREFILL_TOKENS};
    bool found = !c->type;
    for (size_t n = 0; !rc && n < (c->n_tokens ? 1 : 2); n++) {
        for (size_t i = 0; !rc && i < sizeof types / sizeof *types; i++) {
            if (c->type && strcmp(c->type, tensor_type_name((uint32_t)types[i])))
                continue;
            found = true;
            const uint32_t n_tokens = c->n_tokens ? c->n_tokens : both[n];
            rc = bench_matmul(&b, types[i], n_tokens, false, e);
            if (!rc && n_tokens > 1)
                rc = bench_matmul(&b, types[i], n_tokens, true, e);
        }
    }
    static const uint32_t queries[] = {1, 4, 8, MAX_QUERIES};
    for (size_t i = 0; !rc && (!c->type || !strcmp(c->type, "attention")) && i < 2 * sizeof queries / sizeof *queries;
         i++) {
        found = true;
        rc = bench_attention(&b, i % 2 ? KV_Q8_0 : KV_F16, queries[i / 2], 64, e);
    }
    if (!rc && !found)
        rc = err_set(e, WEIR_EINVAL, "--type %s: no such kernel; it is attention or one of %s", c->type,
                     tensor_type_supported());
    mem_free_aligned(b.matmul_scratch, scratch_bytes);
    team_destroy(b.team);
    return rc;
}
