/* The usage file: sums survive restarts, kills and torn writes; bounds hold; errors say what is wrong. */
#include "test.h"

#include "base/log.h"
#include "base/rng.h"
#include "server/ledger.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    log_setup(LOG_OFF, LOG_TEXT);
    snprintf(dir, sizeof dir, "/tmp/weir-usage-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static const char *path_of(const char *name)
{
    static char path[4][128];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[0], "%s/%s", dir, name);
    return path[next];
}

static struct ledger *open_ledger(const char *path, uint32_t max_rows)
{
    struct ledger *l;
    struct err e = {0};
    if (ledger_create(&l, path, max_rows, &e))
        fail_msg("%s", e.msg);
    return l;
}

/* Amounts stand in fixed proportion, so that a row that is half written shows. */
static const struct ledger_row one = {.n_requests = 1,
                                      .prompt_tokens = 3,
                                      .cached_tokens = 2,
                                      .output_tokens = 5,
                                      .traffic = {.weight_bytes = 7,
                                                  .kv_read_bytes = 11,
                                                  .kv_write_bytes = 13,
                                                  .activation_bytes = 17,
                                                  .tier_bytes = 19,
                                                  .flops = 23},
                                      .bandwidth_s = 0.25,
                                      .device_s = 0.5};

static bool in_proportion(const struct ledger_row *r)
{
    uint64_t n = r->n_requests;
    return r->prompt_tokens == 3 * n && r->cached_tokens == 2 * n && r->output_tokens == 5 * n &&
           r->traffic.weight_bytes == 7 * n && r->traffic.kv_read_bytes == 11 * n &&
           r->traffic.kv_write_bytes == 13 * n && r->traffic.activation_bytes == 17 * n &&
           r->traffic.tier_bytes == 19 * n && r->traffic.flops == 23 * n && r->bandwidth_s == 0.25 * (double)n &&
           r->device_s == 0.5 * (double)n;
}

static uint64_t count(const struct ledger *l)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < ledger_n_rows(l); i++) {
        assert_true(in_proportion(ledger_row(l, i)));
        n += ledger_row(l, i)->n_requests;
    }
    assert_true(in_proportion(ledger_total(l)));
    return n;
}

static void sums_by_name_and_hour(void **state)
{
    (void)state;
    struct ledger *l = open_ledger(NULL, 100);
    for (int i = 0; i < 10; i++)
        ledger_add(l, i % 2 ? "a" : "b", 7200 + i, &one);
    ledger_add(l, "a", 10800, &one);
    ledger_add(l, "a", 9000, &one); /* a clock that went back: rows stay in order */
    assert_int_equal(ledger_n_rows(l), 3);
    assert_int_equal(ledger_row(l, 0)->n_requests, 5);
    assert_string_equal(ledger_row(l, 0)->name, "b");
    assert_int_equal(ledger_row(l, 2)->begin_s, 10800);
    assert_int_equal(ledger_row(l, 2)->n_requests, 2);
    assert_int_equal(count(l), 12);
    ledger_flush(l);
    ledger_destroy(l);
    ledger_destroy(NULL);
}

static void a_restart_forgets_nothing(void **state)
{
    (void)state;
    const char *path = path_of("restart.db");
    for (uint64_t round = 0; round < 5; round++) {
        struct ledger *l = open_ledger(path, 100);
        assert_int_equal(count(l), round * 20);
        for (int i = 0; i < 20; i++) {
            ledger_add(l, i % 3 ? "team-a" : "key-001122334455", 3600 * (int64_t)(round / 2) + i, &one);
            if (i % 7 == 0)
                ledger_flush(l);
        }
        ledger_destroy(l);
    }
    struct ledger *l = open_ledger(path, 100);
    assert_int_equal(ledger_n_rows(l), 6);
    assert_int_equal(ledger_total(l)->n_requests, 100);
    ledger_destroy(l);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 65536);
}

