#include "device/measure.h"

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/team.h"
#include "device/device.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WEIGHT_BYTES ((size_t)192 << 20)
#define N_COLS 2048u
#define N_MATRIX_ROWS 2048u
#define MAX_ROWS 512u
#define HEAD_DIM 128u
#define ROW_UNIT 16u
#define MAX_PARTS 2u /* of a prompt's tiles */
#define TRY_S 0.05   /* a try; the best of TRIES counts, for what disturbs only slows */
#define TRIES 3
#define READ_BYTES ((size_t)256 << 20)
#define READ_S 0.3

static const enum tensor_type types[] = {TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q6_K, TENSOR_Q4_K};
#define FEW_QUERIES 4
#define MANY_QUERIES 256
#define N_TYPES (sizeof types / sizeof *types)

struct bench {
    const struct kernels *k;
    struct team *team;
    uint32_t n_threads;
    unsigned char *weights, *packed; /* WEIGHT_BYTES; MAX_ROWS packed rows, or rows in tiles */
    float *x, *y;                    /* [MAX_ROWS][N_COLS], [MAX_ROWS][N_MATRIX_ROWS] */
    unsigned char *kv;
    float *state;                  /* [threads][queries][HEAD_DIM + 2] */
    unsigned char *scratch;        /* of attention */
    unsigned char *matmul_scratch; /* [threads][MATMUL_SCRATCH_BYTES] */

    enum tensor_type type;
    struct product_way way;
    uint32_t n_rows;
    size_t first_matrix, n_matrices; /* of this region */
    uint32_t n_queries;
};

/* The part of n that belongs to a worker, in units. */
static void share(const struct bench *b, uint32_t thread, uint32_t n, uint32_t unit, uint32_t *begin, uint32_t *end)
{
    uint32_t units = (n + unit - 1) / unit, e = (uint32_t)((uint64_t)units * (thread + 1) / b->n_threads * unit);
    *begin = (uint32_t)((uint64_t)units * thread / b->n_threads * unit);
    *end = e < n ? e : n;
}

static size_t matrix_bytes(enum tensor_type t)
{
    return N_MATRIX_ROWS * tensor_type_row_bytes(t, N_COLS);
}

/* As the device does it: pack the rows together, then each worker its share of the weights' rows. */
static void run_products(void *user, uint32_t thread)
{
    struct bench *b = user;
    const struct product_way *way = &b->way;
    size_t x_bytes = product_row_bytes(b->k, b->type, way, N_COLS);
    size_t w_bytes = tensor_type_row_bytes(b->type, N_COLS);
    size_t in_memory = WEIGHT_BYTES / matrix_bytes(b->type);
    uint32_t begin, end, first, last;
    share(b, thread, b->n_rows, 1, &begin, &end);
    share(b, thread, N_MATRIX_ROWS, ROW_UNIT, &first, &last);
    for (size_t i = 0; i < b->n_matrices; i++) {
        for (uint32_t r = begin; r < end; r++)
            product_pack(b->k, b->type, way, b->x + (size_t)r * N_COLS, N_COLS, r, b->packed);
        team_barrier(b->team);
        const unsigned char *w = b->weights + (b->first_matrix + i) % in_memory * matrix_bytes(b->type);
        struct matmul_args a = {.w = w + first * w_bytes,
                                .w_row_bytes = w_bytes,
                                .n_rows = last - first,
                                .n_cols = N_COLS,
                                .x = b->packed,
                                .x_row_bytes = x_bytes,
                                .n_tokens = b->n_rows,
                                .y = b->y + first,
                                .y_stride = N_MATRIX_ROWS,
                                .scratch = b->matmul_scratch + thread * MATMUL_SCRATCH_BYTES};
        if (last > first)
            way->matmul(&a);
        team_barrier(b->team);
    }
}

/* Seconds of one unit of work, which fn does n times with set(n). */
static double best_s(struct bench *b, void (*fn)(void *, uint32_t), size_t *count, size_t most)
{
    double best = INFINITY;
    size_t n = 1;
    for (int tries = 0; tries < TRIES;) {
        *count = n;
        double begin = clock_monotonic_s();
        team_run(b->team, fn, b);
        double s = clock_monotonic_s() - begin;
        b->first_matrix += n;
        if (s < TRY_S && n < most) {
            double more = (double)n * fmin(8, 1.2 * TRY_S / fmax(s, 1e-6)) + 1;
            n = more < (double)most ? (size_t)more : most;
            continue;
        }
        best = fmin(best, s / (double)n);
        tries++;
    }
    return best;
}

