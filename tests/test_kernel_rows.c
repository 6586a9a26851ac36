/* Operations on rows, and the stores into the cache, at every level that this machine has. */
#include "kernel_inputs.h"

static void rms_norm_is_accurate(void **state)
{
    (void)state;
    EACH_LEVEL(k)
    {
        for (uint32_t n = 1; n < 300; n += 1 + n / 8) {
            float x[300], w[300], out[300 + PAD];
            fill_floats(x, n, (enum flavour)(n % 2 ? NORMAL : HUGE_SCALES));
            fill_floats(w, n, NORMAL);
            fill_canaries(out, n + PAD);
            double sum = 0;
            for (uint32_t i = 0; i < n; i++)
                sum += (double)x[i] * (double)x[i];
            double scale = 1 / sqrt(sum / n + 1e-5);
            k->rms_norm(x, w, n, 1e-5f, out);
            for (uint32_t i = 0; i < n; i++) {
                double want = (double)x[i] * scale * (double)w[i];
                assert_close(k, "rms_norm", i, (double)out[i], want, 4 * (double)FLT_EPSILON * fabs(want) + 1e-44);
            }
            for (uint32_t i = n; i < n + PAD; i++)
                assert_true(out[i] == CANARY);
            k->rms_norm(x, w, n, 1e-5f, x);
            assert_memory_equal(x, out, n * sizeof *x);
        }
    }
}

static void rope_matches_reference(void **state)
{
    (void)state;
    const struct kernels *ref = kernels_at(ISA_REF);
    EACH_LEVEL(k)
    {
        for (uint32_t n = 2; n <= 140; n += 2) {
            for (int adjacent = 0; adjacent < 2; adjacent++) {
                float got[140 + PAD], want[140 + PAD], c[70], s[70];
                fill_floats(got, n, NORMAL);
                fill_canaries(got + n, PAD);
                memcpy(want, got, sizeof want);
                for (uint32_t i = 0; i < n / 2; i++) {
                    c[i] = cosf((float)i * 0.37f);
                    s[i] = sinf((float)i * 0.37f);
                }
                k->rope(got, c, s, n, adjacent != 0);
                ref->rope(want, c, s, n, adjacent != 0);
                for (uint32_t i = 0; i < n + PAD; i++)
                    assert_close(k, "rope", i, (double)got[i], (double)want[i], i < n ? 1e-6 : 0);
            }
        }
    }
}

static void silu_mul_is_accurate(void **state)
{
    (void)state;
    EACH_LEVEL(k)
    {
        for (uint32_t n = 1; n < 200; n++) {
            float gate[200 + PAD], up[200], before[200];
            for (uint32_t i = 0; i < n; i++) {
                gate[i] = before[i] = uniform(-1, 1) * (i % 3 ? 8.0f : i % 2 ? 1e-30f : 200.0f);
                up[i] = uniform(-3, 3);
            }
            fill_canaries(gate + n, PAD);
            k->silu_mul(gate, up, n);
            for (uint32_t i = 0; i < n; i++) {
                double x = (double)before[i], want = x / (1 + exp(-x)) * (double)up[i];
                assert_close(k, "silu_mul", i, (double)gate[i], want, 8 * (double)FLT_EPSILON * fabs(want) + 1e-35);
            }
            for (uint32_t i = n; i < n + PAD; i++)
                assert_true(gate[i] == CANARY);
        }
    }
}

static void add_scaled_matches_reference(void **state)
{
    (void)state;
    const struct kernels *ref = kernels_at(ISA_REF);
    EACH_LEVEL(k)
    {
        for (uint32_t n = 1; n < 100; n++) {
            float got[100 + PAD], want[100 + PAD], y[100], scale = uniform(-2, 2);
            fill_floats(got, n, NORMAL);
            fill_floats(y, n, MIXED);
            fill_canaries(got + n, PAD);
            memcpy(want, got, sizeof want);
            k->add_scaled(got, y, scale, n);
            ref->add_scaled(want, y, scale, n);
            assert_memory_equal(got, want, (n + PAD) * sizeof *got);
        }
    }
}

static void kv_store_matches_reference(void **state)
{
    (void)state;
    const struct kernels *ref = kernels_at(ISA_REF);
    EACH_LEVEL(k)
    {
        for (int t = 0; t < KV_TYPE_COUNT; t++) {
            for (uint32_t n = 32; n <= 512; n += 32) {
                float x[512];
                uint8_t got[1024 + PAD], want[1024 + PAD];
                size_t bytes = kv_row_bytes((enum kv_type)t, n);
                fill_floats(x, n, (enum flavour)(n / 32 % FLAVOURS));
                memset(got, 0xa5, sizeof got);
                memset(want, 0xa5, sizeof want);
                k->kv_store[t](x, n, got);
                ref->kv_store[t](x, n, want);
                assert_memory_equal(got, want, bytes + PAD);
            }
        }
    }
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rms_norm_is_accurate),       cmocka_unit_test(rope_matches_reference),
        cmocka_unit_test(silu_mul_is_accurate),       cmocka_unit_test(add_scaled_matches_reference),
        cmocka_unit_test(kv_store_matches_reference),
    };
    kernel_inputs_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
