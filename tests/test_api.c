/* The API's pure parts: JSON reading and writing, request parameters, answers, keys. */
#include "test.h"

#include "server/api_params.h"
#include "server/api_reply.h"
#include "server/auth.h"

#include <fcntl.h>
#include <math.h>

static const struct api_limits limits = {.n_vocab = 1000, .itl_target_min_s = 0.05};

static int parse(struct api_params *p, enum api_kind kind, const char *body, struct api_error *e)
{
    return api_params_parse(p, kind, body, strlen(body), &limits, e);
}

/* body must be refused with this status, naming this field. */
static void refused(enum api_kind kind, const char *body, int status, const char *param)
{
    struct api_params p;
    struct api_error e;
    if (!parse(&p, kind, body, &e)) {
        api_params_finish(&p);
        fail_msg("accepted: %s", body);
    }
    if (e.status != status || strcmp(e.param, param))
        fail_msg("%s: %d, param '%s' (%s)", body, e.status, e.param, e.message);
    if (*param)
        assert_non_null(strstr(e.message, strchr(param, '[') ? "" : param));
}

static void accepted(enum api_kind kind, const char *body)
{
    struct api_params p;
    struct api_error e;
    if (parse(&p, kind, body, &e))
        fail_msg("refused: %s: %s", body, e.message);
    api_params_finish(&p);
}

static void test_completion_defaults(void **state)
{
    (void)state;
    struct api_params p;
    struct api_error e;
    assert_int_equal(parse(&p, API_COMPLETION, "{\"prompt\":\"hi\"}", &e), 0);
    assert_null(p.model);
    assert_int_equal(p.n_prompts, 1);
    assert_string_equal(p.prompts[0].text, "hi");
    assert_int_equal(p.max_tokens, API_DEFAULT_COMPLETION_TOKENS);
    assert_int_equal(p.n, 1);
    assert_true(p.sampling.temperature == 1.0f);
    assert_int_equal(p.sampling.top_logprobs, -1);
    assert_false(p.has_seed);
    assert_true(p.add_special);
    api_params_finish(&p);
}

static void test_prompt_forms(void **state)
{
    (void)state;
    struct api_params p;
    struct api_error e;
    assert_int_equal(parse(&p, API_COMPLETION, "{\"prompt\":[\"a\",\"b\\u0000c\"]}", &e), 0);
    assert_int_equal(p.n_prompts, 2);
    assert_int_equal(p.prompts[1].n_text, 3);
    api_params_finish(&p);
    assert_int_equal(parse(&p, API_COMPLETION, "{\"prompt\":[5,6,7]}", &e), 0);
    assert_int_equal(p.n_prompts, 1);
    assert_int_equal(p.prompts[0].n_ids, 3);
    assert_int_equal(p.prompts[0].ids[2], 7);
    api_params_finish(&p);
    assert_int_equal(parse(&p, API_COMPLETION, "{\"prompt\":[[5],[6,7]],\"n\":3}", &e), 0);
    assert_int_equal(p.n_prompts, 2);
    assert_int_equal(p.prompts[1].n_ids, 2);
    api_params_finish(&p);
    refused(API_COMPLETION, "{}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":5}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":[]}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":[5,\"a\"]}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":[\"a\",[5]]}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":[1000]}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":[-1]}", 400, "prompt");
    refused(API_COMPLETION, "{\"prompt\":[true]}", 400, "prompt");
}

#define P "{\"prompt\":\"a\","

