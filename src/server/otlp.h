/* Spans to an OpenTelemetry collector: OTLP over HTTP, in JSON (https://opentelemetry.io/docs/specs/otlp/).
 *
 * A request whose trace is sampled becomes a server span with OpenTelemetry's GenAI attributes and weir's own, and a child
 * for each phase of its first choice's life. A thread sends them in batches, about once a second; what the collector does
 * not take within its time, or does not fit the queue of OTLP_MAX_QUEUED, is dropped and counted. Nobody waits for it.
 */
#ifndef WEIR_SERVER_OTLP_H
#define WEIR_SERVER_OTLP_H

#include "base/err.h"
#include "server/records.h"

#define OTLP_MAX_QUEUED 1024

struct otlp;

/* endpoint: the collector's base URL, like http://localhost:4318 (then /v1/traces is added), or the whole URL of traces.
 * model lives as long as it. */
int otlp_create(struct otlp **out, const char *endpoint, const char *model, struct err *e);

/* Sends what is left, for a few seconds at most. NULL is fine. */
void otlp_destroy(struct otlp *o);

/* Copies what it needs; r->choices[0] too, if there is one. Unsampled traces are passed over. */
void otlp_add(struct otlp *o, const struct request_record *r);

struct otlp_counts {
    uint64_t sent, dropped; /* requests */
};
struct otlp_counts otlp_counts(struct otlp *o); /* any thread */

#endif
