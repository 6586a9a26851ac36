/* Recordings played again: a small engine's loop drives a scheduler at random, with refusals, cancels, failures and
 * preemptions, and records it as the real one does. Played, every decision is equal, whatever the policy, and so are
 * the figures; a recording that was changed is told or refused. */
#include "cli/policy.h"
#include "cli/replay_record.h"
#include "cli/replay_sim.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "record_files.h"

#include <math.h>

enum { MAX_LIVE = 64, CHUNK = 8, MAX_HASHES = 80 };

/* ---- a small engine ---- */

struct request {
    uint64_t id, hashes[MAX_HASHES];
    uint32_t n_prompt, n_output, n_hashes, wanted; /* wanted: where the output ends by itself */
    struct sched_request sent;
};

struct world {
    struct sched *sched;
    struct sched_config config;
    struct recorder *recorder;
    struct rng rng;
    struct request live[MAX_LIVE];
    uint64_t n_ids;
    double now_s;
    uint32_t n_finished, n_refused, n_cancelled, n_failed, n_tokens, n_steps, n_rotations, n_refused_at_once;
    uint32_t n_before[2]; /* steps before the last two segments */
};

static struct sched_config config(const struct sched_policy *policy)
{
    return (struct sched_config){
        .chunk_tokens = CHUNK,
        .n_chunks = 60,
        .max_running = 8,
        .max_queued = 12,
        .max_step_tokens = 64,
        .max_context = 400,
        .prefix_cache = true,
        .pipeline = policy,
        .has_model = true,
        .model = {.n_layer = 2,
                  .attention_bytes = 1e6,
                  .ffn_bytes = 2e6,
                  .output_bytes = 1e6,
                  .row_params = 1.5e6,
                  .output_params = 5e5,
                  .last_bytes = 1e6,
                  .last_params = 5e5,
                  .kv_token_bytes = 1024,
                  .pair_flops = 512,
                  .prompt_way = true},
        .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e10, .prompt_flops_per_s = 3e10, .confidence = 0.3},
        .itl_target_s = 0.05,
        .ttft_limit_s = 3,
    };
}

static struct request *find(struct world *w, uint64_t id)
{
    for (int i = 0; i < MAX_LIVE; i++)
        if (w->live[i].id == id)
            return &w->live[i];
    return NULL;
}

static void take_events(struct world *w)
{
    struct sched_event ev;
    while (sched_next_event(w->sched, &ev)) {
        struct request *q = find(w, ev.id);
        recorder_event(w->recorder, &ev, q->n_output);
        w->n_finished += ev.state == SCHED_FINISHED;
        w->n_refused += ev.state == SCHED_REFUSED;
        w->n_cancelled += ev.state == SCHED_CANCELLED;
        w->n_failed += ev.state == SCHED_FAILED;
        q->id = 0;
    }
}

static void submit(struct world *w)
{
    struct request *q = find(w, 0);
    if (!q)
        return;
    uint32_t story = (uint32_t)rng_below(&w->rng, 5);
    *q = (struct request){.id = ++w->n_ids << 32 | (uint64_t)(q - w->live),
                          .n_prompt = 1 + (uint32_t)rng_below(&w->rng, 150)};
    q->wanted = 1 + (uint32_t)rng_below(&w->rng, 60);
    if (rng_below(&w->rng, 40) == 0)
        q->n_prompt = 500; /* longer than the context */
    q->n_hashes = q->n_prompt / CHUNK;
    for (uint32_t i = 0; i < q->n_hashes; i++)
        q->hashes[i] = hash_u64(i < 10 ? story * 1000 + i + 1 : q->id + i);
    q->sent = (struct sched_request){.id = q->id,
                                     .n_prompt = q->n_prompt,
                                     .max_new_tokens = 1 + (uint32_t)rng_below(&w->rng, 100),
                                     .chunk_hashes = q->hashes,
                                     .n_chunk_hashes = q->n_hashes,
                                     .priority = (int32_t)rng_below(&w->rng, 3) - 1,
                                     .key = recorder_key(w->recorder, rng_below(&w->rng, 4))};
    struct sched_event refusal;
    bool refused = sched_submit(w->sched, &q->sent, w->now_s, &refusal) != 0;
    recorder_submit(w->recorder, &q->sent, w->now_s, refused ? (int)refusal.reason : -1);
    if (refused) {
        q->id = 0;
        w->n_refused++;
        w->n_refused_at_once++;
    }
}

