/* Policies as lists of nodes: the wiring's check and the file form. */
#include "test.h"

#include "cli/policy.h"

static int parse(const char *text, struct err *e)
{
    struct sched_policy p;
    *e = (struct err){0};
    return policy_parse(&p, text, strlen(text), e);
}

static void expect_error(const char *text, const char *in_message)
{
    struct err e;
    int r = parse(text, &e);
    if (!r || !strstr(e.msg, in_message))
        fail_msg("%s: %d \"%s\", not \"%s\"", text, r, e.msg, in_message);
}

#define NODES(...) "{\"name\": \"p\", \"nodes\": [" #__VA_ARGS__ "]}"

static void every_builtin_policy_is_wired_well(void **state)
{
    (void)state;
    static const char *const names[] = {"weir", "fcfs", "vllm", "contiguous", "static", "compute-first"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct sched_policy p;
        struct err e = {0};
        bool needs_model;
        assert_int_equal(sched_policy_find(names[i], &p, &e), 0);
        assert_string_equal(p.name, names[i]);
        assert_int_equal(sched_policy_check(&p, &needs_model, &e), 0);
        assert_int_equal(needs_model, !strcmp(names[i], "weir"));
    }
    struct sched_policy p;
    struct err e = {0};
    assert_int_equal(sched_policy_find("lottery", &p, &e), WEIR_ENOTFOUND);
    assert_non_null(strstr(e.msg, "compute-first"));
}

static void nodes_may_be_left_out_and_reordered(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(parse(NODES("expire", "admit-bandwidth", "batch"), &e), 0);
    assert_int_equal(parse(NODES("time-budget", "admit-bandwidth", "expire", "batch"), &e), 0);
    assert_int_equal(parse(NODES("time-budget", "admit-slots", "batch-prefill-first"), &e), 0);
    assert_int_equal(parse(NODES("admit", "batch"), &e), 0);
}

static void bad_wirings_are_named(void **state)
{
    (void)state;
    expect_error(NODES("admit-waiting", "batch"), "\"admit-waiting\" takes rows (rows), which no node before it gives");
    expect_error(NODES("admit", "batch", "pad"), "\"pad\" takes batch");
    expect_error(NODES("admit", "batch", "time-budget"), "\"time-budget\" gives budget, which no node after it takes");
    expect_error(NODES("admit-whole-batch", "batch"), "\"admit-whole-batch\" gives batch");
    expect_error(NODES("admit", "admit-slots", "batch"), "\"admit\" and \"admit-slots\" both give admitted");
    expect_error(NODES("batch", "admit-waiting", "batch"), "\"batch\" is listed twice");
    expect_error(NODES("batch"), "no node gives admitted");
    expect_error(NODES("admit"), "no node gives rows");
    expect_error(NODES(), "no node gives admitted");
    expect_error(NODES("admit", "bacth"), "did you mean \"batch\"?");
}

static void bad_files_are_named(void **state)
{
    (void)state;
    expect_error("[]", "not an array");
    expect_error("{", "line 1");
    expect_error("{\"nodes\": [\"admit\", \"batch\"]}", "\"name\" must be a string");
    expect_error("{\"name\": \"p\"}", "\"nodes\" must be an array");
    expect_error("{\"name\": \"p\", \"nodes\": [1]}", "a node's name must be a string, not an integer");
    expect_error("{\"name\": \"p\", \"nodes\": [\"\"]}", "1 to 31 bytes");
    expect_error("{\"name\": \"p\", \"nodes\": [\"admit\", \"batch\"], \"node\": 1}", "unknown member \"node\"");
    expect_error(NODES("a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a"),
                 "has 17 names");
    struct sched_policy p;
    struct err e = {0};
    assert_int_equal(policy_open(&p, "no/such.json", &e), WEIR_EIO);
    assert_non_null(strstr(e.msg, "no/such.json"));
    assert_int_equal(policy_open(&p, "wier", &e), WEIR_ENOTFOUND);
    assert_non_null(strstr(e.msg, "--policy"));
}

/* A list of nodes in the configuration is what runs. */
static void a_list_of_nodes_runs(void **state)
{
    (void)state;
    struct sched_policy mine = {"mine", {"admit", "batch"}};
    struct sched_config c = {.chunk_tokens = 4,
                             .n_chunks = 8,
                             .max_running = 2,
                             .max_queued = 4,
                             .max_step_tokens = 4,
                             .max_context = 32,
                             .pipeline = &mine};
    struct sched *s;
    struct err e = {0};
    assert_int_equal(sched_create(&s, &c, &e), 0);
    struct sched_event ev;
    struct plan p;
    assert_int_equal(sched_submit(s, &(struct sched_request){.id = 1, .n_prompt = 3, .max_new_tokens = 2}, 0, &ev), 0);
    assert_true(sched_plan(s, 0, &p));
    assert_int_equal(p.n_tokens, 3);
    sched_destroy(s);
    mine = (struct sched_policy){"mine", {"admit-bandwidth", "batch"}};
    assert_int_equal(sched_create(&s, &c, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "needs a traffic model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_builtin_policy_is_wired_well),
        cmocka_unit_test(nodes_may_be_left_out_and_reordered),
        cmocka_unit_test(bad_wirings_are_named),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(a_list_of_nodes_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
