#include "policy/conversation.h"

#include "base/mem.h"
#include "policy/state_io.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define HORIZON_EVERY 64    /* returns */
#define HORIZON_CHANCE 0.02 /* of a conversation that surely goes on, to be still out at the horizon */
#define REFRESH_S 1.0
#define REFRESH_S_PER_WATCHED 1e-3
#define ADDED_PRIOR 512.0
#define ADDED_GAIN 0.01

int conversations_init(struct conversations *c, uint32_t max, struct err *e)
{
    *c = (struct conversations){
        .max = max, .first = CONVERSATION_NONE, .last = CONVERSATION_NONE, .unused = CONVERSATION_NONE};
    int rc = index_map_init(&c->by_mark, CONVERSATION_MARKS * max, e);
    c->items = mem_array(max, sizeof *c->items);
    if (!rc && !c->items)
        rc = err_set(e, WEIR_ENOMEM, "no memory to watch %u conversations", max);
    if (rc) {
        conversations_finish(c);
        return rc;
    }
    for (uint32_t i = max; i-- > 0;) {
        c->items[i].next = c->unused;
        c->unused = i;
    }
    continuation_init(&c->predictor);
    c->horizon_s = continuation_gap_quantile_s(&c->predictor, 1 - HORIZON_CHANCE);
    c->added_tokens = ADDED_PRIOR;
    return 0;
}

void conversations_finish(struct conversations *c)
{
    index_map_finish(&c->by_mark);
    free(c->items);
    *c = (struct conversations){0};
}

uint32_t conversation_find(const struct conversations *c, const uint64_t *hashes, uint32_t n, uint32_t *mark)
{
    while (c->n > 0 && n-- > 0) {
        uint32_t i = index_map_find(&c->by_mark, hashes[n]);
        if (i != INDEX_NONE) {
            *mark = n;
            return i;
        }
    }
    return CONVERSATION_NONE;
}

void conversation_reserve(struct conversations *c, uint32_t i, double tokens)
{
    struct conversation *x = &c->items[i];
    c->n_reserved -= x->reserved_tokens > 0;
    c->n_reserved += tokens > 0;
    c->reserved_tokens = c->n_reserved ? c->reserved_tokens + tokens - x->reserved_tokens : 0;
    x->reserved_tokens = tokens;
}

static void forget(struct conversations *c, uint32_t i)
{
    struct conversation *x = &c->items[i];
    conversation_reserve(c, i, 0);
    for (int m = 0; m < CONVERSATION_MARKS; m++) {
        if (x->marks[m])
            index_map_remove(&c->by_mark, x->marks[m]);
    }
    if (x->prev == CONVERSATION_NONE)
        c->first = x->next;
    else
        c->items[x->prev].next = x->next;
    if (x->next == CONVERSATION_NONE)
        c->last = x->prev;
    else
        c->items[x->next].prev = x->prev;
    *x = (struct conversation){.next = c->unused};
    c->unused = i;
    c->n--;
}

struct conversation conversation_continue(struct conversations *c, uint32_t i, double now_s)
{
    struct conversation x = c->items[i];
    continuation_returned(&c->predictor, x.turns, fmax(0, now_s - x.idle_since_s), x.chance);
    if (c->n_until_horizon == 0) {
        c->n_until_horizon = HORIZON_EVERY;
        c->horizon_s = continuation_gap_quantile_s(&c->predictor, 1 - HORIZON_CHANCE);
    }
    c->n_until_horizon--;
    forget(c, i);
    return x;
}

void conversation_drop(struct conversations *c, uint32_t i, double now_s)
{
    const struct conversation *x = &c->items[i];
    continuation_expired(&c->predictor, x->turns, fmax(0, now_s - x->idle_since_s), x->chance);
    forget(c, i);
}

uint32_t conversation_expired(const struct conversations *c, double now_s)
{
    if (c->first != CONVERSATION_NONE && now_s - c->items[c->first].idle_since_s > c->horizon_s)
        return c->first;
    return CONVERSATION_NONE;
}

