/* The memory side of the scheduler when memory is short: reservations, the ladder, preemption. */
#include "base/rng.h"
#include "policy/prefix.h"
#include "policy/reserve.h"
#include "policy/sched.h"
#include "test.h"

#include <math.h>

/* Sanitised builds take a tenth of the seeds. */
#ifdef WEIR_DEBUG
#define N_SEEDS 100
#else
#define N_SEEDS 1000
#endif

/* --- reservations ----------------------------------------------------------------------------------------------- */

static void reservations_stay_under_their_limit(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct rng rng = {seed};
        struct conversations c;
        struct reserve r;
        assert_int_equal(conversations_init(&c, 16, NULL), 0);
        reserve_init(&r, rng_unit(&rng));
        double now_s = 0;
        for (uint64_t k = 1; k < 400; k++) {
            now_s += rng_unit(&rng) * 30;
            uint32_t mark = 0, i;
            uint64_t chain[2] = {1 + rng_below(&rng, 40), 1 + rng_below(&rng, 40)};
            struct conversation x = {.marks = {chain[0], 0},
                                     .turns = 1 + (uint32_t)rng_below(&rng, 9),
                                     .n_tokens = (uint32_t)rng_below(&rng, 20000),
                                     .idle_since_s = now_s};
            switch (rng_below(&rng, 5)) {
            case 0:
                if ((i = conversation_find(&c, chain, 2, &mark)) != CONVERSATION_NONE) {
                    reserve_used(&r, &c, i);
                    conversation_continue(&c, i, now_s);
                }
                break;
            case 1:
                if (rng_below(&rng, 2))
                    reserve_revoke(&r, &c);
                else
                    reserve_restore(&r, &c);
                break;
            case 2:
                while ((i = conversation_expired(&c, now_s)) != CONVERSATION_NONE)
                    conversation_drop(&c, i, now_s);
                conversations_refresh(&c, now_s);
                reserve_refresh(&r, &c, now_s);
                break;
            default:
                reserve_make(&r, &c, conversation_watch(&c, &x, now_s), now_s);
            }
            assert_true(reserve_is_sound(&c));
            double available = rng_unit(&rng) * 1e5, tokens = reserve_tokens(&r, &c, available);
            assert_true(tokens >= 0 && tokens <= r.limit * available);
            assert_true(!r.revoked || tokens == 0);
            assert_true(r.stats.n_kept + r.stats.n_expired + r.stats.n_revoked <= r.stats.n_made);
        }
        conversations_finish(&c);
    }
}

/* Who goes on for sure within seconds is reserved for; who never does is not. */
static void likely_ones_are_reserved_for(void **state)
{
    (void)state;
    struct conversations c;
    struct reserve r;
    assert_int_equal(conversations_init(&c, 16, NULL), 0);
    reserve_init(&r, 0.3);
    double now_s = 0;
    for (uint64_t k = 1; k < 3000; k++) {
        uint32_t turns = k % 2 ? 1 : 2, mark;
        struct conversation x = {.marks = {k, 0}, .turns = turns, .n_tokens = 1000, .idle_since_s = now_s};
        conversation_watch(&c, &x, now_s);
        now_s += 5;
        uint32_t i = conversation_find(&c, &k, 1, &mark);
        if (turns == 2)
            conversation_continue(&c, i, now_s);
        else
            continuation_expired(&c.predictor, 1, 1e6, c.items[i].chance), conversation_drop(&c, i, now_s);
    }
    struct conversation x = {.marks = {10000, 0}, .turns = 2, .n_tokens = 1000, .idle_since_s = now_s};
    reserve_make(&r, &c, conversation_watch(&c, &x, now_s), now_s);
    double sure = reserve_tokens(&r, &c, 1e6);
    assert_true(sure > 800);
    x = (struct conversation){.marks = {10001, 0}, .turns = 1, .n_tokens = 1000, .idle_since_s = now_s};
    reserve_make(&r, &c, conversation_watch(&c, &x, now_s), now_s);
    assert_true(reserve_tokens(&r, &c, 1e6) < sure + 100);
    assert_true(reserve_tokens(&r, &c, 1000) <= 300);
    conversations_finish(&c);
}

/* --- the ladder ------------------------------------------------------------------------------------------------- */

enum { CHUNK = 4, MAX_LIVE = 48, MAX_TOKENS = 400 };

