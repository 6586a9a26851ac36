#include "cli/top_view.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

/* ---- Figures of a state ---- */

/* A member by a path like "kv.chunks.total". */
static const json_t *at(const json_t *o, const char *path)
{
    while (o && *path) {
        size_t n = strcspn(path, ".");
        char name[48];
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        o = json_object_get(o, name);
        path += n + (path[n] == '.');
    }
    return o;
}

static double num(const json_t *o, const char *path)
{
    const json_t *v = at(o, path);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *str(const json_t *o, const char *path)
{
    const char *s = json_string_value(at(o, path));
    return s ? s : "-";
}

struct text {
    char s[48];
};

static struct text si(double x, const char *unit)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    struct text t;
    int i = 0;
    for (; fabs(x) >= 999.5 && i < 6; i++)
        x /= 1000;
    int digits = fabs(x) < 9.995 ? 2 : fabs(x) < 99.95 ? 1 : 0;
    if (isnan(x))
        snprintf(t.s, sizeof t.s, "-");
    else
        snprintf(t.s, sizeof t.s, "%.*f%s%s%.24s", !i && x == floor(x) ? 0 : digits, x, *unit || i ? " " : "",
                 prefixes[i], unit);
    return t;
}

static struct text seconds(double s)
{
    struct text t;
    if (isnan(s))
        snprintf(t.s, sizeof t.s, "-");
    else if (s < 0.0009995)
        snprintf(t.s, sizeof t.s, "%.0f us", s * 1e6);
    else if (s < 0.9995)
        snprintf(t.s, sizeof t.s, "%.*f ms", s < 0.00995 ? 2 : s < 0.0995 ? 1 : 0, s * 1e3);
    else if (s < 119.5)
        snprintf(t.s, sizeof t.s, "%.1f s", s);
    else if (s < 7170)
        snprintf(t.s, sizeof t.s, "%.0f min", s / 60);
    else
        snprintf(t.s, sizeof t.s, s < 172800 ? "%.1f h" : "%.1f d", s < 172800 ? s / 3600 : s / 86400);
    return t;
}

static struct text percent(double x)
{
    struct text t;
    if (isnan(x))
        snprintf(t.s, sizeof t.s, "-");
    else
        snprintf(t.s, sizeof t.s, "%.*f %%", fabs(x) < 0.0995 ? 1 : 0, 100 * x);
    return t;
}

/* ---- Lines ---- */

enum style { PLAIN, BOLD, SOFT, BLUE, YELLOW, RED, GREEN, MAGENTA };

struct screen {
    struct top_view *v;
    struct buf *out;
    uint32_t column, line;
};

/* Past the last line nothing is written any more. */
static bool full(const struct screen *s)
{
    return s->v->height && s->line >= s->v->height;
}

static void style(struct screen *s, enum style style)
{
    static const char *const codes[] = {"0", "1", "2", "34", "33", "31", "32", "35"};
    if (s->v->colour && !full(s))
        buf_printf(s->out, "\033[%sm", codes[style]);
}

/* As much of the text as the line has room for. */
static void put(struct screen *s, const char *text)
{
    size_t n = full(s) ? 0 : strlen(text);
    while (n) {
        uint32_t cp;
        int len = utf8_decode(text, n, &cp);
        int width = len > 0 && cp >= 32 && (cp < 127 || s->v->utf8) ? utf8proc_charwidth((utf8proc_int32_t)cp) : 0;
        bool shown = width > 0 && !(cp >= 0x7f && cp < 0xa0);
        uint32_t columns = shown ? (uint32_t)width : 1;
        if (s->column + columns > s->v->width)
            return;
        if (shown)
            buf_add(s->out, text, (size_t)len);
        else
            buf_addc(s->out, '?');
        s->column += columns;
        size_t step = len > 0 ? (size_t)len : 1;
        text += step;
        n -= step;
    }
}

