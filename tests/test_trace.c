#include "cli/trace.h"

#include "test.h"

#include <fcntl.h>
#include <math.h>

static char path[] = "/tmp/weir-trace-XXXXXX";

static int read_text(struct trace *t, const char *text, size_t n, struct err *e)
{
    memcpy(path + sizeof path - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
    close(fd);
    int r = trace_read(t, path, e);
    unlink(path);
    return r;
}

static void reads_azure(void **state)
{
    (void)state;
    static const char text[] = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                               "2023-11-16 18:15:50.9951690,396,109\r\n"
                               "2023-11-16 18:15:46.6805900,374,44\r\n";
    struct trace t;
    struct err e;
    assert_int_equal(read_text(&t, text, sizeof text - 1, &e), 0);
    assert_int_equal(t.n_requests, 2);
    assert_int_equal(t.requests[0].n_prompt, 374);
    assert_true(t.requests[0].arrival_s == 0);
    assert_true(fabs(t.requests[1].arrival_s - 4.314579) < 1e-5);
    assert_int_equal(t.requests[1].n_output, 109);
    /* Nothing is shared between requests that say nothing of it. */
    assert_true(trace_chunk_hash(&t, &t.requests[0], 0, 32) != trace_chunk_hash(&t, &t.requests[1], 0, 32));
    trace_finish(&t);
}

static void reads_mooncake_and_chains_blocks(void **state)
{
    (void)state;
    static const char text[] =
        "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 52, \"hash_ids\": [46, 47, 48]}\n"
        "{\"timestamp\": 3000, \"input_length\": 1030, \"output_length\": 26, \"hash_ids\": [46, 47, 99]}\n";
    struct trace t;
    struct err e;
    assert_int_equal(read_text(&t, text, sizeof text - 1, &e), 0);
    const struct trace_request *a = &t.requests[0], *b = &t.requests[1];
    assert_true(b->arrival_s == 3);
    for (uint32_t i = 0; i < 1024 / 32; i++) {
        assert_true(trace_chunk_hash(&t, a, i, 32) == trace_chunk_hash(&t, b, i, 32));
        if (i)
            assert_true(trace_chunk_hash(&t, a, i, 32) != trace_chunk_hash(&t, a, i - 1, 32));
    }
    assert_true(trace_chunk_hash(&t, a, 32, 32) != trace_chunk_hash(&t, b, 32, 32));
    assert_true(trace_chunk_hash(&t, a, 34, 32) != trace_chunk_hash(&t, b, 34, 32)); /* outputs */
    trace_finish(&t);
}

static void reads_its_own_formats(void **state)
{
    (void)state;
    static const char csv[] = "priority,prompt_tokens,note,output_tokens,arrival_s,conversation,key\n"
                              "-3, 64,x,5,10.5,c1,alice\n1,128,,6,11,c1,alice\n0,64,,7,12,,\n";
    static const char jsonl[] =
        "{\"arrival_s\":10.5,\"prompt_tokens\":64,\"output_tokens\":5,\"conversation\":\"c1\",\"key\":\"alice\","
        "\"priority\":-3}\n"
        "\n{\"arrival_s\":11,\"prompt_tokens\":128,\"output_tokens\":6,\"conversation\":\"c1\",\"key\":\"alice\"}\n"
        "{\"arrival_s\":12,\"prompt_tokens\":64,\"output_tokens\":7}\n";
    struct trace t, u;
    struct err e;
    assert_int_equal(read_text(&t, csv, sizeof csv - 1, &e), 0);
    assert_int_equal(read_text(&u, jsonl, sizeof jsonl - 1, &e), 0);
    for (uint32_t i = 0; i < 3; i++) {
        const struct trace_request *a = &t.requests[i], *b = &u.requests[i];
        assert_true(a->arrival_s == b->arrival_s && a->n_prompt == b->n_prompt && a->n_output == b->n_output);
        assert_true(a->content == b->content && a->key == b->key);
    }
    assert_int_equal(t.requests[0].priority, -3);
    assert_true(trace_chunk_hash(&t, &t.requests[0], 1, 32) == trace_chunk_hash(&t, &t.requests[1], 1, 32));
    assert_true(trace_chunk_hash(&t, &t.requests[0], 1, 32) != trace_chunk_hash(&t, &t.requests[2], 1, 32));
    assert_int_equal(t.requests[2].key, 0);
    trace_finish(&t);
    trace_finish(&u);
}

static void names_the_bad_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"hello\n1\n", "header"},
        {"arrival_s,prompt_tokens,output_tokens\n1,2\n", "line 2"},
        {"arrival_s,prompt_tokens,output_tokens\n1,2,3\nx,2,3\n", "line 3"},
        {"arrival_s,prompt_tokens,output_tokens\n1,-2,3\n", "prompt"},
        {"arrival_s,prompt_tokens,output_tokens\n1,2,0\n", "from 1"},
        {"arrival_s,prompt_tokens,output_tokens\n1,2,99999999999\n", "output"},
        {"arrival_s,prompt_tokens,output_tokens\nnan,2,3\n", "arrival"},
        {"arrival_s,prompt_tokens,output_tokens\n", "no requests"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-01 00:00:00,1,1\n", "TIMESTAMP"},
        {"{\"timestamp\":1}\n", "arrival_s"},
        {"{\"timestamp\":1,\"hash_ids\":[1]}\n", "input_length"},
        {"{\"timestamp\":1,\"input_length\":5,\"output_length\":5,\"hash_ids\":[\"a\"]}\n", "integers"},
        {"{broken\n", "JSON"},
        {"{\"arrival_s\":1,\"prompt_tokens\":1.5,\"output_tokens\":1}\n", "prompt_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct trace t;
        struct err e = {0};
        assert_int_equal(read_text(&t, cases[i].text, strlen(cases[i].text), &e), WEIR_EFORMAT);
        if (!strstr(e.msg, cases[i].says))
            fail_msg("\"%s\" lacks \"%s\"", e.msg, cases[i].says);
    }
    struct trace t;
    struct err e;
    assert_int_equal(trace_read(&t, "/nonexistent", &e), WEIR_EIO);
}

