/* The scheduler under random traffic, against an independent model of what lies in the KV memory.
 *
 * The model ("shadow") writes into every slot of every chunk which token sequence's keys and values it would hold: the
 * hash of all tokens up to that position. Before each step, every position that a plan calls past must hold exactly
 * the hash of that request's own tokens, whether it computed them, shared them, copied them or computed them again.
 */
#include "base/hash.h"
#include "base/rng.h"
#include "policy/prefix.h"
#include "policy/sched.h"
#include "test.h"

#ifdef WEIR_DEBUG /* sanitised builds take ten times as long */
#define N_SEEDS 200
#define N_POLICY_SEEDS(n) ((n) / 5)
#else
#define N_SEEDS 1500
#define N_POLICY_SEEDS(n) (n)
#endif

enum { MAX_LIVE = 64, MAX_CONTEXT = 96, MAX_CHUNKS = 80, MAX_CHUNK_TOKENS = 8, N_DOCUMENTS = 3 };

enum model_state { M_NONE, M_LIVE, M_CANCELLING, M_FAILING, M_DONE };

struct model_request {
    uint64_t id, order;
    enum model_state state;
    int32_t priority;
    uint64_t salt;
    int32_t tokens[MAX_CONTEXT + 1];
    uint64_t hashes[MAX_CONTEXT + 1];
    uint32_t n_prompt, n_tokens, n_end, n_prompt_logits, n_logits_had;
    uint32_t n_known_hashes, n_rows;
    uint64_t n_preemptions_before; /* of anyone */
    uint32_t plans_without_rows;   /* while it is the first in the order of service */
};

struct world {
    struct rng rng;
    const char *policy; /* NULL: random traffic for fcfs without a traffic model */
    struct sched_config c;
    struct sched *s;
    double now_s;
    struct model_request live[MAX_LIVE];
    uint32_t n_live;
    uint64_t n_ids;
    int32_t documents[N_DOCUMENTS][MAX_CONTEXT];
    uint32_t document_tokens[N_DOCUMENTS];
    uint64_t shadow[MAX_CHUNKS][MAX_CHUNK_TOKENS];
    uint64_t read_stamp[MAX_CHUNKS][MAX_CHUNK_TOKENS], write_stamp[MAX_CHUNKS][MAX_CHUNK_TOKENS], stamp;
    uint64_t schedule_hash;
    uint64_t n_submitted, n_terminal, n_refused, n_rows,
        n_spent;              /* n_spent: plans with such as were preempted at most */
    bool slow;                /* the device runs at half its speed */
    struct sched_stats stats; /* at the end */
};

static uint32_t below(struct world *w, uint32_t n)
{
    return (uint32_t)rng_below(&w->rng, n);
}

static struct model_request *find(struct world *w, uint64_t id)
{
    for (uint32_t i = 0; i < MAX_LIVE; i++)
        if (w->live[i].state != M_NONE && w->live[i].id == id)
            return &w->live[i];
    return NULL;
}

/* What the keys and values at position p of the request are a function of. */
static uint64_t kv_of(const struct model_request *r, uint32_t p)
{
    return hash_bytes(r->tokens, (p + 1) * sizeof *r->tokens, r->salt + 1);
}

static void update_hashes(const struct world *w, struct model_request *r, uint32_t n_full)
{
    for (uint32_t i = r->n_known_hashes; i < n_full; i++)
        r->hashes[i] = prefix_hash_next(i ? r->hashes[i - 1] : prefix_hash_root(r->salt),
                                        r->tokens + i * w->c.chunk_tokens, w->c.chunk_tokens);
    if (n_full > r->n_known_hashes)
        r->n_known_hashes = n_full;
}