__attribute__((format(printf, 3, 4))) static void put_as(struct screen *s, enum style as, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (as)
        style(s, as);
    put(s, text);
    if (as)
        style(s, PLAIN);
}

static void pad_to(struct screen *s, uint32_t column)
{
    while (s->column < column && s->column < s->v->width && !full(s))
        put(s, " ");
}

static void end_line(struct screen *s)
{
    if (full(s))
        return;
    buf_adds(s->out, s->v->to_end ? "\033[K\r\n" : "\n");
    s->column = 0;
    s->line++;
}

static void label(struct screen *s, const char *name)
{
    put_as(s, SOFT, "%s", name);
    pad_to(s, 11);
}

/* n cells of a glyph: the block in UTF-8, or the letter. */
static void cells(struct screen *s, enum style as, const char *block, char letter, double n)
{
    char ascii[2] = {letter, '\0'};
    style(s, as);
    for (double i = 0; i + 0.5 <= n; i++)
        put(s, s->v->utf8 ? block : ascii);
    style(s, PLAIN);
}

static uint32_t bar_width(const struct screen *s)
{
    uint32_t w = s->v->width >= 100 ? (s->v->width - 11) / 2 : s->v->width / 3;
    return w > 60 ? 60 : w;
}

static void meter(struct screen *s, enum style as, double share)
{
    double w = bar_width(s), n = isnan(share) ? 0 : round(fmin(fmax(share, 0), 1) * w);
    cells(s, as, "█", '#', n);
    cells(s, SOFT, "·", '.', w - n);
    put(s, "  ");
}

/* ---- The parts of the screen ---- */

static void put_head(struct screen *s, const json_t *state, const char *status)
{
    put_as(s, BOLD, "weir %s", str(state, "version"));
    put_as(s, PLAIN, "  %s  up %s  ", str(state, "model.name"), seconds(num(state, "uptime_s")).s);
    const char *health = str(state, "health");
    bool live = !strcmp(status, "live");
    put_as(s, live && !strcmp(health, "ready") ? GREEN : RED, "%s", live ? health : status);
    end_line(s);
}

static void put_utilisation(struct screen *s, const json_t *state)
{
    label(s, "bandwidth");
    meter(s, BLUE, num(state, "bandwidth.utilisation"));
    put_as(s, BOLD, "%5s", percent(num(state, "bandwidth.utilisation")).s);
    put_as(s, PLAIN, "  %s of %s, %s", si(num(state, "bandwidth.current_bytes_per_s"), "B/s").s,
           si(num(state, "bandwidth.peak_bytes_per_s"), "B/s").s, str(state, "bandwidth.source"));
    end_line(s);
    label(s, "compute");
    meter(s, YELLOW, num(state, "compute.utilisation"));
    put_as(s, BOLD, "%5s", percent(num(state, "compute.utilisation")).s);
    put_as(s, PLAIN, "  %s of %s", si(num(state, "compute.current_flops_per_s"), "FLOP/s").s,
           si(num(state, "compute.peak_flops_per_s"), "FLOP/s").s);
    end_line(s);
}

static void put_history(struct screen *s)
{
    static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char ascii[] = " .:-=+*#@";
    struct top_view *v = s->v;
    uint32_t w = bar_width(s), n = v->n_history < w ? v->n_history : w;
    label(s, "");
    pad_to(s, 11 + w - n);
    style(s, BLUE);
    for (uint32_t i = v->n_history - n; i < v->n_history; i++) {
        float x = fminf(fmaxf(v->history[i], 0), 1);
        int level = x > 0 ? 1 + (int)(x * 7.999f) : 0;
        char one[2] = {ascii[level], '\0'};
        put(s, v->utf8 ? blocks[level] : one);
    }
    style(s, PLAIN);
    put_as(s, SOFT, "  bandwidth until now");
    end_line(s);
}

