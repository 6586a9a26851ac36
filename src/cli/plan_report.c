#include "cli/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEVICES 64
#define NEAR_BEST 0.9 /* without a target, the sweet spot is the smallest batch with this share of the best rate */

/* One way to run the model: what fits and how fast. */
struct setup {
    struct roofline r;
    double usable_bytes, weight_bytes, activation_bytes, kv_token_bytes; /* of one device */
};

static int setup_init(struct setup *u, const struct plan_input *in, const struct shape *s, const char *weights,
                      const char *kv, const struct profile *p, uint32_t n_devices, struct err *e)
{
    int rc = roofline_init(&u->r, s, weights, kv, p, n_devices, e);
    if (rc)
        return rc;
    u->usable_bytes = p->tiers[0].capacity_bytes * in->memory_fraction;
    u->weight_bytes = roofline_weight_bytes(&u->r);
    u->kv_token_bytes = roofline_kv_token_bytes(&u->r);
    uint32_t outputs = in->max_batch < 256 ? in->max_batch : 256;
    u->activation_bytes = shape_activation_bytes(s, in->step_tokens, outputs, p->is_cpu ? 4 : 2) / n_devices;
    return 0;
}

static double memory_of(const struct setup *u, double batch, double context)
{
    return u->weight_bytes + u->activation_bytes + batch * context * u->kv_token_bytes;
}

static bool fits(const struct setup *u, double batch, double context)
{
    return memory_of(u, batch, context) <= u->usable_bytes;
}

/* Sequences of a context that fit, at most max. */
static uint32_t most_sequences(const struct setup *u, double context, double max)
{
    double left = u->usable_bytes - u->weight_bytes - u->activation_bytes;
    double n = floor(left / (context * u->kv_token_bytes));
    return n < 0 ? 0 : n > max ? (uint32_t)max : (uint32_t)n;
}

static double step_s(const struct setup *u, uint32_t batch, uint32_t context)
{
    struct roofline_time t;
    roofline_decode(&u->r, batch, context - 1, &t);
    return t.expected_s;
}

/* With a target, the largest batch that meets it; else the smallest that is near the best. 0 when nothing fits or
 * meets the target. Step time and rate grow with the batch, so both are found by halving. */
