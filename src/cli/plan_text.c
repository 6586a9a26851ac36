/* The report as aligned text. */
#include "cli/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_TEXT 16

/* Numbers for people: three significant digits. Returned texts live until N_TEXT more were made. */
static char *text_slot(void)
{
    static _Thread_local char text[N_TEXT][32];
    static _Thread_local unsigned next;
    return text[next++ % N_TEXT];
}

static const char *scaled(double x, const char *unit)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    char *out = text_slot();
    size_t i = 0;
    while (fabs(x) >= 999.5 && i + 1 < sizeof prefixes / sizeof *prefixes)
        x /= 1000, i++;
    int digits = fabs(x) < 9.995 && (i || x != floor(x)) ? 2 : fabs(x) < 99.95 && (i || x != floor(x)) ? 1 : 0;
    snprintf(out, 32, "%.*f %s%s", digits, x, prefixes[i], unit);
    return out;
}

/* Of parameters one says billions. */
static const char *parameters(double x)
{
    char *out = text_slot();
    if (x < 1e9)
        snprintf(out, 32, "%.0f million", x / 1e6);
    else
        snprintf(out, 32, "%.*f billion", x < 1e10 ? 2 : 1, x / 1e9);
    return out;
}

static const char *bytes(double x)
{
    return scaled(x, "B");
}

static const char *rate(double x)
{
    char *out = text_slot();
    if (x < 99.95)
        snprintf(out, 32, "%.1f", x);
    else if (x < 9999.5)
        snprintf(out, 32, "%.0f", x);
    else
        snprintf(out, 32, "%.*fk", x < 99950 ? 1 : 0, x / 1000);
    return out;
}

static const char *seconds(double x)
{
    char *out = text_slot();
    if (x < 0.000995)
        snprintf(out, 32, "%.0f us", 1e6 * x);
    else if (x < 0.0995)
        snprintf(out, 32, "%.1f ms", 1000 * x);
    else if (x < 0.9995)
        snprintf(out, 32, "%.0f ms", 1000 * x);
    else
        snprintf(out, 32, "%.*f s", x < 99.5 ? 1 : 0, x);
    return out;
}

static const char *tokens(double n)
{
    char *out = text_slot();
    if (n >= 1024 && fmod(n, 1024) == 0)
        snprintf(out, 32, "%.0fk", n / 1024);
    else if (n >= 1e6)
        snprintf(out, 32, "%.3gM", n / 1e6);
    else
        snprintf(out, 32, "%.0f", n);
    return out;
}

static void head(const struct plan_report *p, struct buf *b)
{
    const struct shape *s = &p->in.shape;
    const struct profile *d = &p->in.profile;
    const char *weights = p->in.weights ? p->in.weights : s->exact ? s->file_format : "bf16";
    buf_printf(b, "%s: %s parameters", s->name, parameters(p->params));
    if (s->n_expert)
        buf_printf(b, " (%s a token)", parameters(p->active_params));
    buf_printf(b, ", weights %s, KV %s\n", weights, p->in.kv ? p->in.kv : "f16");
    buf_adds(b, "on ");
    if (p->n_devices > 1)
        buf_printf(b, "%lu x ", (unsigned long)p->n_devices);
    buf_printf(b, "%s: %s at %s/s, %s/s\n\n", d->name, bytes(d->tiers[0].capacity_bytes),
               bytes(d->tiers[0].bytes_per_s), scaled(p->r.matmul_ops_per_s, "op"));
}

