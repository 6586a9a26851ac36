#include "model/gguf.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VALUES 65536u
#define MAX_TENSORS 65536u
#define MAX_FILES 1024u
#define MAX_PATH_BYTES 4096

/* One file of a model while it is being read, and its mapping afterwards. */
struct part {
    struct file_map map; /* empty for memory given by the caller */
    const unsigned char *data;
    size_t n_bytes;
    uint32_t version;
    uint32_t alignment;
    uint64_t n_values, n_tensors;
};

/* Open-addressed table of indices by name; capacity is a power of two at least twice the entries. */
struct index {
    uint32_t *slots; /* entry + 1, 0: free */
    size_t capacity;
};

struct gguf {
    struct part *parts;
    uint32_t n_parts;
    struct gguf_value *values;
    uint64_t n_values;
    struct index value_index;
    struct gguf_tensor *tensors;
    uint64_t n_tensors;
    struct index tensor_index;
};

/* A cursor over one part; every read is checked, and after a failure nothing more is read. */
struct reader {
    const unsigned char *p;
    size_t left;
    struct err *e;
    int failed;
};

static int truncated(struct reader *r, const char *what)
{
    if (!r->failed)
        r->failed = err_set(r->e, WEIR_EFORMAT, "the file ends inside %s: it is truncated or damaged", what);
    return r->failed;
}

static const unsigned char *take(struct reader *r, uint64_t n, const char *what)
{
    if (r->failed || n > r->left) {
        truncated(r, what);
        return NULL;
    }
    const unsigned char *p = r->p;
    r->p += n;
    r->left -= (size_t)n;
    return p;
}