static uint32_t sweet_batch(const struct setup *u, const struct plan_input *in, uint32_t context)
{
    uint32_t most = most_sequences(u, context, in->max_batch);
    if (!most)
        return 0;
    double best = most / step_s(u, most, context);
    uint32_t lo = 1, hi = most;
    if (in->itl_s > 0) {
        if (step_s(u, 1, context) > in->itl_s)
            return 0;
        while (lo < hi) {
            uint32_t mid = hi - (hi - lo) / 2;
            if (step_s(u, mid, context) <= in->itl_s)
                lo = mid;
            else
                hi = mid - 1;
        }
        return lo;
    }
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (mid / step_s(u, mid, context) >= NEAR_BEST * best)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static double sweet_rate(const struct setup *u, const struct plan_input *in, uint32_t context, uint32_t *batch)
{
    *batch = sweet_batch(u, in, context);
    return *batch ? *batch / step_s(u, *batch, context) : 0;
}

static uint32_t most_devices(const struct profile *p)
{
    const struct profile_link *l = profile_peer_link(p);
    return !l ? 1 : l->max_devices < MAX_DEVICES ? l->max_devices : MAX_DEVICES;
}

/* The fewest devices, of 1, 2, 4, ..., that hold the model and one sequence; 0 if so many cannot be joined. */
static uint32_t fewest_devices(const struct plan_input *in, const struct profile *p, uint32_t context, uint32_t most,
                               struct err *e)
{
    for (uint32_t n = 1; n <= most; n *= 2) {
        struct setup u;
        if (setup_init(&u, in, &in->shape, in->weights, in->kv, p, n, e))
            return 0;
        if (fits(&u, 1, context))
            return n;
    }
    return 0;
}

/* ---- parts of the report ---- */

static void fill_axes(struct plan_report *p)
{
    uint32_t most = p->in.shape.n_ctx ? p->in.shape.n_ctx : 131072;
    bool placed = false;
    for (uint32_t c = 512; c <= most && p->n_contexts < PLAN_MAX_AXIS - 1 && c <= 1u << 20; c *= 2) {
        if (!placed && p->context <= c) {
            placed = true;
            if (p->context < c)
                p->contexts[p->n_contexts++] = p->context;
        }
        p->contexts[p->n_contexts++] = c;
    }
    if (!placed)
        p->contexts[p->n_contexts++] = p->context;
    for (uint32_t b = 1; b <= p->in.max_batch && p->n_batches < PLAN_MAX_AXIS; b *= 2)
        p->batches[p->n_batches++] = b;
}

static void fill_surface(struct plan_report *p, const struct setup *u)
{
    for (uint32_t i = 0; i < p->n_contexts; i++)
        p->max_sequences[i] = most_sequences(u, p->contexts[i], 1e9);
    for (uint32_t b = 0; b < p->n_batches; b++) {
        for (uint32_t c = 0; c < p->n_contexts && p->n_cells < PLAN_MAX_CELLS; c++) {
            struct roofline_time t;
            uint32_t batch = p->batches[b], context = p->contexts[c];
            roofline_decode(&u->r, batch, context - 1, &t);
            p->cells[p->n_cells++] = (struct plan_cell){
                .batch = batch,
                .context = context,
                .fits = fits(u, batch, context),
                .in_target = p->in.itl_s <= 0 || t.expected_s <= p->in.itl_s,
                .tokens_per_s = batch / t.expected_s,
                .itl_s = t.expected_s,
                .mbu = t.device_bytes / t.expected_s / u->r.bytes_per_s,
                .memory_bytes = memory_of(u, batch, context),
            };
        }
    }
}

static double weights_read(const struct traffic_model *m, uint32_t batch)
{
    return traffic_layer_weight_bytes(m, batch) + m->output_bytes + batch * m->embedding_row_bytes;
}

static void fill_growth(struct plan_report *p)
{
    const struct traffic_model *m = &p->r.model;
    for (uint32_t i = 0; i < p->n_contexts; i++) {
        struct roofline_time t;
        roofline_decode(&p->r, 1, p->contexts[i] - 1, &t);
        p->growth[i] =
            (struct plan_bytes){p->contexts[i], weights_read(m, 1), traffic_decode_kv_bytes(m, p->contexts[i] - 1),
                                1 / t.expected_s, 1 / t.ceiling_s};
    }
    uint32_t lo = 1, hi = 1u << 31; /* one sequence whose KV passes the weights */
    if (traffic_decode_kv_bytes(m, hi) > weights_read(m, 1)) {
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo) / 2;
            if (traffic_decode_kv_bytes(m, mid) > weights_read(m, 1))
                hi = mid;
            else
                lo = mid + 1;
        }
        p->overtake_context = lo;
    }
    double each = traffic_decode_kv_bytes(m, p->context - 1);
    for (uint32_t b = 1; b < 1u << 16 && p->overtake_batch == 0; b++) {
        if (b * each > weights_read(m, b))
            p->overtake_batch = b;
    }
}

static void add_intensity(struct plan_report *p, int i, const char *name, const struct roofline_time *t)
{
    struct plan_intensity *x = &p->intensity[i];
    snprintf(x->name, sizeof x->name, "%s", name);
    x->ops_per_byte = t->device_flops / t->device_bytes;
    x->memory_bound = t->memory_bound;
    x->attained_ops_per_s = t->device_flops / t->expected_s;
}

