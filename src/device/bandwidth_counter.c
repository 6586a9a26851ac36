#include "device/bandwidth_counter.h"

#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_SOURCES 256

/* A cache's file, or an open event. */
struct source {
    char *path; /* NULL: an event */
    int fd;
    double bytes_per_count;
    uint64_t last;
    bool known; /* last is a reading */
};

struct bandwidth_counter {
    const char *name;
    char group[4200]; /* the monitoring group that was made, or empty */
    struct source sources[MAX_SOURCES];
    size_t n_sources;
    double bytes;
};

/* ---- resctrl ---- */

/* A number, or nothing: the kernel writes "Unavailable" and "Error" too. */
static bool read_count(const char *path, uint64_t *out)
{
    char *text, *end;
    size_t n;
    if (file_read(path, 256, &text, &n, NULL))
        return false;
    errno = 0;
    *out = strtoull(text, &end, 10);
    bool valid = *text >= '0' && *text <= '9' && (*end == '\n' || !*end) && !errno;
    free(text);
    return valid;
}

static int add_caches(struct bandwidth_counter *c, const char *group)
{
    char dir[4300];
    snprintf(dir, sizeof dir, "%s/mon_data", group);
    DIR *d = opendir(dir);
    if (!d)
        return 0;
    for (struct dirent *f; (f = readdir(d)) && c->n_sources < MAX_SOURCES;) {
        char path[4600];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s/mbm_total_bytes", dir, f->d_name);
        if (strncmp(f->d_name, "mon_", 4) || stat(path, &st))
            continue;
        char *copy = mem_strndup(path, strlen(path));
        if (copy)
            c->sources[c->n_sources++] = (struct source){.path = copy, .fd = -1, .bytes_per_count = 1};
    }
    closedir(d);
    return (int)c->n_sources;
}

/* Puts every thread of this process into the group; later ones follow those that start them. */
static bool join_group(const char *group)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/tasks", group);
    DIR *d = opendir("/proc/self/task");
    bool all = d != NULL;
    for (struct dirent *t; d && (t = readdir(d));) {
        if (t->d_name[0] == '.')
            continue;
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        all &= fd >= 0 && write(fd, t->d_name, strlen(t->d_name)) > 0;
        if (fd >= 0)
            close(fd);
    }
    if (d)
        closedir(d);
    return all;
}

static bool open_resctrl(struct bandwidth_counter *c, const char *root, struct err *e)
{
    char path[4200], *features;
    size_t n;
    if (snprintf(path, sizeof path, "%s/info/L3_MON/mon_features", root) >= 4096 ||
        file_read(path, 4096, &features, &n, e))
        return false;
    bool offered = strstr(features, "mbm_total_bytes") != NULL;
    free(features);
    if (!offered)
        return false;
    c->name = "resctrl";
    snprintf(path, sizeof path, "%s/mon_groups/weir-%d", root, (int)getpid());
    bool made = !mkdir(path, 0755) || errno == EEXIST;
    if (made && join_group(path) && add_caches(c, path)) {
        memcpy(c->group, path, sizeof c->group);
        return true;
    }
    if (made)
        rmdir(path);
    return add_caches(c, root) > 0;
}

/* ---- perf ---- */

static bool open_event(struct bandwidth_counter *c, const struct pmu_event *ev, int cpu)
{
    struct perf_event_attr attr = {.size = sizeof attr,
                                   .type = ev->type,
                                   .config = ev->config[0],
                                   .config1 = ev->config[1],
                                   .config2 = ev->config[2]};
    if (c->n_sources == MAX_SOURCES)
        return false;
    int fd = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return false;
    c->sources[c->n_sources++] = (struct source){.fd = fd, .bytes_per_count = ev->bytes_per_count};
    return true;
}

