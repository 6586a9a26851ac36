/* Products and packing at every level that this machine has, against ref/. Inputs are random and adversarial; weights end
 * at an unreadable page, outputs lie between canaries. */
#include "kernel_inputs.h"

static const enum tensor_type types[] = {
    TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1,   TENSOR_Q5_0,   TENSOR_Q5_1,
    TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_IQ4_NL, TENSOR_IQ4_XS, TENSOR_MXFP4,
};
#define N_TYPES (sizeof types / sizeof *types)
/* ---- matrix products ---- */

static _Alignas(64) uint8_t scratch[MATMUL_SCRATCH_BYTES];

struct product {
    struct matmul_args a;
    struct guarded w;
    void *x_memory;
    float *y_memory;
    size_t y_count;
};

static void product_make(struct product *p, const struct kernels *k, enum tensor_type t, enum act_format act,
                         uint32_t rows, uint32_t cols, uint32_t tokens)
{
    size_t row_bytes = tensor_type_row_bytes(t, cols), stride = row_bytes + (below(2) ? 0 : below(3) * 2);
    p->w = guarded_alloc((rows - 1) * stride + row_bytes);
    for (uint32_t r = 0; r < rows; r++)
        fill_row(t, (enum flavour)below(FLAVOURS), p->w.data + r * stride, cols);
    size_t x_bytes = act_row_bytes(act, cols) + 64 * below(2), shift = below(2) * 4;
    p->x_memory = calloc(1, tokens * x_bytes + shift);
    uint8_t *x = (uint8_t *)p->x_memory + shift;
    float *row = calloc(cols, sizeof *row);
    for (uint32_t i = 0; i < tokens; i++) {
        fill_floats(row, cols, (enum flavour)below(FLAVOURS));
        k->act_pack[act](row, cols, x + i * x_bytes);
    }
    free(row);
    size_t y_stride = rows + below(5);
    p->y_count = tokens * y_stride + 2 * PAD;
    p->y_memory = malloc(p->y_count * sizeof(float));
    p->a = (struct matmul_args){.w = p->w.data,
                                .w_row_bytes = stride,
                                .n_rows = rows,
                                .n_cols = cols,
                                .x = x,
                                .x_row_bytes = x_bytes,
                                .n_tokens = tokens,
                                .y = p->y_memory + PAD,
                                .y_stride = y_stride,
                                .scratch = scratch};
}

static void product_free(struct product *p)
{
    guarded_free(&p->w);
    free(p->x_memory);
    free(p->y_memory);
}

