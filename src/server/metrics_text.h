/* Metrics as text: Prometheus' format 0.0.4, or OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/).
 * They differ in the name of a counter's family, and in the end mark. Pure: structs in, text appended to a buf.
 */
#ifndef WEIR_SERVER_METRICS_TEXT_H
#define WEIR_SERVER_METRICS_TEXT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define METRICS_MAX_BUCKETS 24
#define METRICS_MAX_LABELS 512 /* bytes of one sample's */

struct histogram {
    const double *bounds; /* ascending upper bounds; one more bucket is open-ended */
    uint32_t n_bounds;
    uint64_t counts[METRICS_MAX_BUCKETS + 1];
    double sum;
};

void histogram_add(struct histogram *h, double v);

struct metrics_out {
    struct buf *buf;
    bool open_metrics;
    const char *name; /* of the family that is being written */
    bool counter;
};

/* Begins a family. A counter's name is given without _total. */
void metrics_family(struct metrics_out *o, const char *name, const char *type, const char *help);

/* A sample of the family. labels: text between the braces, escaped; may be empty. */
void metrics_value(struct metrics_out *o, const char *labels, double v);

/* The same with one more label behind `labels`, its value escaped. */
void metrics_labelled(struct metrics_out *o, const char *labels, const char *label, const char *value, double v);

/* A family of one sample. */
void metrics_one(struct metrics_out *o, const char *name, const char *type, const char *help, const char *labels,
                 double v);

void metrics_histogram(struct metrics_out *o, const char *name, const char *help, const char *labels,
                       const struct histogram *h);
void metrics_end(struct metrics_out *o);

/* Appends label="value" with backslash, quote and newline escaped, a comma before it if there is text already. */
void metrics_put_label(struct buf *out, const char *label, const char *value);

/* Whether an Accept header asks for OpenMetrics rather than for plain text. NULL: no. */
bool metrics_wants_open(const char *accept);

#endif
