/* Writing JSON text member by member into a buf: commas and quotes are looked after, nesting is the caller's to close.
 *
 *   struct json_out o = json_out_begin(&buf);
 *   json_begin_object(&o, NULL);
 *   json_add_u64(&o, "bytes", 12);
 *   json_begin_array(&o, "list");
 *   json_add_f64(&o, NULL, 0.5);
 *   json_close(&o);
 *   json_close(&o);                 {"bytes":12,"list":[0.5]}
 *
 * key is NULL for elements of arrays and the outermost value; it is written as it stands. Numbers that are not finite
 * become null. At most JSON_OUT_DEPTH open. Failures are the buf's. One owner.
 */
#ifndef WEIR_BASE_JSON_WRITE_H
#define WEIR_BASE_JSON_WRITE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define JSON_OUT_DEPTH 16

struct json_out {
    struct buf *buf;
    unsigned depth;
    bool more[JSON_OUT_DEPTH]; /* something stands there already */
    char close[JSON_OUT_DEPTH];
};

struct json_out json_out_begin(struct buf *b);
void json_begin_object(struct json_out *o, const char *key);
void json_begin_array(struct json_out *o, const char *key);
void json_close(struct json_out *o);

void json_add_f64(struct json_out *o, const char *key, double v);  /* six digits: for figures */
void json_add_time(struct json_out *o, const char *key, double v); /* to the microsecond */
void json_add_u64(struct json_out *o, const char *key, uint64_t v);
void json_add_i64(struct json_out *o, const char *key, int64_t v);
void json_add_bool(struct json_out *o, const char *key, bool v);
void json_add_str(struct json_out *o, const char *key, const char *v); /* NULL: null */
void json_add_null(struct json_out *o, const char *key);

#endif
