#include "device/cpu/quota.h"

#include "base/file.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES 65536

/* The first two numbers of a file; 1 for a second that is absent. -1 if there is no number ("max"). */
static double ratio_in(const char *dir, const char *name)
{
    char path[PATH_MAX], *text;
    size_t n;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path ||
        file_read(path, MAX_FILE_BYTES, &text, &n, NULL))
        return -1;
    char *end = text;
    double quota = strtod(text, &end), period = 1;
    if (end == text)
        quota = -1;
    else if (*end == ' ')
        period = strtod(end, NULL);
    free(text);
    return quota > 0 && period > 0 ? quota / period : -1;
}

static double quota_of(const char *dir)
{
    double q = ratio_in(dir, "cpu.max");
    if (q < 0) {
        double period_us = ratio_in(dir, "cpu.cfs_period_us"), quota_us = ratio_in(dir, "cpu.cfs_quota_us");
        q = period_us > 0 && quota_us > 0 ? quota_us / period_us : -1;
    }
    return q > 0 ? q : INFINITY;
}

/* The least quota of base/group and of all above it down to base itself. In a container the group's path may not exist
 * below the mount, which then is the group. */
static double least_quota(const char *base, const char *group)
{
    char dir[PATH_MAX];
    int n = snprintf(dir, sizeof dir, "%s%s", base, group);
    if (n < 0 || n >= (int)sizeof dir)
        return quota_of(base);
    double least = INFINITY;
    for (;;) {
        least = fmin(least, quota_of(dir));
        char *slash = strrchr(dir, '/');
        if (!slash || slash < dir + strlen(base))
            break;
        *slash = 0;
    }
    return fmin(least, quota_of(base));
}

double cpu_quota(const char *proc_cgroup, const char *mount)
{
    char *text;
    size_t n;
    if (file_read(proc_cgroup, MAX_FILE_BYTES, &text, &n, NULL))
        return INFINITY;
    double least = INFINITY;
    char *rest = text;
    /* Lines of hierarchy:controllers:path; v2 has one with no controllers. */
    for (char *line; (line = strsep(&rest, "\n"));) {
        strsep(&line, ":");
        char *controllers = line ? strsep(&line, ":") : NULL;
        if (!line || line[0] != '/')
            continue;
        char base[PATH_MAX];
        bool v2 = !*controllers, is_cpu = false;
        for (char *c; (c = strsep(&controllers, ","));)
            is_cpu |= !strcmp(c, "cpu");
        if ((v2 || is_cpu) && snprintf(base, sizeof base, "%s%s", mount, v2 ? "" : "/cpu") < (int)sizeof base)
            least = fmin(least, least_quota(base, line));
    }
    free(text);
    return least;
}