static void rows_are_bounded(void **state)
{
    (void)state;
    const char *path = path_of("bounded.db");
    struct ledger *l = open_ledger(path, LEDGER_MIN_ROWS);
    for (int hour = 0; hour < 500; hour++) {
        ledger_add(l, "a", hour * 3600, &one);
        ledger_add(l, hour % 2 ? "b" : "c", hour * 3600, &one);
        if (hour % 10 == 0)
            ledger_flush(l);
    }
    assert_int_equal(ledger_n_rows(l), LEDGER_MIN_ROWS);
    assert_int_equal(ledger_row(l, 0)->begin_s, (500 - LEDGER_MIN_ROWS / 2) * 3600);
    ledger_destroy(l);
    l = open_ledger(path, 1000); /* the file kept no more */
    assert_int_equal(ledger_n_rows(l), LEDGER_MIN_ROWS);
    assert_int_equal(count(l), LEDGER_MIN_ROWS);
    for (int hour = 500; hour < 900; hour++)
        ledger_add(l, "a", hour * 3600, &one);
    ledger_destroy(l);
    l = open_ledger(path, LEDGER_MIN_ROWS); /* a smaller bound than last time */
    assert_int_equal(ledger_n_rows(l), LEDGER_MIN_ROWS);
    assert_int_equal(ledger_row(l, LEDGER_MIN_ROWS - 1)->begin_s, 899 * 3600);
    ledger_destroy(l);
}

/* What a child has added, and what of it was surely written. */
struct progress {
    _Atomic uint64_t added, written;
};

static void work_until_killed(const char *path, struct progress *p)
{
    struct rng rng = {.state = 1};
    for (;;) {
        struct ledger *l;
        struct err e;
        if (ledger_create(&l, path, 1000, &e))
            _exit(1);
        for (uint64_t n = 5 + rng_below(&rng, 40); n > 0; n--) {
            p->added++;
            ledger_add(l, n % 2 ? "a" : "b", 3600 * (int64_t)rng_below(&rng, 3), &one);
            ledger_flush(l);
            usleep(rng_below(&rng, 4) ? 0 : 300);
        }
        uint64_t added = p->added;
        ledger_destroy(l);
        p->written = added;
    }
}

static void kills_lose_only_what_was_not_written(void **state)
{
    (void)state;
    const char *path = path_of("killed.db");
    struct rng rng = {.state = 9};
    struct progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t before = 0;
    for (int round = 0; round < 12; round++) {
        p->added = p->written = before;
        pid_t child = fork();
        if (!child)
            work_until_killed(path, p);
        usleep(3000 + (useconds_t)rng_below(&rng, 60000));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        struct ledger *l = open_ledger(path, 1000);
        uint64_t n = count(l);
        assert_true(n >= p->written && n <= p->added);
        before = n;
        ledger_destroy(l);
    }
    assert_true(before > 20);
    munmap(p, sizeof *p);
}

static size_t read_all(const char *path, char *out, size_t max)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, max, f);
    fclose(f);
    return n;
}

static void write_all(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_true(f && fwrite(data, 1, n, f) == n && !fclose(f));
}

/* How many are in a copy of the file with this log. */
static uint64_t count_copy(const char *db, size_t n_db, const char *log, size_t n_log)
{
    char copy[160], copy_log[200];
    snprintf(copy, sizeof copy, "%s/whole.db", dir);
    snprintf(copy_log, sizeof copy_log, "%s-wal", copy);
    write_all(copy, db, n_db);
    write_all(copy_log, log, n_log);
    struct ledger *l = open_ledger(copy, 1000);
    uint64_t got = count(l);
    ledger_destroy(l);
    return got;
}

