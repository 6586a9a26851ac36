/* Dealing out the rows of a product: each row once, by its own worker or by one of the same node that has time. */
#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "device/cpu/cpu.h"

#include <stdlib.h>

#define MAX_ROWS 5000
#define N_DEALS 400

struct fixture {
    struct cpu c;
    struct tensor w[N_DEALS];
    atomic_uint taken[N_DEALS][MAX_ROWS];
};

static struct fixture *make(const char *topology, uint32_t n_threads)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err e = {0};
    if (topology)
        setenv("HWLOC_SYNTHETIC", topology, 1);
    assert_int_equal(team_create(&f->c.team, n_threads, true, &e), 0);
    unsetenv("HWLOC_SYNTHETIC");
    f->c.n_threads = n_threads;
    f->c.threads = mem_aligned(n_threads * sizeof *f->c.threads);
    f->c.step.n_rows = 1;
    struct rng rng = {7};
    for (uint32_t i = 0; i < N_DEALS; i++)
        f->w[i] = (struct tensor){.n_out = 1 + (uint32_t)rng_below(&rng, i % 2 ? MAX_ROWS : 100),
                                  .row_bytes = i % 3 ? 64 : 20000};
    return f;
}

static void destroy(struct fixture *f)
{
    team_destroy(f->c.team);
    mem_free_aligned(f->c.threads, f->c.n_threads * sizeof *f->c.threads);
    free(f);
}

/* One worker's part of a deal; how many rows that were. */
static uint32_t work(struct fixture *f, uint32_t thread, uint32_t i)
{
    struct deal d;
    uint32_t begin, end, n = 0;
    cpu_deal_begin(&f->c, thread, &f->w[i], &d);
    while (cpu_deal_next(&f->c, thread, &d, &begin, &end)) {
        assert_true(begin < end && end <= f->w[i].n_out && begin % ROW_UNIT == 0);
        n += end - begin;
        for (uint32_t r = begin; r < end; r++)
            atomic_fetch_add_explicit(&f->taken[i][r], 1, memory_order_relaxed);
    }
    return n;
}

static void assert_each_once(struct fixture *f, uint32_t i)
{
    for (uint32_t r = 0; r < MAX_ROWS; r++)
        assert_int_equal(f->taken[i][r], r < f->w[i].n_out);
}

static void run(void *user, uint32_t thread)
{
    struct fixture *f = user;
    struct rng rng = {thread + 1};
    for (uint32_t i = 0; i < N_DEALS; i++) {
        for (uint32_t spin = (uint32_t)rng_below(&rng, 2000); spin; spin--)
            __asm__ volatile("");
        work(f, thread, i);
        cpu_meet(&f->c, thread, NULL);
    }
}

static void each_row_once(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 5; n_threads += 2) {
        struct fixture *f = make(NULL, n_threads);
        team_run(f->c.team, run, f);
        for (uint32_t i = 0; i < N_DEALS; i++)
            assert_each_once(f, i);
        destroy(f);
    }
}

/* Who comes first, alone, gets everything of its node; the others find nothing, and go on with the next deal. */
static void takes_what_others_leave(void **state)
{
    (void)state;
    struct fixture *f = make("node:2 core:2 pu:1", 4);
    for (uint32_t i = 0; i < N_DEALS; i++) {
        const uint32_t first = i % 2, n = work(f, first, i);
        assert_int_equal(work(f, 1 - first, i), 0);
        assert_int_equal(work(f, 3, i), f->w[i].n_out - n);
        assert_int_equal(work(f, 2, i), 0);
        assert_each_once(f, i);
        uint32_t begin, end;
        cpu_share(&f->c, 1, f->w[i].n_out, ROW_UNIT, &begin, &end);
        assert_int_equal(n, end); /* shares of workers 0 and 1 */
    }
    destroy(f);
}

/* A step of many rows stays dealt out as it was placed. */
static void many_rows_are_not_shared(void **state)
{
    (void)state;
    struct fixture *f = make(NULL, 3);
    f->c.step.n_rows = 512;
    for (uint32_t i = 0; i < N_DEALS; i++) {
        for (uint32_t thread = 0; thread < 3; thread++) {
            uint32_t begin, end;
            cpu_share(&f->c, thread, f->w[i].n_out, ROW_UNIT, &begin, &end);
            assert_int_equal(work(f, thread, i), end - begin);
        }
        assert_each_once(f, i);
    }
    destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_once),
        cmocka_unit_test(takes_what_others_leave),
        cmocka_unit_test(many_rows_are_not_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
