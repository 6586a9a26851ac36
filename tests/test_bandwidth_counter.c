/* Hardware counters against emulated directories: resctrl as the kernel lays it out, and PMUs' descriptions. */
#include "test.h"

#include "device/bandwidth_counter.h"

#include <stdarg.h>
#include <sys/stat.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/weir-counter-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void make_dirs(const char *path)
{
    char command[300];
    snprintf(command, sizeof command, "mkdir -p %s/%s", dir, path);
    assert_int_equal(system(command), 0);
}

static void put(const char *path, const char *text)
{
    char full[300];
    snprintf(full, sizeof full, "%s/%s", dir, path);
    FILE *f = fopen(full, "w");
    assert_true(f && fputs(text, f) >= 0 && !fclose(f));
}

static const char *at(const char *path)
{
    static char full[300];
    snprintf(full, sizeof full, "%s/%s", dir, path);
    return full;
}

static void two_caches(const char *group, const char *first, const char *second)
{
    char path[200];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/mon_data/mon_L3_0%d", group, i);
        make_dirs(path);
        snprintf(path, sizeof path, "%s/mon_data/mon_L3_0%d/mbm_total_bytes", group, i);
        put(path, i ? second : first);
    }
}

static void resctrl_sums_caches_and_never_goes_back(void **state)
{
    (void)state;
    struct bandwidth_counter *c;
    struct err e;
    make_dirs("r1/info/L3_MON");
    put("r1/info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n");
    two_caches("r1", "1000\n", "5000\n");
    assert_int_equal(bandwidth_counter_open(&c, at("r1"), "/nonexistent", &e), 0);
    assert_string_equal(bandwidth_counter_name(c), "resctrl");
    assert_int_equal(bandwidth_counter_bytes(c), 0);
    two_caches("r1", "1600\n", "5001\n");
    assert_int_equal(bandwidth_counter_bytes(c), 601);
    two_caches("r1", "Unavailable\n", "6001\n");
    assert_int_equal(bandwidth_counter_bytes(c), 1601);
    two_caches("r1", "2600\n", "10\n"); /* one caught up, one began anew */
    assert_int_equal(bandwidth_counter_bytes(c), 2601);
    two_caches("r1", "Error\n", "60\n");
    assert_int_equal(bandwidth_counter_bytes(c), 2651);
    two_caches("r1", "99999999999999999999999\n", "-5\n");
    assert_true(bandwidth_counter_bytes(c) >= 2651);
    bandwidth_counter_close(c);
}

static void a_group_of_our_own_is_preferred(void **state)
{
    (void)state;
    struct bandwidth_counter *c;
    struct err e;
    char group[100], path[200];
    make_dirs("r2/info/L3_MON");
    put("r2/info/L3_MON/mon_features", "mbm_total_bytes\n");
    two_caches("r2", "1\n", "1\n");
    snprintf(group, sizeof group, "r2/mon_groups/weir-%d", (int)getpid()); /* the kernel fills it as it is made */
    two_caches(group, "0\n", "0\n");
    snprintf(path, sizeof path, "%s/tasks", group);
    put(path, "");
    assert_int_equal(bandwidth_counter_open(&c, at("r2"), "/nonexistent", &e), 0);
    two_caches(group, "70\n", "0\n");
    two_caches("r2", "1000\n", "1\n");
    assert_int_equal(bandwidth_counter_bytes(c), 70);
    struct stat st;
    assert_true(!stat(at(path), &st) && st.st_size > 0); /* our threads were written into it */
    bandwidth_counter_close(c);
}

static void machines_without_are_told_apart(void **state)
{
    (void)state;
    struct bandwidth_counter *c;
    struct err e;
    assert_int_equal(bandwidth_counter_open(&c, "/nonexistent", "/nonexistent", &e), WEIR_ENOTFOUND);
    assert_null(c);
    make_dirs("r3/info/L3_MON");
    put("r3/info/L3_MON/mon_features", "llc_occupancy\n");
    two_caches("r3", "1\n", "1\n");
    assert_int_equal(bandwidth_counter_open(&c, at("r3"), "/nonexistent", &e), WEIR_ENOTFOUND);
    make_dirs("r4/info/L3_MON");
    put("r4/info/L3_MON/mon_features", "mbm_total_bytes\n");
    assert_int_equal(bandwidth_counter_open(&c, at("r4"), "/nonexistent", &e), WEIR_ENOTFOUND);
    assert_non_null(strstr(e.msg, "r4"));
    bandwidth_counter_close(NULL);
}

static void events_are_read_as_sysfs_describes_them(void **state)
{
    (void)state;
    struct pmu_event ev;
    struct err e;
    make_dirs("p/uncore_imc_0/events");
    make_dirs("p/uncore_imc_0/format");
    put("p/uncore_imc_0/type", "78\n");
    put("p/uncore_imc_0/format/event", "config:0-7\n");
    put("p/uncore_imc_0/format/umask", "config:8-15,32-33\n");
    put("p/uncore_imc_0/format/edge", "config:18\n");
    put("p/uncore_imc_0/format/far", "config1:60-63\n");
    put("p/uncore_imc_0/events/cas_count_read", "event=0x04,umask=0x303\n");
    put("p/uncore_imc_0/events/cas_count_read.scale", "6.103515625e-5\n");
    put("p/uncore_imc_0/events/cas_count_read.unit", "MiB\n");
    put("p/uncore_imc_0/events/plain", "event=255,edge,far=9\n");
    put("p/uncore_imc_0/events/odd", "event=1\n");
    put("p/uncore_imc_0/events/odd.scale", "2\n");
    put("p/uncore_imc_0/events/odd.unit", "furlongs\n");
    const char *pmu = at("p/uncore_imc_0");
    assert_int_equal(pmu_event_read(pmu, "cas_count_read", &ev, &e), 0);
    assert_int_equal(ev.type, 78);
    assert_true(ev.config[0] == (0x04 | 0x03 << 8 | 3ull << 32));
    assert_true(ev.bytes_per_count == 64);
    assert_int_equal(pmu_event_read(pmu, "plain", &ev, &e), 0);
    assert_true(ev.config[0] == (255 | 1 << 18) && ev.config[1] == 9ull << 60 && ev.bytes_per_count == 64);
    assert_int_equal(pmu_event_read(pmu, "odd", &ev, &e), WEIR_EFORMAT);
    assert_int_equal(pmu_event_read(pmu, "absent", &ev, &e), WEIR_ENOTFOUND);
    static const char *const bad[] = {"event=256",   "event=x",  "event=",    "",
                                      "umask=0x400", "=1",       "event=1,,", "nothing=1",
                                      "event=1 2",   "event=-1", "../type=1", "event=1,far=99999999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ev = (struct pmu_event){0};
        assert_true(pmu_event_parse(pmu, bad[i], &ev, &e) < 0);
    }
    static const char *const formats[] = {"", "config", "config9:0-3", "config:", "config:5-2", "config:0-64", "x:0-3"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        put("p/uncore_imc_0/format/event", formats[i]);
        ev = (struct pmu_event){0};
        assert_true(pmu_event_parse(pmu, "event=1", &ev, &e) < 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resctrl_sums_caches_and_never_goes_back),
        cmocka_unit_test(a_group_of_our_own_is_preferred),
        cmocka_unit_test(machines_without_are_told_apart),
        cmocka_unit_test(events_are_read_as_sysfs_describes_them),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
