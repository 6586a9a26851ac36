#include "policy/peak.h"

#include "base/rng.h"
#include "test.h"

/* Steps through the future one by one: the definition. */
static uint64_t by_simulation(const struct peak_seq *s, uint32_t n, uint64_t now, uint32_t chunk)
{
    uint64_t peak = 0, last = now + 1;
    for (uint32_t i = 0; i < n; i++)
        last = s[i].end_step > last ? s[i].end_step : last;
    for (uint64_t step = now; step <= last; step++) {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t end = s[i].end_step > now ? s[i].end_step : now + 1;
            if (step <= end)
                sum += (s[i].base_tokens + (step - s[i].base_step) + chunk - 1) / chunk;
        }
        peak = sum > peak ? sum : peak;
    }
    return peak;
}

static void equals_simulation(void **state)
{
    (void)state;
    struct rng r = {5};
    for (int trial = 0; trial < 3000; trial++) {
        uint32_t chunk = 1u << rng_below(&r, 9), n = (uint32_t)rng_below(&r, 12);
        struct peak_set p;
        struct err e;
        assert_int_equal(peak_init(&p, 16, chunk, &e), 0);
        struct peak_seq s[16];
        uint64_t now = 1000;
        for (uint32_t i = 0; i <= n; i++) {
            s[i] = (struct peak_seq){.id = i + 1,
                                     .base_step = now - rng_below(&r, 50),
                                     .base_tokens = (uint32_t)rng_below(&r, 200),
                                     .end_step = now - 2 + rng_below(&r, 1u << rng_below(&r, 9))};
        }
        for (uint32_t i = 0; i < n; i++)
            peak_add(&p, &s[i]);
        for (uint32_t i = 1; i < p.n; i++)
            assert_true(p.seqs[i - 1].end_step >= p.seqs[i].end_step);
        assert_int_equal(peak_chunks(&p, now, NULL), n ? by_simulation(s, n, now, chunk) : 0);
        assert_int_equal(peak_chunks(&p, now, &s[n]), by_simulation(s, n + 1, now, chunk));
        uint64_t upper;
        if (peak_upper(&p, now, &s[n], &upper) && s[n].end_step > now)
            assert_true(upper >= peak_chunks(&p, now, &s[n]));
        for (uint32_t left = n; left;) {
            left--;
            peak_remove(&p, s[left].id, s[left].end_step);
            peak_remove(&p, 999, s[0].end_step);
            assert_int_equal(p.n, left);
            assert_int_equal(peak_chunks(&p, now, NULL), left ? by_simulation(s, left, now, chunk) : 0);
        }
        assert_true(peak_upper(&p, now, NULL, &upper) && upper == 0);
        peak_finish(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(equals_simulation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
