#include "device/profile.h"

#include "base/embed.h"
#include "base/file.h"
#include "base/suggest.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "devices/"
#define MAX_NAMES 256
#define MAX_PROFILE_BYTES (1u << 18)

static const char *const compute_names[PROFILE_COMPUTE_COUNT] = {"f32", "f16", "fp8", "int8"};

struct reader {
    const char *file;
    struct err *e;
    int rc; /* the first error */
};

static void fail(struct reader *r, const char *where, const char *what)
{
    if (!r->rc)
        r->rc = err_set(r->e, WEIR_EFORMAT, "profile %s: %s %s", r->file, where, what);
}

/* What is there must be an object. */
static void check_object(struct reader *r, const json_t *v, const char *where)
{
    if (v && !json_is_object(v))
        fail(r, where, "must be an object");
}

/* Refuses keys that are not in the list. */
static void check_keys(struct reader *r, const json_t *object, const char *where, const char *const *known, size_t n)
{
    const char *key;
    json_t *v;
    check_object(r, object, where);
    json_object_foreach((json_t *)(uintptr_t)object, key, v)
    {
        size_t i = 0;
        while (i < n && strcmp(known[i], key))
            i++;
        if (i < n || r->rc)
            continue;
        const char *near = suggest_nearest(key, known, n);
        char text[160];
        snprintf(text, sizeof text, "has an unknown key '%.60s'%s%s%s", key, near ? "; did you mean " : "",
                 near ? near : "", near ? "?" : "");
        fail(r, where, text);
    }
}
#define CHECK_KEYS(r, object, where, ...)                                                                              \
    do {                                                                                                               \
        static const char *const known_[] = {__VA_ARGS__};                                                             \
        check_keys(r, object, where, known_, sizeof known_ / sizeof *known_);                                          \
    } while (0)

/* A number from lo to hi; `fallback` if absent (NAN: required). */
static double number(struct reader *r, const json_t *object, const char *where, const char *key, double fallback,
                     double lo, double hi)
{
    const json_t *v = json_object_get(object, key);
    char text[160];
    if (!v) {
        if (isnan(fallback)) {
            snprintf(text, sizeof text, "lacks %s", key);
            fail(r, where, text);
            return lo;
        }
        return fallback;
    }
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= lo) || !(x <= hi)) {
        snprintf(text, sizeof text, "has %s outside of %g to %g", key, lo, hi);
        fail(r, where, text);
        return lo;
    }
    return x;
}

static void name_of(struct reader *r, const json_t *object, const char *where, char *out, size_t size)
{
    const char *s = json_string_value(json_object_get(object, "name"));
    if (!s || !*s || strlen(s) >= size)
        fail(r, where, "needs a short \"name\"");
    snprintf(out, size, "%s", s ? s : "");
}

static void read_memory(struct reader *r, struct profile *p, const json_t *root)
{
    const json_t *tiers = json_object_get(root, "memory");
    if (!json_is_array(tiers) || !json_array_size(tiers) || json_array_size(tiers) > PROFILE_MAX_TIERS) {
        fail(r, "\"memory\"", "must be a list of 1 to 4 tiers, fastest first");
        return;
    }
    p->n_tiers = (uint32_t)json_array_size(tiers);
    for (uint32_t i = 0; i < p->n_tiers; i++) {
        const json_t *t = json_array_get(tiers, i);
        char where[32];
        snprintf(where, sizeof where, "memory[%u]", i);
        CHECK_KEYS(r, t, where, "name", "capacity_bytes", "bandwidth_bytes_per_s", "latency_s");
        name_of(r, t, where, p->tiers[i].name, sizeof p->tiers[i].name);
        p->tiers[i].capacity_bytes = number(r, t, where, "capacity_bytes", NAN, 1e6, 1e17);
        p->tiers[i].bytes_per_s = number(r, t, where, "bandwidth_bytes_per_s", NAN, 1e6, 1e16);
        p->tiers[i].latency_s = number(r, t, where, "latency_s", 0, 0, 10);
        if (i && p->tiers[i].bytes_per_s > p->tiers[i - 1].bytes_per_s)
            fail(r, where, "is faster than the tier before it: fastest first");
    }
}