static void make_prompt(struct world *w, struct model_request *r, uint32_t max_prompt)
{
    uint32_t d = below(w, N_DOCUMENTS);
    uint32_t shared = below(w, 4) ? below(w, w->document_tokens[d] + 1) : 0;
    if (shared > max_prompt)
        shared = max_prompt;
    if (shared && below(w, 2)) /* whole chunks often, also as the whole prompt */
        shared = shared / w->c.chunk_tokens * w->c.chunk_tokens;
    memcpy(r->tokens, w->documents[d], shared * sizeof *r->tokens);
    r->n_prompt = shared;
    uint32_t more = below(w, 3) && shared ? 0 : below(w, 20);
    while (r->n_prompt < max_prompt && (more-- > 0 || r->n_prompt == 0)) {
        r->tokens[r->n_prompt++] = (int32_t)below(w, 4);
        if (more == UINT32_MAX)
            break;
    }
}

static void submit(struct world *w)
{
    if (w->n_live == MAX_LIVE)
        return;
    struct model_request *r = w->live;
    while (r->state != M_NONE)
        r++;
    *r = (struct model_request){.id = ++w->n_ids, .salt = below(w, 8) == 0, .priority = below(w, 6) ? 0 : -1};
    bool impossible = below(w, 25) == 0;
    make_prompt(w, r, impossible ? MAX_CONTEXT : w->c.max_context - 1);
    uint32_t max_new = 1 + below(w, below(w, 2) ? 60 : 12);
    if (below(w, 10) == 0)
        max_new = UINT32_MAX;
    r->n_tokens = r->n_prompt;
    uint64_t end = (uint64_t)r->n_prompt + max_new;
    bool too_long = r->n_prompt + 1 > w->c.max_context;
    if (end > w->c.max_context)
        end = w->c.max_context;
    bool never_fits = !too_long && end - 1 > (uint64_t)w->c.n_chunks * w->c.chunk_tokens;
    r->n_end = r->n_prompt + 1 + below(w, (uint32_t)end - r->n_prompt ? (uint32_t)end - r->n_prompt : 1);
    if (below(w, 8) == 0)
        r->n_prompt_logits = 1 + below(w, r->n_prompt);
    update_hashes(w, r, r->n_prompt / w->c.chunk_tokens);
    struct sched_request q = {
        .id = r->id,
        .n_prompt = r->n_prompt,
        .max_new_tokens = max_new,
        .chunk_hashes = r->hashes,
        .n_chunk_hashes = r->n_known_hashes,
        .n_prompt_logits = r->n_prompt_logits,
        .n_pinned = below(w, 4) ? 0 : below(w, r->n_prompt + 1),
        .priority = r->priority,
    };
    struct sched_stats st;
    sched_stats(w->s, &st);
    uint32_t n_waiting = w->n_live - st.n_running; /* with those whose event was not taken yet */
    struct sched_event refusal = {0};
    int rc = sched_submit(w->s, &q, w->now_s, &refusal);
    w->n_submitted++;
    if (too_long) {
        assert_int_equal(rc, WEIR_ELIMIT);
        assert_int_equal(refusal.reason, SCHED_REFUSED_TOO_LONG);
    } else if (never_fits) {
        assert_int_equal(rc, WEIR_ELIMIT);
        assert_int_equal(refusal.reason, SCHED_REFUSED_NEVER_FITS);
    } else if (rc) {
        assert_int_equal(rc, WEIR_EBUSY);
        assert_true(refusal.retry_after_s > 0 && refusal.retry_after_s <= 600);
        if (refusal.reason == SCHED_REFUSED_LATE) {
            assert_true(w->c.ttft_limit_s > 0);
        } else {
            assert_int_equal(refusal.reason, SCHED_REFUSED_QUEUE_FULL);
            assert_true(n_waiting >= w->c.max_queued);
        }
    } else {
        assert_true(n_waiting < w->c.max_queued);
        r->order = w->n_ids;
        r->n_preemptions_before = st.n_preemptions;
        r->state = M_LIVE;
        w->n_live++;
        return;
    }
    assert_int_equal(refusal.state, SCHED_REFUSED);
    assert_true(refusal.id == r->id);
    w->n_refused++;
    w->n_terminal++;
}