/* Equal, counting +0 and -0 as equal and any two NaN. */
static bool same(float a, float b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* Products of bfloat16 are summed in the processor's order: compare with exact sums of the same operands. */
static void check_rounded(const struct product *p, enum tensor_type t, uint32_t token, uint32_t row)
{
    float *w = malloc(p->a.n_cols * sizeof *w);
    const uint16_t *x = (const void *)((const uint8_t *)p->a.x + token * p->a.x_row_bytes);
    kernels_at(ISA_REF)->dequant[t]((const uint8_t *)p->a.w + row * p->a.w_row_bytes, p->a.n_cols, w);
    double sum = 0, magnitude = 0, operands = 0;
    for (uint32_t i = 0; i < p->a.n_cols; i++) {
        const double v = (double)bf16_to_f32(x[i]);
        sum += (double)w[i] * v;
        magnitude += fabs((double)w[i] * v);
        operands += fabs((double)w[i]) + fabs(v);
    }
    free(w);
    double got = (double)p->a.y[token * p->a.y_stride + row];
    double bound = (p->a.n_cols / 16.0 + 8) * (double)FLT_EPSILON * magnitude;
    bound += (double)FLT_MIN * operands + 1e-36; /* the processor takes subnormal numbers for zeros */
    if (!(fabs(got - sum) <= bound))
        fail_msg("%s, token %u row %u of %ux%ux%u: %g, exactly %g, bound %g", tensor_type_name((uint32_t)t), token, row,
                 p->a.n_rows, p->a.n_cols, p->a.n_tokens, got, sum, bound);
}

static void check_product(const struct kernels *k, enum tensor_type t, uint32_t rows, uint32_t cols, uint32_t tokens)
{
    const struct kernels *ref = kernels_at(ISA_REF);
    struct product p;
    product_make(&p, ref, t, k->act_format[t], rows, cols, tokens);
    bool exact = k->act_format[t] == ref->act_format[t];
    float *want = malloc(p.y_count * sizeof *want);
    fill_canaries(want, p.y_count);
    fill_canaries(p.y_memory, p.y_count);
    k->matmul[t](&p.a);
    struct matmul_args a = p.a;
    a.y = want + PAD;
    if (exact)
        ref->matmul[t](&a);
    for (size_t i = 0; i < p.y_count; i++) {
        size_t token = i < PAD ? tokens : (i - PAD) / p.a.y_stride, row = i < PAD ? rows : (i - PAD) % p.a.y_stride;
        bool inside = token < tokens && row < rows;
        if (inside && !exact)
            check_rounded(&p, t, (uint32_t)token, (uint32_t)row);
        else if (!same(p.y_memory[i], want[i]))
            fail_msg("%s %s, %u rows x %u cols x %u tokens: [token %zu][row %zu] is %a, reference %a",
                     kernel_isa_name(k->isa), tensor_type_name((uint32_t)t), rows, cols, tokens, token, row,
                     (double)p.y_memory[i], (double)want[i]);
    }
    free(want);
    product_free(&p);
}

/* The same number whatever other rows and tokens are in the call. */
static void check_independence(const struct kernels *k, enum tensor_type t, uint32_t rows, uint32_t cols,
                               uint32_t tokens)
{
    struct product p;
    product_make(&p, k, t, k->act_format[t], rows, cols, tokens);
    k->matmul[t](&p.a);
    for (uint32_t i = 0; i < tokens;) {
        uint32_t n = 1 + below(3), first = below(rows), n_rows = 1 + below(rows - first);
        n = n > tokens - i ? tokens - i : n;
        float *y = malloc((size_t)n * n_rows * sizeof *y);
        struct matmul_args a = p.a;
        a.w = (const uint8_t *)p.a.w + first * p.a.w_row_bytes;
        a.x = (const uint8_t *)p.a.x + i * p.a.x_row_bytes;
        a.n_rows = n_rows;
        a.n_tokens = n;
        a.y = y;
        a.y_stride = n_rows;
        k->matmul[t](&a);
        for (uint32_t j = 0; j < n; j++) {
            for (uint32_t r = 0; r < n_rows; r++) {
                float together = p.a.y[(i + j) * p.a.y_stride + first + r], apart = y[j * n_rows + r];
                if (!same(together, apart))
                    fail_msg("%s %s: token %u of %u, row %u of %u: %a, alone %a", kernel_isa_name(k->isa),
                             tensor_type_name((uint32_t)t), i + j, tokens, first + r, rows, (double)together,
                             (double)apart);
            }
        }
        free(y);
        i += n;
    }
    product_free(&p);
}

static uint32_t some_cols(enum tensor_type t, uint32_t max_blocks)
{
    uint32_t block = tensor_type_info((uint32_t)t)->block_elements;
    return block == 1 ? 1 + below(max_blocks * 32) : block * (1 + below(block == 32 ? max_blocks : max_blocks / 8 + 1));
}

static void matmul_matches_reference(void **state)
{
    (void)state;
    EACH_LEVEL_FROM(ISA_AVX2, k)
    {
        for (size_t i = 0; i < N_TYPES; i++) {
            enum tensor_type t = types[i];
            for (uint32_t tokens = 1; tokens <= 70; tokens += tokens < 20 ? 1 : 7)
                check_product(k, t, 1 + below(tokens > 20 ? 9 : 40), some_cols(t, 16), tokens);
            for (uint32_t rows = 1; rows <= 40; rows++)
                check_product(k, t, rows, some_cols(t, 16), 1 + below(12));
            uint32_t block = tensor_type_info((uint32_t)t)->block_elements;
            uint32_t past_segment = block == 1 ? SEGMENT_COLS + 77 : SEGMENT_COLS + 3 * block;
            check_product(k, t, 5, SEGMENT_COLS, 1);
            check_product(k, t, 5, past_segment, 1);
            check_product(k, t, 17, past_segment, 9);
            check_product(k, t, 6, 2 * past_segment, 3);
            check_product(k, t, 19, past_segment, 21);
            check_product(k, t, 18, 2 * block, 530);
            check_product(k, t, 3, past_segment, 270);
            if (block == 1) { /* many blocks of rows; a token left over from a copy; too wide for a copy */
                check_product(k, t, 71, 2048 + below(64), 7);
                check_product(k, t, 34, past_segment, 43);
                check_product(k, t, 5, past_segment, 85);
                check_product(k, t, 5, 530000 + below(99), 8);
            }
        }
    }
}

static void matmul_is_independent_of_company(void **state)
{
    (void)state;
    EACH_LEVEL(k)
    {
        for (size_t i = 0; i < N_TYPES; i++) {
            for (int n = 0; n < 12; n++)
                check_independence(k, types[i], 1 + below(50), some_cols(types[i], n == 0 ? 150 : 24), 1 + below(40));
        }
    }
}

/* A product of dequantised weights and unpacked activations: ties ref's matmul to ref's dequant. */
static void reference_matmul_is_a_product(void **state)
{
    (void)state;
    const struct kernels *k = kernels_at(ISA_REF);
    enum { cols = 512, rows = 3, tokens = 2 };
    float w[cols], x[tokens][cols], y[tokens * rows];
    for (size_t n = 0; n < N_TYPES; n++) {
        enum tensor_type t = types[n];
        size_t row_bytes = tensor_type_row_bytes(t, cols), x_bytes = act_row_bytes(k->act_format[t], cols);
        uint8_t *rows_memory = malloc(rows * row_bytes), *packed = calloc(tokens, x_bytes);
        for (size_t r = 0; r < rows; r++)
            fill_row(t, NORMAL, rows_memory + r * row_bytes, cols);
        for (size_t i = 0; i < tokens; i++) {
            fill_floats(x[i], cols, NORMAL);
            k->act_pack[k->act_format[t]](x[i], cols, packed + i * x_bytes);
        }
        struct matmul_args a = {.w = rows_memory,
                                .w_row_bytes = row_bytes,
                                .n_rows = rows,
                                .n_cols = cols,
                                .x = packed,
                                .x_row_bytes = x_bytes,
                                .n_tokens = tokens,
                                .y = y,
                                .y_stride = rows,
                                .scratch = scratch};
        k->matmul[t](&a);
        for (size_t r = 0; r < rows; r++) {
            k->dequant[t](rows_memory + r * row_bytes, cols, w);
            for (size_t i = 0; i < tokens; i++) {
                double sum = 0, size = 0;
                for (int c = 0; c < cols; c++) {
                    sum += (double)w[c] * (double)x[i][c];
                    size += fabs((double)w[c]);
                }
                /* Activations of at most 4 are rounded to 1/254 of their block's peak at worst. */
                double bound = size * (k->act_format[t] == ACT_F32 ? 1e-5 : 4.0 / 254 * 1.01);
                if (!(fabs((double)y[i * rows + r] - sum) <= bound))
                    fail_msg("%s: %g, want %g within %g", tensor_type_name((uint32_t)t), (double)y[i * rows + r], sum,
                             bound);
            }
        }
        free(rows_memory);
        free(packed);
    }
}

/* ---- packing ---- */

static void packing_matches_reference(void **state)
{
    (void)state;
    const struct kernels *ref = kernels_at(ISA_REF);
    EACH_LEVEL_FROM(ISA_AVX2, k)
    {
        for (int act = 0; act < ACT_FORMAT_COUNT; act++) {
            for (uint32_t blocks = 1; blocks <= 21; blocks++) {
                uint32_t n = act == ACT_Q8K ? blocks * 256 : act == ACT_Q8 ? blocks * 32 : blocks * 13;
                size_t bytes = act_row_bytes((enum act_format)act, n);
                float *x = malloc(n * sizeof *x);
                uint8_t *got = calloc(1, bytes + 64), *want = calloc(1, bytes + 64);
                fill_floats(x, n, (enum flavour)(blocks % FLAVOURS));
                k->act_pack[act](x, n, got);
                ref->act_pack[act](x, n, want);
                for (uint32_t i = 0; act == ACT_BF16 && i < n; i++) {
                    if (fabsf(x[i]) < FLT_MIN) /* may be flushed to zero */
                        memcpy(got + 2 * i, want + 2 * i, 2);
                }
                assert_memory_equal(got, want, bytes + 64);
                free(x);
                free(got);
                free(want);
            }
        }
    }
}

static void packing_is_close(void **state)
{
    (void)state;
    const struct kernels *k = kernels_at(ISA_REF);
    float x[256];
    struct act_q8 q[2];
    struct act_q8k s;
    for (int n = 0; n < 200; n++) {
        fill_floats(x, 256, (enum flavour)(n % FLAVOURS));
        k->act_pack[ACT_Q8](x, 256, q);
        k->act_pack[ACT_Q8K](x, 256, &s);
        float peak_all = 0;
        for (int i = 0; i < 256; i++)
            peak_all = fmaxf(peak_all, fabsf(x[i]));
        for (int b = 0; b < 8; b++) {
            float peak = 0;
            int sum = 0, sum_k = 0;
            for (int i = 0; i < 32; i++)
                peak = fmaxf(peak, fabsf(x[32 * b + i]));
            for (int i = 0; i < 32; i++) {
                int code = q[b / 4].q[64 * (i / 16) + 16 * (b % 4) + i % 16];
                sum += code;
                sum_k += s.q[32 * b + i];
                float back = q[b / 4].d[b % 4] * (float)code;
                assert_true(fabsf(back - x[32 * b + i]) <= peak / 253.9f + ACT_TINY);
                assert_true(fabsf(s.d * (float)s.q[32 * b + i] - x[32 * b + i]) <= peak_all / 253.9f + ACT_TINY);
            }
            assert_int_equal(sum, q[b / 4].sum[b % 4]);
            assert_int_equal(sum_k, s.sum[2 * b] + s.sum[2 * b + 1]);
        }
    }
}
/* ---- half precision, dispatch ---- */

static void halves_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        bool nan16 = (h & 0x7c00) == 0x7c00 && (h & 0x3ff), nanb = (h & 0x7f80) == 0x7f80 && (h & 0x7f);
        if (!nan16)
            assert_int_equal(f16_from_f32(f16_to_f32((uint16_t)h)), h);
        else
            assert_true(isnan(f16_to_f32((uint16_t)h)) && isnan(f16_to_f32(f16_from_f32(f16_to_f32((uint16_t)h)))));
        if (!nanb)
            assert_int_equal(bf16_from_f32(bf16_to_f32((uint16_t)h)), h);
    }
    /* Halfway cases go to the even neighbour; what is past the largest becomes infinity. */
    assert_int_equal(f16_from_f32(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(f16_from_f32(1.0f + 3 * 0x1p-11f), 0x3c02);
    assert_int_equal(f16_from_f32(0x1p-25f), 0);
    assert_int_equal(f16_from_f32(3 * 0x1p-25f), 2);
    assert_int_equal(f16_from_f32(65519.0f), 0x7bff);
    assert_int_equal(f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(bf16_from_f32(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(bf16_from_f32(1.0f + 3 * 0x1p-8f), 0x3f82);
    assert_true(mxfp4_scale(0) == 0x1p-128f && mxfp4_scale(1) == 0x1p-127f && mxfp4_scale(128) == 1.0f);
}

static void dispatch_follows_the_mask(void **state)
{
    (void)state;
    struct err e = {0};
    enum kernel_isa isa;
    assert_non_null(kernels_at(ISA_REF));
    for (int i = 0; i < ISA_COUNT; i++) {
        assert_true(kernel_isa_parse(kernel_isa_name((enum kernel_isa)i), &isa));
        assert_int_equal(isa, i);
        setenv("WEIR_ISA", kernel_isa_name((enum kernel_isa)i), 1);
        const struct kernels *k = kernels_get(&e);
        assert_non_null(k);
        assert_true((int)k->isa <= i);
        if (kernels_at((enum kernel_isa)i))
            assert_ptr_equal(k, kernels_at((enum kernel_isa)i));
    }
    assert_false(kernel_isa_parse("avx1024", &isa));
    setenv("WEIR_ISA", "avx1024", 1);
    assert_null(kernels_get(&e));
    assert_int_equal(e.code, WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "avx512"));
    setenv("WEIR_ISA", "", 1);
    assert_non_null(kernels_get(&e));
    unsetenv("WEIR_ISA");
    assert_non_null(kernels_get(&e));
    assert_non_null(strstr(kernel_cpu_description(), "ref"));
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_round_trip),
        cmocka_unit_test(dispatch_follows_the_mask),
        cmocka_unit_test(reference_matmul_is_a_product),
        cmocka_unit_test(packing_is_close),
        cmocka_unit_test(packing_matches_reference),
        cmocka_unit_test(matmul_matches_reference),
        cmocka_unit_test(matmul_is_independent_of_company),
    };
    kernel_inputs_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