static void read_compute(struct reader *r, struct profile *p, const json_t *root)
{
    const json_t *c = json_object_get(root, "compute_ops_per_s");
    if (!json_is_object(c)) {
        fail(r, "\"compute_ops_per_s\"", "must be an object: {\"f16\": 1e14, ...}");
        return;
    }
    check_keys(r, c, "compute_ops_per_s", compute_names, PROFILE_COMPUTE_COUNT);
    p->ops_per_s[PROFILE_F16] = number(r, c, "compute_ops_per_s", "f16", NAN, 1e6, 1e19);
    for (int i = 0; i < PROFILE_COMPUTE_COUNT; i++)
        p->ops_per_s[i] = number(r, c, "compute_ops_per_s", compute_names[i], p->ops_per_s[PROFILE_F16], 1e6, 1e19);
}

static void read_links(struct reader *r, struct profile *p, const json_t *root)
{
    const json_t *links = json_object_get(root, "links");
    if (!links)
        return;
    if (!json_is_array(links) || json_array_size(links) > PROFILE_MAX_LINKS) {
        fail(r, "\"links\"", "must be a list of at most 4");
        return;
    }
    p->n_links = (uint32_t)json_array_size(links);
    for (uint32_t i = 0; i < p->n_links; i++) {
        const json_t *l = json_array_get(links, i);
        const char *to = json_string_value(json_object_get(l, "to"));
        char where[32];
        snprintf(where, sizeof where, "links[%u]", i);
        CHECK_KEYS(r, l, where, "name", "to", "bandwidth_bytes_per_s", "latency_s", "max_devices");
        name_of(r, l, where, p->links[i].name, sizeof p->links[i].name);
        if (!to || (strcmp(to, "peer") && strcmp(to, "host")))
            fail(r, where, "needs \"to\": \"peer\" or \"host\"");
        p->links[i].to_host = to && !strcmp(to, "host");
        p->links[i].bytes_per_s = number(r, l, where, "bandwidth_bytes_per_s", NAN, 1e6, 1e16);
        p->links[i].latency_s = number(r, l, where, "latency_s", 0, 0, 10);
        p->links[i].max_devices = (uint32_t)number(r, l, where, "max_devices", 2, 1, 65536);
    }
}

static const char *const products_keys[2] = {"products", "prompt_products"};

static void read_products(struct reader *r, struct profile *p, const json_t *root, bool prompt)
{
    const json_t *products = json_object_get(root, products_keys[prompt]);
    const char *type, *where = prompt ? "\"prompt_products\"" : "\"products\"";
    json_t *list;
    check_object(r, products, where);
    json_object_foreach((json_t *)(uintptr_t)products, type, list)
    {
        size_t n = json_array_size(list);
        if (p->n_products == PROFILE_MAX_PRODUCTS || n < 1 || n > PROFILE_MAX_POINTS || strlen(type) > 15) {
            fail(r, where, "must be at most 16 types, of both ways, with 1 to 16 points [rows, bytes a second]");
            return;
        }
        struct profile_product *q = &p->products[p->n_products++];
        snprintf(q->type, sizeof q->type, "%s", type);
        q->prompt = prompt;
        for (size_t i = 0; i < n; i++) {
            const json_t *point = json_array_get(list, i);
            double rows = json_number_value(json_array_get(point, 0)),
                   rate = json_number_value(json_array_get(point, 1));
            if (!(rows >= 1 && rows <= 1 << 20) || !(rate >= 1e3 && rate <= 1e16) ||
                (i && rows <= q->points[i - 1].rows)) {
                fail(r, where, "has a point that is not [rows, bytes a second] with rising rows");
                return;
            }
            q->points[i].rows = (uint32_t)rows;
            q->points[i].bytes_per_s = rate;
            q->n_points++;
        }
    }
}

