/* JSON of docs/observability.md, from plain structs into a buf. Pure. */
#ifndef WEIR_SERVER_WEIR_JSON_H
#define WEIR_SERVER_WEIR_JSON_H

#include "base/json_write.h"
#include "server/ledger.h"
#include "server/monitor.h"
#include "server/records.h"

/* What does not change while the server runs. */
struct weir_info {
    const char *model, *policy, *currency, *kv_type;
    bool prefix_cache;
    uint32_t n_layers, max_context, chunk_tokens, n_chunks, max_running, max_queued, max_step_tokens;
    double itl_target_s, ttft_limit_s, bandwidth_limit; /* 0: none */
    double weight_bytes, kv_token_bytes;                /* of a token in all layers */
    uint64_t chunk_bytes;
};

/* One sequence of a view, with what the server knows of it. */
struct state_seq {
    const struct engine_seq *seq;
    const char *id, *key; /* NULL: it has ended since */
};

struct state_frame {
    const struct weir_info *info;
    const struct monitor *monitor;
    const struct engine_view *view; /* NULL: none yet */
    const struct state_seq *running, *queued;
    const char *health, *hardware_source; /* hardware_source NULL: none */
    double now_s, wall_s, uptime_s, interval_s;
    double bandwidth_s_total, money_total; /* of the ledger */
};

void weir_json_state(struct buf *out, const struct state_frame *f, bool with_history);
void weir_json_step(struct json_out *o, const char *name, const struct step_record *r, const struct monitor_figures *f,
                    double wall_offset_s);

/* live_state: NULL, or the state of a request that has not ended. */
void weir_json_request(struct json_out *o, const struct request_record *r, const char *live_state,
                       const struct monitor_figures *f, bool with_timeline);

struct usage_query {
    int64_t from_s, to_s, bucket_s; /* bucket_s 0: one bucket for all */
    const char *name;               /* NULL: all keys */
};

/* 0, or WEIR_ENOMEM. */
int weir_json_usage(struct buf *out, const struct ledger *l, const struct usage_query *q,
                    const struct monitor_figures *f, const char *currency);

/* The members "bytes", "memory_bytes", "flops". */
void weir_json_traffic(struct json_out *o, const struct gen_traffic *t);

/* What a request cost: those members and "bandwidth_s", "device_s", "money", "time", "queued_for". */
void weir_json_cost(struct json_out *o, const struct request_sums *s, double bandwidth_s, double prepare_s,
                    const struct monitor_figures *f);

double weir_or_null(double v); /* NAN, which is null in JSON, unless v is above 0 */

/* Of a bandwidth-hour, and bandwidth_s as money; NAN without a price. */
double weir_price(const struct monitor_figures *f);
double weir_money(const struct monitor_figures *f, double bandwidth_s);

const char *weir_state_name(enum finish_reason f);
const char *weir_refusal_name(enum sched_reason r); /* NULL for none */

#endif
