/* Weight and KV formats, and the traffic model of a shape in them. */
#include "base/suggest.h"
#include "model/shape_matrices.h"
#include "model/tensor_type.h"

#include <string.h>

/* How converters of GGUF files choose the types of the tensors. */
enum mix {
    MIX_PLAIN,   /* one type for all */
    MIX_OUTPUT,  /* the output in Q6_K */
    MIX_SMALL,   /* _S: a few sensitive tensors in the next larger type */
    MIX_MEDIUM,  /* _M: more of them */
    MIX_EXPERTS, /* experts (of a dense model: all layers) in it, the rest in 16 bits */
    MIX_GPU,     /* matrices of the layers in `bits`, the rest in 16 bits */
};

static const struct weight_format {
    const char *name;
    enum mix mix;
    enum tensor_type type;
    double bits; /* MIX_GPU: of one element, scales included */
    const char *compute;
} formats[] = {
    {"f32", MIX_PLAIN, TENSOR_F32, 0, "f32"},         {"f16", MIX_PLAIN, TENSOR_F16, 0, "f16"},
    {"bf16", MIX_PLAIN, TENSOR_BF16, 0, "f16"},       {"q8_0", MIX_PLAIN, TENSOR_Q8_0, 0, "int8"},
    {"q6_k", MIX_PLAIN, TENSOR_Q6_K, 0, "int8"},      {"q5_k_m", MIX_MEDIUM, TENSOR_Q5_K, 0, "int8"},
    {"q5_k_s", MIX_SMALL, TENSOR_Q5_K, 0, "int8"},    {"q4_k_m", MIX_MEDIUM, TENSOR_Q4_K, 0, "int8"},
    {"q4_k_s", MIX_SMALL, TENSOR_Q4_K, 0, "int8"},    {"q3_k_m", MIX_MEDIUM, TENSOR_Q3_K, 0, "int8"},
    {"q2_k", MIX_MEDIUM, TENSOR_Q2_K, 0, "int8"},     {"q4_0", MIX_OUTPUT, TENSOR_Q4_0, 0, "int8"},
    {"q4_1", MIX_OUTPUT, TENSOR_Q4_1, 0, "int8"},     {"q5_0", MIX_OUTPUT, TENSOR_Q5_0, 0, "int8"},
    {"q5_1", MIX_OUTPUT, TENSOR_Q5_1, 0, "int8"},     {"iq4_nl", MIX_OUTPUT, TENSOR_IQ4_NL, 0, "int8"},
    {"iq4_xs", MIX_OUTPUT, TENSOR_IQ4_XS, 0, "int8"}, {"q4_k", MIX_PLAIN, TENSOR_Q4_K, 0, "int8"},
    {"q5_k", MIX_PLAIN, TENSOR_Q5_K, 0, "int8"},      {"q3_k", MIX_PLAIN, TENSOR_Q3_K, 0, "int8"},
    {"mxfp4", MIX_EXPERTS, TENSOR_MXFP4, 0, "f16"},   {"fp8", MIX_GPU, TENSOR_F16, 8, "fp8"},
    {"int8", MIX_GPU, TENSOR_F16, 8, "f16"},         /* weights only; scales by row are negligible */
    {"int4-g128", MIX_GPU, TENSOR_F16, 4.25, "f16"}, /* weights only; a 16-bit scale and zero for 128: 4 + 32/128 */
    {"int4-g32", MIX_GPU, TENSOR_F16, 5, "f16"},     /* for 32: 4 + 32/32 */
};
#define N_FORMATS (sizeof formats / sizeof *formats)

static const struct kv_format {
    const char *name;
    double bytes; /* of one element */
} kv_formats[] = {
    {"f16", 2}, {"bf16", 2}, {"fp8", 1}, {"q8_0", 34.0 / 32}, {"int8", 34.0 / 32}, {"q4_0", 18.0 / 32}, {"f32", 4},
};
#define N_KV_FORMATS (sizeof kv_formats / sizeof *kv_formats)

const char *shape_weight_format(unsigned i)
{
    return i < N_FORMATS ? formats[i].name : NULL;
}

const char *shape_kv_format(unsigned i)
{
    return i < N_KV_FORMATS ? kv_formats[i].name : NULL;
}