static void fill_intensity(struct plan_report *p, uint32_t batch)
{
    struct roofline_time t;
    char name[48];
    p->ridge_ops_per_byte = p->r.matmul_ops_per_s / p->r.bytes_per_s;
    roofline_decode(&p->r, 1, p->context - 1, &t);
    add_intensity(p, 0, "decode, batch 1", &t);
    roofline_decode(&p->r, batch, p->context - 1, &t);
    snprintf(name, sizeof name, "decode, batch %lu", (unsigned long)batch);
    add_intensity(p, 1, name, &t);
    struct traffic_load l = {0};
    uint32_t rows = p->prompt < p->in.step_tokens ? p->prompt : p->in.step_tokens;
    traffic_add(&l, &p->r.model, 0, rows, rows, 1);
    roofline_step(&p->r, &l, &t);
    snprintf(name, sizeof name, "prefill, %lu rows", (unsigned long)rows);
    add_intensity(p, 2, name, &t);
    traffic_add_many(&l, &p->r.model, batch, p->context - 1, 1, 1);
    roofline_step(&p->r, &l, &t);
    add_intensity(p, 3, "both in one step", &t);
}

static void fill_sweet(struct plan_report *p, const struct setup *u)
{
    struct plan_sweet *w = &p->sweet;
    w->batch = sweet_batch(u, &p->in, p->context);
    w->itl_missed = !w->batch && p->in.itl_s > 0 && fits(u, 1, p->context);
    w->ttft_s = roofline_prefill_s(&p->r, p->prompt, p->in.step_tokens);
    w->prompt_tokens_per_s = p->prompt / w->ttft_s;
    w->ttft_missed = p->in.ttft_s > 0 && w->ttft_s > p->in.ttft_s;
    uint32_t batch = w->batch ? w->batch : 1;
    roofline_decode(&p->r, batch, p->context - 1, &w->time);
    w->memory_bytes = memory_of(u, batch, p->context);
    w->tokens_per_s = batch / w->time.expected_s;
    w->mbu = w->time.device_bytes / w->time.expected_s / p->r.bytes_per_s;
    fill_intensity(p, batch);
}

static void fill_mixes(struct plan_report *p)
{
    uint32_t large = p->in.shape.n_ctx && p->in.shape.n_ctx < 8192 ? p->in.shape.n_ctx : 8192, small = large / 8;
    if (!small)
        return;
    const uint32_t n[3][2] = {{8, 0}, {7, 1}, {0, 8}}; /* short ones, long ones */
    static const char *const names[3] = {"8 x %lu", "7 x %lu and 1 x %lu", "the same, padded: 8 x %lu"};
    for (int i = 0; i < 3; i++) {
        struct traffic_load l = {0};
        struct roofline_time t;
        if (n[i][0])
            traffic_add_many(&l, &p->r.model, n[i][0], small - 1, 1, 1);
        if (n[i][1])
            traffic_add_many(&l, &p->r.model, n[i][1], large - 1, 1, 1);
        roofline_step(&p->r, &l, &t);
        unsigned long first = n[i][0] ? small : large;
        if (i == 1)
            snprintf(p->mixes[i].name, sizeof p->mixes[i].name, names[1], first, (unsigned long)large);
        else
            snprintf(p->mixes[i].name, sizeof p->mixes[i].name, i ? names[2] : names[0], first);
        p->mixes[i].bytes = t.device_bytes * p->r.n_devices;
        p->mixes[i].seconds = t.expected_s;
    }
}

static void add_variant(struct plan_report *p, const char *name, const struct shape *s, const char *weights,
                        const char *kv)
{
    struct setup u;
    if (p->n_variants == PLAN_MAX_ROWS || setup_init(&u, &p->in, s, weights, kv, &p->in.profile, p->n_devices, NULL))
        return;
    struct plan_variant *v = &p->variants[p->n_variants++];
    struct roofline_time t;
    snprintf(v->name, sizeof v->name, "%s", name);
    v->weight_bytes = traffic_resident_weight_bytes(&u.r.model);
    v->kv_token_bytes = traffic_kv_bytes(&u.r.model, 1);
    roofline_decode(&u.r, p->sweet.batch ? p->sweet.batch : 1, p->context - 1, &t);
    v->step_bytes = t.device_bytes * p->n_devices;
    v->single_tokens_per_s = fits(&u, 1, p->context) ? 1 / step_s(&u, 1, p->context) : 0;
    v->tokens_per_s = sweet_rate(&u, &p->in, p->context, &v->batch);
}

