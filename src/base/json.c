#include "base/json.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Depth of nesting, strings skipped; malformed text is left to the parser. */
static bool too_deep(const char *s, size_t n)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_MAX_DEPTH)
                return true;
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        }
    }
    return false;
}

int json_parse(json_t **out, const char *text, size_t n, struct err *e)
{
    *out = NULL;
    if (too_deep(text, n))
        return err_set(e, WEIR_ELIMIT, "the JSON is nested deeper than %d levels", JSON_MAX_DEPTH);
    json_error_t je;
    json_t *v = json_loadb(n ? text : "", n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!v && json_error_code(&je) == json_error_out_of_memory)
        return err_set(e, WEIR_ENOMEM, "no memory for %zu bytes of JSON", n);
    if (!v)
        return err_set(e, WEIR_EFORMAT, "not valid JSON: %s (line %d, column %d)", je.text, je.line, je.column);
    *out = v;
    return 0;
}

const char *json_type_name(const json_t *v)
{
    if (!v)
        return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static const json_t *member(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out, struct err *e)
{
    const json_t *v = member(object, key);
    if (!v)
        return WEIR_ENOTFOUND;
    if (!json_is_integer(v))
        return err_set(e, WEIR_EINVAL, "'%s' must be an integer, not %s", key, json_type_name(v));
    int64_t i = json_integer_value(v);
    if (i < min)
        return err_set(e, WEIR_EINVAL, "'%s' must be at least %lld, not %lld", key, (long long)min, (long long)i);
    if (i > max)
        return err_set(e, WEIR_EINVAL, "'%s' must be at most %lld, not %lld", key, (long long)max, (long long)i);
    *out = i;
    return 0;
}

int json_get_number(const json_t *object, const char *key, double min, double max, double *out, struct err *e)
{
    const json_t *v = member(object, key);
    if (!v)
        return WEIR_ENOTFOUND;
    if (!json_is_number(v))
        return err_set(e, WEIR_EINVAL, "'%s' must be a number, not %s", key, json_type_name(v));
    double d = json_number_value(v);
    if (!(d >= min))
        return err_set(e, WEIR_EINVAL, "'%s' must be at least %g, not %g", key, min, d);
    if (!(d <= max))
        return err_set(e, WEIR_EINVAL, "'%s' must be at most %g, not %g", key, max, d);
    *out = d;
    return 0;
}

int json_get_bool(const json_t *object, const char *key, bool *out, struct err *e)
{
    const json_t *v = member(object, key);
    if (!v)
        return WEIR_ENOTFOUND;
    if (!json_is_boolean(v))
        return err_set(e, WEIR_EINVAL, "'%s' must be a boolean, not %s", key, json_type_name(v));
    *out = json_is_true(v);
    return 0;
}

int json_get_str(const json_t *object, const char *key, const char **out, size_t *n, struct err *e)
{
    const json_t *v = member(object, key);
    if (!v)
        return WEIR_ENOTFOUND;
    if (!json_is_string(v))
        return err_set(e, WEIR_EINVAL, "'%s' must be a string, not %s", key, json_type_name(v));
    *out = json_string_value(v);
    *n = json_string_length(v);
    return 0;
}

static void put_escaped(struct buf *b, unsigned char c)
{
    static const char short_of[] = "btn\0fr"; /* 8 .. 13 */
    if (c == '"' || c == '\\') {
        buf_addc(b, '\\');
        buf_addc(b, (char)c);
    } else if (c >= 8 && c <= 13 && short_of[c - 8]) {
        buf_addc(b, '\\');
        buf_addc(b, short_of[c - 8]);
    } else {
        buf_printf(b, "\\u%04x", c);
    }
}

int json_put_str(struct buf *b, const char *s, size_t n)
{
    buf_addc(b, '"');
    size_t from = 0, i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            i++;
            continue;
        }
        uint32_t cp;
        int len = c < 0x80 ? 0 : utf8_decode(s + i, n - i, &cp);
        if (len > 1) {
            i += (size_t)len;
            continue;
        }
        buf_add(b, s + from, i - from);
        if (c < 0x80)
            put_escaped(b, c);
        else
            buf_adds(b, "\xef\xbf\xbd");
        from = ++i;
    }
    buf_add(b, s + from, n - from);
    return buf_addc(b, '"');
}

int json_put_cstr(struct buf *b, const char *s)
{
    return json_put_str(b, s, strlen(s));
}

int json_put_number(struct buf *b, double v)
{
    if (!isfinite(v))
        return buf_adds(b, "null");
    char text[32];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if ((float)strtod(text, NULL) == (float)v)
            break;
    }
    return buf_adds(b, text);
}

static int put_bytes(const char *data, size_t n, void *b)
{
    return buf_add(b, data, n) ? -1 : 0;
}

int json_put_value(struct buf *b, const json_t *v)
{
    if (json_dump_callback(v, put_bytes, b, JSON_COMPACT | JSON_ENCODE_ANY) && !b->failed)
        b->failed = WEIR_ENOMEM;
    return b->failed;
}
