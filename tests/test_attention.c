/* Attention at every level that this machine has, against its definition. Areas of keys and values end at an unreadable
 * page; what no query sees holds not-a-numbers. */
#include "kernel_inputs.h"

#include "kernel/kv.h"

#define SCORE_TOLERANCE 2e-5
#define WEIGHT_TOLERANCE 3e-4 /* of weights in 15 bits */
#define WORD_TOLERANCE 1e-4   /* of scores and weights whose operands are rounded to some 15 bits */

enum { MAX_Q = 70, MAX_DIM = 256, MAX_CHUNKS = ATTN_SPAN_TOKENS / KV_BLOCK_TOKENS };

struct attention_case {
    struct attn_args a;
    float q[MAX_Q * MAX_DIM], m[MAX_Q], l[MAX_Q], acc[MAX_Q * MAX_DIM];
    uint32_t first[MAX_Q], last[MAX_Q];
    struct guarded area[2 * MAX_CHUNKS];
    const void *k[MAX_CHUNKS], *v[MAX_CHUNKS];
    void *scratch;
    uint32_t n_tokens;
};

static struct attention_case cases;

/* n_tokens of a span, in chunks of chunk_tokens; the last one's tail stays unwritten. */
static struct attention_case *attention_make(enum kv_type t, uint32_t n_q, uint32_t dim, uint32_t n_tokens,
                                             uint32_t chunk_tokens, float spread)
{
    struct attention_case *c = &cases;
    const struct kernels *ref = kernels_at(ISA_REF);
    const uint32_t n_chunks = (n_tokens + chunk_tokens - 1) / chunk_tokens;
    const size_t bytes = kv_area_bytes(t, dim, chunk_tokens);
    float row[MAX_DIM];
    _Alignas(8) uint8_t stored[2 * MAX_DIM];
    assert_true(n_chunks * chunk_tokens <= ATTN_SPAN_TOKENS);
    c->n_tokens = n_tokens;
    for (uint32_t i = 0; i < 2 * n_chunks; i++) {
        c->area[i] = guarded_alloc(bytes);
        memset(c->area[i].data, 0xff, bytes);
    }
    for (uint32_t i = 0; i < n_chunks; i++) {
        c->k[i] = c->area[2 * i].data;
        c->v[i] = c->area[2 * i + 1].data;
    }
    for (uint32_t i = 0; i < 2 * n_tokens; i++) {
        fill_floats(row, dim, NORMAL);
        ref->kv_store[t](row, dim, stored);
        kv_put(t, i % 2, stored, dim, chunk_tokens, c->area[i / 2 / chunk_tokens * 2 + i % 2].data,
               i / 2 % chunk_tokens);
    }
    for (uint32_t i = 0; i < n_q * dim; i++)
        c->q[i] = uniform(-spread, spread);
    c->scratch = aligned_alloc(64, attn_scratch_bytes(dim));
    c->a = (struct attn_args){.prompt = below(2),
                              .q = c->q,
                              .n_q = n_q,
                              .head_dim = dim,
                              .kv_type = t,
                              .chunk_tokens = chunk_tokens,
                              .n_chunks = n_chunks,
                              .k = c->k,
                              .v = c->v,
                              .first = c->first,
                              .last = c->last,
                              .out = {c->m, c->l, c->acc},
                              .scratch = c->scratch};
    return c;
}

static void attention_free(struct attention_case *c)
{
    for (uint32_t i = 0; i < 2 * c->a.n_chunks; i++)
        guarded_free(&c->area[i]);
    free(c->scratch);
}

static double cached(const struct attention_case *c, bool values, uint32_t token, uint32_t i)
{
    const struct attn_args *a = &c->a;
    const uint8_t *area = c->area[2 * (token / a->chunk_tokens) + values].data;
    uint32_t t = token % a->chunk_tokens;
    const uint8_t *p = area + kv_element_offset(a->kv_type, values, a->head_dim, t, i);
    uint16_t h;
    if (a->kv_type == KV_F16) {
        memcpy(&h, p, sizeof h);
        return (double)f16_to_f32(h);
    }
    memcpy(&h, area + kv_scale_offset(a->head_dim, a->chunk_tokens, t, i), sizeof h);
    return (double)f16_to_f32(h) * (values ? (int8_t)*p : *p - 128);
}

