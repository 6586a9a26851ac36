/* From a model file to a running engine: what serve, run and batch share. Options, defaults that fit the machine, and
 * loading with progress. */
#ifndef WEIR_CLI_LOAD_H
#define WEIR_CLI_LOAD_H

#include "base/err.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "model/chat.h"

struct load_config {
    const char *model_path;    /* NULL: the bundled demo model */
    const char *template_path; /* NULL: the model's own */
    uint32_t threads;          /* 0: one for each core */
    bool no_pin;
    const char *kv_type;    /* "f16", "q8_0" */
    uint32_t kv_chunks;     /* 0: from kv_memory */
    size_t kv_memory_bytes; /* 0: half of the free memory, at most what max_running full contexts need */
    uint32_t context;       /* tokens; 0: the model's, or what the KV memory holds */
    uint32_t max_running, max_queued, max_step_tokens, chunk_tokens;
    bool no_prefix_cache;
    const char *policy; /* "weir", "fcfs", a baseline, or a file */
    double itl_target_s, itl_target_min_s, ttft_limit_s, age_bound_s, bandwidth_limit, pin_limit, speculative_limit;
    uint32_t max_preemptions;
    double read_bytes_per_s;               /* of the memory; 0: measured */
    const char *tier_priority, *tier_flex; /* lists of what they have of their own: itl, ttft, weight */
    const char *retention;
    const char *log_level, *log_format;
    bool quiet;              /* no progress on stderr */
    bool no_accounts;        /* struct engine_config's */
    const char *record_path; /* engine/record.h; NULL: no recording */
    size_t record_max_bytes;
};

void load_config_default(struct load_config *c);