static void cancel_one(struct world *w)
{
    struct request *q = &w->live[rng_below(&w->rng, MAX_LIVE)];
    if (!q->id)
        return;
    sched_cancel(w->sched, q->id, w->now_s);
    recorder_cancel(w->recorder, q->id, w->now_s);
    take_events(w);
}

static void run_step(struct world *w, const struct plan *p)
{
    struct seq_outcome outcomes[8];
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        const struct plan_seq *s = &p->seqs[i];
        struct request *q = find(w, s->id);
        uint32_t n_full = (s->n_past + s->n_tokens) / CHUNK, n_known = q->n_hashes;
        bool is_first = s->samples && !q->n_output;
        for (; q->n_hashes < n_full; q->n_hashes++)
            q->hashes[q->n_hashes] = hash_u64(q->id * 31 + q->n_hashes);
        q->n_output += s->samples;
        w->n_tokens += s->samples;
        outcomes[i] = (struct seq_outcome){
            .sampled = s->samples,
            .finished =
                s->samples && q->n_output >= (q->wanted < q->sent.max_new_tokens ? q->wanted : q->sent.max_new_tokens),
            .n_chunk_hashes = w->config.prefix_cache ? n_full : 0};
        if (!w->config.prefix_cache)
            q->n_hashes = n_known;
        recorder_outcome(w->recorder, s, &outcomes[i], is_first, q->hashes + n_known, q->n_hashes - n_known);
    }
    if (rng_below(&w->rng, 10) == 0)
        submit(w); /* while the step runs */
    if (rng_below(&w->rng, 30) == 0) {
        struct request *q = &w->live[rng_below(&w->rng, MAX_LIVE)];
        if (q->id) {
            sched_cancel(w->sched, q->id, w->now_s);
            recorder_cancel(w->recorder, q->id, w->now_s);
        }
    }
    double seconds = 0.001 * (1 + (double)rng_below(&w->rng, 20)) + 1e-4 * p->n_tokens;
    struct sched_outcome o = {
        .seqs = outcomes, .seconds = seconds, .bytes = 4e6, .failed = rng_below(&w->rng, 200) == 0};
    w->now_s += seconds;
    w->n_steps++;
    sched_commit(w->sched, p, &o, w->now_s);
    recorder_commit(w->recorder, &o, w->now_s);
    take_events(w);
}

static void rotate(struct world *w)
{
    recorder_rotate(w->recorder, w->now_s);
    for (int i = 0; i < MAX_LIVE; i++) {
        struct sched_request r = w->live[i].sent;
        r.chunk_hashes = w->live[i].hashes;
        r.n_chunk_hashes = w->live[i].n_hashes;
        if (w->live[i].id)
            recorder_live(w->recorder, &r, w->live[i].n_output);
    }
    recorder_state(w->recorder, w->sched);
    w->n_rotations++;
    w->n_before[0] = w->n_before[1];
    w->n_before[1] = w->n_steps;
}

static void live_run(struct world *w, const char *policy, uint64_t seed, uint32_t n_steps, size_t max_bytes)
{
    struct sched_policy pipeline;
    struct err e = {0};
    assert_int_equal(policy_open(&pipeline, policy, &e), 0);
    *w = (struct world){.config = config(&pipeline), .rng = {seed}, .now_s = 5000};
    w->config.model.mixed_length_waste = seed % 3 ? 0 : 0.5;
    w->config.prefix_cache = seed % 4 != 3 && strcmp(policy, "static") != 0 && strcmp(policy, "contiguous") != 0;
    assert_int_equal(sched_create(&w->sched, &w->config, &e), 0);
    if (recorder_open(&w->recorder, path, max_bytes, "a model", &w->config, w->now_s, &e))
        fail_msg("%s", e.msg);
    while (w->n_steps < n_steps) {
        struct plan p;
        if (recorder_is_full(w->recorder))
            rotate(w);
        for (uint64_t k = rng_below(&w->rng, 3); k; k--)
            submit(w);
        if (rng_below(&w->rng, 20) == 0)
            cancel_one(w);
        bool planned = sched_plan(w->sched, w->now_s, &p);
        recorder_plan(w->recorder, &p, w->now_s);
        if (planned)
            run_step(w, &p);
        else
            take_events(w);
        w->now_s += rng_below(&w->rng, 50) == 0 ? 2 : 1e-5;
    }
    recorder_close(w->recorder);
}