static int unknown(const char *kind, const char *name, const char *(*at)(unsigned), struct err *e)
{
    const char *names[64], *near;
    char list[384] = "";
    unsigned n = 0;
    for (; n < 64 && (names[n] = at(n)); n++) {
        if (strlen(list) + strlen(names[n]) + 3 < sizeof list)
            strcat(strcat(list, n ? ", " : ""), names[n]);
    }
    near = suggest_nearest(name, names, n);
    if (near)
        return err_set(e, WEIR_EINVAL, "no %s format '%s'; did you mean %s? There are %s", kind, name, near, list);
    return err_set(e, WEIR_EINVAL, "no %s format '%s'; there are %s", kind, name, list);
}

static const struct weight_format *find_format(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++) {
        if (suggest_same(formats[i].name, name))
            return &formats[i];
    }
    return NULL;
}

const char *shape_compute_type(const char *weights)
{
    const struct weight_format *f = weights ? find_format(weights) : NULL;
    return f ? f->compute : "f16";
}

/* The layers whose attn_v and ffn_down get more bits: the first and last eighth, and every third between. */
static bool more_bits(uint32_t layer, uint32_t n_layer)
{
    uint32_t eighth = n_layer / 8;
    return layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2;
}

static enum tensor_type medium_type(enum tensor_type base, const struct matrix *m, const struct shape *s)
{
    bool v = m->role == MATRIX_ATTN_V, o = m->role == MATRIX_ATTN_O;
    bool down = m->role == MATRIX_FFN_DOWN || m->role == MATRIX_EXPERT_DOWN;
    bool eight = s->n_expert == 8;
    if (eight && (v || m->role == MATRIX_ATTN_K))
        return TENSOR_Q8_0;
    if (eight && o && base != TENSOR_Q5_K)
        return TENSOR_Q5_K;
    switch (base) {
    case TENSOR_Q2_K:
        if (v)
            return s->n_head / s->n_head_kv >= 4 ? TENSOR_Q4_K : TENSOR_Q3_K;
        return down || o ? TENSOR_Q3_K : base;
    case TENSOR_Q3_K:
        if (v)
            return m->layer < 2 ? TENSOR_Q5_K : TENSOR_Q4_K;
        if (down)
            return m->layer < s->n_layer / 16 ? TENSOR_Q5_K : TENSOR_Q4_K;
        return o ? TENSOR_Q4_K : base;
    default:
        if ((v || down) && more_bits(m->layer, s->n_layer))
            return TENSOR_Q6_K;
        return v && s->n_layer == 80 && base == TENSOR_Q4_K ? TENSOR_Q5_K : base;
    }
}

static enum tensor_type small_type(enum tensor_type base, const struct matrix *m, const struct shape *s)
{
    bool v = m->role == MATRIX_ATTN_V, down = m->role == MATRIX_FFN_DOWN || m->role == MATRIX_EXPERT_DOWN;
    if (s->n_expert == 8 && (v || m->role == MATRIX_ATTN_K))
        return TENSOR_Q8_0;
    if (base == TENSOR_Q4_K && ((v && m->layer < 4) || (down && m->layer < s->n_layer / 8)))
        return TENSOR_Q5_K;
    return base;
}

/* Rows that are not whole blocks take the type that converters fall back to. */
static enum tensor_type fitting(enum tensor_type t, uint32_t row)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)t);
    if (row % info->block_elements) {
        switch (t) {
        case TENSOR_Q4_K:
            t = TENSOR_Q5_0;
            break;
        case TENSOR_Q5_K:
            t = TENSOR_Q5_1;
            break;
        case TENSOR_Q6_K:
            t = TENSOR_Q8_0;
            break;
        default:
            t = TENSOR_IQ4_NL;
        }
    }
    return row % tensor_type_info((uint32_t)t)->block_elements ? TENSOR_F16 : t;
}

static enum tensor_type type_of(const struct weight_format *f, const struct matrix *m, const struct shape *s)
{
    if (m->role == MATRIX_ROUTER)
        return TENSOR_F32;
    bool outer = m->role == MATRIX_OUTPUT || m->role == MATRIX_EMBEDDING;
    enum tensor_type t = f->type;
    switch (f->mix) {
    case MIX_PLAIN:
        break;
    case MIX_EXPERTS:
        t = outer || (s->n_expert && m->role < MATRIX_EXPERT_GATE) ? TENSOR_BF16 : t;
        break;
    default:
        if (m->role == MATRIX_OUTPUT)
            t = TENSOR_Q6_K;
        else if (!outer && f->mix == MIX_MEDIUM)
            t = medium_type(t, m, s);
        else if (!outer && f->mix == MIX_SMALL)
            t = small_type(t, m, s);
    }
    return fitting(t, m->n_in);
}