struct exact {
    double top, sum, out[MAX_DIM];
    double score_size, value_size; /* largest sum of |q k|, and |v|, that the query sees */
};

/* Softmax over the tokens that the query sees, straight from the definition. */
static void attention_exact(const struct attention_case *c, uint32_t query, struct exact *x)
{
    static double score[ATTN_SPAN_TOKENS];
    const uint32_t dim = c->a.head_dim;
    *x = (struct exact){.top = -INFINITY};
    for (uint32_t t = c->first[query]; t < c->last[query]; t++) {
        double size = 0;
        score[t] = 0;
        for (uint32_t i = 0; i < dim; i++) {
            const double product = (double)c->q[query * dim + i] * cached(c, false, t, i);
            score[t] += product;
            size += fabs(product);
        }
        x->top = fmax(x->top, score[t]);
        x->score_size = fmax(x->score_size, size);
    }
    for (uint32_t t = c->first[query]; t < c->last[query]; t++) {
        double p = exp(score[t] - x->top);
        x->sum += p;
        for (uint32_t i = 0; i < dim; i++) {
            x->out[i] += p * cached(c, true, t, i);
            x->value_size = fmax(x->value_size, fabs(cached(c, true, t, i)));
        }
    }
    for (uint32_t i = 0; i < dim; i++)
        x->out[i] /= x->sum;
}

static void choose_ranges(struct attention_case *c)
{
    /* Each sees a part of its own, or none; at times the rows of a prompt, one token further each. */
    const bool causal = below(2);
    for (uint32_t i = 0; i < c->a.n_q; i++) {
        c->first[i] = below(4) ? 0 : below(c->n_tokens);
        c->last[i] = below(6) ? c->first[i] + 1 + below(c->n_tokens - c->first[i]) : c->first[i];
        if (causal) {
            const uint32_t at = c->n_tokens * (i + 1) / c->a.n_q;
            c->first[i] = 0;
            c->last[i] = at ? at : 1;
        }
    }
}

/* Whether the level goes through a prompt's rows in integers of 16 bits. */
static bool in_words(const struct kernels *k, const struct attn_args *a)
{
    return a->prompt && a->head_dim % 32 == 0 && (k->isa == ISA_VNNI || k->isa == ISA_BF16);
}

/* Errors of scores are relative to what they are summed from, and exponentiated; those of weights to the largest. */
static void check_attention(const struct kernels *k, struct attention_case *c)
{
    static struct exact x;
    const uint32_t dim = c->a.head_dim;
    choose_ranges(c);
    k->attention(&c->a);
    for (uint32_t i = 0; i < c->a.n_q; i++) {
        if (c->first[i] == c->last[i]) {
            assert_true(isinf(c->m[i]) && c->m[i] < 0 && c->l[i] == 0);
            for (uint32_t d = 0; d < dim; d++)
                assert_true(c->acc[i * dim + d] == 0);
            continue;
        }
        attention_exact(c, i, &x);
        const bool words = in_words(k, &c->a);
        const double score = (words ? WORD_TOLERANCE : SCORE_TOLERANCE) * (1 + x.score_size);
        const double value = (score + (c->a.kv_type == KV_F16 ? 0 : WEIGHT_TOLERANCE)) * x.value_size;
        assert_close(k, "attention m", i, (double)c->m[i], x.top, score);
        assert_close(k, "attention l", i, (double)c->l[i] * exp((double)c->m[i] - x.top), x.sum, score * x.sum);
        for (uint32_t d = 0; d < dim; d++) {
            const double got = (double)c->acc[i * dim + d] / (double)c->l[i];
            if (!(fabs(got - x.out[d]) <= value))
                fail_msg("%s attention %s: query %u [%u, %u) of %u, element %u of %u: %.9g, not %.9g within %.3g",
                         kernel_isa_name(k->isa), c->a.kv_type == KV_F16 ? "f16" : "q8_0", i, c->first[i], c->last[i],
                         c->n_tokens, d, dim, got, x.out[d], value);
        }
    }
}

