/* The traffic model: how many bytes a step moves, by class, and how many floating-point operations it does.
 *
 *   M(step) = W + sum_i KVread(i) + sum_i KVwrite(i) + A      [bytes]
 *
 * What is counted, each once a step, as the device counts it (struct step_traffic in device/device.h):
 *   weights      every matrix of the layers; of a mixture of experts those that at least one row is routed to; the
 *                output matrix if any logits are wanted; one row of the embedding for each row. A tied output is the
 *                whole embedding matrix. Norms and biases, a few kilobytes that stay in caches, are not counted.
 *   KV read      for each sequence and layer, keys and values of every position that at least one of its rows sees, the
 *                rows' own positions included (once for each kv_block_rows rows). A sliding window of w: the row at
 *                position p sees max(0, p-w+1) .. p.
 *   KV written   keys and values of each row, in every layer.
 *   last layer   behind its keys and values nothing of it is needed but for rows whose logits are wanted, and a device may
 *                leave out the rest: queries, attention, its output and the feed-forward (last_bytes and so on). Then
 *                these weights are read if any logits are wanted, and its keys and values by those rows alone. Rows
 *                whose logits are wanted are the last ones of their sequence.
 *   activations  what flows between operations, each value written once and read once: an estimate, for it mostly stays
 *                in caches.
 * Multiply-adds count as two operations; attention's are those of visible (row, position) pairs only.
 *
 * Mixed lengths. Where a kernel gives each decoding sequence an equal part of the device, or pads them to one length, all
 * wait for the longest: n sequences of which the longest sees L positions take as long as though they read n L. What a
 * device loses of the difference to the sum of their lengths is its mixed_length_waste: 0 where work is cut by bytes, 1
 * where a batch takes as long as a padded one. The lost time is told as bytes that could have been read in it; they are
 * not among those that are moved. Rows of prompts are left out of this: kernels cut those by rows.
 *
 * Experts: routing is taken as uniform and independent, so B rows that choose k of E touch E (1 - (1 - k/E)^B) distinct
 * ones on average. Real routing is less even and touches fewer.
 *
 * A load is a sum over sequences (and a maximum): adding one costs O(1), and so does the cost of a load of any size.
 * Pure functions on the caller's memory; nothing is allocated; any thread. Bytes and operations are doubles: whole
 * numbers are exact up to 2^53.
 */
#ifndef WEIR_POLICY_TRAFFIC_H
#define WEIR_POLICY_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

/* The numbers of one model in one choice of types. model/shape.h makes it from a file or a preset. Sums run over all
 * layers unless a name says otherwise. */
struct traffic_model {
    uint32_t n_layer, n_layer_window; /* n_layer_window of them look back only `window` positions */
    uint32_t window;                  /* positions seen, the row's own included; 0 if n_layer_window is 0 */
    uint32_t n_expert, n_expert_used; /* of each layer that has experts; 0 when dense */

    double attention_bytes; /* query, key, value and output projections */
    double ffn_bytes;       /* dense feed-forward, shared experts */
    double router_bytes;
    double expert_bytes;        /* all experts of all layers together */
    double norm_bytes;          /* norms, biases and what else is resident but not counted in steps */
    double output_bytes;        /* output matrix, read when logits are wanted; tied: the embedding matrix */
    double embedding_bytes;     /* whole matrix: what it occupies; 0 when tied (output_bytes holds it) */
    double embedding_row_bytes; /* one token's row */

    double row_params;    /* matrix elements that every row is multiplied with: attention, dense, router */
    double expert_params; /* elements of all experts; a row meets n_expert_used / n_expert of them */
    double output_params; /* for each row whose logits are wanted */

    uint32_t kv_block_rows; /* rows of a sequence that share one pass over its cache; 0: all of a step's. A CPU takes
                               a long prompt in blocks, of which all but the first find the cache in its caches. */
    /* What the device leaves out of the last layer for rows without logits; zeros: nothing. Parts of the sums above. */
    double last_bytes, last_params;               /* all but experts */
    double last_expert_bytes, last_expert_params; /* all experts of that layer */

