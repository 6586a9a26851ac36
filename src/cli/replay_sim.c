#include "cli/replay_sim.h"

#include "base/mem.h"
#include "base/rng.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A request while the scheduler has it. */
struct live {
    uint64_t *hashes; /* of all full chunks of prompt and output */
    uint32_t n_out;   /* tokens produced */
    double last_token_s, first_token_s;
};

/* A request that arrives when another has ended. */
struct later {
    double at_s;
    uint32_t request;
};

struct replica {
    struct sched *sched;
    struct calibration device;
    struct plan plan;
    struct seq_outcome *outcomes; /* [max_running] */
    bool running;
    double step_end_s, step_s;
    struct traffic_cost cost;
};

struct sim {
    const struct replay_config *c;
    struct replay_result *r;
    struct replica *replicas;
    struct live *live;                        /* [n_requests] */
    uint32_t *first_follower, *next_follower; /* requests by the one they come after; index + 1 */
    struct later *heap;                       /* arrivals to come behind others, earliest first */
    uint32_t n_heap;
    uint32_t next_arrival; /* in the trace, of those that come by themselves */
    uint32_t n_ended;
    struct rng rng;
    double now_s, series_at_s;
    struct err *e;
    int failed;
};

/* --- results ---------------------------------------------------------------------------------------------------- */

#define GAP_MIN_S 1e-6
#define GAP_RATIO 1.02

static void note_gap(struct replay_gaps *g, double s)
{
    double i = s > GAP_MIN_S ? log(s / GAP_MIN_S) / log(GAP_RATIO) : 0;
    g->counts[i < REPLAY_GAP_BUCKETS - 1 ? (uint32_t)i : REPLAY_GAP_BUCKETS - 1]++;
    g->n++;
}

double replay_gap_quantile(const struct replay_gaps *g, double q)
{
    uint64_t below = 0, rank = (uint64_t)(q * (double)g->n);
    for (uint32_t i = 0; i < REPLAY_GAP_BUCKETS; i++) {
        below += g->counts[i];
        if (below > rank || (below == g->n && g->n))
            return GAP_MIN_S * pow(GAP_RATIO, i + 0.5);
    }
    return 0;
}

uint32_t replay_n_good(const struct replay_result *r, const struct replay_slo *slo)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_requests; i++) {
        const struct replay_request *q = &r->requests[i];
        n += q->state == REPLAY_DONE && (double)q->ttft_s <= slo->ttft_s && (double)q->mean_itl_s <= slo->itl_s;
    }
    return n;
}

/* Halves the resolution when the series is full. */
static struct replay_point *point_at(struct replay_result *r, double at_s)
{
    while (at_s >= r->series_span_s * REPLAY_SERIES) {
        for (uint32_t i = 0; i < REPLAY_SERIES / 2; i++) {
            double sum[sizeof(struct replay_point) / sizeof(double)], add[sizeof sum / sizeof *sum];
            memcpy(sum, &r->series[2 * i], sizeof sum);
            memcpy(add, &r->series[2 * i + 1], sizeof add);
            for (size_t k = 0; k < sizeof sum / sizeof *sum; k++)
                sum[k] += add[k];
            memcpy(&r->series[i], sum, sizeof sum);
        }
        memset(&r->series[REPLAY_SERIES / 2], 0, REPLAY_SERIES / 2 * sizeof *r->series);
        r->series_span_s *= 2;
        r->n_series = (r->n_series + 1) / 2;
    }
    uint32_t i = (uint32_t)(at_s / r->series_span_s);
    r->n_series = i + 1 > r->n_series ? i + 1 : r->n_series;
    return &r->series[i];
}

/* Integrates what holds between two events. */
static void advance(struct sim *s, double to_s)
{
    double dt = to_s - s->now_s;
    if (dt > 0) {
        struct replay_point *p = point_at(s->r, s->now_s);
        p->span_s += dt;
        for (uint32_t i = 0; i < s->c->n_replicas; i++) {
            struct replica *rep = &s->replicas[i];
            struct sched_stats st;
            sched_stats(rep->sched, &st);
            p->running_s += dt * st.n_running;
            p->queued_s += dt * st.n_queued;
            p->chunks_active_s += dt * st.chunks_active;
            if (rep->running)
                p->busy_s += dt;
        }
    }
    s->now_s = to_s;
}

/* --- arrivals --------------------------------------------------------------------------------------------------- */

static void heap_push(struct sim *s, struct later x)
{
    uint32_t i = s->n_heap++;
    while (i && s->heap[(i - 1) / 2].at_s > x.at_s) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = x;
}

