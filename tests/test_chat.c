/* Chat templates against what Hugging Face transformers makes of them (tests/golden_chat), and the worker's limits. */
#include "base/clock.h"
#include "base/file.h"
#include "base/utf8.h"
#include "model/chat.h"
#include "test.h"
#include "tokenizer_build.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define GOLDEN "tests/golden_chat"

static struct chat_template *create(const char *source, const struct chat_limits *limits)
{
    struct chat_template *t;
    struct err e = {0};
    if (chat_template_create(&t, source, "<s>", "</s>", limits, &e))
        fail_msg("%s", e.msg);
    return t;
}

static int render(struct chat_template *t, const char *variables, char **out, struct err *e)
{
    size_t n;
    *e = (struct err){0};
    int r = chat_template_render(t, variables, strlen(variables), out, &n, e);
    if (r) {
        assert_null(*out);
        assert_int_equal(e->code, r);
        assert_true(utf8_valid(e->msg, strlen(e->msg)));
    } else {
        assert_int_equal(strlen(*out), n);
    }
    return r;
}

static void expect(struct chat_template *t, const char *variables, const char *text)
{
    char *out;
    struct err e;
    if (render(t, variables, &out, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(out, text);
    free(out);
}

static void expect_error(struct chat_template *t, const char *variables, int code, const char *words)
{
    char *out;
    struct err e;
    assert_int_equal(render(t, variables, &out, &e), code);
    if (!strstr(e.msg, words))
        fail_msg("\"%s\" is not in \"%s\"", words, e.msg);
}

/* The one child of this process that is a worker, 0 if there is none. */
static pid_t find_worker(void)
{
    DIR *d = opendir("/proc");
    assert_non_null(d);
    pid_t found = 0;
    for (struct dirent *entry = readdir(d); entry; entry = readdir(d)) {
        char path[300], text[512] = "";
        int parent = 0;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *f = entry->d_name[0] >= '0' && entry->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        if (!f)
            continue;
        if (fgets(text, sizeof text, f) && strrchr(text, ')'))
            sscanf(strrchr(text, ')'), ") %*c %d", &parent);
        fclose(f);
        if (parent == getpid() && strstr(text, "(python3"))
            found = (pid_t)atoi(entry->d_name);
    }
    closedir(d);
    return found;
}

/* -- Golden ------------------------------------------------------------------------------------------------------- */

static json_t *load_json(const char *path)
{
    json_error_t je;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &je);
    if (!j)
        fail_msg("%s: %s", path, je.text);
    return j;
}

/* One render's outcome against the expected {"text"}, {"raises"} or {"fails"}; false with a line about it. */
static bool matches(const char *what, const char *conversation, json_t *expected, int r, const char *out, size_t n_out,
                    const struct err *e)
{
    json_t *text = json_object_get(expected, "text"), *raises = json_object_get(expected, "raises");
    const char *message = json_string_value(raises ? raises : json_object_get(expected, "fails"));
    bool same;
    if (text)
        same = !r && n_out == json_string_length(text) && !memcmp(out, json_string_value(text), n_out);
    else if (raises && strlen(message) < 480)
        same = r == WEIR_EINVAL && !strcmp(e->msg, message);
    else /* functions' own names differ, so that the beginning counts */
        same = r && (!strncmp(e->msg, message, 12) || strstr(e->msg, message));
    if (!same)
        print_error("%s, %s: expected %s, got %s\n", what, conversation, text ? json_string_value(text) : message,
                    r ? e->msg : out);
    return same;
}

static int compare(const char *folder, json_t *golden, int *n_compared)
{
    const char *name, *conversation;
    json_t *expected, *outcome;
    int n_wrong = 0;
    struct chat_limits limits = {.fixed_time_s = json_number_value(json_object_get(golden, "now_s")), .render_s = 60};
    json_object_foreach(json_object_get(golden, "templates"), name, expected)
    {
        char path[4096], *source;
        size_t n;
        struct err e = {0};
        snprintf(path, sizeof path, "%s/%s", folder, name);
        assert_int_equal(file_read(path, 1 << 20, &source, &n, &e), 0);
        struct chat_template *t = NULL;
        int created = chat_template_create(&t, source, json_string_value(json_object_get(golden, "bos")),
                                           json_string_value(json_object_get(golden, "eos")), &limits, &e);
        free(source);
        json_object_foreach(expected, conversation, outcome)
        {
            json_t *variables = json_object_get(json_object_get(golden, "conversations"), conversation);
            char *text = json_dumps(variables, JSON_COMPACT), *out = NULL;
            assert_non_null(text);
            size_t n_out = 0;
            int r = created ? created : chat_template_render(t, text, strlen(text), &out, &n_out, &e);
            n_wrong += !matches(name, conversation, outcome, r, out, n_out, &e);
            ++*n_compared;
            free(out);
            free(text);
        }
        chat_template_destroy(t);
    }
    return n_wrong;
}

static void golden(const char *folder, const char *json, int at_least)
{
    json_t *g = load_json(json);
    int n_compared = 0;
    assert_int_equal(compare(folder, g, &n_compared), 0);
    assert_true(n_compared >= at_least);
    json_decref(g);
}

static void features_match_transformers(void **state)
{
    (void)state;
    golden(GOLDEN "/features", GOLDEN "/features.json", 100);
}

static void chats_match_transformers(void **state)
{
    (void)state;
    golden(GOLDEN "/chats", GOLDEN "/chats.json", 70);
}

static void real_templates_match_a_plain_rendering(void **state)
{
    (void)state;
    if (!shared_path("templates"))
        skip();
    char folder[4096], out[] = "/tmp/weir_chat_XXXXXX", command[9000];
    snprintf(folder, sizeof folder, "%s", shared_path("templates"));
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    close(fd);
    snprintf(command, sizeof command, "/usr/bin/python3 -I -B " GOLDEN "/reference.py '%s' '%s'", folder, out);
    assert_int_equal(system(command), 0);
    golden(folder, out, 500);
    unlink(out);
}

/* -- What a template is given ------------------------------------------------------------------------------------- */

static void variables_arrive(void **state)
{
    (void)state;
    struct chat_template *t = create("{{ bos_token }}{{ x }}{{ eos_token }}", NULL);
    expect(t, "{}", "<s></s>");
    expect(t, "{\"x\": 5, \"eos_token\": \"!\"}", "<s>5!");
    expect(t, "{\"x\": \"a\", \"x\": \"b\"}", "<s>b</s>"); /* as json.loads has it */
    expect(t, "{\"x\": {\"b\": 1.0, \"a\": [1e2, -0.0, 12345678901234567890123, true, null]}}",
           "<s>{'b': 1.0, 'a': [100.0, -0.0, 12345678901234567890123, True, None]}</s>");
    expect(t, "{\"x\": \"\\u00e9\\ud83d\\ude00\\n\"}", "<s>é😀\n</s>");
    expect(t, "{\"x\": \"a\\ud800b\\udc00\"}",
           "<s>a\xef\xbf\xbd"
           "b\xef\xbf\xbd</s>");
    expect_error(t, "[]", WEIR_EINVAL, "not a JSON object");
    expect_error(t, "", WEIR_EINVAL, "not JSON");
    expect_error(t, "{\"x\": NaN}", WEIR_EINVAL, "NaN");
    expect_error(t, "{\"x\": 1", WEIR_EINVAL, "not JSON");
    expect_error(t, "{\"x\": \"\xff\"}", WEIR_EINVAL, "not JSON");
    chat_template_destroy(t);
}

static void text_may_hold_anything(void **state)
{
    (void)state;
    struct chat_template *t = create("{{ x }}", NULL);
    char *out;
    size_t n;
    struct err e = {0};
    const char *nul = "{\"x\": \"a\\u0000b\"}";
    assert_int_equal(chat_template_render(t, nul, strlen(nul), &out, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(out, "a\0b", 4);
    free(out);

    size_t size = 6 << 20; /* many times a socket's buffer, both ways */
    char *big = malloc(size + 20);
    assert_non_null(big);
    memcpy(big, "{\"x\":\"", 6);
    memset(big + 6, 'y', size);
    memcpy(big + 6 + size, "\"}", 3);
    assert_int_equal(chat_template_render(t, big, size + 8, &out, &n, &e), 0);
    assert_int_equal(n, size);
    assert_memory_equal(out, big + 6, size);
    free(out);
    free(big);
    chat_template_destroy(t);
}

static void deep_json_is_refused(void **state)
{
    (void)state;
    struct chat_template *t = create("{{ x }}", NULL);
    size_t depth = 200000;
    char *deep = malloc(depth + 100);
    assert_non_null(deep);
    size_t n = (size_t)sprintf(deep, "{\"x\":");
    memset(deep + n, '[', depth);
    deep[n + depth] = 0;
    expect_error(t, deep, WEIR_EINVAL, "nested");
    free(deep);
    expect(t, "{\"x\": 1}", "1");
    chat_template_destroy(t);
}

static void tokens_that_are_absent_are_undefined(void **state)
{
    (void)state;
    struct chat_template *t;
    struct err e = {0};
    const char *source = "{{ bos_token is defined }}{{ eos_token is defined }}{{ pad_token }}";
    assert_int_equal(chat_template_create(&t, source, NULL, "", NULL, &e), 0);
    expect(t, "{}", "FalseTrue");
    assert_int_equal(chat_template_define(t, "pad_token", "<pad>", &e), 0);
    expect(t, "{}", "FalseTrue<pad>");
    assert_int_equal(chat_template_define(t, "pad_token", "\xff", &e), WEIR_EFORMAT);
    expect(t, "{}", "FalseTrue<pad>");
    chat_template_destroy(t);
}

static void tools_choose_their_template(void **state)
{
    (void)state;
    struct err e = {0};
    struct chat_template *t = create("default", NULL);
    expect(t, "{\"tools\": [1]}", "default");
    assert_int_equal(chat_template_add(t, "tool_use", "with {{ tools }}", &e), 0);
    assert_int_equal(chat_template_add(t, "rag", "with {{ documents }}", &e), 0);
    expect(t, "{}", "default");
    expect(t, "{\"tools\": null, \"documents\": []}", "default");
    expect(t, "{\"tools\": [1]}", "with [1]");
    assert_int_equal(chat_template_add(t, "tool_use", "{% if %}", &e), WEIR_EFORMAT);
    assert_non_null(strstr(e.msg, "tool_use"));
    expect(t, "{\"tools\": [2]}", "with [2]"); /* the old one stays */
    chat_template_destroy(t);
}

static void chatml_is_built_in(void **state)
{
    (void)state;
    struct chat_template *t = create(chat_template_chatml, NULL);
    expect(t,
           "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"U \"}, "
           "{\"role\": \"assistant\", \"content\": null}], \"add_generation_prompt\": true}",
           "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU <|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
           "<|im_start|>assistant\n");
    chat_template_destroy(t);
}

/* A model file with these further keys; templates[i] is a key and its text. */
static int open_model(const char *const templates[][2], size_t n_templates, bool has_chatml, struct chat_template **t,
                      struct err *e)
{
    struct gguf_build g;
    struct vocab_build v = {0};
    gguf_build_init(&g);
    vocab_add_byte_level(&v);
    int32_t bos = vocab_add(&v, "<|begin|>", TYPE_CONTROL, 0), eos = vocab_add(&v, "<|end|>", TYPE_CONTROL, 0),
            pad = vocab_add(&v, "<|pad|>", TYPE_CONTROL, 0);
    if (has_chatml) {
        vocab_add(&v, "<|im_start|>", TYPE_CONTROL, 0);
        vocab_add(&v, "<|im_end|>", TYPE_CONTROL, 0);
    }
    vocab_put(&v, &g, "gpt-2");
    gguf_build_u32(&g, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    gguf_build_u32(&g, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    gguf_build_u32(&g, "tokenizer.ggml.padding_token_id", (uint32_t)pad);
    gguf_build_u32(&g, "tokenizer.ggml.mask_token_id", 4000000000u);
    for (size_t i = 0; i < n_templates; i++)
        gguf_build_str(&g, templates[i][0], templates[i][1]);
    size_t n;
    void *bytes = gguf_build_finish(&g, &n);
    struct gguf *file;
    struct tokenizer *tokenizer;
    assert_int_equal(gguf_open_memory(&file, bytes, n, e), 0);
    assert_int_equal(tokenizer_create(&tokenizer, file, e), 0);
    int r = chat_template_open(t, file, tokenizer, NULL, NULL, e);
    tokenizer_destroy(tokenizer); /* the template keeps nothing of either */
    gguf_close(file);
    free(bytes);
    return r;
}

static void model_files_bring_their_templates(void **state)
{
    (void)state;
    static const char *const templates[][2] = {
        {"tokenizer.chat_template", "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ mask_token is defined }}"},
        {"tokenizer.chat_template.tool_use", "{{ bos_token }} {{ tools }}"},
        {"tokenizer.chat_template.rag", "{{ documents }}"},
    };
    struct chat_template *t;
    struct err e = {0};
    assert_int_equal(open_model(templates, 3, true, &t, &e), 0);
    expect(t, "{}", "<|begin|><|end|><|pad|>False");
    expect(t, "{\"tools\": [1]}", "<|begin|> [1]");
    chat_template_destroy(t);

    assert_int_equal(open_model(templates + 1, 1, true, &t, &e), 0);
    expect(t, "{\"messages\": [], \"add_generation_prompt\": true}", "<|im_start|>assistant\n");
    chat_template_destroy(t);

    assert_int_equal(open_model(NULL, 0, false, &t, &e), WEIR_ENOTFOUND);
    assert_null(t);
    static const char *const broken[][2] = {{"tokenizer.chat_template", "{{"}};
    assert_int_equal(open_model(broken, 1, true, &t, &e), WEIR_EFORMAT);
}

/* -- Failures ----------------------------------------------------------------------------------------------------- */

static void broken_templates_are_known_at_once(void **state)
{
    (void)state;
    static const char *const broken[][2] = {
        {"a\n{% if %}", "line 2"}, {"{{ x | nofilter }}", "nofilter"}, {"{% for %}", "line 1"}, {"\xff", "UTF-8"},
        {"{{ 'open", "line 1"},    {"{% generation %}", "line 1"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct chat_template *t;
        struct err e = {0};
        assert_int_equal(chat_template_create(&t, broken[i][0], "", "", NULL, &e), WEIR_EFORMAT);
        assert_null(t);
        assert_non_null(strstr(e.msg, broken[i][1]));
    }
    chat_template_destroy(NULL);
}

static void messages_are_bounded_text(void **state)
{
    (void)state;
    struct chat_template *t = create("{{ raise_exception(x) }}", NULL);
    expect_error(t, "{\"x\": \"just this\"}", WEIR_EINVAL, "just this");
    expect_error(t, "{\"x\": \"a\\u0000b\\ud800\"}", WEIR_EINVAL,
                 "a\xef\xbf\xbd"
                 "b\xef\xbf\xbd");
    char big[4000] = "{\"x\": \"";
    for (int i = 0; i < 600; i++)
        strcat(big, "€");
    strcat(big, "\"}");
    char *out;
    struct err e;
    assert_int_equal(render(t, big, &out, &e), WEIR_EINVAL);
    assert_in_range(strlen(e.msg), 470, 511);
    chat_template_destroy(t);
}

static void errors_name_the_line(void **state)
{
    (void)state;
    struct chat_template *t = create("a\n{% macro f(x) %}\n{{ x.y.z }}\n{% endmacro %}\n{{ f({}) }}", NULL);
    expect_error(t, "{}", WEIR_EINVAL, "line 3 of the template");
    chat_template_destroy(t);
}

static void endless_templates_are_stopped(void **state)
{
    (void)state;
    struct chat_limits limits = {.render_s = 0.3};
    struct chat_template *t = create("{% if x %}{{ x ** (10 ** 9) }}{% else %}fine{% endif %}", &limits);
    expect(t, "{}", "fine");
    pid_t first = find_worker();
    assert_true(first > 0);
    double start_s = clock_monotonic_s();
    expect_error(t, "{\"x\": 7}", WEIR_ETIMEOUT, "0.3 s");
    assert_true(clock_monotonic_s() - start_s < 5);
    assert_int_equal(find_worker(), 0);
    expect(t, "{}", "fine");
    assert_true(find_worker() != first);
    chat_template_destroy(t);
    assert_int_equal(find_worker(), 0);
}

static void memory_and_output_are_bounded(void **state)
{
    (void)state;
    struct chat_limits limits = {.memory_bytes = (size_t)128 << 20, .max_output_bytes = 1000, .render_s = 60};
    struct chat_template *t = create(
        "{% if x == 1 %}{{ 'a' * 10 ** 9 }}"
        "{% elif x == 2 %}{% for i in range(90000) %}{% for j in range(90000) %}0123456789{% endfor %}{% endfor %}"
        "{% elif x == 3 %}{% set ns = namespace(s='x') %}{% for i in range(90000) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}{% elif x == 4 %}{{ range(10 ** 9) | list }}"
        "{% elif x == 5 %}{{ 'é' * 600 }}{% else %}{{ 'é' * 500 }}{% endif %}",
        &limits);
    expect_error(t, "{\"x\": 1}", WEIR_ELIMIT, "128 MiB");
    expect_error(t, "{\"x\": 2}", WEIR_ELIMIT, "1000 bytes");
    expect_error(t, "{\"x\": 3}", WEIR_ELIMIT, "128 MiB");
    expect_error(t, "{\"x\": 4}", WEIR_EINVAL, "range");
    expect_error(t, "{\"x\": 5}", WEIR_ELIMIT, "1000 bytes");
    char *out;
    struct err e;
    assert_int_equal(render(t, "{}", &out, &e), 0);
    assert_int_equal(strlen(out), 1000);
    free(out);
    char *none = calloc(1, CHAT_MAX_VARIABLES_BYTES + 1);
    size_t n;
    assert_non_null(none);
    assert_int_equal(chat_template_render(t, none, CHAT_MAX_VARIABLES_BYTES + 1, &out, &n, &e), WEIR_ELIMIT);
    free(none);
    chat_template_destroy(t);
}

static void a_killed_worker_is_replaced(void **state)
{
    (void)state;
    struct chat_template *t = create("{{ x }}", NULL);
    for (int i = 0; i < 3; i++) {
        pid_t pid = find_worker();
        assert_true(pid > 0);
        kill(pid, SIGKILL);
        expect(t, "{\"x\": \"again\"}", "again");
        expect(t, "{\"x\": \"and again\"}", "and again");
    }
    chat_template_destroy(t);
}

static void the_worker_inherits_nothing(void **state)
{
    (void)state;
    int pair[2], high = -1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0); /* without close-on-exec */
    high = fcntl(pair[0], F_DUPFD, 200);
    assert_true(high >= 200);
    setenv("WEIR_TEST_SECRET", "hunter2", 1);
    struct chat_template *t = create("x", NULL);
    unsetenv("WEIR_TEST_SECRET");
    char path[100];
    size_t n;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)find_worker());
    DIR *d = opendir(path);
    assert_non_null(d);
    int n_open = 0;
    for (struct dirent *entry = readdir(d); entry; entry = readdir(d))
        n_open += entry->d_name[0] != '.';
    closedir(d);
    assert_int_equal(n_open, 3);
    snprintf(path, sizeof path, "/proc/%d/environ", (int)find_worker());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char environment[8192];
    n = fread(environment, 1, sizeof environment, f);
    fclose(f);
    assert_true(n > 0);
    assert_null(memmem(environment, n, "hunter2", 7));
    snprintf(path, sizeof path, "/proc/%d/limits", (int)find_worker());
    f = fopen(path, "r");
    assert_non_null(f);
    n = fread(environment, 1, sizeof environment - 1, f);
    environment[n] = 0;
    fclose(f);
    assert_non_null(strstr(environment, "Max open files            3                    3 "));
    assert_non_null(strstr(environment, "Max address space         536870912            536870912 "));
    chat_template_destroy(t);
    close(high);
    close(pair[0]);
    close(pair[1]);
}

static void the_kernel_filters_the_workers_calls(void **state)
{
    (void)state;
    struct chat_template *t = create("x", NULL);
    char about[200];
    chat_template_about(t, about, sizeof about);
    json_t *j = json_loads(about, 0, NULL);
    assert_true(json_is_string(json_object_get(j, "jinja2")));
    bool filtered = json_is_true(json_object_get(j, "seccomp"));
    json_decref(j);
    char path[100], line[200];
    int mode = -1, no_new_privileges = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)find_worker());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        sscanf(line, "Seccomp: %d", &mode);
        sscanf(line, "NoNewPrivs: %d", &no_new_privileges);
    }
    fclose(f);
    chat_template_destroy(t);
    if (mode < 0)
        skip(); /* a kernel without seccomp */
    assert_true(filtered);
    assert_int_equal(mode, 2);
    assert_int_equal(no_new_privileges, 1);
}