static uint32_t load_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t load_u64(const unsigned char *p)
{
    return load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

static uint32_t read_u32(struct reader *r, const char *what)
{
    const unsigned char *p = take(r, 4, what);
    return p ? load_u32(p) : 0;
}

static uint64_t read_u64(struct reader *r, const char *what)
{
    const unsigned char *p = take(r, 8, what);
    return p ? load_u64(p) : 0;
}

static struct gguf_str read_str(struct reader *r, const char *what)
{
    uint64_t n = read_u64(r, what);
    const unsigned char *p = take(r, n, what);
    return p ? (struct gguf_str){.s = (const char *)p, .n = (size_t)n} : (struct gguf_str){.s = "", .n = 0};
}

/* Encoded size of a scalar type; 0 for strings, arrays and unknown types. */
static uint32_t scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

/* Keys are printed in messages: at most 64 bytes, without anything that could disturb a terminal. */
static const char *printable(struct gguf_str s, char out[65])
{
    size_t n = s.n < 64 ? s.n : 64;
    for (size_t i = 0; i < n; i++)
        out[i] = s.s[i] >= 0x20 && s.s[i] < 0x7f ? s.s[i] : '?';
    out[n] = 0;
    return out;
}

static int read_array(struct reader *r, struct gguf_value *v)
{
    char name[65];
    uint32_t element = read_u32(r, "an array's type");
    v->n_elements = read_u64(r, "an array's length");
    if (r->failed)
        return r->failed;
    v->element_type = (enum gguf_type)element;
    v->data = r->p;
    if (element == GGUF_STRING) {
        /* Every string costs at least its 8-byte length, which bounds the offsets table by the file's size. */
        if (v->n_elements > r->left / 8 || v->n_elements > UINT32_MAX)
            return truncated(r, "an array of strings");
        uint32_t *offsets = mem_array((size_t)v->n_elements, sizeof *offsets);
        if (!offsets)
            return r->failed = err_set(r->e, WEIR_ENOMEM, "no memory for %" PRIu64 " strings", v->n_elements);
        v->offsets = offsets;
        for (uint64_t i = 0; i < v->n_elements && !r->failed; i++) {
            size_t at = (size_t)(r->p - v->data);
            if (at > UINT32_MAX)
                return r->failed = err_set(r->e, WEIR_ELIMIT, "array '%s' holds more than 4 GiB of strings",
                                           printable(v->key, name));
            offsets[i] = (uint32_t)at;
            read_str(r, "an array of strings");
        }
    } else {
        uint32_t bytes = scalar_bytes(element);
        if (!bytes)
            return r->failed = err_set(r->e, WEIR_EFORMAT, "key '%s' is an array of %s, which GGUF readers don't take",
                                       printable(v->key, name), element == GGUF_ARRAY ? "arrays" : "an unknown type");
        if (v->n_elements > r->left / bytes)
            return truncated(r, "an array");
        take(r, v->n_elements * bytes, "an array");
    }
    v->n_bytes = (size_t)(r->p - v->data);
    return r->failed;
}

static int read_value(struct reader *r, struct gguf_value *v)
{
    char name[65];
    v->key = read_str(r, "a metadata key");
    uint32_t type = read_u32(r, "a metadata value's type");
    if (r->failed)
        return r->failed;
    v->type = (enum gguf_type)type;
    v->n_elements = 1;
    v->data = r->p;
    if (type == GGUF_ARRAY)
        return read_array(r, v);
    if (type == GGUF_STRING)
        read_str(r, "a metadata string");
    else if (scalar_bytes(type))
        take(r, scalar_bytes(type), "a metadata value");
    else
        r->failed =
            err_set(r->e, WEIR_EFORMAT, "key '%s' has the unknown value type %" PRIu32, printable(v->key, name), type);
    v->n_bytes = (size_t)(r->p - v->data);
    return r->failed;
}

/* --- lookup ----------------------------------------------------------------------------------------------------- */

static int index_init(struct index *x, uint64_t n, struct err *e)
{
    x->capacity = 16;
    while (x->capacity < 2 * n)
        x->capacity *= 2;
    x->slots = mem_array(x->capacity, sizeof *x->slots);
    return x->slots ? 0 : err_set(e, WEIR_ENOMEM, "no memory for an index of %" PRIu64 " names", n);
}

/* The slot that holds `name`, or the free one where it belongs. */
static size_t index_slot(const struct gguf *g, const struct index *x, bool tensors, const char *name, size_t n)
{
    size_t i = (size_t)hash_bytes(name, n, 0) & (x->capacity - 1);
    for (; x->slots[i]; i = (i + 1) & (x->capacity - 1)) {
        uint32_t at = x->slots[i] - 1;
        struct gguf_str have =
            tensors ? (struct gguf_str){.s = g->tensors[at].name, .n = strlen(g->tensors[at].name)} : g->values[at].key;
        if (have.n == n && !memcmp(have.s, name, n))
            break;
    }
    return i;
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    uint32_t at = g->value_index.slots[index_slot(g, &g->value_index, false, key, strlen(key))];
    return at ? &g->values[at - 1] : NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    uint32_t at = g->tensor_index.slots[index_slot(g, &g->tensor_index, true, name, strlen(name))];
    return at ? &g->tensors[at - 1] : NULL;
}

/* --- reading one part ------------------------------------------------------------------------------------------- */

static int read_header(struct part *p, struct reader *r)
{
    const unsigned char *magic = take(r, 4, "the header");
    if (!magic || memcmp(magic, "GGUF", 4))
        return err_set(r->e, WEIR_EFORMAT, "not a GGUF file: it does not begin with 'GGUF'");
    p->version = read_u32(r, "the header");
    if (!r->failed && p->version != 2 && p->version != 3) {
        if ((p->version & 0xffff) == 0 && p->version)
            return err_set(r->e, WEIR_EUNSUPPORTED, "this GGUF file is big-endian; weir reads little-endian files");
        return err_set(r->e, WEIR_EUNSUPPORTED, "GGUF version %" PRIu32 "; weir reads versions 2 and 3", p->version);
    }
    p->n_tensors = read_u64(r, "the header");
    p->n_values = read_u64(r, "the header");
    if (r->failed)
        return r->failed;
    if (p->n_values > MAX_VALUES || p->n_tensors > MAX_TENSORS)
        return err_set(r->e, WEIR_ELIMIT,
                       "the header claims %" PRIu64 " metadata keys and %" PRIu64
                       " tensors; at most 65536 of each are read",
                       p->n_values, p->n_tensors);
    return 0;
}

static void free_values(struct gguf_value *values, uint64_t n)
{
    for (uint64_t i = 0; values && i < n; i++) {
        union {
            const uint32_t *in;
            void *out;
        } offsets = {.in = values[i].offsets};
        free(offsets.out);
    }
    free(values);
}

static int read_values(struct part *p, struct reader *r, struct gguf_value **out)
{
    struct gguf_value *values = mem_array((size_t)p->n_values, sizeof *values);
    if (!values)
        return err_set(r->e, WEIR_ENOMEM, "no memory for %" PRIu64 " metadata keys", p->n_values);
    p->alignment = 32;
    int fail = 0;
    for (uint64_t i = 0; i < p->n_values && !fail; i++) {
        fail = read_value(r, &values[i]);
        const struct gguf_value *v = &values[i];
        if (!fail && v->key.n == 17 && !memcmp(v->key.s, "general.alignment", 17)) {
            p->alignment = v->type == GGUF_U32 ? load_u32(v->data) : 0;
            if (p->alignment < 8 || p->alignment > 65536 || (p->alignment & (p->alignment - 1)))
                fail = err_set(r->e, WEIR_EFORMAT, "general.alignment must be a power of two from 8 to 65536");
        }
    }
    *out = values;
    return fail;
}

static int read_tensor_info(struct reader *r, struct gguf_tensor *t, uint64_t *offset)
{
    char name[65];
    struct gguf_str s = read_str(r, "a tensor's name");
    t->n_dims = read_u32(r, "a tensor's shape");
    if (r->failed)
        return r->failed;
    if (s.n == 0 || s.n >= sizeof t->name || memchr(s.s, 0, s.n))
        return err_set(r->e, WEIR_EFORMAT, "tensor name '%s' must have 1 to 256 bytes without NUL", printable(s, name));
    memcpy(t->name, s.s, s.n);
    printable(s, name);
    if (t->n_dims < 1 || t->n_dims > GGUF_MAX_DIMS)
        return err_set(r->e, WEIR_EFORMAT, "tensor '%s' has %" PRIu32 " dimensions; 1 to 4 are possible", name,
                       t->n_dims);
    uint64_t n = 1;
    for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++) {
        t->dims[d] = d < t->n_dims ? read_u64(r, "a tensor's shape") : 1;
        if (!r->failed && (t->dims[d] == 0 || __builtin_mul_overflow(n, t->dims[d], &n) || n > INT64_MAX))
            return err_set(r->e, WEIR_EFORMAT, "tensor '%s' has an impossible shape", name);
    }
    uint32_t type = read_u32(r, "a tensor's type");
    *offset = read_u64(r, "a tensor's offset");
    if (r->failed)
        return r->failed;
    const struct tensor_type_info *info = tensor_type_info(type);
    if (!info)
        return err_set(r->e, WEIR_EUNSUPPORTED, "tensor '%s' has the type %s; supported are %s", name,
                       tensor_type_name(type), tensor_type_supported());
    t->type = (enum tensor_type)type;
    if (t->dims[0] % info->block_elements)
        return err_set(r->e, WEIR_EFORMAT, "tensor '%s': rows of %" PRIu64 " elements are not whole %s blocks of %u",
                       name, t->dims[0], info->name, info->block_elements);
    uint64_t bytes;
    if (__builtin_mul_overflow(n / info->block_elements, (uint64_t)info->block_bytes, &bytes) || bytes > SIZE_MAX / 2)
        return err_set(r->e, WEIR_EFORMAT, "tensor '%s' is impossibly large", name);
    t->n_bytes = (size_t)bytes;
    return 0;
}