static void attention_is_accurate(void **state)
{
    (void)state;
    static const uint32_t dims[] = {32, 64, 80, 96, 128, 256},
                          tokens[] = {1, 2, 15, 16, 17, 33, 64, 100, 256, 511, 512};
    static const uint32_t groups[] = {1, 2, 3, 4, 7, 8, 16, 17, 33, 70}, chunks[] = {16, 32, 48, 64, 256};
    EACH_LEVEL(k)
    {
        for (int t = 0; t < KV_TYPE_COUNT; t++) {
            for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
                for (size_t n = 0; n < sizeof tokens / sizeof *tokens; n++) {
                    const uint32_t chunk = chunks[below(5)], span = ATTN_SPAN_TOKENS / chunk * chunk;
                    if (t == KV_Q8_0 && dims[d] % 32)
                        continue;
                    struct attention_case *c =
                        attention_make((enum kv_type)t, groups[below(10)], dims[d], tokens[n] < span ? tokens[n] : span,
                                       chunk, n % 3 ? 0.2f : 2);
                    check_attention(k, c);
                    attention_free(c);
                }
            }
        }
        /* Odd head sizes exist for F16. */
        for (uint32_t dim = 1; dim < 90; dim += 7) {
            struct attention_case *c = attention_make(KV_F16, 1 + below(MAX_Q), dim, 40, 32, 0.3f);
            check_attention(k, c);
            attention_free(c);
        }
    }
}

/* Scores in the tens of thousands, where one token takes all, and values near the largest float16. */
static void attention_stands_extremes(void **state)
{
    (void)state;
    EACH_LEVEL(k)
    {
        for (int n = 0; n < 8; n++) {
            struct attention_case *c = attention_make((enum kv_type)(n % 2), 1 + below(9), 64, 300, 32, 1);
            for (uint32_t i = 0; i < c->a.n_q * 64; i++)
                c->q[i] *= n / 2 % 2 ? 3e4f : 1e-20f;
            if (n >= 4) {
                float row[64];
                _Alignas(8) uint8_t stored[128];
                for (uint32_t i = 0; i < 64; i++)
                    row[i] = (i % 2 ? -60000.0f : 60000.0f) * (float)(n % 3 + 1) / 3;
                k->kv_store[n % 2](row, 64, stored);
                for (uint32_t i = 0; i < 3; i++)
                    kv_put((enum kv_type)(n % 2), true, stored, 64, 32, c->area[2 * (i * 4) + 1].data, i * 7);
            }
            for (uint32_t i = 0; i < c->a.n_q; i++) {
                c->first[i] = 0;
                c->last[i] = 1 + below(300);
            }
            k->attention(&c->a);
            for (uint32_t i = 0; i < c->a.n_q; i++) {
                static struct exact x;
                attention_exact(c, i, &x);
                assert_true(isfinite(c->m[i]) && c->l[i] >= 0.9999f);
                for (uint32_t d = 0; n / 2 % 2 == 0 && d < 64; d++)
                    assert_true(fabs((double)c->acc[i * 64 + d] / (double)c->l[i] - x.out[d]) <= 4e-4 * x.value_size);
                for (uint32_t d = 0; d < 64; d++)
                    assert_true(fabs((double)c->acc[i * 64 + d]) <= 1.001 * x.value_size * (double)c->l[i]);
            }
            attention_free(c);
        }
    }
}

