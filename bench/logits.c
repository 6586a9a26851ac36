/* The logits of given tokens, as bench/quality.py compares them.
 *
 *   logits MODEL.gguf IDS OUT.f32 [f16|q8_0]
 *
 * IDS: a sequence of token numbers a line. OUT: float32 [tokens of all lines][n_vocab]. Each line is prefilled on its own, in
 * steps of 256 rows, with keys and values in the type given last. WEIR_ISA caps the instructions.
 */
#include "base/mem.h"
#include "device/device.h"
#include "model/forward.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_ROWS 256
#define CHUNK_TOKENS 32
#define MAX_TOKENS 32768
#define MAX_LINE_BYTES (1 << 20)

static void die(const char *what)
{
    fprintf(stderr, "logits: %s\n", what);
    exit(1);
}

static uint32_t read_ids(char *line, int32_t *ids)
{
    uint32_t n = 0;
    for (char *at = strtok(line, " \t\r\n"); at; at = strtok(NULL, " \t\r\n")) {
        char *end;
        long id = strtol(at, &end, 10);
        if (*end || n == MAX_TOKENS)
            die("a line of IDS is not at most 32,768 numbers");
        ids[n++] = (int32_t)id;
    }
    return n;
}

static void run_sequence(struct device *d, const int32_t *ids, uint32_t n_ids, FILE *out)
{
    static uint32_t chunks[MAX_TOKENS / CHUNK_TOKENS], rows[STEP_ROWS];
    struct err e = {0};
    for (uint32_t i = 0; i < MAX_TOKENS / CHUNK_TOKENS; i++)
        chunks[i] = i;
    for (uint32_t i = 0; i < STEP_ROWS; i++)
        rows[i] = i;
    for (uint32_t past = 0, n; past < n_ids; past += n) {
        n = n_ids - past < STEP_ROWS ? n_ids - past : STEP_ROWS;
        const struct step_seq q = {.n_rows = n,
                                   .n_past = past,
                                   .chunks = chunks,
                                   .n_chunks = MAX_TOKENS / CHUNK_TOKENS,
                                   .n_prompt = MAX_TOKENS}; /* all rows are a prompt's */
        const struct step s = {
            .n_rows = n, .n_seqs = 1, .n_outputs = n, .tokens = ids + past, .seqs = &q, .output_rows = rows};
        struct step_result r;
        if (device_start(d, &s, &e) || device_wait(d, &r, &e))
            die(e.msg);
        if (fwrite(r.logits, sizeof(float) * d->model->n_vocab, n, out) != n)
            die("cannot write the logits");
    }
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 5)
        die("usage: logits MODEL.gguf IDS OUT.f32 [f16|q8_0]");
    struct err e = {0};
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct forward *f = NULL;
    struct device *d = NULL;
    const struct device_config c = {.pin_threads = true,
                                    .kv_type = argc == 5 && !strcmp(argv[4], "q8_0") ? KV_Q8_0 : KV_F16,
                                    .chunk_tokens = CHUNK_TOKENS,
                                    .n_chunks = MAX_TOKENS / CHUNK_TOKENS,
                                    .max_step_tokens = STEP_ROWS,
                                    .max_step_seqs = 1,
                                    .max_outputs = STEP_ROWS,
                                    .max_context = MAX_TOKENS};
    if (gguf_open(&g, argv[1], &e) || model_open(&m, g, &e) || forward_create(&f, m, &e) ||
        device_cpu_create(&d, f, &c, &e))
        die(e.msg);
    FILE *in = fopen(argv[2], "r"), *out = fopen(argv[3], "w");
    char *line = mem_array(MAX_LINE_BYTES, 1);
    int32_t *ids = mem_array(MAX_TOKENS, sizeof *ids);
    if (!in || !out || !line || !ids)
        die("cannot open IDS or OUT");
    while (fgets(line, MAX_LINE_BYTES, in)) {
        uint32_t n = read_ids(line, ids);
        run_sequence(d, ids, n, out);
    }
    if (fclose(out))
        die("cannot write the logits");
    fclose(in);
    free(line);
    free(ids);
    device_destroy(d);
    forward_destroy(f);
    model_close(m);
    return 0;
}
