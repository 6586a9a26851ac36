/* Worker threads for what is too slow for the network thread: parsing a request's body, rendering its chat template,
 * tokenising, and the answers of /tokenize and /detokenize.
 *
 * Jobs wait in a bounded queue (by number and by bytes of their bodies); each comes back exactly once through the
 * `done` ring given at creation, which must have room for all jobs that the owner can have out. The owner's thread
 * submits and takes back; in between, the job belongs to the workers.
 */
#ifndef WEIR_SERVER_PREPARE_H
#define WEIR_SERVER_PREPARE_H

#include "base/ring.h"
#include "model/chat.h"
#include "model/tokenizer.h"
#include "server/api_params.h"

struct prepare_config {
    uint32_t n_threads;
    uint32_t max_jobs;    /* waiting */
    size_t max_job_bytes; /* bodies waiting, together */
    const struct tokenizer *tokenizer;
    struct chat_template *chat; /* NULL: the model has none, chat requests are refused */
    bool template_knows_developer;
    const char *const *models; /* names that requests may use; ends with NULL; lives as long as the pool */
    uint32_t max_context;      /* tokens of prompt and output */
    double itl_target_min_s;   /* that requests may ask for */
    struct ring *done;
};

struct prepare_job {
    struct prepare_job *next;
    enum api_kind kind;
    char *body; /* freed by the worker */
    size_t n_body;

    /* Results. error.status is 0 on success. Prompts given as text have ids then; chat's is prompts[0]. */
    struct api_error error;
    struct api_params params;
    char *answer; /* of API_TOKENIZE and API_DETOKENIZE: JSON text, free() */
    size_t n_answer;
    double seconds;
};

struct prepare;

int prepare_create(struct prepare **out, const struct prepare_config *c, struct err *e);

/* Waits for jobs that are being worked on; those still waiting are handed back with error 503. */
void prepare_destroy(struct prepare *p);

int prepare_submit(struct prepare *p, struct prepare_job *job); /* 0 or WEIR_EBUSY (the job stays the caller's) */

/* Frees what a job holds (not the struct). */
void prepare_job_finish(struct prepare_job *job);

#endif
