/* Answers of the OpenAI API as JSON text: plain structs in, text appended to a buf. Pure.
 *
 * Shapes follow the OpenAI API reference: completion and chat.completion objects, their streamed chunks (as events of
 * Server-Sent Events, "data: ...\n\n"), log-probabilities of both kinds, the error object.
 */
#ifndef WEIR_SERVER_API_REPLY_H
#define WEIR_SERVER_API_REPLY_H

#include "model/sampler.h"
#include "model/tokenizer.h"
#include "server/api_params.h"

#include <stdbool.h>
#include <stdint.h>

#define REPLY_MAX_BYTES ((size_t)256 << 20) /* of one answer's text, and of each of its parts */

/* What every object of one answer says. */
struct reply_head {
    bool chat;
    bool include_usage; /* stream: chunks carry "usage":null and a last one the counts */
    const char *id;     /* cmpl-..., chatcmpl-... */
    int64_t created;    /* seconds since the epoch */
    const char *model;
    const char *service_tier; /* NULL: the request didn't ask for one */
};

struct reply_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
    const char *weir; /* a JSON object for the member "weir", or NULL */
};

/* Log-probabilities gathered as JSON fragments, token by token: for chat the elements of `content` (in tokens); for
 * completions the elements of the four parallel arrays. */
struct reply_logprobs {
    bool chat;
    struct buf tokens, values, top, offsets;
    uint64_t offset; /* code points of text before the next token */
};

void reply_logprobs_init(struct reply_logprobs *l, bool chat);
void reply_logprobs_finish(struct reply_logprobs *l);
void reply_logprobs_clear(struct reply_logprobs *l); /* forgets the tokens, keeps the offset */

/* n_top: how many alternatives were asked for (the sample may hold more). without_value: the very first token of an
 * echoed prompt, of which a model says nothing. */
void reply_logprobs_add(struct reply_logprobs *l, const struct tokenizer *t, const struct sample *s, uint32_t n_top,
                        bool special_text, bool without_value);

struct reply_choice {
    uint32_t index;
    const char *text;
    size_t n_text;
    const struct reply_logprobs *logprobs; /* NULL: null */
    const char *finish_reason;             /* NULL: null */
    bool first;                            /* chat stream: the delta carries the role */
};

void reply_object(struct buf *out, const struct reply_head *h, const struct reply_choice *choices, uint32_t n,
                  const struct reply_usage *u);
void reply_chunk(struct buf *out, const struct reply_head *h, const struct reply_choice *c);
void reply_usage_chunk(struct buf *out, const struct reply_head *h, const struct reply_usage *u);

void reply_error(struct buf *out, const struct api_error *e);
void reply_error_event(struct buf *out, const struct api_error *e);

#endif
