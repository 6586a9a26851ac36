/* The shape of a model without its weights: what planning, simulation and scheduling need to know of it.
 *
 * It comes from a GGUF file (whose tensor table gives exact bytes), from a Hugging Face config.json, or from a preset:
 * profiles/models/NAME.json in the same format as config.json, embedded in the binary. Together with a weight format
 * and a KV format it gives the traffic model (policy/traffic.h).
 *
 * Weight formats: GGUF types ("q8_0", "f16", ...) and recipes ("q4_k_m": the types that converters choose for each
 * tensor), and those of GPU engines ("fp8", "int8", "int4-g128", "int4-g32": matrices of the layers so; embedding and
 * output stay in 16 bits). Bytes agree with a file of that format within 1 %.
 *
 * config.json and model files are hostile: every number is checked against a bound. Values; no pointers inside; any
 * thread.
 */
#ifndef WEIR_MODEL_SHAPE_H
#define WEIR_MODEL_SHAPE_H

#include "base/err.h"
#include "model/gguf.h"
#include "policy/traffic.h"

#include <stdbool.h>
#include <stdint.h>

struct shape {
    char name[96];
    char arch[32]; /* model_type, or general.architecture */

    uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab, n_ctx;
    bool tied;     /* the output matrix is the embedding */
    bool qkv_bias; /* and what other small vectors there are, for the count of parameters */
    bool o_bias, qk_norm, post_norm;

    /* Experts, in all layers but the first n_layer_dense. n_ff_shared: width of experts that every row meets. */
    uint32_t n_expert, n_expert_used, n_ff_expert, n_ff_shared, n_layer_dense;
    bool expert_bias;

    uint32_t sliding_window, n_layer_window; /* positions seen, in so many of the layers */

    /* Multi-head latent attention (DeepSeek): a token's cache is kv_lora + rope_dim numbers. kv_lora 0: ordinary. */
    uint32_t q_lora, kv_lora, rope_dim, nope_dim, v_dim;

    bool exact; /* from a GGUF file: `file` holds the bytes of its tensors, whatever format is asked for */
    struct traffic_model file; /* without KV */
    char file_format[24];      /* the type of most of its bytes */
};

/* A path of a .gguf file, a config.json (or the folder that holds one), else the name of a preset. */
int shape_open(struct shape *s, const char *what, struct err *e);

int shape_from_gguf(struct shape *s, const struct gguf *g, struct err *e);
int shape_from_config(struct shape *s, const char *json, size_t n, const char *name, struct err *e);
int shape_from_preset(struct shape *s, const char *name, struct err *e);

/* Presets in order; NULL past the last. */
const char *shape_preset_name(unsigned i);

/* Bytes of each class in these formats. weights NULL: the file's own, else bf16. A shape from a file has one weight
 * format only; asking for another computes it from the shape. kv: "f16", "bf16", "fp8", "q8_0", "int8", "q4_0", "f32";
 * NULL: "f16". Unknown names are explained (WEIR_EINVAL). A running device's own chunks may differ by padding: it sets
 * kv_token_bytes itself. */
int shape_traffic(const struct shape *s, const char *weights, const char *kv, struct traffic_model *out, struct err *e);

/* What lies behind the last layer's keys and values, for devices that leave it out for rows without logits: sets last_* of
 * the model. Elements are exact, bytes by the average of the layers' matrices. */
void shape_last_layer(const struct shape *s, struct traffic_model *m);

/* Known formats, for help and messages; NULL past the last. */
const char *shape_weight_format(unsigned i);
const char *shape_kv_format(unsigned i);

/* Elements of all matrices and vectors, tied ones once; and those that one token meets. */
double shape_params(const struct shape *s);
double shape_active_params(const struct shape *s);

/* A weight format's arithmetic: which of a device's peaks its products run at: "f32", "f16", "fp8", "int8". */
const char *shape_compute_type(const char *weights);

/* Bytes of activation buffers for a step of n_rows rows with n_outputs rows of logits, of element_bytes each. */
double shape_activation_bytes(const struct shape *s, double n_rows, double n_outputs, double element_bytes);

#endif
