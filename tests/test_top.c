/* What `weir top` draws: within the screen whatever the state and the size, and nothing of a hostile state reaches the
 * terminal as a command. */
#include "base/json.h"
#include "base/utf8.h"
#include "cli/top_view.h"
#include "test.h"

#include <string.h>
#include <utf8proc.h>

#define HOSTILE "\\u001b]0;owned\\u0007\\u009b2J\\u0000x"

static const char rich[] =
    "{\"version\":\"1.2\",\"uptime_s\":91.5,\"health\":\"ready\",\"time_s\":1764135564.12,\"model\":{\"name\":\"m\"},"
    "\"bandwidth\":{\"source\":\"counted\",\"peak_bytes_per_s\":2.1e10,\"current_bytes_per_s\":1.2e10,"
    "\"utilisation\":0.57,\"by_class_bytes_per_s\":{\"weights\":9e9,\"kv_read\":3e9,\"kv_write\":0,\"tier\":null}},"
    "\"compute\":{\"utilisation\":0.12},\"kv\":{\"chunks\":{\"total\":100,\"active\":50,\"cached\":25,\"free\":25}},"
    "\"steps\":{\"output_tokens_per_s\":310},\"latency\":{\"ttft_p50_s\":0.2},"
    "\"pressure\":{\"level\":1,\"levels\":[\"none\",\"evict\"]},"
    "\"running\":[{\"id\":\"chatcmpl-1f\",\"key\":\"" HOSTILE "\",\"phase\":\"decode\",\"age_s\":3.2,"
    "\"length_tokens\":908,\"max_tokens\":1324,\"bytes_per_token\":5120000,\"preemptions\":2},"
    "{\"id\":\"\\u6f22\\u5b57\\u6f22\\u5b57\\u6f22\\u5b57\\u6f22\\u5b57\\u6f22\\u5b57\\u6f22\",\"key\":\"k\"}],"
    "\"queue\":{\"length\":1,\"blocked_by\":\"band width\\n\",\"head_waited_s\":0.8,"
    "\"requests\":[{\"id\":\"cmpl-2a\",\"waited_s\":0.8,\"reason\":\"bandwidth\",\"preempted\":true}]},"
    "\"history\":{\"bandwidth_utilisation\":[0,0.25,0.5,1,2]}}";

static json_t *parse(const char *text)
{
    json_t *state = NULL;
    struct err e;
    assert_int_equal(json_parse(&state, text, strlen(text), &e), 0);
    return state;
}

/* Columns of a line, escape sequences aside; fails on any other control character. */
static uint32_t columns_of(const char *line, size_t n, bool terminal)
{
    uint32_t columns = 0;
    for (size_t i = 0; i < n;) {
        if (terminal && line[i] == '\033') {
            assert_int_equal(line[i + 1], '[');
            for (i += 2; !strchr("mK", line[i]); i++)
                assert_true(strchr("0123456789", line[i]) != NULL);
            i++;
            continue;
        }
        if (terminal && line[i] == '\r' && i + 1 == n)
            break;
        uint32_t cp;
        int len = utf8_decode(line + i, n - i, &cp);
        assert_true(len > 0);
        assert_true(cp >= 32 && !(cp >= 0x7f && cp < 0xa0));
        columns += (uint32_t)utf8proc_charwidth((utf8proc_int32_t)cp);
        i += (size_t)len;
    }
    return columns;
}

static void check_screen(struct top_view *v, const json_t *state)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    top_view_screen(v, state, "live", &out);
    assert_int_equal(out.failed, 0);
    uint32_t lines = 0;
    for (const char *at = out.data, *end; *at; at = end + 1, lines++) {
        end = strchr(at, '\n');
        assert_non_null(end);
        assert_true(columns_of(at, (size_t)(end - at), v->to_end) <= v->width);
        if (!v->utf8) {
            for (const char *c = at; c < end; c++)
                assert_true((unsigned char)*c < 128);
        }
    }
    assert_true(!v->height || lines <= v->height);
    buf_finish(&out);
}

static void fits_every_screen(void **unused)
{
    (void)unused;
    json_t *states[] = {parse(rich), json_object(),
                        parse("{\"running\":3,\"queue\":[],\"kv\":null,\"pressure\":{\"level\":-7}}")};
    for (size_t i = 0; i < 3; i++) {
        for (uint32_t width = TOP_MIN_WIDTH; width < 180; width += 3) {
            for (uint32_t height = 0; height < 40; height++) {
                struct top_view v = {.width = width, .height = height, .utf8 = width % 2, .colour = height % 2};
                v.to_end = v.colour;
                v.scroll = height * 3;
                top_view_remember(&v, states[i]);
                check_screen(&v, states[i]);
            }
        }
        json_decref(states[i]);
    }
}

static void shows_the_figures(void **unused)
{
    (void)unused;
    json_t *state = parse(rich);
    struct top_view v = {.width = 140};
    struct buf out;
    buf_init(&out, 1 << 20);
    top_view_remember(&v, state);
    assert_int_equal(v.n_history, 6);
    top_view_screen(&v, state, "live", &out);
    static const char *const shown[] = {"57 %",        "12.0 GB/s of 21.0 GB/s, counted",
                                        "310 /s out",  "none > [evict]",
                                        "908/1324",    "2x preempted",
                                        "(preempted)", "5.12 MB",
                                        "?]0;owned",   "1 waiting, the first for 800 ms"};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        assert_non_null(strstr(out.data, shown[i]));
    buf_finish(&out);
    json_decref(state);
}

static void a_line_is_one_line(void **unused)
{
    (void)unused;
    const char *texts[] = {rich, "{}"};
    for (size_t i = 0; i < 2; i++) {
        json_t *state = parse(texts[i]);
        struct buf out;
        buf_init(&out, 1 << 16);
        top_view_line(state, &out);
        assert_ptr_equal(strchr(out.data, '\n'), out.data + out.len - 1);
        columns_of(out.data, out.len - 1, false);
        assert_non_null(strstr(out.data, i ? "bandwidth=nan" : "blocked_by=band_width_ "));
        buf_finish(&out);
        json_decref(state);
    }
}

static void history_is_bounded(void **unused)
{
    (void)unused;
    struct top_view v = {.width = 100};
    json_t *state = parse("{\"bandwidth\":{\"utilisation\":0.5}}");
    for (int i = 0; i < 3 * TOP_HISTORY; i++)
        top_view_remember(&v, state);
    assert_int_equal(v.n_history, TOP_HISTORY);
    json_decref(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fits_every_screen),
        cmocka_unit_test(shows_the_figures),
        cmocka_unit_test(a_line_is_one_line),
        cmocka_unit_test(history_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