static void read_attention(struct reader *r, struct profile *p, const json_t *root)
{
    const json_t *a = json_object_get(root, "attention");
    CHECK_KEYS(r, a, "attention", "kv_bytes_per_s", "ops_per_s");
    if (!a)
        return;
    p->kv_bytes_per_s = number(r, a, "attention", "kv_bytes_per_s", NAN, 1e6, 1e16);
    p->attention_ops_per_s = number(r, a, "attention", "ops_per_s", NAN, 1e6, 1e19);
}

static void read_rest(struct reader *r, struct profile *p, const json_t *root)
{
    const json_t *numa = json_object_get(root, "numa"), *a = json_object_get(root, "attainable");
    const char *kind = json_string_value(json_object_get(root, "kind"));
    if (!kind || (strcmp(kind, "gpu") && strcmp(kind, "cpu")))
        fail(r, "\"kind\"", "must be \"gpu\" or \"cpu\"");
    p->is_cpu = kind && !strcmp(kind, "cpu");
    p->measured = json_is_true(json_object_get(root, "measured"));
    CHECK_KEYS(r, numa, "numa", "nodes", "remote_bandwidth_fraction");
    p->numa_nodes = (uint32_t)number(r, numa, "numa", "nodes", 1, 1, 1024);
    p->numa_remote_fraction = number(r, numa, "numa", "remote_bandwidth_fraction", 1, 0.01, 1);
    p->watts = number(r, root, "profile", "watts", 0, 0, 1e6);
    p->price_per_hour = number(r, root, "profile", "price_per_hour", 0, 0, 1e6);
    CHECK_KEYS(r, a, "attainable", "bandwidth", "compute", "bandwidth_8bit", "bandwidth_4bit", "layer_overhead_s",
               "step_overhead_s", "mixed_length_waste");
    p->attain_bandwidth = number(r, a, "attainable", "bandwidth", p->measured ? 1 : 0.8, 0.01, 1);
    p->attain_compute = number(r, a, "attainable", "compute", p->measured ? 1 : 0.6, 0.001, 1);
    p->attain_8bit = number(r, a, "attainable", "bandwidth_8bit", p->attain_bandwidth, 0.01, 1);
    p->attain_4bit = number(r, a, "attainable", "bandwidth_4bit", p->attain_8bit, 0.01, 1);
    p->layer_overhead_s = number(r, a, "attainable", "layer_overhead_s", 0, 0, 1);
    p->step_overhead_s = number(r, a, "attainable", "step_overhead_s", 0, 0, 10);
    p->mixed_length_waste = number(r, a, "attainable", "mixed_length_waste", 0, 0, 1);
    const json_t *sources = json_object_get(root, "sources");
    if (sources && !json_is_object(sources))
        fail(r, "\"sources\"", "must be an object of texts");
}

int profile_parse(struct profile *p, const char *json, size_t n, const char *name, struct err *e)
{
    *p = (struct profile){0};
    json_error_t je;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(e, WEIR_EFORMAT, "profile %s: not a JSON object (line %d: %s)", name, je.line, je.text);
    }
    struct reader r = {.file = name, .e = e};
    CHECK_KEYS(&r, root, "profile", "name", "aliases", "kind", "memory", "compute_ops_per_s", "links", "numa", "watts",
               "price_per_hour", "measured", "attainable", "sources", "products", "prompt_products", "attention");
    name_of(&r, root, "profile", p->name, sizeof p->name);
    snprintf(p->id, sizeof p->id, "%s", name);
    read_memory(&r, p, root);
    read_compute(&r, p, root);
    read_links(&r, p, root);
    read_products(&r, p, root, false);
    read_products(&r, p, root, true);
    read_attention(&r, p, root);
    read_rest(&r, p, root);
    json_decref(root);
    return r.rc;
}

/* ---- names ---- */

