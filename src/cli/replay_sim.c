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
    uint32_t max_new_tokens;
    bool started;
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
    bool running, has_regions;    /* has_regions: the policy sets memory aside for the longest output */
    double step_end_s, step_s;
    struct traffic_cost cost;
    struct replay_gauges gauges;
    uint64_t n_preemptions;
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
    uint32_t chunk_tokens; /* of all replicas */
    struct rng rng;
    double now_s;
    struct replay_gauges gauges; /* of all replicas */
    struct err *e;
    int failed;
};

/* --- time ------------------------------------------------------------------------------------------------------- */

/* What holds until this replica's next event. */
static void read_gauges(struct sim *s, struct replica *rep)
{
    struct sched_stats st;
    sched_stats(rep->sched, &st);
    s->gauges.running += (double)st.n_running - rep->gauges.running;
    s->gauges.queued += (double)st.n_queued - rep->gauges.queued;
    s->gauges.chunks += (double)st.chunks_active - rep->gauges.chunks;
    rep->gauges = (struct replay_gauges){st.n_running, st.n_queued, st.chunks_active};
    if (st.n_preemptions > rep->n_preemptions)
        replay_result_point(s->r, s->now_s)->preempted += (double)(st.n_preemptions - rep->n_preemptions);
    rep->n_preemptions = st.n_preemptions;
}

