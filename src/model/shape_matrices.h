/* The matrices that a shape stands for, one after the other: what counting parameters and bytes walks. Private to the
 * shape files. */
#ifndef WEIR_MODEL_SHAPE_MATRICES_H
#define WEIR_MODEL_SHAPE_MATRICES_H

#include "model/shape.h"

enum matrix_role {
    MATRIX_EMBEDDING, /* absent when tied */
    MATRIX_OUTPUT,
    MATRIX_ATTN_Q, /* latent attention: the matrices that make queries */
    MATRIX_ATTN_K, /* latent attention: those that make and spread the latent */
    MATRIX_ATTN_V,
    MATRIX_ATTN_O,
    MATRIX_FFN_GATE, /* dense or shared */
    MATRIX_FFN_UP,
    MATRIX_FFN_DOWN,
    MATRIX_ROUTER,
    MATRIX_EXPERT_GATE,
    MATRIX_EXPERT_UP,
    MATRIX_EXPERT_DOWN,
};

struct matrix {
    enum matrix_role role;
    uint32_t layer;
    uint32_t n_out, n_in, n_stack; /* [n_stack, n_out, n_in] */
};

#define SHAPE_MAX_MATRICES 16 /* of a layer */

/* Those of one layer; returns how many. */
unsigned shape_layer_matrices(const struct shape *s, uint32_t layer, struct matrix out[SHAPE_MAX_MATRICES]);

/* Embedding (unless tied) and output. */
unsigned shape_outer_matrices(const struct shape *s, struct matrix out[SHAPE_MAX_MATRICES]);

/* Elements of norms, biases and other vectors, all layers. */
double shape_vector_elements(const struct shape *s);

/* Fills the counts that do not depend on formats: layers, window, experts, pair_flops, activations. */
void shape_traffic_counts(const struct shape *s, struct traffic_model *t);

/* Checks that the numbers make a transformer. */
int shape_check(const struct shape *s, struct err *e);

#endif
