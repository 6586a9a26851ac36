#include "cli/replay_record.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "policy/index_map.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of what a recording may ask for. */
#define MAX_QUEUED (1u << 20)
#define MAX_RUNNING (1u << 16)
#define MAX_CHUNKS (1u << 23)
#define MAX_TABLE_CELLS ((uint64_t)1 << 28)
#define MAX_HASHES ((uint64_t)1 << 29)
#define MAX_STATE_BYTES ((size_t)1 << 32)
#define GUESSED_OUTPUT 128 /* where nobody finished */

/* A request from its submit to its end. */
struct live {
    uint64_t id;
    uint32_t request;                  /* in the result and the trace */
    uint64_t *hashes;                  /* [room] */
    uint32_t n_hashes, room, n_output; /* n_output: known while plans are compared */
    double first_s, last_s;            /* tokens; first_s < 0: none yet */
    bool touched, is_first;            /* in this step: has an outcome of its own */
    struct seq_outcome outcome;
};

struct player {
    struct playback *p;
    struct err *e;
    struct sched *sched;     /* NULL: not or no longer compared */
    struct sched *fresh;     /* waits for the state with which the recording begins */
    struct buf state;        /* pieces of it, so far */
    struct sched_stats past; /* counters of it: of what was before the recording */
    struct index_map by_id;
    struct live *live; /* [max_live] */
    uint32_t *unused;  /* [max_live - by_id.n] */
    uint32_t max_live;
    uint32_t *touched; /* [max_running] slots with an outcome in this step */
    uint32_t n_touched;
    struct seq_outcome *outcomes; /* [max_running] */
    struct plan plan;
    struct traffic_load load;
    bool plan_is_out, began; /* began: something was submitted */
    double now_s, origin_s;
    uint64_t n_hashes;
    size_t request_room, block_room;
    struct replay_gauges gauges;
    uint64_t n_preemptions;
};

static int bad(struct player *y, const char *what)
{
    return err_set(y->e, WEIR_EFORMAT, "the recording contradicts itself at %.6f s: %s", y->now_s - y->origin_s, what);
}

/* Compares no more. */
static void differ(struct player *y, const char *what)
{
    snprintf(y->p->difference, sizeof y->p->difference, "after %" PRIu64 " equal plans, at %.6f s: %s", y->p->n_plans,
             y->now_s - y->origin_s, what);
    sched_destroy(y->sched);
    y->sched = NULL;
}

/* Time of the figures: from the first request on. */
static double figure_s(const struct player *y)
{
    return y->began ? y->now_s - y->origin_s : 0;
}

static int move_to(struct player *y, double now_s)
{
    if (now_s < y->now_s)
        return bad(y, "time goes backwards");
    if (now_s > y->now_s + 1e9)
        return bad(y, "time leaps");
    double from_s = figure_s(y);
    y->now_s = now_s;
    if (y->began)
        replay_result_advance(&y->p->live, from_s, figure_s(y), &y->gauges);
    return 0;
}

