/* Conversations between their turns: who may come back, and with how much.
 *
 * A conversation is known by its chain of prefix hashes (policy/prefix.h). When a turn ends, the hashes of its prompt's
 * and its whole text's last full chunk are watched, unless others had computed that chunk before (a shared system
 * prompt's end is nobody's conversation). A request whose own chain contains a watched hash is that conversation's next
 * turn; the longest match counts. Outputs need not be found again to the letter: the prompt's mark is enough; and since a
 * prompt's end may be rendered differently next time, so is one up to 512 tokens before it, if the text has grown.
 *
 * Turns and gaps feed the continuation predictor (policy/predict.h). A conversation is watched until hardly any that
 * return at all take so long, or until `max` younger ones have ended their turn.
 *
 * O(full chunks of the request) to find, O(1) else. Memory is taken once, at init. Pure; one owner.
 */
#ifndef WEIR_POLICY_CONVERSATION_H
#define WEIR_POLICY_CONVERSATION_H

#include "base/err.h"
#include "policy/index_map.h"
#include "policy/predict.h"

#include <stdbool.h>
#include <stdint.h>

#define CONVERSATION_NONE UINT32_MAX
#define CONVERSATION_MARKS 3

struct conversation {
    /* Hashes: of the prompt, of all its text, of the prompt without its tail; 0: none. */
    uint64_t marks[CONVERSATION_MARKS];
    uint32_t turns;         /* answered ones */
    uint32_t n_tokens;      /* its history */
    double idle_since_s;    /* the end of its last turn */
    uint32_t prev, next;    /* in the order of ending, or in the list of free ones */
    double chance;          /* to be continued, as seen when its turn ended */
    double reserved_tokens; /* policy/reserve.h; 0: nothing */
};

struct conversations {
    struct conversation *items; /* [max] */
    uint32_t max, n;
    uint32_t first, last, unused; /* watched ones, the longest idle first */
    struct index_map by_mark;
    struct continuation_predictor predictor;
    double horizon_s; /* how long they are watched */
    double refresh_at_s;
    uint32_t n_until_horizon; /* returns until it is computed anew */
    double reserved_tokens;   /* of all, */
    uint32_t n_reserved;      /* and how many have any */
    double added_tokens;      /* mean growth of a conversation by a turn: prompt and answer */
};

int conversations_init(struct conversations *c, uint32_t max, struct err *e);
void conversations_finish(struct conversations *c);

/* The watched conversation that a request with these chunk hashes goes on with, or CONVERSATION_NONE; *mark: the chunk
 * by which it was recognised. */
uint32_t conversation_find(const struct conversations *c, const uint64_t *hashes, uint32_t n, uint32_t *mark);

/* It went on: what was known of it is handed out, and it is watched no more. */
struct conversation conversation_continue(struct conversations *c, uint32_t i, double now_s);

/* A turn ended. Returns its index. Its marks belong to nobody else from now on. */
uint32_t conversation_watch(struct conversations *c, const struct conversation *x, double now_s);

/* Sets what is reserved for it. */
void conversation_reserve(struct conversations *c, uint32_t i, double tokens);

/* Those who wait count in what is learned: once a second, or more seldom when many are watched. O(watched) then. */
void conversations_refresh(struct conversations *c, double now_s);

/* What a turn added to its conversation, for the mean. */
void conversation_added(struct conversations *c, uint32_t n_tokens);

/* The first whose time has passed, or CONVERSATION_NONE; conversation_drop says that it did not come back. */
uint32_t conversation_expired(const struct conversations *c, double now_s);
void conversation_drop(struct conversations *c, uint32_t i, double now_s);

/* All that is known, saved or loaded into a new one (policy/state_io.h). */
struct state_io;
void conversations_io(struct state_io *x, struct conversations *c);

#endif