static void cancel_some(struct world *w)
{
    struct model_request *r = &w->live[below(w, MAX_LIVE)];
    if (r->state == M_NONE) {
        sched_cancel(w->s, w->n_ids + 100, w->now_s); /* unknown */
        return;
    }
    sched_cancel(w->s, r->id, w->now_s);
    if (r->state == M_LIVE)
        r->state = M_CANCELLING;
}

static void take_events(struct world *w)
{
    struct sched_event ev;
    while (sched_next_event(w->s, &ev)) {
        struct model_request *r = find(w, ev.id);
        assert_non_null(r);
        switch (ev.state) {
        case SCHED_FINISHED:
            assert_int_equal(r->state, M_DONE);
            assert_int_equal(r->n_tokens, r->n_end);
            assert_true(r->n_logits_had >= r->n_prompt_logits);
            break;
        case SCHED_CANCELLED:
            assert_int_equal(r->state, M_CANCELLING);
            break;
        case SCHED_FAILED:
            assert_int_equal(r->state, M_FAILING);
            assert_int_equal(ev.reason, SCHED_FAILED_DEVICE);
            break;
        case SCHED_REFUSED:
            assert_true(r->state == M_LIVE || r->state == M_CANCELLING); /* its client left after it was refused */
            assert_int_equal(ev.reason, SCHED_REFUSED_LATE);
            assert_true(ev.retry_after_s > 0);
            assert_int_equal(r->n_tokens, r->n_prompt);
            w->n_refused++;
            break;
        default:
            fail_msg("state %d of an event", ev.state);
        }
        /* A conversation goes on: what it said becomes a document for later prompts. */
        if (ev.state == SCHED_FINISHED && below(w, 4) == 0) {
            uint32_t d = below(w, N_DOCUMENTS);
            w->document_tokens[d] = r->n_tokens;
            memcpy(w->documents[d], r->tokens, r->n_tokens * sizeof *r->tokens);
        }
        sched_cancel(w->s, r->id, w->now_s); /* ended: nothing may come of it */
        r->state = M_NONE;
        w->n_live--;
        w->n_terminal++;
    }
}

static void apply_copies(struct world *w, const struct plan *p)
{
    for (uint32_t i = 0; i < p->n_copies; i++) {
        const struct plan_copy *c = &p->copies[i];
        assert_true(c->src < w->c.n_chunks && c->dst < w->c.n_chunks && c->src != c->dst);
        assert_true(c->n_tokens > 0 && c->n_tokens < w->c.chunk_tokens);
        memcpy(w->shadow[c->dst], w->shadow[c->src], c->n_tokens * sizeof w->shadow[0][0]);
    }
}

static void check_reads(struct world *w, const struct plan_seq *q, struct model_request *r)
{
    uint32_t chunk_tokens = w->c.chunk_tokens;
    assert_true(q->n_tokens > 0);
    assert_true(q->n_past + q->n_tokens <= r->n_tokens);
    assert_int_equal(q->samples, q->n_past + q->n_tokens == r->n_tokens);
    assert_true(q->n_chunks * chunk_tokens >= q->n_past + q->n_tokens);
    assert_true(q->n_cached < r->n_prompt);
    r->n_rows += q->n_tokens;
    struct sched_stats st;
    sched_stats(w->s, &st);
    if (q->samples && r->n_tokens == r->n_prompt && st.n_preemptions == r->n_preemptions_before)
        assert_int_equal(q->n_cached + r->n_rows, r->n_prompt); /* every prompt token was shared or computed once */
    for (uint32_t p = 0; p < q->n_past; p++) {
        uint32_t chunk = q->chunks[p / chunk_tokens], at = p % chunk_tokens;
        assert_true(chunk < w->c.n_chunks);
        assert_true(w->shadow[chunk][at] == kv_of(r, p));
        w->read_stamp[chunk][at] = w->stamp;
    }
}

