/* `weir plan`: the report, apart from how it is shown. plan_report computes everything from the traffic model and the
 * roofline; the writers only format. No state. A report points
 * into itself and its input: it stays where it was made. */
#ifndef WEIR_CLI_PLAN_H
#define WEIR_CLI_PLAN_H

#include "base/buf.h"
#include "device/roofline.h"

#define PLAN_MAX_CELLS 1024
#define PLAN_MAX_AXIS 32
#define PLAN_MAX_ROWS 24

struct plan_input {
    struct shape shape;
    const char *weights, *kv; /* formats; NULL: the model's own, f16 */
    struct profile profile;
    uint32_t n_devices; /* 0: the fewest that hold the model */
    uint32_t context;   /* positions of a sequence while it decodes; 0: chosen */
    uint32_t prompt;    /* tokens of a prompt, for time to first token; 0: half the context */
    uint32_t max_batch, step_tokens;
    double memory_fraction;       /* of the device's memory that may be used */
    double itl_s, ttft_s;         /* targets; 0: none */
    double price_per_hour;        /* of one device; 0: the profile's */
    const struct profile *rivals; /* to rank; may be NULL */
    uint32_t n_rivals;
};

struct plan_cell {
    uint32_t batch, context;
    bool fits, in_target;
    double tokens_per_s, itl_s, mbu, memory_bytes; /* memory of one device */
};

struct plan_bytes { /* of one decode step of one sequence */
    uint32_t context;
    double weight_bytes, kv_bytes, tokens_per_s, ceiling_tokens_per_s;
};

struct plan_variant { /* the same plan with one thing changed */
    char name[48];
    double weight_bytes, kv_token_bytes; /* whole model */
    double step_bytes;                   /* of a step at the sweet spot's batch and context */
    double single_tokens_per_s;          /* batch 1 */
    double tokens_per_s;                 /* own sweet spot; 0: does not fit */
    uint32_t batch;
};

struct plan_intensity {
    char name[48];
    double ops_per_byte;
    bool memory_bound;
    double attained_ops_per_s; /* expected, of one device */
};

struct plan_sweet {
    uint32_t batch; /* 0: nothing fits or meets the targets */
    struct roofline_time time;
    double tokens_per_s, mbu, memory_bytes;
    double prompt_tokens_per_s, ttft_s;
    bool ttft_missed, itl_missed;
};

struct plan_mix {
    char name[64];
    double bytes, seconds;
};

struct plan_experts {
    uint32_t batch;
    double distinct, weight_bytes, tokens_per_s;
};

struct plan_parallel {
    uint32_t n_devices;
    double device_bytes, link_bytes, single_tokens_per_s, tokens_per_s;
    uint32_t batch;
    bool fits;
};

struct plan_rival {
    struct profile profile;
    uint32_t n_devices, batch;
    bool fits, over_link; /* over_link: more devices than the link joins would be needed */
    double single_tokens_per_s, tokens_per_s, prompt_tokens_per_s;
    double tokens_per_joule, price_per_million;
};

struct plan_report {
    struct plan_input in;
    struct roofline r;
    uint32_t n_devices, context, prompt;
    bool fits; /* weights, activations and one sequence of the context */

    double usable_bytes, weight_bytes, activation_bytes, kv_token_bytes, kv_left_bytes; /* of one device */
    double model_weight_bytes, model_kv_token_bytes, params, active_params;

    uint32_t n_contexts, contexts[PLAN_MAX_AXIS];
    double max_sequences[PLAN_MAX_AXIS];
    uint32_t n_batches, batches[PLAN_MAX_AXIS];
    uint32_t n_cells;
    struct plan_cell cells[PLAN_MAX_CELLS]; /* by batch, then context */

    struct plan_bytes growth[PLAN_MAX_AXIS]; /* by context */
    double overtake_context;                 /* one sequence's KV passes the weights here; 0: never (a window) */
    double overtake_batch;                   /* so many sequences' KV do at `context`; 0: never (experts keep ahead) */

    double ridge_ops_per_byte;
    struct plan_intensity intensity[4];
    struct plan_sweet sweet;
    struct plan_mix mixes[3];
    struct plan_variant variants[PLAN_MAX_ROWS];
    uint32_t n_variants;
    struct plan_experts experts[12];
    uint32_t n_experts;
    struct plan_parallel parallel[5];
    uint32_t n_parallel;
    double single_tokens_per_s; /* batch 1 at the context */
    double remote_tokens_per_s; /* batch 1 with weights on the other NUMA node; 0: unknown */

    double price_per_hour, price_per_million, compute_hours, bandwidth_hours; /* of a million tokens, one device */
    struct plan_rival rivals[PLAN_MAX_ROWS];                                  /* by tokens per second */
    uint32_t n_rivals;
    char advice[480]; /* what would fit, when this does not; else empty */
};

/* WEIR_EINVAL for formats and numbers that make no sense. A model that does not fit is a report, not an error. */
int plan_report(struct plan_report *out, const struct plan_input *in, struct err *e);

struct plan_view {
    bool surface; /* the whole grid, of rates, times and utilisation */
    bool what_if; /* formats, attention, experts, lengths, devices, cost */
};

/* Each appends to b; a full buffer fails there. */
void plan_text(const struct plan_report *p, const struct plan_view *v, struct buf *b);
void plan_csv(const struct plan_report *p, struct buf *b);
int plan_json(const struct plan_report *p, struct buf *b);
int plan_html(const struct plan_report *p, struct buf *b);

#endif