static const struct class
{
    const char *name, *label;
    enum style style;
    char letter;
} classes[] = {{"weights", "weights", BLUE, 'W'},
               {"kv_read", "KV read", YELLOW, 'R'},
               {"kv_write", "KV write", RED, 'w'},
               {"tier", "tier", MAGENTA, 'T'},
               {"activations", "activations", GREEN, 'a'}};
#define N_CLASSES (sizeof classes / sizeof *classes)

static void put_classes(struct screen *s, const json_t *state)
{
    const json_t *by = at(state, "bandwidth.by_class_bytes_per_s");
    double total = 0, done = 0, w = bar_width(s), drawn = 0;
    for (size_t i = 0; i < N_CLASSES; i++)
        total += fmax(num(by, classes[i].name), 0);
    label(s, "bytes");
    for (size_t i = 0; i < N_CLASSES && total > 0; i++) { /* cumulative rounding: the bar is always full */
        done += fmax(num(by, classes[i].name), 0);
        double end = round(done / total * w);
        cells(s, classes[i].style, "█", classes[i].letter, end - drawn);
        drawn = end;
    }
    cells(s, SOFT, "·", '.', w - drawn);
    put_as(s, BOLD, "  %s", si(total, "B/s").s);
    end_line(s);
    pad_to(s, 11);
    for (size_t i = 0; i < N_CLASSES; i++) {
        put_as(s, classes[i].style, s->v->utf8 && s->v->colour ? "■ " : "%c ", classes[i].letter);
        put_as(s, SOFT, "%s ", classes[i].label);
        put_as(s, PLAIN, "%s   ", si(num(by, classes[i].name), "B/s").s);
    }
    end_line(s);
}

static void put_pool(struct screen *s, const json_t *state)
{
    double total = num(state, "kv.chunks.total"), active = num(state, "kv.chunks.active");
    double cached = num(state, "kv.chunks.cached"), w = bar_width(s);
    double a = total > 0 ? ceil(active / total * w) : 0, c = total > 0 ? round(cached / total * w) : 0;
    c = fmin(c, w - a);
    label(s, "KV pool");
    cells(s, YELLOW, "█", '#', a);
    cells(s, BLUE, "▒", '=', c);
    cells(s, SOFT, "·", '.', w - a - c);
    put_as(s, BOLD, "  %5s", percent(total > 0 ? active / total : NAN).s);
    put_as(s, PLAIN, "  %s in use, %s cached, %s free", si(active, "").s, si(cached, "").s,
           si(num(state, "kv.chunks.free"), "").s);
    end_line(s);
    label(s, "cache");
    put_as(s, PLAIN, "prefix hits %s  useful reads %s  fragmentation %s  preemptions %s  recomputed %s",
           percent(num(state, "kv.prefix.hit_rate")).s, percent(num(state, "kv.access_efficiency")).s,
           percent(num(state, "kv.fragmentation")).s, si(num(state, "requests.preemptions"), "").s,
           si(num(state, "requests.recomputed_tokens"), "").s);
    end_line(s);
}

static void put_rates(struct screen *s, const json_t *state)
{
    label(s, "tokens");
    put_as(s, BOLD, "%s", si(num(state, "steps.output_tokens_per_s"), "/s").s);
    put_as(s, PLAIN, " out  %s in", si(num(state, "steps.prompt_tokens_per_s"), "/s").s);
    put_as(s, PLAIN, "  first %s (p95 %s)  next %s (p95 %s)", seconds(num(state, "latency.ttft_p50_s")).s,
           seconds(num(state, "latency.ttft_p95_s")).s, seconds(num(state, "latency.itl_p50_s")).s,
           seconds(num(state, "latency.itl_p95_s")).s);
    end_line(s);
    label(s, "steps");
    put_as(s, PLAIN, "%s  %s busy  last %s  prediction off by %s (p90 %s)", si(num(state, "steps.per_s"), "/s").s,
           percent(num(state, "steps.busy")).s, seconds(num(state, "steps.last_s")).s,
           percent(num(state, "prediction.abs_error_p50")).s, percent(num(state, "prediction.abs_error_p90")).s);
    end_line(s);
}

