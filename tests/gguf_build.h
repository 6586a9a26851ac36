/* Builds GGUF files in memory for tests: metadata and tensors appended one by one, laid out by gguf_build_finish.
 *
 *   struct gguf_build g;
 *   gguf_build_init(&g);
 *   gguf_build_str(&g, "general.architecture", "llama");
 *   gguf_build_tensor(&g, "x", TENSOR_F32, 2, (uint64_t[]){4, 2}, data, bytes);
 *   size_t n;
 *   void *file = gguf_build_finish(&g, &n);    // aligned to 64 bytes, free()
 *
 * Nothing is checked, so that broken files can be built too.
 */
#ifndef WEIR_TESTS_GGUF_BUILD_H
#define WEIR_TESTS_GGUF_BUILD_H

#include "base/buf.h"
#include "model/gguf.h"

#include <stdlib.h>
#include <string.h>

struct gguf_build {
    struct buf values, infos, data;
    uint64_t n_values, n_tensors;
    uint32_t version;
};

static inline void gguf_build_init(struct gguf_build *g)
{
    *g = (struct gguf_build){.version = 3};
    buf_init(&g->values, (size_t)1 << 30);
    buf_init(&g->infos, (size_t)1 << 28);
    buf_init(&g->data, (size_t)1 << 30);
}

static inline void gguf_build_put_u32(struct buf *b, uint32_t v)
{
    unsigned char p[4] = {(unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16),
                          (unsigned char)(v >> 24)};
    buf_add(b, p, 4);
}

static inline void gguf_build_put_u64(struct buf *b, uint64_t v)
{
    gguf_build_put_u32(b, (uint32_t)v);
    gguf_build_put_u32(b, (uint32_t)(v >> 32));
}

static inline void gguf_build_put_str(struct buf *b, const char *s, size_t n)
{
    gguf_build_put_u64(b, n);
    buf_add(b, s, n);
}

static inline void gguf_build_key(struct gguf_build *g, const char *key, uint32_t type)
{
    gguf_build_put_str(&g->values, key, strlen(key));
    gguf_build_put_u32(&g->values, type);
    g->n_values++;
}

static inline void gguf_build_u32(struct gguf_build *g, const char *key, uint32_t v)
{
    gguf_build_key(g, key, GGUF_U32);
    gguf_build_put_u32(&g->values, v);
}

static inline void gguf_build_f32(struct gguf_build *g, const char *key, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    gguf_build_key(g, key, GGUF_F32);
    gguf_build_put_u32(&g->values, bits);
}

static inline void gguf_build_bool(struct gguf_build *g, const char *key, bool v)
{
    gguf_build_key(g, key, GGUF_BOOL);
    buf_addc(&g->values, v ? 1 : 0);
}

static inline void gguf_build_str(struct gguf_build *g, const char *key, const char *s)
{
    gguf_build_key(g, key, GGUF_STRING);
    gguf_build_put_str(&g->values, s, strlen(s));
}

/* Begins an array; the caller then puts n elements into g->values. */
static inline void gguf_build_array(struct gguf_build *g, const char *key, uint32_t element_type, uint64_t n)
{
    gguf_build_key(g, key, GGUF_ARRAY);
    gguf_build_put_u32(&g->values, element_type);
    gguf_build_put_u64(&g->values, n);
}

static inline void gguf_build_array_str(struct gguf_build *g, const char *key, const char *const *s, size_t n)
{
    gguf_build_array(g, key, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        gguf_build_put_str(&g->values, s[i], strlen(s[i]));
}

static inline void gguf_build_array_i32(struct gguf_build *g, const char *key, const int32_t *v, size_t n)
{
    gguf_build_array(g, key, GGUF_I32, n);
    for (size_t i = 0; i < n; i++)
        gguf_build_put_u32(&g->values, (uint32_t)v[i]);
}

static inline void gguf_build_array_f32(struct gguf_build *g, const char *key, const float *v, size_t n)
{
    gguf_build_array(g, key, GGUF_F32, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &v[i], sizeof bits);
        gguf_build_put_u32(&g->values, bits);
    }
}

/* data may be NULL: zeros. */
static inline void gguf_build_tensor(struct gguf_build *g, const char *name, uint32_t type, uint32_t n_dims,
                                     const uint64_t *dims, const void *data, size_t n_bytes)
{
    static const char zeros[256];
    while (g->data.len % 32)
        buf_addc(&g->data, 0);
    gguf_build_put_str(&g->infos, name, strlen(name));
    gguf_build_put_u32(&g->infos, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        gguf_build_put_u64(&g->infos, dims[d]);
    gguf_build_put_u32(&g->infos, type);
    gguf_build_put_u64(&g->infos, g->data.len);
    if (data)
        buf_add(&g->data, data, n_bytes);
    for (size_t left = data ? 0 : n_bytes; left;) {
        size_t piece = left < sizeof zeros ? left : sizeof zeros;
        buf_add(&g->data, zeros, piece);
        left -= piece;
    }
    g->n_tensors++;
}

static inline void *gguf_build_finish(struct gguf_build *g, size_t *n_bytes)
{
    struct buf out;
    buf_init(&out, (size_t)1 << 31);
    buf_adds(&out, "GGUF");
    gguf_build_put_u32(&out, g->version);
    gguf_build_put_u64(&out, g->n_tensors);
    gguf_build_put_u64(&out, g->n_values);
    buf_add(&out, g->values.data, g->values.len);
    buf_add(&out, g->infos.data, g->infos.len);
    while (out.len % 32)
        buf_addc(&out, 0);
    buf_add(&out, g->data.data, g->data.len);
    size_t room = (out.len + 63) / 64 * 64;
    void *file = aligned_alloc(64, room);
    if (!file || out.failed || g->values.failed || g->infos.failed || g->data.failed)
        abort();
    memcpy(file, out.data, out.len);
    *n_bytes = out.len;
    buf_finish(&out);
    buf_finish(&g->values);
    buf_finish(&g->infos);
    buf_finish(&g->data);
    return file;
}

#endif