static uint32_t apply_writes(struct world *w, const struct plan_seq *q, struct model_request *r)
{
    uint32_t chunk_tokens = w->c.chunk_tokens, end = q->n_past + q->n_tokens, n_outputs = q->samples;
    for (uint32_t p = q->n_past; p < end; p++) {
        uint32_t chunk = q->chunks[p / chunk_tokens], at = p % chunk_tokens;
        assert_true(w->read_stamp[chunk][at] != w->stamp);  /* nobody reads what is written in the same step */
        assert_true(w->write_stamp[chunk][at] != w->stamp); /* and nobody else writes it */
        w->write_stamp[chunk][at] = w->stamp;
        w->shadow[chunk][at] = kv_of(r, p);
        if (p >= r->n_logits_had && p < r->n_prompt_logits) {
            assert_int_equal(p, r->n_logits_had); /* none is jumped over */
            r->n_logits_had++;
            n_outputs += !(q->samples && p + 1 == end);
        }
    }
    return n_outputs;
}

/* Who was preempted as often as may be goes before all others: the first of those that run, or NULL with *waits set if
 * one is at the queue's head. */
static struct model_request *first_spent(struct world *w, bool *waits)
{
    struct sched_seq_view v;
    bool bounded = !w->policy || !strcmp(w->policy, "weir") || !strcmp(w->policy, "fcfs");
    uint32_t most = w->c.max_preemptions ? w->c.max_preemptions : 4;
    *waits = bounded && sched_view_queue(w->s, &v, 1) == 1 && v.n_preemptions >= most;
    bool runs = bounded && sched_view_running(w->s, &v, 1) == 1 && v.n_preemptions >= most;
    w->n_spent += runs;
    return runs ? find(w, v.id) : NULL;
}

/* The first in the order of service is served in every plan, or after a bounded wait for a shared prefix. */
static void check_progress(struct world *w, const struct plan *p)
{
    bool spent_waits;
    struct model_request *first = first_spent(w, &spent_waits);
    bool spent_runs = first;
    for (uint32_t i = 0; i < MAX_LIVE && !spent_runs && !spent_waits; i++) {
        struct model_request *r = &w->live[i];
        if (r->state == M_LIVE &&
            (!first || r->priority < first->priority || (r->priority == first->priority && r->order < first->order)))
            first = r;
    }
    if (!first)
        return;
    for (uint32_t i = 0; i < p->n_seqs; i++)
        if (p->seqs[i].id == first->id) {
            first->plans_without_rows = 0;
            return;
        }
    if (w->policy && !strcmp(w->policy, "compute-first"))
        return; /* it starves those who decode: that is what is wrong with it */
    /* A newcomer of higher priority waits at the door while the pool or the places are taken. */
    uint32_t left_out = w->c.model.mixed_length_waste > 0 ? 8 : 0; /* each time before it is looked at */
    if (first->priority == 0 || spent_runs)
        assert_true(++first->plans_without_rows <= 17 * (1 + left_out));
}

static void run_plan(struct world *w, const struct plan *p, struct seq_outcome *outcomes)
{
    uint32_t n_rows = 0, n_outputs = 0;
    w->stamp++;
    assert_true(p->n_seqs > 0 && p->n_seqs <= w->c.max_running);
    check_progress(w, p);
    apply_copies(w, p);
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        struct model_request *r = find(w, p->seqs[i].id);
        assert_non_null(r);
        for (uint32_t j = 0; j < i; j++)
            assert_true(p->seqs[j].id != p->seqs[i].id);
        check_reads(w, &p->seqs[i], r);
        n_rows += p->seqs[i].n_tokens;
        uint64_t line[4] = {w->schedule_hash, r->id, p->seqs[i].n_past, p->seqs[i].n_tokens};
        w->schedule_hash = hash_bytes(line, sizeof line, p->seqs[i].chunks[p->seqs[i].n_chunks - 1]);
    }
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        struct model_request *r = find(w, p->seqs[i].id);
        n_outputs += apply_writes(w, &p->seqs[i], r);
        uint32_t end = p->seqs[i].n_past + p->seqs[i].n_tokens;
        outcomes[i] = (struct seq_outcome){0};
        update_hashes(w, r, end / w->c.chunk_tokens);
        outcomes[i].n_chunk_hashes = end / w->c.chunk_tokens;
        if (p->seqs[i].samples) {
            outcomes[i].sampled = true;
            r->tokens[r->n_tokens] = (int32_t)(hash_bytes(r->tokens, r->n_tokens * sizeof *r->tokens, 9) % 4);
            r->n_tokens++;
            outcomes[i].finished = r->n_tokens >= r->n_end;
        }
    }
    assert_int_equal(n_rows, p->n_tokens);
    assert_true(n_rows <= w->c.max_step_tokens);
    if (w->c.max_step_outputs)
        assert_true(n_outputs <= w->c.max_step_outputs);
    w->n_rows += n_rows;
}

