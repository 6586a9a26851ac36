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
    uint64_t n_submitted, n_terminal, n_refused, n_rows;
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

/* The first in the order of service is served in every plan, or after a bounded wait for a shared prefix. */
static void check_progress(struct world *w, const struct plan *p)
{
    struct model_request *first = NULL;
    for (uint32_t i = 0; i < MAX_LIVE; i++) {
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
    if (first->priority == 0)
        assert_true(++first->plans_without_rows <= 17);
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
    w->now_s += 0.01;
    bool failed = faults && below(w, 150) == 0;
    note_ends(w, &p, outcomes, failed);
    struct sched_outcome o = {.seqs = failed ? NULL : outcomes, .failed = failed, .seconds = 0.01};
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
    c->itl_target_s = 0.002 * (1 + below(w, 20));
    c->ttft_limit_s = below(w, 3) ? 0 : 0.05 * (1 + below(w, 10));
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
    uint32_t n_seeds = getenv("WEIR_TEST_SEEDS") ? (uint32_t)atoi(getenv("WEIR_TEST_SEEDS")) : 1500;
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
    assert_true(sum.n_cancelled > n_seeds && sum.n_failed > n_seeds && sum.n_refused > n_seeds);
    assert_true(sum.n_evicted_chunks > n_seeds && sum.recomputed_tokens > n_seeds);
}

static void every_policy_keeps_every_promise(void **state)
{
    (void)state;
    static struct world w;
    static const char *const policies[] = {"weir", "fcfs", "vllm", "contiguous", "static", "compute-first"};
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
        uint64_t n_finished = 0, n_refused = 0;
        w.policy = policies[k];
        for (uint64_t seed = 1; seed <= 300; seed++) {
            simulate(&w, seed, 150);
            n_finished += w.stats.n_finished;
            n_refused += w.stats.n_refused;
            assert_int_equal(w.stats.prediction.n + w.stats.n_failed > 0, w.stats.n_steps > 0);
        }
        assert_true(n_finished > 2000 && n_refused > 0);
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

/* Directed cases: a scheduler with a prefix cache and chunks of 4 tokens. */

struct bench {
    struct sched *s;
    struct plan p;
    uint64_t hashes[8][64];
    double now_s;
};

static void bench_create(struct bench *b, uint32_t n_chunks, uint32_t max_running, uint32_t max_step_tokens)
{
    struct sched_config c = {.chunk_tokens = 4,
                             .n_chunks = n_chunks,
                             .max_running = max_running,
                             .max_queued = 4,
                             .max_step_tokens = max_step_tokens,
                             .max_context = 100,
                             .prefix_cache = true};
    *b = (struct bench){.now_s = 1};
    assert_int_equal(sched_create(&b->s, &c, NULL), 0);
}

/* Request `id` whose chunks 0 .. n_shared-1 are those of everyone, and the rest its own. */
static int bench_submit(struct bench *b, uint64_t id, uint32_t n_prompt, uint32_t max_new, uint32_t n_shared,
                        int32_t priority, struct sched_event *refusal)
{
    struct sched_event ignored;
    for (uint32_t i = 0; i < n_prompt / 4; i++)
        b->hashes[id][i] = i < n_shared ? 1000 + i : id * 100 + i;
    struct sched_request r = {.id = id,
                              .n_prompt = n_prompt,
                              .max_new_tokens = max_new,
                              .chunk_hashes = b->hashes[id],
                              .n_chunk_hashes = n_prompt / 4,
                              .priority = priority};
    return sched_submit(b->s, &r, b->now_s, refusal ? refusal : &ignored);
}

static const struct plan_seq *bench_seq(const struct bench *b, uint64_t id)
{
    for (uint32_t i = 0; i < b->p.n_seqs; i++)
        if (b->p.seqs[i].id == id)
            return &b->p.seqs[i];
    return NULL;
}

static bool bench_plan(struct bench *b)
{
    bool any = sched_plan(b->s, b->now_s, &b->p);
    sched_check(b->s);
    return any;
}

static void bench_commit(struct bench *b)
{
    struct seq_outcome outcomes[8] = {0};
    for (uint32_t i = 0; i < b->p.n_seqs; i++)
        outcomes[i].sampled = b->p.seqs[i].samples;
    b->now_s += 0.5;
    sched_commit(b->s, &b->p, &(struct sched_outcome){.seqs = outcomes, .seconds = 0.5}, b->now_s);
    sched_check(b->s);
}

static uint32_t bench_finish(struct bench *b)
{
    struct sched_event ev;
    uint32_t n = 0;
    for (bool any = true; any;) {
        any = bench_plan(b);
        if (any)
            bench_commit(b);
        while (sched_next_event(b->s, &ev))
            n += ev.state == SCHED_FINISHED;
    }
    return n;
}

static void equal_prompts_at_once_are_computed_once(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 64, 4, 16);
    for (uint64_t id = 1; id <= 4; id++)
        bench_submit(&b, id, 42, 1, 10, 0, NULL);
    uint32_t n_rows = 0;
    while (bench_plan(&b)) {
        n_rows += b.p.n_tokens;
        bench_commit(&b);
        for (struct sched_event ev; sched_next_event(b.s, &ev);)
            ;
    }
    assert_int_equal(n_rows, 42 + 3 * 2); /* the first computes all, the others their last two */
    sched_destroy(b.s);
}

static void a_full_hit_computes_one_row(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 16, 2, 32);
    bench_submit(&b, 1, 8, 1, 2, 0, NULL);
    assert_int_equal(bench_finish(&b), 1);
    bench_submit(&b, 2, 8, 1, 2, 0, NULL);
    assert_true(bench_plan(&b));
    assert_int_equal(b.p.n_tokens, 1);
    assert_int_equal(b.p.seqs[0].n_past, 7);
    assert_int_equal(b.p.seqs[0].n_cached, 7);
    assert_true(b.p.seqs[0].samples);
    assert_int_equal(b.p.n_copies, 1);
    assert_int_equal(b.p.copies[0].n_tokens, 3);
    assert_int_equal(b.p.copies[0].dst, b.p.seqs[0].chunks[1]);
    bench_commit(&b);
    sched_destroy(b.s);
}

