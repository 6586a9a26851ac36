/* What the engine generates, on the fake device and on the CPU device with a small model. */
#include "engine_fake.h"

#include "base/log.h"
#include "engine/stop.h"
#include "model/forward.h"

#include <math.h>

static void text_is_the_same_alone_and_in_a_crowd(void **state)
{
    (void)state;
    static const uint32_t pools[] = {200, 40, 28};
    enum { N = 60 };
    for (size_t k = 0; k < sizeof pools / sizeof *pools; k++) {
        struct fixture f;
        start_engine(&f, pools[k], 8);
        struct rng rng = {k};
        struct client *clients[N];
        char expected[N][MAX_TOKENS + 1];
        for (int i = 0; i < N; i++) {
            int32_t prompt[64];
            uint32_t n = random_prompt(&rng, prompt), max_new = 1 + (uint32_t)rng_below(&rng, 60);
            reference(prompt, n, max_new, expected[i]);
            struct gen_request r = greedy(prompt, n, max_new);
            clients[i] = client_create(f.engine);
            send(f.engine, clients[i], &r);
        }
        for (int i = 0; i < N; i++) {
            enum finish_reason finish = client_wait(clients[i]);
            assert_true(finish == FINISH_STOP || finish == FINISH_LENGTH);
            assert_string_equal(clients[i]->text, expected[i]);
            assert_int_equal(clients[i]->n_ids, strlen(expected[i]));
        }
        struct engine_stats st = settled_stats(f.engine);
        assert_true(engine_idle(f.engine));
        assert_int_equal(st.sched.n_finished, N);
        assert_int_equal(st.sched.chunks_active, 0);
        assert_true(st.sched.prefix_hit_tokens > 0 && st.healthy && st.n_steps > 0);
        assert_int_equal(st.traffic.weight_bytes, 1000 * st.n_steps);
        if (pools[k] == 28)
            assert_true(st.sched.n_preemptions > 0);
        stop_engine(&f); /* nothing comes after the ends */
        for (int i = 0; i < N; i++) {
            assert_int_equal(clients[i]->n_terminal, 1);
            client_destroy(clients[i]);
        }
    }
}

static void a_conversation_hits_what_was_generated(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    int32_t turn[128] = {'h', 'e', 'l', 'l', 'o'};
    struct client *a = client_create(f.engine), *b = client_create(f.engine);
    struct gen_request r = greedy(turn, 5, 40);
    r.ignore_eos = true;
    send(f.engine, a, &r);
    client_wait(a);
    assert_int_equal(a->n_ids, 40);
    memcpy(turn + 5, a->ids, 40 * sizeof *turn);
    r = greedy(turn, 45, 5);
    send(f.engine, b, &r);
    client_wait(b);
    assert_int_equal(b->end.n_cached_tokens, 44); /* 11 full chunks; the last token's was computed in no step before */
    assert_true(b->end.queued_s >= 0 && b->end.prefill_s > 0);
    r = greedy(turn, 45, 5);
    r.cache_salt = 1;
    struct client *c = client_create(f.engine);
    send(f.engine, c, &r);
    client_wait(c);
    assert_int_equal(c->end.n_cached_tokens, 0);
    assert_string_equal(b->text, c->text);
    stop_engine(&f);
    client_destroy(a);
    client_destroy(b);
    client_destroy(c);
}

