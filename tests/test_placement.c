/* Where workers and memory are placed: emulated topologies (hwloc's synthetic ones), affinity masks, control groups. */
#include "test.h"

#include "device/cpu/quota.h"
#include "device/cpu/team.h"
#include "device/device.h"
#include "model/forward.h"
#include "model/model.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct team *team_on(const char *topology, uint32_t n_threads)
{
    struct team *t = NULL;
    struct err e = {0};
    assert_int_equal(setenv("HWLOC_SYNTHETIC", topology, 1), 0);
    if (team_create(&t, n_threads, true, &e))
        fail_msg("%s: %s", topology, e.msg);
    unsetenv("HWLOC_SYNTHETIC");
    return t;
}

/* Every worker has a hardware thread of its own, nodes have equal numbers of neighbours; returns the number of cores
 * that are used, with pus_per_core hardware threads each. */
static uint32_t check_spread(const struct team *t, uint32_t n_nodes, int32_t pus_per_core)
{
    uint32_t n = team_size(t), n_cores = 0;
    bool used[256] = {false}, core_used[256] = {false};
    assert_int_equal(team_n_nodes(t), n_nodes < n ? n_nodes : n);
    for (uint32_t i = 0; i < n; i++) {
        int32_t pu = team_processor(t, i);
        assert_true(pu >= 0 && pu < 256 && !used[pu]);
        used[pu] = true;
        n_cores += !core_used[pu / pus_per_core];
        core_used[pu / pus_per_core] = true;
        if (n % n_nodes == 0)
            assert_int_equal(team_node(t, i), i / (n / n_nodes));
    }
    return n_cores;
}

static void test_spread(void **state)
{
    (void)state;
    static const struct {
        const char *topology;
        uint32_t n_nodes, n_cores;
        int32_t pus_per_core;
    } machines[] = {
        {"node:1 core:2 pu:1", 1, 2, 1},         {"node:2 core:4 pu:1", 2, 8, 1},
        {"pack:2 node:2 core:4 pu:2", 4, 16, 2}, {"pack:2 l3:4 core:2 pu:2", 1, 16, 2}, /* one node for all */
        {"node:8 core:2 pu:1", 8, 16, 1},
    };
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
        const uint32_t sizes[] = {0, 1, 2, machines[m].n_cores};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct team *t = team_on(machines[m].topology, sizes[i]);
            uint32_t n_cores = check_spread(t, machines[m].n_nodes, machines[m].pus_per_core);
            if (sizes[i])
                assert_int_equal(team_size(t), sizes[i]);
            assert_int_equal(n_cores, team_size(t)); /* none shares a core before all are used */
            team_destroy(t);
        }
    }
}

static void test_all_hardware_threads(void **state)
{
    (void)state;
    struct team *t = team_on("node:2 core:2 pu:2", 8);
    assert_int_equal(check_spread(t, 2, 2), 4);
    team_destroy(t);
}

static void test_affinity_mask(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    size_t last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &before))
        last--;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    struct team *t;
    assert_int_equal(team_create(&t, 0, true, NULL), 0);
    assert_int_equal(team_size(t), 1);
    assert_int_equal(team_processor(t, 0), (int32_t)last);
    team_destroy(t);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

/* ---- control groups ---- */

static char root[64];

