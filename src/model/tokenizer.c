#include "model/tokenizer.h"

#include "base/utf8.h"
#include "model/tokenizer_impl.h"

#include <string.h>

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

const char *tokenizer_kind(const struct tokenizer *t)
{
    return t->kind;
}

token_id tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

token_id tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

bool tokenizer_is_end(const struct tokenizer *t, token_id id)
{
    return token_in_vocab(t, id) && t->flags[id] & TOKEN_IS_END;
}

static bool is_hidden(const struct tokenizer *t, token_id id)
{
    return t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_UNKNOWN;
}

struct gguf_str tokenizer_piece(const struct tokenizer *t, token_id id, bool with_special)
{
    if (!token_in_vocab(t, id) || (!with_special && is_hidden(t, id)))
        return (struct gguf_str){"", 0};
    return string_at(&t->pieces, (uint32_t)id);
}

struct gguf_str tokenizer_name(const struct tokenizer *t, token_id id)
{
    return token_in_vocab(t, id) ? string_at(&t->names, (uint32_t)id) : (struct gguf_str){"", 0};
}

/* The piece as it stands after what came before: *at_start says whether a space there is one that encoding added (at
 * the beginning and behind each special token that is shown), and is brought up to date. */
static struct gguf_str next_piece(const struct tokenizer *t, token_id id, bool with_special, bool *at_start)
{
    struct gguf_str s = tokenizer_piece(t, id, with_special);
    if (!s.n || !t->add_space_prefix)
        return s;
    bool special = is_hidden(t, id) || t->types[id] == TOKEN_USER_DEFINED;
    if (*at_start && !special && s.s[0] == ' ') {
        s.s++;
        s.n--;
    }
    *at_start = special;
    return s;
}

int tokenizer_decode(const struct tokenizer *t, const token_id *ids, size_t n, bool with_special, struct buf *out)
{
    bool at_start = true;
    for (size_t i = 0; i < n; i++) {
        struct gguf_str s = next_piece(t, ids[i], with_special, &at_start);
        int rc = buf_add(out, s.s, s.n);
        if (rc)
            return rc;
    }
    return 0;
}

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool with_special, bool at_start)
{
    *d = (struct detokenizer){.tokenizer = t, .with_special = with_special, .at_start = at_start};
}

/* Adds one byte to the code point that is being put together. What cannot become one is replaced: one U+FFFD for each
 * longest beginning of a code point, as the Unicode standard recommends (3.9, "maximal subparts"). */
static int push_byte(struct detokenizer *d, char byte, struct buf *out)
{
    uint32_t cp;
    d->held[d->n_held++] = byte;
    int len = utf8_decode(d->held, d->n_held, &cp);
    if (len == 0)
        return 0;
    if (len > 0) {
        d->n_held = 0;
        return buf_add(out, d->held, (size_t)len);
    }
    bool alone = d->n_held == 1;
    d->n_held = 0;
    int rc = buf_adds(out, "\xef\xbf\xbd");
    return rc || alone ? rc : push_byte(d, byte, out); /* once: a single byte is complete, held or replaced */
}

int detokenizer_push(struct detokenizer *d, token_id id, struct buf *out)
{
    struct gguf_str s = next_piece(d->tokenizer, id, d->with_special, &d->at_start);
    for (size_t i = 0; i < s.n; i++) {
        int rc = !d->n_held && !(s.s[i] & 0x80) ? buf_addc(out, s.s[i]) : push_byte(d, s.s[i], out);
        if (rc)
            return rc;
    }
    return 0;
}

int detokenizer_flush(struct detokenizer *d, struct buf *out)
{
    bool unfinished = d->n_held > 0;
    d->n_held = 0;
    return unfinished ? buf_adds(out, "\xef\xbf\xbd") : 0;
}