static void note_ends(struct world *w, const struct plan *p, const struct seq_outcome *outcomes, bool failed)
{
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        struct model_request *r = find(w, p->seqs[i].id);
        if (r->state == M_LIVE && failed)
            r->state = M_FAILING;
        else if (r->state == M_LIVE && outcomes[i].finished)
            r->state = M_DONE;
    }
}

/* A device on which mixed lengths cost time takes what its bytes say; else all steps are alike. */
static double step_s(struct world *w, const struct plan *p)
{
    struct traffic_load load = p->padding;
    struct calibration device;
    if (!(w->c.model.mixed_length_waste > 0))
        return 0.01;
    for (uint32_t i = 0; i < p->n_seqs; i++)
        traffic_add(&load, &w->c.model, p->seqs[i].n_past, p->seqs[i].n_tokens, find(w, p->seqs[i].id)->n_prompt,
                    p->seqs[i].samples);
    calibrate_init(&device, &w->c.model, &w->c.device);
    return calibrate_predict_s(&device, &load);
}

/* One step; false when there was nothing to do. */
static bool step(struct world *w, bool faults)
{
    struct plan p;
    struct seq_outcome outcomes[MAX_LIVE];
    bool any = false;
    for (uint32_t i = 0; i < MAX_LIVE; i++)
        any |= w->live[i].state == M_LIVE;
    bool planned = sched_plan(w->s, w->now_s, &p);
    if (w->c.ttft_limit_s > 0)
        assert_true(any || !planned); /* all that waited may have been refused */
    else
        assert_int_equal(planned, any);
    sched_check(w->s);
    if (!planned)
        return false;
    run_plan(w, &p, outcomes);
    if (faults && below(w, 3) == 0)
        submit(w);
    if (faults && below(w, 6) == 0)
        cancel_some(w);
    sched_check(w->s);
    double seconds = (w->slow ? 2 : 1) * step_s(w, &p);
    w->now_s += seconds;
    bool failed = faults && below(w, 150) == 0;
    note_ends(w, &p, outcomes, failed);
    struct sched_outcome o = {.seqs = failed ? NULL : outcomes, .failed = failed, .seconds = seconds};
    sched_commit(w->s, &p, &o, w->now_s);
    sched_check(w->s);
    return true;
}

