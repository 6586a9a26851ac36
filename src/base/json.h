/* JSON (RFC 8259): bounded parsing, typed reading with ranges, writing into a buf.
 *
 * Parsing is jansson's, behind a check of the nesting depth, so that hostile text can't drive recursion: at most
 * JSON_MAX_DEPTH open arrays and objects. Strings may hold NUL (use the length). Duplicate keys: the last one counts.
 *
 * The readers take a member of an object, check its type and range, and leave *out as it was unless they return 0, so
 * that a default set before stays. They return WEIR_ENOTFOUND (e untouched) when the member is absent or null, and
 * WEIR_EINVAL with a message that names the member otherwise. Strings point into the json_t and live as long.
 *
 * Thread-safe on distinct values.
 */
#ifndef WEIR_BASE_JSON_H
#define WEIR_BASE_JSON_H

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define JSON_MAX_DEPTH 128

/* Any JSON value. The caller json_decref's *out. WEIR_EFORMAT with line and column, WEIR_ELIMIT past the depth. */
int json_parse(json_t **out, const char *text, size_t n, struct err *e);

int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out, struct err *e);
int json_get_number(const json_t *object, const char *key, double min, double max, double *out, struct err *e);
int json_get_bool(const json_t *object, const char *key, bool *out, struct err *e);
int json_get_str(const json_t *object, const char *key, const char **out, size_t *n, struct err *e);

/* The type as a message says it: "a string", "an object". */
const char *json_type_name(const json_t *v);

/* Appends a quoted JSON string; bytes that are not UTF-8 become U+FFFD. */
int json_put_str(struct buf *b, const char *s, size_t n);
int json_put_cstr(struct buf *b, const char *s);

/* Appends the shortest of %.6g .. %.17g that reads back as the same float; null if it is not finite. */
int json_put_number(struct buf *b, double v);

/* Appends a whole value, compact. */
int json_put_value(struct buf *b, const json_t *v);

#endif