static void stop_strings_end_the_text_before_them(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    const int32_t prompt[] = {1, 2, 3};
    char full[MAX_TOKENS + 1], stop[8], expected[MAX_TOKENS + 1];
    uint32_t n = reference(prompt, 3, 30, full);
    assert_true(n > 15);
    snprintf(stop, sizeof stop, "%.4s", full + 9);
    const char *stops[] = {"zzz", stop};
    for (int keep = 0; keep < 2; keep++) {
        struct client *c = client_create(f.engine);
        struct gen_request r = greedy(prompt, 3, 30);
        r.stops = stops;
        r.n_stops = 2;
        r.keep_stop_text = keep;
        send(f.engine, c, &r);
        assert_int_equal(client_wait(c), FINISH_STOP);
        size_t at = (size_t)(strstr(full, stop) - full);
        snprintf(expected, sizeof expected, "%.*s", (int)(at + (keep ? 4 : 0)), full);
        assert_string_equal(c->text, expected);
        assert_string_equal(c->stop_text, stop);
        assert_int_equal(c->end.n_output_tokens, at + 4);
        client_destroy(c);
    }
    /* Not before min_new_tokens; and what was held back for a stop string that does not come is given at the end. */
    struct client *c = client_create(f.engine);
    struct gen_request r = greedy(prompt, 3, 15);
    char beginning[8];
    snprintf(beginning, sizeof beginning, "%.2s!", full + 13);
    const char *more[] = {stop, beginning};
    r.stops = more;
    r.n_stops = 2;
    r.min_new_tokens = 15;
    send(f.engine, c, &r);
    assert_int_equal(client_wait(c), FINISH_LENGTH);
    assert_int_equal(strlen(c->text), 15);
    assert_memory_equal(c->text, full, 15);
    stop_engine(&f);
    client_destroy(c);
}

static void stop_matcher_agrees_with_a_plain_search(void **state)
{
    (void)state;
    struct rng rng = {11};
    for (int round = 0; round < 20000; round++) {
        char strings[3][8], text[40], sent[48] = "";
        const char *list[3];
        uint32_t n = 1 + (uint32_t)rng_below(&rng, 3);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t length = 1 + (uint32_t)rng_below(&rng, 5);
            for (uint32_t k = 0; k < length; k++)
                strings[i][k] = (char)('a' + rng_below(&rng, 2));
            strings[i][length] = 0;
            list[i] = strings[i];
        }
        uint32_t n_text = (uint32_t)rng_below(&rng, 39);
        for (uint32_t i = 0; i < n_text; i++)
            text[i] = (char)('a' + rng_below(&rng, 3));
        text[n_text] = 0;
        struct stop_matcher m;
        assert_int_equal(stop_init(&m, list, n, 1000, NULL), 0);
        int found = -1;
        for (uint32_t i = 0; i < n_text && found < 0; i++) { /* letter by letter */
            size_t n_before;
            buf_addc(&m.text, text[i]);
            found = stop_scan(&m, &n_before);
            strncat(sent, m.text.data ? m.text.data : "", n_before);
            buf_consume(&m.text, n_before);
        }
        /* The first place where any string is complete, and of those that end there the one that begins first. */
        size_t expected = n_text;
        bool any = false;
        for (uint32_t end = 1; end <= n_text && !any; end++)
            for (uint32_t i = 0; i < n; i++) {
                size_t length = strlen(strings[i]);
                if (end >= length && memcmp(text + end - length, strings[i], length) == 0) {
                    expected = any && expected < end - length ? expected : end - length;
                    any = true;
                }
            }
        assert_int_equal(found >= 0, any);
        if (!any)
            strncat(sent, m.text.data ? m.text.data : "", m.text.len);
        assert_int_equal(strlen(sent), expected);
        assert_memory_equal(sent, text, expected);
        stop_finish(&m);
    }
    struct stop_matcher m;
    const char *bad[] = {"", "\xff"};
    assert_int_equal(stop_init(&m, bad, 1, 100, NULL), WEIR_EINVAL);
    assert_int_equal(stop_init(&m, bad + 1, 1, 100, NULL), WEIR_EINVAL);
}

static void text_comes_in_whole_characters(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    f.device->utf8 = true;
    struct client *c[8];
    for (int i = 0; i < 8; i++) {
        const int32_t prompt[] = {'x', i};
        struct gen_request r = greedy(prompt, 2, 31 + (uint32_t)i);
        c[i] = client_create(f.engine);
        send(f.engine, c[i], &r);
    }
    for (int i = 0; i < 8; i++) {
        assert_int_equal(client_wait(c[i]), FINISH_LENGTH);
        assert_false(c[i]->utf8_broken);
        bool cut = c[i]->ids[c[i]->n_ids - 1] == 0xC3; /* in the middle of a character: replaced at the end */
        assert_int_equal(c[i]->n_text, c[i]->n_ids + (cut ? 2 : 0));
    }
    stop_engine(&f);
    for (int i = 0; i < 8; i++)
        client_destroy(c[i]);
}