static void measure_products(struct bench *b, bool prompt, struct profile *p)
{
    struct profile_product *out = &p->products[p->n_products++];
    out->prompt = prompt;
    b->way = product_way(b->k, b->type, prompt);
    snprintf(out->type, sizeof out->type, "%s", tensor_type_name(b->type));
    for (char *c = out->type; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
    for (b->n_rows = 1; b->n_rows <= MAX_ROWS; b->n_rows *= 2) {
        double s = best_s(b, run_products, &b->n_matrices, 1u << 20);
        out->points[out->n_points].rows = b->n_rows;
        out->points[out->n_points++].bytes_per_s = (double)matrix_bytes(b->type) / s;
    }
}

/* ---- attention ---- */

/* Each worker's own keys and values, in spans of two chunks, against n_queries queries. */
static void run_attention(void *user, uint32_t thread)
{
    struct bench *b = user;
    enum { SPAN_CHUNKS = ATTN_SPAN_TOKENS / KV_CHUNK_MAX_TOKENS };
    size_t area = kv_area_bytes(KV_F16, HEAD_DIM, KV_CHUNK_MAX_TOKENS), span = SPAN_CHUNKS * 2 * area;
    size_t per_thread = WEIGHT_BYTES / span / b->n_threads;
    float *state = b->state + (size_t)thread * b->n_queries * (HEAD_DIM + 2);
    uint32_t first[MANY_QUERIES] = {0}, last[MANY_QUERIES];
    const void *k[SPAN_CHUNKS], *v[SPAN_CHUNKS];
    for (uint32_t i = 0; i < b->n_queries; i++)
        last[i] = ATTN_SPAN_TOKENS;
    struct attn_args a = {.q = b->x,
                          .n_q = b->n_queries,
                          .head_dim = HEAD_DIM,
                          .kv_type = KV_F16,
                          .prompt = b->n_queries == MANY_QUERIES,
                          .chunk_tokens = KV_CHUNK_MAX_TOKENS,
                          .n_chunks = SPAN_CHUNKS,
                          .k = k,
                          .v = v,
                          .first = first,
                          .last = last,
                          .out = {state, state + b->n_queries, state + 2 * (size_t)b->n_queries},
                          .scratch = b->scratch + thread * attn_scratch_bytes(HEAD_DIM)};
    for (size_t i = 0; i < b->n_matrices; i++) {
        const unsigned char *kv = b->weights + (thread * per_thread + (b->first_matrix + i) % per_thread) * span;
        for (size_t j = 0; j < SPAN_CHUNKS; j++) {
            k[j] = kv + 2 * j * area;
            v[j] = kv + (2 * j + 1) * area;
        }
        b->k->attention(&a);
    }
}

/* Seconds of a span = bytes / kv_bytes_per_s + operations / attention_ops_per_s, through the queries of a decoded
 * row and through those of a block of a prompt's. */
static void measure_attention(struct bench *b, struct profile *p)
{
    double bytes = 2.0 * ATTN_SPAN_TOKENS * (double)kv_row_bytes(KV_F16, HEAD_DIM) * b->n_threads;
    double ops_per_query = 4.0 * ATTN_SPAN_TOKENS * HEAD_DIM * b->n_threads;
    b->n_queries = FEW_QUERIES;
    double few = best_s(b, run_attention, &b->n_matrices, 1u << 24);
    b->n_queries = MANY_QUERIES;
    double many = best_s(b, run_attention, &b->n_matrices, 1u << 24);
    double op_s = fmax((many - few) / (MANY_QUERIES - FEW_QUERIES) / ops_per_query, 1e-18);
    double byte_s = fmax((few - FEW_QUERIES * ops_per_query * op_s) / bytes, few / bytes / 10);
    p->kv_bytes_per_s = 1 / byte_s;
    p->attention_ops_per_s = 1 / op_s;
}

/* ---- the whole ---- */

static size_t packed_bytes(void)
{
    const size_t row = act_row_bytes(ACT_F32, N_COLS), in_tiles = prompt_row_bytes(MAX_PARTS, N_COLS);
    return MAX_ROWS * (row > in_tiles ? row : in_tiles);
}

static int allocate(struct bench *b, struct err *e)
{
    b->weights = mem_aligned(WEIGHT_BYTES);
    b->packed = mem_aligned(packed_bytes());
    b->x = mem_aligned((size_t)MAX_ROWS * N_COLS * sizeof(float));
    b->y = mem_aligned((size_t)MAX_ROWS * N_MATRIX_ROWS * sizeof(float));
    b->state = mem_aligned((size_t)b->n_threads * MANY_QUERIES * (HEAD_DIM + 2) * sizeof(float));
    b->scratch = mem_aligned(b->n_threads * attn_scratch_bytes(HEAD_DIM));
    b->matmul_scratch = mem_aligned(b->n_threads * MATMUL_SCRATCH_BYTES);
    if (!b->weights || !b->packed || !b->x || !b->y || !b->state || !b->scratch || !b->matmul_scratch)
        return err_set(e, WEIR_ENOMEM, "no memory to measure with");
    /* Zero blocks are valid in every type; pages must be there. */
    memset(b->weights, 0, WEIGHT_BYTES);
    for (size_t i = 0; i < (size_t)MAX_ROWS * N_COLS; i++)
        b->x[i] = (float)(i % 17) / 17 - 0.5f;
    return 0;
}

static void release(struct bench *b)
{
    mem_free_aligned(b->weights, WEIGHT_BYTES);
    mem_free_aligned(b->packed, packed_bytes());
    mem_free_aligned(b->x, (size_t)MAX_ROWS * N_COLS * sizeof(float));
    mem_free_aligned(b->y, (size_t)MAX_ROWS * N_MATRIX_ROWS * sizeof(float));
    mem_free_aligned(b->scratch, b->n_threads * attn_scratch_bytes(HEAD_DIM));
    mem_free_aligned(b->state, (size_t)b->n_threads * MANY_QUERIES * (HEAD_DIM + 2) * sizeof(float));
    mem_free_aligned(b->matmul_scratch, b->n_threads * MATMUL_SCRATCH_BYTES);
    team_destroy(b->team);
}

static double peak_ops(const struct profile *p, const char *type, double bytes_per_element)
{
    return 2 * profile_product_peak(p, type, false) / bytes_per_element;
}

static void summarise(struct profile *p, uint32_t n_threads, double bandwidth)
{
    double capacity = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    for (uint32_t i = 0; i < p->n_products; i++)
        bandwidth = fmax(bandwidth, p->products[i].points[0].bytes_per_s);
    snprintf(p->name, sizeof p->name, "this machine: %.60s", kernel_cpu_description());
    snprintf(p->id, sizeof p->id, "this");
    p->is_cpu = p->measured = true;
    p->n_tiers = 1;
    p->tiers[0] = (struct profile_tier){.capacity_bytes = capacity, .bytes_per_s = bandwidth};
    snprintf(p->tiers[0].name, sizeof p->tiers[0].name, "memory, %lu threads", (unsigned long)n_threads);
    p->ops_per_s[PROFILE_F16] = fmax(peak_ops(p, "f16", 2), peak_ops(p, "bf16", 2));
    p->ops_per_s[PROFILE_FP8] = p->ops_per_s[PROFILE_F16];
    p->ops_per_s[PROFILE_F32] = p->attention_ops_per_s;
    p->ops_per_s[PROFILE_INT8] = peak_ops(p, "q8_0", 34.0 / 32);
    p->numa_nodes = 1;
    p->numa_remote_fraction = 1;
    p->attain_bandwidth = p->attain_compute = p->attain_8bit = p->attain_4bit = 1;
}

int measure_profile(struct profile *out, uint32_t n_threads, void (*progress)(const char *what, double done),
                    struct err *e)
{
    *out = (struct profile){0};
    struct bench b = {.k = kernels_get(e)};
    if (!b.k)
        return e ? e->code : WEIR_EINVAL;
    int rc = team_create(&b.team, n_threads, true, e);
    if (rc)
        return rc;
    b.n_threads = team_size(b.team);
    if (!(rc = allocate(&b, e))) {
        for (size_t i = 0; i < N_TYPES; i++) {
            b.type = types[i];
            if (progress)
                progress(tensor_type_name(types[i]), (double)i / (N_TYPES + 1));
            if (b.k->matmul[b.type])
                measure_products(&b, false, out);
            if (b.k->matmul_prompt[b.type] && !b.k->prompt_way_only[b.type])
                measure_products(&b, true, out);
        }
        if (progress)
            progress("attention", (double)N_TYPES / (N_TYPES + 1));
        measure_attention(&b, out);
    }
    uint32_t n = b.n_threads;
    double bandwidth = 0;
    release(&b);
    if (!rc)
        rc = device_cpu_read_bandwidth(n, READ_BYTES, READ_S, &bandwidth, e);
    if (!rc)
        summarise(out, n, bandwidth);
    return rc;
}
