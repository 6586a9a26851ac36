/* W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context/): the headers traceparent and tracestate, parsed
 * strictly. A header that is malformed counts as absent; tracestate counts only beside a valid traceparent. Pure.
 */
#ifndef WEIR_SERVER_TRACE_CONTEXT_H
#define WEIR_SERVER_TRACE_CONTEXT_H

#include "base/rng.h"

#include <stdbool.h>

#define TRACE_STATE_BYTES 512

struct trace_context {
    char trace_id[33];  /* 32 lower-case hexadecimal digits */
    char parent_id[17]; /* the caller's span, or empty */
    char span_id[17];   /* ours */
    bool sampled;       /* as the caller said */
    char state[TRACE_STATE_BYTES + 1];
};

/* Continues the trace of the headers (values, or NULL), or begins a new one, sampled or not as said. */
void trace_context_begin(struct trace_context *t, const char *traceparent, const char *tracestate, bool sample_new,
                         struct rng *rng);

/* Our own traceparent. */
void trace_context_format(const struct trace_context *t, char out[56]);

#endif