static void put_pressure(struct screen *s, const json_t *state)
{
    const json_t *levels = at(state, "pressure.levels");
    double level = num(state, "pressure.level");
    size_t n = json_array_size(levels);
    label(s, "pressure");
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(levels, i));
        bool here = level == (double)i;
        if (i)
            put_as(s, SOFT, " > ");
        put_as(s, here ? (i ? RED : GREEN) : SOFT, here && i && !s->v->colour ? "[%s]" : "%s", name ? name : "-");
    }
    end_line(s);
}

static void put_queue(struct screen *s, const json_t *state)
{
    double n = num(state, "queue.length");
    label(s, "queue");
    put_as(s, n > 0 ? RED : PLAIN, "%s waiting", si(n, "").s);
    if (n > 0)
        put_as(s, PLAIN, ", the first for %s: %s", seconds(num(state, "queue.head_waited_s")).s,
               str(state, "queue.blocked_by"));
    const json_t *why;
    const char *reason;
    json_object_foreach((json_t *)(uintptr_t)at(state, "requests.refused_by"), reason, why)
    {
        if (json_number_value(why) > 0)
            put_as(s, PLAIN, "  refused %s %s", reason, si(json_number_value(why), "").s);
    }
    end_line(s);
}

/* Left-aligned where width is negative. */
static void column(struct screen *s, int width, const char *text)
{
    uint32_t w = (uint32_t)(width < 0 ? -width : width), began = s->column, n = (uint32_t)strlen(text);
    if (began >= s->v->width)
        return;
    if (width > 0 && n < w)
        pad_to(s, began + w - n);
    uint32_t limit = s->v->width;
    if (began + w < limit)
        s->v->width = began + w; /* cuts what is longer */
    put(s, text);
    s->v->width = limit;
    pad_to(s, began + w);
    put(s, "  ");
}

static void put_running(struct screen *s, const json_t *r)
{
    char length[64];
    snprintf(length, sizeof length, "%.0f/%.0f", num(r, "length_tokens"), num(r, "max_tokens"));
    column(s, -18, str(r, "id"));
    column(s, -10, str(r, "key"));
    column(s, -7, str(r, "phase"));
    column(s, 7, seconds(num(r, "age_s")).s);
    column(s, 11, length);
    column(s, 9, si(num(r, "bytes_per_token"), "B").s);
    column(s, 9, si(num(r, "memory_bytes"), "B").s);
    double preemptions = num(r, "preemptions");
    if (preemptions > 0)
        put_as(s, YELLOW, "%.0fx preempted", preemptions);
    end_line(s);
}

static void put_queued(struct screen *s, const json_t *r)
{
    column(s, -18, str(r, "id"));
    column(s, -10, str(r, "key"));
    style(s, RED);
    column(s, -7, "queued");
    style(s, PLAIN);
    column(s, 7, seconds(num(r, "waited_s")).s);
    column(s, 11, si(num(r, "prompt_tokens"), "").s);
    put_as(s, PLAIN, "waits for: %s%s", str(r, "reason"), json_is_true(at(r, "preempted")) ? " (preempted)" : "");
    end_line(s);
}

static void put_requests(struct screen *s, const json_t *state)
{
    const json_t *running = at(state, "running"), *queued = at(state, "queue.requests");
    size_t n_running = json_array_size(running), n = n_running + json_array_size(queued);
    end_line(s);
    style(s, SOFT);
    column(s, -18, "REQUEST");
    column(s, -10, "KEY");
    column(s, -7, "PHASE");
    column(s, 7, "AGE");
    column(s, 11, "LENGTH");
    column(s, 9, "B/TOKEN");
    column(s, 9, "MOVED");
    style(s, PLAIN);
    end_line(s);
    if (s->v->scroll >= n)
        s->v->scroll = n ? (uint32_t)n - 1 : 0;
    for (size_t i = s->v->scroll; i < n && !full(s); i++) {
        if (s->v->height && s->line + 1 == s->v->height && n - i > 1) { /* the last line tells of the rest */
            put_as(s, SOFT, "%zu more (arrow keys)", n - i);
            end_line(s);
            return;
        }
        if (i < n_running)
            put_running(s, json_array_get(running, i));
        else
            put_queued(s, json_array_get(queued, i - n_running));
    }
    if (!n)
        put_as(s, SOFT, "nothing runs"), end_line(s);
}

