/* Request traces: recorded or generated traffic for `weir replay`. docs/replay.md tells the formats to users.
 *
 * Formats, told apart by their content:
 *
 *   Azure LLM inference trace, CSV: TIMESTAMP,ContextTokens,GeneratedTokens
 *
 *   Mooncake, JSON lines:
 *     {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [id of each block of 512 tokens]}
 *
 *   weir's own, CSV with a header line or JSON lines. The first three columns or members are needed:
 *     arrival_s        seconds, any origin
 *     prompt_tokens    from 1
 *     output_tokens    from 1
 *     max_tokens       the limit that the request stated, at least output_tokens
 *     conversation     text or number: requests of one conversation share their history from its start
 *     key              text or number: whose request it is
 *     priority         integer, smaller first
 *
 * A trace is hostile input: lines are bounded (1 MiB), counts too (16 M requests, 2^20 tokens each); an error names the
 * line. Requests are sorted by arrival, the first at 0 s. Memory belongs to the trace.
 */
#ifndef WEIR_CLI_TRACE_H
#define WEIR_CLI_TRACE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_MAX_REQUESTS (16u << 20)
#define TRACE_MAX_TOKENS (1u << 20)

struct trace_request {
    double arrival_s; /* or, behind another request (after != 0): seconds from that one's end */
    uint32_t n_prompt, n_output;
    uint32_t max_new_tokens; /* the limit that it stated; 0: not known */
    uint64_t content;        /* whose history it is: equal content is equal text, from the start */
    uint64_t key;            /* 0: none */
    int32_t priority;
    uint32_t after;                 /* index + 1 of the request whose end brings this one; 0: arrives by itself */
    uint32_t first_block, n_blocks; /* into trace.block_ids; n_blocks 0: content names the tokens */
};

struct trace {
    struct trace_request *requests;
    uint32_t n_requests;
    uint64_t *block_ids; /* chained: equal ids stand for equal text from the start to that block's end */
    size_t n_block_ids;
    uint32_t block_tokens;         /* tokens a block id stands for */
    bool blocks_of_output;         /* block ids name whole blocks of prompt and output; else of the prompt alone */
    uint32_t shared_prefix_tokens; /* all requests begin with these same tokens */
};

int trace_read(struct trace *t, const char *path, struct err *e);

struct trace_synthesis {
    uint32_t n_requests; /* first turns and later ones together */
    double rate_per_s;   /* conversations that begin, a second */
    double burstiness;   /* coefficient of variation of the gaps: 1 is Poisson, above is bursty (gamma) */
    double prompt_median, prompt_sigma; /* log-normal; tokens of the new part of a prompt */
    double output_median, output_sigma;
    double mean_turns;              /* >= 1; geometric */
    double gap_median_s, gap_sigma; /* between a turn's end and the next; log-normal */
    uint32_t shared_prefix_tokens;
    uint32_t max_context; /* a conversation ends before it */
    uint32_t n_keys;      /* 0 or 1: one user */
    uint64_t seed;
};

int trace_synthesise(struct trace *t, const struct trace_synthesis *s, struct err *e);
void trace_finish(struct trace *t);

/* The chain hash of a full chunk of a request's tokens, prompt and output: equal where the text up to its end is equal.
 */
uint64_t trace_chunk_hash(const struct trace *t, const struct trace_request *r, uint32_t chunk, uint32_t chunk_tokens);

#endif