struct request {
    uint64_t id, hashes[MAX_TOKENS / CHUNK + 1], content;
    uint32_t n_prompt, n_out, n_end;
};

struct world {
    struct sched *s;
    struct sched_config c;
    struct rng rng;
    struct request live[MAX_LIVE];
    uint64_t n_ids, n_ended, n_submitted, n_refused, schedule, n_spent; /* n_spent: preempted as often as may be */
    uint32_t worst_wait, first_waits; /* plans that the first in the running list got no row in, in a row */
    uint64_t first_id;
    double now_s;
};

static const struct traffic_model model = {.n_layer = 4,
                                           .attention_bytes = 1e6,
                                           .ffn_bytes = 2e6,
                                           .output_bytes = 1e6,
                                           .embedding_row_bytes = 256,
                                           .row_params = 1.5e6,
                                           .output_params = 5e5,
                                           .kv_token_bytes = 256,
                                           .pair_flops = 1024};

static void begin(struct world *w, uint64_t seed, uint32_t n_chunks, uint32_t max_step_tokens)
{
    *w = (struct world){.rng = {seed}};
    w->c = (struct sched_config){.chunk_tokens = CHUNK,
                                 .n_chunks = n_chunks,
                                 .max_running = 16,
                                 .max_queued = 64,
                                 .max_step_tokens = max_step_tokens,
                                 .max_context = MAX_TOKENS,
                                 .prefix_cache = true,
                                 .has_model = true,
                                 .model = model,
                                 .device = {.bytes_per_s = 1e9, .matmul_flops_per_s = 1e11},
                                 .speculative_limit = rng_below(&w->rng, 4) ? 0 : -1,
                                 .itl_target_s = 1,
                                 .pin_limit = -1,
                                 .max_preemptions = (uint32_t)(seed % 5)}; /* 0: 4 */
    struct err e;
    if (sched_create(&w->s, &w->c, &e))
        fail_msg("%s", e.msg);
}

static void submit(struct world *w, uint32_t n_prompt, uint32_t n_end, uint32_t max_new, uint64_t content)
{
    uint32_t i = 0;
    while (i < MAX_LIVE && w->live[i].id)
        i++;
    if (i == MAX_LIVE)
        return;
    struct request *r = &w->live[i];
    *r = (struct request){.id = ++w->n_ids, .n_prompt = n_prompt, .n_end = n_end, .content = content};
    for (uint32_t k = 0; k < MAX_TOKENS / CHUNK; k++)
        r->hashes[k] = (content << 32) + k + 1;
    struct sched_request q = {.id = r->id,
                              .n_prompt = n_prompt,
                              .max_new_tokens = max_new,
                              .chunk_hashes = r->hashes,
                              .n_chunk_hashes = n_prompt / CHUNK};
    struct sched_event ev;
    w->n_submitted++;
    if (sched_submit(w->s, &q, w->now_s, &ev)) {
        w->n_refused++;
        r->id = 0;
    }
}

static struct request *find(struct world *w, uint64_t id)
{
    for (uint32_t i = 0; i < MAX_LIVE; i++)
        if (w->live[i].id == id)
            return &w->live[i];
    return NULL;
}

static void take_events(struct world *w)
{
    struct sched_event ev;
    while (sched_next_event(w->s, &ev)) {
        struct request *r = find(w, ev.id);
        assert_non_null(r); /* exactly one end */
        r->id = 0;
        w->n_ended++;
    }
}