static void test_ranges(void **state)
{
    (void)state;
    refused(API_COMPLETION, P "\"temperature\":2.1}", 400, "temperature");
    refused(API_COMPLETION, P "\"temperature\":\"hot\"}", 400, "temperature");
    refused(API_COMPLETION, P "\"top_p\":1.5}", 400, "top_p");
    refused(API_COMPLETION, P "\"top_k\":-2}", 400, "top_k");
    refused(API_COMPLETION, P "\"min_p\":-0.1}", 400, "min_p");
    refused(API_COMPLETION, P "\"repetition_penalty\":0}", 400, "repetition_penalty");
    refused(API_COMPLETION, P "\"presence_penalty\":3}", 400, "presence_penalty");
    refused(API_COMPLETION, P "\"frequency_penalty\":-2.5}", 400, "frequency_penalty");
    refused(API_COMPLETION, P "\"max_tokens\":0}", 400, "max_tokens");
    refused(API_COMPLETION, P "\"max_tokens\":-1}", 400, "max_tokens");
    refused(API_COMPLETION, P "\"max_tokens\":1.5}", 400, "max_tokens");
    refused(API_COMPLETION, P "\"n\":0}", 400, "n");
    refused(API_COMPLETION, P "\"n\":17}", 400, "n");
    refused(API_COMPLETION, P "\"logprobs\":21}", 400, "logprobs");
    refused(API_COMPLETION, P "\"logprobs\":true}", 400, "logprobs");
    refused(API_COMPLETION, P "\"seed\":\"x\"}", 400, "seed");
    refused(API_COMPLETION, P "\"stream\":1}", 400, "stream");
    refused(API_COMPLETION, P "\"stop\":[\"\"]}", 400, "stop");
    refused(API_COMPLETION, P "\"stop\":5}", 400, "stop");
    refused(API_COMPLETION,
            P "\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\","
              "\"d\",\"e\",\"f\",\"g\",\"h\"]}",
            400, "stop");
    refused(API_COMPLETION, P "\"logit_bias\":{\"x\":1}}", 400, "logit_bias");
    refused(API_COMPLETION, P "\"logit_bias\":{\"1000\":1}}", 400, "logit_bias");
    refused(API_COMPLETION, P "\"logit_bias\":{\"5\":101}}", 400, "logit_bias");
    refused(API_COMPLETION, P "\"cache_salt\":\"\"}", 400, "cache_salt");
    refused(API_COMPLETION, P "\"pin_prefix_tokens\":-1}", 400, "pin_prefix_tokens");
    accepted(API_COMPLETION, P "\"temperature\":0,\"top_p\":0,\"top_k\":0,\"n\":16,\"stop\":null,\"seed\":-5}");
}

static void test_contradictions(void **state)
{
    (void)state;
    refused(API_COMPLETION, P "\"max_tokens\":5,\"max_completion_tokens\":6}", 400, "max_tokens");
    refused(API_COMPLETION, P "\"max_tokens\":5,\"min_tokens\":6}", 400, "min_tokens");
    refused(API_COMPLETION, P "\"best_of\":3}", 400, "best_of");
    refused(API_COMPLETION, P "\"stream_options\":{\"include_usage\":true}}", 400, "stream_options");
    refused(API_COMPLETION, P "\"stream\":true,\"stream_options\":{\"include_usage\":1}}", 400,
            "stream_options.include_usage");
    refused(API_COMPLETION, P "\"suffix\":\"x\"}", 400, "suffix");
    refused(API_COMPLETION, P "\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format");
    refused(API_COMPLETION, P "\"guided_json\":{\"type\":\"object\"}}", 400, "guided_json");
    refused(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"top_logprobs\":2}", 400, "top_logprobs");
    refused(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":\"required\"}", 400,
            "tool_choice");
    accepted(API_COMPLETION, P "\"suffix\":null,\"best_of\":1,\"response_format\":{\"type\":\"text\"},\"user\":\"u\","
                               "\"frobnicate\":7}");
    struct api_params p;
    struct api_error e;
    assert_int_equal(parse(&p, API_COMPLETION, P "\"echo\":true,\"max_tokens\":0,\"logprobs\":0}", &e), 0);
    assert_true(p.prompt_only);
    assert_int_equal(p.sampling.top_logprobs, 0);
    api_params_finish(&p);
}

