#include "policy/peak.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHUNK_TOKENS 256

int peak_init(struct peak_set *p, uint32_t capacity, uint32_t chunk_tokens, struct err *e)
{
    *p = (struct peak_set){.capacity = capacity, .chunk_tokens = chunk_tokens};
    assert(chunk_tokens && chunk_tokens <= MAX_CHUNK_TOKENS && !(chunk_tokens & (chunk_tokens - 1)));
    p->seqs = mem_array(capacity, sizeof *p->seqs);
    return p->seqs ? 0 : err_set(e, WEIR_ENOMEM, "no memory for %u sequences", capacity);
}

void peak_finish(struct peak_set *p)
{
    free(p->seqs);
    *p = (struct peak_set){0};
}

/* The place of the first that ends before end_step. */
static uint32_t place_behind(const struct peak_set *p, uint64_t end_step)
{
    uint32_t low = 0, high = p->n;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (p->seqs[mid].end_step >= end_step)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static uint64_t chunks_at_end(const struct peak_set *p, const struct peak_seq *s)
{
    return (s->base_tokens + (s->end_step - s->base_step) + p->chunk_tokens - 1) / p->chunk_tokens;
}

void peak_add(struct peak_set *p, const struct peak_seq *s)
{
    assert(p->n < p->capacity);
    uint32_t at = place_behind(p, s->end_step);
    memmove(&p->seqs[at + 1], &p->seqs[at], (p->n - at) * sizeof *p->seqs);
    p->seqs[at] = *s;
    p->n++;
    p->upper_chunks += chunks_at_end(p, s);
}

void peak_remove(struct peak_set *p, uint64_t id, uint64_t end_step)
{
    for (uint32_t i = place_behind(p, end_step); i-- > 0 && p->seqs[i].end_step == end_step;) {
        if (p->seqs[i].id == id) {
            p->upper_chunks -= chunks_at_end(p, &p->seqs[i]);
            p->n--;
            memmove(&p->seqs[i], &p->seqs[i + 1], (p->n - i) * sizeof *p->seqs);
            return;
        }
    }
}

bool peak_upper(const struct peak_set *p, uint64_t now, const struct peak_seq *candidate, uint64_t *chunks)
{
    if (p->n && p->seqs[p->n - 1].end_step <= now)
        return false;
    *chunks = p->upper_chunks + (candidate ? chunks_at_end(p, candidate) : 0);
    return true;
}

/* The sequences met so far on the walk from the latest end to the earliest: whole chunks, and how many have each number
 * of tokens in their last one, so that all of them can be grown by any number of steps at once. */
struct walk {
    uint64_t whole_chunks, n;
    uint32_t tail[MAX_CHUNK_TOKENS];
    uint32_t chunk_tokens, shift;
};

static void meet(struct walk *w, const struct peak_seq *s, uint64_t now)
{
    uint64_t grown = now > s->base_step ? now - s->base_step : 0;
    uint64_t held = s->base_tokens + grown;
    w->whole_chunks += held >> w->shift;
    w->tail[held & (w->chunk_tokens - 1)]++;
    w->n++;
}

/* Chunks of all of them after `steps` more tokens each. */
static uint64_t after(const struct walk *w, uint64_t steps)
{
    uint64_t chunks = w->whole_chunks + w->n * (steps >> w->shift);
    uint32_t more = (uint32_t)steps & (w->chunk_tokens - 1);
    /* tail t needs ceil((t + more) / chunk_tokens): 0 if both are 0, 2 if they pass a chunk, else 1. */
    chunks += w->n;
    if (more == 0)
        chunks -= w->tail[0];
    for (uint32_t t = w->chunk_tokens - more + 1; t < w->chunk_tokens; t++)
        chunks += w->tail[t];
    return chunks;
}

uint64_t peak_chunks(const struct peak_set *p, uint64_t now, const struct peak_seq *candidate)
{
    struct walk w = {.chunk_tokens = p->chunk_tokens, .shift = (uint32_t)__builtin_ctz(p->chunk_tokens)};
    uint64_t peak = 0;
    for (uint32_t i = 0; i < p->n || candidate;) {
        bool take_candidate = candidate && (i == p->n || candidate->end_step >= p->seqs[i].end_step);
        const struct peak_seq *s = take_candidate ? candidate : &p->seqs[i];
        meet(&w, s, now);
        if (take_candidate)
            candidate = NULL;
        else
            i++;
        /* Of several with the same end only the last one's test sees them all. */
        uint64_t next_end = i < p->n ? p->seqs[i].end_step : 0;
        if (candidate && candidate->end_step > next_end)
            next_end = candidate->end_step;
        if (next_end == s->end_step)
            continue;
        uint64_t steps = s->end_step > now ? s->end_step - now : 1;
        if (w.whole_chunks + w.n * ((steps >> w.shift) + 2) <= peak)
            continue;
        uint64_t chunks = after(&w, steps);
        peak = chunks > peak ? chunks : peak;
    }
    return peak;
}
