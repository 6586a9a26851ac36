/* What the scheduler shows of itself: order of the queue, owners of chunks, what people wait for. */
#include "base/rng.h"
#include "policy/sched.h"
#include "test.h"

static struct sched *create(uint32_t n_chunks, uint32_t max_running, uint32_t max_queued)
{
    struct sched_config c = {.chunk_tokens = 4,
                             .n_chunks = n_chunks,
                             .max_running = max_running,
                             .max_queued = max_queued,
                             .max_step_tokens = 64,
                             .max_context = 128,
                             .prefix_cache = true,
                             .policy = "fcfs"};
    struct sched *s;
    assert_int_equal(sched_create(&s, &c, NULL), 0);
    return s;
}

static int submit(struct sched *s, uint64_t id, uint32_t n_prompt, int32_t priority, const uint64_t *hashes,
                  double now_s)
{
    struct sched_event refusal;
    struct sched_request r = {.id = id,
                              .n_prompt = n_prompt,
                              .max_new_tokens = 8,
                              .priority = priority,
                              .chunk_hashes = hashes,
                              .n_chunk_hashes = hashes ? n_prompt / 4 : 0};
    return sched_submit(s, &r, now_s, &refusal);
}

static bool step(struct sched *s, double now_s, uint32_t n_finish)
{
    struct plan p;
    struct seq_outcome o[64] = {0};
    if (!sched_plan(s, now_s, &p))
        return false;
    for (uint32_t i = 0; i < p.n_seqs; i++)
        o[i] = (struct seq_outcome){.sampled = p.seqs[i].samples, .finished = p.seqs[i].samples && i < n_finish};
    sched_commit(s, &p, &(struct sched_outcome){.seqs = o, .seconds = 0.1}, now_s);
    struct sched_event ev;
    while (sched_next_event(s, &ev))
        ;
    return true;
}

static void the_queue_is_shown_in_order_of_service(void **state)
{
    (void)state;
    enum { N = 500, SHOWN = 20 };
    struct rng rng = {.state = 7};
    struct sched *s = create(64, 1, N);
    int32_t priority[N + 1];
    for (uint32_t id = 1; id <= N; id++) {
        priority[id] = (int32_t)rng_below(&rng, 9) - 4;
        assert_int_equal(submit(s, id, 5, priority[id], NULL, id), 0);
    }
    struct sched_seq_view shown[SHOWN], all[N];
    assert_int_equal(sched_view_queue(s, shown, 0), 0);
    assert_int_equal(sched_view_queue(s, shown, SHOWN), SHOWN);
    assert_int_equal(sched_view_queue(s, all, N), N);
    for (uint32_t i = 0; i < N; i++) {
        if (i < SHOWN)
            assert_true(shown[i].id == all[i].id && shown[i].submitted_s == (double)all[i].id);
        if (i > 0)
            assert_true(priority[all[i - 1].id] < priority[all[i].id] ||
                        (priority[all[i - 1].id] == priority[all[i].id] && all[i - 1].id < all[i].id));
    }
    sched_destroy(s);
}

static void chunks_are_shown_by_owner(void **state)
{
    (void)state;
    static const uint64_t hashes[] = {11, 12}, others[] = {21, 22};
    struct sched *s = create(16, 4, 8);
    submit(s, 1, 9, 0, hashes, 0);
    step(s, 0, 1); /* ends: two full chunks stay cached */
    int16_t map[16];
    uint32_t n[4] = {0};
    assert_int_equal(sched_view_chunks(s, 1, map), 16);
    for (uint32_t i = 0; i < 16; i++)
        n[map[i] + 3]++;
    assert_int_equal(n[SCHED_CHUNK_CACHED + 3], 2);
    assert_int_equal(n[SCHED_CHUNK_FREE + 3], 14);
    submit(s, 2, 9, 0, hashes, 1);
    submit(s, 3, 9, 0, hashes, 1);
    submit(s, 4, 9, 0, others, 1);
    step(s, 1, 0);
    struct sched_seq_view running[4];
    assert_int_equal(sched_view_running(s, running, 4), 3);
    assert_int_equal(running[2].id, 4);
    assert_int_equal(running[0].n_cached, 8);
    assert_int_equal(running[2].n_tokens, 10);
    assert_int_equal(sched_view_chunks(s, 1, map), 16);
    uint32_t owned[3] = {0}, n_shared = 0;
    for (uint32_t i = 0; i < 16; i++) {
        if (map[i] >= 0)
            owned[map[i]]++;
        n_shared += map[i] == SCHED_CHUNK_SHARED;
    }
    assert_int_equal(n_shared, 2);
    assert_int_equal(owned[0], 1);
    assert_int_equal(owned[1], 1);
    assert_int_equal(owned[2], 3);
    int16_t few[6];
    assert_int_equal(sched_view_chunks(s, 3, few), 6);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(few[i], map[3 * i]);
    sched_destroy(s);
}

static void waiting_is_counted_by_what_for(void **state)
{
    (void)state;
    struct sched_stats st;
    struct sched *s = create(8, 1, 2);
    submit(s, 1, 4, 0, NULL, 10);
    step(s, 12, 0); /* waited 2 s for this step */
    submit(s, 2, 4, 0, NULL, 13);
    submit(s, 3, 200, 0, NULL, 13);
    step(s, 14, 0); /* the slot is taken */
    step(s, 17, 0); /* waited 3 s for it */
    submit(s, 4, 4, 0, NULL, 17);
    assert_int_equal(submit(s, 5, 4, 0, NULL, 17), WEIR_EBUSY);
    sched_stats(s, &st);
    assert_int_equal(st.waiting_for, SCHED_WAIT_SLOTS);
    assert_true(st.waited_s[SCHED_WAIT_STEP] == 3 && st.waited_s[SCHED_WAIT_SLOTS] == 3);
    assert_int_equal(st.n_admitted, 1);
    assert_int_equal(st.n_refused_by[SCHED_REFUSED_TOO_LONG], 1);
    assert_int_equal(st.n_refused_by[SCHED_REFUSED_QUEUE_FULL], 1);
    assert_int_equal(st.n_refused, 2);
    sched_destroy(s);

    s = create(6, 2, 4);
    submit(s, 1, 12, 0, NULL, 0);
    submit(s, 2, 12, 0, NULL, 0);
    step(s, 0, 0);
    step(s, 5, 0);
    sched_stats(s, &st);
    assert_int_equal(st.waiting_for, SCHED_WAIT_KV);
    assert_true(st.waited_s[SCHED_WAIT_KV] == 5);
    while (step(s, 6, 1))
        ;
    sched_stats(s, &st);
    assert_int_equal(st.waiting_for, SCHED_WAIT_STEP);
    assert_int_equal(st.n_admitted, 2);
    sched_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_queue_is_shown_in_order_of_service),
        cmocka_unit_test(chunks_are_shown_by_owner),
        cmocka_unit_test(waiting_is_counted_by_what_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