/* One step. The oldest running sequence must get rows in every one of them, or wait for a prefix for a bounded while. */
static bool step(struct world *w)
{
    struct plan p;
    bool planned = sched_plan(w->s, w->now_s, &p);
    sched_check(w->s);
    take_events(w);
    if (!planned)
        return false;
    struct sched_seq_view first, all[MAX_LIVE];
    assert_int_equal(sched_view_running(w->s, &first, 1), 1);
    uint32_t most = w->c.max_preemptions ? w->c.max_preemptions : 4, n_all = sched_view_running(w->s, all, MAX_LIVE);
    n_all += sched_view_queue(w->s, all + n_all, MAX_LIVE - n_all);
    for (uint32_t i = 0; i < n_all; i++) {
        assert_true(all[i].n_preemptions <= most);
        w->n_spent += all[i].n_preemptions == most;
    }
    bool has_rows = false;
    struct seq_outcome o[16];
    for (uint32_t k = 0; k < p.n_seqs; k++) {
        struct request *r = find(w, p.seqs[k].id);
        has_rows |= p.seqs[k].id == first.id;
        r->n_out += p.seqs[k].samples;
        o[k] = (struct seq_outcome){.sampled = p.seqs[k].samples,
                                    .finished = p.seqs[k].samples && r->n_out >= r->n_end,
                                    .n_chunk_hashes = (p.seqs[k].n_past + p.seqs[k].n_tokens) / CHUNK};
        if (o[k].n_chunk_hashes < r->n_prompt / CHUNK)
            o[k].n_chunk_hashes = r->n_prompt / CHUNK;
        w->schedule = w->schedule * 31 + p.seqs[k].id * 7 + p.seqs[k].n_tokens;
    }
    w->first_waits = has_rows || first.id != w->first_id ? 0 : w->first_waits + 1;
    w->first_id = first.id;
    w->worst_wait = w->first_waits > w->worst_wait ? w->first_waits : w->worst_wait;
    w->now_s += 0.01;
    sched_commit(w->s, &p, &(struct sched_outcome){.seqs = o, .seconds = 0.01}, w->now_s);
    sched_check(w->s);
    take_events(w);
    return true;
}

/* Outputs that are far longer than everything seen before: the peak was predicted too low, and memory runs out. */
static void run(struct world *w, uint64_t seed, struct sched_stats *st)
{
    begin(w, seed, 60 + (uint32_t)(seed % 4) * 30, 64);
    w->now_s = 5000;               /* any origin */
    for (int k = 0; k < 30; k++) { /* short ones first */
        submit(w, 8 + (uint32_t)rng_below(&w->rng, 12), 1 + (uint32_t)rng_below(&w->rng, 4), 100, 1000 + w->n_ids);
        while (step(w))
            ;
    }
    for (int k = 0; k < 300; k++) {
        if (rng_below(&w->rng, 2))
            submit(w, 4 + (uint32_t)rng_below(&w->rng, 60), 20 + (uint32_t)rng_below(&w->rng, 120), 140,
                   rng_below(&w->rng, 40));
        if (rng_below(&w->rng, 20) == 0 && w->n_ids > 0)
            sched_cancel(w->s, w->n_ids - rng_below(&w->rng, 10) % w->n_ids, w->now_s);
        step(w);
    }
    for (uint32_t k = 0; step(w); k++)
        assert_true(k < 100000); /* no livelock */
    sched_stats(w->s, st);
    assert_int_equal(st->n_submitted, w->n_submitted);
    assert_int_equal(w->n_ended + w->n_refused, w->n_submitted);
    assert_true(w->worst_wait <= 20);
    double at_levels_s = 0;
    for (int level = 0; level < PRESSURE_N_LEVELS; level++)
        at_levels_s += st->memory.pressure.level_s[level];
    assert_true(fabs(at_levels_s - (w->now_s - 5000)) < 1e-6);
}

static void the_ladder_keeps_its_promises(void **state)
{
    (void)state;
    uint64_t entered[PRESSURE_N_LEVELS] = {0}, preemptions = 0, spent = 0, made = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world w;
        struct sched_stats st;
        run(&w, seed, &st);
        const struct pressure_stats *p = &st.memory.pressure;
        uint64_t raised = 0, left = 0;
        for (int level = 1; level < PRESSURE_N_LEVELS; level++) {
            entered[level] += p->n_entered[level];
            raised += p->n_entered[level];
            left += p->n_left[level];
            if (level > 1 && level != PRESSURE_DEMOTE) /* a rung implies those before it */
                assert_true(p->n_entered[level] == 0 || p->n_entered[level - 1 - (level - 1 == PRESSURE_DEMOTE)] > 0);
        }
        uint32_t rungs = p->level > PRESSURE_DEMOTE ? p->level - 1 : p->level;
        assert_int_equal(raised - left, rungs);
        preemptions += st.n_preemptions;
        spent += w.n_spent > 0;
        assert_true(p->n_preempted_most <= (w.c.max_preemptions ? w.c.max_preemptions : 4));
        made += st.memory.reserve.n_made;
        sched_destroy(w.s);
    }
    assert_int_equal(entered[PRESSURE_DEMOTE], 0); /* there is no other tier */
    assert_true(entered[PRESSURE_SMALL_PREFILL] > 0 && entered[PRESSURE_DROP_SPECULATION] > 0);
    assert_true(entered[PRESSURE_EVICT] > 0 && entered[PRESSURE_STOP_ADMITTING] > 0 && entered[PRESSURE_PREEMPT] > 0);
    assert_true(preemptions > 0 && made > 0);
    assert_true(spent > N_SEEDS / 20);
}

