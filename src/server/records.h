/* Requests that ended, the last RECORDS_MAX of them: what /v1/weir/requests shows. One owner. */
#ifndef WEIR_SERVER_RECORDS_H
#define WEIR_SERVER_RECORDS_H

#include "engine/engine.h"
#include "server/api_params.h"
#include "server/auth.h"
#include "server/trace_context.h"

#include <stdbool.h>
#include <stdint.h>

#define RECORDS_MAX 1024
#define RECORD_CHOICES 16 /* time lines kept of one request */

struct choice_record {
    enum finish_reason finish;
    enum sched_reason refusal;
    uint32_t n_output_tokens;
    struct gen_usage usage;
};

/* Sums over a request's choices. */
struct request_sums {
    enum finish_reason finish; /* the worst: failed, refused, cancelled, length, stop */
    enum sched_reason refusal;
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    struct gen_traffic traffic;
    double device_s;
    uint64_t n_steps;
    double phase_s[GEN_N_PHASES], queued_s[SCHED_N_WAITS];
};

struct request_record {
    char id[48];
    const struct auth_key *key;
    enum api_kind kind;
    bool stream;
    struct trace_context trace;
    double arrived_wall_s, prepare_s, ttft_s, total_s; /* ttft_s < 0: no token */
    struct request_sums sums;
    double bandwidth_s;
    uint32_t n_choices;            /* of the request; time lines: the first RECORD_CHOICES */
    struct choice_record *choices; /* malloc'ed */
};

struct records {
    struct request_record ring[RECORDS_MAX];
    uint64_t n; /* ever */
};

void records_finish(struct records *r);

/* Takes over r->choices. */
void records_add(struct records *r, const struct request_record *record);

/* The i-th newest, from 0; NULL beyond. */
const struct request_record *records_at(const struct records *r, uint64_t i);
const struct request_record *records_find(const struct records *r, const char *id);

void request_sums_add(struct request_sums *s, const struct choice_record *c);

#endif
