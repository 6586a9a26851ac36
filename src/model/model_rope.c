/* Rotary embedding (Su et al. 2021) and its extensions to longer contexts, reduced to one table of frequencies:
 * linear interpolation (Chen et al. 2023), YaRN (Peng et al. 2023), and per-frequency factors stored in the file (how
 * Llama 3.1's scaling arrives). */
#include "base/mem.h"
#include "model/model_load.h"

#include <math.h>
#include <string.h>

struct yarn {
    double factor, original_context, beta_fast, beta_slow, attn_factor, ext_factor;
};

enum rope_scaling { SCALE_NONE, SCALE_LINEAR, SCALE_YARN };

static bool str_is(struct gguf_str s, const char *want)
{
    return s.n == strlen(want) && !memcmp(s.s, want, s.n);
}

static int read_scaling(struct model_loader *l, enum rope_scaling *kind, double *factor)
{
    struct gguf_str type = {"none", 4};
    float f = 1;
    int rc = model_key_str(l, "rope.scaling.type", &type);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    bool named = rc == 0;
    if ((rc = model_key_f32(l, "rope.scaling.factor", &f, false)) == WEIR_ENOTFOUND) {
        /* The key of files from before scaling types had names: always linear. */
        rc = model_key_f32(l, "rope.scale_linear", &f, false);
        if (!rc && !named && f != 1)
            type = (struct gguf_str){"linear", 6};
    }
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    if (f == 0)
        f = 1; /* writers put 0 for "none" */
    if (f < 1e-3f || f > 1e6f)
        return err_set(l->e, WEIR_EFORMAT, "%s.rope.scaling.factor is %g, which is no scaling factor", l->arch->name,
                       (double)f);
    if (str_is(type, "none") || !type.n)
        *kind = SCALE_NONE;
    else if (str_is(type, "linear"))
        *kind = SCALE_LINEAR;
    else if (str_is(type, "yarn"))
        *kind = SCALE_YARN;
    else
        return err_set(l->e, WEIR_EUNSUPPORTED,
                       "unknown rope scaling \"%.*s\"; supported are none, linear, yarn, and factors in "
                       "rope_freqs.weight (llama3)",
                       (int)(type.n < 32 ? type.n : 32), type.s);
    *factor = (double)f;
    return 0;
}

/* Newer writers prefix the parameters with yarn_. */
static int yarn_key(struct model_loader *l, const char *suffix, const char *older, double *out)
{
    float v = (float)*out;
    int rc = model_key_f32(l, suffix, &v, false);
    if (rc == WEIR_ENOTFOUND && older)
        rc = model_key_f32(l, older, &v, false);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    *out = (double)v;
    return 0;
}

static int read_yarn(struct model_loader *l, double factor, struct yarn *y)
{
    uint32_t original = l->m->n_ctx_train;
    int rc = model_key_u32(l, "rope.scaling.original_context_length", &original, false);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    if (!original)
        return err_set(l->e, WEIR_EFORMAT, "%s.rope.scaling.original_context_length is 0", l->arch->name);
    *y = (struct yarn){.factor = factor,
                       .original_context = original,
                       .beta_fast = 32,
                       .beta_slow = 1,
                       .attn_factor = 1,
                       .ext_factor = 1};
    if ((rc = yarn_key(l, "rope.scaling.yarn_beta_fast", NULL, &y->beta_fast)) ||
        (rc = yarn_key(l, "rope.scaling.yarn_beta_slow", NULL, &y->beta_slow)) ||
        (rc = yarn_key(l, "rope.scaling.yarn_ext_factor", NULL, &y->ext_factor)) ||
        (rc = yarn_key(l, "rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor", &y->attn_factor)))
        return rc;
    if (y->beta_fast <= 0 || y->beta_slow <= 0 || y->attn_factor <= 0)
        return err_set(l->e, WEIR_EFORMAT, "a parameter of yarn rope scaling is not positive");
    return 0;
}

/* The (fractional) pair whose wave turns `rotations` times within the original context: section 3.2 of the paper. */
static double correction_pair(uint32_t n_rot, double base, double original_context, double rotations)
{
    return (double)n_rot * log(original_context / (rotations * 2 * M_PI)) / (2 * log(base));
}

/* Fast pairs keep their frequency, slow ones are interpolated, those between ramp from one to the other. */
static double yarn_frequency(const struct yarn *y, double low, double high, uint32_t pair, double freq)
{
    double ramp = ((double)pair - low) / fmax(0.001, high - low);
    double keep = (1 - fmin(1, fmax(0, ramp))) * y->ext_factor;
    return freq / y->factor * (1 - keep) + freq * keep;
}

static int read_factors(struct model_loader *l, const float **factors)
{
    uint32_t n = l->m->rope.n_rot / 2;
    int rc = model_bind_vector(l, "rope_freqs.weight", n, false, factors);
    if (rc)
        return rc;
    for (uint32_t i = 0; *factors && i < n; i++) {
        if (!isfinite((*factors)[i]) || (*factors)[i] <= 0)
            return err_set(l->e, WEIR_EFORMAT, "tensor rope_freqs.weight: element %u is not positive", i);
    }
    return 0;
}

int model_read_rope(struct model_loader *l)
{
    struct rope *r = &l->m->rope;
    r->layout = l->arch->rope_layout;
    r->magnitude = 1;
    r->n_rot = l->m->head_dim;
    int rc = model_key_u32(l, "rope.dimension_count", &r->n_rot, false);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    if (r->n_rot < 2 || r->n_rot % 2 || r->n_rot > l->m->head_dim)
        return err_set(l->e, WEIR_EFORMAT, "%s.rope.dimension_count is %u; it must be even and at most the head's %u",
                       l->arch->name, r->n_rot, l->m->head_dim);
    float base = 10000;
    rc = model_key_f32(l, "rope.freq_base", &base, false);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    if (base <= 1)
        return err_set(l->e, WEIR_EFORMAT, "%s.rope.freq_base is %g; it must be over 1", l->arch->name, (double)base);
    enum rope_scaling kind = SCALE_NONE;
    double factor = 1;
    const float *factors = NULL;
    if ((rc = read_scaling(l, &kind, &factor)) || (rc = read_factors(l, &factors)))
        return rc;
    struct yarn y = {0};
    double low = 0, high = 0;
    if (kind == SCALE_YARN) {
        if ((rc = read_yarn(l, factor, &y)))
            return rc;
        low = fmax(0, floor(correction_pair(r->n_rot, (double)base, y.original_context, y.beta_fast)));
        high = fmin(r->n_rot - 1.0, ceil(correction_pair(r->n_rot, (double)base, y.original_context, y.beta_slow)));
        r->magnitude = (float)(y.attn_factor * (y.ext_factor != 0 ? 1 + 0.1 * log(fmax(1, y.factor)) : 1));
    }
    r->inv_freq = mem_array(r->n_rot / 2, sizeof *r->inv_freq);
    if (!r->inv_freq)
        return err_set(l->e, WEIR_ENOMEM, "no memory for the rotary frequencies");
    for (uint32_t i = 0; i < r->n_rot / 2; i++) {
        double freq = pow((double)base, -2.0 * i / r->n_rot);
        if (factors)
            freq /= (double)factors[i];
        if (kind == SCALE_LINEAR)
            freq /= factor;
        else if (kind == SCALE_YARN)
            freq = yarn_frequency(&y, low, high, i, freq);
        r->inv_freq[i] = (float)freq;
    }
    return 0;
}