static void test_messages(void **state)
{
    (void)state;
    struct api_params p;
    struct api_error e;
    const char *body = "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
                       "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
                       "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\","
                       "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]}],"
                       "\"chat_template_kwargs\":{\"enable_thinking\":false,\"messages\":\"stolen\",\"tools\":1}}";
    assert_int_equal(parse(&p, API_CHAT, body, &e), 0);
    json_t *vars;
    assert_int_equal(json_parse(&vars, p.variables, p.n_variables, NULL), 0);
    json_t *messages = json_object_get(vars, "messages");
    assert_int_equal(json_array_size(messages), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, 0), "role")), "system");
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, 1), "content")), "a\nb");
    json_t *call = json_array_get(json_object_get(json_array_get(messages, 2), "tool_calls"), 0);
    json_t *arguments = json_object_get(json_object_get(call, "function"), "arguments");
    assert_int_equal(json_integer_value(json_object_get(arguments, "x")), 1);
    assert_true(json_is_true(json_object_get(vars, "add_generation_prompt")));
    assert_true(json_is_false(json_object_get(vars, "enable_thinking")));
    assert_null(json_object_get(vars, "tools"));
    assert_int_equal(p.max_tokens, 0);
    json_decref(vars);
    api_params_finish(&p);

    refused(API_CHAT, "{}", 400, "messages");
    refused(API_CHAT, "{\"messages\":[]}", 400, "messages");
    refused(API_CHAT, "{\"messages\":[5]}", 400, "messages");
    refused(API_CHAT, "{\"messages\":[{\"content\":\"a\"}]}", 400, "messages[0].role");
    refused(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", 400, "messages[0].content");
    refused(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
            400, "messages[0].content[0].type");
    refused(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{}]}", 400,
            "tools[0].function.name");
}

static void test_bad_json(void **state)
{
    (void)state;
    refused(API_CHAT, "", 400, "");
    refused(API_CHAT, "{\"messages\":", 400, "");
    refused(API_CHAT, "[1]", 400, "");
    refused(API_CHAT, "{\"a\":\"\xff\"}", 400, "");
    char deep[1024] = "{\"messages\":";
    memset(deep + strlen(deep), '[', 500);
    refused(API_CHAT, deep, 400, "");
    accepted(API_COMPLETION, P "\"x\":\"[[[[\\\"[[[[\"}"); /* brackets in strings are no depth */
}

static void test_scheduling(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *tier;
        int32_t priority;
        double itl_s, ttft_s;
    } cases[] = {{"\"n\":1", NULL, 0, 0, 0},
                 {"\"service_tier\":\"auto\"", "default", 0, 0, 0},
                 {"\"service_tier\":\"default\",\"itl_target_s\":0.05", "default", 0, 0.05, 0},
                 {"\"service_tier\":\"flex\",\"ttft_limit_s\":1.5", "flex", 1, 0, 1.5},
                 {"\"service_tier\":\"priority\",\"itl_target_s\":10", "priority", -1, 10, 0},
                 {"\"service_tier\":\"priority\",\"priority\":7", "priority", 7, 0, 0},
                 {"\"priority\":-3,\"service_tier\":null", NULL, -3, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_params p;
        struct api_error e;
        char body[256];
        snprintf(body, sizeof body, "{\"prompt\":\"x\",%s}", cases[i].fields);
        assert_int_equal(parse(&p, API_COMPLETION, body, &e), 0);
        if (cases[i].tier)
            assert_string_equal(p.service_tier, cases[i].tier);
        else
            assert_null(p.service_tier);
        assert_int_equal(p.priority, cases[i].priority);
        assert_true(p.itl_target_s == cases[i].itl_s && p.ttft_limit_s == cases[i].ttft_s);
        api_params_finish(&p);
    }
    refused(API_COMPLETION, "{\"prompt\":\"x\",\"service_tier\":\"gold\"}", 400, "service_tier");
    refused(API_COMPLETION, "{\"prompt\":\"x\",\"service_tier\":1}", 400, "service_tier");
    refused(API_COMPLETION, "{\"prompt\":\"x\",\"itl_target_s\":0.04}", 400, "itl_target_s");
    refused(API_COMPLETION, "{\"prompt\":\"x\",\"itl_target_s\":\"fast\"}", 400, "itl_target_s");
    refused(API_COMPLETION, "{\"prompt\":\"x\",\"ttft_limit_s\":0}", 400, "ttft_limit_s");
    refused(API_COMPLETION, "{\"prompt\":\"x\",\"ttft_limit_s\":1e9}", 400, "ttft_limit_s");
}

static void test_json_writing(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    static const char in[] = "a\"\\\n\x01\x7f\0\xc3\xa9\xf0\x9f\x98\x80\xff z";
    json_put_str(&b, in, sizeof in - 1);
    json_t *v;
    assert_int_equal(json_parse(&v, b.data, b.len, NULL), 0);
    static const char want[] = "a\"\\\n\x01\x7f\0\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd z";
    assert_int_equal(json_string_length(v), sizeof want - 1);
    assert_memory_equal(json_string_value(v), want, sizeof want - 1);
    json_decref(v);
    const double numbers[] = {0, -0.5, 1e-30, -17.123456, 3.4e38, 0.1};
    for (size_t i = 0; i < 6; i++) {
        buf_clear(&b);
        json_put_number(&b, numbers[i]);
        assert_true((float)strtod(b.data, NULL) == (float)numbers[i]);
    }
    buf_clear(&b);
    json_put_number(&b, (double)NAN);
    assert_string_equal(b.data, "null");
    buf_finish(&b);
}

