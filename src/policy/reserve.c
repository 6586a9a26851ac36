#include "policy/reserve.h"

#include <math.h>

#define FIRST_WINDOW_S 10.0
#define WINDOW_GAIN 0.02
#define REFRESH_S 1.0
#define REFRESH_S_PER_WATCHED 1e-3
#define MIN_CHANCE 0.01 /* less is not worth a reservation */

void reserve_init(struct reserve *r, double limit)
{
    *r = (struct reserve){.limit = limit, .window_s = FIRST_WINDOW_S};
}

void reserve_ran(struct reserve *r, double seconds)
{
    r->window_s += WINDOW_GAIN * (seconds - r->window_s);
}

/* Sets the conversation's reservation to what is right now. */
static void renew(struct reserve *r, struct conversations *c, uint32_t i, double now_s)
{
    const struct conversation *x = &c->items[i];
    bool had = x->reserved_tokens > 0;
    double chance = continuation_within(&c->predictor, x->turns, fmax(0, now_s - x->idle_since_s), r->window_s);
    conversation_reserve(c, i, chance < MIN_CHANCE ? 0 : chance * (x->n_tokens + c->added_tokens));
    r->stats.n_made += x->reserved_tokens > 0 && !had && !r->revoked;
    r->stats.n_expired += had && !(x->reserved_tokens > 0) && !r->revoked;
}

void reserve_make(struct reserve *r, struct conversations *c, uint32_t i, double now_s)
{
    renew(r, c, i, now_s);
}

void reserve_used(struct reserve *r, const struct conversations *c, uint32_t i)
{
    r->stats.n_kept += c->items[i].reserved_tokens > 0 && !r->revoked;
}

void reserve_refresh(struct reserve *r, struct conversations *c, double now_s)
{
    if (now_s < r->refresh_at_s)
        return;
    r->refresh_at_s = now_s + fmax(REFRESH_S, REFRESH_S_PER_WATCHED * c->n);
    for (uint32_t i = c->first; i != CONVERSATION_NONE; i = c->items[i].next)
        renew(r, c, i, now_s);
}

void reserve_revoke(struct reserve *r, const struct conversations *c)
{
    r->stats.n_revoked += r->revoked ? 0 : c->n_reserved;
    r->revoked = true;
}

void reserve_restore(struct reserve *r, const struct conversations *c)
{
    r->stats.n_made += r->revoked ? c->n_reserved : 0;
    r->revoked = false;
}

double reserve_tokens(const struct reserve *r, const struct conversations *c, double available_tokens)
{
    return r->revoked ? 0 : fmin(c->reserved_tokens, r->limit * fmax(0, available_tokens));
}

bool reserve_is_sound(const struct conversations *c)
{
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t i = c->first; i != CONVERSATION_NONE; i = c->items[i].next) {
        sum += c->items[i].reserved_tokens;
        n += c->items[i].reserved_tokens > 0;
    }
    return n == c->n_reserved && fabs(sum - c->reserved_tokens) <= 1e-6 * (1 + sum);
}
