/* weir plan: what fits, how fast, where the sweet spot lies, what it costs. */
#include "cli/plan.h"

#include "base/suggest.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/page.h"
#include "device/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_OUTPUT_BYTES (8u << 20)

struct config {
    const char *model, *device, *compare, *html;
    struct option_list prices;
    uint32_t threads;
    bool json, csv, list, sources;
    struct plan_view view;
    struct plan_input in;
    struct profile rivals[PLAN_MAX_ROWS];
};

static void help(const struct option_def *defs)
{
    printf("usage: weir plan MODEL [DEVICE] [options]\n\n"
           "What fits, how fast it can be, where the sweet spot lies and what it costs, from the bytes that a step "
           "moves.\n"
           "MODEL is a .gguf file, a Hugging Face config.json (or its folder) or a preset; DEVICE a profile's name or "
           ".json file\n(default h100-sxm). `weir plan --list` names presets, devices and formats.\n\n");
    options_help(defs);
    printf("\nExamples:\n"
           "  weir plan llama-3.1-8b                                one H100\n"
           "  weir plan llama-3.1-70b h100 --weights fp8 --itl 0.03 sweet spot with at most 30 ms between tokens\n"
           "  weir plan llama-3.1-70b --devices 4 --ctx 32768 --what-if\n"
           "  weir plan model.gguf epyc-9755 --surface\n"
           "  weir plan qwen3-30b-a3b h100 --compare h200,b200,mi300x,l40s --price 2.5 --price h200=3.5\n"
           "  weir plan llama-3.1-8b h100 --compare h100:bandwidth=2:compute=0.8\n"
           "  weir plan ./my-model/config.json l4 --html plan.html\n");
}

static void list_names(const char *title, const char *(*at)(unsigned))
{
    printf("%s\n", title);
    const char *name;
    size_t column = 0;
    for (unsigned i = 0; (name = at(i)); i++) {
        if (column + strlen(name) + 2 > 100)
            column = 0, printf("\n");
        column += (size_t)printf("%s%s", column ? "  " : "  ", name);
    }
    printf("\n\n");
}

static void list_all(void)
{
    list_names("Models (or a .gguf file, or a config.json):", shape_preset_name);
    list_names("Devices (or a profile's .json file); NAME:bandwidth=2:compute=0.8 scales one:", profile_name);
    list_names("Weight formats:", shape_weight_format);
    list_names("KV formats:", shape_kv_format);
}

/* "2.5" is the device's own price, "h200=3.5" that of a rival (or of the device, by name). */
static int apply_prices(struct config *c, struct err *e)
{
    for (size_t i = 0; i < c->prices.n; i++) {
        const char *text = c->prices.items[i], *eq = strrchr(text, '=');
        char *end;
        double price = strtod(eq ? eq + 1 : text, &end);
        if (*end || end == (eq ? eq + 1 : text) || !(price > 0) || !(price < 1e6))
            return err_set(e, WEIR_EINVAL, "--price: '%s' is neither a price an hour nor NAME=PRICE", text);
        bool found = !eq;
        if (!eq) {
            c->in.price_per_hour = c->in.profile.price_per_hour = price;
            for (uint32_t k = 0; k < c->in.n_rivals; k++) {
                if (suggest_same(c->rivals[k].id, c->in.profile.id))
                    c->rivals[k].price_per_hour = price;
            }
            continue;
        }
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)(eq - text), text);
        struct profile *all[PLAN_MAX_ROWS + 1] = {&c->in.profile};
        for (uint32_t k = 0; k < c->in.n_rivals; k++)
            all[k + 1] = &c->rivals[k];
        for (uint32_t k = 0; k <= c->in.n_rivals; k++) {
            if (suggest_same(all[k]->id, name))
                all[k]->price_per_hour = price, found = true;
        }
        if (!found)
            return err_set(e, WEIR_EINVAL, "--price: %s is not among the devices of this plan", name);
    }
    return 0;
}

