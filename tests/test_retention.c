/* Retention of cached chunks: order, what is learned, what may not push what out; conversations and their marks. */
#include "base/rng.h"
#include "policy/conversation.h"
#include "policy/retention.h"
#include "test.h"

static const struct retention_use once = {.turns = 1, .n_new_tokens = 1000};

static void make(struct retention *r, uint32_t n, bool by_value, uint32_t pin_limit)
{
    struct retention_config c = {.n_chunks = n, .by_value = by_value, .pin_limit = pin_limit};
    assert_int_equal(retention_init(r, &c, NULL), 0);
}

static void lru_gives_the_least_recent(void **state)
{
    (void)state;
    enum { N = 20 };
    struct retention r;
    make(&r, N, false, 0);
    assert_int_equal(retention_evict(&r, true), RETENTION_NONE);
    uint64_t since[N] = {0}; /* 0: not in */
    struct rng rng = {3};
    for (uint64_t step = 1; step < 20000; step++) {
        uint32_t c = (uint32_t)rng_below(&rng, N), oldest = RETENTION_NONE;
        retention_advance(&r, (double)step);
        if (since[c])
            retention_take(&r, c, false);
        else
            retention_add(&r, c, c + 1, 0, &once);
        since[c] = since[c] ? 0 : step;
        for (uint32_t i = 0; i < N; i++)
            if (since[i] && (oldest == RETENTION_NONE || since[i] < since[oldest]))
                oldest = i;
        if (step % 3 == 0) {
            assert_int_equal(retention_evict(&r, false), oldest);
            if (oldest != RETENTION_NONE)
                since[oldest] = 0;
        }
        assert_true(retention_is_sound(&r));
    }
    retention_finish(&r);
}

/* Before anything is learned, and with one class only, value is LRU. */
static void value_begins_as_lru(void **state)
{
    (void)state;
    enum { N = 64 };
    struct retention r;
    make(&r, N, true, 0);
    for (uint32_t c = 0; c < N; c++) {
        retention_advance(&r, 0.7 * c);
        retention_fresh(&r, c, c + 1, false);
        retention_add(&r, c, c + 1, 0, &once);
    }
    retention_advance(&r, 100);
    for (uint32_t c = 0; c < N; c++)
        assert_int_equal(retention_evict(&r, false), c);
    assert_true(retention_is_sound(&r));
    retention_finish(&r);
}

/* A model of the chunks: what is idle, active, gone. Everything that may happen, in any order. */
static void random_operations_keep_the_lists(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        enum { N = 24, N_TEXTS = 60 };
        enum { FREE, ACTIVE, IDLE } at[N] = {FREE};
        uint64_t text[N] = {0};
        struct retention r;
        struct rng rng = {seed};
        make(&r, N, seed % 4 != 0, (uint32_t)rng_below(&rng, 6));
        double now_s = 0;
        for (int step = 0; step < 800; step++) {
            now_s += rng_below(&rng, 3) ? 0 : rng_unit(&rng) * (rng_below(&rng, 20) ? 10 : 20000);
            retention_advance(&r, now_s);
            uint32_t c = (uint32_t)rng_below(&rng, N), n_pinned = r.stats.pinned_chunks;
            struct retention_use use = {1 + (uint32_t)rng_below(&rng, 9), (uint32_t)rng_below(&rng, 40000),
                                        rng_below(&rng, 9) == 0};
            if (at[c] == FREE) {
                text[c] = 1 + rng_below(&rng, N_TEXTS);
                for (uint32_t i = 0; i < N; i++) /* a text is in one chunk at most */
                    text[c] = i != c && at[i] != FREE && text[i] == text[c] ? 0 : text[c];
                retention_fresh(&r, c, text[c], rng_below(&rng, 2));
                text[c] = text[c] ? text[c] : 1000 + (uint64_t)step;
                at[c] = ACTIVE;
            } else if (rng_below(&rng, 12) == 0) {
                bool pinned = retention_pin(&r, c);
                assert_true(r.stats.pinned_chunks >= n_pinned && (pinned || r.pinned.n == 0));
            } else if (at[c] == ACTIVE && rng_below(&rng, 4) == 0) {
                retention_take(&r, c, false); /* shared */
            } else if (at[c] == ACTIVE) {
                retention_release(&r, 1);
                retention_add(&r, c, text[c], (uint32_t)rng_below(&rng, 5000), &use);
                at[c] = IDLE;
            } else if (rng_below(&rng, 2)) {
                retention_take(&r, c, rng_below(&rng, 5) == 0);
                at[c] = ACTIVE;
            } else {
                uint32_t others = r.n, victim = retention_evict(&r, true);
                assert_true(victim < N && at[victim] == IDLE);
                assert_true(others == 0 || r.stats.pinned_chunks == n_pinned); /* pinned ones last */
                at[victim] = FREE;
            }
            assert_true(retention_is_sound(&r));
            if (at[c] == IDLE && !r.entries[c].pinned)
                assert_true(!r.by_value || retention_value(&r, c) >= 0);
        }
        retention_finish(&r);
    }
}