static void fill_variants(struct plan_report *p)
{
    static const char *const gpu[] = {"bf16", "fp8", "int8", "q8_0", "q4_k_m", "int4-g128", NULL};
    static const char *const cpu[] = {"bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", NULL};
    const struct shape *s = &p->in.shape;
    const char *kv = p->in.kv, *own = p->in.weights;
    add_variant(p, "as planned", s, own, kv);
    for (const char *const *w = p->in.profile.is_cpu ? cpu : gpu; *w; w++) {
        char name[48];
        snprintf(name, sizeof name, "weights %s", *w);
        add_variant(p, name, s, *w, kv);
    }
    add_variant(p, "KV q8_0", s, own, "q8_0");
    if (!p->in.profile.is_cpu)
        add_variant(p, "KV fp8", s, own, "fp8");
    struct shape other = *s;
    other.exact = false;
    const char *format = own ? own : s->exact ? s->file_format : NULL;
    if (!s->kv_lora && s->n_head_kv < s->n_head) {
        other.n_head_kv = s->n_head;
        add_variant(p, "multi-head attention (a KV head a head)", &other, format, kv);
    } else if (!s->kv_lora && s->n_head % 8 == 0) {
        other.n_head_kv = s->n_head / 8;
        add_variant(p, "grouped queries (8 heads a KV head)", &other, format, kv);
    }
    other.n_head_kv = s->n_head_kv;
    if (s->n_layer_window) {
        other.n_layer_window = 0;
        add_variant(p, "no sliding window", &other, format, kv);
    } else if (p->context >= 1024) {
        char name[48];
        other.n_layer_window = s->n_layer;
        other.sliding_window = p->context / 4;
        snprintf(name, sizeof name, "window, or sparse: %lu positions", (unsigned long)other.sliding_window);
        add_variant(p, name, &other, format, kv);
    }
}

static void fill_experts(struct plan_report *p)
{
    const struct traffic_model *m = &p->r.model;
    if (!m->n_expert)
        return;
    for (uint32_t b = 1; b <= 1024 && p->n_experts < 12; b *= 2) {
        struct roofline_time t;
        roofline_decode(&p->r, b, p->context - 1, &t);
        p->experts[p->n_experts++] =
            (struct plan_experts){b, traffic_distinct_experts(m, b), weights_read(m, b), b / t.expected_s};
    }
}

static int fill_parallel(struct plan_report *p, struct err *e)
{
    uint32_t most = most_devices(&p->in.profile);
    for (uint32_t n = 1; n <= most && p->n_parallel < 5 && most > 1; n *= 2) {
        struct setup u;
        int rc = setup_init(&u, &p->in, &p->in.shape, p->in.weights, p->in.kv, &p->in.profile, n, e);
        if (rc)
            return rc;
        struct roofline_time t;
        struct plan_parallel *x = &p->parallel[p->n_parallel++];
        roofline_decode(&u.r, 1, p->context - 1, &t);
        x->n_devices = n;
        x->device_bytes = t.device_bytes;
        x->link_bytes = t.link_bytes;
        x->fits = fits(&u, 1, p->context);
        x->single_tokens_per_s = 1 / t.expected_s;
        x->tokens_per_s = sweet_rate(&u, &p->in, p->context, &x->batch);
    }
    return 0;
}

