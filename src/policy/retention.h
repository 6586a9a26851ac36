/* Retention: which idle cached chunk goes when the pool needs one.
 *
 * By value: an idle chunk is worth the rate at which keeping it saves recomputation,
 *
 *   value = seconds to recompute it x P(it is taken up again) / expected time until then
 *
 * (all chunks have the same bytes). The probability is learned, as in LHD (Beckmann, Chen, Cidon 2018), from what
 * happens to chunks of a class at an age: classes are by the turns of the conversation that used the chunk last, by how
 * many tokens that turn added, and by whether others than that conversation had taken the chunk up; ages are
 * log-spaced. For each class and age there is a hazard: takings per chunk-second, shrunk towards that of all classes,
 * so that what was seldom seen is judged like the rest; with no difference between classes the order is that of LRU.
 * Chunks that were evicted are remembered for a while (ghosts, as many as the pool has chunks) and count on, so that
 * what is evicted early is not taken for what never comes back. Old observations fade.
 *
 * Within a class and age the order is that of becoming idle. A finished sequence gives up its chunks from its tail to
 * its head, so a prefix goes after everything that was built on it.
 *
 * Pinned chunks go last, when nothing else is idle; at most `pin_limit` are pinned, the least recently used lose it.
 *
 * LRU is the same without classes and ages. O(1) per operation, amortised; choosing a victim looks at the oldest chunk
 * of each class and age that is not empty, once for each new time. Memory is taken once, at init. One owner.
 */
#ifndef WEIR_POLICY_RETENTION_H
#define WEIR_POLICY_RETENTION_H

#include "base/err.h"
#include "policy/index_map.h"
#include "policy/memory_stats.h"

#include <stdbool.h>
#include <stdint.h>

#define RETENTION_NONE UINT32_MAX

enum {
    RETENTION_AGES = 26,           /* ages from a second on, each 1.6 times the one before: up to 20 hours */
    RETENTION_CLASSES = 3 + 4 * 6, /* preempted, shared a little, shared much, 4 turn counts x 6 added lengths */
};

struct retention_list {
    uint32_t first, last, n; /* the oldest first */
    double since_sum;        /* of their since_s */
};

/* A chunk, or behind those of the pool a ghost. */
struct retention_entry {
    uint64_t hash;
    double since_s;      /* when it became idle */
    uint32_t prev, next; /* in its list */
    uint32_t depth;      /* tokens before it */
    uint16_t uses;       /* requests that had it after the one that computed it */
    uint8_t class, age;  /* of its list */
    bool listed, pinned;
};

/* What is learned of a class: chunks taken up at an age, and chunk-seconds that were spent at it. */
struct retention_class {
    double taken[RETENTION_AGES], exposed_s[RETENTION_AGES];
    double rate_per_s[RETENTION_AGES]; /* best rate of takings over any time that begins at this age */
};

struct retention {
    bool by_value;
    uint32_t n_chunks, n; /* n: idle ones that are not pinned */
    double now_s;
    struct retention_entry *entries; /* [2 n_chunks] by value, [n_chunks] for LRU */
    struct retention_list idle[RETENTION_CLASSES][RETENTION_AGES], ghosts[RETENTION_CLASSES][RETENTION_AGES];
    struct retention_list pinned; /* the idle ones of them */
    struct retention_class classes[RETENTION_CLASSES];
    double age_edge_s[RETENTION_AGES + 1];
    struct index_map ghost_by_hash;
    uint32_t next_ghost; /* ring over the ghosts' entries */

    double cost_s,
        cost_s_per_token; /* to compute a chunk again: at the start of a sequence, and for each token before */
    double mean_release;  /* chunks that a sequence leaves */
    uint32_t n_releases;  /* since the rates were last computed */

    double valued_s; /* when the candidates were last valued, all of them */
    double candidate_value[RETENTION_CLASSES];
    uint8_t candidate_age[RETENTION_CLASSES]; /* RETENTION_AGES: the class is empty */

    struct retention_stats stats;
};

struct retention_config {
    uint32_t n_chunks;
    uint32_t pin_limit; /* chunks */
    bool by_value;      /* else LRU */
};

int retention_init(struct retention *r, const struct retention_config *c, struct err *e);
void retention_finish(struct retention *r);

/* Time, before what happens at it. Must not go backwards. */
void retention_advance(struct retention *r, double now_s);

/* What a chunk costs to compute again. Any unit serves to compare; seconds make values seconds per second. */
void retention_set_cost(struct retention *r, double at_start_s, double per_token_before_s);

/* What a sequence leaves behind: the same for all chunks that it gives up. */
struct retention_use {
    uint32_t turns;        /* answered turns of its conversation, this one included; >= 1 */
    uint32_t n_new_tokens; /* that this turn added */
    bool preempted;        /* it will come back for them */
};

/* A sequence gives up n_chunks chunks: announces retention_add for those that nobody else holds. */
void retention_release(struct retention *r, uint32_t n_chunks);

/* The chunk became idle. */
void retention_add(struct retention *r, uint32_t chunk, uint64_t hash, uint32_t depth, const struct retention_use *use);

/* It is taken up: idle until now, or shared with those who hold it. again: by a request that had been preempted. */
void retention_take(struct retention *r, uint32_t chunk, bool again);

/* A chunk was allocated for content of this hash; 0: that is not known yet. again: by the request that had it. */
void retention_fresh(struct retention *r, uint32_t chunk, uint64_t hash, bool again);

/* The chunk that goes now, which the caller frees; RETENTION_NONE if none is idle. pinned_too: if no other is. */
uint32_t retention_evict(struct retention *r, bool pinned_too);

/* Pins a chunk, held or idle. False if pin_limit chunks are pinned and held. */
bool retention_pin(struct retention *r, uint32_t chunk);

/* Of a listed chunk, as retention_evict would compare it. */
double retention_value(const struct retention *r, uint32_t chunk);

/* Do all invariants hold? O(everything). */
bool retention_is_sound(const struct retention *r);

/* All that is known, saved or loaded into a new one (policy/state_io.h). is_free [n_chunks]: chunks of which nothing is
 * known. What was loaded may be unsound. */
struct state_io;
void retention_io(struct state_io *x, struct retention *r, const bool *is_free);

#endif
