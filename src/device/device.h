/* A device runs steps: it holds the weights where it reads them, the KV chunks, and scratch for one step.
 *
 * The KV memory is an array of n_chunks chunks of chunk_tokens tokens. A chunk holds, for each layer and KV head, an area
 * of keys and an area of values (kernel/kv.h). Which chunk belongs to whom is the scheduler's business (policy/pool.h):
 * the device only follows chunk tables.
 *
 * A step is a flat list of token rows, grouped by sequence, in order of position. All pointers of a step stay the
 * caller's and must stay valid until device_wait. One thread (the engine's) drives a device; steps run one after the
 * other.
 */
#ifndef WEIR_DEVICE_DEVICE_H
#define WEIR_DEVICE_DEVICE_H

#include "base/err.h"
#include "kernel/kernel.h"
#include "model/forward.h"
#include "policy/traffic.h"

#include <stdbool.h>
#include <stdint.h>

struct device_config {
    uint32_t n_threads; /* 0: one for each physical core that this process may use */
    bool pin_threads;   /* bind each worker to its core (hwloc) */
    enum kv_type kv_type;
    uint32_t chunk_tokens; /* a multiple of KV_BLOCK_TOKENS, <= KV_CHUNK_MAX_TOKENS */
    uint32_t n_chunks;
    uint32_t max_step_tokens; /* rows of a step at most */
    uint32_t max_step_seqs;
    uint32_t max_outputs;          /* logits rows of a step at most */
    uint32_t max_context;          /* positions: 0 .. max_context-1 */
    const struct kernels *kernels; /* of the CPU device; NULL: kernels_get() */
    /* While the weights are brought into memory, called on the creating thread with 0..1; may be NULL. */
    void (*progress)(double fraction, void *user);
    void *progress_user;
    bool
        lazy_weights; /* no copy of the weights: steps read what they need from the file (a model larger than memory) */
};

struct step_seq {
    uint32_t first_row, n_rows; /* its rows of the step */
    uint32_t n_past;            /* tokens already in its chunks; row i has position n_past + i */
    const uint32_t *chunks;     /* chunk table: token at position p lies in chunks[p / chunk_tokens] */
    uint32_t n_chunks;          /* covers n_past + n_rows tokens */
    uint32_t n_prompt;          /* rows at positions below are a prompt's: see struct attn_args */
};

struct step {
    uint32_t n_rows, n_seqs, n_outputs;
    const int32_t *tokens;       /* [n_rows] */
    const struct step_seq *seqs; /* [n_seqs] */
    const uint32_t *output_rows; /* [n_outputs], ascending: rows whose logits are wanted. Of the others the last
                                    layer need not compute more than keys and values. */
    /* Called once for each sequence when all logits [n_outputs][n_vocab] are there, at the end of the step: by the
     * device's threads, for several sequences at once. For work that shares out well: sampling. May be NULL. */
    void (*sample)(void *user, uint32_t seq, const float *logits);
    void *sample_user;
};

/* What the step really moved, counted where it was moved, in bytes. */
struct step_traffic {
    uint64_t weight_bytes, kv_read_bytes, kv_write_bytes, activation_bytes;
    double flops;
};

struct step_result {
    const float *logits; /* [n_outputs][n_vocab]; valid until the next device_start */
    double seconds;      /* from start to end */
    struct step_traffic traffic;
};

struct device {
    const struct device_ops *ops;
    const struct model *model;
    struct device_config config; /* as the device runs it: n_threads resolved */
    struct step current;         /* the step that was started */
};

struct device_ops {
    const char *name;
    bool samples; /* calls step.sample itself; else device_wait does */
    void (*destroy)(struct device *d);
    int (*start)(struct device *d, const struct step *s, struct err *e);
    int (*wait)(struct device *d, struct step_result *out, struct err *e);
    void (*copy_chunk)(struct device *d, uint32_t src, uint32_t dst, uint32_t n_tokens);
    void (*poison_chunk)(struct device *d, uint32_t chunk);
    uint64_t (*memory_bytes)(const struct device *d);
};

void device_destroy(struct device *d);

/* Begins a step. Chunks written by it are readable by later steps only. An error (WEIR_EINVAL for a step that breaks
 * the config's bounds) leaves the device as it was. */
int device_start(struct device *d, const struct step *s, struct err *e);

/* Waits for the step that was started. */
int device_wait(struct device *d, struct step_result *out, struct err *e);

/* Copies the first n_tokens of chunk src over those of dst, all layers (copy on write); what dst holds behind them is
 * lost. Between steps only. */
void device_copy_chunk(struct device *d, uint32_t src, uint32_t dst, uint32_t n_tokens);

/* Fills a chunk that nobody owns with values that ruin whatever still reads it. For debug builds; between steps. */
void device_poison_chunk(struct device *d, uint32_t chunk);

/* Weights (if copied), KV and scratch. */
uint64_t device_memory_bytes(const struct device *d);

/* Bytes of one chunk of this model: what one of n_chunks costs. */
size_t device_chunk_bytes(const struct model *m, enum kv_type t, uint32_t chunk_tokens);

/* What of the traffic model depends on how the CPU device runs the model: rows of a sequence that share a pass over its
 * cache, what of the last layer it leaves out for rows without logits, and whether a prompt's rows go a way of their own. */
void device_cpu_describe(const struct model *m, const struct device_config *c, struct traffic_model *out);

/* Whether a prompt's rows go their own way through experts' matrices too, where there is one for dense matrices of the type:
 * has_k_blocks, one of 256 columns a block, or of 32. Not of floats. */
bool device_cpu_experts_fill_tiles(uint32_t n_expert, uint32_t n_expert_used, bool has_k_blocks);

/* device/cpu: threads over shared memory. Reads the model's weights; both m and f must outlive it. */
int device_cpu_create(struct device **out, const struct forward *f, const struct device_config *c, struct err *e);

/* Measured by `threads` pinned workers reading `bytes` of memory (several times the last-level cache) sequentially for
 * about `seconds`: the best pass, bytes per second. The denominator of every utilisation that weir prints. */
int device_cpu_read_bandwidth(uint32_t n_threads, size_t bytes, double seconds, double *bytes_per_s, struct err *e);

/* The same pass by pass, to be measured beside something else: where others share the memory, what it gives changes from
 * one moment to the next. A pass reads the bytes twice, in one walk and in several at once; the faster counts. */
struct read_probe; /* opaque */
int device_cpu_read_probe_create(struct read_probe **out, uint32_t n_threads, size_t bytes, struct err *e);
double device_cpu_read_probe_pass(struct read_probe *p); /* bytes per second */
void device_cpu_read_probe_destroy(struct read_probe *p);

/* The same of arithmetic: products of 128 rows (of a prompt, where they have a way of their own, or not) with weights of that
 * type, which the caches hold, for about `seconds` (one pass at least): the best pass, operations per second, a multiply-add
 * counting as two. */
int device_cpu_matmul_rate(enum tensor_type type, bool prompt, uint32_t n_threads, double seconds, double *flops_per_s,
                           struct err *e);

#endif
