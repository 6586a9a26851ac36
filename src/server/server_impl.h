/* Private to the server: its state, and calls (requests that make the model work). */
#ifndef WEIR_SERVER_SERVER_IMPL_H
#define WEIR_SERVER_SERVER_IMPL_H

#include "base/rng.h"
#include "server/api_reply.h"
#include "server/http_impl.h"
#include "server/metrics.h"
#include "server/prepare.h"
#include "server/server.h"
#include "server/weir_pages.h"

#include <pthread.h>

struct call;

struct server {
    struct server_config config;
    struct event_base *base;
    struct http_server *http;
    struct prepare *prepare;
    struct ring prepared, events; /* calls whose preparation ended; calls with events of the engine */
    struct event *on_prepared, *on_events, *on_term, *on_int, *on_tick;
    struct call *calls;
    uint32_t n_calls, max_calls;
    struct metrics metrics;
    struct monitor monitor;
    struct records records;
    struct pages *pages;
    struct rng rng;
    double started_s, drain_began_s, monitor_tick_s;
    uint64_t n_ticks;
    bool draining, gave_up;
};

/* How a choice ended, as the engine said. */
struct ending {
    enum finish_reason finish;
    enum sched_reason refusal;
    double retry_after_s, t_s, queued_s, prefill_s;
    uint32_t n_prompt_tokens, n_output_tokens, n_cached_tokens;
    struct gen_usage usage;
    char error[256];
};

/* Times as of a choice's first token. */
struct first_token {
    double phase_s[GEN_N_PHASES], queued_s[SCHED_N_WAITS];
};

/* One sequence of a call. */
struct choice {
    struct call *call;
    uint32_t index;
    uint64_t id; /* the engine's */
    bool submitted, done, begun;
    struct buf text; /* not streamed: all of it */
    struct reply_logprobs logprobs;
    uint32_t n_prompt_seen, n_tokens;
    double first_token_s, last_token_s;
    bool noticed;             /* `ended` as of the last wake-up: then `end` does not change any more */
    struct first_token first; /* under the call's lock until the first token is taken */
    bool ended;               /* under the call's lock */
    struct ending end;        /* under the call's lock until ended */
};

/* A request for tokens. Lives from its arrival until its answer is complete (or its client gone) and the engine has
 * ended all of its choices. Belongs to the network thread, except for what the lock guards. */
struct call {
    struct prepare_job job; /* first: the prepared ring carries its address */
    struct server *server;
    struct call *prev, *next;
    struct http_request *http; /* NULL: answered, or the client has gone */
    const struct auth_key *key;
    char id[48];
    struct trace_context trace;
    int64_t created;
    double arrived_s, last_write_s;
    bool preparing, streaming; /* streaming: the answer's head is sent */
    bool wants_usage;          /* the weir object in usage */
    bool settled;              /* its sums are made and accounted */
    struct request_sums sums;
    double bandwidth_s;
    struct buf usage; /* the weir object */
    struct choice *choices;
    uint32_t n_choices, n_open;
    struct buf out;  /* what this wake-up sends */
    struct buf work; /* events taken over from the inbox */

    pthread_mutex_t lock;
    struct buf inbox; /* events since the last wake-up */
    bool queued;      /* in the events ring */
};

/* server.c */
void server_reply(struct server *s, struct http_request *r, int status, const char *type, const char *data, size_t n);
void server_reply_error(struct server *s, struct http_request *r, const struct api_error *e);
void server_check_drained(struct server *s);

/* dashboard.c */
void dashboard_reply(struct server *s, struct http_request *r);

/* call.c */
void call_begin(struct server *s, struct http_request *r, enum api_kind kind, const struct auth_key *key);
void call_prepared(struct call *c);
void call_flush(struct call *c); /* events of the engine arrived */
void call_tick(struct call *c, double now_s);
void call_cancel(struct call *c);
void call_free(struct call *c);

/* call_account.c */
struct choice_record call_choice_record(const struct choice *ch); /* of one that has ended */
void call_settle(struct call *c);                 /* all choices have ended: sums, ledger, records, log */
void call_put_timing(struct call *c, bool whole); /* the Server-Timing header */
void call_put_trace(struct call *c);
double call_ttft_s(const struct call *c); /* < 0: no token yet */

/* call_events.c */
void call_sink(const struct gen_event *ev); /* on the engine's thread */
int call_consume(struct call *c);           /* the events in work, into out or into the choices; 0 or WEIR_ELIMIT */
void call_put_finish(struct call *c, struct choice *ch);
void call_reply_whole(struct call *c);
struct reply_head call_head(const struct call *c);
struct reply_usage call_usage(const struct call *c);

#endif
