#include "base/buf.h"

#include "base/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){.max_bytes = max_bytes};
}

void buf_finish(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max_bytes = b->max_bytes};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = 0;
    if (b->data)
        b->data[0] = 0;
}

static int reserve(struct buf *b, size_t n)
{
    if (b->failed)
        return b->failed;
    if (n > b->max_bytes - b->len)
        return b->failed = WEIR_ELIMIT;
    size_t need = b->len + n + 1;
    if (need <= b->capacity_bytes)
        return 0;
    size_t grown = b->capacity_bytes < 64 ? 64 : b->capacity_bytes * 2;
    if (grown < need)
        grown = need;
    char *p = realloc(b->data, grown);
    if (!p)
        return b->failed = WEIR_ENOMEM;
    b->data = p;
    b->capacity_bytes = grown;
    return 0;
}

int buf_add(struct buf *b, const void *data, size_t n)
{
    int r = reserve(b, n);
    if (r)
        return r;
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return 0;
}

int buf_adds(struct buf *b, const char *s)
{
    return buf_add(b, s, strlen(s));
}

int buf_addc(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

int buf_add_u64(struct buf *b, uint64_t v)
{
    char text[20];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    return buf_add(b, text + at, sizeof text - at);
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int r = n < 0 ? WEIR_EINVAL : reserve(b, (size_t)n);
    if (!r) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return r;
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= b->len);
    if (!n)
        return;
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}

char *buf_detach(struct buf *b)
{
    if (b->failed || buf_add(b, "", 0)) {
        buf_finish(b);
        return NULL;
    }
    char *p = b->data;
    *b = (struct buf){.max_bytes = b->max_bytes};
    return p;
}