static void prompt_logits_are_computed_in_spite_of_the_cache(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 16, 2, 32);
    bench_submit(&b, 1, 17, 1, 4, 0, NULL);
    assert_int_equal(bench_finish(&b), 1);
    for (uint32_t i = 0; i < 4; i++)
        b.hashes[2][i] = 1000 + i;
    struct sched_request r = {
        .id = 2, .n_prompt = 17, .max_new_tokens = 1, .chunk_hashes = b.hashes[2], .n_chunk_hashes = 4};
    r.n_prompt_logits = 6; /* two chunks to compute, two to share */
    struct sched_event refusal;
    assert_int_equal(sched_submit(b.s, &r, b.now_s, &refusal), 0);
    assert_true(bench_plan(&b));
    assert_int_equal(b.p.seqs[0].n_past, 0);
    assert_int_equal(b.p.seqs[0].n_tokens, 8);
    bench_commit(&b);
    assert_true(bench_plan(&b));
    assert_int_equal(b.p.seqs[0].n_past, 16);
    assert_int_equal(b.p.seqs[0].n_tokens, 1);
    assert_int_equal(b.p.seqs[0].n_cached, 8);
    bench_commit(&b);
    struct sched_stats st;
    sched_stats(b.s, &st);
    assert_int_equal(st.chunks_active + st.chunks_cached, 4); /* the two computed again were not kept twice */
    sched_destroy(b.s);
}

static void decoding_goes_on_beside_a_long_prefill(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 64, 4, 8);
    bench_submit(&b, 1, 4, 50, 0, 0, NULL);
    assert_true(bench_plan(&b));
    bench_commit(&b);
    bench_submit(&b, 2, 60, 5, 0, 0, NULL);
    for (uint32_t i = 0; i < 8; i++) {
        assert_true(bench_plan(&b));
        assert_int_equal(bench_seq(&b, 1)->n_tokens, 1);
        assert_true(bench_seq(&b, 1)->samples);
        assert_int_equal(bench_seq(&b, 2)->n_past, i * 7);
        assert_int_equal(bench_seq(&b, 2)->n_tokens, i < 8 ? 7 : 4);
        assert_false(bench_seq(&b, 2)->samples);
        bench_commit(&b);
    }
    assert_true(bench_plan(&b));
    assert_int_equal(bench_seq(&b, 2)->n_tokens, 4);
    assert_true(bench_seq(&b, 2)->samples);
    bench_commit(&b);
    sched_destroy(b.s);
}

static void the_youngest_is_preempted_and_goes_on_where_it_was(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 8, 2, 32);
    bench_submit(&b, 1, 8, 20, 0, 0, NULL); /* grows to 7 chunks */
    bench_submit(&b, 2, 8, 20, 0, 0, NULL);
    uint32_t n_preempted_at = 0;
    struct sched_stats st;
    do {
        assert_true(bench_plan(&b));
        const struct plan_seq *first = bench_seq(&b, 1);
        assert_non_null(first);
        n_preempted_at = first->n_past;
        bench_commit(&b);
        sched_stats(b.s, &st);
    } while (st.n_preemptions == 0);
    assert_true(n_preempted_at < 27);
    assert_null(bench_seq(&b, 2));
    assert_int_equal(bench_finish(&b), 2);
    sched_stats(b.s, &st);
    assert_int_equal(st.generated_tokens, 40);
    assert_int_equal(st.n_preemptions, 1);
    assert_true(st.recomputed_tokens > 0);
    sched_destroy(b.s);
}

