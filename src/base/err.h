/* Errors.
 *
 * A function that can fail returns 0 or one of the negative codes below; where there is something to tell, it also
 * fills the caller's `struct err` with one sentence that names what is wrong and what to do. A NULL err is allowed
 * everywhere. The struct holds no pointers and needs no clean-up. Not shared between threads.
 *
 * assert() is for bugs of ours, never for input.
 */
#ifndef WEIR_BASE_ERR_H
#define WEIR_BASE_ERR_H

#include <stddef.h>

enum {
    WEIR_EINVAL = -1,       /* the caller's argument or a request's parameter is wrong */
    WEIR_ENOMEM = -2,       /* the system gave no memory */
    WEIR_EIO = -3,          /* the operating system refused a file or socket operation */
    WEIR_EFORMAT = -4,      /* malformed input: truncated, out of range, inconsistent */
    WEIR_EUNSUPPORTED = -5, /* well-formed, but not something weir does */
    WEIR_ELIMIT = -6,       /* a stated bound would be exceeded */
    WEIR_ENOTFOUND = -7,
    WEIR_ETIMEOUT = -8,
    WEIR_ECANCELED = -9,
    WEIR_EBUSY = -10, /* a queue is full, try later */
};

struct err {
    int code;
    char msg[512]; /* always terminated; empty while code is 0 */
};

/* Fills e (if not NULL) and returns code, so that callers write `return err_set(e, WEIR_EINVAL, ...)`. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* err_set(WEIR_EIO, "<what>: <strerror(errno)>"). */
int err_errno(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "<context>: " before an existing message; returns e->code (or WEIR_EINVAL for a NULL e). */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The code's name without its prefix: "EINVAL". */
const char *err_name(int code);

#endif
