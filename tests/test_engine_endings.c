/* How requests of the engine end: cancelled, failed, refused, drained, from many threads at once. */
#include "engine_fake.h"

#include "base/log.h"

static void cancelled_requests_end_once_and_free_their_memory(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 2);
    atomic_store(&f.device->delay_us, 2000);
    const int32_t prompt[] = {1, 2, 3};
    struct client *c[5];
    uint64_t ids[5];
    for (int i = 0; i < 5; i++) {
        struct gen_request r = greedy(prompt, 3, 200);
        r.ignore_eos = true;
        c[i] = client_create(f.engine);
        c[i]->cancel_after = i == 0 ? 3 : 0; /* from its own sink */
        ids[i] = send(f.engine, c[i], &r);
    }
    engine_cancel(f.engine, ids[4]); /* queued, or not even seen */
    engine_cancel(f.engine, ids[4]);
    engine_cancel(f.engine, 12345);
    assert_int_equal(client_wait(c[4]), FINISH_CANCELLED);
    assert_int_equal(client_wait(c[0]), FINISH_CANCELLED);
    assert_true(c[0]->n_ids <= 4);
    for (int i = 1; i < 4; i++)
        engine_cancel(f.engine, ids[i]);
    for (int i = 1; i < 4; i++)
        assert_int_equal(client_wait(c[i]), FINISH_CANCELLED);
    struct engine_stats st = settled_stats(f.engine);
    assert_int_equal(st.sched.n_cancelled, 5);
    assert_int_equal(st.sched.chunks_active, 0);
    int n_steps = atomic_load(&f.device->n_steps);
    usleep(30000);
    assert_int_equal(atomic_load(&f.device->n_steps), n_steps); /* idle means idle */
    engine_cancel(f.engine, ids[1]);
    stop_engine(&f);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(c[i]->n_terminal, 1);
        client_destroy(c[i]);
    }
}

static void a_failed_step_ends_its_requests_only(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    const int32_t prompt[] = {1, 2, 3};
    atomic_store(&f.device->fail_in, 5);
    struct client *a = client_create(f.engine), *b = client_create(f.engine);
    struct gen_request r = greedy(prompt, 3, 50);
    r.ignore_eos = true;
    send(f.engine, a, &r);
    assert_int_equal(client_wait(a), FINISH_FAILED);
    assert_int_equal(a->n_ids, 5);
    r = greedy(prompt, 3, 50);
    r.ignore_eos = true;
    send(f.engine, b, &r);
    assert_int_equal(client_wait(b), FINISH_LENGTH);
    assert_memory_equal(a->text, b->text, 5);
    struct engine_stats st = settled_stats(f.engine);
    assert_int_equal(st.n_failed_steps, 1);
    assert_true(st.healthy);
    stop_engine(&f);
    client_destroy(a);
    client_destroy(b);
}

static void bad_and_impossible_requests_are_refused(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 10, 4); /* 40 tokens */
    int32_t prompt[300] = {0};
    struct client *c = client_create(f.engine);
    struct gen_request r = greedy(prompt, 3, 5);
    uint64_t id;
    struct err e = {0};
    r.prompt[1] = N_VOCAB;
    assert_int_equal(engine_submit(f.engine, &r, &id, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "prompt"));
    r.prompt[1] = 0;
    r.n_prompt = 0;
    assert_int_equal(engine_submit(f.engine, &r, &id, &e), WEIR_EINVAL);
    r.n_prompt = 3;
    r.sampling.top_p = 7;
    assert_int_equal(engine_submit(f.engine, &r, &id, &e), WEIR_EINVAL);
    free(r.prompt);
    r = greedy(prompt, 300, 5);
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_REFUSED);
    assert_int_equal(c->end.refusal.reason, SCHED_REFUSED_TOO_LONG);
    client_destroy(c);
    c = client_create(f.engine);
    r = greedy(prompt, 30, 100);
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_REFUSED);
    assert_int_equal(c->end.refusal.reason, SCHED_REFUSED_NEVER_FITS);
    client_destroy(c);
    c = client_create(f.engine);
    r = greedy(prompt, 30, 0); /* as far as it goes */
    r.ignore_eos = true;
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_LENGTH);
    assert_int_equal(c->end.n_output_tokens, 11);
    client_destroy(c);
    stop_engine(&f);
}

static void drain_and_shutdown_end_everything(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 2);
    atomic_store(&f.device->delay_us, 500);
    const int32_t prompt[] = {1, 2, 3};
    struct client *c[4];
    for (int i = 0; i < 4; i++) {
        struct gen_request r = greedy(prompt, 3, i < 2 ? 10 : 0);
        r.ignore_eos = true;
        c[i] = client_create(f.engine);
        send(f.engine, c[i], &r);
    }
    engine_drain(f.engine);
    struct gen_request late = greedy(prompt, 3, 10);
    uint64_t id;
    struct err e;
    assert_int_equal(engine_submit(f.engine, &late, &id, &e), WEIR_EBUSY);
    free(late.prompt);
    assert_int_equal(client_wait(c[0]), FINISH_LENGTH);
    assert_int_equal(client_wait(c[1]), FINISH_LENGTH);
    assert_false(engine_idle(f.engine));
    stop_engine(&f);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(c[i]->n_terminal, 1);
        if (i >= 2)
            assert_int_equal(c[i]->end.finish, FINISH_CANCELLED);
        client_destroy(c[i]);
    }
}

/* Several threads submit and cancel at once; the ids, ends and memory must stay straight. */

struct hammer {
    struct engine *engine;
    uint64_t seed;
    uint32_t n_ended;
};

static void *hammer_run(void *arg)
{
    struct hammer *h = arg;
    struct rng rng = {h->seed};
    for (int i = 0; i < 60; i++) {
        int32_t prompt[64];
        uint32_t n = random_prompt(&rng, prompt), max_new = 1 + (uint32_t)rng_below(&rng, 20);
        struct client *c = client_create(h->engine);
        struct gen_request r = greedy(prompt, n, max_new);
        r.user = c;
        uint64_t id;
        if (engine_submit(h->engine, &r, &id, NULL)) {
            free(r.prompt);
            client_destroy(c);
            continue;
        }
        bool cancels = rng_below(&rng, 3) == 0;
        if (cancels)
            engine_cancel(h->engine, id);
        enum finish_reason finish = client_wait(c);
        if (finish == FINISH_STOP || finish == FINISH_LENGTH) {
            char expected[MAX_TOKENS + 1];
            reference(prompt, n, max_new, expected);
            h->n_ended += strcmp(c->text, expected) == 0;
        } else {
            h->n_ended += cancels && finish == FINISH_CANCELLED;
        }
        client_destroy(c);
    }
    return NULL;
}

static void threads_submit_and_cancel_at_once(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 30, 4);
    struct hammer h[4];
    pthread_t threads[4];
    for (uint64_t i = 0; i < 4; i++) {
        h[i] = (struct hammer){.engine = f.engine, .seed = i};
        pthread_create(&threads[i], NULL, hammer_run, &h[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(h[i].n_ended, 60);
    }
    stop_engine(&f);
}

int main(void)
{
    log_setup(LOG_OFF, LOG_TEXT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelled_requests_end_once_and_free_their_memory),
        cmocka_unit_test(a_failed_step_ends_its_requests_only),
        cmocka_unit_test(bad_and_impossible_requests_are_refused),
        cmocka_unit_test(drain_and_shutdown_end_everything),
        cmocka_unit_test(threads_submit_and_cancel_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