/* The file and its log as they are while a server runs; the log cut or spoilt anywhere. */
static void torn_logs_are_read_as_far_as_they_go(void **state)
{
    (void)state;
    enum { MAX = 1 << 20 };
    const char *path = path_of("torn.db");
    static char db[MAX], wal[MAX], spoilt[MAX];
    struct ledger *l = open_ledger(path, 1000);
    for (int i = 0; i < 30; i++) {
        ledger_add(l, i % 2 ? "a" : "b", i * 600, &one);
        ledger_flush(l);
        usleep(2000);
    }
    char log_path[160];
    snprintf(log_path, sizeof log_path, "%s-wal", path);
    size_t n_db, n_wal;
    do { /* a thread writes, at its leisure */
        usleep(2000);
        n_db = read_all(path, db, MAX);
        n_wal = read_all(log_path, wal, MAX);
    } while (count_copy(db, n_db, wal, n_wal) < 30);
    ledger_destroy(l);
    assert_true(n_wal > 8192);
    struct rng rng = {.state = 4};
    uint64_t most = 0, least = 30;
    for (int round = 0; round < 60; round++) {
        char copy[160], copy_log[200];
        snprintf(copy, sizeof copy, "%s/torn-%d.db", dir, round);
        snprintf(copy_log, sizeof copy_log, "%s-wal", copy);
        size_t n = round ? rng_below(&rng, n_wal) : n_wal;
        memcpy(spoilt, wal, n_wal);
        if (round % 2 && n > 100)
            spoilt[rng_below(&rng, n)] ^= 0x55;
        write_all(copy, db, n_db);
        write_all(copy_log, spoilt, n);
        l = open_ledger(copy, 1000);
        uint64_t got = count(l);
        assert_true(got <= 30);
        most = got > most ? got : most;
        least = got < least ? got : least;
        ledger_add(l, "a", 1 << 20, &one); /* and it goes on */
        ledger_destroy(l);
        l = open_ledger(copy, 1000);
        assert_int_equal(count(l), got + 1);
        ledger_destroy(l);
    }
    assert_true(most > least && most == 30);
}

/* While the disk takes nothing, nothing is lost; it is written when there is room again. */
static void a_full_disk_is_waited_out(void **state)
{
    (void)state;
    const char *path = path_of("full.db");
    struct rlimit before, none;
    struct ledger *l = open_ledger(path, 1000);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = before;
    none.rlim_cur = 1;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    for (int i = 0; i < 20; i++) {
        ledger_add(l, i % 2 ? "a" : "b", i * 3600, &one);
        ledger_flush(l);
        usleep(2000);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(count(l), 20);
    ledger_destroy(l);
    l = open_ledger(path, 1000);
    assert_int_equal(count(l), 20);
    ledger_destroy(l);
}

static void errors_name_the_file(void **state)
{
    (void)state;
    struct ledger *l, *second;
    struct err e;
    const char *garbage = path_of("garbage.db"), *used = path_of("used.db");
    char text[5000];
    memset(text, 'x', sizeof text);
    write_all(garbage, text, sizeof text);
    assert_int_equal(ledger_create(&l, garbage, 100, &e), WEIR_EFORMAT);
    assert_non_null(strstr(e.msg, "garbage.db"));
    assert_null(l);
    assert_true(ledger_create(&l, "/nonexistent/usage.db", 100, &e) < 0);
    assert_non_null(strstr(e.msg, "/nonexistent/usage.db"));
    l = open_ledger(used, 100);
    assert_int_equal(ledger_create(&second, used, 100, &e), WEIR_EBUSY);
    assert_non_null(strstr(e.msg, "another server"));
    ledger_destroy(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_by_name_and_hour),
        cmocka_unit_test(a_restart_forgets_nothing),
        cmocka_unit_test(rows_are_bounded),
        cmocka_unit_test(kills_lose_only_what_was_not_written),
        cmocka_unit_test(torn_logs_are_read_as_far_as_they_go),
        cmocka_unit_test(a_full_disk_is_waited_out),
        cmocka_unit_test(errors_name_the_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
