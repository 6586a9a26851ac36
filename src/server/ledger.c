#include "server/ledger.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "policy/index_map.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define BUSY_MS 2000

struct entry {
    struct ledger_row row;
    bool dirty; /* not handed over since it changed */
};

/* Rows for the writing thread. `busy`: it has them. */
struct batch {
    struct ledger_row *put, *gone; /* [n_put], [n_gone] */
    uint32_t n_put, n_gone, max_put, max_gone;
    bool busy, stop, failed;
};

struct ledger {
    struct entry *entries; /* [max_rows]: a ring of the rows first .. first + n - 1 */
    uint64_t first;
    uint32_t n, max_rows;
    struct ledger_row total;
    struct index_map of_name; /* hash of a name to its latest row's number modulo 2^32 */
    uint32_t *dirty;          /* [n_dirty]: places in entries */
    uint32_t n_dirty;
    struct ledger_row *gone; /* [n_gone]: dropped, still in the file */
    uint32_t n_gone;

    sqlite3 *db; /* the writing thread's, once it runs */
    sqlite3_stmt *put, *drop;
    int lock_fd;
    bool thread_runs;
    pthread_t thread;
    pthread_mutex_t lock; /* of batch */
    pthread_cond_t changed;
    struct batch batch;
};

void ledger_row_add(struct ledger_row *a, const struct ledger_row *b)
{
    a->n_requests += b->n_requests;
    a->prompt_tokens += b->prompt_tokens;
    a->cached_tokens += b->cached_tokens;
    a->output_tokens += b->output_tokens;
    gen_traffic_add(&a->traffic, &b->traffic);
    a->bandwidth_s += b->bandwidth_s;
    a->device_s += b->device_s;
}

/* ---- The file ---- */

static int db_error(struct ledger *l, struct err *e, const char *path, int rc)
{
    if (rc == SQLITE_BUSY)
        return err_set(e, WEIR_EBUSY, "%s: another program is writing it", path);
    if (rc == SQLITE_NOTADB || rc == SQLITE_CORRUPT)
        return err_set(e, WEIR_EFORMAT, "%s is not a usage database (or damaged): %s", path, sqlite3_errmsg(l->db));
    return err_set(e, WEIR_EIO, "%s: %s", path, l->db ? sqlite3_errmsg(l->db) : sqlite3_errstr(rc));
}

static int take_lock(struct ledger *l, const char *path, struct err *e)
{
    char name[4096];
    if (snprintf(name, sizeof name, "%s-lock", path) >= (int)sizeof name)
        return err_set(e, WEIR_EINVAL, "%s: the path is too long", path);
    l->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (l->lock_fd < 0)
        return err_errno(e, "%s", name);
    if (flock(l->lock_fd, LOCK_EX | LOCK_NB))
        return err_set(e, WEIR_EBUSY, "%s: another server is using it", path);
    return 0;
}

static const char schema[] =
    "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA journal_size_limit=4194304;"
    "CREATE TABLE IF NOT EXISTS usage(begin_s INTEGER NOT NULL,name TEXT NOT NULL,requests INTEGER NOT NULL,"
    "prompt_tokens INTEGER NOT NULL,cached_tokens INTEGER NOT NULL,output_tokens INTEGER NOT NULL,"
    "weight_bytes INTEGER NOT NULL,kv_read_bytes INTEGER NOT NULL,kv_write_bytes INTEGER NOT NULL,"
    "activation_bytes INTEGER NOT NULL,tier_bytes INTEGER NOT NULL,flops INTEGER NOT NULL,bandwidth_s REAL NOT NULL,"
    "device_s REAL NOT NULL,PRIMARY KEY(begin_s,name)) WITHOUT ROWID;";