static void advance(struct sim *s, double to_s)
{
    replay_result_advance(s->r, s->now_s, to_s, &s->gauges);
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

/* What a request states as its limit: what is known, else the default, else nothing. */
static uint32_t stated_limit(const struct sim *s, const struct trace_request *t, const struct sched_config *sc)
{
    uint32_t limit = t->max_new_tokens                     ? t->max_new_tokens
                     : t->n_output <= s->c->max_new_tokens ? s->c->max_new_tokens
                                                           : UINT32_MAX;
    uint32_t room = t->n_prompt < sc->max_context ? sc->max_context - t->n_prompt : 1;
    return limit < room ? limit : room;
}

/* The request as a replica's scheduler is told of it. */
static struct sched_request request_for(const struct sim *s, uint32_t i, const struct replica *rep)
{
    const struct trace_request *t = &s->c->trace->requests[i];
    return (struct sched_request){
        .id = (uint64_t)i + 1,
        .n_prompt = t->n_prompt,
        .max_new_tokens = stated_limit(s, t, &s->c->replicas[rep - s->replicas].sched),
        .chunk_hashes = s->live[i].hashes,
        .n_chunk_hashes = t->n_prompt / s->chunk_tokens,
        .priority = t->priority,
        .key = t->key,
    };
}

static struct replica *most_headroom(struct sim *s, uint32_t i)
{
    struct replica *best = &s->replicas[0];
    double least = INFINITY;
    for (uint32_t k = 0; k < s->c->n_replicas; k++) {
        struct sched_headroom h;
        struct sched_request r = request_for(s, i, &s->replicas[k]);
        if (sched_headroom(s->replicas[k].sched, &r, &h) && h.share < least) {
            least = h.share;
            best = &s->replicas[k];
        }
    }
    return best;
}

static struct replica *least_loaded(struct sim *s)
{
    struct replica *best = &s->replicas[0];
    for (uint32_t i = 1; i < s->c->n_replicas; i++) {
        struct replica *rep = &s->replicas[i];
        if (rep->gauges.queued + rep->gauges.running < best->gauges.queued + best->gauges.running)
            best = rep;
    }
    return best;
}

static struct replica *arrive(struct sim *s, uint32_t i)
{
    const struct trace_request *t = &s->c->trace->requests[i];
    struct live *l = &s->live[i];
    struct replica *rep = &s->replicas[0];
    s->r->requests[i].arrival_s = s->now_s;
    replay_result_point(s->r, s->now_s)->arrived += 1;
    uint32_t n_chunks = (t->n_prompt + t->n_output) / s->chunk_tokens;
    l->hashes = mem_array(n_chunks, sizeof *l->hashes);
    if (!l->hashes) {
        s->failed = err_set(s->e, WEIR_ENOMEM, "no memory for the chunk hashes of a request");
        return rep;
    }
    for (uint32_t k = 0; k < n_chunks; k++)
        l->hashes[k] = trace_chunk_hash(s->c->trace, t, k, s->chunk_tokens);
    if (s->c->n_replicas > 1)
        rep = s->c->router == REPLAY_ROUTE_HEADROOM ? most_headroom(s, i) : least_loaded(s);
    struct sched_request r = request_for(s, i, rep);
    struct sched_event refusal = {0};
    l->max_new_tokens = r.max_new_tokens;
    if (sched_submit(rep->sched, &r, s->now_s, &refusal)) {
        replay_result_point(s->r, s->now_s)->refused += 1;
        ended(s, i, REPLAY_REFUSED, refusal.reason);
    } else {
        rep->gauges.queued += 1;
        s->gauges.queued += 1;
    }
    return rep;
}

/* --- steps ------------------------------------------------------------------------------------------------------ */

static double gauss(struct rng *r)
{
    return sqrt(-2 * log(1 - rng_unit(r))) * cos(6.283185307179586 * rng_unit(r));
}

/* Rows that the sequence's memory has room for. */
static uint64_t held_tokens(const struct sim *s, const struct replica *rep, const struct plan_seq *ps)
{
    uint64_t n = ps->n_chunks;
    if (rep->has_regions) {
        uint64_t most = (uint64_t)s->c->trace->requests[ps->id - 1].n_prompt + s->live[ps->id - 1].max_new_tokens - 1;
        n = (most + s->chunk_tokens - 1) / s->chunk_tokens;
    }
    return n * s->chunk_tokens;
}

static void start_step(struct sim *s, struct replica *rep)
{
    bool planned = sched_plan(rep->sched, s->now_s, &rep->plan);
    read_gauges(s, rep);
    if (!planned)
        return;
    const struct traffic_model *m = &rep->device.model;
    struct traffic_load load = rep->plan.padding;
    uint64_t held = 0, used = 0;
    for (uint32_t k = 0; k < rep->plan.n_seqs; k++) {
        const struct plan_seq *ps = &rep->plan.seqs[k];
        struct live *l = &s->live[ps->id - 1];
        traffic_add(&load, m, ps->n_past, ps->n_tokens, s->c->trace->requests[ps->id - 1].n_prompt, ps->samples);
        used += ps->n_past + ps->n_tokens;
        held += held_tokens(s, rep, ps);
        if (!l->started) {
            l->started = true;
            s->r->requests[ps->id - 1].queue_s = (float)(s->now_s - s->r->requests[ps->id - 1].arrival_s);
        }
    }
    traffic_cost(m, &load, &rep->cost);
    double t = calibrate_predict_s(&rep->device, &load);
    if (s->c->noise > 0)
        t *= exp(s->c->noise * gauss(&s->rng));
    if (s->c->slow_factor > 0 && s->now_s >= s->c->slow_from_s && s->now_s < s->c->slow_to_s)
        t *= s->c->slow_factor;
    rep->running = true;
    rep->step_s = t;
    rep->step_end_s = s->now_s + t;
    s->r->held_token_s += t * (double)held;
    s->r->waste_token_s += t * (double)(held - used);
}

static void note_token(struct sim *s, struct live *l)
{
    if (!l->n_out++) {
        l->first_token_s = s->now_s;
    } else {
        replay_result_gap(s->r, s->now_s - l->last_token_s);
    }
    l->last_token_s = s->now_s;
}

static void take_events(struct sim *s, struct replica *rep)
{
    struct sched_event ev;
    while (sched_next_event(rep->sched, &ev)) {
        struct replay_point *p = replay_result_point(s->r, s->now_s);
        bool done = ev.state == SCHED_FINISHED, refused = ev.state == SCHED_REFUSED;
        p->finished += done;
        p->refused += refused;
        ended(s, (uint32_t)(ev.id - 1), done ? REPLAY_DONE : refused ? REPLAY_REFUSED : REPLAY_FAILED, ev.reason);
    }
}

static void end_step(struct sim *s, struct replica *rep)
{
    struct replay_result *r = s->r;
    uint32_t n_generated = 0;
    for (uint32_t k = 0; k < rep->plan.n_seqs; k++) {
        const struct plan_seq *ps = &rep->plan.seqs[k];
        const struct trace_request *t = &s->c->trace->requests[ps->id - 1];
        struct live *l = &s->live[ps->id - 1];
        if (ps->samples) {
            note_token(s, l);
            n_generated++;
        }
        rep->outcomes[k] = (struct seq_outcome){
            .sampled = ps->samples,
            .finished = ps->samples && l->n_out >= t->n_output,
            .n_chunk_hashes = (ps->n_past + ps->n_tokens) / s->chunk_tokens,
        };
        if (rep->outcomes[k].n_chunk_hashes < t->n_prompt / s->chunk_tokens)
            rep->outcomes[k].n_chunk_hashes = t->n_prompt / s->chunk_tokens;
    }
    double bytes = traffic_bytes(&rep->cost);
    replay_result_step(r, s->now_s, rep->step_s, bytes, traffic_flops(&rep->cost));
    replay_result_point(r, s->now_s)->generated += n_generated;
    r->generated_tokens += n_generated;
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
        first = arrive(s, s->next_arrival++);
    else
        first = arrive(s, heap_pop(s).request);
    if (!s->failed && !first->running) {
        start_step(s, first);
        take_events(s, first);
    }
    return !s->failed;
}

static bool has_regions(const struct sched_policy *p)
{
    for (int i = 0; i < SCHED_MAX_NODES && p->nodes[i][0]; i++)
        if (!strcmp(p->nodes[i], "admit-regions") || !strcmp(p->nodes[i], "admit-whole-batch"))
            return true;
    return false;
}

static int setup(struct sim *s)
{
    const struct replay_config *c = s->c;
    uint32_t n = c->trace->n_requests;
    int rc = replay_result_init(s->r, n, s->e);
    if (rc)
        return rc;
    s->live = mem_array(n, sizeof *s->live);
    s->heap = mem_array(n, sizeof *s->heap);
    s->first_follower = mem_array(n, sizeof *s->first_follower);
    s->next_follower = mem_array(n, sizeof *s->next_follower);
    s->replicas = mem_array(c->n_replicas, sizeof *s->replicas);
    if (!s->live || !s->heap || !s->first_follower || !s->next_follower || !s->replicas)
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
        if (c->replicas[i].fitted)
            rep->device = *c->replicas[i].fitted;
        else
            calibrate_init(&rep->device, &c->replicas[i].sched.model, &c->replicas[i].device);
        rep->has_regions = has_regions(c->replicas[i].sched.pipeline);
        rep->outcomes = mem_array(c->replicas[i].sched.max_running, sizeof *rep->outcomes);
        if (!rep->outcomes)
            return err_set(s->e, WEIR_ENOMEM, "no memory for a replica");
        int fail = sched_create(&rep->sched, &c->replicas[i].sched, s->e);
        if (fail)
            return fail;
    }
    return 0;
}

int replay_run(const struct replay_config *c, struct replay_result *out, struct err *e)
{
    assert(c->n_replicas >= 1 && c->n_replicas <= REPLAY_MAX_REPLICAS && c->rate_scale > 0);
    *out = (struct replay_result){0};
    struct sim s = {.c = c, .r = out, .chunk_tokens = c->replicas[0].sched.chunk_tokens, .rng = {c->seed}, .e = e};
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
            replay_result_add_stats(out, &st, NULL);
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
