/* What the parts of model_open share: model.c reads the parameters, model_tensors.c binds the tensors. Private to the
 * model's loading. */
#ifndef WEIR_MODEL_MODEL_LOAD_H
#define WEIR_MODEL_MODEL_LOAD_H

#include "model/model.h"

struct arch_info {
    const char *name;
    enum model_arch arch;
    enum rope_layout rope_layout;
    bool qk_norm;     /* q and k of each head are normed; the tensors are required */
    bool qkv_bias;    /* the biases of q, k and v are required */
    bool may_be_moe;  /* expert_count > 0 is known */
    bool must_be_moe; /* expert_count == 0 is not */
};

struct model_loader {
    struct model *m;
    const struct gguf *g;
    const struct arch_info *arch;
    struct err *e;
    const struct gguf_tensor **used; /* [gguf_n_tensors] tensors that were bound; n_used of them */
    uint64_t n_used;
};

/* Binds every tensor of the forward pass to m->..., whose shape parameters are set and in range. Refuses missing,
 * misshapen and unknown tensors. Also fills n_params and weight_bytes. */
int model_bind_tensors(struct model_loader *l);

/* m->rope from the metadata and the tensor rope_freqs.weight. */
int model_read_rope(struct model_loader *l);

/* One vector [n] of float32, float16 or bfloat16 as float32: in place if it lies so, else converted into memory that
 * the model owns. required: a missing one is an error, else *out is NULL. */
int model_bind_vector(struct model_loader *l, const char *name, uint32_t n, bool required, const float **out);

/* Metadata under the architecture's prefix: "<arch>.<suffix>". 0, WEIR_ENOTFOUND (nothing written; with a message
 * where required) or WEIR_EFORMAT. An array of equal integers counts as their value; one of different ones (a value
 * for each layer) is refused as unsupported. */
int model_key_u32(struct model_loader *l, const char *suffix, uint32_t *out, bool required);
int model_key_f32(struct model_loader *l, const char *suffix, float *out, bool required);
int model_key_str(struct model_loader *l, const char *suffix, struct gguf_str *out);

#endif