/* The device itself comes first, then the list; "all" stands for every built-in profile. */
static int open_rivals(struct config *c, struct err *e)
{
    if (!c->compare)
        return 0;
    c->rivals[c->in.n_rivals++] = c->in.profile;
    char copy[2048], *rest = NULL;
    if (snprintf(copy, sizeof copy, "%s", c->compare) >= (int)sizeof copy)
        return err_set(e, WEIR_EINVAL, "--compare: the list is too long");
    if (!strcmp(copy, "all")) {
        copy[0] = 0;
        const char *name;
        for (unsigned i = 0; (name = profile_name(i)); i++) {
            size_t n = strlen(copy);
            snprintf(copy + n, sizeof copy - n, "%s%s", n ? "," : "", name);
        }
    }
    for (char *name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        struct profile p;
        int rc = profile_open(&p, name, e);
        if (rc)
            return err_prefix(e, "--compare");
        bool known = false;
        for (uint32_t i = 0; i < c->in.n_rivals; i++)
            known |= !strcmp(c->rivals[i].name, p.name) && !strchr(p.id, ':') && !strchr(c->rivals[i].id, ':');
        if (known)
            continue;
        if (c->in.n_rivals == PLAN_MAX_ROWS)
            return err_set(e, WEIR_EINVAL, "--compare: more than %d devices", PLAN_MAX_ROWS);
        c->rivals[c->in.n_rivals++] = p;
    }
    c->in.rivals = c->rivals;
    return 0;
}

static int write_html(const struct plan_report *p, const char *path, struct err *e)
{
    struct buf b;
    buf_init(&b, MAX_OUTPUT_BYTES);
    plan_html(p, &b);
    int rc = page_write(&b, path, e);
    buf_finish(&b);
    return rc;
}

static int show(const struct plan_report *p, const struct config *c, struct err *e)
{
    int rc = 0;
    if (c->html) {
        rc = write_html(p, c->html, e);
        if (!rc)
            fprintf(stderr, "wrote %s\n", c->html);
        if (rc || !(c->json || c->csv))
            return rc;
    }
    struct buf b;
    buf_init(&b, MAX_OUTPUT_BYTES);
    if (c->json)
        plan_json(p, &b);
    else if (c->csv)
        plan_csv(p, &b);
    else
        plan_text(p, &c->view, &b);
    if (b.failed)
        rc = err_set(e, b.failed, "no memory for the report");
    else
        fwrite(b.data, 1, b.len, stdout);
    buf_finish(&b);
    return rc;
}

static void progress(const char *what, double done)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\rmeasuring this machine: %3.0f %%, %-12s", 100 * done, what);
}

static int open_device(struct config *c, struct err *e)
{
    if (strcmp(c->device, "this") != 0)
        return profile_open(&c->in.profile, c->device, e);
    int rc = measure_profile(&c->in.profile, c->threads, progress, e);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%50s\r", "");
    return rc;
}

static int run(struct config *c, struct err *e)
{
    int rc;
    if (c->sources) {
        char *text;
        if ((rc = profile_source_text(c->device, &text, e)))
            return rc;
        printf("%s\n", text);
        free(text);
        return 0;
    }
    if (!c->model)
        return err_set(e, WEIR_EINVAL, "no model: give a .gguf file, a config.json or a preset (`weir plan --list`)");
    if ((rc = shape_open(&c->in.shape, c->model, e)) || (rc = open_device(c, e)) || (rc = open_rivals(c, e)) ||
        (rc = apply_prices(c, e)))
        return rc;
    static struct plan_report report; /* large, and points into itself */
    if ((rc = plan_report(&report, &c->in, e)))
        return rc;
    return show(&report, c, e);
}