static void put(const char *path, const char *text)
{
    char full[256];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *c = full + strlen(root) + 1; (c = strchr(c, '/')); c++) {
        *c = 0;
        mkdir(full, 0700);
        *c = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static double quota_with(const char *groups)
{
    char proc[128], mount[128];
    put("proc", groups);
    snprintf(proc, sizeof proc, "%s/proc", root);
    snprintf(mount, sizeof mount, "%s/sys", root);
    return cpu_quota(proc, mount);
}

static void test_quota(void **state)
{
    (void)state;
    strcpy(root, "/tmp/weir-quota-XXXXXX");
    assert_non_null(mkdtemp(root));
    put("sys/a/cpu.max", "400000 100000\n");
    put("sys/a/b/cpu.max", "max 100000\n");
    put("sys/a/b/c/cpu.max", "50000 100000\n");
    put("sys/junk/cpu.max", "many per few\n");
    put("sys/zero/cpu.max", "100000 0\n");
    put("sys/cpu/docker/x/cpu.cfs_quota_us", "250000\n");
    put("sys/cpu/docker/x/cpu.cfs_period_us", "100000\n");
    put("sys/cpu/free/cpu.cfs_quota_us", "-1\n");
    put("sys/cpu/free/cpu.cfs_period_us", "100000\n");
    assert_true(isinf(quota_with("0::/\n")));
    assert_float_equal(quota_with("0::/a\n"), 4, 0);
    assert_float_equal(quota_with("0::/a/b\n"), 4, 0); /* its parent's */
    assert_float_equal(quota_with("0::/a/b/c\n"), 0.5, 0);
    assert_true(isinf(quota_with("0::/junk\n")));
    assert_true(isinf(quota_with("0::/zero\n")));
    assert_true(isinf(quota_with("")));
    assert_true(isinf(quota_with("no colons\n::\n")));
    assert_float_equal(quota_with("3:cpu,cpuacct:/docker/x\n2:memory:/a/b/c\n"), 2.5, 0);
    assert_true(isinf(quota_with("3:cpu,cpuacct:/free\n")));
    put("sys/cpu.max", "100000 100000\n");
    assert_float_equal(quota_with("0::/not/seen/from/here\n"), 1, 0); /* a container's own group is the mount itself */
    assert_true(isinf(cpu_quota("/nowhere", "/nowhere")));
    char remove[128];
    snprintf(remove, sizeof remove, "rm -r %s", root);
    assert_int_equal(system(remove), 0);
}

/* ---- a device on two nodes ---- */

static float logits[2][4096];

static void run_model(const struct forward *f, uint32_t n_threads, float *out)
{
    const struct device_config c = {.n_threads = n_threads,
                                    .pin_threads = true,
                                    .chunk_tokens = 16,
                                    .n_chunks = 4,
                                    .max_step_tokens = 32,
                                    .max_step_seqs = 1,
                                    .max_outputs = 1,
                                    .max_context = 64};
    static const int32_t tokens[] = {3, 1, 4, 1, 5, 9, 2, 6};
    static const uint32_t chunks[] = {0, 1, 2, 3}, last = 7;
    const struct step_seq q = {.n_rows = 8, .chunks = chunks, .n_chunks = 4};
    const struct step s = {
        .n_rows = 8, .n_seqs = 1, .n_outputs = 1, .tokens = tokens, .seqs = &q, .output_rows = &last};
    struct device *d;
    struct step_result r;
    struct err e = {0};
    if (device_cpu_create(&d, f, &c, &e) || device_start(d, &s, &e) || device_wait(d, &r, &e))
        fail_msg("%s", e.msg);
    assert_true(f->model->n_vocab <= 4096);
    memcpy(out, r.logits, f->model->n_vocab * sizeof *out);
    device_destroy(d);
}

static void test_device_on_two_nodes(void **state)
{
    (void)state;
    struct err e = {0};
    struct gguf *g;
    struct model *m;
    struct forward *f;
    if (gguf_open(&g, "tests/golden/mixed-q4_k_m.gguf", &e) || model_open(&m, g, &e) || forward_create(&f, m, &e))
        fail_msg("%s", e.msg);
    run_model(f, 1, logits[0]);
    setenv("HWLOC_SYNTHETIC", "node:2 core:2 pu:1", 1);
    run_model(f, 4, logits[1]);
    unsetenv("HWLOC_SYNTHETIC");
    assert_memory_equal(logits[0], logits[1], m->n_vocab * sizeof(float));
    forward_destroy(f);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_all_hardware_threads),
        cmocka_unit_test(test_affinity_mask),
        cmocka_unit_test(test_quota),
        cmocka_unit_test(test_device_on_two_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