/* Tensor data begins at the next multiple of the alignment behind the infos. */
static int place_tensors(const struct part *p, const struct reader *r, struct gguf_tensor *tensors,
                         const uint64_t *offsets, struct err *e)
{
    size_t at = (size_t)(r->p - p->data), a = p->alignment;
    size_t base = at > SIZE_MAX - a ? SIZE_MAX : (at + a - 1) / a * a;
    for (uint64_t i = 0; i < p->n_tensors; i++) {
        struct gguf_tensor *t = &tensors[i];
        if (offsets[i] % a)
            return err_set(e, WEIR_EFORMAT, "tensor '%.64s' is not aligned to %zu bytes", t->name, a);
        if (base > p->n_bytes || offsets[i] > p->n_bytes - base || t->n_bytes > p->n_bytes - base - offsets[i])
            return err_set(e, WEIR_EFORMAT,
                           "tensor '%.64s' (%zu bytes at %" PRIu64
                           ") lies beyond the end of the file (%zu bytes): the file is truncated or damaged",
                           t->name, t->n_bytes, base + offsets[i], p->n_bytes);
        t->data = p->data + base + offsets[i];
    }
    return 0;
}

/* Reads one part and appends its tensors; the first part's metadata becomes the model's. */
static int read_part(struct gguf *g, struct part *p, struct err *e)
{
    struct reader r = {.p = p->data, .left = p->n_bytes, .e = e};
    struct gguf_value *values = NULL;
    uint64_t *offsets = NULL;
    int fail = read_header(p, &r);
    if (!fail)
        fail = read_values(p, &r, &values);
    if (!fail && g->n_tensors + p->n_tensors > MAX_TENSORS)
        fail = err_set(e, WEIR_ELIMIT, "more than 65536 tensors in all parts");
    if (!fail) {
        struct gguf_tensor *grown = mem_resize(g->tensors, (size_t)(g->n_tensors + p->n_tensors), sizeof *g->tensors);
        offsets = mem_array((size_t)p->n_tensors, sizeof *offsets);
        if (grown)
            g->tensors = grown;
        if (!grown || !offsets)
            fail = err_set(e, WEIR_ENOMEM, "no memory for %" PRIu64 " tensors", p->n_tensors);
    }
    struct gguf_tensor *mine = fail ? NULL : g->tensors + g->n_tensors;
    for (uint64_t i = 0; !fail && i < p->n_tensors; i++) {
        mine[i] = (struct gguf_tensor){0};
        fail = read_tensor_info(&r, &mine[i], &offsets[i]);
    }
    if (!fail)
        fail = place_tensors(p, &r, mine, offsets, e);
    free(offsets);
    if (!fail)
        g->n_tensors += p->n_tensors;
    if (!fail && p == g->parts) {
        g->values = values;
        g->n_values = p->n_values;
    } else {
        free_values(values, p->n_values);
    }
    return fail;
}