static void make_config(struct world *w)
{
    static const uint32_t sizes[] = {1, 2, 3, 4, 8};
    struct sched_config *c = &w->c;
    c->chunk_tokens = sizes[below(w, 5)];
    c->n_chunks = 2 + below(w, below(w, 2) ? 16 : MAX_CHUNKS - 1);
    c->max_running = 1 + below(w, 12);
    c->max_queued = 1 + below(w, 30);
    c->max_step_tokens = c->max_running + below(w, 40);
    c->max_step_outputs = below(w, 2) ? c->max_running + below(w, 8) : 0;
    c->max_context = 4 + below(w, MAX_CONTEXT - 3);
    uint32_t pool_tokens = c->n_chunks * c->chunk_tokens;
    if (c->max_context > pool_tokens && pool_tokens >= 2 && below(w, 4))
        c->max_context = pool_tokens;
    c->prefix_cache = below(w, 8) != 0;
    c->lru_retention = below(w, 4) == 0;
    c->pin_limit = below(w, 3) ? 0.3 : -1;
    c->max_preemptions = below(w, 4); /* 0: 4 */
    if (!w->policy)
        return;
    c->policy = w->policy;
    c->has_model = true;
    c->chunk_tokens = 1u << below(w, 4);
    c->model = (struct traffic_model){.n_layer = 2,
                                      .attention_bytes = 1e6,
                                      .ffn_bytes = 2e6,
                                      .output_bytes = 1e6,
                                      .row_params = 1.5e6,
                                      .output_params = 5e5,
                                      .kv_token_bytes = 1e4,
                                      .pair_flops = 1e4};
    c->device = (struct calibrate_prior){.bytes_per_s = 1e9, .matmul_flops_per_s = 1e11};
    if (below(w, 2)) /* rows without logits leave out most of the last layer */
        c->model.last_bytes = 1.4e6, c->model.last_params = 7e5;
    if (below(w, 2)) { /* prompts go a way of their own */
        c->model.prompt_way = true;
        c->device.prompt_flops_per_s = 3e11;
    }
    c->itl_target_s = 0.002 * (1 + below(w, 20));
    c->ttft_limit_s = below(w, 3) ? 0 : 0.05 * (1 + below(w, 10));
    if (below(w, 2)) { /* mixed lengths cost time, often more than weights do */
        c->model.mixed_length_waste = (1 + below(w, 8)) / 8.0;
        c->model.kv_token_bytes *= 1 + below(w, 16);
        c->itl_target_s *= 20;
        c->ttft_limit_s *= 20;
    }
}

static void simulate(struct world *w, uint64_t seed, uint32_t n_steps)
{
    const char *policy = w->policy;
    memset(w, 0, sizeof *w);
    w->policy = policy;
    w->rng.state = seed;
    make_config(w);
    for (uint32_t d = 0; d < N_DOCUMENTS; d++) {
        w->document_tokens[d] = MAX_CONTEXT - 1;
        for (uint32_t i = 0; i < MAX_CONTEXT; i++)
            w->documents[d][i] = (int32_t)below(w, 4);
    }
    struct err e = {0};
    assert_int_equal(sched_create(&w->s, &w->c, &e), 0);
    uint32_t burst = 1 + below(w, 8);
    for (uint32_t i = 0; i < n_steps; i++) {
        w->slow = i > n_steps / 3 && i < n_steps * 2 / 3; /* it slows down in the middle of the run */
        for (uint32_t n = below(w, 12) == 0 ? burst : 0; n > 0; n--)
            submit(w);
        if (below(w, 20) == 0)
            cancel_some(w);
        take_events(w);
        step(w, true);
        if (below(w, 4))
            take_events(w);
    }
    take_events(w);
    /* No more arrivals: everything ends. Each step runs at least one row, and 17 plans at most are sat out for one. */
    for (uint32_t bound = 200000; step(w, false); bound--) {
        assert_true(bound > 0);
        take_events(w);
    }
    take_events(w);
    assert_int_equal(w->n_live, 0);
    assert_int_equal(w->n_terminal, w->n_submitted);
    sched_stats(w->s, &w->stats);
    assert_int_equal(w->stats.chunks_active, 0);
    assert_int_equal(w->stats.n_refused, w->n_refused);
    assert_int_equal(w->stats.n_running + w->stats.n_queued, 0);
    sched_destroy(w->s);
}

