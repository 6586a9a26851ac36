/* The simulator behind `weir replay`: a trace, one or several replicas, each the real scheduler (policy/sched.h) on a
 * simulated device, and a clock that jumps from event to event.
 *
 * A replica's step takes what the roofline (policy/calibrate.h) says for the plan's load with the device's parameters,
 * times log-normal noise, times a factor for a time span in which the device is slower. The scheduler is told only what
 * a live one would be: lengths of prompts, limits, hashes. A request's true output length stays here, and shows in
 * nothing that the scheduler sees before the end: a request of unknown limit states max_new_tokens, or where its output
 * is longer, no limit but the context's.
 *
 * Deterministic for a seed. Single-threaded. Results belong to the caller after replay_run.
 */
#ifndef WEIR_CLI_REPLAY_SIM_H
#define WEIR_CLI_REPLAY_SIM_H

#include "base/err.h"
#include "cli/replay_result.h"
#include "cli/trace.h"
#include "policy/calibrate.h"
#include "policy/sched.h"

#include <stdbool.h>
#include <stdint.h>

#define REPLAY_MAX_REPLICAS 64

struct replay_replica {
    const char *name;
    struct sched_config sched;
    struct calibrate_prior device;    /* what the simulated device really does, */
    const struct calibration *fitted; /* or this, fitted to a recording, if not NULL */
    double price_per_hour;            /* 0: unknown */
};

/* Who gets a request that arrives. */
enum replay_router {
    REPLAY_ROUTE_LEAST_LOADED, /* the fewest requests, running and waiting; ties go to the first */
    REPLAY_ROUTE_HEADROOM,     /* sched_headroom: the admission test of each device, with the request in it */
};

struct replay_config {
    const struct trace *trace;
    struct traffic_model model;
    const struct replay_replica *replicas;
    uint32_t n_replicas; /* all with the same chunk_tokens */
    enum replay_router router;
    double rate_scale;                          /* arrivals come this many times faster */
    uint32_t max_new_tokens;                    /* the limit of requests that state none */
    double noise;                               /* sigma of the log of step times; 0: none */
    double slow_from_s, slow_to_s, slow_factor; /* the device is slower in between; factor 0: never */
    uint64_t seed;
    void (*progress)(double fraction, void *user); /* may be NULL */
    void *user;
};

int replay_run(const struct replay_config *c, struct replay_result *out, struct err *e);

#endif