static void link_last(struct conversations *c, uint32_t i)
{
    c->items[i].prev = c->last;
    c->items[i].next = CONVERSATION_NONE;
    if (c->last == CONVERSATION_NONE)
        c->first = i;
    else
        c->items[c->last].next = i;
    c->last = i;
    c->n++;
}

uint32_t conversation_watch(struct conversations *c, const struct conversation *x, double now_s)
{
    assert(x->turns >= 1 && (x->marks[0] || x->marks[1] || x->marks[2]));
    for (int m = 0; m < CONVERSATION_MARKS; m++) { /* the same text again: a repetition, whose last one counts */
        uint32_t other = x->marks[m] ? index_map_find(&c->by_mark, x->marks[m]) : INDEX_NONE;
        if (other != INDEX_NONE)
            forget(c, other);
    }
    if (c->n == c->max)
        conversation_drop(c, c->first, now_s);
    uint32_t i = c->unused;
    c->unused = c->items[i].next;
    c->items[i] = *x;
    if (!(x->chance > 0))
        c->items[i].chance = continuation_probability(&c->predictor, x->turns, 0);
    for (int m = 1; m < CONVERSATION_MARKS; m++) {
        if (x->marks[m] == x->marks[0] || (m == 2 && x->marks[2] == x->marks[1]))
            c->items[i].marks[m] = 0;
    }
    for (int m = 0; m < CONVERSATION_MARKS; m++) {
        if (c->items[i].marks[m])
            index_map_insert(&c->by_mark, c->items[i].marks[m], i);
    }
    link_last(c, i);
    return i;
}

void conversation_added(struct conversations *c, uint32_t n_tokens)
{
    c->added_tokens += ADDED_GAIN * (n_tokens - c->added_tokens);
}

void conversations_refresh(struct conversations *c, double now_s)
{
    if (now_s < c->refresh_at_s)
        return;
    c->refresh_at_s = now_s + fmax(REFRESH_S, REFRESH_S_PER_WATCHED * c->n);
    continuation_waiting_begin(&c->predictor);
    for (uint32_t i = c->first; i != CONVERSATION_NONE; i = c->items[i].next)
        continuation_waiting(&c->predictor, c->items[i].turns, fmax(0, now_s - c->items[i].idle_since_s));
}

/* --- saving and loading ----------------------------------------------------------------------------------------- */

static void item_io(struct state_io *x, struct conversation *i)
{
    for (int m = 0; m < CONVERSATION_MARKS; m++)
        io_hash(x, &i->marks[m]);
    io_u32(x, &i->turns);
    io_u32(x, &i->n_tokens);
    io_f64(x, &i->idle_since_s);
    io_size(x, &i->chance);
    io_size(x, &i->reserved_tokens);
}

/* A place, not its number, is what is kept: nobody refers to it. */
static void load_item(struct state_io *x, struct conversations *c)
{
    struct conversation item = {0};
    item_io(x, &item);
    if (!io_must(x, item.turns > 0 && item.chance <= 1))
        return;
    uint32_t i = c->unused;
    c->unused = c->items[i].next;
    c->items[i] = item;
    link_last(c, i);
    c->n_reserved += item.reserved_tokens > 0;
    for (int m = 0; m < CONVERSATION_MARKS; m++) {
        if (item.marks[m] && io_must(x, index_map_find(&c->by_mark, item.marks[m]) == INDEX_NONE))
            index_map_insert(&c->by_mark, item.marks[m], i);
    }
}

void conversations_io(struct state_io *x, struct conversations *c)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof(struct conversations) == 544 && sizeof(struct conversation) == 64, "new members?");
#endif
    uint32_t n = c->n, next = c->first;
    io_upto(x, &n, c->max);
    for (uint32_t k = 0; k < n && !x->bad; k++) {
        if (io_loads(x)) {
            load_item(x, c);
        } else {
            item_io(x, &c->items[next]);
            next = c->items[next].next;
        }
    }
    continuation_io(x, &c->predictor);
    io_size(x, &c->horizon_s);
    io_f64(x, &c->refresh_at_s);
    io_u32(x, &c->n_until_horizon);
    io_f64(x, &c->reserved_tokens);
    io_size(x, &c->added_tokens);
}