static void random_traffic_keeps_every_promise(void **state)
{
    (void)state;
    static struct world w;
    struct sched_stats sum = {0};
    uint32_t n_spent = 0;
    uint32_t n_seeds = getenv("WEIR_TEST_SEEDS") ? (uint32_t)atoi(getenv("WEIR_TEST_SEEDS")) : N_SEEDS;
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        simulate(&w, seed, 150);
        sum.n_preemptions += w.stats.n_preemptions;
        sum.prefix_hit_tokens += w.stats.prefix_hit_tokens;
        sum.recomputed_tokens += w.stats.recomputed_tokens;
        sum.n_evicted_chunks += w.stats.n_evicted_chunks;
        sum.n_finished += w.stats.n_finished;
        sum.n_cancelled += w.stats.n_cancelled;
        sum.n_failed += w.stats.n_failed;
        sum.n_refused += w.stats.n_refused;
        n_spent += w.n_spent > 0;
        assert_true(w.stats.memory.pressure.n_preempted_most <= (w.c.max_preemptions ? w.c.max_preemptions : 4));
    }
    print_message("%u seeds: %llu finished, %llu cancelled, %llu failed, %llu refused, %llu preemptions, %llu tokens "
                  "shared, %llu recomputed, %llu chunks evicted\n",
                  n_seeds, (unsigned long long)sum.n_finished, (unsigned long long)sum.n_cancelled,
                  (unsigned long long)sum.n_failed, (unsigned long long)sum.n_refused,
                  (unsigned long long)sum.n_preemptions, (unsigned long long)sum.prefix_hit_tokens,
                  (unsigned long long)sum.recomputed_tokens, (unsigned long long)sum.n_evicted_chunks);
    /* The traffic must have been of the kind that finds bugs. */
    assert_true(sum.n_finished > 10 * n_seeds && sum.n_preemptions > n_seeds / 2 &&
                sum.prefix_hit_tokens > 10 * n_seeds);
    print_message("%u of them with requests that were preempted as often as may be\n", n_spent);
    assert_true(n_spent > n_seeds / 50);
    assert_true(sum.n_cancelled > n_seeds && sum.n_failed > n_seeds && sum.n_refused > n_seeds);
    assert_true(sum.n_evicted_chunks > n_seeds && sum.recomputed_tokens > n_seeds);
}

static void every_policy_keeps_every_promise(void **state)
{
    (void)state;
    static struct world w;
    static const char *const policies[] = {"weir", "fcfs", "vllm", "contiguous", "static", "compute-first"};
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
        uint64_t n_finished = 0, n_refused = 0, n_grouped = 0;
        w.policy = policies[k];
        for (uint64_t seed = 1; seed <= N_POLICY_SEEDS(k == 0 ? 2000 : 300); seed++) {
            simulate(&w, seed, 150);
            n_finished += w.stats.n_finished;
            n_refused += w.stats.n_refused;
            n_grouped += w.stats.n_grouped_steps;
            assert_true(w.stats.left_out_most <= 8);
            if (k < 2)
                assert_true(w.stats.memory.pressure.n_preempted_most <=
                            (w.c.max_preemptions ? w.c.max_preemptions : 4));
            assert_true(w.c.model.mixed_length_waste > 0 || w.stats.n_grouped_steps == 0);
            assert_int_equal(w.stats.prediction.n + w.stats.n_failed > 0, w.stats.n_steps > 0);
        }
        assert_true(n_finished > N_POLICY_SEEDS(2000) && n_refused > 0);
        print_message("%s: %llu grouped steps\n", w.policy, (unsigned long long)n_grouped);
        assert_true(k == 0 ? n_grouped > N_POLICY_SEEDS(2000) : n_grouped == 0);
    }
}

static void same_seed_same_schedule(void **state)
{
    (void)state;
    static struct world a, b;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        simulate(&a, seed, 200);
        simulate(&b, seed, 200);
        assert_true(a.schedule_hash == b.schedule_hash);
        assert_memory_equal(&a.stats, &b.stats, sizeof a.stats);
    }
    simulate(&b, 51, 200);
    assert_true(a.schedule_hash != b.schedule_hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_traffic_keeps_every_promise),
        cmocka_unit_test(every_policy_keeps_every_promise),
        cmocka_unit_test(same_seed_same_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
