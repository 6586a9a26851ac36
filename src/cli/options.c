#include "cli/options.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/suggest.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct option_def *find(const struct option_def *defs, const char *name, size_t n)
{
    for (const struct option_def *d = defs; d->name; d++) {
        if (d->kind != OPT_TITLE && strlen(d->name) == n && !memcmp(d->name, name, n))
            return d;
    }
    return NULL;
}

static int parse_number(const char *text, double *out)
{
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    return !*text || *end || errno || !isfinite(*out) ? -1 : 0;
}

/* "1.5G", "1.5GiB", "1536M"; of a rate also "1.5GB/s". With an i a unit is of 1024, else of `thousand`. */
static int parse_bytes(const char *text, double thousand, double *out)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    static const char units[] = "KMGT";
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (end == text || (*end && !unit))
        return -1;
    if (unit) {
        bool binary = end[1] == 'i';
        v *= pow(binary ? 1024 : thousand, (double)(unit - units + 1));
        end += 1 + binary;
        if (*end == 'B' || *end == 'b')
            end++;
        if (thousand == 1000 && !strcmp(end, "/s"))
            end += 2;
    }
    if (*end || errno || !(v >= 0 && v < 1e18))
        return -1;
    *out = v;
    return 0;
}

static int append(struct option_list *l, const char *value, struct err *e)
{
    if (l->n == OPTIONS_MAX_LIST)
        return err_set(e, WEIR_ELIMIT, "given more than %d times", OPTIONS_MAX_LIST);
    const char **grown = mem_resize((void *)(uintptr_t)l->items, l->n + 2, sizeof *grown);
    if (!grown)
        return err_set(e, WEIR_ENOMEM, "no memory");
    l->items = grown;
    l->items[l->n++] = value;
    l->items[l->n] = NULL;
    return 0;
}

static int set_number(const struct option_def *d, const char *value, struct err *e)
{
    double v, max = d->max != 0 ? d->max : d->kind == OPT_U32 ? UINT32_MAX : 1e9;
    if (parse_number(value, &v) || v < d->min || v > max || (d->kind == OPT_U32 && v != floor(v)))
        return err_set(e, WEIR_EINVAL, "'%s' is not %s from %.10g to %.10g", value,
                       d->kind == OPT_U32 ? "a whole number" : "a number", d->min, max);
    if (d->kind == OPT_U32)
        *(uint32_t *)d->target = (uint32_t)v;
    else
        *(double *)d->target = v;
    return 0;
}

static int set(const struct option_def *d, const char *value, struct err *e)
{
    double v;
    switch (d->kind) {
    case OPT_FLAG:
        if (strcmp(value, "true") && strcmp(value, "false"))
            return err_set(e, WEIR_EINVAL, "'%s' is neither true nor false", value);
        *(bool *)d->target = !strcmp(value, "true");
        return 0;
    case OPT_U32:
    case OPT_F64:
        return set_number(d, value, e);
    case OPT_BYTES:
        if (parse_bytes(value, 1024, &v))
            return err_set(e, WEIR_EINVAL, "'%s' is not a size like 512M or 8G", value);
        *(size_t *)d->target = (size_t)v;
        return 0;
    case OPT_RATE:
        if (parse_bytes(value, 1000, &v) || v < d->min || v > d->max)
            return err_set(e, WEIR_EINVAL, "'%s' is not a rate like 30G (bytes a second, from %.10g to %.10g)", value,
                           d->min, d->max);
        *(double *)d->target = v;
        return 0;
    case OPT_STR:
        *(const char **)d->target = value;
        return 0;
    case OPT_LIST:
        return append(d->target, value, e);
    case OPT_TITLE:
        break;
    }
    return err_set(e, WEIR_EINVAL, "not an option");
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1]))
        s[--n] = 0;
    return s;
}

static int read_config(struct options *o, const char *path, struct err *e)
{
    char *text;
    size_t n;
    int r = file_read(path, (size_t)1 << 20, &text, &n, e);
    if (r)
        return r;
    char **grown = mem_resize(o->owned, o->n_owned + 1, sizeof *grown);
    if (!grown) {
        free(text);
        return err_set(e, WEIR_ENOMEM, "no memory for %s", path);
    }
    o->owned = grown;
    o->owned[o->n_owned++] = text;
    int number = 0;
    for (char *line = text, *next; line; line = next) {
        number++;
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        line = trim(line);
        if (!*line || *line == '#')
            continue;
        char *value = strchr(line, '=');
        if (!value)
            return err_set(e, WEIR_EINVAL, "%s:%d: not of the form `name = value`", path, number);
        *value++ = 0;
        const char *name = trim(line);
        const struct option_def *d = find(o->defs, name, strlen(name));
        if (!d)
            return err_set(e, WEIR_EINVAL, "%s:%d: there is no option '%s'", path, number, name);
        if (set(d, trim(value), e))
            return err_prefix(e, "%s:%d: %s", path, number, name);
    }
    return 0;
}

