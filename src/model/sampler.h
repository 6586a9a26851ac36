/* Sampling: logits of one position to one token.
 *
 * Order: logit_bias and masks; repetition, presence and frequency penalties over the tokens seen; then temperature 0 is
 * the arg max (lowest id on a tie), else top_k, temperature, softmax, top_p, min_p (both on the probabilities as they
 * stand), a draw. Each request has its own generator, so that the same seed gives the same text whatever else is in
 * the batch. Reported log-probabilities are those of the model (log-softmax of the raw logits), as OpenAI's are; never
 * below SAMPLER_MIN_LOGPROB, which stands for minus infinity (as OpenAI's -9999 does).
 *
 * Any logits are taken: NaN counts as minus infinity; if nothing is left to choose from, the choice is the arg max of
 * the raw logits (token 0 if there is none). Repetition penalty: logits above 0 are divided by it, others multiplied
 * (CTRL). Tokens equal in logit rank by rising id, in top_k and top_p too.
 *
 * A sampler belongs to one request and is used by one thread at a time. All memory is taken at creation.
 */
#ifndef WEIR_MODEL_SAMPLER_H
#define WEIR_MODEL_SAMPLER_H

#include "base/err.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

#define SAMPLER_MAX_TOP_LOGPROBS 20
#define SAMPLER_MAX_BIAS 1024
#define SAMPLER_MIN_LOGPROB (-9999.0f)

struct logit_bias {
    token_id id;
    float bias; /* at most 100; -100 and below forbids; several for one token add up */
};

struct sampling_params {
    float temperature;        /* >= 0; default 1 */
    int32_t top_k;            /* 0 or less: off */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    float repetition_penalty; /* > 0; 1: off; over prompt and output */
    float presence_penalty;   /* [-2, 2]; over output */
    float frequency_penalty;  /* [-2, 2]; over output */
    uint64_t seed;
    int32_t top_logprobs; /* -1: no log-probabilities; 0..20: the sampled token's and that many best */
    uint32_t n_bias;
    const struct logit_bias *bias; /* copied by sampler_create */
};

void sampling_params_default(struct sampling_params *p); /* temperature 1, all else off, seed 0 */

struct token_logprob {
    token_id id;
    float logprob;
};

struct sample {
    token_id id;
    float logprob; /* valid if top_logprobs >= 0 */
    uint32_t n_top;
    struct token_logprob top[SAMPLER_MAX_TOP_LOGPROBS]; /* best first; those of probability 0 may be left out */
};

struct sampler; /* opaque */

/* The error names the parameter that is out of range. */
int sampler_create(struct sampler **out, const struct sampling_params *p, uint32_t n_vocab, struct err *e);
void sampler_destroy(struct sampler *s);

/* Prompt tokens count for the repetition penalty. */
void sampler_note_prompt(struct sampler *s, const token_id *ids, size_t n);

/* Chooses a token from logits[n_vocab] (not changed) and notes it as output. forbid_end_of (may be NULL): the tokenizer
 * whose end tokens are masked, while min_tokens are not reached; the same one in all calls. */
void sampler_sample(struct sampler *s, const float *logits, const struct tokenizer *forbid_end_of, struct sample *out);

/* The model's log-probabilities of a given token of the vocabulary (echoed prompts): fills out as sampler_sample would
 * with top_logprobs >= 0, without noting. */
void sampler_logprobs(struct sampler *s, const float *logits, token_id id, struct sample *out);

#endif