static void fill_cost(struct plan_report *p)
{
    const struct plan_sweet *w = &p->sweet;
    double tokens = w->batch ? w->batch : 1, steps = 1e6 / tokens, n = p->n_devices;
    p->price_per_hour = p->in.price_per_hour > 0 ? p->in.price_per_hour : p->in.profile.price_per_hour;
    p->compute_hours = steps * w->time.device_flops * n / p->r.matmul_ops_per_s / 3600;
    p->bandwidth_hours = steps * w->time.device_bytes * n / p->r.bytes_per_s / 3600;
    p->price_per_million = p->price_per_hour * n / 3600 * 1e6 / w->tokens_per_s;
    struct roofline_time t;
    roofline_decode(&p->r, 1, p->context - 1, &t);
    p->single_tokens_per_s = 1 / t.expected_s;
    if (p->in.profile.is_cpu && p->in.profile.numa_remote_fraction < 1) {
        double slower = 1 / p->in.profile.numa_remote_fraction - 1;
        p->remote_tokens_per_s = 1 / (t.expected_s + (t.weights_s + t.attention_s) * slower);
    }
}

/* ---- other devices ---- */

static int rate_rival(struct plan_rival *v, const struct plan_report *p, const struct profile *profile, struct err *e)
{
    *v = (struct plan_rival){.profile = *profile};
    uint32_t n = fewest_devices(&p->in, profile, p->context, most_devices(profile), e);
    v->fits = n > 0;
    v->n_devices = n ? n : fewest_devices(&p->in, profile, p->context, 4096, e);
    v->over_link = !n;
    if (!v->n_devices)
        return 0;
    struct setup u;
    int rc = setup_init(&u, &p->in, &p->in.shape, p->in.weights, p->in.kv, profile, v->n_devices, e);
    if (rc || !v->fits)
        return rc;
    v->single_tokens_per_s = 1 / step_s(&u, 1, p->context);
    v->tokens_per_s = sweet_rate(&u, &p->in, p->context, &v->batch);
    v->prompt_tokens_per_s = p->prompt / roofline_prefill_s(&u.r, p->prompt, p->in.step_tokens);
    if (profile->watts > 0)
        v->tokens_per_joule = v->tokens_per_s / (profile->watts * v->n_devices);
    if (profile->price_per_hour > 0 && v->tokens_per_s > 0)
        v->price_per_million = profile->price_per_hour * v->n_devices / 3600 * 1e6 / v->tokens_per_s;
    return 0;
}

static int fill_rivals(struct plan_report *p, struct err *e)
{
    for (uint32_t i = 0; i < p->in.n_rivals && p->n_rivals < PLAN_MAX_ROWS; i++) {
        struct plan_rival v;
        int rc = rate_rival(&v, p, &p->in.rivals[i], e);
        if (rc)
            return rc;
        uint32_t at = p->n_rivals++;
        for (; at > 0 && p->rivals[at - 1].tokens_per_s < v.tokens_per_s; at--)
            p->rivals[at] = p->rivals[at - 1];
        p->rivals[at] = v;
    }
    return 0;
}