static int build_indexes(struct gguf *g, struct err *e)
{
    char name[65];
    int fail = index_init(&g->value_index, g->n_values, e);
    for (uint64_t i = 0; !fail && i < g->n_values; i++) {
        struct gguf_str key = g->values[i].key;
        size_t slot = index_slot(g, &g->value_index, false, key.s, key.n);
        if (g->value_index.slots[slot])
            fail = err_set(e, WEIR_EFORMAT, "the metadata key '%s' appears twice", printable(key, name));
        g->value_index.slots[slot] = (uint32_t)i + 1;
    }
    if (!fail)
        fail = index_init(&g->tensor_index, g->n_tensors, e);
    for (uint64_t i = 0; !fail && i < g->n_tensors; i++) {
        const char *t = g->tensors[i].name;
        size_t slot = index_slot(g, &g->tensor_index, true, t, strlen(t));
        if (g->tensor_index.slots[slot])
            fail = err_set(e, WEIR_EFORMAT, "the tensor '%.64s' appears twice", t);
        g->tensor_index.slots[slot] = (uint32_t)i + 1;
    }
    return fail;
}

/* --- split files ------------------------------------------------------------------------------------------------ */

/* "dir/x-00002-of-00005.gguf" -> stem "dir/x", part 2 of 5. False if the name has another form. */
static bool split_name(const char *path, char stem[MAX_PATH_BYTES], unsigned *part, unsigned *of)
{
    size_t n = strlen(path);
    static const char shape[] = "-00000-of-00000.gguf";
    size_t k = sizeof shape - 1;
    if (n <= k || n >= MAX_PATH_BYTES)
        return false;
    const char *tail = path + n - k;
    for (size_t i = 0; i < k; i++) {
        if (shape[i] == '0' ? tail[i] < '0' || tail[i] > '9' : tail[i] != shape[i])
            return false;
    }
    memcpy(stem, path, n - k);
    stem[n - k] = 0;
    *part = (unsigned)strtoul(tail + 1, NULL, 10);
    *of = (unsigned)strtoul(tail + 10, NULL, 10);
    return true;
}

static int map_part(struct gguf *g, uint32_t i, const char *path, struct err *e)
{
    struct part *p = &g->parts[i];
    int fail = file_map(&p->map, path, e);
    if (fail)
        return fail;
    p->data = p->map.data;
    p->n_bytes = p->map.n_bytes;
    fail = read_part(g, p, e);
    return fail ? err_prefix(e, "%s", path) : 0;
}