/* A token that is seen and holds no numbers makes none. */
static void attention_keeps_not_a_numbers(void **state)
{
    (void)state;
    EACH_LEVEL(k)
    {
        for (int n = 0; n < 8; n++) {
            struct attention_case *c = attention_make((enum kv_type)(n % 2), 5, 64, 100, 32, 1);
            for (uint32_t i = 0; i < 5; i++) {
                c->first[i] = 3;
                c->last[i] = 101; /* one more than was written */
            }
            k->attention(&c->a);
            for (uint32_t i = 0; i < 5; i++)
                assert_true(isnan(c->acc[i * 64] / c->l[i]));
            attention_free(c);
        }
    }
}

static void attention_is_independent_of_company(void **state)
{
    (void)state;
    static float together[MAX_Q * MAX_DIM], l[MAX_Q];
    EACH_LEVEL(k)
    {
        for (int n = 0; n < 40; n++) {
            const uint32_t dim = n % 3 ? 64 : n % 2 ? 128 : 96, n_q = 1 + below(MAX_Q);
            struct attention_case *c = attention_make((enum kv_type)(n % 2), n_q, dim, 1 + below(480), 48, 1);
            choose_ranges(c);
            k->attention(&c->a);
            memcpy(together, c->acc, sizeof together);
            memcpy(l, c->l, sizeof l);
            memset(c->acc, 0, sizeof c->acc);
            for (uint32_t i = 0; i < n_q;) {
                struct attn_args some = c->a;
                some.n_q = n % 4 ? 1 : 1 + below(n_q - i);
                some.q += i * dim;
                some.out = (struct attn_state){c->m + i, c->l + i, c->acc + i * dim};
                some.first += i;
                some.last += i;
                k->attention(&some);
                i += some.n_q;
            }
            assert_memory_equal(together, c->acc, n_q * dim * sizeof *together);
            assert_memory_equal(l, c->l, n_q * sizeof *l);
            attention_free(c);
        }
    }
}

static void fold_matches_reference(void **state)
{
    (void)state;
    enum { N = 5 };
    const struct kernels *ref = kernels_at(ISA_REF);
    EACH_LEVEL(k)
    {
        for (uint32_t dim = 1; dim < 130; dim += 3) {
            static float x[4][N * 130];
            float m[3][N], l[3][N];
            for (uint32_t i = 0; i < N; i++) {
                m[0][i] = m[2][i] = below(4) ? uniform(-30, 30) : -INFINITY;
                l[0][i] = l[2][i] = isinf(m[0][i]) ? 0 : uniform(1, 100);
                m[1][i] = below(4) ? uniform(-30, 30) : -INFINITY;
                l[1][i] = isinf(m[1][i]) ? 0 : uniform(1, 100);
            }
            for (uint32_t i = 0; i < N * dim; i++) {
                x[0][i] = x[2][i] = l[0][i / dim] > 0 ? uniform(-9, 9) : 0;
                x[1][i] = uniform(-9, 9);
            }
            x[0][N * dim] = 7;
            k->attn_fold(&(struct attn_state){m[0], l[0], x[0]}, &(struct attn_state){m[1], l[1], x[1]}, N, dim);
            ref->attn_fold(&(struct attn_state){m[2], l[2], x[2]}, &(struct attn_state){m[1], l[1], x[1]}, N, dim);
            assert_true(x[0][N * dim] == 7);
            for (uint32_t i = 0; i < N; i++) {
                assert_true(m[0][i] == m[2][i]);
                assert_close(k, "fold l", i, (double)l[0][i], (double)l[2][i], 1e-4);
            }
            for (uint32_t i = 0; i < N * dim; i++)
                assert_true(fabsf(x[0][i] - x[2][i]) <= 2e-5f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_accurate),         cmocka_unit_test(attention_stands_extremes),
        cmocka_unit_test(attention_keeps_not_a_numbers), cmocka_unit_test(attention_is_independent_of_company),
        cmocka_unit_test(fold_matches_reference),
    };
    kernel_inputs_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
