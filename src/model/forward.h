/* The forward pass as a list of coarse operations, the same for every device.
 *
 * forward_build reads top-down as the model runs. A device walks the list for each step; a CPU fuses each operation
 * into one or two parallel regions, a GPU may capture the whole list as a graph. Operations name no buffers: the
 * residual stream x[n_tokens, n_embd] is what flows through, everything else is the device's scratch.
 *
 *   OP_EMBED      x = token_embd[token]
 *   OP_QKV        q,k,v = rope(norm_head(W_qkv rms_norm(x) + b)); k,v stored into the sequences' chunks
 *   OP_ATTENTION  a = softmax(q K^T * scale) V over each sequence's chunk table (causal, sliding window)
 *   OP_ATTN_OUT   x += W_o a + b
 *   OP_FFN        x += W_down (silu(W_gate h) * W_up h), h = rms_norm(x)
 *   OP_MOE        x += sum over chosen experts of weight * FFN_expert(h), h = rms_norm(x)
 *   OP_LOGITS     logits = W_output rms_norm(x[output rows])
 *
 * The list belongs to the model's memory and is immutable.
 */
#ifndef WEIR_MODEL_FORWARD_H
#define WEIR_MODEL_FORWARD_H

#include "base/err.h"
#include "model/model.h"

enum forward_op_kind { OP_EMBED, OP_QKV, OP_ATTENTION, OP_ATTN_OUT, OP_FFN, OP_MOE, OP_LOGITS };

struct forward_op {
    enum forward_op_kind kind;
    uint32_t layer; /* index for layer operations */
};

struct forward {
    const struct model *model;
    uint32_t n_ops;
    struct forward_op *ops;
};

int forward_create(struct forward **out, const struct model *m, struct err *e);
void forward_destroy(struct forward *f);

#endif
