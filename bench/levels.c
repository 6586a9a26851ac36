/* Products with weights in lanes at the machine's levels, pass by pass in turn: where others use the machine too, one level
 * measured after the other compares the minutes as much as the levels.
 *
 *   levels THREADS TYPE TOKENS...       for example: levels 2 Q4_K 4 8 16 64
 *
 * A line is one number of tokens: GB/s of weights and 10^9 operations a second of the best of ten passes, in brackets of the
 * median; over 64 MB a thread (from memory), then over 256 rows a thread (from the caches), of 2,048 columns.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/team.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLS 2048
#define ROWS 2048
#define BYTES ((size_t)64 << 20)
#define ROUNDS 10

struct bench {
    struct team *team;
    enum tensor_type type;
    void (*matmul)(const struct matmul_args *a);
    struct matmul_args args; /* of every thread, but for weights, outputs and scratch */
    size_t n_matrices, n_passes;
    uint8_t *weights; /* [thread][BYTES] */
    float *y;         /* [thread][token][ROWS] */
    uint8_t *scratch;
};

static void die(const char *what)
{
    fprintf(stderr, "levels: %s\n", what);
    exit(1);
}

/* Bytes from 0x20 to 0x2f make sane numbers of every type. */
static void fill(void *user, uint32_t thread)
{
    const struct bench *b = user;
    uint32_t r = thread;
    for (size_t i = 0; i < BYTES; i++) {
        r = r * 1664525 + 1013904223;
        b->weights[thread * BYTES + i] = (uint8_t)(0x20 | (r >> 24 & 15));
    }
}

static void multiply(void *user, uint32_t thread)
{
    const struct bench *b = user;
    struct matmul_args a = b->args;
    a.y = b->y + (size_t)thread * a.n_tokens * ROWS;
    a.scratch = b->scratch + thread * MATMUL_SCRATCH_BYTES;
    for (size_t i = 0; i < b->n_passes * b->n_matrices; i++) {
        a.w = b->weights + thread * BYTES + i % b->n_matrices * a.n_rows * a.w_row_bytes;
        b->matmul(&a);
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Every level that has a product of its own. */
static void measure(struct bench *b, const char *from)
{
    double seconds[ISA_COUNT][ROUNDS];
    const double rows = (double)(b->n_passes * b->n_matrices * b->args.n_rows * team_size(b->team));
    for (int round = 0; round < ROUNDS; round++) {
        for (int isa = ISA_AVX2; isa < ISA_COUNT && kernels_at((enum kernel_isa)isa); isa++) {
            b->matmul = kernels_at((enum kernel_isa)isa)->matmul_lanes[b->type];
            const double begin_s = clock_monotonic_s();
            team_run(b->team, multiply, b);
            seconds[isa][round] = clock_monotonic_s() - begin_s;
        }
    }
    printf("%-7s %3u tokens from %s:", tensor_type_name(b->type), b->args.n_tokens, from);
    for (int isa = ISA_AVX2; isa < ISA_COUNT && kernels_at((enum kernel_isa)isa); isa++) {
        const struct kernels *k = kernels_at((enum kernel_isa)isa), *below = kernels_at((enum kernel_isa)(isa - 1));
        if (k->matmul_lanes[b->type] == below->matmul_lanes[b->type])
            continue;
        qsort(seconds[isa], ROUNDS, sizeof seconds[isa][0], ascending);
        const double best = seconds[isa][0], ops = 2 * rows * COLS * b->args.n_tokens / 1e9;
        printf(" %s %.1f GB/s %.0f (%.0f);", kernel_isa_name(k->isa), rows * (double)b->args.w_row_bytes / best / 1e9,
               ops / best, ops / seconds[isa][ROUNDS / 2]);
    }
    printf("\n");
}

static void measure_tokens(struct bench *b, uint32_t n_tokens)
{
    const enum act_format format = kernels_at(ISA_REF)->act_format[b->type];
    const size_t x_row_bytes = act_row_bytes(format, COLS), row_bytes = tensor_type_row_bytes(b->type, COLS);
    const size_t x_bytes = n_tokens * x_row_bytes, y_bytes = team_size(b->team) * n_tokens * ROWS * sizeof *b->y;
    uint8_t *x = n_tokens ? mem_aligned(x_bytes) : NULL;
    b->y = n_tokens ? mem_aligned(y_bytes) : NULL;
    if (!x || !b->y)
        die("TOKENS is no number, or more than memory holds");
    for (uint32_t token = 0; token < n_tokens; token++) {
        float row[COLS];
        for (uint32_t c = 0; c < COLS; c++)
            row[c] = (float)((token * 31 + c * 17) % 101) - 50;
        kernels_at(ISA_REF)->act_pack[format](row, COLS, x + token * x_row_bytes);
    }
    b->args = (struct matmul_args){.w_row_bytes = row_bytes, .n_rows = ROWS, .n_cols = COLS, .y_stride = ROWS};
    b->args.x = x;
    b->args.x_row_bytes = x_row_bytes;
    b->args.n_tokens = n_tokens;
    b->n_matrices = BYTES / row_bytes / ROWS;
    b->n_passes = 1;
    measure(b, "memory");
    b->args.n_rows = 256;
    b->n_matrices = 1;
    b->n_passes = 1 + 1024 / n_tokens;
    measure(b, "caches");
    mem_free_aligned(x, x_bytes);
    mem_free_aligned(b->y, y_bytes);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct bench b = {0};
    uint32_t t = 0;
    if (argc < 4)
        die("THREADS TYPE TOKENS...");
    while (t < TENSOR_TYPE_COUNT &&
           (!kernels_at(ISA_REF)->matmul_lanes[t] || strcmp(tensor_type_name(t), argv[2]) != 0))
        t++;
    if (t == TENSOR_TYPE_COUNT)
        die("TYPE is none that lies in lanes, as Q4_K does");
    b.type = (enum tensor_type)t;
    if (team_create(&b.team, (uint32_t)strtoul(argv[1], NULL, 10), true, &e))
        die(e.msg);
    b.weights = mem_aligned(team_size(b.team) * BYTES);
    b.scratch = mem_aligned(team_size(b.team) * MATMUL_SCRATCH_BYTES);
    if (!b.weights || !b.scratch)
        die("too little memory");
    team_run(b.team, fill, &b);
    for (int i = 3; i < argc; i++)
        measure_tokens(&b, (uint32_t)strtoul(argv[i], NULL, 10));
    mem_free_aligned(b.weights, team_size(b.team) * BYTES);
    mem_free_aligned(b.scratch, team_size(b.team) * MATMUL_SCRATCH_BYTES);
    team_destroy(b.team);
    return 0;
}
