/* Sustained read bandwidth: every worker walks its own part of a buffer that no cache holds. */
#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/team.h"
#include "device/device.h"

#include <stdlib.h>

#define STREAMS 4
#define LINE_WORDS 8 /* 64 bytes */
#define AHEAD_WORDS (1024 / 8)

struct read_probe {
    struct team *team;
    uint64_t *words;
    size_t words_per_thread; /* a multiple of STREAMS * LINE_WORDS */
    uint64_t *sink;          /* [threads * LINE_WORDS]: keeps the reads from being optimised away */
    int n_streams;
};

typedef uint64_t word_pair __attribute__((vector_size(16), may_alias));

/* One walk forward, or STREAMS at once each through its own part: machines differ in which is faster. */
static inline __attribute__((always_inline)) uint64_t read_words(const uint64_t *words, size_t n, size_t n_streams)
{
    word_pair a = {0}, b = {0}, c = {0}, d = {0};
    const size_t part = n / n_streams;
    for (size_t i = 0; i < part; i += LINE_WORDS) {
        for (size_t s = 0; s < n_streams; s++) {
            const word_pair *line = (const word_pair *)(const void *)(words + s * part + i);
            __builtin_prefetch(words + s * part + i + AHEAD_WORDS);
            a |= line[0];
            b |= line[1];
            c |= line[2];
            d |= line[3];
        }
    }
    a |= b | c | d;
    return a[0] | a[1];
}

static void touch(void *user, uint32_t thread)
{
    const struct read_probe *p = user;
    uint64_t *words = p->words + thread * p->words_per_thread;
    for (size_t i = 0; i < p->words_per_thread; i++)
        words[i] = i;
}

static void walk(void *user, uint32_t thread)
{
    const struct read_probe *p = user;
    const uint64_t *words = p->words + thread * p->words_per_thread;
    p->sink[thread * LINE_WORDS] =
        p->n_streams == 1 ? read_words(words, p->words_per_thread, 1) : read_words(words, p->words_per_thread, STREAMS);
}

static size_t total_bytes(const struct read_probe *p)
{
    return p->words_per_thread * team_size(p->team) * sizeof *p->words;
}

static double timed_walk(struct read_probe *p, int n_streams)
{
    p->n_streams = n_streams;
    const double begin_s = clock_monotonic_s();
    team_run(p->team, walk, p);
    return (double)total_bytes(p) / (clock_monotonic_s() - begin_s);
}

double device_cpu_read_probe_pass(struct read_probe *p)
{
    const double one = timed_walk(p, 1), several = timed_walk(p, STREAMS);
    return one > several ? one : several;
}

int device_cpu_read_probe_create(struct read_probe **out, uint32_t n_threads, size_t bytes, struct err *e)
{
    struct read_probe *p = mem_array(1, sizeof *p);
    if (!p)
        return err_set(e, WEIR_ENOMEM, "no memory to measure read bandwidth");
    int rc = team_create(&p->team, n_threads, true, e);
    if (rc)
        goto fail;
    n_threads = team_size(p->team);
    const size_t unit = STREAMS * LINE_WORDS;
    p->words_per_thread = bytes / sizeof *p->words / n_threads / unit * unit;
    if (!total_bytes(p)) {
        rc = err_set(e, WEIR_EINVAL, "%zu bytes are too few to measure read bandwidth with %u threads", bytes,
                     n_threads);
        goto fail;
    }
    p->words = mem_aligned(total_bytes(p));
    p->sink = mem_array((size_t)n_threads * LINE_WORDS, sizeof *p->sink);
    if (!p->words || !p->sink) {
        rc = err_set(e, WEIR_ENOMEM, "no memory for a buffer of %zu bytes to measure read bandwidth", total_bytes(p));
        goto fail;
    }
    team_run(p->team, touch, p);
    *out = p;
    return 0;
fail:
    device_cpu_read_probe_destroy(p);
    return rc;
}

void device_cpu_read_probe_destroy(struct read_probe *p)
{
    if (!p)
        return;
    if (p->words)
        mem_free_aligned(p->words, total_bytes(p));
    free(p->sink);
    team_destroy(p->team);
    free(p);
}

int device_cpu_read_bandwidth(uint32_t n_threads, size_t bytes, double seconds, double *bytes_per_s, struct err *e)
{
    struct read_probe *p;
    int rc = device_cpu_read_probe_create(&p, n_threads, bytes, e);
    if (rc)
        return rc;
    const double end_s = clock_monotonic_s() + seconds;
    *bytes_per_s = 0;
    for (int n = 0; n < 2 || clock_monotonic_s() < end_s; n++) {
        const double rate = device_cpu_read_probe_pass(p);
        *bytes_per_s = rate > *bytes_per_s ? rate : *bytes_per_s;
    }
    device_cpu_read_probe_destroy(p);
    return 0;
}
