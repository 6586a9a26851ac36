#include "base/log.h"

#include "base/clock.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level min_level = LOG_INFO;
static enum log_format line_format = LOG_TEXT;

struct line {
    char text[4096];
    size_t len;
};

void log_setup(enum log_level level, enum log_format format)
{
    min_level = level;
    line_format = format;
}

bool log_enabled(enum log_level level)
{
    return level >= min_level && level < LOG_OFF;
}

__attribute__((format(printf, 2, 3))) static void put(struct line *l, const char *fmt, ...)
{
    size_t room = sizeof l->text - 2 - l->len;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(l->text + l->len, room, fmt, ap);
    va_end(ap);
    if (n > 0)
        l->len += (size_t)n < room ? (size_t)n : room - 1;
}

/* Quoted with JSON's escapes in both formats: a value from a client can't forge a line. */
static void put_quoted(struct line *l, const char *s)
{
    put(l, "\"");
    for (; s && *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            put(l, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            put(l, "\\u%04x", c);
        else
            put(l, "%c", c);
    }
    put(l, "\"");
}

static void put_value(struct line *l, const struct log_value *v)
{
    switch (v->kind) {
    case LOG_V_STR:
        put_quoted(l, v->str ? v->str : "");
        break;
    case LOG_V_I64:
        put(l, "%lld", (long long)v->i64);
        break;
    case LOG_V_U64:
        put(l, "%llu", (unsigned long long)v->u64);
        break;
    case LOG_V_F64:
        if (isfinite(v->f64))
            put(l, "%.6g", v->f64);
        else
            put(l, "null");
        break;
    case LOG_V_BOOL:
        put(l, v->b ? "true" : "false");
        break;
    }
}

static void put_time(struct line *l)
{
    double now = clock_wall_s();
    time_t s = (time_t)now;
    struct tm tm;
    gmtime_r(&s, &tm);
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    put(l, "%s.%03dZ", stamp, (int)((now - (double)s) * 1e3));
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields, int n_fields)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    struct line l = {.len = 0};
    if (line_format == LOG_JSON) {
        put(&l, "{\"time\":\"");
        put_time(&l);
        put(&l, "\",\"level\":\"%s\",\"msg\":", names[level]);
        put_quoted(&l, msg);
    } else {
        put_time(&l);
        put(&l, " %-5s %s", names[level], msg);
    }
    for (int i = 0; i < n_fields && i < LOG_MAX_FIELDS; i++) {
        put(&l, line_format == LOG_JSON ? ",\"%s\":" : " %s=", fields[i].key);
        put_value(&l, &fields[i].value);
    }
    if (line_format == LOG_JSON)
        put(&l, "}");
    l.text[l.len++] = '\n';
    /* A full pipe or closed stderr must not stop serving. */
    ssize_t n = write(STDERR_FILENO, l.text, l.len);
    (void)n;
}
