#include "engine/watch.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_impl.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WATCH_FRESH 4u

enum { VIEW_NONE, VIEW_ASKED, VIEW_READY };

int watch_init(struct watch *w, bool with_steps, struct err *e)
{
    pthread_mutex_init(&w->readers, NULL);
    w->back = 0;
    w->front = 1;
    atomic_init(&w->middle, 2);
    w->view = mem_array(1, sizeof *w->view);
    w->view_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->view_fd < 0)
        return err_errno(e, "eventfd");
    if (with_steps)
        w->steps = mem_array(ENGINE_STEP_RECORDS, sizeof *w->steps);
    return w->view && (w->steps || !with_steps) ? 0 : err_set(e, WEIR_ENOMEM, "no memory for records of steps");
}

void watch_finish(struct watch *w)
{
    if (!w->view) /* never initialised */
        return;
    pthread_mutex_destroy(&w->readers);
    if (w->view_fd >= 0)
        close(w->view_fd);
    free(w->view);
    free(w->steps);
}

/* ---- sums and gauges ---- */

void watch_publish(struct engine *en)
{
    struct watch *w = &en->watch;
    w->buffers[w->back] = en->stats;
    w->back = atomic_exchange_explicit(&w->middle, w->back | WATCH_FRESH, memory_order_acq_rel) & ~WATCH_FRESH;
}

void engine_stats(struct engine *en, struct engine_stats *out)
{
    struct watch *w = &en->watch;
    pthread_mutex_lock(&w->readers);
    if (atomic_load_explicit(&w->middle, memory_order_relaxed) & WATCH_FRESH)
        w->front = atomic_exchange_explicit(&w->middle, w->front, memory_order_acq_rel) & ~WATCH_FRESH;
    *out = w->buffers[w->front];
    pthread_mutex_unlock(&w->readers);
}

/* ---- steps ---- */

void watch_step(struct watch *w, const struct step_record *r)
{
    unsigned long long n = atomic_load_explicit(&w->n_written, memory_order_relaxed);
    if (n - atomic_load_explicit(&w->n_taken, memory_order_acquire) == ENGINE_STEP_RECORDS) {
        atomic_fetch_add_explicit(&w->n_lost, 1, memory_order_relaxed);
        return;
    }
    w->steps[n % ENGINE_STEP_RECORDS] = *r;
    atomic_store_explicit(&w->n_written, n + 1, memory_order_release);
}

uint32_t engine_take_steps(struct engine *en, struct step_record *out, uint32_t max, uint64_t *n_lost)
{
    struct watch *w = &en->watch;
    unsigned long long taken = atomic_load_explicit(&w->n_taken, memory_order_relaxed);
    unsigned long long written = atomic_load_explicit(&w->n_written, memory_order_acquire);
    uint32_t n = written - taken < max ? (uint32_t)(written - taken) : max;
    for (uint32_t i = 0; i < n; i++)
        out[i] = w->steps[(taken + i) % ENGINE_STEP_RECORDS];
    atomic_store_explicit(&w->n_taken, taken + n, memory_order_release);
    *n_lost = atomic_exchange_explicit(&w->n_lost, 0, memory_order_relaxed);
    return n;
}

/* ---- views ---- */

/* The time line of one that waits, up to now. */
static void fill_wait(const struct engine *en, struct gen_usage *u, double waited_s)
{
    bool began = u->n_spans > 0;
    gen_usage_span(u, began ? GEN_PREEMPTED : GEN_QUEUED, waited_s, 0, 0);
    if (!began)
        u->spans[0].reason = en->stats.sched.waiting_for;
}

static void fill_seqs(struct engine *en, struct engine_seq *seqs, uint32_t n, uint32_t n_running, bool queued)
{
    const struct traffic_model *m = en->rates.model;
    double weights = m && n_running ? (traffic_layer_weight_bytes(m, n_running) + m->output_bytes) / n_running : 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct gen *g = en->gens[slot_of(seqs[i].seq.id)];
        seqs[i].usage = g->usage;
        if (queued)
            fill_wait(en, &seqs[i].usage, en->watch.view->now_s - g->submitted_s);
        seqs[i].next_token_bytes =
            m ? weights + m->embedding_row_bytes + traffic_decode_kv_bytes(m, seqs[i].seq.n_past) : 0;
    }
}

void watch_view(struct engine *en)
{
    struct watch *w = &en->watch;
    if (atomic_load_explicit(&w->view_state, memory_order_acquire) != VIEW_ASKED)
        return;
    struct engine_view *v = w->view;
    struct sched_seq_view list[ENGINE_VIEW_RUNNING];
    _Static_assert(ENGINE_VIEW_QUEUED <= ENGINE_VIEW_RUNNING, "one list for both");
    v->now_s = clock_monotonic_s();
    v->stats = en->stats;
    v->n_running = sched_view_running(en->sched, list, ENGINE_VIEW_RUNNING);
    for (uint32_t i = 0; i < v->n_running; i++)
        v->running[i].seq = list[i];
    v->n_queued = sched_view_queue(en->sched, list, ENGINE_VIEW_QUEUED);
    for (uint32_t i = 0; i < v->n_queued; i++)
        v->queued[i].seq = list[i];
    fill_seqs(en, v->running, v->n_running, en->stats.sched.n_running, false);
    fill_seqs(en, v->queued, v->n_queued, en->stats.sched.n_running + 1, true);
    v->chunks_per_cell = (en->config.n_chunks + ENGINE_VIEW_CELLS - 1) / ENGINE_VIEW_CELLS;
    v->n_cells = sched_view_chunks(en->sched, v->chunks_per_cell, v->cells);
    atomic_store_explicit(&w->view_state, VIEW_READY, memory_order_release);
    uint64_t one = 1;
    ssize_t n = write(w->view_fd, &one, sizeof one);
    (void)n;
}

void engine_ask_view(struct engine *en)
{
    if (atomic_load_explicit(&en->watch.view_state, memory_order_relaxed) == VIEW_ASKED)
        return;
    atomic_store_explicit(&en->watch.view_state, VIEW_ASKED, memory_order_release);
    ring_kick(&en->inbox);
}

const struct engine_view *engine_take_view(struct engine *en)
{
    struct watch *w = &en->watch;
    uint64_t ignored;
    if (atomic_load_explicit(&w->view_state, memory_order_acquire) != VIEW_READY)
        return NULL;
    ssize_t n = read(w->view_fd, &ignored, sizeof ignored);
    (void)n;
    atomic_store_explicit(&w->view_state, VIEW_NONE, memory_order_relaxed);
    return w->view;
}

int engine_view_fd(const struct engine *en)
{
    return en->watch.view_fd;
}
