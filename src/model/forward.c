#include "model/forward.h"

#include "base/mem.h"

#include <stdlib.h>

static void add(struct forward *f, enum forward_op_kind kind, uint32_t layer)
{
    f->ops[f->n_ops++] = (struct forward_op){.kind = kind, .layer = layer};
}

int forward_create(struct forward **out, const struct model *m, struct err *e)
{
    struct forward *f = mem_array(1, sizeof *f);
    struct forward_op *ops = mem_array(2 + 4 * (size_t)m->n_layer, sizeof *ops);
    if (!f || !ops) {
        free(f);
        free(ops);
        return err_set(e, WEIR_ENOMEM, "no memory for the forward pass's operations");
    }
    *f = (struct forward){.model = m, .ops = ops};
    add(f, OP_EMBED, 0);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        add(f, OP_QKV, i);
        add(f, OP_ATTENTION, i);
        add(f, OP_ATTN_OUT, i);
        add(f, m->layers[i].is_moe ? OP_MOE : OP_FFN, i);
    }
    add(f, OP_LOGITS, 0);
    *out = f;
    return 0;
}

void forward_destroy(struct forward *f)
{
    if (!f)
        return;
    free(f->ops);
    free(f);
}