static int open_rest(struct gguf *g, const char *path, uint32_t n_split, struct err *e)
{
    char stem[MAX_PATH_BYTES], name[MAX_PATH_BYTES + 32];
    unsigned part = 0, of = 0;
    if (!split_name(path, stem, &part, &of) || of != n_split)
        return err_set(e, WEIR_EFORMAT,
                       "%s is one of %u files of a split model: it must keep its name NAME-00001-of-%05u.gguf", path,
                       n_split, n_split);
    if (part != 1)
        return err_set(e, WEIR_EINVAL, "%s is part %u of a split model: name its first file, %s-00001-of-%05u.gguf",
                       path, part, stem, of);
    struct part *grown = mem_resize(g->parts, n_split, sizeof *grown);
    if (!grown)
        return err_set(e, WEIR_ENOMEM, "no memory for %u files", n_split);
    g->parts = grown;
    for (uint32_t i = 1; i < n_split; i++) {
        snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", stem, i + 1, n_split);
        g->parts[i] = (struct part){0};
        g->n_parts = i + 1;
        int fail = map_part(g, i, name, e);
        if (fail)
            return fail;
    }
    uint32_t expected = 0;
    if (!gguf_get_u32(g, "split.tensors.count", &expected, NULL) && expected != g->n_tensors)
        return err_set(e, WEIR_EFORMAT, "%s: the parts hold %" PRIu64 " tensors where split.tensors.count says %u",
                       path, g->n_tensors, expected);
    return 0;
}

static int finish_open(struct gguf *g, struct gguf **out, int fail, struct err *e)
{
    if (!fail) {
        free(g->value_index.slots);
        g->value_index.slots = NULL;
        fail = build_indexes(g, e);
    }
    if (fail)
        gguf_close(g);
    else
        *out = g;
    return fail;
}

static struct gguf *new_gguf(struct err *e)
{
    struct gguf *g = mem_array(1, sizeof *g);
    struct part *parts = mem_array(1, sizeof *parts);
    if (g && parts) {
        g->parts = parts;
        g->n_parts = 1;
        return g;
    }
    free(g);
    free(parts);
    err_set(e, WEIR_ENOMEM, "no memory to open a model");
    return NULL;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    *out = NULL;
    struct gguf *g = new_gguf(e);
    if (!g)
        return WEIR_ENOMEM;
    int fail = map_part(g, 0, path, e);
    uint32_t n_split = 0;
    if (!fail) {
        fail = build_indexes(g, e); /* for split.count; made anew when the other parts' tensors are there */
        free(g->tensor_index.slots);
        g->tensor_index.slots = NULL;
    }
    if (!fail) {
        fail = gguf_get_u32(g, "split.count", &n_split, e);
        fail = fail == WEIR_ENOTFOUND ? 0 : fail;
    }
    if (!fail && n_split > MAX_FILES)
        fail = err_set(e, WEIR_ELIMIT, "%s: split.count is %u; at most %u files are read", path, n_split, MAX_FILES);
    if (!fail && n_split > 1)
        fail = open_rest(g, path, n_split, e);
    return finish_open(g, out, fail, e);
}

int gguf_open_memory(struct gguf **out, const void *data, size_t n_bytes, struct err *e)
{
    *out = NULL;
    struct gguf *g = new_gguf(e);
    if (!g)
        return WEIR_ENOMEM;
    g->parts[0].data = data;
    g->parts[0].n_bytes = n_bytes;
    return finish_open(g, out, read_part(g, &g->parts[0], e), e);
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_parts; i++)
        file_unmap(&g->parts[i].map);
    free(g->parts);
    free_values(g->values, g->n_values);
    free(g->tensors);
    free(g->value_index.slots);
    free(g->tensor_index.slots);
    free(g);
}

/* --- access ----------------------------------------------------------------------------------------------------- */

int gguf_read(const struct gguf *g, const unsigned char *data, size_t n_bytes, void *out, struct err *e)
{
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const struct file_map *map = &g->parts[i].map;
        const uintptr_t at = (uintptr_t)data - (uintptr_t)map->data;
        if (map->data && at < map->n_bytes)
            return file_read_at(map, at, n_bytes, out, e);
    }
    memcpy(out, data, n_bytes);
    return 0;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->parts[0].version;
}

size_t gguf_file_bytes(const struct gguf *g)
{
    size_t n = 0;
    for (uint32_t i = 0; i < g->n_parts; i++)
        n += g->parts[i].n_bytes;
    return n;
}

