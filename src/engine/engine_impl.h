/* Inside the engine. Not for users of engine/engine.h.
 *
 * Who touches what: `shared` is for any thread, under its lock; `inbox` is a ring; everything else belongs to the
 * engine thread once it runs.
 */
#ifndef WEIR_ENGINE_ENGINE_IMPL_H
#define WEIR_ENGINE_ENGINE_IMPL_H

#include "base/ring.h"
#include "engine/engine.h"
#include "engine/record.h"
#include "engine/stop.h"
#include "engine/watch.h"

#include <pthread.h>
#include <stdatomic.h>

/* A request inside the engine. Made on the submitting thread, then the engine thread's. */
struct gen {
    uint64_t id;
    void (*sink)(const struct gen_event *ev);
    void *user;
    uint32_t n_prompt, max_new_tokens, min_new_tokens;
    int32_t priority;
    double itl_target_s, ttft_limit_s;
    uint32_t n_pinned;
    uint64_t key;
    bool ignore_eos, echo, prompt_only, logprobs, keep_stop_text;

    token_id *tokens; /* [n_prompt + max_new_tokens] prompt, then output */
    uint32_t n_tokens;
    uint64_t *hashes; /* [(n_prompt + max_new_tokens) / chunk_tokens]: chain hashes of full chunks */
    uint32_t n_hashes;
    uint64_t hash_root;

    struct sampler *sampler;
    struct sample sample; /* of the step that runs */
    struct detokenizer detokenizer;
    struct stop_matcher stop; /* its text: what was decoded and not sent yet */

    uint32_t n_cached;
    uint32_t n_echoed; /* prompt tokens delivered one by one */
    bool echo_begun;
    double submitted_s, scheduled_s, first_token_s; /* 0: not yet */

    struct gen_usage usage;
    double waited_s[SCHED_N_WAITS]; /* the scheduler's as of its submit */
    uint32_t n_past;                /* after its last step; less in a plan: it was preempted */
    uint64_t last_step;             /* number of it */

    /* How it ended, until the scheduler's event lets it be said. */
    enum finish_reason finish;
    int stop_index; /* -1: none */
    const char *error;
};

/* What other threads see, under the lock. */
struct engine_shared {
    pthread_mutex_t lock;
    bool draining, stopping;
    uint32_t n_live;        /* submitted and not ended */
    uint64_t *slot_ids;     /* [n_slots]: id of the live request of the slot, 0 if none */
    uint32_t *slot_uses;    /* [n_slots]: makes ids of a slot differ */
    uint64_t *slot_cancels; /* [n_slots]: the id to cancel, 0: none */
    uint32_t *unused_slots; /* [n_slots - n_live] */
    uint32_t *cancels;      /* [n_cancels <= n_slots]: slots with something to cancel, each once */
    uint32_t n_cancels;
};

/* What other threads look at (engine/watch.h). */
struct watch {
    struct engine_stats buffers[3]; /* the engine thread writes `back`, readers read `front` */
    atomic_uint middle;             /* the third, and WATCH_FRESH if it is newer than the front */
    unsigned back, front;
    pthread_mutex_t readers;

    struct step_record *steps; /* [ENGINE_STEP_RECORDS]; NULL without accounts */
    atomic_ullong n_written, n_taken, n_lost;

    struct engine_view *view;
    atomic_int view_state;
    int view_fd;
};

struct engine {
    const struct tokenizer *tokenizer;
    struct device *device;
    struct sched *sched;
    struct sched_config config;
    struct recorder *recorder; /* NULL: none */
    uint32_t n_vocab, n_slots;
    uint64_t hash_secret; /* mixed into hashes, so that nobody can craft prompts whose chunks collide */

    struct engine_shared *shared;
    struct watch watch;
    struct ring inbox; /* struct gen * */
    pthread_t thread;
    bool thread_runs;

    struct gen **gens;  /* [n_slots] */
    uint64_t *cancels;  /* [n_slots]: taken from shared */
    void **arrivals;    /* [max_inbox] */
    struct buf scratch; /* decoded text of an echoed prompt */

    /* One step. */
    int32_t *row_tokens;          /* [max_step_tokens] */
    uint32_t *output_rows;        /* [max_step_outputs] */
    uint32_t *seq_outputs;        /* [max_running]: outputs of each sequence of the plan */
    uint32_t *seq_last_output;    /* [max_running]: the last of them */
    const struct plan *plan;      /* that runs */
    struct step_seq *seqs;        /* [max_running] */
    struct seq_outcome *outcomes; /* [max_running] */
    struct engine_stats stats;

    /* Accounts. */
    bool keeps_accounts;
    struct usage_rates rates;
    struct traffic_model once;  /* the model as if a step read each position once */
    struct usage_part *parts;   /* [max_running] */
    struct usage_share *shares; /* [max_running] */
};

static inline uint32_t slot_of(uint64_t id)
{
    return (uint32_t)id;
}

/* gen.c: requests and their text. */
int gen_create(struct gen **out, const struct engine *en, const struct gen_request *r, struct err *e);
void gen_destroy(struct gen *g); /* frees the prompt too; NULL is fine */
void gen_hash(struct gen *g, uint32_t chunk_tokens, uint32_t n_full);
void gen_event_init(const struct gen *g, struct gen_event *ev);

/* Delivers the whole prompt, or its first token. */
void gen_begin_echo(struct gen *g, struct engine *en);
void gen_echo_next(struct gen *g, const float *logits); /* the next prompt token, from the logits before it */

/* Chooses the next token. By any one thread, while nobody else touches g. */
void gen_sample(struct gen *g, const struct tokenizer *t, const float *logits);

/* Delivers what gen_sample chose, and says whether the output ended (g->finish). False if it goes on. */
bool gen_next_token(struct gen *g, struct engine *en, double now_s);

/* The terminal event. g->finish is set. */
void gen_deliver_end(struct gen *g, const struct sched_event *why);

/* accounts.c */
int accounts_init(struct engine *en, bool wanted, struct err *e);
void accounts_finish(struct engine *en);
void accounts_submitted(struct engine *en, struct gen *g);
void accounts_scheduled(struct engine *en, struct gen *g, double now_s);
void accounts_step(struct engine *en, const struct plan *plan, const struct step_result *r, double begin_s,
                   double now_s, bool failed);
void accounts_ended(struct engine *en, struct gen *g, double now_s);

/* watch.c */
int watch_init(struct watch *w, bool with_steps, struct err *e);
void watch_finish(struct watch *w);
void watch_publish(struct engine *en); /* en->stats */
void watch_step(struct watch *w, const struct step_record *r);
void watch_view(struct engine *en); /* if one was asked for */

/* loop.c */
void *engine_run(void *engine);

#endif
