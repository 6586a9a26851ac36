/* Request bodies of the OpenAI API as plain structs: JSON in, checked parameters out. Pure and fuzzed.
 *
 * Follows the OpenAI API reference for /v1/completions and /v1/chat/completions, with the sampling extensions that
 * vLLM's and llama.cpp's servers share (top_k, min_p, repetition_penalty, min_tokens, ignore_eos,
 * chat_template_kwargs, ...). Rules: a parameter that would change the answer and is not supported is refused; one
 * without effect on the answer is ignored; a wrong type, a value out of range, or two that contradict each other are
 * refused with an error that names the field.
 *
 * Nothing here depends on the model except what struct api_limits says. Owned memory is freed by api_params_finish.
 */
#ifndef WEIR_SERVER_API_PARAMS_H
#define WEIR_SERVER_API_PARAMS_H

#include "base/json.h"
#include "model/sampler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define API_MAX_PROMPTS 128
#define API_MAX_N 16
#define API_MAX_CHOICES 128 /* prompts times n */
#define API_MAX_STOPS 16
#define API_MAX_STOP_BYTES 512
#define API_MAX_MESSAGES 65536
#define API_DEFAULT_COMPLETION_TOKENS 16 /* max_tokens of /v1/completions when absent, as OpenAI's */

enum api_kind { API_COMPLETION, API_CHAT, API_TOKENIZE, API_DETOKENIZE };

/* OpenAI's error object and the HTTP status that goes with it. */
struct api_error {
    int status;       /* 0: no error */
    const char *type; /* static text */
    const char *code; /* static text, or NULL */
    char param[80];   /* empty: null */
    char message[640];
    double retry_after_s; /* > 0: a Retry-After header */
};

/* Fills *e and returns -1. param may be NULL. type follows from the status. */
int api_error_set(struct api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

struct api_limits {
    uint32_t n_vocab;
    bool template_knows_developer; /* else the role "developer" is rendered as "system" */
    double itl_target_min_s;       /* the tightest inter-token target that a request may ask for */
};

struct api_prompt {
    char *text; /* NULL when given as token ids */
    size_t n_text;
    token_id *ids;
    size_t n_ids;
};

struct api_params {
    enum api_kind kind;
    char *model; /* NULL: absent */

    struct api_prompt *prompts; /* completions, tokenize; detokenize: ids */
    uint32_t n_prompts;
    char *variables; /* chat: the template's variables, one JSON object */
    size_t n_variables;

    uint32_t n;          /* choices of each prompt */
    uint32_t max_tokens; /* 0: up to the context's end */
    uint32_t min_tokens;
    bool prompt_only; /* max_tokens 0 with echo: no token is generated */
    bool ignore_eos, echo, stream, include_usage;
    bool logprobs; /* sampling.top_logprobs >= 0 then */
    bool keep_stop_text, special_text, add_special;
    bool token_strings; /* tokenize: the tokens' texts too */
    bool weir_usage;    /* usage has a weir object */
    bool has_seed;
    struct sampling_params sampling; /* bias points to `bias` */
    struct logit_bias *bias;
    char *stops[API_MAX_STOPS];
    uint32_t n_stops;
    int32_t priority;
    const char *service_tier;          /* "default", "flex", "priority": as the answer says it; NULL: not asked for */
    double itl_target_s, ttft_limit_s; /* 0: those of the priority's class */
    uint64_t cache_salt;
    uint32_t pin_prefix_tokens;
};

/* Reads one body. On failure (-1) *e says why and *p holds nothing; else api_params_finish frees it. */
int api_params_parse(struct api_params *p, enum api_kind kind, const char *body, size_t n, const struct api_limits *l,
                     struct api_error *e);
void api_params_finish(struct api_params *p);

#endif