static int open_db(struct ledger *l, const char *path, struct err *e)
{
    int rc = sqlite3_open_v2(path, &l->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (!rc)
        rc = sqlite3_busy_timeout(l->db, BUSY_MS);
    if (!rc)
        rc = sqlite3_exec(l->db, schema, NULL, NULL, NULL);
    if (!rc)
        rc = sqlite3_prepare_v2(l->db, "INSERT OR REPLACE INTO usage VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)", -1, &l->put,
                                NULL);
    if (!rc)
        rc = sqlite3_prepare_v2(l->db, "DELETE FROM usage WHERE begin_s=? AND name=?", -1, &l->drop, NULL);
    return rc ? db_error(l, e, path, rc) : 0;
}

static void read_row(sqlite3_stmt *s, struct ledger_row *r)
{
    uint64_t *const numbers[] = {
        &r->n_requests,           &r->prompt_tokens,         &r->cached_tokens,          &r->output_tokens,
        &r->traffic.weight_bytes, &r->traffic.kv_read_bytes, &r->traffic.kv_write_bytes, &r->traffic.activation_bytes,
        &r->traffic.tier_bytes,   &r->traffic.flops};
    const char *name = (const char *)sqlite3_column_text(s, 1);
    *r = (struct ledger_row){.begin_s = sqlite3_column_int64(s, 0)};
    snprintf(r->name, sizeof r->name, "%s", name ? name : "");
    for (int i = 0; i < 10; i++)
        *numbers[i] = (uint64_t)sqlite3_column_int64(s, 2 + i);
    r->bandwidth_s = sqlite3_column_double(s, 12);
    r->device_s = sqlite3_column_double(s, 13);
}

static int write_row(struct ledger *l, const struct ledger_row *r)
{
    const uint64_t numbers[] = {
        r->n_requests,           r->prompt_tokens,         r->cached_tokens,          r->output_tokens,
        r->traffic.weight_bytes, r->traffic.kv_read_bytes, r->traffic.kv_write_bytes, r->traffic.activation_bytes,
        r->traffic.tier_bytes,   r->traffic.flops};
    sqlite3_bind_int64(l->put, 1, r->begin_s);
    sqlite3_bind_text(l->put, 2, r->name, -1, SQLITE_STATIC);
    for (int i = 0; i < 10; i++)
        sqlite3_bind_int64(l->put, 3 + i, (sqlite3_int64)numbers[i]);
    sqlite3_bind_double(l->put, 13, r->bandwidth_s);
    sqlite3_bind_double(l->put, 14, r->device_s);
    sqlite3_step(l->put);
    return sqlite3_reset(l->put);
}

static int drop_row(struct ledger *l, const struct ledger_row *r)
{
    sqlite3_bind_int64(l->drop, 1, r->begin_s);
    sqlite3_bind_text(l->drop, 2, r->name, -1, SQLITE_STATIC);
    sqlite3_step(l->drop);
    return sqlite3_reset(l->drop);
}

/* One transaction. */
static int write_batch(struct ledger *l, const struct batch *b)
{
    int rc = sqlite3_exec(l->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < b->n_gone && !rc; i++)
        rc = drop_row(l, &b->gone[i]);
    for (uint32_t i = 0; i < b->n_put && !rc; i++)
        rc = write_row(l, &b->put[i]);
    if (!rc)
        rc = sqlite3_exec(l->db, "COMMIT", NULL, NULL, NULL);
    if (rc)
        sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

static void *write_batches(void *arg)
{
    struct ledger *l = arg;
    struct batch *b = &l->batch;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!b->busy && !b->stop)
            pthread_cond_wait(&l->changed, &l->lock);
        if (!b->busy)
            break;
        pthread_mutex_unlock(&l->lock);
        int rc = write_batch(l, b); /* busy: nobody else touches it */
        pthread_mutex_lock(&l->lock);
        if (rc && !b->failed)
            LOG(LOG_ERROR, "usage is not saved; will be tried again", {"error", log_str(sqlite3_errmsg(l->db))});
        if (!rc && b->failed)
            LOG(LOG_INFO, "usage is saved again");
        b->failed = rc != 0;
        if (!rc)
            b->n_put = b->n_gone = 0;
        b->busy = false;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- Rows ---- */

static struct entry *entry_at(const struct ledger *l, uint64_t number)
{
    return &l->entries[number % l->max_rows];
}

static uint64_t hash_of(const char *name)
{
    return hash_bytes(name, strlen(name), 0);
}

static void mark(struct ledger *l, struct entry *en)
{
    if (en->dirty || !l->db)
        return;
    en->dirty = true;
    l->dirty[l->n_dirty++] = (uint32_t)(en - l->entries);
}

static void drop_oldest(struct ledger *l)
{
    struct entry *en = entry_at(l, l->first);
    uint64_t hash = hash_of(en->row.name);
    uint32_t latest = index_map_find(&l->of_name, hash);
    if (latest == (uint32_t)l->first)
        index_map_remove(&l->of_name, hash);
    if (l->db && l->n_gone < l->max_rows)
        l->gone[l->n_gone++] = en->row;
    if (en->dirty) {
        for (uint32_t i = 0; i < l->n_dirty; i++) {
            if (l->dirty[i] == (uint32_t)(en - l->entries))
                l->dirty[i] = l->dirty[--l->n_dirty];
        }
        en->dirty = false;
    }
    l->first++;
    l->n--;
}

static struct entry *append(struct ledger *l, int64_t begin_s, const char *name)
{
    if (l->n == l->max_rows)
        drop_oldest(l);
    uint64_t number = l->first + l->n++, hash = hash_of(name);
    struct entry *en = entry_at(l, number);
    *en = (struct entry){.row = {.begin_s = begin_s}};
    snprintf(en->row.name, sizeof en->row.name, "%s", name);
    if (index_map_find(&l->of_name, hash) != INDEX_NONE)
        index_map_remove(&l->of_name, hash);
    index_map_insert(&l->of_name, hash, (uint32_t)number);
    return en;
}

/* The newest max_rows rows of the file; the rest goes. */
static int load(struct ledger *l, const char *path, struct err *e)
{
    sqlite3_stmt *s = NULL;
    char trim[256];
    snprintf(trim, sizeof trim,
             "DELETE FROM usage WHERE (begin_s,name) NOT IN (SELECT begin_s,name FROM usage ORDER BY begin_s DESC,name "
             "LIMIT %u)",
             l->max_rows);
    int rc = sqlite3_exec(l->db, trim, NULL, NULL, NULL);
    if (!rc)
        rc = sqlite3_prepare_v2(l->db, "SELECT * FROM usage ORDER BY begin_s,name", -1, &s, NULL);
    while (!rc && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct ledger_row r;
        read_row(s, &r);
        append(l, r.begin_s, r.name)->row = r;
        ledger_row_add(&l->total, &r);
        rc = 0;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE || !rc ? 0 : db_error(l, e, path, rc);
}

static int take_memory(struct ledger *l, struct err *e)
{
    l->entries = mem_array(l->max_rows, sizeof *l->entries);
    l->dirty = mem_array(l->max_rows, sizeof *l->dirty);
    l->gone = mem_array(l->max_rows, sizeof *l->gone);
    l->batch.put = mem_array(l->max_rows, sizeof *l->batch.put);
    l->batch.gone = mem_array(l->max_rows, sizeof *l->batch.gone);
    if (!l->entries || !l->dirty || !l->gone || !l->batch.put || !l->batch.gone)
        return err_set(e, WEIR_ENOMEM, "no memory for %u rows of usage", l->max_rows);
    return index_map_init(&l->of_name, l->max_rows, e);
}

int ledger_create(struct ledger **out, const char *path, uint32_t max_rows, struct err *e)
{
    *out = NULL;
    struct ledger *l = mem_array(1, sizeof *l);
    if (!l)
        return err_set(e, WEIR_ENOMEM, "no memory for a ledger");
    l->max_rows = max_rows < LEDGER_MIN_ROWS ? LEDGER_MIN_ROWS : max_rows;
    l->lock_fd = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    int rc = take_memory(l, e);
    if (!rc && path)
        rc = take_lock(l, path, e);
    if (!rc && path)
        rc = open_db(l, path, e);
    if (!rc && path)
        rc = load(l, path, e);
    if (!rc && path) {
        int failed = pthread_create(&l->thread, NULL, write_batches, l);
        l->thread_runs = !failed;
        rc = failed ? err_set(e, WEIR_ENOMEM, "no thread for the usage file (error %d)", failed) : 0;
    }
    if (rc)
        ledger_destroy(l);
    else
        *out = l;
    return rc;
}

void ledger_add(struct ledger *l, const char *name, int64_t now_s, const struct ledger_row *more)
{
    int64_t begin_s = now_s - now_s % LEDGER_BUCKET_S;
    uint32_t latest = index_map_find(&l->of_name, hash_of(name));
    struct entry *en = NULL;
    if (latest != INDEX_NONE)
        en = entry_at(l, l->first + (uint32_t)(latest - (uint32_t)l->first));
    /* A clock that was set back counts into the row that is there: rows stay in order. */
    if (!en || en->row.begin_s < begin_s)
        en = append(l, begin_s, name);
    ledger_row_add(&en->row, more);
    ledger_row_add(&l->total, more);
    mark(l, en);
}

/* Hands over; with wait also what is still being written, and until it is written. */
static void hand_over(struct ledger *l, bool wait)
{
    struct batch *b = &l->batch;
    pthread_mutex_lock(&l->lock);
    while (wait && b->busy)
        pthread_cond_wait(&l->changed, &l->lock);
    if (!b->busy && !b->n_put && !b->n_gone) { /* else: what failed is tried again first */
        for (; l->n_dirty > 0; b->n_put++) {
            struct entry *en = &l->entries[l->dirty[--l->n_dirty]];
            en->dirty = false;
            b->put[b->n_put] = en->row;
        }
        memcpy(b->gone, l->gone, l->n_gone * sizeof *l->gone);
        b->n_gone = l->n_gone;
        l->n_gone = 0;
    }
    if (!b->busy && (b->n_put || b->n_gone)) {
        b->busy = true;
        pthread_cond_broadcast(&l->changed);
        while (wait && b->busy)
            pthread_cond_wait(&l->changed, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
}

void ledger_flush(struct ledger *l)
{
    if (l->db)
        hand_over(l, false);
}

void ledger_destroy(struct ledger *l)
{
    if (!l)
        return;
    if (l->thread_runs) {
        hand_over(l, true); /* what failed before, perhaps */
        hand_over(l, true);
        pthread_mutex_lock(&l->lock);
        l->batch.stop = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    sqlite3_finalize(l->put);
    sqlite3_finalize(l->drop);
    sqlite3_close(l->db);
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    index_map_finish(&l->of_name);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
    free(l->entries);
    free(l->dirty);
    free(l->gone);
    free(l->batch.put);
    free(l->batch.gone);
    free(l);
}

const struct ledger_row *ledger_total(const struct ledger *l)
{
    return &l->total;
}

uint32_t ledger_n_rows(const struct ledger *l)
{
    return l->n;
}

const struct ledger_row *ledger_row(const struct ledger *l, uint32_t i)
{
    return &entry_at(l, l->first + i)->row;
}
