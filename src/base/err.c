#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int fill(struct err *e, int code, const char *tail, const char *fmt, va_list ap)
{
    if (!e)
        return code;
    char msg[sizeof e->msg];
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    if (tail && n >= 0 && (size_t)n < sizeof msg)
        snprintf(msg + n, sizeof msg - (size_t)n, ": %s", tail);
    e->code = code;
    memcpy(e->msg, msg, sizeof msg);
    return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, NULL, fmt, ap);
    va_end(ap);
    return code;
}

int err_errno(struct err *e, const char *fmt, ...)
{
    char buf[128];
    const char *reason = strerror_r(errno, buf, sizeof buf);
    va_list ap;
    va_start(ap, fmt);
    fill(e, WEIR_EIO, reason, fmt, ap);
    va_end(ap);
    return WEIR_EIO;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (!e)
        return WEIR_EINVAL;
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    fill(e, e->code, old, fmt, ap);
    va_end(ap);
    return e->code;
}

const char *err_name(int code)
{
    static const char *const names[] = {"OK",     "EINVAL",    "ENOMEM",   "EIO",       "EFORMAT", "EUNSUPPORTED",
                                        "ELIMIT", "ENOTFOUND", "ETIMEOUT", "ECANCELED", "EBUSY"};
    size_t i = (size_t)(code <= 0 ? -(long)code : 0);
    return i < sizeof names / sizeof *names ? names[i] : "E?";
}
