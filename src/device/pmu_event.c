/* Events as sysfs describes them. */
#include "base/file.h"
#include "device/bandwidth_counter.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 64.0 /* of a memory access, where the event has no scale */

static int read_text(const char *dir, const char *name, char *out, size_t n, struct err *e)
{
    char path[4096], *text;
    size_t len;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return err_set(e, WEIR_EINVAL, "%s: the path is too long", name);
    if (file_read(path, 4096, &text, &len, e))
        return WEIR_ENOTFOUND;
    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = 0;
    int fits = snprintf(out, n, "%s", text) < (int)n;
    free(text);
    return fits ? 0 : err_set(e, WEIR_EFORMAT, "%s is too long", path);
}

/* Spreads value over the bits of "config1:0-7,32-35". */
static int put_bits(const char *format, uint64_t value, struct pmu_event *out, const char *term, struct err *e)
{
    const char *colon = strchr(format, ':');
    size_t word = 3;
    if (colon && !strncmp(format, "config", 6))
        word = colon == format + 6 ? 0 : colon == format + 7 ? (size_t)(format[6] - '0') : 3;
    if (word > 2)
        return err_set(e, WEIR_EFORMAT, "the format of '%s' is '%s', which is not known", term, format);
    for (const char *at = colon + 1;; at++) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        bool valid = end != at;
        if (valid && *end == '-') {
            at = end + 1;
            last = strtoul(at, &end, 10);
            valid = end != at;
        }
        if (!valid || last < first || last > 63)
            return err_set(e, WEIR_EFORMAT, "the format of '%s' is '%s', which is not known", term, format);
        for (unsigned long bit = first; bit <= last; bit++, value >>= 1)
            out->config[word] |= (value & 1) << bit;
        at = end;
        if (*at != ',')
            break;
    }
    return value ? err_set(e, WEIR_EFORMAT, "the value of '%s' does not fit '%s'", term, format) : 0;
}

int pmu_event_parse(const char *pmu, const char *terms, struct pmu_event *out, struct err *e)
{
    char copy[512], *rest = copy;
    if (snprintf(copy, sizeof copy, "%s", terms) >= (int)sizeof copy)
        return err_set(e, WEIR_EFORMAT, "the event '%.40s...' is too long", terms);
    for (char *term; (term = strsep(&rest, ","));) {
        char *equals = strchr(term, '='), *end = NULL, name[80], format[256];
        uint64_t value = 1;
        if (equals) {
            *equals = 0;
            errno = 0;
            value = strtoull(equals + 1, &end, 0);
        }
        if (!*term || strchr(term, '/') || (equals && (end == equals + 1 || *end || errno)))
            return err_set(e, WEIR_EFORMAT, "'%s' is not an event", terms);
        if (snprintf(name, sizeof name, "format/%s", term) >= (int)sizeof name)
            return err_set(e, WEIR_EFORMAT, "'%s' is not an event", terms);
        int r = read_text(pmu, name, format, sizeof format, e);
        if (!r)
            r = put_bits(format, value, out, term, e);
        if (r)
            return r;
    }
    return 0;
}

static double unit_bytes(const char *unit)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GiB", 1 << 30}, {"Bytes", 1}, {"B", 1}, {"MB", 1e6}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (!strcmp(unit, units[i].name))
            return units[i].bytes;
    }
    return 0;
}

int pmu_event_read(const char *pmu, const char *name, struct pmu_event *out, struct err *e)
{
    char text[512], file[128], *end;
    *out = (struct pmu_event){.bytes_per_count = LINE_BYTES};
    int r = read_text(pmu, "type", text, sizeof text, e);
    if (r)
        return r;
    out->type = (uint32_t)strtoul(text, &end, 10);
    if (end == text || *end)
        return err_set(e, WEIR_EFORMAT, "%s/type is '%s'", pmu, text);
    snprintf(file, sizeof file, "events/%.80s", name);
    r = read_text(pmu, file, text, sizeof text, e);
    if (!r)
        r = pmu_event_parse(pmu, text, out, e);
    if (r)
        return r;
    char scale[64], unit[32];
    snprintf(file, sizeof file, "events/%.80s.scale", name);
    if (read_text(pmu, file, scale, sizeof scale, NULL))
        return 0;
    snprintf(file, sizeof file, "events/%.80s.unit", name);
    double factor = strtod(scale, &end);
    if (end == scale || *end || !(factor > 0) || read_text(pmu, file, unit, sizeof unit, NULL) || unit_bytes(unit) <= 0)
        return err_set(e, WEIR_EFORMAT, "%s: the event %s has a scale or unit that is not known", pmu, name);
    out->bytes_per_count = factor * unit_bytes(unit);
    return 0;
}
