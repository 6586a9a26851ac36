/* Tensor element types of GGUF files: names, block sizes, bytes.
 *
 * The values are the file format's (ggml type ids). A quantised type stores blocks of block_elements consecutive
 * elements of a row in block_bytes bytes; a row's length is a multiple of block_elements. Pure; thread-safe.
 */
#ifndef WEIR_MODEL_TENSOR_TYPE_H
#define WEIR_MODEL_TENSOR_TYPE_H

#include <stddef.h>
#include <stdint.h>

enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q2_K = 10,
    TENSOR_Q3_K = 11,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_IQ4_NL = 20,
    TENSOR_IQ4_XS = 23,
    TENSOR_BF16 = 30,
    TENSOR_MXFP4 = 39,
    TENSOR_TYPE_COUNT = 40, /* ids are below this; not all are used */
};

struct tensor_type_info {
    const char *name; /* "Q4_K" */
    uint32_t block_elements;
    uint32_t block_bytes;
};

/* NULL for an id that weir does not know. */
const struct tensor_type_info *tensor_type_info(uint32_t type);

/* The name of any id that the format has defined, also of types that weir refuses ("IQ2_XXS"); "type 77" else
 * (thread-local text). For error messages. */
const char *tensor_type_name(uint32_t type);

/* The comma-separated names of all supported types, for error messages. */
const char *tensor_type_supported(void);

/* Bytes of n_elements (a multiple of the block) in a known type; SIZE_MAX if it overflows. */
size_t tensor_type_row_bytes(enum tensor_type type, uint64_t n_elements);

#endif
