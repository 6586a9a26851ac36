/* Weights in lanes: the layout, and products at every level that this machine has against ref/ with the same rows. Groups
 * end at an unreadable page, outputs lie between canaries. */
#include "kernel_inputs.h"

#include "kernel/lanes.h"

/* Debug and sanitised builds run an excerpt: the same paths, fewer numbers of tokens. */
#ifdef WEIR_DEBUG
#define EXCERPT 1
#else
#define EXCERPT 0
#endif

static const enum tensor_type types[] = {
    TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0,   TENSOR_Q5_1,   TENSOR_Q2_K,  TENSOR_Q3_K,
    TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_IQ4_NL, TENSOR_IQ4_XS, TENSOR_MXFP4,
};
#define N_TYPES (sizeof types / sizeof *types)

static _Alignas(64) uint8_t scratch[MATMUL_SCRATCH_BYTES];

static uint32_t some_cols(enum tensor_type t, uint32_t max_blocks)
{
    uint32_t block = tensor_type_info((uint32_t)t)->block_elements;
    return block * (1 + below(block == 32 ? max_blocks : max_blocks / 8 + 1));
}

static void every_level_has_them(void **state)
{
    (void)state;
    EACH_LEVEL(k)
    {
        uint32_t n = 0;
        for (uint32_t t = 0; t < TENSOR_TYPE_COUNT; t++)
            n += k->matmul_lanes[t] != NULL;
        assert_int_equal(n, N_TYPES);
        for (size_t i = 0; i < N_TYPES; i++)
            assert_non_null(k->matmul_lanes[types[i]]);
    }
}

/* Every bit of every row comes back, and 16 rows fill a group to the byte. */
static void rows_come_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_TYPES; i++) {
        for (int n = 0; n < 12; n++) {
            const uint32_t cols = some_cols(types[i], 20);
            const size_t row_bytes = tensor_type_row_bytes(types[i], cols), stride = row_bytes + below(3);
            uint8_t *rows = malloc(LANES * stride), *back = malloc(row_bytes);
            struct guarded group = guarded_alloc(LANES * row_bytes);
            for (size_t b = 0; b < LANES * stride; b++)
                rows[b] = (uint8_t)below(256);
            memset(group.data, 0xa5, LANES * row_bytes);
            lanes_pack(types[i], rows, stride, cols, group.data);
            for (uint32_t r = 0; r < LANES; r++) {
                lanes_unpack_row(types[i], group.data, cols, r, back);
                assert_memory_equal(back, rows + r * stride, row_bytes);
            }
            free(rows);
            free(back);
            guarded_free(&group);
        }
    }
}

/* What kernel/lanes.h documents, byte by byte: fields in their order, as places in the block. */
struct documented {
    enum tensor_type type;
    struct {
        size_t offset, unit_bytes, n_units;
    } fields[5];
    size_t woven; /* V of the first two fields */
};
static const struct documented documented[] = {
    {TENSOR_Q8_0, {{2, 4, 8}, {0, 2, 1}}, 0},
    {TENSOR_Q4_0, {{2, 4, 4}, {0, 2, 1}}, 0},
    {TENSOR_IQ4_NL, {{2, 4, 4}, {0, 2, 1}}, 0},
    {TENSOR_Q4_1, {{4, 4, 4}, {0, 2, 1}, {2, 2, 1}}, 0},
    {TENSOR_Q5_0, {{6, 4, 4}, {2, 4, 1}, {0, 2, 1}}, 0},
    {TENSOR_Q5_1, {{8, 4, 4}, {4, 4, 1}, {0, 2, 1}, {2, 2, 1}}, 0},
    {TENSOR_MXFP4, {{1, 4, 4}, {0, 1, 1}}, 0},
    {TENSOR_Q2_K, {{16, 4, 16}, {0, 4, 4}, {80, 2, 1}, {82, 2, 1}}, 0},
    {TENSOR_Q3_K, {{32, 4, 16}, {0, 4, 8}, {96, 4, 3}, {108, 2, 1}}, 2},
    {TENSOR_Q4_K, {{16, 4, 32}, {4, 4, 3}, {0, 2, 1}, {2, 2, 1}}, 0},
    {TENSOR_Q5_K, {{48, 4, 32}, {16, 4, 8}, {4, 4, 3}, {0, 2, 1}, {2, 2, 1}}, 4},
    {TENSOR_Q6_K, {{0, 4, 32}, {128, 4, 16}, {192, 4, 4}, {208, 2, 1}}, 2},
    {TENSOR_IQ4_XS, {{8, 4, 32}, {4, 4, 1}, {0, 2, 1}, {2, 2, 1}}, 0},
};

