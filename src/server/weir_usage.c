/* /v1/weir/usage: rows of the ledger gathered into buckets of time. */
#include "base/hash.h"
#include "base/mem.h"
#include "policy/index_map.h"
#include "server/weir_json.h"

#include <stdlib.h>
#include <string.h>

struct groups {
    struct ledger_row *rows; /* [n], begin_s: of the bucket; in order of first appearance */
    uint32_t n;
    struct index_map by_key;
    struct ledger_row total;
};

static void gather(struct groups *g, const struct ledger *l, const struct usage_query *q)
{
    for (uint32_t i = 0; i < ledger_n_rows(l); i++) {
        const struct ledger_row *r = ledger_row(l, i);
        if (r->begin_s < q->from_s || r->begin_s >= q->to_s || (q->name && strcmp(q->name, r->name)))
            continue;
        int64_t begin_s = q->bucket_s ? r->begin_s - r->begin_s % q->bucket_s : 0;
        uint64_t key = hash_bytes(r->name, strlen(r->name), (uint64_t)begin_s);
        uint32_t at = index_map_find(&g->by_key, key);
        if (at == INDEX_NONE) {
            at = g->n++;
            index_map_insert(&g->by_key, key, at);
            g->rows[at] = (struct ledger_row){.begin_s = q->bucket_s ? begin_s : r->begin_s};
            memcpy(g->rows[at].name, r->name, sizeof r->name);
        }
        ledger_row_add(&g->rows[at], r);
        ledger_row_add(&g->total, r);
    }
}

static void put_row(struct json_out *o, const char *member, const struct ledger_row *r, const struct monitor_figures *f)
{
    json_begin_object(o, member);
    if (!member) {
        json_add_i64(o, "begin_s", r->begin_s);
        json_add_str(o, "key", r->name);
    }
    json_add_u64(o, "requests", r->n_requests);
    json_add_u64(o, "prompt_tokens", r->prompt_tokens);
    json_add_u64(o, "cached_tokens", r->cached_tokens);
    json_add_u64(o, "output_tokens", r->output_tokens);
    weir_json_traffic(o, &r->traffic);
    json_add_f64(o, "bandwidth_hours", r->bandwidth_s / 3600);
    json_add_f64(o, "device_hours", r->device_s / 3600);
    json_add_f64(o, "money", weir_money(f, r->bandwidth_s));
    json_close(o);
}

int weir_json_usage(struct buf *out, const struct ledger *l, const struct usage_query *q,
                    const struct monitor_figures *f, const char *currency)
{
    struct groups g = {.rows = mem_array(ledger_n_rows(l), sizeof *g.rows)};
    int rc = g.rows ? index_map_init(&g.by_key, ledger_n_rows(l) + 1, NULL) : WEIR_ENOMEM;
    if (!rc) {
        struct json_out o = json_out_begin(out);
        gather(&g, l, q);
        json_begin_object(&o, NULL);
        json_add_str(&o, "object", "weir.usage");
        json_add_f64(&o, "peak_bytes_per_s", weir_or_null(f->peak_bytes_per_s));
        json_add_f64(&o, "price_per_bandwidth_hour", weir_price(f));
        json_add_str(&o, "currency", f->price_per_bandwidth_hour < 0 ? NULL : currency);
        json_add_str(&o, "bucket", q->bucket_s == 3600 ? "hour" : q->bucket_s ? "day" : "total");
        json_begin_array(&o, "data");
        for (uint32_t i = 0; i < g.n; i++)
            put_row(&o, NULL, &g.rows[i], f);
        json_close(&o);
        put_row(&o, "total", &g.total, f);
        json_close(&o);
    }
    index_map_finish(&g.by_key);
    free(g.rows);
    return rc;
}
