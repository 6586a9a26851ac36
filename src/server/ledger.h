/* Who used what, by key name and hour: for bills. Kept in memory, and with a path in a SQLite database too.
 *
 * The database is written by a thread of its own, about once a second, in one transaction of whole rows (sums, not
 * differences), in write-ahead mode with every commit synced: a crash at any moment loses at most what the last second
 * added, and never the file. It holds one table:
 *
 *   usage(begin_s, name, requests, prompt_tokens, cached_tokens, output_tokens, weight_bytes, kv_read_bytes,
 *         kv_write_bytes, activation_bytes, tier_bytes, flops, bandwidth_s, device_s), primary key (begin_s, name)
 *
 * and may be read by others at any time. One server at a time writes it (FILE-lock is locked). At most max_rows rows are
 * kept; the oldest go first.
 *
 * One thread owns the ledger; it never waits for the disk, except at the beginning and the end.
 */
#ifndef WEIR_SERVER_LEDGER_H
#define WEIR_SERVER_LEDGER_H

#include "base/err.h"
#include "engine/usage.h"
#include "server/auth.h"

#include <stdint.h>

#define LEDGER_BUCKET_S 3600
#define LEDGER_MIN_ROWS 64

struct ledger_row {
    int64_t begin_s; /* of the hour, seconds since the epoch */
    char name[AUTH_MAX_NAME + 1];
    uint64_t n_requests, prompt_tokens, cached_tokens, output_tokens;
    struct gen_traffic traffic;
    double bandwidth_s, device_s;
};

struct ledger;

/* path NULL: memory only. Errors name the file: in use, not a database, not writable. */
int ledger_create(struct ledger **out, const char *path, uint32_t max_rows, struct err *e);

/* Writes what is left. NULL is fine. */
void ledger_destroy(struct ledger *l);

/* Adds to the row of name and now's hour: all sums of `more`, whose begin_s and name do not count. */
void ledger_add(struct ledger *l, const char *name, int64_t now_s, const struct ledger_row *more);

/* Hands what changed to the writing thread, unless it is still at work. Call it about once a second. */
void ledger_flush(struct ledger *l);

/* Row i of n in order of their hours; valid until the next call. */
uint32_t ledger_n_rows(const struct ledger *l);
const struct ledger_row *ledger_row(const struct ledger *l, uint32_t i);

/* All rows that were loaded, and all that was added since. */
const struct ledger_row *ledger_total(const struct ledger *l);

/* Adds b's sums to a. */
void ledger_row_add(struct ledger_row *a, const struct ledger_row *b);

#endif