const char *profile_name(unsigned i)
{
    for (const struct embed_file *f = embed_files; f->name; f++) {
        if (!strncmp(f->name, PREFIX, strlen(PREFIX)) && i-- == 0)
            return f->name + strlen(PREFIX);
    }
    return NULL;
}

static bool has_alias(const struct embed_file *f, const char *name)
{
    json_t *root = json_loadb((const char *)f->begin, (size_t)(f->end - f->begin), 0, NULL), *v;
    size_t i;
    bool found = false;
    json_array_foreach(json_object_get(root, "aliases"), i, v)
    {
        const char *alias = json_string_value(v);
        found |= alias && suggest_same(alias, name);
    }
    json_decref(root);
    return found;
}

static const struct embed_file *find(const char *name)
{
    for (const struct embed_file *f = embed_files; f->name; f++) {
        if (!strncmp(f->name, PREFIX, strlen(PREFIX)) &&
            (suggest_same(f->name + strlen(PREFIX), name) || has_alias(f, name)))
            return f;
    }
    return NULL;
}

/* Adds the aliases of a built-in profile to names; their text stays in root, which the caller releases. */
static unsigned add_aliases(const json_t *root, const char **names, unsigned n)
{
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(root, "aliases"), i, v)
    {
        if (n < MAX_NAMES && json_string_value(v))
            names[n++] = json_string_value(v);
    }
    return n;
}

static int no_such_device(const char *what, struct err *e)
{
    const char *names[MAX_NAMES], *near;
    json_t *roots[MAX_NAMES];
    unsigned n_names = 0, n_roots = 0;
    char list[384] = "";
    for (const struct embed_file *f = embed_files; f->name && n_roots < MAX_NAMES; f++) {
        if (strncmp(f->name, PREFIX, strlen(PREFIX)) != 0 || n_names >= MAX_NAMES)
            continue;
        size_t used = strlen(list);
        names[n_names++] = f->name + strlen(PREFIX);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", f->name + strlen(PREFIX));
        roots[n_roots] = json_loadb((const char *)f->begin, (size_t)(f->end - f->begin), 0, NULL);
        n_names = add_aliases(roots[n_roots++], names, n_names);
    }
    near = suggest_nearest(what, names, n_names);
    int rc = near ? err_set(e, WEIR_ENOTFOUND, "no device '%s'; did you mean %s?", what, near)
                  : err_set(e, WEIR_ENOTFOUND, "no device '%s': give a profile's .json file or one of %s", what, list);
    while (n_roots > 0)
        json_decref(roots[--n_roots]);
    return rc;
}

static bool is_path(const char *what)
{
    size_t n = strlen(what);
    return strchr(what, '/') || (n > 5 && !strcmp(what + n - 5, ".json"));
}

/* "bandwidth=2" and so on, after the name. */
static int apply_factor(struct profile *p, const char *text, struct err *e)
{
    static const char *const names[] = {"bandwidth", "compute", "capacity", "link", "watts", "price"};
    char key[32] = "", *end;
    const char *eq = strchr(text, '=');
    if (eq && (size_t)(eq - text) < sizeof key)
        memcpy(key, text, (size_t)(eq - text));
    double x = eq ? strtod(eq + 1, &end) : 0;
    if (!eq || end == eq + 1 || *end || !(x > 0) || !(x <= 1e6))
        return err_set(e, WEIR_EINVAL, "'%s' is no factor; write for example h100:bandwidth=2:compute=0.8", text);
    if (!strcmp(key, "bandwidth")) {
        p->tiers[0].bytes_per_s *= x;
        p->n_products = 0; /* measured rates hold for the device as it is */
        p->kv_bytes_per_s = 0;
    } else if (!strcmp(key, "compute")) {
        for (int i = 0; i < PROFILE_COMPUTE_COUNT; i++)
            p->ops_per_s[i] *= x;
    } else if (!strcmp(key, "capacity")) {
        p->tiers[0].capacity_bytes *= x;
    } else if (!strcmp(key, "link")) {
        for (uint32_t i = 0; i < p->n_links; i++)
            p->links[i].bytes_per_s *= x;
    } else if (!strcmp(key, "watts")) {
        p->watts *= x;
    } else if (!strcmp(key, "price")) {
        p->price_per_hour *= x;
    } else {
        const char *near = suggest_nearest(key, names, sizeof names / sizeof *names);
        return err_set(e, WEIR_EINVAL,
                       "a device has no '%s' to scale%s%s; there are bandwidth, compute, capacity, "
                       "link, watts, price",
                       key, near ? "; did you mean " : "", near ? near : "");
    }
    return 0;
}