static struct later heap_pop(struct sim *s)
{
    struct later top = s->heap[0], x = s->heap[--s->n_heap];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && s->heap[child + 1].at_s < s->heap[child].at_s)
            child++;
        if (s->heap[child].at_s >= x.at_s)
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = x;
    return top;
}

static void ended(struct sim *s, uint32_t i, enum replay_state state, enum sched_reason reason)
{
    struct replay_request *q = &s->r->requests[i];
    struct live *l = &s->live[i];
    assert(q->state == REPLAY_PENDING);
    q->state = (uint8_t)state;
    q->reason = (uint8_t)reason;
    if (state == REPLAY_DONE) {
        q->ttft_s = (float)(l->first_token_s - q->arrival_s);
        q->e2e_s = (float)(l->last_token_s - q->arrival_s);
        q->mean_itl_s = l->n_out > 1 ? (float)((l->last_token_s - l->first_token_s) / (l->n_out - 1)) : 0;
    }
    free(l->hashes);
    l->hashes = NULL;
    s->n_ended++;
    /* A conversation whose turn was refused goes on later all the same: somebody tries again. */
    for (uint32_t f = s->first_follower[i]; f; f = s->next_follower[f - 1])
        heap_push(s, (struct later){.at_s = s->now_s + s->c->trace->requests[f - 1].arrival_s, .request = f - 1});
}

/* The replica with the least work ahead, by waiting and running requests; ties go to the first. */
static struct replica *choose_replica(struct sim *s)
{
    struct replica *best = &s->replicas[0];
    uint64_t best_load = UINT64_MAX;
    for (uint32_t i = 0; i < s->c->n_replicas; i++) {
        struct sched_stats st;
        sched_stats(s->replicas[i].sched, &st);
        uint64_t load = (uint64_t)st.n_queued + st.n_running;
        if (load < best_load) {
            best_load = load;
            best = &s->replicas[i];
        }
    }
    return best;
}

static void arrive(struct sim *s, uint32_t i)
{
    const struct trace_request *t = &s->c->trace->requests[i];
    struct replay_request *q = &s->r->requests[i];
    struct live *l = &s->live[i];
    struct replica *rep = choose_replica(s);
    const struct sched_config *sc = &s->c->replicas[rep - s->replicas].sched;
    q->arrival_s = s->now_s;
    point_at(s->r, s->now_s)->arrived += 1;

    uint32_t n_chunks = (t->n_prompt + t->n_output) / sc->chunk_tokens;
    l->hashes = mem_array(n_chunks, sizeof *l->hashes);
    if (!l->hashes) {
        s->failed = err_set(s->e, WEIR_ENOMEM, "no memory for the chunk hashes of a request");
        return;
    }
    for (uint32_t k = 0; k < n_chunks; k++)
        l->hashes[k] = trace_chunk_hash(s->c->trace, t, k, sc->chunk_tokens);
    struct sched_request sr = {
        .id = (uint64_t)i + 1,
        .n_prompt = t->n_prompt,
        .max_new_tokens = t->n_output > s->c->max_new_tokens ? t->n_output : s->c->max_new_tokens,
        .chunk_hashes = l->hashes,
        .n_chunk_hashes = t->n_prompt / sc->chunk_tokens,
        .priority = t->priority,
        .key = t->key,
    };
    if (t->n_prompt < sc->max_context && sr.max_new_tokens > sc->max_context - t->n_prompt)
        sr.max_new_tokens = sc->max_context - t->n_prompt;
    struct sched_event refusal = {0};
    if (sched_submit(rep->sched, &sr, s->now_s, &refusal)) {
        point_at(s->r, s->now_s)->refused += 1;
        ended(s, i, REPLAY_REFUSED, refusal.reason);
    }
}

/* --- steps ------------------------------------------------------------------------------------------------------ */

static double gauss(struct rng *r)
{
    return sqrt(-2 * log(1 - rng_unit(r))) * cos(6.283185307179586 * rng_unit(r));
}