static void memory(const struct plan_report *p, struct buf *b)
{
    buf_printf(b, "Memory%s\n", p->n_devices > 1 ? " of each device" : "");
    if (p->n_devices > 1)
        buf_printf(b, "  devices          %8lu     tensor parallel\n", (unsigned long)p->n_devices);
    buf_printf(b, "  weights          %8s\n", bytes(p->weight_bytes));
    buf_printf(b, "  activations      %8s     for %lu rows a step\n", bytes(p->activation_bytes),
               (unsigned long)p->in.step_tokens);
    buf_printf(b, "  KV of a token    %8s     %s for %s tokens\n", bytes(p->kv_token_bytes),
               bytes(p->kv_token_bytes * p->context), tokens(p->context));
    buf_printf(b, "  left for KV      %8s     of %s usable (%.0f %%)\n", bytes(p->kv_left_bytes),
               bytes(p->usable_bytes), 100 * p->in.memory_fraction);
    if (!p->fits) {
        buf_printf(
            b, "\n  DOES NOT FIT: weights, activations and one sequence of %s tokens need %s, usable are %s.\n  %s\n",
            tokens(p->context), bytes(p->weight_bytes + p->activation_bytes + p->context * p->kv_token_bytes),
            bytes(p->usable_bytes), p->advice);
    }
    buf_adds(b, "\n  context   ");
    for (uint32_t i = 0; i < p->n_contexts; i++)
        buf_printf(b, " %6s", tokens(p->contexts[i]));
    buf_adds(b, "\n  sequences ");
    for (uint32_t i = 0; i < p->n_contexts; i++)
        buf_printf(b, " %6.0f", p->max_sequences[i]);
    buf_adds(b, "\n\n");
}

static void single(const struct plan_report *p, struct buf *b, bool all)
{
    buf_adds(b, "One sequence: bytes of a step\n  context    weights        KV   tokens/s    ceiling\n");
    for (uint32_t i = 0; i < p->n_contexts; i++) {
        const struct plan_bytes *g = &p->growth[i];
        if (!all && i % 2 == 0 && g->context != p->context && p->n_contexts > 5)
            continue;
        buf_printf(b, "  %7s  %9s %9s  %9s  %9s\n", tokens(g->context), bytes(g->weight_bytes), bytes(g->kv_bytes),
                   rate(g->tokens_per_s), rate(g->ceiling_tokens_per_s));
    }
    if (p->overtake_context > 0)
        buf_printf(b, "  KV passes the weights at %s tokens of one sequence", tokens(p->overtake_context));
    else
        buf_adds(b, "  one sequence's KV never passes the weights");
    if (p->overtake_batch > 0)
        buf_printf(b, ", or with %.0f sequences of %s", p->overtake_batch, tokens(p->context));
    buf_adds(b, "\n\n");
}

static void phases(const struct plan_report *p, struct buf *b)
{
    buf_printf(b, "Roofline: the ridge is at %.0f operations a byte\n", p->ridge_ops_per_byte);
    for (int i = 0; i < 4; i++) {
        const struct plan_intensity *x = &p->intensity[i];
        if (i && !strcmp(x->name, p->intensity[0].name))
            continue;
        buf_printf(b, "  %-20s %7.1f   %s-bound\n", x->name, x->ops_per_byte, x->memory_bound ? "memory" : "compute");
    }
    buf_adds(b, "\n");
}

static void sweet(const struct plan_report *p, struct buf *b)
{
    const struct plan_sweet *w = &p->sweet;
    if (w->itl_missed)
        buf_printf(b, "No batch keeps %s between tokens: one sequence of %s takes %s already\n", seconds(p->in.itl_s),
                   tokens(p->context), seconds(w->time.expected_s));
    else if (w->batch)
        buf_printf(b,
                   "Sweet spot at context %s%s%s: batch %lu\n  %s tokens/s, %s between tokens, bandwidth used %.0f %% "
                   "(MBU), memory %s\n",
                   tokens(p->context), p->in.itl_s > 0 ? ", inter-token target " : "",
                   p->in.itl_s > 0 ? seconds(p->in.itl_s) : "", (unsigned long)w->batch, rate(w->tokens_per_s),
                   seconds(w->time.expected_s), 100 * w->mbu, bytes(w->memory_bytes));
    if (w->batch && p->n_devices > 1)
        buf_printf(b, "  each device reads %s and sends %s a step\n", bytes(w->time.device_bytes),
                   bytes(w->time.link_bytes));
    buf_printf(b, "  prompt of %s: first token after %s%s, %s tokens/s\n", tokens(p->prompt), seconds(w->ttft_s),
               w->ttft_missed ? " (misses --ttft)" : "", rate(w->prompt_tokens_per_s));
    if (p->price_per_hour > 0 && w->batch)
        buf_printf(b, "  %.3g a device-hour: %.3g a million output tokens, %.3g a million prompt tokens\n",
                   p->price_per_hour, p->price_per_million,
                   p->price_per_hour * p->n_devices / 3600 * 1e6 / w->prompt_tokens_per_s);
    buf_adds(b, "\n");
}

