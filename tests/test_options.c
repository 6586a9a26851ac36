/* Command-line options and config files. */
#include "test.h"

#include "cli/options.h"

#include <fcntl.h>

struct values {
    uint32_t count;
    double rate, speed;
    size_t bytes;
    const char *name;
    bool fast;
};

/* Parses argv given as one string of words; the values keep their memory until options_finish. */
static int parse(struct options *o, struct values *v, const char *words, struct err *e)
{
    static char text[1024];
    static struct option_def defs[8];
    const struct option_def table[] = {
        OPTIONS_TITLE("Things"),
        OPTION("count", OPT_U32, &v->count, "N", "a count", .min = 1, .max = 100, .letter = 'c'),
        OPTION("rate", OPT_F64, &v->rate, "R", "a rate"),
        OPTION("bytes", OPT_BYTES, &v->bytes, "SIZE", "a size"),
        OPTION("speed", OPT_RATE, &v->speed, "RATE", "a rate of bytes", .min = 1e6, .max = 1e15),
        OPTION("name", OPT_STR, &v->name, "NAME", "a name"),
        OPTION("fast", OPT_FLAG, &v->fast, NULL, "a flag"),
        OPTIONS_END,
    };
    memcpy(defs, table, sizeof defs);
    char *argv[32] = {(char[]){"weir"}};
    int argc = 1;
    snprintf(text, sizeof text, "%s", words);
    for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
        argv[argc++] = w;
    return options_parse(o, defs, argc, argv, e);
}

static void test_forms(void **state)
{
    (void)state;
    struct options o;
    struct values v = {.count = 7};
    struct err e;
    assert_int_equal(parse(&o, &v, "in --rate=2.5 --bytes 1.5K --fast -c 9 out --name x -- --name", &e), 0);
    assert_int_equal(v.count, 9);
    assert_true(v.rate == 2.5);
    assert_int_equal(v.bytes, 1536);
    assert_true(v.fast);
    assert_string_equal(v.name, "x");
    assert_int_equal(o.n_positional, 3);
    assert_string_equal(o.positional[2], "--name");
    options_finish(&o);
    v.count = 7;
    assert_int_equal(parse(&o, &v, "--fast=false --help", &e), 0);
    assert_int_equal(v.count, 7); /* absent: the default stays */
    assert_false(v.fast);
    assert_true(o.help);
    options_finish(&o);
}

static void test_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double bytes, speed;
    } cases[] = {{"2M", 2097152, 2e6},        {"1.5G", 1610612736, 1.5e9}, {"1GiB", 1073741824, 1073741824},
                 {"30gb", 32212254720, 30e9}, {"4000000", 4e6, 4e6},       {"2Ti", 2199023255552, 2199023255552}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct options o;
        struct values v = {0};
        struct err e;
        char words[128];
        snprintf(words, sizeof words, "--bytes %s --speed %s", cases[i].text, cases[i].text);
        assert_int_equal(parse(&o, &v, words, &e), 0);
        assert_true((double)v.bytes == cases[i].bytes);
        assert_true(v.speed == cases[i].speed);
        options_finish(&o);
        snprintf(words, sizeof words, "--speed %s/s", cases[i].text);
        assert_int_equal(parse(&o, &v, words, &e), i == 4 ? WEIR_EINVAL : 0);
        options_finish(&o);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"--nothing 1", "--nothing"},
        {"-x", "-x"},
        {"--count", "needs a value"},
        {"--count 0", "count"},
        {"--count 101", "count"},
        {"--count 1.5", "1.5"},
        {"--rate x", "'x'"},
        {"--bytes 5Q", "5Q"},
        {"--fast=maybe", "maybe"},
        {"--bytes -1", "-1"},
        {"--bytes 1G/s", "1G/s"},
        {"--speed 30", "'30' is not a rate like 30G (bytes a second, from 1000000 to 1e+15)"},
        {"--speed 2000T", "2000T"},
        {"--speed nan", "nan"},
        {"--speed 1G/h", "1G/h"},
        {"--speed G", "G"},
        {"--config /nonexistent", "/nonexistent"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct options o;
        struct values v = {0};
        struct err e;
        assert_int_not_equal(parse(&o, &v, wrong[i][0], &e), 0);
        if (!strstr(e.msg, wrong[i][1]))
            fail_msg("%s: %s", wrong[i][0], e.msg);
        options_finish(&o);
    }
}

static void test_config_file(void **state)
{
    (void)state;
    char path[] = "/tmp/weir-conf-XXXXXX", words[256];
    int fd = mkstemp(path);
    static const char text[] = "# comment\n\n  count = 5\nname = two words  \r\nfast = true\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    struct options o;
    struct values v = {0};
    struct err e;
    snprintf(words, sizeof words, "--count 6 --config %s", path); /* the command line wins, wherever it stands */
    assert_int_equal(parse(&o, &v, words, &e), 0);
    assert_int_equal(v.count, 6);
    assert_string_equal(v.name, "two words");
    assert_true(v.fast);
    options_finish(&o);
    fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "nonsense = 1\n", 13), 13);
    close(fd);
    assert_int_equal(parse(&o, &v, words, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, ":6: there is no option 'nonsense'"));
    options_finish(&o);
    unlink(path);
}

static void test_lists(void **state)
{
    (void)state;
    struct option_list tags = {0};
    const struct option_def defs[] = {OPTION("tag", OPT_LIST, &tags, "TAG", "a tag"), OPTIONS_END};
    char *argv[] = {(char[]){"weir"}, (char[]){"--tag"}, (char[]){"a"}, (char[]){"--tag=b"}};
    struct options o;
    struct err e;
    assert_int_equal(options_parse(&o, defs, 4, argv, &e), 0);
    assert_int_equal(tags.n, 2);
    assert_string_equal(tags.items[1], "b");
    assert_null(tags.items[2]);
    options_finish(&o);
    assert_int_equal(tags.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),       cmocka_unit_test(test_units), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_config_file), cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