static const struct option_def *find_letter(const struct option_def *defs, char letter)
{
    for (const struct option_def *d = defs; d->name; d++) {
        if (letter && d->letter == letter)
            return d;
    }
    return NULL;
}

static int unknown(const struct option_def *defs, const char *given, struct err *e)
{
    const char *names[256], *near;
    size_t n = 0;
    for (const struct option_def *d = defs; d->name && n < sizeof names / sizeof *names; d++) {
        if (d->kind != OPT_TITLE)
            names[n++] = d->name;
    }
    near = given[1] == '-' ? suggest_nearest(given + 2, names, n) : NULL;
    if (near)
        return err_set(e, WEIR_EINVAL, "there is no option '%s'; did you mean --%s? See --help", given, near);
    return err_set(e, WEIR_EINVAL, "there is no option '%s'; see --help", given);
}

/* The option at argv[*i]; takes its value from the next argument if need be. */
static int parse_one(struct options *o, int argc, char **argv, int *i, bool config_pass, struct err *e)
{
    const char *name = argv[*i], *value = NULL;
    const struct option_def *d;
    bool is_config = false;
    if (name[1] == '-') {
        value = strchr(name, '=');
        size_t n = value ? (size_t)(value++ - name) : strlen(name);
        is_config = n == 8 && !memcmp(name, "--config", 8);
        d = find(o->defs, name + 2, n - 2);
    } else {
        d = name[2] ? NULL : find_letter(o->defs, name[1]);
    }
    if (!is_config && !d)
        return unknown(o->defs, name, e);
    if (d && d->kind == OPT_FLAG && !value)
        value = "true";
    if (!value && *i + 1 >= argc)
        return err_set(e, WEIR_EINVAL, "%s needs a value", name);
    if (!value)
        value = argv[++*i];
    if (is_config)
        return config_pass ? read_config(o, value, e) : 0;
    return config_pass || !set(d, value, e) ? 0 : err_prefix(e, "--%s", d->name);
}

int options_parse(struct options *o, const struct option_def *defs, int argc, char **argv, struct err *e)
{
    *o = (struct options){.defs = defs};
    o->positional = mem_array((size_t)argc + 1, sizeof *o->positional);
    if (!o->positional)
        return err_set(e, WEIR_ENOMEM, "no memory for the arguments");
    for (int pass = 0; pass < 2; pass++) { /* config files first: the command line overrides them */
        bool ended = false;
        for (int i = 1; i < argc; i++) {
            const char *a = argv[i];
            if (!ended && !strcmp(a, "--")) {
                ended = true;
            } else if (!ended && (!strcmp(a, "--help") || !strcmp(a, "-h"))) {
                o->help = true;
            } else if (!ended && a[0] == '-' && a[1]) {
                int r = parse_one(o, argc, argv, &i, pass == 0, e);
                if (r)
                    return r;
            } else if (pass == 1) {
                o->positional[o->n_positional++] = a;
            }
        }
    }
    return 0;
}

void options_finish(struct options *o)
{
    for (const struct option_def *d = o->defs; d && d->name; d++) {
        if (d->kind == OPT_LIST) {
            struct option_list *l = d->target;
            free((void *)(uintptr_t)l->items);
            *l = (struct option_list){0};
        }
    }
    for (size_t i = 0; i < o->n_owned; i++)
        free(o->owned[i]);
    free(o->owned);
    free((void *)(uintptr_t)o->positional);
    *o = (struct options){0};
}

void options_help(const struct option_def *defs)
{
    for (const struct option_def *d = defs; d->name; d++) {
        if (d->kind == OPT_TITLE) {
            printf("\n%s:\n", d->name);
            continue;
        }
        char left[64], letter[8] = "";
        if (d->letter)
            snprintf(letter, sizeof letter, "-%c, ", d->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, d->name, d->metavar ? " " : "", d->metavar ? d->metavar : "");
        printf("  %-26s %s\n", left, d->help);
    }
    printf("  %-26s %s\n", "--config FILE", "read options from FILE first: one `name = value` a line");
    printf("  %-26s %s\n", "--help", "this text");
}