static void a_full_queue_says_when_to_come_back(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 32, 1, 16);
    for (uint64_t id = 1; id <= 4; id++)
        assert_int_equal(bench_submit(&b, id, 4, 4, 0, 0, NULL), 0);
    struct sched_event refusal;
    assert_int_equal(bench_submit(&b, 5, 4, 4, 0, 0, &refusal), WEIR_EBUSY);
    assert_true(refusal.retry_after_s > 0);
    /* One leaves the queue every 2 s (4 steps of 0.5 s): half of the queue needs about 5 s. */
    for (uint64_t next = 5; b.now_s < 200;) {
        assert_true(bench_plan(&b));
        bench_commit(&b);
        for (struct sched_event ev; sched_next_event(b.s, &ev);)
            ;
        if (bench_submit(&b, next, 4, 4, 0, 0, &refusal) == 0)
            next = next == 7 ? 1 : next + 1;
    }
    assert_int_equal(bench_submit(&b, 0, 4, 4, 0, 0, &refusal), WEIR_EINVAL);
    while (bench_submit(&b, 7, 4, 4, 0, 0, &refusal) == 0)
        ;
    if (refusal.reason == SCHED_REFUSED_QUEUE_FULL)
        assert_true(refusal.retry_after_s > 3 && refusal.retry_after_s < 8);
    sched_destroy(b.s);
}

static void priority_goes_first(void **state)
{
    (void)state;
    struct bench b;
    bench_create(&b, 32, 1, 16);
    bench_submit(&b, 1, 4, 2, 0, 1, NULL);
    bench_submit(&b, 2, 4, 2, 0, 0, NULL);
    bench_submit(&b, 3, 4, 2, 0, -1, NULL);
    bench_submit(&b, 4, 4, 2, 0, 0, NULL);
    static const uint64_t order[] = {3, 2, 4, 1};
    for (uint32_t i = 0; i < 8; i++) {
        assert_true(bench_plan(&b));
        assert_true(b.p.seqs[0].id == order[i / 2]);
        bench_commit(&b);
    }
    sched_destroy(b.s);
}

static void bad_configs_are_named(void **state)
{
    (void)state;
    struct sched_config good = {
        .chunk_tokens = 4, .n_chunks = 8, .max_running = 2, .max_queued = 4, .max_step_tokens = 4, .max_context = 32};
    struct sched *s;
    struct err e = {0};
    struct sched_config c = good;
    c.max_running = 5;
    assert_int_equal(sched_create(&s, &c, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "max_running"));
    c = good;
    c.policy = "lottery";
    assert_int_equal(sched_create(&s, &c, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "lottery"));
    assert_null(s);
    sched_destroy(s);
    c = good;
    c.policy = "fcfs";
    assert_int_equal(sched_create(&s, &c, &e), 0);
    sched_destroy(s);
}

/* Many at once: a hundred thousand waiting, two thousand running. */
static void a_crowd_is_served(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct sched_config c = {.chunk_tokens = 32,
                             .n_chunks = 16384,
                             .max_running = 2048,
                             .max_queued = N,
                             .max_step_tokens = 16384,
                             .max_context = 4096,
                             .prefix_cache = true};
    struct sched *s;
    assert_int_equal(sched_create(&s, &c, NULL), 0);
    struct sched_event ev;
    uint64_t *hashes = calloc(N, sizeof *hashes);
    for (uint64_t id = 1; id <= N; id++) {
        hashes[id - 1] = id % 100;
        struct sched_request r = {.id = id,
                                  .n_prompt = 32 + (uint32_t)(id % 50),
                                  .max_new_tokens = 10 + (uint32_t)(id % 30),
                                  .chunk_hashes = &hashes[id - 1],
                                  .n_chunk_hashes = 1,
                                  .priority = (int32_t)(id % 5)};
        assert_int_equal(sched_submit(s, &r, 0, &ev), 0);
    }
    struct plan p;
    struct seq_outcome *outcomes = calloc(c.max_running, sizeof *outcomes);
    uint32_t n_finished = 0, n_most = 0;
    for (double t = 0; sched_plan(s, t, &p); t += 0.1) {
        for (uint32_t i = 0; i < p.n_seqs; i++)
            outcomes[i] = (struct seq_outcome){.sampled = p.seqs[i].samples};
        n_most = p.n_seqs > n_most ? p.n_seqs : n_most;
        sched_commit(s, &p, &(struct sched_outcome){.seqs = outcomes}, t);
        while (sched_next_event(s, &ev))
            n_finished += ev.state == SCHED_FINISHED;
    }
    sched_check(s);
    assert_int_equal(n_finished, N);
    assert_true(n_most > 1500);
    free(outcomes);
    free(hashes);
    sched_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_traffic_keeps_every_promise),
        cmocka_unit_test(every_policy_keeps_every_promise),
        cmocka_unit_test(same_seed_same_schedule),
        cmocka_unit_test(equal_prompts_at_once_are_computed_once),
        cmocka_unit_test(a_full_hit_computes_one_row),
        cmocka_unit_test(prompt_logits_are_computed_in_spite_of_the_cache),
        cmocka_unit_test(decoding_goes_on_beside_a_long_prefill),
        cmocka_unit_test(the_youngest_is_preempted_and_goes_on_where_it_was),
        cmocka_unit_test(a_full_queue_says_when_to_come_back),
        cmocka_unit_test(priority_goes_first),
        cmocka_unit_test(bad_configs_are_named),
        cmocka_unit_test(a_crowd_is_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