/* Byte i of field f's unit of a block. */
static uint8_t documented_byte(enum tensor_type t, size_t f, const uint8_t *unit, size_t i)
{
    if (t == TENSOR_Q8_0 && f == 0)
        return (uint8_t)(unit[i] + 128);
    if ((t != TENSOR_Q5_0 && t != TENSOR_Q5_1) || f != 1)
        return unit[i];
    uint32_t v = 0;
    for (size_t k = 0; k < 8; k++)
        v |= (uint32_t)(unit[(4 * k + i) / 8] >> (4 * k + i) % 8 & 1) << k;
    return (uint8_t)v;
}

/* Weaves the first two fields of a super-block. */
static void weave(const struct documented *d, uint8_t *cell)
{
    enum { UNIT = 4 * LANES };
    const size_t n_high = d->fields[1].n_units, n_codes = d->woven * n_high;
    uint8_t plain[64 * UNIT], *to = cell;
    memcpy(plain, cell, (n_codes + n_high) * UNIT);
    for (size_t h = 0; h < n_high / 8; h++) {
        for (size_t u = 0; u < 8; u++) {
            for (size_t v = 0; v < d->woven; v++, to += UNIT)
                memcpy(to, plain + (8 * (d->woven * h + v) + u) * UNIT, UNIT);
            memcpy(to, plain + (n_codes + 8 * h + u) * UNIT, UNIT);
            to += UNIT;
        }
    }
}

/* 16 rows of n_blocks blocks into `out`; how many bytes that were. */
static size_t lay_out_as_documented(const struct documented *d, const uint8_t *rows, size_t stride, uint32_t n_blocks,
                                    uint8_t *out)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)d->type);
    const uint32_t cell_blocks = info->block_elements == 32 ? 4 : 1;
    uint8_t *at = out;
    for (uint32_t cell = 0; cell < n_blocks; cell += cell_blocks) {
        const uint32_t n = n_blocks - cell < cell_blocks ? n_blocks - cell : cell_blocks;
        uint8_t *begin = at;
        for (size_t f = 0; f < 5 && d->fields[f].n_units; f++) {
            const size_t unit = d->fields[f].unit_bytes, n_units = d->fields[f].n_units;
            for (size_t i = 0; i < n * n_units * LANES * unit; i++, at++) {
                const size_t r = i / unit % LANES, u = i / unit / LANES % n_units, b = i / unit / LANES / n_units;
                *at = documented_byte(
                    d->type, f, rows + r * stride + (cell + b) * info->block_bytes + d->fields[f].offset + u * unit,
                    i % unit);
            }
        }
        if (d->woven)
            weave(d, begin);
    }
    return (size_t)(at - out);
}

static void layout_is_as_documented(void **state)
{
    (void)state;
    assert_int_equal(sizeof documented / sizeof *documented, N_TYPES);
    for (size_t i = 0; i < N_TYPES; i++) {
        const enum tensor_type t = documented[i].type;
        for (uint32_t n_blocks = 1; n_blocks <= 13; n_blocks++) {
            const uint32_t cols = n_blocks * tensor_type_info((uint32_t)t)->block_elements;
            const size_t row_bytes = tensor_type_row_bytes(t, cols), stride = row_bytes + below(7);
            struct guarded rows = guarded_alloc((LANES - 1) * stride + row_bytes),
                           group = guarded_alloc(LANES * row_bytes);
            uint8_t *want = malloc(LANES * row_bytes);
            for (size_t b = 0; b < (LANES - 1) * stride + row_bytes; b++)
                rows.data[b] = (uint8_t)below(256);
            assert_int_equal(lay_out_as_documented(&documented[i], rows.data, stride, n_blocks, want),
                             LANES * row_bytes);
            lanes_pack(t, rows.data, stride, cols, group.data);
            assert_memory_equal(group.data, want, LANES * row_bytes);
            free(want);
            guarded_free(&rows);
            guarded_free(&group);
        }
    }
}

/* BF16: pairs of columns, an odd last column by itself; and back. */
static void pairs_of_columns(void **state)
{
    (void)state;
    for (uint32_t cols = 1; cols <= 70; cols++) {
        const size_t row_bytes = 2 * (size_t)cols, stride = row_bytes + below(3);
        struct guarded rows = guarded_alloc((LANES - 1) * stride + row_bytes), group = guarded_alloc(LANES * row_bytes);
        uint8_t *want = malloc(LANES * row_bytes), back[140];
        for (size_t b = 0; b < (LANES - 1) * stride + row_bytes; b++)
            rows.data[b] = (uint8_t)below(256);
        for (size_t i = 0; i < LANES * row_bytes; i++) {
            const size_t pair = i / 64, unit = 2 * pair + 1 < cols ? 4 : 2, row = i % 64 / unit;
            want[i] = rows.data[row * stride + 4 * pair + i % unit];
        }
        lanes_pack(TENSOR_BF16, rows.data, stride, cols, group.data);
        assert_memory_equal(group.data, want, LANES * row_bytes);
        for (uint32_t r = 0; r < LANES; r++) {
            lanes_unpack_row(TENSOR_BF16, group.data, cols, r, back);
            assert_memory_equal(back, rows.data + r * stride, row_bytes);
        }
        free(want);
        guarded_free(&rows);
        guarded_free(&group);
    }
}

