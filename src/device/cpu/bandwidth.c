/* Sustained read bandwidth: every worker walks its own part of a buffer that no cache holds. */
#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/team.h"
#include "device/device.h"

#include <stdlib.h>

#define STREAMS 4
#define LINE_WORDS 8 /* 64 bytes */
#define AHEAD_WORDS (1024 / 8)

struct walk {
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
    const struct walk *w = user;
    uint64_t *p = w->words + thread * w->words_per_thread;
    for (size_t i = 0; i < w->words_per_thread; i++)
        p[i] = i;
}

static void pass(void *user, uint32_t thread)
{
    const struct walk *w = user;
    const uint64_t *p = w->words + thread * w->words_per_thread;
    w->sink[thread * LINE_WORDS] =
        w->n_streams == 1 ? read_words(p, w->words_per_thread, 1) : read_words(p, w->words_per_thread, STREAMS);
}

static double best_pass(struct walk *w, double seconds)
{
    const double bytes = (double)w->words_per_thread * sizeof *w->words * team_size(w->team);
    const double end_s = clock_monotonic_s() + seconds;
    double best = 0;
    team_run(w->team, touch, w);
    for (int n = 0; n < 4 || clock_monotonic_s() < end_s; n++) {
        w->n_streams = n % 2 ? STREAMS : 1;
        double begin_s = clock_monotonic_s();
        team_run(w->team, pass, w);
        double rate = bytes / (clock_monotonic_s() - begin_s);
        best = rate > best ? rate : best;
    }
    return best;
}

int device_cpu_read_bandwidth(uint32_t n_threads, size_t bytes, double seconds, double *bytes_per_s, struct err *e)
{
    struct walk w = {0};
    int rc = team_create(&w.team, n_threads, true, e);
    if (rc)
        return rc;
    n_threads = team_size(w.team);
    const size_t unit = STREAMS * LINE_WORDS;
    w.words_per_thread = bytes / sizeof *w.words / n_threads / unit * unit;
    const size_t total_bytes = w.words_per_thread * n_threads * sizeof *w.words;
    if (!total_bytes) {
        rc = err_set(e, WEIR_EINVAL, "%zu bytes are too few to measure read bandwidth with %u threads", bytes,
                     n_threads);
        goto out;
    }
    w.words = mem_aligned(total_bytes);
    w.sink = mem_array((size_t)n_threads * LINE_WORDS, sizeof *w.sink);
    if (!w.words || !w.sink) {
        rc = err_set(e, WEIR_ENOMEM, "no memory for a buffer of %zu bytes to measure read bandwidth", total_bytes);
        goto out;
    }
    *bytes_per_s = best_pass(&w, seconds);
out:
    mem_free_aligned(w.words, total_bytes);
    free(w.sink);
    team_destroy(w.team);
    return rc;
}
