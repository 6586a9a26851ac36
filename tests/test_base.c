#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/ring.h"
#include "base/utf8.h"
#include "test.h"

#include <pthread.h>

static void err_builds_messages(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, WEIR_EINVAL, "bad %d", 7), WEIR_EINVAL);
    err_prefix(&e, "file %s", "x");
    assert_string_equal(e.msg, "file x: bad 7");
    assert_int_equal(e.code, WEIR_EINVAL);
    assert_string_equal(err_name(e.code), "EINVAL");
    assert_int_equal(err_set(NULL, WEIR_EIO, "nobody listens"), WEIR_EIO);
    char longer[2000];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    err_set(&e, WEIR_EIO, "%s", longer);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
}

static void buf_keeps_its_bound(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_int_equal(buf_adds(&b, "12345"), 0);
    assert_int_equal(buf_printf(&b, "%s", "67890"), 0);
    assert_int_equal(buf_addc(&b, 'x'), WEIR_ELIMIT);
    assert_int_equal(buf_adds(&b, ""), WEIR_ELIMIT);
    assert_string_equal(b.data, "1234567890");
    buf_clear(&b);
    assert_int_equal(buf_adds(&b, "abc"), 0);
    buf_consume(&b, 2);
    assert_string_equal(b.data, "c");
    char *s = buf_detach(&b);
    assert_string_equal(s, "c");
    free(s);
    buf_finish(&b);
}

static void utf8_borders(void **state)
{
    (void)state;
    uint32_t cp;
    assert_int_equal(utf8_decode("\xf0\x9f\x98\x80", 4, &cp), 4);
    assert_int_equal(cp, 0x1f600);
    assert_int_equal(utf8_decode("\xf0\x9f\x98", 3, &cp), 0);
    assert_int_equal(utf8_decode("\xc0\x80", 2, &cp), -1);
    assert_int_equal(utf8_decode("\xe0\x80", 2, &cp), -1);
    assert_int_equal(utf8_decode("\xed\xa0\x80", 3, &cp), -1);
    assert_int_equal(utf8_decode("\xf4\x90\x80\x80", 4, &cp), -1);
    assert_int_equal(utf8_complete_len("a\xe2\x82", 3), 1);
    assert_int_equal(utf8_complete_len("a\xe2\x82\xac", 4), 4);
    assert_int_equal(utf8_complete_len("a\x80\x80\x80", 4), 4);
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        char out[4];
        int n = utf8_encode(c, out);
        assert_int_equal(utf8_decode(out, (size_t)n, &cp), n);
        assert_int_equal(cp, c);
        for (int k = 1; k < n; k++)
            assert_int_equal(utf8_decode(out, (size_t)k, &cp), 0);
    }
}

static void mem_refuses_overflow(void **state)
{
    (void)state;
    assert_null(mem_array(SIZE_MAX / 2, 4));
    assert_null(mem_resize(NULL, SIZE_MAX / 2, 4));
    for (size_t n = 1; n < ((size_t)64 << 20); n = n * 7 + 13) {
        char *p = mem_aligned(n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        p[0] = 1;
        p[n - 1] = 1;
        mem_free_aligned(p, n);
    }
}

#define N_MESSAGES 20000u

static void *produce(void *arg)
{
    struct ring *r = arg;
    for (uintptr_t i = 1; i <= N_MESSAGES; i++) {
        union {
            uintptr_t i;
            void *p;
        } m = {.i = i};
        while (ring_push(r, m.p))
            sched_yield();
    }
    return NULL;
}

static void ring_hands_over_everything(void **state)
{
    (void)state;
    struct ring r;
    struct err e;
    assert_int_equal(ring_init(&r, 8, &e), 0);
    pthread_t a, b;
    pthread_create(&a, NULL, produce, &r);
    pthread_create(&b, NULL, produce, &r);
    uint64_t sum = 0, n = 0;
    while (n < 2 * N_MESSAGES) {
        void *got[5];
        ring_wait(&r, 10);
        size_t k = ring_drain(&r, got, 5);
        for (size_t i = 0; i < k; i++)
            sum += (uintptr_t)got[i];
        n += k;
    }
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    assert_int_equal(sum, (uint64_t)N_MESSAGES * (N_MESSAGES + 1));
    for (int i = 0; i < 8; i++)
        assert_int_equal(ring_push(&r, &r), 0);
    assert_int_equal(ring_push(&r, &r), WEIR_EBUSY);
    void *got[8];
    assert_int_equal(ring_drain(&r, got, 8), 8);
    ring_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_builds_messages),
        cmocka_unit_test(buf_keeps_its_bound),
        cmocka_unit_test(utf8_borders),
        cmocka_unit_test(mem_refuses_overflow),
        cmocka_unit_test(ring_hands_over_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
