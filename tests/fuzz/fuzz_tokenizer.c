/* Hostile vocabularies and hostile text. The first byte chooses: 0, the rest is a model file whose tokenizer is used on
 * a fixed text; else the rest is text for one of a few fixed vocabularies. Whatever comes out must be tokens of the
 * vocabulary, and where the vocabulary can say any byte and nothing is normalised, decoding must give the text back. */
#include "../tokenizer_build.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t, const char *text, size_t n, int flags, bool exact)
{
    token_id *ids;
    size_t n_ids;
    struct err e = {0};
    if (tokenizer_encode(t, text, n, flags, 1 << 20, &ids, &n_ids, &e))
        return;
    struct buf whole, parts;
    buf_init(&whole, 1 << 24);
    buf_init(&parts, 1 << 24);
    struct detokenizer d;
    detokenizer_init(&d, t, true, true);
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= tokenizer_n_vocab(t))
            abort();
        detokenizer_push(&d, ids[i], &parts);
        if (!utf8_valid(parts.data, parts.len))
            abort();
    }
    tokenizer_decode(t, ids, n_ids, true, &whole);
    if (exact && (whole.len != n || (n && memcmp(whole.data, text, n) != 0)))
        abort();
    buf_finish(&whole);
    buf_finish(&parts);
    free(ids);
}

static struct tokenizer *fixed(const char *pre)
{
    struct vocab_build v = {0};
    if (pre) {
        vocab_add_byte_level(&v);
        vocab_add_merge(&v, "a b", "ab");
        vocab_add_merge(&v, "ab ab", "abab");
        vocab_add_merge(&v, "\xc4\xa0 \xc4\xa0", "\xc4\xa0\xc4\xa0");
    } else {
        vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0);
        vocab_add_byte_tokens(&v);
        vocab_add(&v, "\xe2\x96\x81", TYPE_NORMAL, -3);
        vocab_add(&v, "a", TYPE_NORMAL, -4);
        vocab_add(&v,
                  "\xe2\x96\x81"
                  "a",
                  TYPE_NORMAL, -1);
        vocab_add(&v, "aa", TYPE_NORMAL, -2);
        vocab_add(&v, "aaa", TYPE_UNUSED, -2.5f);
    }
    vocab_add(&v, "<s>", TYPE_CONTROL, 0);
    vocab_add(&v, "<s><s>", TYPE_USER, 0);
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, pre);
    struct tokenizer *t;
    if (tokenizer_from(&g, &t, NULL))
        abort();
    return t;
}

static void hostile_file(const uint8_t *data, size_t size)
{
    void *aligned = aligned_alloc(64, (size + 64) / 64 * 64);
    if (!aligned)
        abort();
    memcpy(aligned, data, size);
    struct gguf *g;
    struct tokenizer *t;
    if (!gguf_open_memory(&g, aligned, size, NULL)) {
        if (!tokenizer_create(&t, g, NULL)) {
            static const char text[] = "<s> hello\n aab 123\xff\xe2\x96\x81</s>";
            use(t, text, sizeof text - 1, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, false);
            use(t, text, sizeof text - 1, 0, false);
            for (token_id id = -1; id <= (token_id)tokenizer_n_vocab(t); id++)
                tokenizer_is_end(t, id);
            tokenizer_destroy(t);
        }
        gguf_close(g);
    }
    free(aligned);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const pres[] = {NULL,          "gpt-2",  "llama-bpe", "qwen35", "deepseek-llm", "deepseek-coder",
                                       "deepseek-v3", "falcon", "bloom",     "gpt-4o"};
    enum { N = sizeof pres / sizeof *pres };
    static struct tokenizer *tokenizers[N]; /* for the life of the program */
    if (!size)
        return 0;
    if (!data[0]) {
        hostile_file(data + 1, size - 1);
        return 0;
    }
    size_t which = data[0] % N;
    if (!tokenizers[which])
        tokenizers[which] = fixed(pres[which]);
    bool normalises = pres[which] && !strcmp(pres[which], "qwen35");
    const char *text = (const char *)data + 1;
    size_t n = size - 1;
    /* U+2581 is a space to SentencePiece. */
    bool exact = !normalises && (pres[which] || !memmem(text, n, "\xe2\x96\x81", 3));
    use(tokenizers[which], text, n, data[0] & 128 ? TOKENIZE_PARSE_SPECIAL : 0, exact);
    return 0;
}