static void read_gauges(struct player *y)
{
    struct sched_stats st;
    sched_stats(y->sched, &st);
    y->gauges = (struct replay_gauges){st.n_running, st.n_queued, st.chunks_active};
    replay_result_point(&y->p->live, figure_s(y))->preempted += (double)(st.n_preemptions - y->n_preemptions);
    y->n_preemptions = st.n_preemptions;
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static struct live *find_live(struct player *y, uint64_t id)
{
    uint32_t slot = index_map_find(&y->by_id, id);
    return slot == INDEX_NONE ? NULL : &y->live[slot];
}

/* Room for one more request in the result and the trace. */
static int grow(struct player *y)
{
    struct trace *t = &y->p->trace;
    struct replay_result *r = &y->p->live;
    if (t->n_requests == TRACE_MAX_REQUESTS)
        return err_set(y->e, WEIR_ELIMIT, "more than %u requests", TRACE_MAX_REQUESTS);
    if (t->n_requests < y->request_room)
        return 0;
    size_t room = y->request_room ? 2 * y->request_room : 1024;
    struct trace_request *requests = mem_resize(t->requests, room, sizeof *requests);
    if (requests)
        t->requests = requests;
    struct replay_request *figures = mem_resize(r->requests, room, sizeof *figures);
    if (figures)
        r->requests = figures;
    if (!requests || !figures)
        return err_set(y->e, WEIR_ENOMEM, "no memory for %zu requests", room);
    y->request_room = room;
    return 0;
}

/* The trace learns the request's content: the hashes of its chunks. */
static int keep_hashes(struct player *y, const struct live *l)
{
    struct trace *t = &y->p->trace;
    struct trace_request *q = &t->requests[l->request];
    if (t->n_block_ids + l->n_hashes > y->block_room) {
        size_t room = 2 * (t->n_block_ids + l->n_hashes) + 4096;
        uint64_t *grown = room <= UINT32_MAX ? mem_resize(t->block_ids, room, sizeof *grown) : NULL;
        if (!grown)
            return err_set(y->e, WEIR_ENOMEM, "no memory for %zu hashes", room);
        t->block_ids = grown;
        y->block_room = room;
    }
    q->first_block = (uint32_t)t->n_block_ids;
    q->n_blocks = l->n_hashes;
    if (l->n_hashes)
        memcpy(t->block_ids + t->n_block_ids, l->hashes, l->n_hashes * sizeof *l->hashes);
    t->n_block_ids += l->n_hashes;
    return 0;
}

static void forget(struct player *y, struct live *l)
{
    index_map_remove(&y->by_id, l->id);
    y->n_hashes -= l->room;
    free(l->hashes);
    *l = (struct live){0};
    y->unused[y->max_live - y->by_id.n - 1] = (uint32_t)(l - y->live);
}

/* Its last word: n_output 0 where nobody knows how long the output gets. */
static int end_live(struct player *y, struct live *l, enum replay_state state, unsigned reason, uint32_t n_output)
{
    struct replay_request *q = &y->p->live.requests[l->request];
    struct trace_request *t = &y->p->trace.requests[l->request];
    q->state = (uint8_t)state;
    q->reason = (uint8_t)reason;
    bool is_whole = state == REPLAY_DONE || (state == REPLAY_CANCELLED && n_output);
    t->n_output = !is_whole ? 0 : n_output > TRACE_MAX_TOKENS ? TRACE_MAX_TOKENS : n_output ? n_output : 1;
    if (state == REPLAY_DONE) {
        l->last_s = l->last_s >= 0 ? l->last_s : figure_s(y);
        double first_s = l->first_s >= 0 ? l->first_s : l->last_s;
        q->ttft_s = (float)(first_s - q->arrival_s);
        q->e2e_s = (float)(l->last_s - q->arrival_s);
        q->mean_itl_s = n_output > 1 ? (float)((l->last_s - first_s) / (n_output - 1)) : 0;
    }
    int fail = keep_hashes(y, l);
    forget(y, l);
    return fail;
}

static int add_live(struct player *y, const struct sched_request *r, uint32_t n_output, struct live **out)
{
    const struct sched_config *c = &y->p->sched;
    uint64_t most = (uint64_t)r->n_prompt + r->max_new_tokens;
    uint64_t room = (most < c->max_context ? most : c->max_context) / c->chunk_tokens;
    if (!r->id || !r->n_prompt || r->n_prompt > TRACE_MAX_TOKENS || !r->max_new_tokens || find_live(y, r->id))
        return bad(y, "a request has no id of its own, no tokens or too many");
    if (r->n_chunk_hashes > ((uint64_t)r->n_prompt + n_output) / c->chunk_tokens)
        return bad(y, "a request has more chunk hashes than chunks");
    if (room < r->n_chunk_hashes)
        room = r->n_chunk_hashes; /* longer than the context: it will be refused */
    if (y->by_id.n == y->max_live || y->n_hashes + room > MAX_HASHES)
        return bad(y, "more live requests than the scheduler had places");
    int fail = grow(y);
    if (fail)
        return fail;
    uint32_t slot = y->unused[y->max_live - y->by_id.n - 1];
    struct live *l = &y->live[slot];
    *l = (struct live){.id = r->id, .request = y->p->trace.n_requests, .room = (uint32_t)room, .first_s = -1};
    l->hashes = mem_array(room, sizeof *l->hashes);
    if (!l->hashes)
        return err_set(y->e, WEIR_ENOMEM, "no memory for the hashes of a request");
    l->n_hashes = r->n_chunk_hashes;
    l->n_output = n_output;
    if (r->n_chunk_hashes)
        memcpy(l->hashes, r->chunk_hashes, r->n_chunk_hashes * sizeof *l->hashes);
    y->n_hashes += room;
    index_map_insert(&y->by_id, r->id, slot);
    uint32_t i = y->p->trace.n_requests++;
    y->p->live.n_requests = i + 1;
    y->p->live.requests[i] = (struct replay_request){.queue_s = -1, .arrival_s = figure_s(y)};
    y->p->trace.requests[i] = (struct trace_request){
        .arrival_s = figure_s(y),
        .n_prompt = r->n_prompt,
        .max_new_tokens = r->max_new_tokens < TRACE_MAX_TOKENS ? r->max_new_tokens : TRACE_MAX_TOKENS,
        .content = (uint64_t)(i + 1) << 1,
        .key = r->key,
        .priority = r->priority,
    };
    replay_result_point(&y->p->live, figure_s(y))->arrived += 1;
    *out = l;
    return 0;
}

static void begin_time(struct player *y)
{
    if (!y->began)
        y->origin_s = y->now_s;
    y->began = true;
}

static int play_submit(struct player *y, const struct record_item *i)
{
    struct live *l;
    begin_time(y);
    int fail = add_live(y, &i->request, 0, &l);
    if (fail)
        return fail;
    int reason = i->reason;
    if (y->sched) {
        struct sched_request r = i->request;
        struct sched_event refusal = {0};
        r.chunk_hashes = l->hashes;
        int got = sched_submit(y->sched, &r, i->now_s, &refusal) ? (int)refusal.reason : -1;
        if (got != i->reason)
            differ(y, "a request was refused then and not now, or the other way, or for another reason");
        else
            read_gauges(y);
    }
    if (reason < 0)
        return 0;
    replay_result_point(&y->p->live, figure_s(y))->refused += 1;
    return end_live(y, l, REPLAY_REFUSED, (unsigned)reason, 0);
}

static int play_event(struct player *y, const struct record_item *i)
{
    struct live *l = find_live(y, i->id);
    if (!l || y->plan_is_out)
        return bad(y, "a request ended that was not there, or within a step");
    if (y->sched) {
        struct sched_event ev;
        if (!sched_next_event(y->sched, &ev) || ev.id != i->event.id || ev.state != i->event.state ||
            ev.reason != i->event.reason)
            differ(y, "another request ended, or differently");
        else
            y->p->n_ends++;
    }
    struct replay_point *at = replay_result_point(&y->p->live, figure_s(y));
    enum replay_state state = REPLAY_FAILED;
    if (i->event.state == SCHED_FINISHED) {
        state = REPLAY_DONE;
        at->finished += 1;
        if (i->n_output > l->n_output) { /* those that were not counted one by one */
            y->p->live.generated_tokens += i->n_output - l->n_output;
            at->generated += i->n_output - l->n_output;
            l->last_s = figure_s(y);
        }
    } else if (i->event.state == SCHED_REFUSED) {
        state = REPLAY_REFUSED;
        at->refused += 1;
    } else if (i->event.state == SCHED_CANCELLED) {
        state = REPLAY_CANCELLED;
    }
    return end_live(y, l, state, i->event.reason, i->n_output);
}

/* --- steps ------------------------------------------------------------------------------------------------------ */

/* What the plan runs, for the figures. */
static void weigh_plan(struct player *y)
{
    const struct sched_config *c = &y->p->sched;
    y->load = y->plan.padding;
    for (uint32_t k = 0; k < y->plan.n_seqs; k++) {
        const struct plan_seq *ps = &y->plan.seqs[k];
        const struct live *l = find_live(y, ps->id);
        struct replay_request *q = &y->p->live.requests[l->request];
        if (c->has_model)
            traffic_add(&y->load, &c->model, ps->n_past, ps->n_tokens, y->p->trace.requests[l->request].n_prompt,
                        ps->samples);
        if (q->queue_s < 0)
            q->queue_s = (float)(figure_s(y) - q->arrival_s);
    }
}

static int play_plan(struct player *y, const struct record_item *i)
{
    if (y->plan_is_out)
        return bad(y, "a plan within a step");
    y->plan_is_out = i->n_seqs > 0;
    if (!y->sched)
        return 0;
    bool planned = sched_plan(y->sched, i->now_s, &y->plan);
    if (planned != (i->n_seqs > 0) ||
        (planned && (y->plan.n_seqs != i->n_seqs || record_plan_digest(&y->plan) != i->digest))) {
        differ(y, "another plan");
        return 0;
    }
    read_gauges(y);
    if (planned) {
        y->p->n_plans++;
        weigh_plan(y);
    }
    return 0;
}

static int play_outcome(struct player *y, const struct record_item *i)
{
    struct live *l = find_live(y, i->id);
    if (!l || !y->plan_is_out || l->touched || y->n_touched == y->p->sched.max_running)
        return bad(y, "an outcome of a request that was not in the step");
    if (i->n_hashes > l->room - l->n_hashes)
        return bad(y, "more chunk hashes than chunks");
    if (i->n_hashes)
        memcpy(l->hashes + l->n_hashes, i->hashes, i->n_hashes * sizeof *l->hashes);
    l->n_hashes += i->n_hashes;
    l->touched = true;
    l->is_first = i->is_first_token;
    l->outcome = i->outcome;
    y->touched[y->n_touched++] = (uint32_t)(l - y->live);
    return 0;
}

/* What the live engine told of each sequence of the plan. */
static int list_outcomes(struct player *y)
{
    const struct sched_config *c = &y->p->sched;
    for (uint32_t k = 0; k < y->plan.n_seqs; k++) {
        const struct plan_seq *ps = &y->plan.seqs[k];
        const struct live *l = find_live(y, ps->id);
        struct seq_outcome *o = &y->outcomes[k];
        *o = l->touched ? l->outcome : (struct seq_outcome){.sampled = ps->samples};
        if (o->sampled != ps->samples && (o->sampled || !o->finished))
            return bad(y, "a token where none was planned, or none where one was");
        if (c->prefix_cache)
            o->n_chunk_hashes = (ps->n_past + ps->n_tokens) / c->chunk_tokens;
        if (o->n_chunk_hashes > l->n_hashes)
            return bad(y, "a full chunk without a hash");
    }
    return 0;
}

static void count_tokens(struct player *y)
{
    struct replay_result *r = &y->p->live;
    for (uint32_t k = 0; k < y->plan.n_seqs; k++) {
        struct live *l = find_live(y, y->plan.seqs[k].id);
        if (!y->outcomes[k].sampled)
            continue;
        if (l->n_output++ && l->last_s >= 0)
            replay_result_gap(r, figure_s(y) - l->last_s);
        l->last_s = figure_s(y);
        r->generated_tokens++;
        replay_result_point(r, figure_s(y))->generated += 1;
    }
}

static void count_step(struct player *y, const struct record_item *i)
{
    const struct sched_config *c = &y->p->sched;
    uint64_t held = 0, used = 0;
    double flops = 0;
    for (uint32_t k = 0; y->sched && k < y->plan.n_seqs; k++) {
        held += (uint64_t)y->plan.seqs[k].n_chunks * c->chunk_tokens;
        used += y->plan.seqs[k].n_past + y->plan.seqs[k].n_tokens;
    }
    y->p->live.held_token_s += i->seconds * (double)held;
    y->p->live.waste_token_s += i->seconds * (double)(held - used);
    if (y->sched && c->has_model) {
        struct traffic_cost cost;
        traffic_cost(&c->model, &y->load, &cost);
        flops = traffic_flops(&cost);
        if (!i->failed) {
            calibrate_update(&y->p->fitted, &y->load, i->seconds);
            y->p->n_fitted++;
        }
    }
    replay_result_step(&y->p->live, figure_s(y), i->seconds, i->bytes, flops);
}

static int play_commit(struct player *y, const struct record_item *i)
{
    if (!y->plan_is_out)
        return bad(y, "the end of a step that did not begin");
    y->plan_is_out = false;
    count_step(y, i);
    int fail = y->sched && !i->failed ? list_outcomes(y) : 0;
    if (fail)
        return fail;
    if (y->sched && !i->failed)
        count_tokens(y);
    for (uint32_t k = 0; k < y->n_touched; k++) {
        struct live *l = &y->live[y->touched[k]];
        if (l->is_first)
            l->first_s = figure_s(y);
        l->touched = false;
    }
    y->n_touched = 0;
    if (y->sched) {
        struct sched_outcome o = {.seqs = y->outcomes, .failed = i->failed, .seconds = i->seconds, .bytes = i->bytes};
        sched_commit(y->sched, &y->plan, &o, i->now_s);
        read_gauges(y);
    }
    return 0;
}

/* --- a recording that begins in the middle ----------------------------------------------------------------------- */

static int play_live(struct player *y, const struct record_item *i)
{
    struct live *l;
    if (find_live(y, i->request.id))
        return 0; /* known from the segment before */
    begin_time(y);
    int fail = add_live(y, &i->request, i->n_output, &l);
    if (!fail && i->n_output) { /* before this segment */
        l->first_s = 0;
        l->last_s = -1;
    }
    return fail;
}

static void drop_fresh(struct player *y)
{
    sched_destroy(y->fresh);
    y->fresh = NULL;
}

static bool hashes_of(void *user, uint64_t id, const uint64_t **hashes, uint32_t *n)
{
    const struct live *l = find_live(user, id);
    *hashes = l ? l->hashes : NULL;
    *n = l ? l->n_hashes : 0;
    return l;
}

/* The scheduler that waits for it goes on from here. */
static int take_state(struct player *y)
{
    double now_s = y->now_s;
    int fail = sched_load(y->fresh, y->state.data, y->state.len, hashes_of, y, &now_s, y->e);
    if (fail) {
        drop_fresh(y);
        return fail == WEIR_EUNSUPPORTED ? 0 : fail; /* of another version: not compared */
    }
    if (now_s > y->now_s)
        return bad(y, "the scheduler's state is of later");
    y->sched = y->fresh;
    y->fresh = NULL;
    y->p->compared = true;
    sched_stats(y->sched, &y->past);
    y->n_preemptions = y->past.n_preemptions;
    read_gauges(y);
    return 0;
}

/* What is left of the bytes that come out; NULL at: they are others. */
struct rest {
    const char *at, *end;
};

static void match(void *user, const void *bytes, size_t n)
{
    struct rest *r = user;
    if (r->at && n <= (size_t)(r->end - r->at) && !memcmp(r->at, bytes, n))
        r->at += n;
    else
        r->at = NULL;
}

static int play_state(struct player *y, const struct record_item *i)
{
    if (y->plan_is_out)
        return bad(y, "the scheduler's state within a step");
    if (!y->fresh && !y->sched)
        return 0;
    if (buf_add(&y->state, i->state, i->n_state))
        return err_set(y->e, y->state.failed, "the scheduler's state is too large");
    if (!i->is_last)
        return 0;
    int fail = 0;
    if (y->sched) {
        struct rest left = {y->state.data, y->state.data + y->state.len};
        sched_save(y->sched, match, &left);
        if (left.at != left.end)
            differ(y, "the scheduler's state, when the recording went on to another file");
    } else {
        fail = take_state(y);
    }
    buf_clear(&y->state);
    return fail;
}

static int play_item(struct player *y, const struct record_item *i)
{
    bool timed =
        i->type == RECORD_SUBMIT || i->type == RECORD_CANCEL || i->type == RECORD_PLAN || i->type == RECORD_COMMIT;
    int fail = timed ? move_to(y, i->now_s) : 0;
    if (fail)
        return fail;
    if (y->fresh && i->type != RECORD_LIVE && i->type != RECORD_STATE)
        drop_fresh(y);
    switch (i->type) {
    case RECORD_SUBMIT:
        return play_submit(y, i);
    case RECORD_LIVE:
        return play_live(y, i);
    case RECORD_STATE:
        return play_state(y, i);
    case RECORD_CANCEL:
        if (y->sched)
            sched_cancel(y->sched, i->id, i->now_s);
        return 0;
    case RECORD_PLAN:
        return play_plan(y, i);
    case RECORD_OUTCOME:
        return play_outcome(y, i);
    case RECORD_COMMIT:
        return play_commit(y, i);
    case RECORD_EVENT:
        return play_event(y, i);
    }
    return 0;
}

/* --- from file to figures --------------------------------------------------------------------------------------- */

static int make_player(struct player *y, const struct record_header *h, struct err *e)
{
    struct playback *p = y->p;
    const struct sched_config *c = &h->sched;
    p->sched = *c;
    p->policy = h->policy;
    p->sched.pipeline = &p->policy;
    memcpy(p->model, h->model, sizeof p->model);
    memcpy(p->weir, h->weir, sizeof p->weir);
    if (c->max_queued > MAX_QUEUED || c->max_running > MAX_RUNNING || c->n_chunks > MAX_CHUNKS || !c->chunk_tokens ||
        (uint64_t)c->max_running * (c->max_context / c->chunk_tokens + 1) > MAX_TABLE_CELLS)
        return err_set(e, WEIR_ELIMIT, "the recording is of a scheduler of implausible size");
    p->compared = h->segment == 0;
    buf_init(&y->state, MAX_STATE_BYTES);
    int fail = sched_create(p->compared ? &y->sched : &y->fresh, &p->sched, e); /* checks the configuration too */
    if (fail)
        return fail;
    if (c->has_model)
        calibrate_init(&p->fitted, &c->model, &c->device);
    p->trace.block_tokens = c->chunk_tokens;
    p->trace.blocks_of_output = true;
    y->now_s = y->origin_s = h->begin_s;
    y->max_live = c->max_queued + c->max_running + 1;
    y->live = mem_array(y->max_live, sizeof *y->live);
    y->unused = mem_array(y->max_live, sizeof *y->unused);
    y->touched = mem_array(c->max_running, sizeof *y->touched);
    y->outcomes = mem_array(c->max_running, sizeof *y->outcomes);
    fail = index_map_init(&y->by_id, y->max_live, e);
    if (!fail && (!y->live || !y->unused || !y->touched || !y->outcomes))
        fail = err_set(e, WEIR_ENOMEM, "no memory to play the recording");
    for (uint32_t i = 0; !fail && i < y->max_live; i++)
        y->unused[i] = i;
    return fail ? fail : replay_result_init(&p->live, 0, e);
}

/* Output lengths that nobody knows: of refused requests, and of those that still ran. */
static void draw_lengths(struct playback *p)
{
    struct rng rng = {1};
    struct trace *t = &p->trace;
    uint32_t n_known = 0;
    uint32_t *known = mem_array(t->n_requests, sizeof *known);
    for (uint32_t i = 0; known && i < t->n_requests; i++)
        if (t->requests[i].n_output)
            known[n_known++] = t->requests[i].n_output;
    for (uint32_t i = 0; i < t->n_requests; i++) {
        struct trace_request *q = &t->requests[i];
        if (q->n_output)
            continue;
        uint32_t n = n_known ? known[rng_below(&rng, n_known)] : GUESSED_OUTPUT;
        q->n_output = n < q->max_new_tokens ? n : q->max_new_tokens;
        p->n_drawn++;
    }
    free(known);
}

static int finish(struct player *y)
{
    int fail = 0;
    for (uint32_t slot = 0; !fail && slot < y->max_live; slot++)
        if (y->live[slot].id)
            fail = end_live(y, &y->live[slot], REPLAY_PENDING, 0, 0);
    struct playback *p = y->p;
    if (!fail && !p->trace.n_requests)
        return err_set(y->e, WEIR_EFORMAT, "the recording holds no requests");
    if (!fail)
        draw_lengths(p);
    p->live.end_s = figure_s(y);
    if (y->sched) {
        struct sched_stats st;
        sched_stats(y->sched, &st);
        replay_result_add_stats(&p->live, &st, &y->past);
    }
    return fail;
}

int playback_play(struct playback *p, struct record_reader *const *readers, uint32_t n_readers,
                  void (*progress)(double fraction, void *user), void *user, struct err *e)
{
    *p = (struct playback){.n_segments = n_readers};
    struct player y = {.p = p, .e = e};
    int fail = make_player(&y, record_header(readers[0]), e);
    for (uint32_t k = 0; !fail && k < n_readers; k++) {
        struct record_item item;
        int got = 1;
        for (uint64_t n = 0; !fail && (got = record_next(readers[k], &item, e)) == 1; n++) {
            fail = play_item(&y, &item);
            if (progress && n % 65536 == 0)
                progress((k + record_progress(readers[k])) / n_readers, user);
        }
        fail = fail ? fail : got;
        p->torn_bytes = record_torn_bytes(readers[k]);
    }
    if (!fail)
        fail = finish(&y);
    for (uint32_t slot = 0; y.live && slot < y.max_live; slot++)
        free(y.live[slot].hashes);
    sched_destroy(y.sched);
    sched_destroy(y.fresh);
    buf_finish(&y.state);
    index_map_finish(&y.by_id);
    free(y.live);
    free(y.unused);
    free(y.touched);
    free(y.outcomes);
    if (fail)
        playback_close(p);
    return fail;
}

int playback_open(struct playback *p, const char *path, void (*progress)(double fraction, void *user), void *user,
                  struct err *e)
{
    struct record_reader *readers[2] = {NULL, NULL};
    uint32_t n = 0;
    int fail = record_open(&readers[0], path, e);
    if (fail)
        return fail;
    const struct record_header *h = record_header(readers[0]);
    if (h->segment) {
        char *before = mem_array(strlen(path) + 3, 1);
        if (before)
            snprintf(before, strlen(path) + 3, "%s.1", path);
        if (before && !record_open(&readers[1], before, NULL)) {
            const struct record_header *b = record_header(readers[1]);
            if (b->run == h->run && b->segment + 1 == h->segment) {
                struct record_reader *last = readers[0];
                readers[0] = readers[1];
                readers[1] = last;
                n = 1;
            }
        }
        free(before);
    }
    fail = playback_play(p, readers, n + 1, progress, user, e);
    record_close(readers[0]);
    record_close(readers[1]);
    return fail ? err_prefix(e, "%s", path) : 0;
}

void playback_close(struct playback *p)
{
    replay_result_finish(&p->live);
    trace_finish(&p->trace);
}