void top_view_screen(struct top_view *v, const json_t *state, const char *status, struct buf *out)
{
    static void (*const parts[])(struct screen *, const json_t *) = {put_utilisation, put_classes,  put_pool,
                                                                     put_rates,       put_pressure, put_queue};
    struct screen s = {.v = v, .out = out};
    put_head(&s, state, status);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !full(&s); i++) {
        parts[i](&s, state);
        if (!i && v->n_history > 1)
            put_history(&s);
    }
    if (!v->height || s.line + 3 < v->height)
        put_requests(&s, state);
}

void top_view_remember(struct top_view *v, const json_t *state)
{
    const json_t *past = at(state, "history.bandwidth_utilisation");
    size_t n = json_array_size(past), first = n > TOP_HISTORY ? n - TOP_HISTORY : 0;
    if (n)
        v->n_history = 0;
    for (size_t i = first; i < n; i++)
        v->history[v->n_history++] = (float)json_number_value(json_array_get(past, i));
    if (v->n_history == TOP_HISTORY)
        memmove(v->history, v->history + 1, --v->n_history * sizeof *v->history);
    double now = num(state, "bandwidth.utilisation");
    v->history[v->n_history++] = isnan(now) ? 0 : (float)now;
}

/* As one word of a log line. */
static struct text word(const char *s)
{
    struct text t;
    size_t n = 0;
    for (; s && s[n] && n + 1 < sizeof t.s; n++)
        t.s[n] = strchr(" =\"", s[n]) || s[n] < 33 || s[n] > 126 ? '_' : s[n];
    t.s[n] = '\0';
    if (!n)
        snprintf(t.s, sizeof t.s, "-");
    return t;
}

void top_view_line(const json_t *state, struct buf *out)
{
    double t = num(state, "time_s");
    time_t whole = isnan(t) ? 0 : (time_t)t;
    struct tm utc;
    char when[32] = "-";
    if (gmtime_r(&whole, &utc))
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    buf_printf(out, "%s health=%s bandwidth=%.3f bytes_per_s=%.4g compute=%.3f", when, word(str(state, "health")).s,
               num(state, "bandwidth.utilisation"), num(state, "bandwidth.current_bytes_per_s"),
               num(state, "compute.utilisation"));
    const json_t *by = at(state, "bandwidth.by_class_bytes_per_s");
    for (size_t i = 0; i < N_CLASSES; i++)
        buf_printf(out, " %s=%.4g", classes[i].name, num(by, classes[i].name));
    const json_t *levels = at(state, "pressure.levels");
    double level = num(state, "pressure.level");
    const char *pressure = level >= 0 ? json_string_value(json_array_get(levels, (size_t)level)) : NULL;
    buf_printf(out,
               " running=%zu queued=%.0f blocked_by=%s tokens_per_s=%.4g ttft_p95_s=%.4g itl_p95_s=%.4g kv_active=%.3f "
               "pressure=%s prediction_error=%.3f\n",
               json_array_size(at(state, "running")), num(state, "queue.length"),
               word(str(state, "queue.blocked_by")).s, num(state, "steps.output_tokens_per_s"),
               num(state, "latency.ttft_p95_s"), num(state, "latency.itl_p95_s"),
               num(state, "kv.chunks.active") / num(state, "kv.chunks.total"), word(pressure).s,
               num(state, "prediction.abs_error_p50"));
}
