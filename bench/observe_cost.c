/* What metrics and accounting cost at 64 running sequences, in turns with everything off and with everything on. "On"
 * is each request's accounts in every step, step records, a scrape of the whole metrics page every 50 ms and a frame of
 * the live state twice a second, rendered by a thread of its own, as the server's network thread does.
 *
 *   loop   the engine's loop on a device that does nothing: microseconds that being watched adds to a step
 *   model  the demo model decodes: time of a step in blocks of some 20, the lower quartile of a turn's blocks (what
 *          else runs on the machine only adds), and the median of the paired differences
 *
 * usage: observe_cost [PAIRS [STEPS]]
 */
#include "base/clock.h"
#include "base/log.h"
#include "cli/load.h"
#include "server/metrics.h"
#include "server/weir_json.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    N_SEQS = 64,
    WARM_STEPS = 30,
    N_PROMPT = 64,
    CONTEXT = 4096,
    BLOCK_STEPS = 20,
    MAX_BLOCKS = 512,
    MAX_PAIRS = 64
};

/* A device that does nothing and counts what a small model would move. */
struct idle_device {
    struct device base;
    float *logits;
    struct step_result result;
};

static int idle_start(struct device *d, const struct step *s, struct err *e)
{
    (void)e;
    struct idle_device *f = (struct idle_device *)d;
    f->result = (struct step_result){.logits = f->logits,
                                     .seconds = 1e-5,
                                     .traffic = {.weight_bytes = 3000000,
                                                 .kv_read_bytes = 500000ull * s->n_seqs,
                                                 .kv_write_bytes = 2048ull * s->n_rows,
                                                 .activation_bytes = 200000ull * s->n_rows,
                                                 .flops = 6e6 * s->n_rows}};
    return 0;
}

static int idle_wait(struct device *d, struct step_result *out, struct err *e)
{
    (void)e;
    *out = ((struct idle_device *)d)->result;
    return 0;
}

static void idle_copy(struct device *d, uint32_t src, uint32_t dst, uint32_t n)
{
    (void)d, (void)src, (void)dst, (void)n;
}

static void idle_destroy(struct device *d)
{
    free(((struct idle_device *)d)->logits);
    free(d);
}

static const struct device_ops idle_ops = {
    .name = "idle", .destroy = idle_destroy, .start = idle_start, .wait = idle_wait, .copy_chunk = idle_copy};

struct turn {
    struct loaded loaded;
    struct load_config config;
    atomic_uint n_ended;
    atomic_bool stop;
    uint64_t n_scrapes, n_frames, n_bytes;
    double watch_s, seconds; /* processor time of the watching thread; of the turn */
};

static void sink(const struct gen_event *ev)
{
    struct turn *t = ev->user;
    if (ev->finish != FINISH_NONE)
        atomic_fetch_add(&t->n_ended, 1);
}

static void submit(struct turn *t, uint32_t max_new)
{
    for (int i = 0; i < N_SEQS; i++) {
        struct err e;
        uint64_t id;
        struct gen_request r = {
            .n_prompt = N_PROMPT, .max_new_tokens = max_new, .ignore_eos = true, .sink = sink, .user = t};
        sampling_params_default(&r.sampling);
        r.sampling.temperature = 0;
        r.prompt = malloc(N_PROMPT * sizeof *r.prompt);
        for (int k = 0; k < N_PROMPT; k++)
            r.prompt[k] = 100 + (i * 7 + k * 3) % 500;
        if (engine_submit(t->loaded.engine, &r, &id, &e)) {
            fprintf(stderr, "%s\n", e.msg);
            exit(1);
        }
    }
}

static double thread_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static struct weir_info info_of(const struct turn *t)
{
    const struct sched_config *sc = &t->loaded.config.sched;
    return (struct weir_info){.model = t->loaded.model->name,
                              .policy = "weir",
                              .currency = "USD",
                              .kv_type = "f16",
                              .max_context = sc->max_context,
                              .chunk_tokens = sc->chunk_tokens,
                              .n_chunks = sc->n_chunks,
                              .chunk_bytes = t->loaded.kv_bytes / sc->n_chunks};
}

static void frame(struct turn *t, struct monitor *m, const struct weir_info *in, struct buf *out)
{
    static struct state_seq running[ENGINE_VIEW_RUNNING], queued[ENGINE_VIEW_QUEUED];
    const struct engine_view *v = engine_take_view(t->loaded.engine);
    if (!v)
        return;
    for (uint32_t i = 0; i < v->n_running; i++)
        running[i] = (struct state_seq){.seq = &v->running[i], .id = "cmpl-0123456789abcdef01234567", .key = "team"};
    for (uint32_t i = 0; i < v->n_queued; i++)
        queued[i] = (struct state_seq){.seq = &v->queued[i], .id = "cmpl-0123456789abcdef01234567", .key = "team"};
    struct state_frame f = {
        .info = in, .monitor = m, .view = v, .running = running, .queued = queued, .health = "ready"};
    buf_clear(out);
    weir_json_state(out, &f, false);
    t->n_frames++;
    t->n_bytes += out->len;
}

