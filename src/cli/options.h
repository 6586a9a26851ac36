/* Command-line options and config files, by one table.
 *
 *   const struct option_def defs[] = {
 *       OPTION("port", OPT_U32, &port, "N", "port to listen on (default 8080; 0: any)", .max = 65535),
 *       OPTIONS_END};
 *
 * An option is given as `--name value`, `--name=value`, `-letter value` or, for OPT_FLAG, without a value; `--` ends
 * the options. With
 * `--config FILE` a file is read first, one `name = value` a line (flags: true or false; # begins a comment line), so
 * that the command line overrides it. Every option of the table may stand in the file. Targets keep their defaults when
 * an option is absent. Strings point into argv or into memory that options_finish frees.
 */
#ifndef WEIR_CLI_OPTIONS_H
#define WEIR_CLI_OPTIONS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPTIONS_MAX_LIST 1024

enum option_kind {
    OPT_FLAG,  /* bool */
    OPT_U32,   /* uint32_t, min .. max (max 0: UINT32_MAX) */
    OPT_F64,   /* double, min .. max (max 0: 1e9) */
    OPT_BYTES, /* size_t; suffixes K M G T (1024) */
    OPT_RATE,  /* double, bytes a second, min .. max; suffixes K M G T (1000), as rates are shown and sold */
    OPT_STR,   /* const char * */
    OPT_LIST,  /* struct option_list: may be repeated */
    OPT_TITLE, /* no option: a headline of the help */
};

struct option_list {
    const char **items; /* ends with NULL once there is one */
    size_t n;
};

struct option_def {
    const char *name;
    enum option_kind kind;
    void *target;
    const char *metavar, *help;
    double min, max;
    char letter; /* 0, or a short form: 'p' for `-p value` */
};

#define OPTION(name_, kind_, target_, metavar_, help_, ...)                                                            \
    {                                                                                                                  \
        .name = (name_), .kind = (kind_), .target = (target_), .metavar = (metavar_), .help = (help_), ##__VA_ARGS__   \
    }
#define OPTIONS_TITLE(name_) OPTION(name_, OPT_TITLE, NULL, NULL, NULL)
#define OPTIONS_END OPTION(NULL, OPT_TITLE, NULL, NULL, NULL)

struct options {
    const struct option_def *defs; /* ends with a NULL name */
    bool help;                     /* --help or -h was given */
    const char **positional;       /* in order */
    size_t n_positional;
    char **owned; /* text of config files */
    size_t n_owned;
};

/* argv[0] is skipped. The error says which option is wrong and how. */
int options_parse(struct options *o, const struct option_def *defs, int argc, char **argv, struct err *e);
void options_finish(struct options *o);

/* The table as text on stdout. */
void options_help(const struct option_def *defs);

#endif