static int load(const char *name, char **json, size_t *n, struct err *e)
{
    if (is_path(name))
        return file_read(name, MAX_PROFILE_BYTES, json, n, e);
    const struct embed_file *f = find(name);
    if (!f)
        return no_such_device(name, e);
    *n = (size_t)(f->end - f->begin);
    *json = malloc(*n + 1);
    if (!*json)
        return err_set(e, WEIR_ENOMEM, "no memory for a profile");
    memcpy(*json, f->begin, *n + 1);
    return 0;
}

int profile_open(struct profile *p, const char *what, struct err *e)
{
    char copy[1024], *rest = NULL, *json;
    size_t n;
    if (snprintf(copy, sizeof copy, "%s", what) >= (int)sizeof copy)
        return err_set(e, WEIR_EINVAL, "the device's name is too long");
    char *name = strtok_r(copy, ":", &rest);
    if (!name)
        return err_set(e, WEIR_EINVAL, "the device's name is empty");
    int rc = load(name, &json, &n, e);
    if (rc)
        return rc;
    rc = profile_parse(p, json, n, name, e);
    free(json);
    if (rc)
        return rc;
    snprintf(p->id, sizeof p->id, "%s", what);
    for (char *factor; (factor = strtok_r(NULL, ":", &rest));) {
        if ((rc = apply_factor(p, factor, e)))
            return rc;
    }
    return 0;
}

int profile_source_text(const char *what, char **out, struct err *e)
{
    char *json, name[1024];
    size_t n;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(what, ":"), what);
    int rc = load(name, &json, &n, e);
    if (rc)
        return rc;
    json_t *root = json_loadb(json, n, 0, NULL), *sources = json_object_get(root, "sources");
    *out = json_dumps(sources ? sources : root, JSON_INDENT(2));
    json_decref(root);
    free(json);
    return *out ? 0 : err_set(e, WEIR_ENOMEM, "no memory for the sources");
}

enum profile_compute profile_compute_type(const char *name)
{
    for (int i = 0; i < PROFILE_COMPUTE_COUNT; i++) {
        if (!strcmp(name, compute_names[i]))
            return (enum profile_compute)i;
    }
    return PROFILE_F16;
}

static const struct profile_product *find_product(const struct profile *p, const char *type, bool prompt)
{
    for (uint32_t i = 0; i < p->n_products; i++)
        if (p->products[i].prompt == prompt && !strcmp(p->products[i].type, type))
            return &p->products[i];
    return NULL;
}

double profile_product_peak(const struct profile *p, const char *type, bool prompt)
{
    const struct profile_product *q = find_product(p, type, prompt);
    double most = 0;
    for (uint32_t i = 0; q && i < q->n_points; i++)
        most = fmax(most, q->points[i].rows * q->points[i].bytes_per_s);
    return most;
}

double profile_product_s(const struct profile *p, const char *type, bool prompt, double rows)
{
    const struct profile_product *q = find_product(p, type, prompt);
    if (!q)
        return 0;
    uint32_t n = q->n_points, i = 0;
    while (i + 1 < n && q->points[i + 1].rows < rows)
        i++;
    double s0 = 1 / q->points[i].bytes_per_s, r0 = q->points[i].rows;
    if (i + 1 == n)
        return rows > r0 ? s0 * rows / r0 : s0; /* beyond the last: bound by arithmetic */
    double s1 = 1 / q->points[i + 1].bytes_per_s, r1 = q->points[i + 1].rows;
    return rows <= r0 ? s0 : s0 + (s1 - s0) * (rows - r0) / (r1 - r0);
}

