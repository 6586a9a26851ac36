#include "device/device.h"

void device_destroy(struct device *d)
{
    if (d)
        d->ops->destroy(d);
}

static int check_seq(const struct device *d, const struct step *s, uint32_t i, uint32_t first_row, struct err *e)
{
    const struct device_config *c = &d->config;
    const struct step_seq *q = &s->seqs[i];
    if (!q->n_rows || q->first_row != first_row || q->n_rows > s->n_rows - first_row)
        return err_set(e, WEIR_EINVAL,
                       "sequence %u of the step has rows %u..+%u; they must follow row %u and end by %u", i,
                       q->first_row, q->n_rows, first_row, s->n_rows);
    uint64_t n_tokens = (uint64_t)q->n_past + q->n_rows;
    if (n_tokens > c->max_context)
        return err_set(e, WEIR_EINVAL, "sequence %u of the step reaches %llu tokens; the device's context is %u", i,
                       (unsigned long long)n_tokens, c->max_context);
    uint64_t needed = (n_tokens + c->chunk_tokens - 1) / c->chunk_tokens;
    if (q->n_chunks < needed)
        return err_set(e, WEIR_EINVAL, "sequence %u of the step has %u chunks for %llu tokens; it needs %llu", i,
                       q->n_chunks, (unsigned long long)n_tokens, (unsigned long long)needed);
    for (uint32_t j = 0; j < needed; j++) {
        if (q->chunks[j] >= c->n_chunks)
            return err_set(e, WEIR_EINVAL, "sequence %u of the step refers to chunk %u of %u", i, q->chunks[j],
                           c->n_chunks);
    }
    return 0;
}

static int check_step(const struct device *d, const struct step *s, struct err *e)
{
    const struct device_config *c = &d->config;
    if (!s->n_rows || s->n_rows > c->max_step_tokens || !s->n_seqs || s->n_seqs > c->max_step_seqs ||
        s->n_outputs > c->max_outputs)
        return err_set(e, WEIR_EINVAL,
                       "a step of %u rows, %u sequences, %u outputs; the device takes 1 to %u, 1 to %u, 0 to %u",
                       s->n_rows, s->n_seqs, s->n_outputs, c->max_step_tokens, c->max_step_seqs, c->max_outputs);
    for (uint32_t i = 0; i < s->n_rows; i++) {
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= d->model->n_vocab)
            return err_set(e, WEIR_EINVAL, "token %d of row %u is not in the vocabulary of %u", s->tokens[i], i,
                           d->model->n_vocab);
    }
    uint32_t row = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        int rc = check_seq(d, s, i, row, e);
        if (rc)
            return rc;
        row += s->seqs[i].n_rows;
    }
    if (row != s->n_rows)
        return err_set(e, WEIR_EINVAL, "the step has %u rows but its sequences %u", s->n_rows, row);
    for (uint32_t i = 0; i < s->n_outputs; i++) {
        if (s->output_rows[i] >= s->n_rows || (i && s->output_rows[i] <= s->output_rows[i - 1]))
            return err_set(e, WEIR_EINVAL, "output row %u is out of range or order", s->output_rows[i]);
    }
    return 0;
}

int device_start(struct device *d, const struct step *s, struct err *e)
{
    int rc = check_step(d, s, e);
    if (rc)
        return rc;
    d->current = *s;
    return d->ops->start(d, s, e);
}

int device_wait(struct device *d, struct step_result *out, struct err *e)
{
    int rc = d->ops->wait(d, out, e);
    for (uint32_t i = 0; !rc && !d->ops->samples && d->current.sample && i < d->current.n_seqs; i++)
        d->current.sample(d->current.sample_user, i, out->logits);
    return rc;
}

void device_copy_chunk(struct device *d, uint32_t src, uint32_t dst, uint32_t n_tokens)
{
    d->ops->copy_chunk(d, src, dst, n_tokens);
}

void device_poison_chunk(struct device *d, uint32_t chunk)
{
    d->ops->poison_chunk(d, chunk);
}

uint64_t device_memory_bytes(const struct device *d)
{
    return d->ops->memory_bytes(d);
}

size_t device_chunk_bytes(const struct model *m, enum kv_type t, uint32_t chunk_tokens)
{
    return (size_t)m->n_layer * 2 * m->n_head_kv * kv_area_bytes(t, m->head_dim, chunk_tokens);
}
