/* Products through bfloat16 tiles (kernel.h: matmul_prompt) against sums in double precision of the same weights; and that a
 * token's sums are its own: not its neighbours', nor those of the number of rows and tokens. */
#include "kernel_inputs.h"

#include "kernel/lanes.h"

static _Alignas(64) uint8_t scratch[MATMUL_SCRATCH_BYTES];

/* Weights, activations and what is wanted of them. */
struct product {
    enum tensor_type type;
    uint32_t n_rows, n_cols, n_tokens;
    uint8_t *rows;           /* as in a file */
    struct guarded w;        /* as the kernel takes them */
    float *x;                /* [n_tokens][n_cols] */
    double *sum, *magnitude; /* [n_tokens][n_rows] sums of w x, and of |w x| */
    double *lost;            /* likewise: what subnormal operands and sums taken for zeros may miss */
};

static void product_make(struct product *p, enum tensor_type t, uint32_t n_rows, uint32_t n_cols, uint32_t n_tokens)
{
    const struct kernels *ref = kernels_at(ISA_REF);
    const size_t row_bytes = tensor_type_row_bytes(t, n_cols), n_y = (size_t)n_tokens * n_rows;
    const uint32_t filled = t == TENSOR_F16 ? n_rows : (n_rows + LANES - 1) / LANES * LANES;
    *p = (struct product){.type = t, .n_rows = n_rows, .n_cols = n_cols, .n_tokens = n_tokens};
    p->rows = malloc(filled * row_bytes);
    p->w = guarded_alloc(filled * row_bytes);
    p->x = malloc(sizeof *p->x * n_tokens * n_cols);
    p->sum = calloc(n_y, sizeof *p->sum);
    p->magnitude = calloc(n_y, sizeof *p->magnitude);
    p->lost = calloc(n_y, sizeof *p->lost);
    for (uint32_t r = 0; r < n_rows; r++)
        fill_row(t, (enum flavour)below(FLAVOURS), p->rows + r * row_bytes, n_cols);
    memset(p->rows + n_rows * row_bytes, 0xff, (filled - n_rows) * row_bytes); /* not-a-numbers */
    memcpy(p->w.data, p->rows, filled * row_bytes);
    for (uint32_t r = 0; t != TENSOR_F16 && r < n_rows; r += LANES)
        lanes_pack(t, p->rows + r * row_bytes, row_bytes, n_cols, p->w.data + r * row_bytes);
    for (uint32_t i = 0; i < n_tokens; i++)
        fill_floats(p->x + (size_t)i * n_cols, n_cols, (enum flavour)below(FLAVOURS));
    float *w = malloc(n_cols * sizeof *w);
    for (uint32_t r = 0; r < n_rows; r++) {
        ref->dequant[t](p->rows + r * row_bytes, n_cols, w);
        for (uint32_t i = 0; i < n_tokens; i++) {
            for (uint32_t c = 0; c < n_cols; c++) {
                const double x = (double)p->x[(size_t)i * n_cols + c], term = (double)w[c] * x;
                p->lost[(size_t)i * n_rows + r] += 0x1p-126 * (fabs(x) + fabs((double)w[c]) + 4);
                p->sum[(size_t)i * n_rows + r] += term;
                p->magnitude[(size_t)i * n_rows + r] += fabs(term);
            }
        }
    }
    free(w);
}

static void product_free(struct product *p)
{
    guarded_free(&p->w);
    free(p->rows);
    free(p->x);
    free(p->sum);
    free(p->magnitude);
    free(p->lost);
}

/* y[t][r] of n tokens from `first` on and of `rows` weight rows, between canaries; in reverse, y rows are. */
static float *multiply(const struct kernels *k, const struct product *p, uint32_t rows, uint32_t first, uint32_t n,
                       bool reverse)
{
    const uint32_t parts = k->prompt_parts[p->type];
    const size_t x_row_bytes = prompt_row_bytes(parts, p->n_cols), stride = rows + 3;
    const size_t tile = PROMPT_TILE_TOKENS, n_y = n * stride + 2 * PAD;
    uint8_t *x = aligned_alloc(64, (n + tile - 1) / tile * tile * x_row_bytes);
    memset(x, 0xff, (n + tile - 1) / tile * tile * x_row_bytes); /* not-a-numbers where there is no token */
    uint32_t *y_rows = malloc(n * sizeof *y_rows);
    for (uint32_t i = 0; i < n; i++) {
        k->pack_prompt(p->x + (size_t)(first + i) * p->n_cols, p->n_cols, parts, x + prompt_row_at(i, x_row_bytes));
        y_rows[i] = reverse ? n - 1 - i : i;
    }
    float *all = malloc(n_y * sizeof *all), *y = malloc(sizeof *y * n * rows);
    fill_canaries(all, n_y);
    float *untouched = malloc(n_y * sizeof *untouched);
    fill_canaries(untouched, n_y);
    k->matmul_prompt[p->type](&(struct matmul_args){.w = p->w.data,
                                                    .w_row_bytes = tensor_type_row_bytes(p->type, p->n_cols),
                                                    .n_rows = rows,
                                                    .n_cols = p->n_cols,
                                                    .x = x,
                                                    .x_row_bytes = x_row_bytes,
                                                    .n_tokens = n,
                                                    .y = all + PAD,
                                                    .y_stride = stride,
                                                    .y_rows = reverse ? y_rows : NULL,
                                                    .scratch = scratch});
    for (uint32_t i = 0; i < n; i++) {
        float *row = all + PAD + y_rows[i] * stride;
        memcpy(y + (size_t)i * rows, row, rows * sizeof *y);
        memcpy(row, untouched + PAD + y_rows[i] * stride, rows * sizeof *y);
    }
    assert_memory_equal(all, untouched, n_y * sizeof *all);
    free(untouched);
    free(all);
    free(y_rows);
    free(x);
    return y;
}