static void *watch(void *arg)
{
    struct turn *t = arg;
    static struct monitor m;
    static struct metrics metrics;
    struct weir_info in = info_of(t);
    struct metrics_info mi = {.info = &in, .monitor = &m};
    struct buf out;
    buf_init(&out, 1 << 22);
    metrics_init(&metrics, in.max_context);
    monitor_init(&m, t->loaded.engine, &(struct monitor_figures){.peak_bytes_per_s = 1e10, .peak_flops_per_s = 1e11},
                 clock_monotonic_s());
    double began_s = thread_s();
    for (uint64_t i = 0; !atomic_load(&t->stop); i++) {
        usleep(50000);
        double now_s = clock_monotonic_s();
        if (i % 10 == 0) {
            monitor_tick(&m, now_s, now_s);
            engine_ask_view(t->loaded.engine);
        }
        frame(t, &m, &in, &out);
        monitor_look(&m, now_s);
        buf_clear(&out);
        metrics_render(&out, &metrics, &mi, true);
        t->n_scrapes++;
    }
    t->watch_s = thread_s() - began_s;
    buf_finish(&out);
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double *v, int n, double q)
{
    if (!n)
        return (double)NAN;
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[(int)(q * (n - 1) + 0.5)];
}

/* In place of the loaded engine, one on the idle device. */
static void replace_engine(struct turn *t)
{
    struct loaded *l = &t->loaded;
    struct err e;
    load_stop_engine(l);
    struct idle_device *d = calloc(1, sizeof *d);
    d->base = (struct device){.ops = &idle_ops, .model = l->model, .config = engine_device_config(&l->config)};
    d->logits = calloc((size_t)d->base.config.max_outputs * l->model->n_vocab, sizeof *d->logits);
    if (engine_create_on(&l->engine, &d->base, l->tokenizer, &l->config, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
}

static void start(struct turn *t, bool on, bool idle)
{
    struct err e;
    memset(t, 0, sizeof *t);
    load_config_default(&t->config);
    t->config.max_running = N_SEQS;
    t->config.context = CONTEXT;
    t->config.quiet = true;
    t->config.no_accounts = !on;
    if (load_open(&t->loaded, &t->config, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    if (idle)
        replace_engine(t);
}

/* Seconds of a step in which all sequences decode. */
static double run(bool on, bool idle, uint32_t n_steps, struct turn *t)
{
    struct engine_stats first, last;
    double blocks[MAX_BLOCKS], began_s, seconds;
    int n_blocks = 0;
    pthread_t thread;
    start(t, on, idle);
    submit(t, CONTEXT - N_PROMPT);
    do { /* until all have their first tokens */
        usleep(500);
        engine_stats(t->loaded.engine, &first);
    } while (first.sched.n_running < N_SEQS || first.sched.generated_tokens < N_SEQS * WARM_STEPS);
    if (on)
        pthread_create(&thread, NULL, watch, t);
    uint64_t end = first.n_steps + n_steps;
    for (bool more = true; more && n_blocks < MAX_BLOCKS;) {
        engine_stats(t->loaded.engine, &first);
        began_s = clock_monotonic_s();
        do {
            usleep(500);
            engine_stats(t->loaded.engine, &last);
        } while (last.n_steps < first.n_steps + BLOCK_STEPS && last.sched.n_running == N_SEQS);
        seconds = clock_monotonic_s() - began_s;
        more = last.n_steps < end && last.sched.n_running == N_SEQS;
        if (last.sched.n_running == N_SEQS)
            blocks[n_blocks++] = seconds / (double)(last.n_steps - first.n_steps);
        t->seconds += seconds;
    }
    atomic_store(&t->stop, true);
    if (on)
        pthread_join(thread, NULL);
    load_close(&t->loaded);
    return quantile(blocks, n_blocks, 0.25);
}

static void compare(const char *name, bool idle, int n_pairs, uint32_t n_steps)
{
    double off[MAX_PAIRS], on[MAX_PAIRS], more_s[MAX_PAIRS], watch_s = 0, wall_s = 0;
    uint64_t n_scrapes = 0, n_frames = 0, n_bytes = 0;
    static struct turn t;
    for (int i = 0; i < n_pairs; i++) {
        for (int k = 0; k < 2; k++) {
            bool is_on = k == i % 2; /* each goes first in turn */
            *(is_on ? &on[i] : &off[i]) = run(is_on, idle, n_steps, &t);
            if (!is_on)
                continue;
            watch_s += t.watch_s;
            wall_s += t.seconds;
            n_scrapes += t.n_scrapes;
            n_frames += t.n_frames;
            n_bytes += t.n_bytes;
        }
        more_s[i] = on[i] - off[i];
    }
    double off_s = quantile(off, n_pairs, 0.5), d = quantile(more_s, n_pairs, 0.5);
    printf("%-6s %2d pairs of %5u steps: off %8.1f us, on %8.1f us, difference %+6.1f us, %+5.2f %%; quartiles %+.1f "
           "%+.1f us\n",
           name, n_pairs, n_steps, off_s * 1e6, quantile(on, n_pairs, 0.5) * 1e6, d * 1e6, 100 * d / off_s,
           quantile(more_s, n_pairs, 0.25) * 1e6, quantile(more_s, n_pairs, 0.75) * 1e6);
    printf("       watching thread: %.2f %% of a core; %llu scrapes, %llu frames of %.1f KB\n", 100 * watch_s / wall_s,
           (unsigned long long)n_scrapes, (unsigned long long)n_frames,
           n_frames ? (double)n_bytes / 1e3 / (double)n_frames : 0.0);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int n_pairs = argc > 1 ? atoi(argv[1]) : 9;
    int n_steps = argc > 2 ? atoi(argv[2]) : 600;
    if (n_pairs < 1 || n_pairs > MAX_PAIRS || n_steps < 20 || n_steps > CONTEXT - 500) {
        fprintf(stderr, "usage: observe_cost [PAIRS [STEPS]], up to %d and %d\n", MAX_PAIRS, CONTEXT - 500);
        return 2;
    }
    log_setup(LOG_ERROR, LOG_TEXT);
    compare("loop", true, n_pairs, (uint32_t)(CONTEXT - 500));
    compare("model", false, n_pairs, (uint32_t)n_steps);
    return 0;
}
