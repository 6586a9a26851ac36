/* Small vocabularies built in memory, for the tests and the fuzz target of the tokenizer. */
#ifndef WEIR_TESTS_TOKENIZER_BUILD_H
#define WEIR_TESTS_TOKENIZER_BUILD_H

#include "base/utf8.h"
#include "gguf_build.h"
#include "model/tokenizer.h"

#include <stdio.h>

#define VOCAB_MAX 700

/* A vocabulary under construction: token i has names[i] and types[i]; SentencePiece ones have scores. */
struct vocab_build {
    const char *names[VOCAB_MAX];
    int32_t types[VOCAB_MAX];
    float scores[VOCAB_MAX];
    size_t n;
    const char *merges[100];
    size_t n_merges;
};

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

static inline int32_t vocab_add(struct vocab_build *v, const char *name, int32_t type, float score)
{
    v->names[v->n] = name;
    v->types[v->n] = type;
    v->scores[v->n] = score;
    return (int32_t)v->n++;
}

/* The 256 bytes in the characters that byte-level vocabularies write them with; token i is byte i. */
static inline void vocab_add_byte_level(struct vocab_build *v)
{
    static char names[256][8];
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        names[b][utf8_encode(printable ? b : next++, names[b])] = 0;
        vocab_add(v, names[b], TYPE_NORMAL, 0);
    }
}

/* <0x00> .. <0xFF> */
static inline void vocab_add_byte_tokens(struct vocab_build *v)
{
    static char names[256][8];
    for (int b = 0; b < 256; b++) {
        snprintf(names[b], sizeof names[b], "<0x%02X>", b & 0xff);
        vocab_add(v, names[b], TYPE_BYTE, 0);
    }
}

static inline void vocab_add_merge(struct vocab_build *v, const char *merge, const char *token)
{
    v->merges[v->n_merges++] = merge;
    if (token)
        vocab_add(v, token, TYPE_NORMAL, 0);
}

/* Puts the vocabulary into a file; pre NULL: SentencePiece. */
static inline void vocab_put(const struct vocab_build *v, struct gguf_build *g, const char *pre)
{
    gguf_build_str(g, "tokenizer.ggml.model", pre ? "gpt2" : "llama");
    if (pre)
        gguf_build_str(g, "tokenizer.ggml.pre", pre);
    gguf_build_array_str(g, "tokenizer.ggml.tokens", v->names, v->n);
    gguf_build_array_i32(g, "tokenizer.ggml.token_type", v->types, v->n);
    if (pre)
        gguf_build_array_str(g, "tokenizer.ggml.merges", v->merges, v->n_merges);
    else
        gguf_build_array_f32(g, "tokenizer.ggml.scores", v->scores, v->n);
}

/* A tokenizer from a file under construction, which this ends. */
static inline int tokenizer_from(struct gguf_build *g, struct tokenizer **t, struct err *e)
{
    size_t n;
    void *file = gguf_build_finish(g, &n);
    struct gguf *f;
    int rc = gguf_open_memory(&f, file, n, e);
    *t = NULL;
    if (!rc) {
        rc = tokenizer_create(t, f, e);
        gguf_close(f);
    }
    free(file); /* a tokenizer keeps nothing of it */
    return rc;
}

#endif
