/* Attention at every level that this machine has, against its definition. */
#include "kernel_inputs.h"

#define MAX_Q 19
#define MAX_DIM 256

struct attention_case {
    struct attn_args a;
    float q[MAX_Q * MAX_DIM], m[MAX_Q], l[MAX_Q], acc[MAX_Q * MAX_DIM];
    uint32_t first[MAX_Q], last[MAX_Q];
    struct guarded k, v;
    uint32_t n_tokens;
};

static void attention_make(struct attention_case *c, enum kv_type t, uint32_t n_q, uint32_t dim, uint32_t n_tokens,
                           float spread)
{
    const struct kernels *ref = kernels_at(ISA_REF);
    size_t row_bytes = kv_row_bytes(t, dim), stride = row_bytes * (1 + below(2));
    float row[MAX_DIM];
    c->n_tokens = n_tokens;
    c->k = guarded_alloc((n_tokens - 1) * stride + row_bytes);
    c->v = guarded_alloc((n_tokens - 1) * stride + row_bytes);
    for (uint32_t i = 0; i < n_tokens; i++) {
        fill_floats(row, dim, NORMAL);
        ref->kv_store[t](row, dim, c->k.data + i * stride);
        fill_floats(row, dim, NORMAL);
        ref->kv_store[t](row, dim, c->v.data + i * stride);
    }
    for (uint32_t i = 0; i < n_q * dim; i++)
        c->q[i] = uniform(-spread, spread);
    c->a = (struct attn_args){.q = c->q,
                              .n_q = n_q,
                              .head_dim = dim,
                              .k = c->k.data,
                              .v = c->v.data,
                              .kv_type = t,
                              .kv_row_bytes = stride,
                              .first = c->first,
                              .last = c->last,
                              .m = c->m,
                              .l = c->l,
                              .acc = c->acc};
}

static void attention_free(struct attention_case *c)
{
    guarded_free(&c->k);
    guarded_free(&c->v);
}

static void attention_reset(struct attention_case *c)
{
    for (uint32_t i = 0; i < c->a.n_q; i++) {
        c->m[i] = -INFINITY;
        c->l[i] = 0;
    }
    memset(c->acc, 0, sizeof c->acc);
}

static double cached(enum kv_type t, const uint8_t *row, uint32_t i)
{
    if (t == KV_F16) {
        uint16_t h;
        memcpy(&h, row + 2 * i, sizeof h);
        return (double)f16_to_f32(h);
    }
    const struct block_q8_0 *b = (const struct block_q8_0 *)row + i / 32;
    return (double)f16_to_f32(b->d) * b->q[i % 32];
}

/* Softmax over the tokens that query i sees, straight from the definition. */
static void attention_exact(const struct attention_case *c, uint32_t query, uint32_t first, uint32_t last, double *out)
{
    double score[KV_CHUNK_MAX_TOKENS], top = -INFINITY, sum = 0;
    uint32_t dim = c->a.head_dim;
    for (uint32_t t = first; t < last; t++) {
        score[t] = 0;
        for (uint32_t i = 0; i < dim; i++)
            score[t] += (double)c->q[query * dim + i] * cached(c->a.kv_type, c->k.data + t * c->a.kv_row_bytes, i);
        top = fmax(top, score[t]);
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] = 0;
    for (uint32_t t = first; t < last; t++) {
        double p = exp(score[t] - top);
        sum += p;
        for (uint32_t i = 0; i < dim; i++)
            out[i] += p * cached(c->a.kv_type, c->v.data + t * c->a.kv_row_bytes, i);
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] /= sum;
}

/* The chunk taken in two calls, as two chunks would be; each query sees a range of its own, some none. */
static void check_attention(const struct kernels *k, struct attention_case *c)
{
    uint32_t first[MAX_Q], last[MAX_Q], cut = below(c->n_tokens + 1);
    attention_reset(c);
    for (uint32_t i = 0; i < c->a.n_q; i++) {
        first[i] = below(4) ? 0 : below(c->n_tokens);
        last[i] = below(6) ? first[i] + 1 + below(c->n_tokens - first[i]) : first[i];
    }
    for (int part = 0; part < 2; part++) {
        for (uint32_t i = 0; i < c->a.n_q; i++) {
            uint32_t lo = part ? cut : 0, hi = part ? c->n_tokens : cut;
            c->first[i] = first[i] > lo ? first[i] : lo;
            c->last[i] = last[i] < hi ? last[i] : hi;
            if (c->first[i] >= c->last[i])
                c->first[i] = c->last[i] = lo;
        }
        k->attention(&c->a);
    }
    for (uint32_t i = 0; i < c->a.n_q; i++) {
        double want[MAX_DIM];
        if (first[i] == last[i]) {
            assert_true(isinf(c->m[i]) && c->l[i] == 0 && c->acc[i * c->a.head_dim] == 0);
            continue;
        }
        attention_exact(c, i, first[i], last[i], want);
        for (uint32_t d = 0; d < c->a.head_dim; d++) {
            double got = (double)c->acc[i * c->a.head_dim + d] / (double)c->l[i];
            assert_close(k, "attention", i * c->a.head_dim + d, got, want[d], 1e-4);
        }
    }
}

static void attention_is_accurate(void **state)
{
    (void)state;
    static struct attention_case c;
    static const uint32_t dims[] = {32, 64, 96, 128, 256}, tokens[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 256};
    EACH_LEVEL(k)
    {
        for (int t = 0; t < KV_TYPE_COUNT; t++) {
            for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
                for (size_t n = 0; n < sizeof tokens / sizeof *tokens; n++) {
                    attention_make(&c, (enum kv_type)t, 1 + below(MAX_Q), dims[d], tokens[n], n % 3 ? 0.2f : 4);
                    check_attention(k, &c);
                    attention_free(&c);
                }
            }
        }
        /* Odd head sizes exist for F16. */
        for (uint32_t dim = 1; dim < 90; dim += 7) {
            attention_make(&c, KV_F16, 1 + below(MAX_Q), dim, 40, 0.3f);
            check_attention(k, &c);
            attention_free(&c);
        }
    }
}

static void attention_is_independent_of_company(void **state)
{
    (void)state;
    static struct attention_case c;
    static float together[MAX_Q * MAX_DIM], l[MAX_Q];
    EACH_LEVEL(k)
    {
        for (int n = 0; n < 40; n++) {
            attention_make(&c, (enum kv_type)(n % 2), 1 + below(MAX_Q), n % 3 ? 64 : 128, 1 + below(256), 1);
            attention_reset(&c);
            for (uint32_t i = 0; i < c.a.n_q; i++) {
                c.first[i] = below(c.n_tokens);
                c.last[i] = c.first[i] + below(c.n_tokens - c.first[i] + 1);
            }
            k->attention(&c.a);
            memcpy(together, c.acc, sizeof together);
            memcpy(l, c.l, sizeof l);
            attention_reset(&c);
            for (uint32_t i = 0; i < c.a.n_q; i++) {
                struct attn_args one = c.a;
                one.q += i * one.head_dim;
                one.acc += i * one.head_dim;
                one.m += i;
                one.l += i;
                one.first += i;
                one.last += i;
                one.n_q = 1;
                k->attention(&one);
            }
            assert_memory_equal(together, c.acc, c.a.n_q * c.a.head_dim * sizeof *together);
            assert_memory_equal(l, c.l, c.a.n_q * sizeof *l);
            attention_free(&c);
        }
    }
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_accurate),
        cmocka_unit_test(attention_is_independent_of_company),
    };
    kernel_inputs_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