/* On one processor of each socket: those of PMU/cpumask. */
static void open_on_sockets(struct bandwidth_counter *c, const char *pmu, const struct pmu_event *ev)
{
    char path[4400], *mask;
    size_t n;
    snprintf(path, sizeof path, "%s/cpumask", pmu);
    if (file_read(path, 4096, &mask, &n, NULL))
        return;
    for (char *at = mask, *end; *at; at = *end ? end + 1 : end) {
        long cpu = strtol(at, &end, 10);
        if (end == at)
            break;
        open_event(c, ev, (int)cpu);
    }
    free(mask);
}

static void open_pmu(struct bandwidth_counter *c, const char *root, const char *name)
{
    static const char *const intel[] = {"cas_count_read", "cas_count_write", "data_reads", "data_writes"};
    static const char *const amd[] = {"event=0x0a,rdwrmask=0x1", "event=0x0a,rdwrmask=0x2"};
    char pmu[4300];
    snprintf(pmu, sizeof pmu, "%s/%s", root, name);
    bool is_intel = !strncmp(name, "uncore_imc", 10) && !strstr(name, "free_running");
    bool is_amd = !strncmp(name, "amd_umc", 7);
    struct pmu_event ev;
    for (size_t i = 0; is_intel && i < sizeof intel / sizeof *intel; i++) {
        if (!pmu_event_read(pmu, intel[i], &ev, NULL))
            open_on_sockets(c, pmu, &ev);
    }
    for (size_t i = 0; is_amd && i < sizeof amd / sizeof *amd; i++) {
        pmu_event_read(pmu, "", &ev, NULL); /* its type; it lists no events */
        if (ev.type && !pmu_event_parse(pmu, amd[i], &ev, NULL))
            open_on_sockets(c, pmu, &ev);
    }
    if (c->n_sources && !c->name)
        c->name = is_intel ? "uncore_imc" : "amd_umc";
}

static bool open_pmus(struct bandwidth_counter *c, const char *root)
{
    DIR *d = opendir(root);
    for (struct dirent *f; d && (f = readdir(d));) {
        if (strlen(root) + strlen(f->d_name) < 4096)
            open_pmu(c, root, f->d_name);
    }
    if (d)
        closedir(d);
    return c->n_sources > 0;
}

/* ---- both ---- */

int bandwidth_counter_open(struct bandwidth_counter **out, const char *resctrl_root, const char *pmu_root,
                           struct err *e)
{
    *out = NULL;
    struct bandwidth_counter *c = mem_array(1, sizeof *c);
    if (!c)
        return err_set(e, WEIR_ENOMEM, "no memory for a counter");
    bool found = open_resctrl(c, resctrl_root, NULL);
    if (!found) {
        c->name = NULL;
        found = open_pmus(c, pmu_root);
    }
    if (!found) {
        bandwidth_counter_close(c);
        return err_set(e, WEIR_ENOTFOUND,
                       "neither memory bandwidth monitoring in %s nor memory-controller events that we may open in %s",
                       resctrl_root, pmu_root);
    }
    bandwidth_counter_bytes(c); /* from here on */
    c->bytes = 0;
    *out = c;
    return 0;
}

void bandwidth_counter_close(struct bandwidth_counter *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_sources; i++) {
        free(c->sources[i].path);
        if (c->sources[i].fd >= 0)
            close(c->sources[i].fd);
    }
    if (c->group[0])
        rmdir(c->group);
    free(c);
}

const char *bandwidth_counter_name(const struct bandwidth_counter *c)
{
    return c->name;
}

uint64_t bandwidth_counter_bytes(struct bandwidth_counter *c)
{
    for (size_t i = 0; i < c->n_sources; i++) {
        struct source *s = &c->sources[i];
        uint64_t now;
        bool valid = s->path ? read_count(s->path, &now) : read(s->fd, &now, sizeof now) == (ssize_t)sizeof now;
        if (!valid)
            continue;
        if (s->known && now > s->last) /* less: the counter was given to somebody else in between */
            c->bytes += (double)(now - s->last) * s->bytes_per_count;
        s->last = now;
        s->known = true;
    }
    return (uint64_t)c->bytes;
}
