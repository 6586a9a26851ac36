#include "base/json_write.h"

#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

struct json_out json_out_begin(struct buf *b)
{
    return (struct json_out){.buf = b};
}

static void begin(struct json_out *o, const char *key)
{
    if (o->more[o->depth])
        buf_addc(o->buf, ',');
    o->more[o->depth] = true;
    if (key) {
        buf_addc(o->buf, '"');
        buf_adds(o->buf, key);
        buf_add(o->buf, "\":", 2);
    }
}

static void open_value(struct json_out *o, const char *key, char open, char close)
{
    begin(o, key);
    assert(o->depth + 1 < JSON_OUT_DEPTH);
    buf_addc(o->buf, open);
    o->depth++;
    o->more[o->depth] = false;
    o->close[o->depth] = close;
}

void json_begin_object(struct json_out *o, const char *key)
{
    open_value(o, key, '{', '}');
}

void json_begin_array(struct json_out *o, const char *key)
{
    open_value(o, key, '[', ']');
}

void json_close(struct json_out *o)
{
    assert(o->depth > 0);
    buf_addc(o->buf, o->close[o->depth--]);
}

void json_add_f64(struct json_out *o, const char *key, double v)
{
    begin(o, key);
    if (!isfinite(v))
        buf_adds(o->buf, "null");
    else if (v >= 0 && v < 1e15 && v == floor(v))
        buf_add_u64(o->buf, (uint64_t)v);
    else
        buf_printf(o->buf, "%.6g", v);
}

void json_add_time(struct json_out *o, const char *key, double v)
{
    begin(o, key);
    buf_printf(o->buf, "%.6f", v);
}

void json_add_u64(struct json_out *o, const char *key, uint64_t v)
{
    begin(o, key);
    buf_add_u64(o->buf, v);
}

void json_add_i64(struct json_out *o, const char *key, int64_t v)
{
    begin(o, key);
    if (v < 0)
        buf_addc(o->buf, '-');
    buf_add_u64(o->buf, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void json_add_bool(struct json_out *o, const char *key, bool v)
{
    begin(o, key);
    buf_adds(o->buf, v ? "true" : "false");
}

void json_add_str(struct json_out *o, const char *key, const char *v)
{
    begin(o, key);
    if (v)
        json_put_cstr(o->buf, v);
    else
        buf_adds(o->buf, "null");
}

void json_add_null(struct json_out *o, const char *key)
{
    begin(o, key);
    buf_adds(o->buf, "null");
}