static json_t *parsed(const struct buf *b)
{
    json_t *v;
    struct err e;
    if (json_parse(&v, b->data, b->len, &e))
        fail_msg("%s: %s", e.msg, b->data);
    return v;
}

static void test_error_object(void **state)
{
    (void)state;
    struct buf b;
    struct api_error e;
    buf_init(&b, 4096);
    api_error_set(&e, 404, "model_not_found", "model", "no \"%s\"", "x\n");
    reply_error(&b, &e);
    json_t *v = parsed(&b), *o = json_object_get(v, "error");
    assert_string_equal(json_string_value(json_object_get(o, "message")), "no \"x\n\"");
    assert_string_equal(json_string_value(json_object_get(o, "code")), "model_not_found");
    assert_string_equal(json_string_value(json_object_get(o, "param")), "model");
    json_decref(v);
    buf_clear(&b);
    api_error_set(&e, 500, NULL, NULL, "m");
    reply_error(&b, &e);
    v = parsed(&b);
    o = json_object_get(v, "error");
    assert_true(json_is_null(json_object_get(o, "code")));
    assert_true(json_is_null(json_object_get(o, "param")));
    json_decref(v);
    buf_finish(&b);
}

static void test_objects(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 16);
    struct reply_head h = {.chat = true, .id = "chatcmpl-1", .created = 7, .model = "m\"x"};
    struct reply_choice c[2] = {{.index = 0, .text = "hi", .n_text = 2, .finish_reason = "stop"},
                                {.index = 1, .text = "yo", .n_text = 2, .finish_reason = "length"}};
    reply_object(&b, &h, c, 2, &(struct reply_usage){.prompt_tokens = 3, .completion_tokens = 4, .cached_tokens = 2});
    json_t *v = parsed(&b);
    assert_string_equal(json_string_value(json_object_get(v, "object")), "chat.completion");
    assert_string_equal(json_string_value(json_object_get(v, "model")), "m\"x");
    json_t *choice = json_array_get(json_object_get(v, "choices"), 1);
    assert_string_equal(json_string_value(json_object_get(json_object_get(choice, "message"), "content")), "yo");
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    json_t *usage = json_object_get(v, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), 7);
    json_t *details = json_object_get(usage, "prompt_tokens_details");
    assert_int_equal(json_integer_value(json_object_get(details, "cached_tokens")), 2);
    json_decref(v);

    buf_clear(&b);
    h.chat = false;
    reply_object(&b, &h, c, 1, &(struct reply_usage){0});
    v = parsed(&b);
    assert_string_equal(json_string_value(json_object_get(v, "object")), "text_completion");
    choice = json_array_get(json_object_get(v, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(choice, "text")), "hi");
    assert_true(json_is_null(json_object_get(choice, "logprobs")));
    json_decref(v);
    buf_finish(&b);
}

static json_t *event(struct buf *b)
{
    assert_memory_equal(b->data, "data: ", 6);
    assert_memory_equal(b->data + b->len - 2, "\n\n", 2);
    buf_consume(b, 6);
    json_t *v = parsed(b);
    buf_clear(b);
    return v;
}