/* Rows for an option table: LOAD_OPTIONS(config) goes between a command's own. */
#define LOAD_OPTIONS(c)                                                                                                \
    OPTIONS_TITLE("Model"),                                                                                            \
        OPTION("model", OPT_STR, &(c)->model_path, "FILE", "the same as the argument; for config files"),              \
        OPTION("ctx", OPT_U32, &(c)->context, "TOKENS",                                                                \
               "context: prompt and output of one request (default: the model's)", .max = 1 << 24),                    \
        OPTION("chat-template", OPT_STR, &(c)->template_path, "FILE", "Jinja template to use instead of the model's"), \
        OPTION("threads", OPT_U32, &(c)->threads, "N", "worker threads (default: one for each core)", .max = 1024),    \
        OPTION("no-pin", OPT_FLAG, &(c)->no_pin, NULL, "do not bind worker threads to cores"),                         \
        OPTIONS_TITLE("Batching and KV memory"),                                                                       \
        OPTION("kv-type", OPT_STR, &(c)->kv_type, "TYPE", "f16 or q8_0 (default f16)"),                                \
        OPTION("kv-memory", OPT_BYTES, &(c)->kv_memory_bytes, "SIZE",                                                  \
               "KV memory, like 8G (default: half of what is free, if that much is of use)"),                          \
        OPTION("kv-chunks", OPT_U32, &(c)->kv_chunks, "N", "the same as a number of chunks", .max = 1 << 30),          \
        OPTION("chunk-tokens", OPT_U32, &(c)->chunk_tokens, "N", "tokens in a chunk, a multiple of 16 (default 32)",   \
               .min = 16, .max = 256),                                                                                 \
        OPTION("max-running", OPT_U32, &(c)->max_running, "N", "sequences in a step (default 32)", .min = 1,           \
               .max = 4096),                                                                                           \
        OPTION("max-queued", OPT_U32, &(c)->max_queued, "N", "waiting requests; more get 429 (default 256)", .min = 1, \
               .max = 1 << 20),                                                                                        \
        OPTION("max-step-tokens", OPT_U32, &(c)->max_step_tokens, "N", "tokens in a step (default 512)", .min = 1,     \
               .max = 1 << 16),                                                                                        \
        OPTION("no-prefix-cache", OPT_FLAG, &(c)->no_prefix_cache, NULL, "do not share and keep equal prefixes"),      \
        OPTION("retention", OPT_STR, &(c)->retention, "KIND",                                                          \
               "which cached prefix goes first: value (what it is expected to save), lru (default value)"),            \
        OPTION("pin-limit", OPT_F64, &(c)->pin_limit, "F",                                                             \
               "share of the KV memory that requests may pin with pin_prefix_tokens (default 0.1)", .max = 0.9),       \
        OPTIONS_TITLE("Scheduling"),                                                                                   \
        OPTION("policy", OPT_STR, &(c)->policy, "NAME",                                                                \
               "weir, or fcfs, vllm, contiguous, static, compute-first, or a file (default weir)"),                    \
        OPTION("itl-target", OPT_F64, &(c)->itl_target_s, "S",                                                         \
               "inter-token time that running requests keep while prompts are prefilled (default 0.1)", .min = 1e-4),  \
        OPTION("ttft-limit", OPT_F64, &(c)->ttft_limit_s, "S",                                                         \
               "refuse (429) who is predicted to wait longer for the first token (default 0: nobody)"),                \
        OPTION("tier-priority", OPT_STR, &(c)->tier_priority, "LIST",                                                  \
               "itl=S,ttft=S,weight=W of requests with service_tier priority or priority below 0 (default weight=4)"), \
        OPTION("tier-flex", OPT_STR, &(c)->tier_flex, "LIST",                                                          \
               "of service_tier flex or priority above 0 (default: 4 times the targets, weight=0.25)"),                \
        OPTION("itl-target-min", OPT_F64, &(c)->itl_target_min_s, "S",                                                 \
               "the tightest itl_target_s that a request may ask for (default: half of --itl-target)", .min = 1e-4),   \
        OPTION("age-bound", OPT_F64, &(c)->age_bound_s, "S",                                                           \
               "who has waited longer in the queue goes first, whatever its priority and key (default 30)",            \
               .min = 0.001),                                                                                          \
        OPTION("bandwidth-limit", OPT_F64, &(c)->bandwidth_limit, "F",                                                 \
               "share of the target that a step may take at the predicted peak (default 0.8)", .min = 0.05, .max = 1), \
        OPTION("read-bandwidth", OPT_RATE, &(c)->read_bytes_per_s, "RATE",                                             \
               "read bandwidth of the memory, like 30G bytes/s (default: measured for a moment at the start)",         \
               .min = 1e6, .max = 1e15),                                                                               \
        OPTION("speculative-limit", OPT_F64, &(c)->speculative_limit, "F",                                             \
               "share of free memory and bandwidth kept for conversations that may go on (default 0.3)", .max = 1),    \
        OPTION("max-preemptions", OPT_U32, &(c)->max_preemptions, "N",                                                 \
               "who was preempted so often is preempted no more, and goes first (default 4)", .min = 1, .max = 1000),  \
        OPTIONS_TITLE("Logs"),                                                                                         \
        OPTION("log-level", OPT_STR, &(c)->log_level, "LEVEL", "debug, info, warn, error or off (default info)"),      \
        OPTION("log-format", OPT_STR, &(c)->log_format, "FORMAT", "text or json (default text)")

/* Sets up the log as asked for. */
int load_setup_log(const struct load_config *c, struct err *e);

struct loaded {
    struct model *model;
    struct forward *forward;
    struct tokenizer *tokenizer;
    struct chat_template *chat;    /* NULL if the model has none */
    bool template_knows_developer; /* its text mentions that role */
    struct engine *engine;
    struct sched_policy policy;
    struct sched_class high, low;
    struct engine_config config; /* as it was used: sched.n_chunks, sched.max_context, ... */
    size_t kv_bytes;
    double seconds;
};

/* Opens, checks and reads the model, makes the template, starts the engine. On failure nothing is left. */
int load_open(struct loaded *l, const struct load_config *c, struct err *e);
void load_close(struct loaded *l);

/* load_close in two steps, for owners whose callbacks the engine still calls while it ends. */
void load_stop_engine(struct loaded *l);

#endif