int cmd_plan(int argc, char **argv)
{
    static struct config c;
    c = (struct config){.device = "h100-sxm", .in = {.max_batch = 512, .step_tokens = 2048, .memory_fraction = 0.9}};
    const struct option_def defs[] = {
        OPTIONS_TITLE("What to run"),
        OPTION("model", OPT_STR, &c.model, "MODEL", "the same as the first argument"),
        OPTION("weights", OPT_STR, &c.in.weights, "FORMAT",
               "bf16, fp8, q8_0, q4_k_m, ... (default: the file's, or bf16)"),
        OPTION("kv-type", OPT_STR, &c.in.kv, "FORMAT", "f16, fp8, q8_0, ... (default f16)"),
        OPTION("ctx", OPT_U32, &c.in.context, "TOKENS", "a sequence's length while it decodes (default 4096)", .min = 1,
               .max = 1 << 24),
        OPTION("prompt", OPT_U32, &c.in.prompt, "TOKENS",
               "a prompt's length, for the first token (default: half of it)", .min = 1, .max = 1 << 24),
        OPTION("max-batch", OPT_U32, &c.in.max_batch, "N", "largest batch to look at (default 512)", .min = 1,
               .max = 1 << 16),
        OPTION("step-tokens", OPT_U32, &c.in.step_tokens, "N", "rows of a prefill step at most (default 2048)",
               .min = 1, .max = 1 << 20),
        OPTIONS_TITLE("Where"),
        OPTION("device", OPT_STR, &c.device, "DEVICE", "the same as the second argument"),
        OPTION("threads", OPT_U32, &c.threads, "N", "with the device `this`: threads to measure (default: one a core)",
               .max = 1024),
        OPTION("devices", OPT_U32, &c.in.n_devices, "N", "tensor parallel over N (default: the fewest that fit)",
               .min = 1, .max = 4096),
        OPTION("memory-fraction", OPT_F64, &c.in.memory_fraction, "X",
               "of a device's memory that may be used "
               "(default 0.9)",
               .min = 0.01, .max = 1),
        OPTIONS_TITLE("Targets and cost"),
        OPTION("itl", OPT_F64, &c.in.itl_s, "S", "seconds between tokens at most", .min = 1e-6, .max = 3600),
        OPTION("ttft", OPT_F64, &c.in.ttft_s, "S", "seconds to the first token at most", .min = 1e-6, .max = 36000),
        OPTION("price", OPT_LIST, &c.prices, "[DEVICE=]P", "price of a device-hour (may be repeated)"),
        OPTION("compare", OPT_STR, &c.compare, "LIST", "rank these devices too: h200,l40s,... or all"),
        OPTIONS_TITLE("Output"),
        OPTION("surface", OPT_FLAG, &c.view.surface, NULL, "whole grids of rate, time and bandwidth use"),
        OPTION("what-if", OPT_FLAG, &c.view.what_if, NULL,
               "other formats and attention, experts, mixed lengths, more devices"),
        OPTION("json", OPT_FLAG, &c.json, NULL, "everything as JSON"),
        OPTION("csv", OPT_FLAG, &c.csv, NULL, "the surface as CSV"),
        OPTION("html", OPT_STR, &c.html, "FILE", "everything as a page with charts"),
        OPTION("list", OPT_FLAG, &c.list, NULL, "names of presets, devices and formats"),
        OPTION("sources", OPT_FLAG, &c.sources, NULL, "where the device's figures are from"),
        OPTIONS_END};
    struct options o;
    struct err e = {0};
    int rc = options_parse(&o, defs, argc, argv, &e);
    if (!rc && o.help) {
        help(defs);
    } else if (!rc && c.list) {
        list_all();
    } else if (!rc) {
        if (o.n_positional > 2)
            rc = err_set(&e, WEIR_EINVAL, "'%s' is one argument too many: weir plan MODEL [DEVICE]", o.positional[2]);
        if (o.n_positional > 0 && !c.sources)
            c.model = o.positional[0];
        if (o.n_positional > 1 || (c.sources && o.n_positional))
            c.device = o.positional[o.n_positional - 1];
        rc = rc ? rc : run(&c, &e);
    }
    options_finish(&o);
    if (rc)
        fprintf(stderr, "weir plan: %s\n", e.msg);
    return !rc ? 0 : rc == WEIR_EINVAL || rc == WEIR_ENOTFOUND ? 2 : 1;
}
