/* Hostile model files: opening must end in an error or in a handle whose every value and tensor can be read. */
#include "model/gguf.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t touch(const unsigned char *p, size_t n)
{
    return n ? (uint64_t)p[0] + p[n - 1] : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile uint64_t sink; /* so that the reads are not optimised away */
    struct gguf *g;
    struct err e = {0};
    if (gguf_open_memory(&g, data, size, &e))
        return 0;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < gguf_n_values(g); i++) {
        const struct gguf_value *v = gguf_value_at(g, i);
        sum += touch(v->data, v->n_bytes);
        for (uint64_t k = 0; v->type == GGUF_ARRAY && k < v->n_elements && k < 100; k++) {
            if (v->element_type == GGUF_STRING) {
                struct gguf_str s = gguf_array_str(v, k);
                sum += touch((const unsigned char *)s.s, s.n);
            } else {
                sum += gguf_array_float(v, k) > 0;
            }
        }
    }
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        sum += touch(t->data, t->n_bytes) + (gguf_tensor(g, t->name) == t);
    }
    sink = sum;
    (void)sink;
    gguf_close(g);
    return 0;
}