static void test_chunks(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 16);
    struct reply_head h = {.chat = true, .include_usage = true, .id = "c", .created = 7, .model = "m"};
    reply_chunk(&b, &h, &(struct reply_choice){.text = "", .first = true});
    json_t *v = event(&b), *delta = json_object_get(json_array_get(json_object_get(v, "choices"), 0), "delta");
    assert_string_equal(json_string_value(json_object_get(delta, "role")), "assistant");
    assert_true(json_is_null(json_object_get(v, "usage")));
    json_decref(v);
    reply_chunk(&b, &h, &(struct reply_choice){.index = 3, .text = "x", .n_text = 1});
    v = event(&b);
    json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
    assert_int_equal(json_integer_value(json_object_get(choice, "index")), 3);
    assert_true(json_is_null(json_object_get(choice, "finish_reason")));
    assert_null(json_object_get(json_object_get(choice, "delta"), "role"));
    json_decref(v);
    reply_chunk(&b, &h, &(struct reply_choice){.text = "", .finish_reason = "stop"});
    v = event(&b);
    delta = json_object_get(json_array_get(json_object_get(v, "choices"), 0), "delta");
    assert_int_equal(json_object_size(delta), 0);
    json_decref(v);
    reply_usage_chunk(&b, &h,
                      &(struct reply_usage){.prompt_tokens = 1, .completion_tokens = 2, .weir = "{\"flops\":7}"});
    v = event(&b);
    assert_int_equal(json_array_size(json_object_get(v, "choices")), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(v, "usage"), "total_tokens")), 3);
    v = json_object_get(json_object_get(v, "usage"), "weir") ? v : NULL;
    assert_non_null(v);
    json_decref(v);
    buf_finish(&b);
}

static void test_keys(void **state)
{
    (void)state;
    struct auth a;
    struct err e;
    const struct auth_key *one, *two, *four;
    auth_init(&a);
    one = auth_check(&a, NULL); /* no keys: open */
    assert_true(one && one->id == 0 && auth_is_admin(&a, one));
    assert_string_equal(one->name, "anonymous");
    assert_true(auth_check_metrics(&a, NULL));
    assert_int_equal(auth_add(&a, "one", &e), 0);
    assert_int_equal(auth_add(&a, "", &e), WEIR_EINVAL);
    assert_true(auth_is_admin(&a, auth_check(&a, "Bearer one"))); /* the only one */
    char path[] = "/tmp/weir-keys-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "# comment\n\n two \nthree\r\nfour\tadmin name=team-4\nfive name=team-4";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    assert_int_equal(auth_add_file(&a, path, &e), 0);
    assert_int_equal(a.n_keys, 5);
    unlink(path);
    one = auth_check(&a, "Bearer one");
    two = auth_check(&a, "bearer two");
    four = auth_check(&a, "Bearer four");
    assert_true(one && two && four && one->id && two->id && one->id != two->id);
    assert_true(auth_check(&a, "Bearer three") != NULL);
    assert_true(strlen(one->name) == 16 && !strncmp(one->name, "key-", 4) && strcmp(one->name, two->name));
    assert_string_equal(four->name, "team-4");
    assert_string_equal(auth_check(&a, "Bearer five")->name, "team-4");
    assert_true(auth_is_admin(&a, four) && !auth_is_admin(&a, one));
    static const char *const wrong[] = {"Bearer # comment", "Bearer on", "Bearer ", "one", "Bearer four admin", NULL};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_null(auth_check(&a, wrong[i]));
    assert_int_equal(auth_set_metrics_key(&a, "", &e), WEIR_EINVAL);
    assert_int_equal(auth_set_metrics_key(&a, "scrape", &e), 0);
    assert_true(auth_check_metrics(&a, "Bearer scrape") && auth_check_metrics(&a, "Bearer four"));
    assert_false(auth_check_metrics(&a, NULL) || auth_check_metrics(&a, "Bearer one"));
    assert_null(auth_check(&a, "Bearer scrape"));
    assert_int_equal(auth_add_file(&a, "/nonexistent", &e), WEIR_EIO);
    auth_finish(&a);
}

/* A bad line is named by its number; the key is not told. */
static void test_key_files(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "sk-secret two", "sk-secret name=", "sk-secret name=a/b", "sk-secret Admin",
        "sk-secret name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct auth a;
        struct err e;
        char path[] = "/tmp/weir-keys-XXXXXX";
        int fd = mkstemp(path);
        assert_true(dprintf(fd, "good\n\n%s\n", bad[i]) > 0);
        close(fd);
        auth_init(&a);
        assert_int_equal(auth_add_file(&a, path, &e), WEIR_EINVAL);
        assert_non_null(strstr(e.msg, "line 3"));
        assert_null(strstr(e.msg, "secret"));
        auth_finish(&a);
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completion_defaults),
        cmocka_unit_test(test_prompt_forms),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_scheduling),
        cmocka_unit_test(test_json_writing),
        cmocka_unit_test(test_error_object),
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_key_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
