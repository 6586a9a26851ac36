/* What the server tells: trace context, metrics text, JSON, quantiles, records. */
#include "test.h"

#include "base/json.h"
#include "server/metrics.h"
#include "server/monitor.h"
#include "server/records.h"
#include "server/trace_context.h"

#include <math.h>

/* ---- trace context ---- */

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00-" TRACE "-00f067aa0ba902b7-01"

static bool continues(const char *parent, const char *state, struct trace_context *t)
{
    struct rng rng = {.state = 1};
    char out[56];
    trace_context_begin(t, parent, state, false, &rng);
    trace_context_format(t, out);
    assert_int_equal(strlen(out), 55);
    assert_int_equal(strspn(t->trace_id, "0123456789abcdef"), 32);
    assert_int_equal(strspn(t->span_id, "0123456789abcdef"), 16);
    return !strcmp(t->trace_id, TRACE);
}

static void traceparent_is_strict(void **state)
{
    (void)state;
    struct trace_context t;
    assert_true(continues(PARENT, NULL, &t));
    assert_true(t.sampled && !strcmp(t.parent_id, "00f067aa0ba902b7") && strcmp(t.span_id, t.parent_id));
    static const char *const good[] = {"00-" TRACE "-00f067aa0ba902b7-00", "00-" TRACE "-00f067aa0ba902b7-fe",
                                       "cc-" TRACE "-00f067aa0ba902b7-01-what-the-future-brings",
                                       "01-" TRACE "-00f067aa0ba902b7-00"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(continues(good[i], NULL, &t));
    assert_true(continues(good[1], NULL, &t) && !t.sampled);
    static const char *const bad[] = {"",
                                      "00",
                                      "00-" TRACE "-00f067aa0ba902b7-0",
                                      "00-" TRACE "-00f067aa0ba902b7-011",
                                      "00-" TRACE "-00f067aa0ba902b7-01-",
                                      "00-" TRACE "-00f067aa0ba902b7-01,00-" TRACE "-00f067aa0ba902b7-01",
                                      "01-" TRACE "-00f067aa0ba902b7-01x",
                                      "ff-" TRACE "-00f067aa0ba902b7-01",
                                      "0g-" TRACE "-00f067aa0ba902b7-01",
                                      "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                                      "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                                      "00-" TRACE "-0000000000000000-01",
                                      "00_" TRACE "-00f067aa0ba902b7-01",
                                      " 00-" TRACE "-00f067aa0ba902b7-01",
                                      "00-" TRACE "-00f067aa0ba902b7-zz"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(continues(bad[i], "a=b", &t));
        assert_true(!t.state[0] && !t.parent_id[0] && !t.sampled);
    }
}

static void tracestate_is_strict(void **state)
{
    (void)state;
    struct trace_context t;
    char many[600] = "";
    for (int i = 0; i < 33; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%sk%d=v", i ? "," : "", i);
    static const char *const good[] = {"a=b",      "rojo=1,congo=2", "a=b , c=d", "fw529a3039@dt=FfAAAAB/+:;",
                                       "a=b,,c=d", "0a_-*/=x y"};
    const char *const bad[] = {"",      ",",         "a",      "=b",   "a=",         "A=b",
                               "a=b=c", "a=b,a b=c", "a=\x01", "-a=b", "a=\xc3\xa9", many};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(continues(PARENT, good[i], &t));
        assert_string_equal(t.state, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(continues(PARENT, bad[i], &t)); /* the trace goes on without it */
        assert_string_equal(t.state, "");
    }
    char longest[TRACE_STATE_BYTES + 2] = "a=b,";
    memset(longest + 4, ' ', TRACE_STATE_BYTES - 4);
    assert_true(continues(PARENT, longest, &t) && t.state[0]);
    longest[TRACE_STATE_BYTES] = ' ';
    assert_true(continues(PARENT, longest, &t) && !t.state[0]);
}

/* ---- metrics ---- */

static void accept_headers_choose_the_format(void **state)
{
    (void)state;
    assert_true(metrics_wants_open("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_true(metrics_wants_open("application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;"
                                   "version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"));
    assert_true(metrics_wants_open("text/html, APPLICATION/OpenMetrics-Text"));
    static const char *const no[] = {NULL,
                                     "",
                                     "*/*",
                                     "text/plain",
                                     "application/openmetrics-text;q=0",
                                     "text/plain,application/openmetrics-text;q=0.9",
                                     "application/openmetrics-texts",
                                     "application/openmetrics-text;q=nonsense",
                                     ";;;,,,q=1"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(metrics_wants_open(no[i]));
}

static void text_of_both_formats(void **state)
{
    (void)state;
    static const double bounds[] = {0.5, 1, 20};
    struct histogram h = {.bounds = bounds, .n_bounds = 3};
    histogram_add(&h, 0.5);
    histogram_add(&h, 0.6);
    histogram_add(&h, 1e9);
    for (int open = 0; open < 2; open++) {
        struct buf b, labels;
        buf_init(&b, 65536);
        buf_init(&labels, METRICS_MAX_LABELS);
        metrics_put_label(&labels, "m", "a\"b\\c\nd");
        struct metrics_out o = {.buf = &b, .open_metrics = open};
        metrics_one(&o, "x_bytes", "counter", "Bytes.", labels.data, 3e10);
        metrics_family(&o, "y", "gauge", "Y.");
        metrics_labelled(&o, labels.data, "k", "v", (double)NAN);
        metrics_value(&o, "", -0.25);
        metrics_histogram(&o, "z", "Z.", "", &h);
        metrics_end(&o);
        char expected[1024];
        snprintf(expected, sizeof expected,
                 "# HELP x_bytes%s Bytes.\n# TYPE x_bytes%s counter\nx_bytes_total{m=\"a\\\"b\\\\c\\nd\"} 30000000000\n"
                 "# HELP y Y.\n# TYPE y gauge\ny{m=\"a\\\"b\\\\c\\nd\",k=\"v\"} NaN\ny -0.25\n"
                 "# HELP z Z.\n# TYPE z histogram\nz_bucket{le=\"0.5\"} 1\nz_bucket{le=\"1.0\"} 2\n"
                 "z_bucket{le=\"20.0\"} 2\nz_bucket{le=\"+Inf\"} 3\nz_sum 1e+09\nz_count 3\n%s",
                 open ? "" : "_total", open ? "" : "_total", open ? "# EOF\n" : "");
        assert_string_equal(b.data, expected);
        buf_finish(&b);
        buf_finish(&labels);
    }
}

/* Every family is declared once, before its samples, and ends in the format's mark; names of keys are bounded. */
static void the_whole_page(void **state)
{
    (void)state;
    static struct metrics m;
    static struct monitor mon;
    static char names[METRICS_MAX_KEYS + 50][16];
    struct weir_info in = {.model = "model \"with\\ odd\nname", .kv_type = "f16", .chunk_tokens = 32, .n_chunks = 9};
    struct metrics_info info = {.info = &in, .monitor = &mon, .hardware_source = "resctrl"};
    mon.n_samples = 1;
    mon.figures.peak_bytes_per_s = 1e9;
    metrics_init(&m, 4096);
    assert_true(m.prompt_tokens.bounds[m.prompt_tokens.n_bounds - 1] == 2000);
    struct request_sums sums = {.traffic = {.weight_bytes = 5, .activation_bytes = 100}};
    for (int i = 0; i < METRICS_MAX_KEYS + 50; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        metrics_usage(&m, names[i], &sums, 0.5);
        metrics_usage(&m, names[0], &sums, 0.5);
    }
    for (int open = 0; open < 2; open++) {
        struct buf b;
        buf_init(&b, 1 << 20);
        metrics_render(&b, &m, &info, open);
        assert_false(b.failed);
        char family[100] = "";
        unsigned n_families = 0;
        assert_true(!open == !strstr(b.data, "# EOF\n"));
        assert_non_null(strstr(b.data, "weir_usage_memory_bytes_total{key=\"k0\"} 755\n"));
        assert_non_null(strstr(b.data, "weir_usage_memory_bytes_total{key=\"(others)\"} 250\n"));
        assert_null(strstr(b.data, "k100"));
        assert_non_null(strstr(b.data, "model_name=\"model \\\"with\\\\ odd\\nname\",engine=\"0\""));
        for (char *line = strtok(b.data, "\n"); line; line = strtok(NULL, "\n")) {
            char name[100];
            if (sscanf(line, "# TYPE %99s", name) == 1) {
                strcpy(family, name);
                n_families++;
            } else if (*line != '#') {
                assert_true(family[0] && !strncmp(line, family, strlen(family)));
                assert_non_null(strrchr(line, ' '));
            }
        }
        assert_true(n_families > 70);
        buf_finish(&b);
    }
}

/* ---- JSON ---- */

static void json_is_written_as_it_is_read(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    struct json_out o = json_out_begin(&b);
    json_begin_object(&o, NULL);
    json_add_u64(&o, "u", UINT64_MAX);
    json_add_i64(&o, "i", INT64_MIN);
    json_add_f64(&o, "f", 1234567.891);
    json_add_f64(&o, "whole", 123456789012.0);
    json_add_f64(&o, "nan", (double)NAN);
    json_add_time(&o, "t", 1764135564.123456);
    json_add_str(&o, "s", "a\"\n\xff");
    json_add_str(&o, "none", NULL);
    json_begin_array(&o, "a");
    json_add_bool(&o, NULL, true);
    json_begin_object(&o, NULL);
    json_close(&o);
    json_begin_array(&o, NULL);
    json_close(&o);
    json_add_null(&o, NULL);
    json_close(&o);
    json_close(&o);
    assert_string_equal(b.data, "{\"u\":18446744073709551615,\"i\":-9223372036854775808,\"f\":1.23457e+06,"
                                "\"whole\":123456789012,\"nan\":null,\"t\":1764135564.123456,"
                                "\"s\":\"a\\\"\\n\xef\xbf\xbd\",\"none\":null,\"a\":[true,{},[],null]}");
    buf_finish(&b);
}

/* ---- quantiles and records ---- */

static void quantiles_are_near_the_truth(void **state)
{
    (void)state;
    static struct monitor m;
    assert_true(isnan(monitor_latency_quantile(&m.ttft, 0.5)));
    for (int i = 1; i <= 1000; i++)
        monitor_latency_add(&m, &m.ttft, i * 1e-3);
    static const double quantiles[] = {0.01, 0.5, 0.95, 1};
    for (size_t i = 0; i < 4; i++) {
        double got = monitor_latency_quantile(&m.ttft, quantiles[i]);
        assert_true(fabs(log2(got / quantiles[i])) < 0.3);
    }
    monitor_latency_add(&m, &m.itl, 0);
    monitor_latency_add(&m, &m.itl, 1e9);
    assert_true(monitor_latency_quantile(&m.itl, 0.4) <= 2e-6 && monitor_latency_quantile(&m.itl, 1) > 1000);
}

static void records_keep_the_last_ones(void **state)
{
    (void)state;
    static struct records r;
    struct choice_record bad = {.finish = FINISH_REFUSED, .refusal = SCHED_REFUSED_LATE},
                         good = {.finish = FINISH_STOP, .n_output_tokens = 4};
    struct request_sums s = {0};
    request_sums_add(&s, &good);
    request_sums_add(&s, &bad);
    request_sums_add(&s, &good);
    assert_true(s.finish == FINISH_REFUSED && s.refusal == SCHED_REFUSED_LATE && s.output_tokens == 8);
    assert_null(records_at(&r, 0));
    for (int i = 0; i < RECORDS_MAX + 10; i++) {
        struct request_record one = {.choices = calloc(1, sizeof *one.choices)};
        snprintf(one.id, sizeof one.id, "id-%d", i);
        records_add(&r, &one);
    }
    assert_string_equal(records_at(&r, 0)->id, "id-1033");
    assert_string_equal(records_at(&r, RECORDS_MAX - 1)->id, "id-10");
    assert_null(records_at(&r, RECORDS_MAX));
    assert_null(records_find(&r, "id-9"));
    assert_non_null(records_find(&r, "id-10"));
    records_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(traceparent_is_strict),
        cmocka_unit_test(tracestate_is_strict),
        cmocka_unit_test(accept_headers_choose_the_format),
        cmocka_unit_test(text_of_both_formats),
        cmocka_unit_test(the_whole_page),
        cmocka_unit_test(json_is_written_as_it_is_read),
        cmocka_unit_test(quantiles_are_near_the_truth),
        cmocka_unit_test(records_keep_the_last_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