static void start_step(struct sim *s, struct replica *rep)
{
    if (!sched_plan(rep->sched, s->now_s, &rep->plan))
        return;
    struct traffic_load load = rep->plan.padding;
    uint64_t chunks = 0, used_tokens = 0;
    for (uint32_t k = 0; k < rep->plan.n_seqs; k++) {
        const struct plan_seq *ps = &rep->plan.seqs[k];
        traffic_add(&load, &s->c->model, ps->n_past, ps->n_tokens, ps->samples ? 1 : 0);
        used_tokens += ps->n_past + ps->n_tokens;
        chunks += ps->n_chunks;
    }
    traffic_cost(&s->c->model, &load, &rep->cost);
    double t = calibrate_predict_s(&rep->device, &load);
    if (s->c->noise > 0)
        t *= exp(s->c->noise * gauss(&s->rng));
    if (s->c->slow_factor > 0 && s->now_s >= s->c->slow_from_s && s->now_s < s->c->slow_to_s)
        t *= s->c->slow_factor;
    rep->running = true;
    rep->step_s = t;
    rep->step_end_s = s->now_s + t;
    uint64_t room = chunks * s->c->replicas[rep - s->replicas].sched.chunk_tokens;
    s->r->held_chunk_s += t * (double)room;
    s->r->waste_chunk_s += t * (double)(room - used_tokens);
}

static void note_token(struct sim *s, struct live *l)
{
    if (!l->n_out++) {
        l->first_token_s = s->now_s;
    } else {
        double gap = s->now_s - l->last_token_s;
        note_gap(&s->r->gaps, gap);
    }
    l->last_token_s = s->now_s;
}

static void take_events(struct sim *s, struct replica *rep)
{
    struct sched_event ev;
    while (sched_next_event(rep->sched, &ev)) {
        if (ev.state == SCHED_REFUSED)
            point_at(s->r, s->now_s)->refused += 1;
        ended(s, (uint32_t)(ev.id - 1),
              ev.state == SCHED_FINISHED  ? REPLAY_DONE
              : ev.state == SCHED_REFUSED ? REPLAY_REFUSED
                                          : REPLAY_FAILED,
              ev.reason);
    }
}