const struct profile_link *profile_peer_link(const struct profile *p)
{
    for (uint32_t i = 0; i < p->n_links; i++) {
        if (!p->links[i].to_host)
            return &p->links[i];
    }
    return NULL;
}

/* ---- writing ---- */

static json_t *format_links(const struct profile *p)
{
    json_t *links = json_array();
    for (uint32_t i = 0; i < p->n_links; i++) {
        const struct profile_link *l = &p->links[i];
        json_array_append_new(links, json_pack("{s:s, s:s, s:f, s:f, s:i}", "name", l->name, "to",
                                               l->to_host ? "host" : "peer", "bandwidth_bytes_per_s", l->bytes_per_s,
                                               "latency_s", l->latency_s, "max_devices", (int)l->max_devices));
    }
    return links;
}

static json_t *format_products(const struct profile *p, bool prompt)
{
    json_t *products = json_object();
    for (uint32_t i = 0; i < p->n_products; i++) {
        if (p->products[i].prompt != prompt)
            continue;
        json_t *list = json_array();
        for (uint32_t k = 0; k < p->products[i].n_points; k++)
            json_array_append_new(
                list, json_pack("[i, f]", (int)p->products[i].points[k].rows, p->products[i].points[k].bytes_per_s));
        json_object_set_new(products, p->products[i].type, list);
    }
    return products;
}

char *profile_format(const struct profile *p, const char *source)
{
    json_t *memory = json_array(), *compute = json_object(), *sources = json_object();
    for (uint32_t i = 0; i < p->n_tiers; i++) {
        const struct profile_tier *t = &p->tiers[i];
        json_array_append_new(memory,
                              json_pack("{s:s, s:f, s:f, s:f}", "name", t->name, "capacity_bytes", t->capacity_bytes,
                                        "bandwidth_bytes_per_s", t->bytes_per_s, "latency_s", t->latency_s));
    }
    for (int i = 0; i < PROFILE_COMPUTE_COUNT; i++)
        json_object_set_new(compute, compute_names[i], json_real(p->ops_per_s[i]));
    static const char *const groups[] = {"memory", "compute_ops_per_s", "attainable"};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        json_object_set_new(sources, groups[i], json_string(source));
    json_t *root =
        json_pack("{s:s, s:s, s:b, s:o, s:o, s:o, s:{s:i, s:f}, s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}, s:o}",
                  "name", p->name, "kind", p->is_cpu ? "cpu" : "gpu", "measured", p->measured, "memory", memory,
                  "compute_ops_per_s", compute, "links", format_links(p), "numa", "nodes", (int)p->numa_nodes,
                  "remote_bandwidth_fraction", p->numa_remote_fraction, "watts", p->watts, "attainable", "bandwidth",
                  p->attain_bandwidth, "compute", p->attain_compute, "bandwidth_8bit", p->attain_8bit, "bandwidth_4bit",
                  p->attain_4bit, "layer_overhead_s", p->layer_overhead_s, "step_overhead_s", p->step_overhead_s,
                  "mixed_length_waste", p->mixed_length_waste, "sources", sources);
    if (root && p->price_per_hour > 0)
        json_object_set_new(root, "price_per_hour", json_real(p->price_per_hour));
    for (int prompt = 0; root && prompt < 2; prompt++) {
        json_t *products = format_products(p, prompt);
        if (json_object_size(products))
            json_object_set(root, products_keys[prompt], products);
        json_decref(products);
    }
    if (root && p->kv_bytes_per_s > 0)
        json_object_set_new(
            root, "attention",
            json_pack("{s:f, s:f}", "kv_bytes_per_s", p->kv_bytes_per_s, "ops_per_s", p->attention_ops_per_s));
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    return text;
}
