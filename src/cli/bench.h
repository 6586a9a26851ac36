/* The parts of `weir bench`. Each prints its table, or one JSON object a line; 0 or the error. */
#ifndef WEIR_CLI_BENCH_H
#define WEIR_CLI_BENCH_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct bench_config {
    uint32_t n_threads; /* 0: one for each core */
    double seconds;     /* for each measurement */
    size_t bytes;       /* of memory to walk */
    const char *type;   /* NULL: all */
    uint32_t n_tokens;  /* 0: 1 and 512 */
    uint32_t rows, cols;
    bool as_rows; /* weights as rows even where the device would keep them in lanes */
    bool json;
};

int bench_bandwidth(const struct bench_config *c, struct err *e);
int bench_kernels(const struct bench_config *c, struct err *e);

#endif