/* What would fit: more of these devices, smaller weights, another device, a shorter context. */
static void fill_advice(struct plan_report *p, const struct setup *u)
{
    static const char *const smaller[] = {"fp8", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"};
    char *out = p->advice;
    size_t size = sizeof p->advice, n = 0;
#define SAY(...) n += n < size ? (size_t)snprintf(out + n, size - n, __VA_ARGS__) : 0
    uint32_t more = fewest_devices(&p->in, &p->in.profile, p->context, most_devices(&p->in.profile), NULL);
    if (more > p->n_devices)
        SAY("--devices %lu fits", (unsigned long)more);
    for (size_t i = 0; i < sizeof smaller / sizeof *smaller; i++) {
        struct setup v;
        if (!setup_init(&v, &p->in, &p->in.shape, smaller[i], p->in.kv, &p->in.profile, p->n_devices, NULL) &&
            fits(&v, 1, p->context)) {
            SAY("%s--weights %s fits", n ? "; " : "", smaller[i]);
            break;
        }
    }
    double left = (u->usable_bytes - u->weight_bytes - u->activation_bytes) / u->kv_token_bytes;
    if (left >= 128)
        SAY("%s--ctx %.0f fits", n ? "; " : "", floor(left / 128) * 128);
    struct profile best = {0};
    const char *name;
    for (unsigned i = 0; (name = profile_name(i)); i++) {
        struct profile q;
        if (profile_open(&q, name, NULL) || fewest_devices(&p->in, &q, p->context, p->n_devices, NULL) == 0)
            continue;
        if (!best.n_tiers || q.tiers[0].capacity_bytes < best.tiers[0].capacity_bytes)
            best = q;
    }
    if (best.n_tiers)
        SAY("%s--device %s fits", n ? "; " : "", best.id);
    if (!n)
        SAY("no built-in device holds it in any format; plan it over more devices with a profile of your own whose "
            "link joins them");
#undef SAY
}

static int check(const struct plan_input *in, struct err *e)
{
    if (in->shape.n_ctx && in->context > in->shape.n_ctx)
        return err_set(e, WEIR_EINVAL, "a context of %lu, but %s was made for %lu; give --ctx %lu or less",
                       (unsigned long)in->context, in->shape.name, (unsigned long)in->shape.n_ctx,
                       (unsigned long)in->shape.n_ctx);
    if (in->prompt && in->context && in->prompt > in->context)
        return err_set(e, WEIR_EINVAL, "a prompt of %lu tokens in a context of %lu; the context holds the prompt too",
                       (unsigned long)in->prompt, (unsigned long)in->context);
    uint32_t most = most_devices(&in->profile);
    if (in->n_devices > most)
        return err_set(e, WEIR_EINVAL,
                       most > 1 ? "%lu devices, but the link of %s joins %lu; give --devices %lu or less"
                                : "%lu devices, but the profile of %s has no link to a peer (%lu device; give "
                                  "--devices %lu, or a profile with links)",
                       (unsigned long)in->n_devices, in->profile.name, (unsigned long)most, (unsigned long)most);
    return 0;
}

int plan_report(struct plan_report *p, const struct plan_input *in, struct err *e)
{
    int rc = check(in, e);
    if (rc)
        return rc;
    *p = (struct plan_report){.in = *in};
    uint32_t made_for = in->shape.n_ctx ? in->shape.n_ctx : 4096;
    p->context = in->context ? in->context : made_for < 4096 ? made_for : 4096;
    p->prompt = in->prompt ? in->prompt : p->context > 1 ? p->context / 2 : 1;
    p->n_devices = in->n_devices;
    struct err ignored = {0};
    if (!p->n_devices)
        p->n_devices = fewest_devices(in, &in->profile, p->context, most_devices(&in->profile), &ignored);
    if (!p->n_devices)
        p->n_devices = most_devices(&in->profile);
    struct setup u;
    if ((rc = setup_init(&u, in, &in->shape, in->weights, in->kv, &p->in.profile, p->n_devices, e)))
        return rc;
    p->r = u.r;
    p->fits = fits(&u, 1, p->context);
    p->usable_bytes = u.usable_bytes;
    p->weight_bytes = u.weight_bytes;
    p->activation_bytes = u.activation_bytes;
    p->kv_token_bytes = u.kv_token_bytes;
    p->kv_left_bytes = fmax(0, u.usable_bytes - u.weight_bytes - u.activation_bytes);
    p->model_weight_bytes = traffic_resident_weight_bytes(&u.r.model);
    p->model_kv_token_bytes = traffic_kv_bytes(&u.r.model, 1);
    p->params = shape_params(&in->shape);
    p->active_params = shape_active_params(&in->shape);
    fill_axes(p);
    fill_surface(p, &u);
    fill_growth(p);
    fill_sweet(p, &u);
    fill_mixes(p);
    fill_variants(p);
    fill_experts(p);
    fill_cost(p);
    if (!p->fits)
        fill_advice(p, &u);
    if ((rc = fill_parallel(p, e)))
        return rc;
    return fill_rivals(p, e);
}