/* Of the sum of magnitudes: what rounding weights and activations may do. */
static double tolerance(enum tensor_type t, uint32_t n_cols)
{
    const double sums = n_cols * 0x1p-24;
    return sums + (t == TENSOR_F16 ? 0x1p-15 : t == TENSOR_BF16 ? 0x1.01p-8 : 0x1.02p-7);
}

/* Some tokens from `first` on, and some rows, alone: the same as among all. */
static void check_some(const struct kernels *k, const struct product *p, const float *all, uint32_t first,
                       uint32_t most)
{
    const uint32_t left = p->n_tokens - first, n = 1 + below(left < most ? left : most);
    const uint32_t rows = k->matmul_lanes[p->type] ? LANES : 1 + below(p->n_rows);
    float *some = multiply(k, p, rows, first, n, below(2));
    for (uint32_t i = 0; i < n; i++)
        assert_memory_equal(some + (size_t)i * rows, all + (size_t)(first + i) * p->n_rows, rows * sizeof *some);
    free(some);
}

static void check(const struct kernels *k, enum tensor_type t, uint32_t n_rows, uint32_t n_cols, uint32_t n_tokens)
{
    struct product p;
    product_make(&p, t, n_rows, n_cols, n_tokens);
    float *all = multiply(k, &p, n_rows, 0, n_tokens, true);
    for (uint32_t i = 0; i < n_tokens * n_rows; i++) {
        const double most = tolerance(t, n_cols) * p.magnitude[i] + p.lost[i] + 0x1p-126;
        if (!(fabs((double)all[i] - p.sum[i]) <= most) && p.magnitude[i] < 0x1p126)
            fail_msg("%s %s, %u rows x %u cols x %u tokens: [%u][%u] is %a, wanted %a within %a of %a",
                     kernel_isa_name(k->isa), tensor_type_name((uint32_t)t), n_rows, n_cols, n_tokens, i / n_rows,
                     i % n_rows, (double)all[i], p.sum[i], tolerance(t, n_cols), p.magnitude[i]);
    }
    check_some(k, &p, all, below(n_tokens), n_tokens);
    check_some(k, &p, all, below(n_tokens), 32); /* of BF16 another way through the same sums */
    free(all);
    product_free(&p);
}

static void products_are_close(void **state)
{
    (void)state;
    uint32_t n_types = 0;
    EACH_LEVEL_FROM(ISA_AVX2, k)
    {
        for (uint32_t i = 0; i < TENSOR_TYPE_COUNT; i++) {
            if (!k->matmul_prompt[i])
                continue;
            n_types++;
            const enum tensor_type t = (enum tensor_type)i;
            const uint32_t block = tensor_type_info(i)->block_elements, unit = block == 1 ? 7 : block;
            const uint32_t rows = k->matmul_lanes[t] ? LANES : 1;
            assert_false(k->prompt_way_only[t] && k->matmul_lanes[t]);
            check(k, t, rows, unit, 1);
            check(k, t, 2 * rows, unit * (1 + below(5)), 2 + below(40));
            check(k, t, 3 * rows, unit * (1 + below(640 / unit + 1)), 17);
            check(k, t, rows * (rows == 1 ? 37 : 3), 1024 + (block == 1 ? 13 : block), 50);
            if (rows == 1) {
                for (uint32_t n = 1; n <= 81; n += n < 6 ? 1 : 15) /* every way by the number of tokens and rows */
                    check(k, t, 1 + below(80), 32 * (1 + below(20)) + below(2) * below(32), n);
            }
#ifndef WEIR_DEBUG
            check(k, t, 2 * rows, block == 1 ? 96 : 256, 530);
            check(k, t, 5 * rows, 2048 + 2 * (block == 1 ? 17 : block), 65);
            check(k, t, 70 / rows * rows + rows, 2048, 90);
            if (k->prompt_way_only[t])
                check(k, t, 33, 32 * 600, 30); /* too long to be a few */
#endif
        }
    }
    if (kernels_of_level(LEVEL_EMULATED))
        assert_true(n_types >= 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_close),
    };
    kernel_inputs_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
