/* A model's shape and its tensors, read from a GGUF file and checked against each other.
 *
 * model_open refuses, naming it and what is supported: an unknown architecture or tensor type, a missing or
 * superfluously shaped tensor, parameters that contradict each other. After it, every tensor pointer below has the
 * stated shape, so that the forward pass needs no checks. Shapes are written [rows, row length] as the data lies in
 * memory; a matrix W[n_out, n_in] multiplies a vector of n_in.
 *
 * Architectures: llama (Llama 2/3, Mistral, Mixtral), qwen2, qwen3, qwen3moe.
 * The mapping is the model's memory: tensors point into it. Immutable after model_open; any thread may read.
 */
#ifndef WEIR_MODEL_MODEL_H
#define WEIR_MODEL_MODEL_H

#include "base/err.h"
#include "model/gguf.h"

#include <stdbool.h>
#include <stdint.h>

/* Bounds: what a file may ask for. Far above any released model, low enough that no product of two overflows. */
#define MODEL_MAX_LAYERS 1024
#define MODEL_MAX_EMBD (1u << 17)
#define MODEL_MAX_FF (1u << 20)
#define MODEL_MAX_HEADS 1024
#define MODEL_MAX_HEAD_DIM 512
#define MODEL_MAX_VOCAB (1u << 22)
#define MODEL_MAX_EXPERTS 1024
#define MODEL_MAX_CONTEXT (1u << 24)

enum model_arch { ARCH_LLAMA, ARCH_QWEN2, ARCH_QWEN3, ARCH_QWEN3MOE };

enum rope_layout {
    ROPE_ADJACENT, /* rotates pairs (2i, 2i+1): llama */
    ROPE_HALVES,   /* rotates pairs (i, i + n_rot/2): qwen */
};

/* Rotary embedding, reduced to what a kernel needs: angle(pos, i) = pos * inv_freq[i], values scaled by magnitude.
 * Linear, yarn (Peng et al. 2023) and Llama 3 (rope_freqs) scaling are folded into inv_freq and magnitude. */
struct rope {
    enum rope_layout layout;
    uint32_t n_rot;  /* rotated elements of each head, even, <= head_dim */
    float *inv_freq; /* [n_rot / 2] */
    float magnitude; /* multiplies sin and cos (yarn's attention factor); 1 else */
};

/* One matrix [n_out, n_in], or a stack of n_stack of them, for experts: [n_stack, n_out, n_in] in `type`. */
struct tensor {
    enum tensor_type type;
    uint32_t n_in, n_out, n_stack; /* n_stack: 0, not a stack */
    const unsigned char *data;
    size_t row_bytes; /* of one row of n_in elements */
};

/* Experts of older files lie in one tensor each: then `parts` has n_stack entries and data is NULL. */
struct expert_tensor {
    struct tensor t;
    const unsigned char **parts; /* [n_stack]: expert x begins at parts[x]; always filled */
};

struct layer {
    const float *attn_norm; /* [n_embd] */
    struct tensor q, k, v,
        o; /* [n_head*head_dim, n_embd], [n_head_kv*head_dim, n_embd] x2, [n_embd, n_head*head_dim] */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* NULL if absent */
    const float *q_norm, *k_norm;                   /* [head_dim], RMS norm of each head before rope; NULL if absent */
    const float *ffn_norm;                          /* [n_embd] */
    bool is_moe;
    struct tensor gate, up, down; /* dense: [n_ff, n_embd] x2, [n_embd, n_ff] */
    struct tensor router;         /* MoE: [n_expert, n_embd] */
    struct expert_tensor gate_x, up_x,
        down_x; /* MoE: [n_expert, n_ff_expert, n_embd] x2, [n_expert, n_embd, n_ff_expert] */
};

struct model {
    struct gguf *file;
    char name[128]; /* general.name, or the file's base name; valid UTF-8 */
    char arch_name[32];
    enum model_arch arch;

    uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim; /* head_dim: of keys and of values (equal) */
    uint32_t n_ff, n_vocab, n_ctx_train;
    uint32_t n_expert, n_expert_used, n_ff_expert; /* 0 when dense */
    bool expert_weights_normalised;                /* the chosen experts' softmax weights are rescaled to sum to 1 */
    float expert_weights_scale;
    uint32_t sliding_window; /* tokens that a position may look back on, itself included; 0: all */
    float norm_eps;
    float attn_scale; /* 1/sqrt(head_dim) */
    struct rope rope;

    struct tensor token_embd; /* [n_vocab, n_embd] */
    struct tensor output;     /* [n_vocab, n_embd]; equals token_embd when tied */
    bool output_is_tied;
    const float *output_norm; /* [n_embd] */
    struct layer *layers;     /* [n_layer] */

    uint64_t n_params;
    uint64_t weight_bytes; /* of all tensors of the forward pass, tied ones once */

    void **converted; /* norms and biases that the file holds as F16/BF16, as F32; n_converted of them */
    uint32_t n_converted;
};

/* Takes ownership of file on success only. */
int model_open(struct model **out, struct gguf *file, struct err *e);
void model_close(struct model *m);

#endif