static void end_step(struct sim *s, struct replica *rep)
{
    struct replay_result *r = s->r;
    uint32_t chunk_tokens = s->c->replicas[rep - s->replicas].sched.chunk_tokens;
    for (uint32_t k = 0; k < rep->plan.n_seqs; k++) {
        const struct plan_seq *ps = &rep->plan.seqs[k];
        const struct trace_request *t = &s->c->trace->requests[ps->id - 1];
        struct live *l = &s->live[ps->id - 1];
        if (ps->samples) {
            note_token(s, l);
            r->generated_tokens++;
            point_at(r, s->now_s)->generated += 1;
        }
        rep->outcomes[k] = (struct seq_outcome){
            .sampled = ps->samples,
            .finished = ps->samples && l->n_out >= t->n_output,
            .n_chunk_hashes = (ps->n_past + ps->n_tokens) / chunk_tokens,
        };
        if (rep->outcomes[k].n_chunk_hashes < t->n_prompt / chunk_tokens)
            rep->outcomes[k].n_chunk_hashes = t->n_prompt / chunk_tokens;
    }
    double bytes = traffic_bytes(&rep->cost);
    struct replay_point *p = point_at(r, s->now_s);
    p->bytes += bytes;
    p->flops += traffic_flops(&rep->cost);
    r->busy_s += rep->step_s;
    r->bytes += bytes;
    r->flops += traffic_flops(&rep->cost);
    r->n_steps++;
    rep->running = false;
    sched_commit(rep->sched, &rep->plan,
                 &(struct sched_outcome){.seqs = rep->outcomes, .seconds = rep->step_s, .bytes = bytes}, s->now_s);
    take_events(s, rep);
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static double next_trace_arrival_s(struct sim *s)
{
    const struct trace *t = s->c->trace;
    while (s->next_arrival < t->n_requests && t->requests[s->next_arrival].after)
        s->next_arrival++;
    return s->next_arrival < t->n_requests ? t->requests[s->next_arrival].arrival_s / s->c->rate_scale : INFINITY;
}

/* One event. False when nothing is left to happen. */
static bool turn(struct sim *s)
{
    double at_trace = next_trace_arrival_s(s), at_heap = s->n_heap ? s->heap[0].at_s : INFINITY;
    struct replica *first = NULL;
    for (uint32_t i = 0; i < s->c->n_replicas; i++) {
        struct replica *rep = &s->replicas[i];
        if (rep->running && (!first || rep->step_end_s < first->step_end_s))
            first = rep;
    }
    double at_step = first ? first->step_end_s : INFINITY;
    double at = fmin(at_step, fmin(at_trace, at_heap));
    if (isinf(at))
        return false;
    advance(s, fmax(at, s->now_s));
    if (at_step <= fmin(at_trace, at_heap))
        end_step(s, first);
    else if (at_trace <= at_heap)
        arrive(s, s->next_arrival++);
    else
        arrive(s, heap_pop(s).request);
    for (uint32_t i = 0; i < s->c->n_replicas && !s->failed; i++) {
        if (!s->replicas[i].running) {
            start_step(s, &s->replicas[i]);
            take_events(s, &s->replicas[i]);
        }
    }
    return !s->failed;
}

static int setup(struct sim *s)
{
    const struct replay_config *c = s->c;
    uint32_t n = c->trace->n_requests;
    s->r->requests = mem_array(n, sizeof *s->r->requests);
    s->r->n_requests = n;
    s->r->series_span_s = 0.25;
    s->live = mem_array(n, sizeof *s->live);
    s->heap = mem_array(n, sizeof *s->heap);
    s->first_follower = mem_array(n, sizeof *s->first_follower);
    s->next_follower = mem_array(n, sizeof *s->next_follower);
    s->replicas = mem_array(c->n_replicas, sizeof *s->replicas);
    if (!s->r->requests || !s->live || !s->heap || !s->first_follower || !s->next_follower || !s->replicas)
        return err_set(s->e, WEIR_ENOMEM, "no memory to replay %u requests", n);
    for (uint32_t i = n; i--;) {
        uint32_t after = c->trace->requests[i].after;
        if (after) {
            s->next_follower[i] = s->first_follower[after - 1];
            s->first_follower[after - 1] = i + 1;
        }
    }
    for (uint32_t i = 0; i < c->n_replicas; i++) {
        struct replica *rep = &s->replicas[i];
        calibrate_init(&rep->device, &c->model, &c->replicas[i].device);
        rep->outcomes = mem_array(c->replicas[i].sched.max_running, sizeof *rep->outcomes);
        if (!rep->outcomes)
            return err_set(s->e, WEIR_ENOMEM, "no memory for a replica");
        int fail = sched_create(&rep->sched, &c->replicas[i].sched, s->e);
        if (fail)
            return fail;
    }
    return 0;
}

static void sum_stats(struct sched_stats *sum, const struct sched_stats *x)
{
    sum->chunks_total += x->chunks_total;
    sum->n_submitted += x->n_submitted;
    sum->n_finished += x->n_finished;
    sum->n_refused += x->n_refused;
    sum->n_cancelled += x->n_cancelled;
    sum->n_failed += x->n_failed;
    sum->n_preemptions += x->n_preemptions;
    sum->prompt_tokens += x->prompt_tokens;
    sum->generated_tokens += x->generated_tokens;
    sum->recomputed_tokens += x->recomputed_tokens;
    sum->prefix_query_tokens += x->prefix_query_tokens;
    sum->prefix_hit_tokens += x->prefix_hit_tokens;
    sum->n_evicted_chunks += x->n_evicted_chunks;
    sum->n_steps += x->n_steps;
    sum->prediction.n += x->prediction.n;
    sum->prediction.abs_sum += x->prediction.abs_sum;
}

int replay_run(const struct replay_config *c, struct replay_result *out, struct err *e)
{
    assert(c->n_replicas >= 1 && c->n_replicas <= REPLAY_MAX_REPLICAS && c->rate_scale > 0);
    *out = (struct replay_result){0};
    struct sim s = {.c = c, .r = out, .rng = {c->seed}, .e = e};
    s.failed = setup(&s);
    for (uint64_t k = 0; !s.failed && turn(&s); k++) {
        if (c->progress && k % 65536 == 0)
            c->progress((double)s.n_ended / c->trace->n_requests, c->user);
    }
    out->end_s = s.now_s;
    for (uint32_t i = 0; s.replicas && i < c->n_replicas; i++) {
        struct sched_stats st;
        if (s.replicas[i].sched) {
            sched_stats(s.replicas[i].sched, &st);
            sum_stats(&out->sched, &st);
        }
        sched_destroy(s.replicas[i].sched);
        free(s.replicas[i].outcomes);
    }
    for (uint32_t i = 0; s.live && i < c->trace->n_requests; i++)
        free(s.live[i].hashes);
    assert(s.failed || s.n_ended == c->trace->n_requests);
    free(s.replicas);
    free(s.live);
    free(s.heap);
    free(s.first_follower);
    free(s.next_follower);
    if (s.failed)
        replay_result_finish(out);
    return s.failed;
}

void replay_result_finish(struct replay_result *r)
{
    free(r->requests);
    *r = (struct replay_result){0};
}