static void signals_do_not_matter(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_DFL); /* would end this test if a socket raised it */
    struct chat_template *t = create("{{ x }}", NULL);
    pid_t pid = find_worker();
    assert_int_not_equal(getpgid(pid), getpgrp());
    kill(pid, SIGINT);
    expect(t, "{\"x\": 1}", "1");
    assert_int_equal(find_worker(), pid);
    kill(pid, SIGKILL);
    size_t size = 3 << 20;
    char *big = malloc(size + 20);
    assert_non_null(big);
    memset(big, ' ', size);
    strcpy(big + size, "{\"x\": 2}");
    expect(t, big, "2");
    free(big);
    chat_template_destroy(t);
}

static void *render_many(void *arg)
{
    char variables[64], text[64], *out;
    for (int i = 0; i < 50; i++) {
        struct err e;
        snprintf(variables, sizeof variables, "{\"x\": %d}", i);
        snprintf(text, sizeof text, "%d", i);
        if (render(arg, variables, &out, &e) || strcmp(out, text) != 0)
            return arg;
        free(out);
    }
    return NULL;
}

static void threads_share_a_template(void **state)
{
    (void)state;
    struct chat_template *t = create("{{ x }}", NULL);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_many, t), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    chat_template_destroy(t);
}

static void the_clock_is_local_time(void **state)
{
    (void)state;
    setenv("TZ", "Asia/Kolkata", 1);
    struct chat_limits limits = {.fixed_time_s = 1753500000.5};
    struct chat_template *t = create("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}", &limits);
    setenv("TZ", "UTC", 1);
    expect(t, "{}", "2025-07-26 08:50:00");
    expect(t, "{}", "2025-07-26 08:50:00");
    chat_template_destroy(t);

    t = create("{{ strftime_now('%s') }}", NULL);
    char *out;
    struct err e;
    assert_int_equal(render(t, "{}", &out, &e), 0);
    assert_true(fabs(atof(out) - clock_wall_s()) < 30);
    free(out);
    chat_template_destroy(t);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_match_transformers),
        cmocka_unit_test(chats_match_transformers),
        cmocka_unit_test(real_templates_match_a_plain_rendering),
        cmocka_unit_test(variables_arrive),
        cmocka_unit_test(text_may_hold_anything),
        cmocka_unit_test(deep_json_is_refused),
        cmocka_unit_test(tokens_that_are_absent_are_undefined),
        cmocka_unit_test(tools_choose_their_template),
        cmocka_unit_test(chatml_is_built_in),
        cmocka_unit_test(model_files_bring_their_templates),
        cmocka_unit_test(broken_templates_are_known_at_once),
        cmocka_unit_test(messages_are_bounded_text),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(endless_templates_are_stopped),
        cmocka_unit_test(memory_and_output_are_bounded),
        cmocka_unit_test(a_killed_worker_is_replaced),
        cmocka_unit_test(the_worker_inherits_nothing),
        cmocka_unit_test(the_kernel_filters_the_workers_calls),
        cmocka_unit_test(signals_do_not_matter),
        cmocka_unit_test(threads_share_a_template),
        cmocka_unit_test(the_clock_is_local_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
