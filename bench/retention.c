/* Prefix hit rate of retention by value against LRU: the scheduler itself, one request after the other at the times of
 * a trace, with a KV pool of some shares of the trace's working set (its distinct full chunks).
 *
 *   make build/gcc/bench/retention && build/gcc/bench/retention [TRACE ...]
 *
 * Without arguments only traffic that is made up here. Rates are of all prompt tokens; "all": with a pool that holds
 * everything. Chunks have 512 tokens, as Mooncake's traces know them.
 */
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/trace.h"
#include "policy/index_map.h"
#include "policy/sched.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_TOKENS = 512, MAX_CHUNKS = 400 };
static const double shares[] = {0.02, 0.05, 0.1, 0.2};

struct request {
    double at_s;
    uint32_t n_prompt, n_hashes;
    uint64_t *hashes;
};

struct traffic {
    struct request *r;
    uint32_t n, max;
};

static void *must(void *p)
{
    if (!p) {
        fputs("no memory\n", stderr);
        exit(1);
    }
    return p;
}

static void add(struct traffic *t, double at_s, const uint64_t *hashes, uint32_t n_hashes, uint32_t n_prompt)
{
    if (t->n == t->max) {
        t->max = t->max ? 2 * t->max : 1024;
        t->r = must(realloc(t->r, t->max * sizeof *t->r));
    }
    struct request *r = &t->r[t->n++];
    *r = (struct request){.at_s = at_s, .n_prompt = n_prompt, .n_hashes = n_hashes};
    r->hashes = must(mem_array(n_hashes + 1, sizeof *r->hashes));
    memcpy(r->hashes, hashes, n_hashes * sizeof *hashes);
}

/* --- made-up traffic -------------------------------------------------------------------------------------------- */

enum kind { CHAT, AGENTS, SCAN, DOCUMENTS, DRIFT, N_KINDS };

struct talk {
    enum kind kind;
    double next_s;
    uint32_t turns, n;
    uint64_t hashes[MAX_CHUNKS];
};

static double log_normal(struct rng *g, double median, double sigma)
{
    double z = sqrt(-2 * log(1 - rng_unit(g))) * cos(6.283185307179586 * rng_unit(g));
    return median * exp(sigma * z);
}

static void grow(struct talk *t, uint64_t *n_made, double n)
{
    for (double i = 0; i < n && t->n < MAX_CHUNKS; i++, t->n++)
        t->hashes[t->n] = hash_u64(++*n_made);
}

/* The next turn of a conversation, and when the one after it comes. */
static void turn(struct talk *t, struct rng *g, uint64_t *n_made)
{
    double now_s = t->next_s;
    t->next_s = INFINITY;
    switch (t->kind) {
    case CHAT: /* a system prompt for all, seven of ten turns are followed by another */
        for (; t->n < 4; t->n++)
            t->hashes[t->n] = t->n + 1;
        grow(t, n_made, 1 + floor(log_normal(g, 3, 1)));
        if (rng_unit(g) < 0.7 && t->n < MAX_CHUNKS / 2)
            t->next_s = now_s + log_normal(g, 60, 1.2);
        break;
    case AGENTS: /* many short turns, soon one after the other */
        grow(t, n_made, t->turns ? 1 + floor(log_normal(g, 1, 1)) : 6);
        if (rng_unit(g) < 0.95 && t->n < MAX_CHUNKS / 2)
            t->next_s = now_s + log_normal(g, 5, 0.8);
        break;
    case DOCUMENTS: /* questions about 2,000 documents, few of which are popular; DRIFT: which ones, changes */
    case DRIFT: {
        double rank = floor(2000 * pow(rng_unit(g), 4));
        uint64_t document = (uint64_t)rank + (t->kind == DRIFT ? (uint64_t)(now_s / 200) * 37 : 0);
        struct rng content = {document % 2000 + 1};
        double n = 1 + floor(log_normal(&content, 8, 1));
        for (; t->n < n && t->n < MAX_CHUNKS - 1; t->n++)
            t->hashes[t->n] = hash_u64((document % 2000 + 1) << 32 | t->n);
        grow(t, n_made, 1);
        break;
    }
    default: /* SCAN: read once */
        grow(t, n_made, 1 + floor(log_normal(g, 10, 1)));
    }
    t->turns++;
}

/* 12,000 requests; every half second something new begins, of a kind by its share. */
static void make_up(struct traffic *t, const double share[N_KINDS])
{
    enum { N = 12000 };
    struct talk *talks = must(mem_array(N, sizeof *talks));
    struct rng g = {7};
    uint64_t n_made = 1 << 20;
    uint32_t n_talks = 0;
    double next_new_s = 0;
    while (t->n < N) {
        struct talk *first = NULL;
        for (uint32_t i = 0; i < n_talks; i++) {
            if (!first || talks[i].next_s < first->next_s)
                first = &talks[i];
        }
        if (!first || first->next_s > next_new_s) {
            double u = rng_unit(&g);
            int kind = 0;
            while (kind + 1 < N_KINDS && (u -= share[kind]) >= 0)
                kind++;
            /* A conversation that is over leaves its place. */
            struct talk *slot = &talks[n_talks < N ? n_talks : 0];
            for (uint32_t i = 0; i < n_talks; i++) {
                if (isinf(talks[i].next_s)) {
                    slot = &talks[i];
                    break;
                }
            }
            n_talks += slot == &talks[n_talks];
            *slot = (struct talk){.kind = (enum kind)kind, .next_s = next_new_s};
            next_new_s += -0.5 * log(1 - rng_unit(&g));
            continue;
        }
        double at_s = first->next_s;
        turn(first, &g, &n_made);
        add(t, at_s, first->hashes, first->n, first->n * CHUNK_TOKENS + 1);
    }
    free(talks);
}