    double kv_token_bytes;   /* keys and values of one token in one layer, in the cache's type */
    double pair_flops;       /* attention of one row over one position in one layer: 4 n_head head_dim */
    double row_act_bytes;    /* activations of one row through all layers */
    double output_act_bytes; /* and of one row of logits */

    double mixed_length_waste; /* 0..1, of the device: see above */

    bool prompt_way; /* the device multiplies a prompt's rows in another way than others, at another rate */
};

/* The sum over the sequences of a step. Zeroed: the empty step. */
struct traffic_load {
    uint32_t n_seqs;
    uint32_t n_rows, n_outputs;
    uint32_t n_prompt_rows; /* of n_rows, where they go another way */
    /* positions read and visible (row, position) pairs, in a layer that sees all and in one with a window */
    double full_positions, window_positions;
    double full_pairs, window_pairs;
    double last_positions, last_pairs; /* in the last layer, by rows whose logits are wanted */
    /* Sequences of one row, where mixed lengths cost anything: */
    uint32_t n_decoding, longest;            /* longest: positions that the one which sees most sees */
    double decode_positions, near_positions; /* of the positions above theirs, in a layer of either kind */
};

struct traffic_cost {
    /* Parts of weight_bytes and matmul_flops: the output matrix, and what of the last layer only rows with logits need. */
    double output_weight_bytes, output_flops;
    double weight_bytes, kv_read_bytes, kv_write_bytes, activation_bytes;
    double kv_idle_bytes; /* could have been read while shorter sequences waited for the longest; not moved */
    double matmul_flops, attention_flops;
    /* Where a prompt's rows go another way: what of matmul_flops goes it, output_flops aside, and the elements of the
     * matrices that it goes through, once each. */
    double prompt_flops, prompt_params;
};

/* A sequence with n_past positions in the cache runs n_tokens >= 1 rows, of which those at positions below n_prompt are a
 * prompt's, and wants n_outputs rows of logits. */
void traffic_add(struct traffic_load *l, const struct traffic_model *m, uint32_t n_past, uint32_t n_tokens,
                 uint32_t n_prompt, uint32_t n_outputs);

/* n sequences that are all alike, without rows of a prompt. */
void traffic_add_many(struct traffic_load *l, const struct traffic_model *m, uint32_t n, uint32_t n_past,
                      uint32_t n_tokens, uint32_t n_outputs);

/* n sequences that decode and see n_positions together. */
struct traffic_load traffic_decoding(const struct traffic_model *m, uint32_t n, double n_positions);

void traffic_cost(const struct traffic_model *m, const struct traffic_load *l, struct traffic_cost *out);

double traffic_bytes(const struct traffic_cost *c); /* all classes but activations: what memory has to deliver */
double
traffic_kv_time_bytes(const struct traffic_cost *c); /* keys and values moved, and idle: what their time is for */
double traffic_flops(const struct traffic_cost *c);

/* Is part of the last layer left out for rows without logits? */
static inline bool traffic_leaves_out(const struct traffic_model *m)
{
    return m->last_bytes > 0;
}

/* Distinct experts of one layer that n_rows rows touch on average; 0 when dense. */
double traffic_distinct_experts(const struct traffic_model *m, double n_rows);

/* What the weights occupy. */
double traffic_resident_weight_bytes(const struct traffic_model *m);

/* Weights that a step reads besides embedding rows and output matrix. */
double traffic_layer_weight_bytes(const struct traffic_model *m, double n_rows);

/* The cache: bytes of n_tokens positions in all layers if every layer keeps all of them, as weir's chunks do. */
double traffic_kv_bytes(const struct traffic_model *m, double n_tokens);

/* KV bytes that one sequence at n_past positions adds to a decode step: what it reads and writes for its next token. */
double traffic_decode_kv_bytes(const struct traffic_model *m, uint32_t n_past);

#endif
