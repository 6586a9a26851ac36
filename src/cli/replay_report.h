/* What `weir replay` says of its runs: tables, JSON, or a page with charts. docs/replay.md describes the JSON. */
#ifndef WEIR_CLI_REPLAY_REPORT_H
#define WEIR_CLI_REPLAY_REPORT_H

#include "base/buf.h"
#include "cli/replay_record.h"
#include "cli/replay_result.h"
#include "cli/replay_sim.h"

#define REPLAY_MAX_LABEL 64

struct replay_run {
    char label[REPLAY_MAX_LABEL]; /* as --policy names it; "live": what was recorded */
    struct sched_policy policy;
    bool is_live;
    uint32_t max_step_tokens, max_running;
    double rate_scale;
    struct replay_capacity capacity;
    struct replay_result result;
    struct replay_summary summary;
};

struct replay_report {
    const char *source; /* the trace's path, or "synthetic" */
    const char *model, *weights, *kv;
    const struct replay_replica *replicas;
    uint32_t n_replicas, tensor_parallel, n_requests, seed;
    struct replay_slo slo;
    const struct playback *playback; /* of a recording, or NULL */
    struct replay_run *runs;
    uint32_t n_runs;
};

void replay_report_text(const struct replay_report *r, struct buf *b);
int replay_report_json(const struct replay_report *r, struct buf *b);
int replay_report_html(const struct replay_report *r, struct buf *b);

#endif