static void end_tokens_end_unless_told(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    int32_t prompt[2] = {0, 7};
    char text[MAX_TOKENS + 1];
    uint32_t n = 0;
    while ((n = reference(prompt, 2, 100, text)) == 100 || n < 3)
        prompt[0]++;
    struct client *a = client_create(f.engine), *b = client_create(f.engine), *c = client_create(f.engine);
    struct gen_request r = greedy(prompt, 2, 100);
    send(f.engine, a, &r);
    assert_int_equal(client_wait(a), FINISH_STOP);
    assert_int_equal(a->n_text, n);
    assert_int_equal(a->end.n_output_tokens, n + 1);
    assert_int_equal(a->n_ids, n);
    r = greedy(prompt, 2, 100);
    r.ignore_eos = true;
    send(f.engine, b, &r);
    assert_int_equal(client_wait(b), FINISH_LENGTH);
    assert_int_equal(b->n_ids, 100);
    assert_int_equal(b->ids[n], END_TOKEN);
    r = greedy(prompt, 2, 100);
    r.min_new_tokens = n + 5;
    send(f.engine, c, &r);
    client_wait(c);
    assert_true(c->n_ids >= n + 5);
    assert_memory_equal(c->text, text, n);
    stop_engine(&f);
    client_destroy(a);
    client_destroy(b);
    client_destroy(c);
}

static void echo_gives_the_prompt_with_its_logprobs(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 100, 4);
    int32_t prompt[50];
    for (int i = 0; i < 50; i++)
        prompt[i] = 'A' + i % 26;
    for (int round = 0; round < 4; round++) { /* the later ones with a warm cache, beside others */
        struct client *c[3] = {client_create(f.engine), client_create(f.engine), client_create(f.engine)};
        struct gen_request r = greedy(prompt, 50, 5);
        r.echo = true;
        send(f.engine, c[0], &r);
        r = greedy(prompt, 50, 5);
        r.echo = r.logprobs = true;
        r.sampling.top_logprobs = 2;
        send(f.engine, c[1], &r);
        r = greedy(prompt, 50, 0);
        r.echo = r.logprobs = r.prompt_only = true;
        send(f.engine, c[2], &r);
        char expected[51] = {0};
        for (int i = 0; i < 50; i++)
            expected[i] = (char)prompt[i];
        for (int k = 0; k < 3; k++) {
            assert_int_equal(client_wait(c[k]), FINISH_LENGTH);
            assert_string_equal(c[k]->prompt_text, expected);
            assert_int_equal(c[k]->n_ids, k == 2 ? 0 : 5);
        }
        assert_string_equal(c[0]->text, c[1]->text);
        assert_int_equal(c[2]->n_text, 0);
        assert_int_equal(c[0]->n_prompt_ids, 0);
        for (int k = 1; k < 3; k++) {
            assert_int_equal(c[k]->n_prompt_ids, 50);
            assert_true(isnan(c[k]->prompt_logprobs[0]));
            uint64_t st = 0;
            for (uint32_t p = 0; p < 50; p++) {
                assert_int_equal(c[k]->prompt_ids[p], prompt[p]);
                if (p > 0) {
                    float logits[N_VOCAB];
                    logits_of(st, false, 0, logits);
                    double sum = 0;
                    for (int v = 0; v < N_VOCAB; v++)
                        sum += exp((double)logits[v]);
                    assert_true(fabs((double)logits[prompt[p]] - log(sum) - (double)c[k]->prompt_logprobs[p]) < 1e-4);
                }
                st = hash_u64(st ^ kv_of(prompt[p], p));
            }
        }
        for (int k = 0; k < 3; k++)
            client_destroy(c[k]);
    }
    stop_engine(&f);
}

