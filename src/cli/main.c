#include "cli/commands.h"

#include <stdio.h>
#include <string.h>

static const struct command commands[] = {
    {"serve", "OpenAI-compatible HTTP server with Prometheus metrics", cmd_serve},
    {"top", "a running server's bandwidth, memory and requests in the terminal", cmd_top},
    {"plan", "what fits a device, how fast, where the sweet spot lies, what it costs", cmd_plan},
    {"run", "generate or chat in the terminal", cmd_run},
    {"replay", "run the scheduler against a trace on simulated devices", cmd_replay},
    {"bench", "measured bandwidth of this machine, and of weir's kernels against it", cmd_bench},
    {"inspect", "show what is in a model file", cmd_inspect},
    {NULL, NULL, NULL},
};

static void usage(FILE *out)
{
    fprintf(out,
            "weir %s: an LLM inference server that schedules memory bandwidth\n\nusage: weir COMMAND [options]\n\n",
            WEIR_VERSION);
    for (const struct command *c = commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fprintf(out, "\n`weir COMMAND --help` tells more, with examples.\n");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "--help";
    if (!strcmp(name, "--version") || !strcmp(name, "version")) {
        printf("weir %s\n", WEIR_VERSION);
        return 0;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        usage(stdout);
        return 0;
    }
    for (const struct command *c = commands; c->name; c++) {
        if (!strcmp(c->name, name))
            return c->run(argc - 1, argv + 1);
    }
    fprintf(stderr, "weir: there is no command '%s'\n\n", name);
    usage(stderr);
    return 2;
}