enum shown { SHOW_RATE, SHOW_ITL, SHOW_MBU };

static void grid(const struct plan_report *p, struct buf *b, enum shown what, bool all)
{
    static const char *const titles[] = {"Tokens/s", "Milliseconds between tokens", "Bandwidth used (MBU, %)"};
    buf_printf(b, "%s by batch and context   . does not fit%s\n  batch ", titles[what],
               p->in.itl_s > 0 ? "   * misses --itl" : "");
    for (uint32_t c = 0; c < p->n_contexts; c++)
        buf_printf(b, " %7s", tokens(p->contexts[c]));
    buf_adds(b, "\n");
    for (uint32_t i = 0; i < p->n_batches; i++) {
        if (!all && i % 2)
            continue;
        buf_printf(b, "  %5lu ", (unsigned long)p->batches[i]);
        for (uint32_t c = 0; c < p->n_contexts && i * p->n_contexts + c < p->n_cells; c++) {
            const struct plan_cell *x = &p->cells[i * p->n_contexts + c];
            char text[32] = ".";
            if (x->fits && what == SHOW_RATE)
                snprintf(text, sizeof text, "%s%s", rate(x->tokens_per_s), x->in_target ? "" : "*");
            else if (x->fits)
                snprintf(text, sizeof text,
                         what == SHOW_MBU ? "%.0f"
                         : x->itl_s < 0.1 ? "%.1f"
                                          : "%.0f",
                         what == SHOW_MBU ? 100 * x->mbu : 1000 * x->itl_s);
            buf_printf(b, " %7s", text);
        }
        buf_adds(b, "\n");
    }
    buf_adds(b, "\n");
}

static void variants(const struct plan_report *p, struct buf *b)
{
    buf_printf(b, "What if (same devices, context %s; bytes of a step of %lu)\n  %-40s %9s %9s %9s %9s %12s\n",
               tokens(p->context), (unsigned long)(p->sweet.batch ? p->sweet.batch : 1), "", "weights", "KV/token",
               "step", "1 seq.", "sweet spot");
    for (uint32_t i = 0; i < p->n_variants; i++) {
        const struct plan_variant *v = &p->variants[i];
        char best[40] = "-", one[32] = "-";
        if (v->single_tokens_per_s > 0)
            snprintf(one, sizeof one, "%s/s", rate(v->single_tokens_per_s));
        if (v->batch)
            snprintf(best, sizeof best, "%s/s x%lu", rate(v->tokens_per_s), (unsigned long)v->batch);
        buf_printf(b, "  %-40s %9s %9s %9s %9s %12s\n", v->name, bytes(v->weight_bytes), bytes(v->kv_token_bytes),
                   bytes(v->step_bytes), one, best);
    }
    buf_adds(b, "\n");
}

static void experts(const struct plan_report *p, struct buf *b)
{
    if (!p->n_experts)
        return;
    buf_printf(b, "Experts read in a step, of %lu a layer (%lu a token)\n  batch      experts    weights   tokens/s\n",
               (unsigned long)p->in.shape.n_expert, (unsigned long)p->in.shape.n_expert_used);
    for (uint32_t i = 0; i < p->n_experts; i++) {
        const struct plan_experts *x = &p->experts[i];
        buf_printf(b, "  %5lu    %9.1f  %9s  %9s\n", (unsigned long)x->batch, x->distinct, bytes(x->weight_bytes),
                   rate(x->tokens_per_s));
    }
    buf_adds(b, "\n");
}

static void lengths(const struct plan_report *p, struct buf *b)
{
    buf_adds(b, "Mixed lengths in one step: what is paid is bytes\n");
    for (int i = 0; i < 3 && p->mixes[i].name[0]; i++)
        buf_printf(b, "  %-28s %9s  %9s\n", p->mixes[i].name, bytes(p->mixes[i].bytes), seconds(p->mixes[i].seconds));
    buf_adds(b, "\n");
}

