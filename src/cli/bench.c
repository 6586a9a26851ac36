/* weir bench: what this machine's memory gives, and what weir's kernels take of it. */
#include "cli/bench.h"
#include "cli/bench_model.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "device/cpu/team.h"
#include "device/device.h"
#include "device/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct bench_command {
    const char *name, *summary;
    int (*run)(const struct bench_config *c, struct err *e);
} commands[] = {
    {"bandwidth", "sustained read bandwidth, 1 to all threads", bench_bandwidth},
    {"kernels", "each kernel's bytes and operations per second against the measured bandwidth", bench_kernels},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void help(const struct option_def *defs)
{
    printf("usage: weir bench [COMMAND] [options]\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\nWithout a command: bandwidth, then kernels. WEIR_ISA (ref, avx2, avx512, vnni, bf16, amx) caps the "
           "instructions.\n`weir bench model FILE` measures a whole model; it has options of its own.\n\n");
    options_help(defs);
    printf("\nexamples:\n"
           "  weir bench                                   everything, some minutes\n"
           "  weir bench bandwidth --threads 4             with at most four threads\n"
           "  weir bench kernels --type Q8_0 --tokens 1    decode with one weight type\n"
           "  weir bench kernels --tokens 512 --json       prefill, for a script\n"
           "  weir bench --profile-out this.json           for `weir plan MODEL this.json`\n");
}

/* A hardware profile of this machine, as `weir plan --device FILE` reads it. */
static int write_profile(const struct bench_config *c, const char *path, struct err *e)
{
    static struct profile p;
    char source[256];
    int rc = measure_profile(&p, c->n_threads, NULL, e);
    if (rc)
        return rc;
    snprintf(source, sizeof source, "measured by weir %s bench --profile-out; %s; %s", WEIR_VERSION, p.tiers[0].name,
             kernel_cpu_description());
    char *text = profile_format(&p, source);
    FILE *f = text ? fopen(path, "w") : NULL;
    if (!text)
        rc = err_set(e, WEIR_ENOMEM, "no memory for the profile");
    else if (!f || fprintf(f, "%s\n", text) < 0)
        rc = err_errno(e, "%s", path);
    if (f && fclose(f) && !rc)
        rc = err_errno(e, "%s", path);
    free(text);
    if (!rc)
        printf("wrote %s: %.1f GB/s read; use it as `weir plan MODEL %s`\n", path, p.tiers[0].bytes_per_s / 1e9, path);
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "model"))
        return bench_model(argc - 1, argv + 1);
    const char *profile_out = NULL;
    struct bench_config c = {.seconds = 1, .bytes = (size_t)512 << 20, .rows = 8192, .cols = 2048};
    const struct option_def defs[] = {
        OPTION("threads", OPT_U32, &c.n_threads, "N", "threads (default: one for each core)", .max = TEAM_MAX_THREADS),
        OPTION("seconds", OPT_F64, &c.seconds, "S", "for each measurement (default 1); the best pass counts",
               .min = 0.01, .max = 3600),
        OPTION("bytes", OPT_BYTES, &c.bytes, "SIZE", "memory to walk: several times the last cache (default 512M)"),
        OPTION("type", OPT_STR, &c.type, "NAME", "one weight type (Q8_0) or `attention` (default: all)"),
        OPTION("tokens", OPT_U32, &c.n_tokens, "N", "tokens of a product (default: 1 and 512)", .min = 1, .max = 65536),
        OPTION("rows", OPT_U32, &c.rows, "N", "rows of a weight matrix (default 8192)", .min = 1, .max = 1 << 24),
        OPTION("cols", OPT_U32, &c.cols, "N", "columns, a multiple of 256 (default 2048)", .min = 256, .max = 1 << 24),
        OPTION("as-rows", OPT_FLAG, &c.as_rows, NULL, "weights row by row, where they would be in lanes of 16 rows"),
        OPTION("json", OPT_FLAG, &c.json, NULL, "one JSON object a line"),
        OPTION("profile-out", OPT_STR, &profile_out, "FILE", "only write a hardware profile of this machine"),
        OPTIONS_END};
    struct options o;
    struct err e = {0};
    int status = 2;
    if (options_parse(&o, defs, argc, argv, &e))
        goto out;
    if (o.help) {
        help(defs);
        status = 0;
        goto out;
    }
    if (o.n_positional > 1 || c.cols % 256) {
        err_set(&e, WEIR_EINVAL, "%s", c.cols % 256 ? "--cols must be a multiple of 256" : "more than one command");
        goto out;
    }
    if (profile_out) {
        status = write_profile(&c, profile_out, &e) ? 1 : 0;
        goto out;
    }
    size_t n_run = 0;
    for (size_t i = 0; i < N_COMMANDS && !e.code; i++) {
        if (o.n_positional && strcmp(o.positional[0], commands[i].name))
            continue;
        n_run++;
        commands[i].run(&c, &e);
    }
    if (!n_run)
        err_set(&e, WEIR_EINVAL, "there is no `weir bench %s`", o.positional[0]);
    status = !n_run ? 2 : e.code ? 1 : 0;
out:
    if (e.code)
        fprintf(stderr, "weir bench: %s\n%s", e.msg, status == 2 ? "`weir bench --help` tells more\n" : "");
    options_finish(&o);
    return status;
}

int bench_bandwidth(const struct bench_config *c, struct err *e)
{
    struct team *team;
    int rc = team_create(&team, c->n_threads, true, e);
    if (rc)
        return rc;
    const uint32_t most = team_size(team);
    team_destroy(team);
    if (!c->json)
        printf("%s\n\nread bandwidth, %zu MiB\n  threads   GB/s\n", kernel_cpu_description(), c->bytes >> 20);
    for (uint32_t n = 1;; n = n * 2 < most ? n * 2 : most) {
        double rate;
        rc = device_cpu_read_bandwidth(n, c->bytes, c->seconds, &rate, e);
        if (rc)
            return rc;
        if (c->json)
            printf("{\"bench\":\"bandwidth\",\"threads\":%u,\"bytes_per_s\":%.0f}\n", n, rate);
        else
            printf("  %7u %6.1f\n", n, rate / 1e9);
        if (n == most)
            break;
    }
    if (!c->json)
        printf("\n");
    fflush(stdout);
    return 0;
}