static double matrix_bytes(const struct weight_format *f, const struct matrix *m, const struct shape *s)
{
    double rows = (double)m->n_out * m->n_stack;
    if (f->mix == MIX_GPU) {
        bool outer = m->role == MATRIX_OUTPUT || m->role == MATRIX_EMBEDDING || m->role == MATRIX_ROUTER;
        return rows * m->n_in * (outer ? 16 : f->bits) / 8;
    }
    return rows * (double)tensor_type_row_bytes(type_of(f, m, s), m->n_in);
}

static void add_matrix(struct traffic_model *t, const struct weight_format *f, const struct matrix *m,
                       const struct shape *s)
{
    double bytes = matrix_bytes(f, m, s), elements = (double)m->n_out * m->n_in * m->n_stack;
    switch (m->role) {
    case MATRIX_EMBEDDING:
        t->embedding_bytes = bytes;
        t->embedding_row_bytes = bytes / s->n_vocab;
        return;
    case MATRIX_OUTPUT:
        t->output_bytes = bytes;
        t->output_params = elements;
        if (s->tied)
            t->embedding_row_bytes = bytes / s->n_vocab;
        return;
    case MATRIX_EXPERT_GATE:
    case MATRIX_EXPERT_UP:
    case MATRIX_EXPERT_DOWN:
        t->expert_bytes += bytes;
        t->expert_params += elements;
        return;
    case MATRIX_ROUTER:
        t->router_bytes += bytes;
        break;
    case MATRIX_FFN_GATE:
    case MATRIX_FFN_UP:
    case MATRIX_FFN_DOWN:
        t->ffn_bytes += bytes;
        break;
    default:
        t->attention_bytes += bytes;
    }
    t->row_params += elements;
}

static void from_shape(const struct shape *s, const struct weight_format *f, struct traffic_model *t)
{
    struct matrix m[SHAPE_MAX_MATRICES];
    shape_traffic_counts(s, t);
    unsigned n = shape_outer_matrices(s, m);
    for (unsigned i = 0; i < n; i++)
        add_matrix(t, f, &m[i], s);
    for (uint32_t layer = 0; layer < s->n_layer; layer++) {
        n = shape_layer_matrices(s, layer, m);
        for (unsigned i = 0; i < n; i++)
            add_matrix(t, f, &m[i], s);
    }
    /* GGUF files keep vectors in F32, checkpoints in 16 bits. */
    t->norm_bytes = shape_vector_elements(s) * (f->mix == MIX_GPU ? 2 : 4);
}

void shape_last_layer(const struct shape *s, struct traffic_model *m)
{
    struct matrix all[SHAPE_MAX_MATRICES];
    unsigned n = shape_layer_matrices(s, s->n_layer - 1, all);
    m->last_params = m->last_expert_params = 0;
    for (unsigned i = 0; i < n; i++) {
        const double elements = (double)all[i].n_out * all[i].n_in * all[i].n_stack;
        const enum matrix_role role = all[i].role;
        if (role == MATRIX_EXPERT_GATE || role == MATRIX_EXPERT_UP || role == MATRIX_EXPERT_DOWN)
            m->last_expert_params += elements;
        else if (role != MATRIX_ATTN_K && role != MATRIX_ATTN_V)
            m->last_params += elements;
    }
    m->last_bytes = m->last_params / m->row_params * (m->attention_bytes + m->ffn_bytes + m->router_bytes);
    m->last_expert_bytes = m->expert_params > 0 ? m->last_expert_params / m->expert_params * m->expert_bytes : 0;
}

int shape_traffic(const struct shape *s, const char *weights, const char *kv, struct traffic_model *out, struct err *e)
{
    *out = (struct traffic_model){0};
    const struct kv_format *k = NULL;
    for (size_t i = 0; i < N_KV_FORMATS && !k; i++)
        k = suggest_same(kv_formats[i].name, kv ? kv : "f16") ? &kv_formats[i] : NULL;
    if (!k)
        return unknown("KV", kv, shape_kv_format, e);
    if (s->exact && (!weights || suggest_same(weights, s->file_format))) {
        *out = s->file;
    } else {
        const struct weight_format *f = find_format(weights ? weights : "bf16");
        if (!f)
            return unknown("weight", weights, shape_weight_format, e);
        from_shape(s, f, out);
    }
    double elements = s->kv_lora ? (double)s->kv_lora + s->rope_dim : 2.0 * s->n_head_kv * s->head_dim;
    out->kv_token_bytes = k->bytes * elements;
    return 0;
}