static void devices(const struct plan_report *p, struct buf *b)
{
    if (p->n_parallel) {
        buf_adds(b, "Tensor parallel: one sequence, and at the sweet spot\n"
                    "  devices   bytes each   link bytes   tokens/s    sweet spot\n");
        for (uint32_t i = 0; i < p->n_parallel; i++) {
            const struct plan_parallel *x = &p->parallel[i];
            char best[48] = "does not fit";
            if (x->batch)
                snprintf(best, sizeof best, "%s/s x%lu", rate(x->tokens_per_s), (unsigned long)x->batch);
            else if (x->fits)
                snprintf(best, sizeof best, "misses --itl");
            buf_printf(b, "  %7lu  %11s  %11s  %9s  %12s\n", (unsigned long)x->n_devices, bytes(x->device_bytes),
                       bytes(x->link_bytes), x->fits ? rate(x->single_tokens_per_s) : "-", best);
        }
        buf_adds(b, "\n");
    }
    if (p->remote_tokens_per_s > 0)
        buf_printf(b, "NUMA: with its memory on the other socket one sequence gets %s tokens/s instead of %s\n\n",
                   rate(p->remote_tokens_per_s), rate(p->single_tokens_per_s));
}

static void cost(const struct plan_report *p, struct buf *b)
{
    buf_printf(b, "A million tokens at the sweet spot use %.3g device-hours of bandwidth and %.3g of compute\n\n",
               p->bandwidth_hours, p->compute_hours);
}

static void rivals(const struct plan_report *p, struct buf *b)
{
    if (!p->n_rivals)
        return;
    bool priced = false;
    for (uint32_t i = 0; i < p->n_rivals; i++)
        priced |= p->rivals[i].price_per_million > 0;
    buf_printf(b, "Devices, by tokens/s at context %s\n  %-34s %3s %6s %10s %9s %10s %9s%s\n", tokens(p->context), "",
               "n", "batch", "tokens/s", "1 seq.", "prompt/s", "tokens/J", priced ? "   a million" : "");
    for (uint32_t i = 0; i < p->n_rivals; i++) {
        const struct plan_rival *v = &p->rivals[i];
        if (!v->fits) {
            buf_printf(b, "  %-34s does not fit%s\n", v->profile.id,
                       v->n_devices ? " on as many as its link joins" : " on any number");
            continue;
        }
        buf_printf(b, "  %-34s %3lu %6lu %10s %9s %10s %9.2f", v->profile.id, (unsigned long)v->n_devices,
                   (unsigned long)v->batch, v->batch ? rate(v->tokens_per_s) : "misses", rate(v->single_tokens_per_s),
                   rate(v->prompt_tokens_per_s), v->tokens_per_joule);
        if (v->price_per_million > 0)
            buf_printf(b, " %11.3g", v->price_per_million);
        buf_adds(b, "\n");
    }
    buf_adds(b, "\n");
}

static void basis(const struct profile *d, struct buf *b)
{
    if (d->n_products)
        buf_adds(b, "Expected: products and attention as measured, at each number of rows.\n");
    else
        buf_printf(b, "Expected: %.0f %% of the bandwidth and %.0f %% of the compute that %s, and %s a layer.\n",
                   100 * d->attain_bandwidth, 100 * d->attain_compute,
                   d->measured ? "were measured" : "the data sheet names", seconds(d->layer_overhead_s));
}

void plan_text(const struct plan_report *p, const struct plan_view *v, struct buf *b)
{
    head(p, b);
    memory(p, b);
    single(p, b, v->surface);
    phases(p, b);
    if (p->fits)
        sweet(p, b);
    if (p->fits)
        grid(p, b, SHOW_RATE, v->surface);
    if (v->surface && p->fits) {
        grid(p, b, SHOW_ITL, true);
        grid(p, b, SHOW_MBU, true);
    }
    if (v->what_if) {
        variants(p, b);
        experts(p, b);
        lengths(p, b);
        devices(p, b);
        cost(p, b);
    }
    rivals(p, b);
    basis(&p->in.profile, b);
}

void plan_csv(const struct plan_report *p, struct buf *b)
{
    buf_adds(b, "batch,context,fits,in_target,tokens_per_s,itl_s,mbu,memory_bytes\n");
    for (uint32_t i = 0; i < p->n_cells; i++) {
        const struct plan_cell *c = &p->cells[i];
        buf_printf(b, "%lu,%lu,%d,%d,%.6g,%.6g,%.4f,%.0f\n", (unsigned long)c->batch, (unsigned long)c->context,
                   c->fits, c->in_target, c->tokens_per_s, c->itl_s, c->mbu, c->memory_bytes);
    }
}