static int read_trace(struct traffic *t, const char *path)
{
    struct trace trace;
    struct err e;
    if (trace_read(&trace, path, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    uint64_t *hashes = must(mem_array(TRACE_MAX_TOKENS / CHUNK_TOKENS, sizeof *hashes));
    for (uint32_t i = 0; i < trace.n_requests; i++) {
        const struct trace_request *q = &trace.requests[i];
        uint32_t n = q->n_prompt / CHUNK_TOKENS;
        for (uint32_t k = 0; k < n; k++)
            hashes[k] = trace_chunk_hash(&trace, q, k, CHUNK_TOKENS);
        add(t, q->arrival_s, hashes, n, q->n_prompt);
    }
    free(hashes);
    trace_finish(&trace);
    return 0;
}

/* --- measuring -------------------------------------------------------------------------------------------------- */

static uint64_t working_set(const struct traffic *t)
{
    uint64_t n_all = 0, n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        n_all += t->r[i].n_hashes;
    struct index_map seen;
    if (index_map_init(&seen, (uint32_t)n_all, NULL))
        must(NULL);
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t k = 0; k < t->r[i].n_hashes; k++) {
            if (index_map_find(&seen, t->r[i].hashes[k]) == INDEX_NONE) {
                index_map_insert(&seen, t->r[i].hashes[k], 0);
                n++;
            }
        }
    }
    index_map_finish(&seen);
    return n;
}

static double hit_rate(const struct traffic *t, uint64_t n_chunks, bool lru)
{
    struct sched_config c = {.chunk_tokens = CHUNK_TOKENS,
                             .n_chunks = (uint32_t)n_chunks,
                             .max_running = 1,
                             .max_queued = 2,
                             .max_step_tokens = TRACE_MAX_TOKENS,
                             .max_context = TRACE_MAX_TOKENS,
                             .prefix_cache = true,
                             .policy = "fcfs",
                             .lru_retention = lru};
    struct sched *s;
    struct err e;
    if (sched_create(&s, &c, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    for (uint32_t i = 0; i < t->n; i++) {
        const struct request *q = &t->r[i];
        struct sched_request r = {.id = i + 1,
                                  .n_prompt = q->n_prompt,
                                  .max_new_tokens = 1,
                                  .chunk_hashes = q->hashes,
                                  .n_chunk_hashes = q->n_hashes};
        struct sched_event ev;
        struct plan p;
        if (sched_submit(s, &r, q->at_s, &ev))
            continue;
        while (sched_plan(s, q->at_s, &p)) {
            struct seq_outcome o = {.sampled = p.seqs[0].samples, .finished = p.seqs[0].samples};
            sched_commit(s, &p, &(struct sched_outcome){.seqs = &o, .seconds = 0.01}, q->at_s);
        }
        while (sched_next_event(s, &ev))
            ;
    }
    struct sched_stats st;
    sched_stats(s, &st);
    sched_destroy(s);
    return (double)st.prefix_hit_tokens / fmax(1, (double)st.prefix_query_tokens);
}

static void measure(const char *name, struct traffic *t)
{
    uint64_t n = working_set(t);
    double all = hit_rate(t, n + MAX_CHUNKS, true);
    printf("%-28s %8llu %6.2f %%", name, (unsigned long long)n, 100 * all);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        uint64_t pool = (uint64_t)(shares[i] * (double)n);
        double lru = hit_rate(t, pool, true), value = hit_rate(t, pool, false);
        printf(" | %5.2f %5.2f (%3.0f %%)", 100 * lru, 100 * value, all > 0 ? 100 * value / all : 0);
    }
    putchar('\n');
    fflush(stdout);
    for (uint32_t i = 0; i < t->n; i++)
        free(t->r[i].hashes);
    free(t->r);
    *t = (struct traffic){0};
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        double share[N_KINDS];
    } made_up[] = {
        {"chat", {1}},
        {"agents", {0, 1}},
        {"documents", {0, 0, 0, 1}},
        {"documents, drifting", {0, 0, 0, 0, 1}},
        {"chat, a third read once", {0.67, 0, 0.33}},
        {"chat, agents, read once", {0.5, 0.25, 0.25}},
        {"all of them", {0.3, 0.1, 0.2, 0.2, 0.2}},
    };
    printf("hit rate in %% by LRU, by value (of what is possible), with a pool of %g, %g, %g, %g of the working set\n",
           shares[0], shares[1], shares[2], shares[3]);
    printf("%-28s %8s %8s\n", "traffic", "chunks", "all");
    struct traffic t = {0};
    for (int i = 1; i < argc; i++) {
        if (read_trace(&t, argv[i]))
            return 1;
        const char *slash = strrchr(argv[i], '/');
        measure(slash ? slash + 1 : argv[i], &t);
    }
    for (size_t i = 0; i < sizeof made_up / sizeof *made_up; i++) {
        make_up(&t, made_up[i].share);
        measure(made_up[i].name, &t);
    }
    return 0;
}