/* Ever more who want all of a pool that is far too small, under a policy that hardly looks ahead: nobody is preempted more
 * often than may be (step() looks), the first in the order of service always has rows, and all end. */
static void preemptions_are_bounded(void **state)
{
    (void)state;
    static const struct sched_policy greedy = {"greedy", {"admit", "batch"}};
    uint64_t n_spent = 0, n_preemptions = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS / 4; seed++) {
        struct world w;
        struct sched_stats st;
        begin(&w, seed, 1, 64);
        sched_destroy(w.s);
        w.c.n_chunks = 12 + (uint32_t)rng_below(&w.rng, 40);
        w.c.pipeline = &greedy;
        w.c.max_running = 16;
        struct err e;
        if (sched_create(&w.s, &w.c, &e))
            fail_msg("%s", e.msg);
        for (int k = 0; k < 400; k++) {
            if (rng_below(&w.rng, 3) == 0)
                submit(&w, 1 + (uint32_t)rng_below(&w.rng, 12), 100, 10 + (uint32_t)rng_below(&w.rng, 30),
                       rng_below(&w.rng, 200));
            step(&w);
        }
        for (uint32_t k = 0; step(&w); k++)
            assert_true(k < 20000); /* no livelock */
        sched_stats(w.s, &st);
        assert_int_equal(w.n_ended + w.n_refused, w.n_submitted);
        assert_true(w.worst_wait <= 20);
        n_spent += w.n_spent > 0;
        n_preemptions += st.n_preemptions;
        sched_destroy(w.s);
    }
    print_message("%llu preemptions, %llu runs in which somebody had no more to come\n",
                  (unsigned long long)n_preemptions, (unsigned long long)n_spent);
    assert_true(n_spent > N_SEEDS / 25);
}

static void same_seed_same_schedule(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world a, b;
        struct sched_stats st;
        run(&a, seed, &st);
        run(&b, seed, &st);
        assert_int_equal(a.schedule, b.schedule);
        sched_destroy(a.s);
        sched_destroy(b.s);
    }
}

/* Of those younger than the one who needs memory, the one with least to compute again goes: so nobody who is younger
 * than the victim would have been cheaper, and often the victim is not the youngest. */
static void the_cheapest_is_preempted(void **state)
{
    (void)state;
    uint32_t n_cases = 0, n_not_youngest = 0;
    for (uint32_t n_chunks = 50; n_chunks < 70; n_chunks++) {
        struct world w;
        begin(&w, 1, n_chunks, 256);
        for (int k = 0; k < 600; k++) { /* outputs are short, it is thought */
            submit(&w, 40, 2, 140, 1000 + w.n_ids);
            while (step(&w))
                ;
        }
        submit(&w, 40, 130, 140, 1);
        submit(&w, 17, 130, 140, 2);
        submit(&w, 58, 130, 140, 3);
        struct sched_stats st = {0};
        struct sched_seq_view before[3], after[3];
        uint32_t n = 0;
        for (int k = 0; k < 200 && st.n_preemptions == 0; k++) {
            n = sched_view_running(w.s, before, 3);
            step(&w);
            sched_stats(w.s, &st);
        }
        uint32_t victim = 0, n_left = sched_view_running(w.s, after, 3);
        while (victim < n_left && after[victim].id == before[victim].id)
            victim++;
        if (st.n_preemptions == 1 && n == 3 && n_left == 2) {
            n_cases++;
            n_not_youngest += victim < 2;
            for (uint32_t i = victim + 1; i < 3; i++)
                assert_true(before[i].n_past >= before[victim].n_past);
        }
        while (step(&w))
            ;
        sched_destroy(w.s);
    }
    assert_true(n_cases >= 10 && n_not_youngest >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reservations_stay_under_their_limit), cmocka_unit_test(likely_ones_are_reserved_for),
        cmocka_unit_test(the_ladder_keeps_its_promises),       cmocka_unit_test(same_seed_same_schedule),
        cmocka_unit_test(the_cheapest_is_preempted),           cmocka_unit_test(preemptions_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