/* ---- tests ---- */

static void open_equal(struct playback *p, const struct world *w)
{
    struct err e = {0};
    if (playback_open(p, path, NULL, NULL, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(p->difference, "");
    assert_true(p->compared);
    assert_int_equal(p->n_plans, w->n_steps);
    assert_int_equal(p->live.n_steps, w->n_steps);
    assert_int_equal(p->n_ends, w->n_finished + w->n_cancelled + w->n_failed + w->n_refused - w->n_refused_at_once);
}

static void every_decision_is_reproduced(void **state)
{
    (void)state;
    static const char *const policies[] = {"weir", "vllm", "fcfs", "contiguous", "static", "compute-first"};
    uint64_t n_preempted = 0;
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
        for (uint64_t seed = 0; seed < 12; seed++) {
            struct world w;
            struct playback p;
            struct replay_summary s;
            live_run(&w, policies[k], seed * 7 + k, 500, 1 << 30);
            open_equal(&p, &w);
            struct replay_capacity none = {0};
            assert_int_equal(replay_summarise(&p.live, &(struct replay_slo){1, 1}, &none, &s, NULL), 0);
            assert_true(s.n_done == w.n_finished && s.n_refused == w.n_refused && s.n_failed == w.n_failed);
            assert_true(s.n_cancelled == w.n_cancelled);
            assert_true(p.live.generated_tokens <= w.n_tokens && p.live.generated_tokens > w.n_tokens * 9 / 10);
            assert_int_equal(p.trace.n_requests, p.live.n_requests);
            n_preempted += p.live.sched.n_preemptions;
            playback_close(&p);
            sched_destroy(w.sched);
            unlink(path);
            unlink(old_path);
        }
    }
    assert_true(n_preempted > 100);
}

/* What another policy would have done: the traffic of the recording is a trace for the simulator. */
static void its_traffic_can_be_simulated(void **state)
{
    (void)state;
    struct world w;
    struct playback p;
    live_run(&w, "weir", 1, 2000, 1 << 30);
    open_equal(&p, &w);
    assert_true(p.n_fitted > 1900 && p.n_drawn >= w.n_refused);
    struct sched_policy vllm;
    assert_int_equal(sched_policy_find("vllm", &vllm, NULL), 0);
    struct replay_replica r = {.name = "recorded", .sched = p.sched, .fitted = &p.fitted};
    r.sched.pipeline = &vllm;
    struct replay_config c = {.trace = &p.trace,
                              .model = p.sched.model,
                              .replicas = &r,
                              .n_replicas = 1,
                              .rate_scale = 1,
                              .max_new_tokens = 100};
    struct replay_result a, b;
    struct err e = {0};
    if (replay_run(&c, &a, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(replay_run(&c, &b, &e), 0);
    assert_int_equal(a.n_requests, p.trace.n_requests);
    assert_memory_equal(a.requests, b.requests, a.n_requests * sizeof *a.requests);
    uint32_t n_done = 0;
    for (uint32_t i = 0; i < a.n_requests; i++) {
        assert_true(a.requests[i].state != REPLAY_PENDING);
        n_done += a.requests[i].state == REPLAY_DONE;
    }
    assert_true(n_done > a.n_requests / 3 && a.sched.prefix_hit_tokens > 0);
    replay_result_finish(&a);
    replay_result_finish(&b);
    playback_close(&p);
    sched_destroy(w.sched);
}

static void play_equal(uint32_t n_segments, uint32_t n_plans)
{
    struct playback p;
    struct err e = {0};
    if (playback_open(&p, path, NULL, NULL, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(p.difference, "");
    assert_true(p.compared && p.n_segments == n_segments && p.trace.n_requests > 0);
    assert_int_equal(p.n_plans, n_plans);
    assert_int_equal(p.live.n_steps, n_plans);
    assert_int_equal(p.live.sched.n_steps, n_plans);
    playback_close(&p);
}

/* Debug and sanitised builds take fewer seeds: thread sanitising makes a run thirty times as long. */
#ifdef WEIR_DEBUG
#define SEEDS 2
#define HOSTILE 600
#else
#define SEEDS 10
#define HOSTILE 4000
#endif

/* However often the files were rotated, what is left is reproduced: both files, and the last one alone. */
static void what_is_left_of_many_segments(void **state)
{
    (void)state;
    static const char *const policies[] = {"weir", "vllm", "fcfs", "contiguous", "static", "compute-first"};
    uint32_t n_rotations = 0, n_wanted = 0;
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct world w;
            live_run(&w, policies[k], seed * 11 + k, 3000, 256 << 10);
            sched_check(w.sched);
            sched_destroy(w.sched);
            n_rotations += w.n_rotations;
            n_wanted += 3;
            if (w.n_rotations) {
                play_equal(2, w.n_steps - w.n_before[0]);
                unlink(old_path);
                play_equal(1, w.n_steps - w.n_before[1]);
            }
            unlink(path);
        }
    }
    assert_true(n_rotations > n_wanted);
}

/* A recording whose decisions were others: told at the first one, and the figures are there all the same. */
static void a_difference_is_told(void **state)
{
    (void)state;
    struct world w;
    struct playback p;
    struct err e = {0};
    live_run(&w, "weir", 2, 300, 1 << 30);
    sched_destroy(w.sched);
    char *text;
    size_t n;
    assert_int_equal(file_read(path, 1 << 24, &text, &n, NULL), 0);
    char *limit = memmem(text, n, "\"n_chunks\":60", 13);
    assert_non_null(limit);
    limit[11] = '5'; /* 50 chunks */
    uint32_t n_bytes;
    memcpy(&n_bytes, text + 8, 4);
    uint32_t check = (uint32_t)hash_bytes(text + 16, n_bytes, 0);
    memcpy(text + 12, &check, 4);
    struct record_reader *r;
    assert_int_equal(record_open_memory(&r, text, n, &e), 0);
    if (playback_play(&p, &r, 1, NULL, NULL, &e))
        fail_msg("%s", e.msg);
    assert_true(*p.difference && p.n_plans < w.n_steps && p.live.n_steps == w.n_steps);
    uint32_t n_done = 0;
    for (uint32_t i = 0; i < p.live.n_requests; i++)
        n_done += p.live.requests[i].state == REPLAY_DONE;
    assert_int_equal(n_done, w.n_finished);
    playback_close(&p);
    record_close(r);
    free(text);
}

/* The last file of a recording, whole. */
static char *read_last_file(size_t *n)
{
    struct world w;
    char *text;
    uint64_t seed = 3;
    do {
        unlink(path);
        live_run(&w, "weir", seed++, 3000, 256 << 10);
        sched_destroy(w.sched);
    } while (w.n_rotations < 2);
    assert_int_equal(file_read(path, 1 << 24, &text, n, NULL), 0);
    return text;
}

/* Bytes of the state, which lies in the frames after the header, are changed: refused, or played as they say, but nothing
 * is touched that is not there. */
static void hostile_states(void **state)
{
    (void)state;
    size_t n, n_state = 0;
    char *text = read_last_file(&n), *copy = malloc(n);
    struct rng rng = {1};
    uint32_t n_refused = 0, n_header, n_frame;
    memcpy(&n_header, text + 8, 4);
    size_t frame = 16 + n_header;
    memcpy(&n_frame, text + frame, 4);
    n_state = n_frame < 16384 ? n_frame : 16384;
    assert_true(n_state > 4096);
    for (int i = 0; i < HOSTILE; i++) {
        struct playback p;
        struct record_reader *r;
        struct err e = {0};
        memcpy(copy, text, n);
        for (uint64_t k = 1 + rng_below(&rng, 3); k; k--) {
            unsigned char *at = (unsigned char *)copy + frame + 8 + rng_below(&rng, n_state);
            *at = (unsigned char)(rng_below(&rng, 2) ? *at ^ 1u << rng_below(&rng, 8) : 0 - rng_below(&rng, 2));
        }
        uint32_t check = (uint32_t)hash_bytes(copy + frame + 8, n_frame, 0);
        memcpy(copy + frame + 4, &check, 4);
        assert_int_equal(record_open_memory(&r, copy, n, &e), 0);
        if (playback_play(&p, &r, 1, NULL, NULL, &e)) {
            assert_true(e.code == WEIR_EFORMAT && *e.msg);
            n_refused++;
        } else {
            playback_close(&p);
        }
        record_close(r);
    }
    assert_true(n_refused > HOSTILE / 10);
    free(copy);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RECORD_TEST(every_decision_is_reproduced),  RECORD_TEST(its_traffic_can_be_simulated),
        RECORD_TEST(what_is_left_of_many_segments), RECORD_TEST(hostile_states),
        RECORD_TEST(a_difference_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
