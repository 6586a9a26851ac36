/* GGUF model files, version 2 and 3 (little-endian), by mmap; also split into `NAME-00001-of-00003.gguf`.
 *
 * Spec: ggml's docs/gguf.md. The file is hostile input: every count, length, offset, alignment and product is checked
 * against the file's real size before it is used, so that afterwards every tensor's data lies inside the mapping
 * and every string inside the metadata. Nothing is copied: keys, strings and tensor data point into the mapping and
 * live until gguf_close. Strings are length-counted and not NUL-terminated. Immutable after opening: any thread may
 * read.
 *
 * Bounds: 65,536 metadata keys, 65,536 tensors a file, 4 dimensions, 1,024 split files, tensor names of 256 bytes,
 * arrays nested to depth 1 (an array of arrays is refused).
 */
#ifndef WEIR_MODEL_GGUF_H
#define WEIR_MODEL_GGUF_H

#include "base/err.h"
#include "model/tensor_type.h"

#include <stdbool.h>
#include <stdint.h>

#define GGUF_MAX_DIMS 4

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
};

struct gguf_str {
    const char *s;
    size_t n;
};

struct gguf_value {
    struct gguf_str key;
    enum gguf_type type;         /* GGUF_ARRAY for arrays */
    enum gguf_type element_type; /* of an array */
    uint64_t n_elements;         /* of an array; 1 else */
    const unsigned char *data;   /* the encoded value or the array's first element */
    size_t n_bytes;              /* encoded bytes from data */
    const uint32_t *offsets;     /* arrays of strings: byte offset of each element from data; else NULL */
};

struct gguf_tensor {
    char name[257];
    enum tensor_type type;
    uint32_t n_dims;
    uint64_t dims[GGUF_MAX_DIMS]; /* dims[0] is the row length (contiguous); unused ones are 1 */
    const unsigned char *data;
    size_t n_bytes;
};

struct gguf; /* opaque */

/* path names the file, or the first file of a split model (the others are found beside it). */
int gguf_open(struct gguf **out, const char *path, struct err *e);

/* The same over bytes in memory (the embedded demo model, fuzzing): not copied, must outlive the handle, aligned to 32
 * bytes. */
int gguf_open_memory(struct gguf **out, const void *data, size_t n_bytes, struct err *e);
void gguf_close(struct gguf *g);

/* Copies data of tensors, or of some of their rows, by reading the file (base/file.h: file_read_at). Any thread. */
int gguf_read(const struct gguf *g, const unsigned char *data, size_t n_bytes, void *out, struct err *e);
uint32_t gguf_version(const struct gguf *g);
size_t gguf_file_bytes(const struct gguf *g); /* all parts together */
uint32_t gguf_n_files(const struct gguf *g);

/* Metadata. In a split model the first file's keys count. */
uint64_t gguf_n_values(const struct gguf *g);
const struct gguf_value *gguf_value_at(const struct gguf *g, uint64_t i);
const struct gguf_value *gguf_find(const struct gguf *g, const char *key); /* NULL if absent; O(1) */

/* Scalars, converted between integer types when the value fits. 0; WEIR_ENOTFOUND if absent (nothing written, e
 * untouched, so a default set before stays); WEIR_EFORMAT with a message naming the key if it has another type or does
 * not fit. */
int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out, struct err *e);
int gguf_get_f32(const struct gguf *g, const char *key, float *out, struct err *e);
int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e);
int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e);

/* Element i (< n_elements) of an array. The caller has checked element_type; numbers are read unaligned. */
struct gguf_str gguf_array_str(const struct gguf_value *v, uint64_t i);
int64_t gguf_array_int(const struct gguf_value *v, uint64_t i);  /* any integer type or bool */
double gguf_array_float(const struct gguf_value *v, uint64_t i); /* any number type */

/* Tensors of all parts. */
uint64_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name); /* NULL if absent; O(1) */

#endif