static void synthesis_has_the_asked_moments(void **state)
{
    (void)state;
    struct trace_synthesis s = {.n_requests = 40000,
                                .rate_per_s = 5,
                                .burstiness = 3,
                                .prompt_median = 300,
                                .prompt_sigma = 0.8,
                                .output_median = 100,
                                .output_sigma = 0.6,
                                .mean_turns = 2.5,
                                .gap_median_s = 20,
                                .gap_sigma = 1,
                                .shared_prefix_tokens = 64,
                                .max_context = 1 << 17,
                                .seed = 9};
    struct trace t, again;
    struct err e;
    assert_int_equal(trace_synthesise(&t, &s, &e), 0);
    assert_int_equal(trace_synthesise(&again, &s, &e), 0);
    assert_memory_equal(t.requests, again.requests, t.n_requests * sizeof *t.requests);
    uint32_t first = 0, above = 0;
    double last = 0, sum = 0, squares = 0;
    for (uint32_t i = 0; i < t.n_requests; i++) {
        const struct trace_request *q = &t.requests[i];
        above += q->n_output > 100;
        if (q->after) {
            const struct trace_request *p = &t.requests[q->after - 1];
            assert_true(p->content == q->content && q->n_prompt > p->n_prompt + p->n_output);
            continue;
        }
        first++;
        sum += q->arrival_s - last;
        squares += (q->arrival_s - last) * (q->arrival_s - last);
        last = q->arrival_s;
    }
    double mean = sum / first, cv = sqrt(squares / first - mean * mean) / mean;
    assert_true(fabs(mean - 0.2) < 0.02 && fabs(cv - 3) < 0.35);
    assert_true(fabs((double)t.n_requests / first - 2.5) < 0.1);
    assert_true(fabs((double)above / t.n_requests - 0.5) < 0.02);
    assert_true(trace_chunk_hash(&t, &t.requests[0], 1, 32) ==
                trace_chunk_hash(&t, &t.requests[t.n_requests - 1], 1, 32));
    trace_finish(&t);
    trace_finish(&again);
    s.rate_per_s = 0;
    assert_int_equal(trace_synthesise(&t, &s, &e), WEIR_EINVAL);
}

static void reads_the_recorded_traces(void **state)
{
    (void)state;
    struct trace t;
    struct err e;
    const char *azure = shared_path("traces/AzureLLMInferenceTrace_conv.csv");
    if (!azure)
        skip();
    assert_int_equal(trace_read(&t, azure, &e), 0);
    assert_int_equal(t.n_requests, 19366);
    trace_finish(&t);
    const char *mooncake = shared_path("traces/conversation_trace.jsonl");
    if (!mooncake)
        skip();
    assert_int_equal(trace_read(&t, mooncake, &e), 0);
    assert_int_equal(t.n_requests, 12031);
    trace_finish(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_azure),
        cmocka_unit_test(reads_mooncake_and_chains_blocks),
        cmocka_unit_test(reads_its_own_formats),
        cmocka_unit_test(names_the_bad_line),
        cmocka_unit_test(synthesis_has_the_asked_moments),
        cmocka_unit_test(reads_the_recorded_traces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
