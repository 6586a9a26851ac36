/* The engine: one thread that owns the scheduler, the device and the KV memory, and turns requests into token events.
 *
 * Any thread submits and cancels (through a bounded ring); what a request produces is delivered in order to its `sink`,
 * called on the engine thread, which must not block and must not call back into the engine except engine_cancel. A sink
 * usually copies the event into a ring of its own thread. After the terminal event (finish != FINISH_NONE) the engine
 * holds no pointer to the request's user data.
 *
 * Generation is text-aware here: sampling, stop strings across token borders, UTF-8-safe detokenisation,
 * log-probabilities, echo.
 *
 * Events of a request: its prompt if echo is set (as one text, or token by token with log-probabilities), then one for
 * each token of the output (has_token), then the terminal one, which carries no token but the text that was held back.
 * A token that ends the output (end of turn) has no event of its own; it counts in n_output_tokens.
 */
#ifndef WEIR_ENGINE_ENGINE_H
#define WEIR_ENGINE_ENGINE_H

#include "base/err.h"
#include "device/device.h"
#include "engine/usage.h"
#include "model/sampler.h"
#include "model/tokenizer.h"
#include "policy/sched.h"

#include <stdbool.h>
#include <stdint.h>

#define ENGINE_MAX_STOPS 16       /* stop strings of a request */
#define ENGINE_MAX_STOP_BYTES 512 /* of one */

struct engine; /* opaque */

enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,      /* an end token or a stop string */
    FINISH_LENGTH,    /* max_new_tokens or the context's end */
    FINISH_CANCELLED, /* engine_cancel or shutdown */
    FINISH_REFUSED,   /* the scheduler's refusal: event.refusal says why, when to retry */
    FINISH_FAILED,    /* event.error */
};

/* One token's worth (or the end) of output. Pointers are valid during the call only. */
struct gen_event {
    uint64_t id;
    void *user;
    const char *text; /* new text, whole UTF-8 characters; may be empty while a stop string or character is pending */
    size_t n_text;
    bool has_token;              /* a token was produced (false: only text held back until now, or the end) */
    bool is_prompt;              /* echoed: a prompt token, or without log-probabilities the whole prompt's text */
    const struct sample *sample; /* with log-probabilities if asked for; valid if has_token. The first prompt token has
                                    the log-probability NAN. */
    enum finish_reason finish;
    const char *stop_text; /* the stop string that matched, or NULL */
    struct sched_event refusal;
    const char *error; /* FINISH_FAILED */
    uint32_t n_prompt_tokens, n_output_tokens,
        n_cached_tokens;           /* so far; cached: prompt tokens taken from the prefix cache */
    const struct gen_usage *usage; /* so far; NULL if the engine keeps no accounts, and before the first step */
    double queued_s, prefill_s;    /* submit to first scheduled; first scheduled to first token (0 until known) */
};

struct gen_request {
    token_id *prompt; /* malloc'ed; ownership passes with a successful submit */
    uint32_t n_prompt;
    uint32_t max_new_tokens; /* 0: up to the context's end */
    uint32_t min_new_tokens; /* end tokens are forbidden before, stop strings do not stop before */
    bool ignore_eos;         /* end tokens do not end the output */
    bool echo;               /* deliver the prompt first (with logprobs: token by token) */
    bool prompt_only;        /* generate nothing: ends with FINISH_LENGTH when the prompt has run */
    bool special_text;       /* special tokens appear in the text */
    bool logprobs;           /* sampling.top_logprobs says how many */
    struct sampling_params sampling;
    const char *const *stops; /* copied; not empty, valid UTF-8 */
    uint32_t n_stops;
    bool keep_stop_text; /* include the matched stop string in the output */
    int32_t priority;
    double itl_target_s, ttft_limit_s; /* 0: those of the priority's class */
    uint64_t key;                      /* hash of the API key */
    uint64_t cache_salt;
    uint32_t n_pinned; /* leading prompt tokens to keep cached (struct sched_request) */
    void (*sink)(const struct gen_event *ev);
    void *user;
};

struct engine_config {
    struct sched_config sched;   /* max_step_outputs 0: max_running and some for prompt log-probabilities */
    struct device_config device; /* its chunks, rows, sequences, outputs and context follow from sched */
    uint32_t max_inbox;          /* submitted, not yet seen by the engine */
    const char *record_path;     /* flight recorder (engine/record.h); NULL: none */
    size_t record_max_bytes;     /* of its files together */
    bool no_accounts;            /* neither usage nor step records; to measure what they cost */
};

/* As of the last step. Copied out whole; cheap, and the engine thread never waits for it. */
struct engine_stats {
    struct sched_stats sched;
    struct step_traffic traffic; /* totals */
    double busy_s;               /* time in steps */
    double last_step_s, last_step_bytes;
    double kv_useful_bytes; /* of traffic.kv_read_bytes: each position that a sequence sees once a step */
    uint64_t n_steps, n_failed_steps;
    bool healthy; /* false after the device failed, until a step succeeds */
};

/* Starts the engine thread. model, tokenizer and forward must outlive it; the CPU device is created inside. */
int engine_create(struct engine **out, const struct forward *f, const struct tokenizer *t,
                  const struct engine_config *c, struct err *e);

/* The same on a device that the caller made with what engine_device_config gives; the device passes to the engine, on
 * failure too. */
int engine_create_on(struct engine **out, struct device *d, const struct tokenizer *t, const struct engine_config *c,
                     struct err *e);
struct device_config engine_device_config(const struct engine_config *c);

/* Stops taking requests and returns at once; running and queued ones go on. engine_idle tells when all are done. */
void engine_drain(struct engine *en);
bool engine_idle(const struct engine *en);

/* Cancels what is left (each gets its terminal event), stops the thread, frees everything. */
void engine_destroy(struct engine *en);

/* 0 with *id set: events will follow, ending with a terminal one. Else nothing follows and the caller keeps r's memory:
 * WEIR_EINVAL (parameters; the message names the field), WEIR_EBUSY (inbox full or draining), WEIR_ENOMEM. Thread-safe.
 * The first events may come before it returns: *id is set before the request can be seen by the engine. */
int engine_submit(struct engine *en, const struct gen_request *r, uint64_t *id, struct err *e);

/* Its memory is free within one step; a FINISH_CANCELLED event follows unless it ended already. Unknown ids are
 * ignored. Thread-safe. */
void engine_cancel(struct engine *en, uint64_t id);

void engine_stats(struct engine *en, struct engine_stats *out); /* any thread */

#endif
