#include "server/records.h"

#include <stdlib.h>
#include <string.h>

void records_finish(struct records *r)
{
    for (uint64_t i = 0; i < RECORDS_MAX; i++)
        free(r->ring[i].choices);
}

void records_add(struct records *r, const struct request_record *record)
{
    struct request_record *at = &r->ring[r->n++ % RECORDS_MAX];
    free(at->choices);
    *at = *record;
}

const struct request_record *records_at(const struct records *r, uint64_t i)
{
    return i < r->n && i < RECORDS_MAX ? &r->ring[(r->n - 1 - i) % RECORDS_MAX] : NULL;
}

const struct request_record *records_find(const struct records *r, const char *id)
{
    const struct request_record *at;
    for (uint64_t i = 0; (at = records_at(r, i)); i++) {
        if (!strcmp(at->id, id))
            return at;
    }
    return NULL;
}

static int badness(enum finish_reason f)
{
    static const enum finish_reason order[] = {FINISH_NONE,      FINISH_STOP,    FINISH_LENGTH,
                                               FINISH_CANCELLED, FINISH_REFUSED, FINISH_FAILED};
    int i = 0;
    while (order[i] != f)
        i++;
    return i;
}

void request_sums_add(struct request_sums *s, const struct choice_record *c)
{
    const struct gen_usage *u = &c->usage;
    if (badness(c->finish) > badness(s->finish)) {
        s->finish = c->finish;
        s->refusal = c->refusal;
    }
    s->output_tokens += c->n_output_tokens;
    gen_traffic_add(&s->traffic, &u->traffic);
    s->device_s += u->device_s;
    s->n_steps += u->n_steps;
    for (int i = 0; i < GEN_N_PHASES; i++)
        s->phase_s[i] += u->phase_s[i];
    for (int i = 0; i < SCHED_N_WAITS; i++)
        s->queued_s[i] += u->queued_s[i];
}