static void seeds_give_the_same_text_in_any_company(void **state)
{
    (void)state;
    struct fixture f;
    start_engine(&f, 60, 8);
    const int32_t prompt[] = {5, 6, 7, 8, 9};
    struct client *c[10];
    for (int i = 0; i < 10; i++) {
        struct gen_request r = greedy(prompt, 5, 40);
        r.ignore_eos = true;
        r.sampling.temperature = 1;
        r.sampling.seed = (uint64_t)i / 2;
        c[i] = client_create(f.engine);
        send(f.engine, c[i], &r);
        if (i == 0)
            client_wait(c[0]); /* alone */
    }
    for (int i = 0; i < 10; i++)
        client_wait(c[i]);
    for (int i = 0; i < 10; i += 2)
        assert_string_equal(c[i]->text, c[i + 1]->text);
    assert_string_not_equal(c[0]->text, c[2]->text);
    stop_engine(&f);
    for (int i = 0; i < 10; i++)
        client_destroy(c[i]);
}

/* ---- the real thing: a small model on the CPU device ---- */

static void the_cpu_gives_the_same_tokens_alone_and_in_a_crowd(void **state)
{
    (void)state;
    enum { N = 12, N_NEW = 24 };
    struct err e = {0};
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct forward *fw = NULL;
    if (gguf_open(&g, "tests/golden/llama2.gguf", &e) || model_open(&m, g, &e) || forward_create(&fw, m, &e))
        fail_msg("%s", e.msg);
    struct tokenizer *t = byte_tokenizer();
    int32_t tokens[2][N][N_NEW];
    uint64_t n_preemptions = 0;
    for (int crowd = 0; crowd < 2; crowd++) {
        struct engine_config c = {.sched = {.chunk_tokens = 16,
                                            .n_chunks = crowd ? 7 : 50,
                                            .max_running = crowd ? 6 : 1,
                                            .max_queued = 50,
                                            .max_step_tokens = crowd ? 13 : 64,
                                            .max_context = 96,
                                            .prefix_cache = crowd},
                                  .device = {.n_threads = 2, .kv_type = KV_F16},
                                  .max_inbox = 50};
        struct engine *en;
        if (engine_create(&en, fw, t, &c, &e))
            fail_msg("%s", e.msg);
        struct client *clients[N];
        for (int i = 0; i < N; i++) {
            int32_t prompt[40];
            uint32_t n = 20 + (uint32_t)i;
            for (uint32_t k = 0; k < n; k++)
                prompt[k] = (int32_t)((k < 17 ? k * 7 : k * (uint32_t)(i + 3)) % m->n_vocab);
            struct gen_request r = greedy(prompt, n, N_NEW);
            r.ignore_eos = true;
            r.sampling.temperature = (float)(i % 2);
            r.sampling.seed = (uint64_t)i;
            clients[i] = client_create(en);
            send(en, clients[i], &r);
        }
        for (int i = 0; i < N; i++) {
            assert_int_equal(client_wait(clients[i]), FINISH_LENGTH);
            assert_int_equal(clients[i]->n_ids, N_NEW);
            memcpy(tokens[crowd][i], clients[i]->ids, sizeof tokens[crowd][i]);
        }
        struct engine_stats st = settled_stats(en);
        n_preemptions = st.sched.n_preemptions;
        assert_true(st.traffic.weight_bytes > 0 && st.busy_s > 0);
        assert_true(!crowd || st.sched.prefix_hit_tokens > 0);
        engine_destroy(en);
        for (int i = 0; i < N; i++)
            client_destroy(clients[i]);
    }
    assert_true(n_preemptions > 0);
    for (int i = 0; i < N; i++)
        assert_memory_equal(tokens[0][i], tokens[1][i], sizeof tokens[0][i]);
    tokenizer_destroy(t);
    forward_destroy(fw);
    model_close(m);
}

int main(void)
{
    log_setup(LOG_OFF, LOG_TEXT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_the_same_alone_and_in_a_crowd),
        cmocka_unit_test(a_conversation_hits_what_was_generated),
        cmocka_unit_test(stop_strings_end_the_text_before_them),
        cmocka_unit_test(stop_matcher_agrees_with_a_plain_search),
        cmocka_unit_test(text_comes_in_whole_characters),
        cmocka_unit_test(end_tokens_end_unless_told),
        cmocka_unit_test(echo_gives_the_prompt_with_its_logprobs),
        cmocka_unit_test(seeds_give_the_same_text_in_any_company),
        cmocka_unit_test(the_cpu_gives_the_same_tokens_alone_and_in_a_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
