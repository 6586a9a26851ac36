/* Chat templates as GGUF files carry them. */
#include "base/mem.h"
#include "model/chat.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_KEY "tokenizer.chat_template"
#define MAX_NAMED 16 /* further templates of a file are not read: their names mean nothing to weir */

static bool is_text(const struct gguf_value *v)
{
    return v && v->type == GGUF_STRING;
}

/* A C string from a length-counted one; with a NUL inside it is no text. */
static int copy_text(struct gguf_str s, const char *what, char **out, struct err *e)
{
    if (memchr(s.s, 0, s.n))
        return err_set(e, WEIR_EFORMAT, "%s contains a NUL byte", what);
    *out = mem_strndup(s.s, s.n);
    return *out ? 0 : err_set(e, WEIR_ENOMEM, "no memory for %s", what);
}

static int get_text(const struct gguf *file, const char *key, char **out, struct err *e)
{
    struct gguf_str s;
    int r = gguf_get_str(file, key, &s, e);
    return r ? r : copy_text(s, key, out, e);
}

/* The token's name; *out stays NULL if the model has no such token. */
static int token_text(const struct tokenizer *tokenizer, token_id id, const char *what, char **out, struct err *e)
{
    *out = NULL;
    if (id < 0 || (uint32_t)id >= tokenizer_n_vocab(tokenizer))
        return 0;
    return copy_text(tokenizer_name(tokenizer, id), what, out, e);
}

static bool has_token(const struct tokenizer *t, const char *name)
{
    token_id *ids = NULL;
    size_t n = 0;
    if (tokenizer_encode(t, name, strlen(name), TOKENIZE_PARSE_SPECIAL, 64, &ids, &n, NULL))
        return false;
    struct gguf_str s = n == 1 ? tokenizer_name(t, ids[0]) : (struct gguf_str){0};
    free(ids);
    return s.n == strlen(name) && !memcmp(s.s, name, s.n);
}

static int add_named(struct chat_template *t, const struct gguf *file, struct err *e)
{
    const size_t prefix = strlen(DEFAULT_KEY ".");
    int n_added = 0, r = 0;
    for (uint64_t i = 0; i < gguf_n_values(file) && n_added < MAX_NAMED && !r; i++) {
        const struct gguf_value *v = gguf_value_at(file, i);
        if (!is_text(v) || v->key.n <= prefix || memcmp(v->key.s, DEFAULT_KEY ".", prefix) != 0)
            continue;
        char *key = NULL, *source = NULL;
        if (!(r = copy_text(v->key, "a key", &key, e)) && !(r = get_text(file, key, &source, e))) {
            r = chat_template_add(t, key + prefix, source, e);
            n_added++;
        }
        free(key);
        free(source);
    }
    return r;
}

static int define_tokens(struct chat_template *t, const struct gguf *file, const struct tokenizer *tokenizer,
                         struct err *e)
{
    static const struct {
        const char *variable, *key;
    } tokens[] = {
        {"unk_token", "tokenizer.ggml.unknown_token_id"}, {"sep_token", "tokenizer.ggml.seperator_token_id"},
        {"pad_token", "tokenizer.ggml.padding_token_id"}, {"cls_token", "tokenizer.ggml.cls_token_id"},
        {"mask_token", "tokenizer.ggml.mask_token_id"},
    };
    int r = 0;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens && !r; i++) {
        char *text;
        uint32_t id = 0;
        if (gguf_get_u32(file, tokens[i].key, &id, NULL) || id > INT32_MAX)
            continue; /* the tokenizer's own reading of the file complains where it matters */
        r = token_text(tokenizer, (token_id)id, tokens[i].variable, &text, e);
        if (!r && text)
            r = chat_template_define(t, tokens[i].variable, text, e);
        free(text);
    }
    return r;
}

int chat_template_open(struct chat_template **out, const struct gguf *file, const struct tokenizer *tokenizer,
                       const char *source, const struct chat_limits *limits, struct err *e)
{
    *out = NULL;
    char *own = NULL, *bos = NULL, *eos = NULL;
    struct chat_template *t = NULL;
    int r = source ? 0 : get_text(file, DEFAULT_KEY, &own, e);
    if (r == WEIR_ENOTFOUND) {
        if (!has_token(tokenizer, "<|im_start|>") || !has_token(tokenizer, "<|im_end|>"))
            return err_set(e, WEIR_ENOTFOUND,
                           "the model has no chat template (%s): use text completions, or give a template",
                           DEFAULT_KEY);
        source = chat_template_chatml;
        r = 0;
    }
    if (!r)
        r = token_text(tokenizer, tokenizer_bos(tokenizer), "bos_token", &bos, e);
    if (!r)
        r = token_text(tokenizer, tokenizer_eos(tokenizer), "eos_token", &eos, e);
    if (!r)
        r = chat_template_create(&t, source ? source : own, bos, eos, limits, e);
    if (!r && !source)
        r = add_named(t, file, e);
    if (!r)
        r = define_tokens(t, file, tokenizer, e);
    free(own);
    free(bos);
    free(eos);
    if (r) {
        chat_template_destroy(t);
        return r;
    }
    *out = t;
    return 0;
}
