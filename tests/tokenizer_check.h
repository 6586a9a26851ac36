/* What the tests of the tokenizer share: making one, checking what it gives, small vocabularies, random text. */
#ifndef WEIR_TESTS_TOKENIZER_CHECK_H
#define WEIR_TESTS_TOKENIZER_CHECK_H

#include "test.h"
#include "tokenizer_build.h"

#include "base/rng.h"

#define SPACE "\xe2\x96\x81" /* SentencePiece's */
#define NO_LIMIT ((size_t)1 << 30)

static inline struct tokenizer *make(struct gguf_build *g)
{
    struct tokenizer *t;
    struct err e = {0};
    if (tokenizer_from(g, &t, &e))
        fail_msg("%s", e.msg);
    return t;
}

static inline struct tokenizer *make_bpe(const struct vocab_build *v, const char *pre)
{
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(v, &g, pre);
    return make(&g);
}

enum { END_TOKEN = 256, N_VOCAB = 258 }; /* of byte_tokenizer */

/* A token for each byte, one that ends and begins, another. */
static inline struct tokenizer *byte_tokenizer(void)
{
    struct vocab_build v = {0};
    vocab_add_byte_level(&v);
    vocab_add(&v, "<end>", TYPE_CONTROL, 0);
    vocab_add(&v, "<other>", TYPE_CONTROL, 0);
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, "gpt-2");
    gguf_build_u32(&g, "tokenizer.ggml.eos_token_id", END_TOKEN);
    gguf_build_u32(&g, "tokenizer.ggml.bos_token_id", END_TOKEN);
    return make(&g);
}

/* Encodes from a block of the text's exact size, so that sanitisers see a read past it. */
static inline token_id *encode(const struct tokenizer *t, const char *text, size_t n, int flags, size_t *n_ids)
{
    char *copy = malloc(n ? n : 1);
    memcpy(copy, text, n);
    token_id *ids;
    struct err e = {0};
    if (tokenizer_encode(t, copy, n, flags, NO_LIMIT, &ids, n_ids, &e))
        fail_msg("%s", e.msg);
    free(copy);
    return ids;
}

/* Tokens as "name|name|name". */
static inline void assert_tokens(const struct tokenizer *t, const char *text, int flags, const char *expected)
{
    size_t n;
    token_id *ids = encode(t, text, strlen(text), flags, &n);
    struct buf got;
    buf_init(&got, 1 << 20);
    for (size_t i = 0; i < n; i++) {
        struct gguf_str s = tokenizer_name(t, ids[i]);
        buf_printf(&got, "%s%.*s", i ? "|" : "", (int)s.n, s.s);
    }
    assert_string_equal(got.data ? got.data : "", expected);
    buf_finish(&got);
    free(ids);
}

static inline char *decode(const struct tokenizer *t, const token_id *ids, size_t n, size_t *n_bytes)
{
    struct buf out;
    buf_init(&out, 1 << 24);
    assert_int_equal(tokenizer_decode(t, ids, n, true, &out), 0);
    *n_bytes = out.len;
    return buf_detach(&out);
}

static inline void assert_round_trip(const struct tokenizer *t, const char *text, size_t n, int flags)
{
    size_t n_ids, n_back;
    token_id *ids = encode(t, text, n, flags, &n_ids);
    char *back = decode(t, ids, n_ids, &n_back);
    assert_int_equal(n_back, n);
    assert_memory_equal(back, text, n);
    free(back);
    free(ids);
}

/* Random text: words, spaces, digits, punctuation, code points of all planes and, if wanted, broken bytes. */
static inline size_t random_text(struct rng *r, char *out, size_t max, bool broken)
{
    static const char *const bits[] = {" ",        "  ",  "\n",       "\r\n",    "\t",      "the", "'s",
                                       "'LL",      "123", "\xc2\xa0", "...",     "=!=",     "Ab",  "aB",
                                       "\xc3\xa9", "0",   "<s>",      "<|end|>", "\xc2\x85"};
    size_t n = 0;
    while (n + 8 < max && rng_below(r, 40)) {
        char c[4];
        uint32_t cp;
        size_t n_cp;
        switch (rng_below(r, broken ? 4 : 3)) {
        case 0: {
            const char *s = bits[rng_below(r, sizeof bits / sizeof *bits)];
            memcpy(out + n, s, strlen(s));
            n += strlen(s);
            break;
        }
        case 1:
            out[n++] = (char)rng_below(r, 128);
            break;
        case 2:
            cp = (uint32_t)rng_below(r, rng_below(r, 2) ? 0x3100 : 0x110000);
            if (cp >= 0xd800 && cp < 0xe000)
                break;
            n_cp = (size_t)utf8_encode(cp, c);
            memcpy(out + n, c, n_cp);
            n += n_cp;
            break;
        default:
            out[n++] = (char)rng_below(r, 256);
        }
    }
    return n;
}

static inline struct vocab_build hello_vocab(void)
{
    struct vocab_build v = {0};
    vocab_add_byte_level(&v);
    vocab_add_merge(&v, "h e", "he");
    vocab_add_merge(&v, "l l", "ll");
    vocab_add_merge(&v, "he ll", "hell");
    vocab_add_merge(&v, "hell o", "hello");
    vocab_add_merge(&v, "a a", "aa");
    vocab_add_merge(&v, "\xc4\xa0 w", "\xc4\xa0w"); /* U+0120 is the space */
    vocab_add_merge(&v, "aa aa", "aaaa");
    return v;
}

static inline struct vocab_build spm_vocab(void)
{
    struct vocab_build v = {0};
    vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0);
    vocab_add(&v, "<s>", TYPE_CONTROL, 0);
    vocab_add(&v, "</s>", TYPE_CONTROL, 0);
    vocab_add_byte_tokens(&v);
    const char *const pieces[] = {SPACE "t", "he", SPACE "the", "</", "s>", "in", SPACE SPACE, SPACE, "t", "h",
                                  "e",       "i",  "n",         "<",  "/",  "s",  ">",         "a",   "b"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        vocab_add(&v, pieces[i], TYPE_NORMAL, -(float)i);
    return v;
}

static inline struct tokenizer *make_spm(const struct vocab_build *v)
{
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(v, &g, NULL);
    return make(&g);
}

#endif
