/* What metrics and accounting cost at 64 running sequences. One engine decodes; every BLOCK_STEPS steps all of it is
 * switched on or off: each request's accounts in every step, step records, a scrape of the whole metrics page every 50 ms
 * and a frame of the live state twice a second, rendered by a thread of its own, as the server's network thread does.
 * Two blocks that follow each other are a pair (off on, on off, off on, ...), so that what changes slowly cancels out.
 *
 *   loop   the engine's loop on a device that does nothing: microseconds that being watched adds to a step
 *   model  the demo model
 *
 * usage: observe_cost [RUNS]       each run gives some 47 pairs
 */
#include "base/clock.h"
#include "base/log.h"
#include "cli/load.h"
#include "engine/engine_impl.h"
#include "server/metrics.h"
#include "server/weir_json.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_SEQS = 64, WARM_STEPS = 100, N_PROMPT = 64, CONTEXT = 2048, BLOCK_STEPS = 20, MAX_BLOCKS = 4096 };

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
    struct engine *engine; /* the loaded one; its thread calls the sink */
    atomic_bool on, stop;
    atomic_uint n_ended;

    /* The engine thread's. */
    uint64_t n_steps;
    double block_began_s, blocks[MAX_BLOCKS]; /* seconds of a step */
    uint32_t n_blocks;

    /* The watching thread's. */
    uint64_t n_scrapes, n_frames, n_bytes;
    double watch_s, on_s;
};

/* off on on off off on on off ... */
static bool is_on(uint32_t block)
{
    return block % 4 == 1 || block % 4 == 2;
}

/* Called by the engine's own thread, whose switch it is. */
static void note_step(struct turn *t)
{
    if (++t->n_steps < WARM_STEPS || (t->n_steps - WARM_STEPS) % BLOCK_STEPS)
        return;
    double now_s = clock_monotonic_s();
    if (t->block_began_s > 0 && t->n_blocks < MAX_BLOCKS)
        t->blocks[t->n_blocks++] = (now_s - t->block_began_s) / BLOCK_STEPS;
    t->engine->keeps_accounts = is_on(t->n_blocks);
    atomic_store(&t->on, is_on(t->n_blocks));
    t->block_began_s = clock_monotonic_s();
}

static void sink(const struct gen_event *ev)
{
    struct turn *t = ev->user;
    if (ev->finish != FINISH_NONE)
        atomic_fetch_add(&t->n_ended, 1);
}

/* The first sequence's: once a step. */
static void first_sink(const struct gen_event *ev)
{
    if (ev->has_token)
        note_step(ev->user);
    sink(ev);
}

static void submit(struct turn *t)
{
    for (int i = 0; i < N_SEQS; i++) {
        struct err e;
        uint64_t id;
        struct gen_request r = {.n_prompt = N_PROMPT,
                                .max_new_tokens = CONTEXT - N_PROMPT,
                                .ignore_eos = true,
                                .sink = i ? sink : first_sink,
                                .user = t};
        sampling_params_default(&r.sampling);
        r.sampling.temperature = 0;
        r.prompt = malloc(N_PROMPT * sizeof *r.prompt);
        for (int k = 0; k < N_PROMPT; k++)
            r.prompt[k] = 100 + (i * 7 + k * 3) % 500;
        if (engine_submit(t->engine, &r, &id, &e)) {
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
    const struct engine_view *v = engine_take_view(t->engine);
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
    monitor_init(&m, t->engine, &(struct monitor_figures){.peak_bytes_per_s = 1e10, .peak_flops_per_s = 1e11},
                 clock_monotonic_s());
    double began_s = thread_s();
    for (uint64_t i = 0; !atomic_load(&t->stop); i++) {
        usleep(50000);
        if (!atomic_load(&t->on))
            continue;
        t->on_s += 0.05;
        double now_s = clock_monotonic_s();
        if (i % 10 == 0) {
            monitor_tick(&m, now_s, now_s);
            engine_ask_view(t->engine);
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

/* Without the tenth at either end; *error: its standard error. */
static double trimmed_mean(double *v, int n, double *error)
{
    int cut = n / 10;
    double sum = 0, squares = 0;
    qsort(v, (size_t)n, sizeof *v, by_value);
    for (int i = cut; i < n - cut; i++)
        sum += v[i];
    double mean = sum / (n - 2 * cut);
    for (int i = 0; i < n; i++) { /* winsorised */
        double x = v[i < cut ? cut : i >= n - cut ? n - cut - 1 : i] - mean;
        squares += x * x;
    }
    *error = sqrt(squares / (n - 1)) / (0.8 * sqrt(n));
    return mean;
}

/* In place of the loaded engine, one on the idle device. */
static void replace_engine(struct loaded *l)
{
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

/* Decodes to the context's end; the blocks are in t. */
static void run(struct turn *t, bool idle)
{
    struct err e;
    pthread_t thread;
    memset(t, 0, sizeof *t);
    load_config_default(&t->config);
    t->config.max_running = N_SEQS;
    t->config.context = CONTEXT;
    t->config.quiet = true;
    t->config.policy = "fcfs"; /* all 64 run */
    if (load_open(&t->loaded, &t->config, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    if (idle)
        replace_engine(&t->loaded);
    t->engine = t->loaded.engine;
    pthread_create(&thread, NULL, watch, t);
    submit(t);
    while (atomic_load(&t->n_ended) < N_SEQS)
        usleep(1000);
    atomic_store(&t->stop, true);
    pthread_join(thread, NULL);
    load_close(&t->loaded);
}

static void compare(const char *name, bool idle, int n_runs)
{
    static struct turn t;
    static double off[MAX_BLOCKS], on[MAX_BLOCKS], more_s[MAX_BLOCKS];
    double watch_s = 0, on_s = 0;
    uint64_t n_scrapes = 0, n_frames = 0, n_bytes = 0;
    int n = 0;
    for (int i = 0; i < n_runs; i++) {
        run(&t, idle);
        for (uint32_t b = 0; b + 1 < t.n_blocks && n < MAX_BLOCKS; b += 2, n++) {
            on[n] = t.blocks[is_on(b) ? b : b + 1];
            off[n] = t.blocks[is_on(b) ? b + 1 : b];
            more_s[n] = on[n] - off[n];
        }
        watch_s += t.watch_s;
        on_s += t.on_s;
        n_scrapes += t.n_scrapes;
        n_frames += t.n_frames;
        n_bytes += t.n_bytes;
    }
    double off_s = quantile(off, n, 0.5), with_s = quantile(on, n, 0.5), error;
    double d = trimmed_mean(more_s, n, &error);
    printf("%-6s %d pairs of %d steps: off %.1f us, on %.1f us; difference %+.1f +- %.1f us, %+.2f +- %.2f %%\n", name,
           n, BLOCK_STEPS, off_s * 1e6, with_s * 1e6, d * 1e6, error * 1e6, 100 * d / off_s, 100 * error / off_s);
    if (!idle)
        printf("       watching thread: %.2f %% of a core while on; %llu scrapes, %llu frames of %.1f KB\n",
               100 * watch_s / on_s, (unsigned long long)n_scrapes, (unsigned long long)n_frames,
               n_frames ? (double)n_bytes / 1e3 / (double)n_frames : 0.0);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int n_runs = argc > 1 ? atoi(argv[1]) : 4;
    if (n_runs < 1 || n_runs > 100) {
        fprintf(stderr, "usage: observe_cost [RUNS]\n");
        return 2;
    }
    log_setup(LOG_ERROR, LOG_TEXT);
    compare("loop", true, n_runs);
    compare("model", false, n_runs);
    return 0;
}