/* What came back again and again stays, however much passes by that is used once. */
static void one_use_does_not_evict_the_proven(void **state)
{
    (void)state;
    enum { N = 100, PROVEN = 20 };
    struct retention r;
    make(&r, N, true, 0);
    uint64_t n_texts = PROVEN;
    uint32_t n_free = N - PROVEN, free_chunks[N];
    for (uint32_t c = 0; c < n_free; c++)
        free_chunks[c] = PROVEN + c;
    bool there[PROVEN];
    uint32_t n_lost = 0;
    for (uint32_t c = 0; c < PROVEN; c++) {
        retention_fresh(&r, c, c + 1, false);
        retention_add(&r, c, c + 1, 0, &once);
        there[c] = true;
    }
    for (int round = 0; round < 400; round++) {
        /* Every hundred seconds the proven chunks; in between three pools full of other text. */
        retention_advance(&r, 100.0 * round + 99);
        for (uint32_t c = 0; c < PROVEN; c++) {
            if (!there[c]) {
                n_lost += round > 200;
                continue;
            }
            retention_take(&r, c, false);
            retention_release(&r, 1);
            retention_add(&r, c, c + 1, 0, &once);
        }
        for (int k = 0; k < 3 * N; k++) {
            retention_advance(&r, 100.0 * round + 99 + 0.3 * k);
            if (n_free == 0) {
                uint32_t victim = retention_evict(&r, false);
                if (victim < PROVEN)
                    there[victim] = false;
                else
                    free_chunks[n_free++] = victim;
                if (victim < PROVEN) { /* its text is computed anew, in the same chunk */
                    retention_fresh(&r, victim, victim + 1, false);
                    retention_add(&r, victim, victim + 1, 0, &once);
                    there[victim] = true;
                    n_lost += round > 200;
                    continue;
                }
            }
            uint32_t c = free_chunks[--n_free];
            retention_fresh(&r, c, ++n_texts, false);
            retention_release(&r, 1);
            retention_add(&r, c, n_texts, 0, &once);
        }
    }
    assert_int_equal(n_lost, 0);
    assert_true(r.stats.evicted_one_use > 100000);
    retention_finish(&r);
}

/* Class A comes back after a minute, class B never: B goes first, though it is younger. */
static void what_comes_back_is_learned(void **state)
{
    (void)state;
    enum { N = 40 };
    struct retention r;
    make(&r, N, true, 0);
    struct retention_use a = {.turns = 5, .n_new_tokens = 100}, b = {.turns = 1, .n_new_tokens = 100000};
    double now_s = 0;
    for (int round = 0; round < 300; round++) {
        for (uint32_t c = 0; c < N; c++) {
            if (round > 0 && c % 2 == 0)
                retention_take(&r, c, true); /* not a reuse: only its class tells */
            else if (round > 0)
                retention_take(&r, c, true), retention_fresh(&r, c, 1000 + c + (uint64_t)round * N, false);
            retention_release(&r, 1);
            retention_add(&r, c, c % 2 ? 1000 + c + (uint64_t)round * N : c + 1, 0, c % 2 ? &b : &a);
        }
        now_s += 60;
        retention_advance(&r, now_s);
        /* B's are evicted, and never asked for again. */
        for (uint32_t k = 0; k < N / 2 && round > 100; k++) {
            uint32_t victim = retention_evict(&r, false);
            assert_int_equal(victim % 2, 1);
            retention_fresh(&r, victim, 0, false);
            retention_add(&r, victim, 5000000 + victim + (uint64_t)round * N, 0, &b);
        }
    }
    assert_true(retention_value(&r, 0) > 0);
    retention_finish(&r);
}

static void pins_are_bounded_and_last(void **state)
{
    (void)state;
    struct retention r;
    make(&r, 8, true, 3);
    for (uint32_t c = 0; c < 8; c++) {
        retention_advance(&r, c);
        retention_fresh(&r, c, c + 1, false);
        retention_add(&r, c, c + 1, 0, &once);
    }
    for (uint32_t c = 0; c < 3; c++)
        assert_true(retention_pin(&r, c));
    assert_int_equal(r.n, 5);
    assert_true(retention_pin(&r, 3)); /* chunk 0 loses it */
    assert_int_equal(r.stats.pinned_chunks, 3);
    for (int k = 0; k < 5; k++) {
        uint32_t victim = retention_evict(&r, false);
        assert_true(victim == 0 || victim > 3);
    }
    assert_int_equal(retention_evict(&r, false), RETENTION_NONE);
    retention_take(&r, 2, false); /* in use: it cannot go */
    assert_int_equal(retention_evict(&r, true), 1);
    assert_int_equal(retention_evict(&r, true), 3);
    assert_int_equal(retention_evict(&r, true), RETENTION_NONE);
    assert_int_equal(r.stats.evicted_pinned, 2);
    assert_true(retention_is_sound(&r));
    retention_finish(&r);
}

