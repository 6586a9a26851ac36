#include "server/metrics_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void histogram_add(struct histogram *h, double v)
{
    uint32_t i = 0;
    while (i < h->n_bounds && v > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += v;
}

static void put_number(struct buf *b, double v)
{
    if (isnan(v))
        buf_adds(b, "NaN");
    else if (isinf(v))
        buf_adds(b, v > 0 ? "+Inf" : "-Inf");
    else if (v >= 0 && v < 1e15 && v == floor(v))
        buf_add_u64(b, (uint64_t)v);
    else
        buf_printf(b, "%.9g", v);
    buf_addc(b, '\n');
}

void metrics_put_label(struct buf *out, const char *label, const char *value)
{
    if (out->len)
        buf_addc(out, ',');
    buf_adds(out, label);
    buf_add(out, "=\"", 2);
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"')
            buf_addc(out, '\\');
        if (*c == '\n')
            buf_adds(out, "\\n");
        else
            buf_addc(out, *c);
    }
    buf_addc(out, '"');
}

void metrics_family(struct metrics_out *o, const char *name, const char *type, const char *help)
{
    o->name = name;
    o->counter = !strcmp(type, "counter");
    const char *suffix = o->counter && !o->open_metrics ? "_total" : "";
    buf_printf(o->buf, "# HELP %s%s %s\n# TYPE %s%s %s\n", name, suffix, help, name, suffix, type);
}

void metrics_value(struct metrics_out *o, const char *labels, double v)
{
    buf_adds(o->buf, o->name);
    if (o->counter)
        buf_adds(o->buf, "_total");
    if (*labels) {
        buf_addc(o->buf, '{');
        buf_adds(o->buf, labels);
        buf_addc(o->buf, '}');
    }
    buf_addc(o->buf, ' ');
    put_number(o->buf, v);
}

void metrics_labelled(struct metrics_out *o, const char *labels, const char *label, const char *value, double v)
{
    struct buf all;
    buf_init(&all, METRICS_MAX_LABELS);
    buf_adds(&all, labels);
    metrics_put_label(&all, label, value);
    if (!all.failed)
        metrics_value(o, all.data, v);
    buf_finish(&all);
}

void metrics_one(struct metrics_out *o, const char *name, const char *type, const char *help, const char *labels,
                 double v)
{
    metrics_family(o, name, type, help);
    metrics_value(o, labels, v);
}

/* As Python's client writes it: 1.0, 0.001. Bounds have up to six decimals. */
static void format_bound(double v, char out[32])
{
    uint64_t micros = (uint64_t)llround(v * 1e6), fraction = micros % 1000000, whole = micros / 1000000;
    char *at = out + 31;
    unsigned n_digits = 6;
    *at = 0;
    for (; n_digits > 1 && fraction % 10 == 0; n_digits--)
        fraction /= 10;
    for (; n_digits; n_digits--, fraction /= 10)
        *--at = (char)('0' + fraction % 10);
    *--at = '.';
    do {
        *--at = (char)('0' + whole % 10);
        whole /= 10;
    } while (whole);
    memmove(out, at, (size_t)(out + 32 - at));
}

static void put_bucket(struct metrics_out *o, const char *labels, const char *bound, uint64_t n)
{
    buf_adds(o->buf, o->name);
    buf_adds(o->buf, "_bucket{");
    buf_adds(o->buf, labels);
    buf_adds(o->buf, *labels ? ",le=\"" : "le=\"");
    buf_adds(o->buf, bound);
    buf_add(o->buf, "\"} ", 3);
    buf_add_u64(o->buf, n);
    buf_addc(o->buf, '\n');
}

static void put_sum(struct metrics_out *o, const char *suffix, const char *labels, double v)
{
    buf_adds(o->buf, o->name);
    buf_adds(o->buf, suffix);
    if (*labels) {
        buf_addc(o->buf, '{');
        buf_adds(o->buf, labels);
        buf_addc(o->buf, '}');
    }
    buf_addc(o->buf, ' ');
    put_number(o->buf, v);
}

void metrics_histogram(struct metrics_out *o, const char *name, const char *help, const char *labels,
                       const struct histogram *h)
{
    metrics_family(o, name, "histogram", help);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->n_bounds; i++) {
        char bound[32];
        format_bound(h->bounds[i], bound);
        sum += h->counts[i];
        put_bucket(o, labels, bound, sum);
    }
    sum += h->counts[h->n_bounds];
    put_bucket(o, labels, "+Inf", sum);
    put_sum(o, "_sum", labels, h->sum);
    put_sum(o, "_count", labels, (double)sum);
}

void metrics_end(struct metrics_out *o)
{
    if (o->open_metrics)
        buf_adds(o->buf, "# EOF\n");
}

/* The weight of a media range, from its parameters; 1 unless it says otherwise. */
static double weight_of(const char *range, size_t n)
{
    for (const char *at = memchr(range, ';', n); at && at < range + n; at = memchr(at, ';', (size_t)(range + n - at))) {
        at++;
        while (at < range + n && (*at == ' ' || *at == '\t'))
            at++;
        if (range + n - at > 2 && (at[0] == 'q' || at[0] == 'Q') && at[1] == '=')
            return strtod(at + 2, NULL);
    }
    return 1;
}

bool metrics_wants_open(const char *accept)
{
    double open = 0, text = 0;
    for (const char *at = accept; at && *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t");
        size_t n = strcspn(at, ","), name = strcspn(at, " \t;,");
        double w = weight_of(at, n);
        if (name == 28 && !strncasecmp(at, "application/openmetrics-text", name))
            open = fmax(open, w);
        else if ((name == 10 && !strncasecmp(at, "text/plain", name)) || (name == 6 && !strncmp(at, "text/*", name)) ||
                 (name == 3 && !strncmp(at, "*/*", name)))
            text = fmax(text, w);
    }
    return open > 0 && open >= text;
}
