/* Hostile models: a file that opens as GGUF must end in an error, or in a model that runs a step. */
#include "device/device.h"
#include "model/forward.h"
#include "model/model.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const struct model *m)
{
    struct forward *f;
    struct device *d;
    struct err e = {0};
    if (forward_create(&f, m, &e))
        abort();
    const struct device_config c = {.n_threads = 1,
                                    .chunk_tokens = 16,
                                    .n_chunks = 1,
                                    .max_step_tokens = 3,
                                    .max_step_seqs = 1,
                                    .max_outputs = 1,
                                    .max_context = 4};
    if (device_cpu_create(&d, f, &c, &e) == 0) {
        const int32_t tokens[3] = {0, (int32_t)m->n_vocab - 1, 0};
        const uint32_t chunk = 0, output = 2;
        const struct step_seq q = {.n_rows = 3, .chunks = &chunk, .n_chunks = 1};
        const struct step s = {
            .n_rows = 3, .n_seqs = 1, .n_outputs = 1, .tokens = tokens, .seqs = &q, .output_rows = &output};
        struct step_result r;
        if (device_start(d, &s, &e) || device_wait(d, &r, &e))
            abort();
        device_destroy(d);
    }
    forward_destroy(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct model *m;
    struct err e = {0};
    if (gguf_open_memory(&g, data, size, &e))
        return 0;
    if (model_open(&m, g, &e)) {
        if (!e.code || !e.msg[0])
            abort(); /* a refusal says why */
        gguf_close(g);
        return 0;
    }
    run(m);
    model_close(m);
    return 0;
}