struct product {
    struct guarded w;
    void *x_memory;
    uint8_t *rows;
    float *got, *want;
    size_t n_y;
    struct matmul_args a;
};

static void product_make(struct product *p, enum tensor_type t, uint32_t n_rows, uint32_t cols, uint32_t tokens)
{
    const struct kernels *ref = kernels_at(ISA_REF);
    const enum act_format f = ref->act_format[t];
    const size_t row_bytes = tensor_type_row_bytes(t, cols), x_bytes = act_row_bytes(f, cols) + 64 * below(2);
    const size_t shift = 4 * below(2), y_stride = n_rows + below(5);
    p->w = guarded_alloc(n_rows * row_bytes);
    p->rows = malloc(n_rows * row_bytes);
    for (uint32_t r = 0; r < n_rows; r++)
        fill_row(t, (enum flavour)below(FLAVOURS), p->rows + r * row_bytes, cols);
    for (uint32_t r = 0; r < n_rows; r += LANES)
        lanes_pack(t, p->rows + r * row_bytes, row_bytes, cols, p->w.data + r * row_bytes);
    p->x_memory = calloc(1, tokens * x_bytes + shift);
    uint8_t *x = (uint8_t *)p->x_memory + shift;
    float *row = calloc(cols, sizeof *row);
    for (uint32_t i = 0; i < tokens; i++) {
        fill_floats(row, cols, (enum flavour)below(FLAVOURS));
        ref->act_pack[f](row, cols, x + i * x_bytes);
    }
    free(row);
    p->n_y = tokens * y_stride + 2 * PAD;
    p->got = malloc(p->n_y * sizeof *p->got);
    p->want = malloc(p->n_y * sizeof *p->want);
    fill_canaries(p->got, p->n_y);
    fill_canaries(p->want, p->n_y);
    p->a = (struct matmul_args){.w = p->rows,
                                .w_row_bytes = row_bytes,
                                .n_rows = n_rows,
                                .n_cols = cols,
                                .x = x,
                                .x_row_bytes = x_bytes,
                                .n_tokens = tokens,
                                .y = p->want + PAD,
                                .y_stride = y_stride,
                                .scratch = scratch};
    ref->matmul[t](&p->a);
    p->a.w = p->w.data;
    p->a.y = p->got + PAD;
}

static void product_free(struct product *p)
{
    guarded_free(&p->w);
    free(p->rows);
    free(p->x_memory);
    free(p->got);
    free(p->want);
}

static bool same(float a, float b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void check_product(const struct kernels *k, enum tensor_type t, uint32_t groups, uint32_t cols, uint32_t tokens)
{
    struct product p;
    product_make(&p, t, groups * LANES, cols, tokens);
    k->matmul_lanes[t](&p.a);
    for (size_t i = 0; i < p.n_y; i++) {
        if (!same(p.got[i], p.want[i]))
            fail_msg("%s %s in lanes, %u groups x %u cols x %u tokens: [%zu] is %a, reference %a",
                     kernel_isa_name(k->isa), tensor_type_name((uint32_t)t), groups, cols, tokens, i - PAD,
                     (double)p.got[i], (double)p.want[i]);
    }
    product_free(&p);
}

static void products_match_rows(void **state)
{
    (void)state;
    EACH_LEVEL_FROM(EXCERPT ? ISA_AVX2 : ISA_REF, k)
    {
        for (size_t i = 0; i < N_TYPES; i++) {
            const enum tensor_type t = types[i];
            const uint32_t block = tensor_type_info((uint32_t)t)->block_elements;
            for (uint32_t tokens = 1; tokens <= 70; tokens += tokens >= 20 ? 7 : EXCERPT ? 3 : 1)
                check_product(k, t, 1 + below(tokens > 20 ? 2 : 4), some_cols(t, 16), tokens);
            for (uint32_t blocks = 1; blocks <= 9; blocks++)
                check_product(k, t, 1 + below(3), blocks * block, 1 + below(9));
            const uint32_t past_segment = SEGMENT_COLS + 3 * block;
            check_product(k, t, 1, SEGMENT_COLS, 1);
            check_product(k, t, 3, past_segment, 1);
            check_product(k, t, 1, 2 * past_segment, 3);
            check_product(k, t, 2, past_segment, EXCERPT ? 9 : 21);
            check_product(k, t, 1, 2 * block, 530);
            check_product(k, t, 1, past_segment, EXCERPT ? 50 : 270);
            check_product(k, t, 2, 70 * 256, 49);               /* tiles: the same, with one token twice */
            check_product(k, t, EXCERPT ? 1 : 2, 300 * 256, 2); /* more columns than a cache holds activations of */
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_has_them),    cmocka_unit_test(rows_come_back),
        cmocka_unit_test(layout_is_as_documented), cmocka_unit_test(pairs_of_columns),
        cmocka_unit_test(products_match_rows),
    };
    kernel_inputs_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