uint32_t gguf_n_files(const struct gguf *g)
{
    return g->n_parts;
}

uint64_t gguf_n_values(const struct gguf *g)
{
    return g->n_values;
}

const struct gguf_value *gguf_value_at(const struct gguf *g, uint64_t i)
{
    assert(i < g->n_values);
    return &g->values[i];
}

uint64_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i)
{
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

/* An integer (or bool) at p as a 64-bit value; values of U64 above INT64_MAX come out negative. False: another type. */
static bool load_int(enum gguf_type type, const unsigned char *p, int64_t *out)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL:
        *out = p[0];
        return true;
    case GGUF_I8:
        *out = (int8_t)p[0];
        return true;
    case GGUF_U16:
        *out = p[0] | p[1] << 8;
        return true;
    case GGUF_I16:
        *out = (int16_t)(p[0] | p[1] << 8);
        return true;
    case GGUF_U32:
        *out = load_u32(p);
        return true;
    case GGUF_I32:
        *out = (int32_t)load_u32(p);
        return true;
    case GGUF_U64:
    case GGUF_I64:
        *out = (int64_t)load_u64(p);
        return true;
    default:
        return false;
    }
}

static bool load_float(enum gguf_type type, const unsigned char *p, double *out)
{
    int64_t i;
    if (type == GGUF_F32) {
        uint32_t bits = load_u32(p);
        float f;
        memcpy(&f, &bits, sizeof f);
        *out = (double)f;
        return true;
    }
    if (type == GGUF_F64) {
        uint64_t bits = load_u64(p);
        memcpy(out, &bits, sizeof *out);
        return true;
    }
    if (!load_int(type, p, &i))
        return false;
    *out = (double)i;
    return true;
}

int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out, struct err *e)
{
    const struct gguf_value *v = gguf_find(g, key);
    int64_t i;
    if (!v)
        return WEIR_ENOTFOUND;
    if (v->type == GGUF_BOOL || !load_int(v->type, v->data, &i))
        return err_set(e, WEIR_EFORMAT, "the key '%s' must be an integer", key);
    if (i < 0 || i > UINT32_MAX)
        return err_set(e, WEIR_EFORMAT, "the key '%s' is out of range", key);
    *out = (uint32_t)i;
    return 0;
}

int gguf_get_f32(const struct gguf *g, const char *key, float *out, struct err *e)
{
    const struct gguf_value *v = gguf_find(g, key);
    double d;
    if (!v)
        return WEIR_ENOTFOUND;
    if (v->type == GGUF_BOOL || !load_float(v->type, v->data, &d))
        return err_set(e, WEIR_EFORMAT, "the key '%s' must be a number", key);
    if (!(d >= -3.4e38 && d <= 3.4e38))
        return err_set(e, WEIR_EFORMAT, "the key '%s' is not a finite number", key);
    *out = (float)d;
    return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return WEIR_ENOTFOUND;
    if (v->type != GGUF_BOOL)
        return err_set(e, WEIR_EFORMAT, "the key '%s' must be a boolean", key);
    *out = v->data[0] != 0;
    return 0;
}

static struct gguf_str str_at(const unsigned char *p)
{
    return (struct gguf_str){.s = (const char *)p + 8, .n = (size_t)load_u64(p)};
}

int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return WEIR_ENOTFOUND;
    if (v->type != GGUF_STRING)
        return err_set(e, WEIR_EFORMAT, "the key '%s' must be a string", key);
    *out = str_at(v->data);
    return 0;
}

struct gguf_str gguf_array_str(const struct gguf_value *v, uint64_t i)
{
    assert(v->element_type == GGUF_STRING && i < v->n_elements);
    return str_at(v->data + v->offsets[i]);
}

int64_t gguf_array_int(const struct gguf_value *v, uint64_t i)
{
    int64_t out = 0;
    assert(i < v->n_elements);
    bool ok = load_int(v->element_type, v->data + i * scalar_bytes(v->element_type), &out);
    assert(ok);
    (void)ok;
    return out;
}

double gguf_array_float(const struct gguf_value *v, uint64_t i)
{
    double out = 0;
    assert(i < v->n_elements);
    bool ok = load_float(v->element_type, v->data + i * scalar_bytes(v->element_type), &out);
    assert(ok);
    (void)ok;
    return out;
}