/* --- conversations ---------------------------------------------------------------------------------------------- */

static void a_turn_is_recognised_by_its_prefix(void **state)
{
    (void)state;
    struct conversations c;
    assert_int_equal(conversations_init(&c, 4, NULL), 0);
    uint64_t chain[] = {11, 12, 13, 14, 15};
    uint32_t mark;
    assert_int_equal(conversation_find(&c, chain, 5, &mark), CONVERSATION_NONE);
    struct conversation x = {.marks = {12, 13}, .turns = 1, .n_tokens = 100, .idle_since_s = 10};
    conversation_watch(&c, &x, 10);
    assert_int_equal(conversation_find(&c, chain, 1, &mark), CONVERSATION_NONE);
    uint32_t i = conversation_find(&c, chain, 5, &mark);
    assert_int_not_equal(i, CONVERSATION_NONE);
    assert_int_equal(mark, 2); /* the longest match */
    assert_int_equal(conversation_find(&c, chain, 2, &mark), i);
    assert_int_equal(mark, 1);
    struct conversation had = conversation_continue(&c, i, 70);
    assert_int_equal(had.turns, 1);
    assert_int_equal(had.n_tokens, 100);
    assert_int_equal(conversation_find(&c, chain, 5, &mark), CONVERSATION_NONE);
    assert_int_equal(c.n, 0);
    assert_int_equal(c.by_mark.n, 0);
    /* Its chance to come back is the higher for it. */
    assert_true(continuation_probability(&c.predictor, 1, 0) > 0.5);
    conversations_finish(&c);
}

static void watching_is_bounded(void **state)
{
    (void)state;
    struct conversations c;
    assert_int_equal(conversations_init(&c, 4, NULL), 0);
    struct rng rng = {5};
    double now_s = 0;
    for (uint64_t k = 1; k < 5000; k++) {
        now_s += rng_unit(&rng) * 100;
        struct conversation x = {.turns = 1 + (uint32_t)rng_below(&rng, 20), .idle_since_s = now_s};
        x.marks[0] = rng_below(&rng, 2) ? 1 + rng_below(&rng, 12) : 0;
        x.marks[1] = x.marks[0] && rng_below(&rng, 2) ? 0 : 1 + rng_below(&rng, 12);
        x.marks[2] = rng_below(&rng, 3) ? 0 : 1 + rng_below(&rng, 12);
        if (rng_below(&rng, 4))
            conversation_watch(&c, &x, now_s);
        uint64_t chain[3] = {1 + rng_below(&rng, 12), 1 + rng_below(&rng, 12), 1 + rng_below(&rng, 12)};
        uint32_t mark = 9, i = conversation_find(&c, chain, 3, &mark);
        if (i != CONVERSATION_NONE) {
            assert_true(mark < 3 && (c.items[i].marks[0] == chain[mark] || c.items[i].marks[1] == chain[mark] ||
                                     c.items[i].marks[2] == chain[mark]));
            if (rng_below(&rng, 2))
                conversation_continue(&c, i, now_s);
        }
        while ((i = conversation_expired(&c, now_s)) != CONVERSATION_NONE)
            conversation_drop(&c, i, now_s);
        uint32_t n = 0, n_marks = 0;
        for (i = c.first; i != CONVERSATION_NONE; i = c.items[i].next, n++)
            n_marks += (c.items[i].marks[0] ? 1u : 0) + (c.items[i].marks[1] ? 1u : 0) + (c.items[i].marks[2] ? 1u : 0);
        assert_true(n == c.n && n <= 4 && n_marks == c.by_mark.n);
    }
    assert_true(c.predictor.brier_n > 0);
    conversations_finish(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lru_gives_the_least_recent),         cmocka_unit_test(value_begins_as_lru),
        cmocka_unit_test(random_operations_keep_the_lists),   cmocka_unit_test(one_use_does_not_evict_the_proven),
        cmocka_unit_test(what_comes_back_is_learned),         cmocka_unit_test(pins_are_bounded_and_last),
        cmocka_unit_test(a_turn_is_recognised_by_its_prefix), cmocka_unit_test(watching_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
