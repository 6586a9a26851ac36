/* Text to tokens: special tokens are cut out first, the text between them becomes words, and inside each word the
 * neighbours with the best merge are joined until none is left (byte-pair encoding, Sennrich et al. 2016; by scores,
 * SentencePiece's BPE, Kudo and Richardson 2018). A heap of candidates makes that O(n log n) for any word. */
#include "base/hash.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define ESCAPED_SPACE "\xe2\x96\x81"
#define MAX_TEXT_BYTES ((size_t)1 << 30)

struct symbol {
    uint32_t at, n;     /* range in the word; n is 0 once it was merged into its left neighbour */
    int32_t prev, next; /* -1: none */
    token_id id;        /* TOKEN_NONE: no token */
};

struct candidate {
    uint64_t order; /* rank << 32 | index of the left symbol: the leftmost of equal ranks comes first */
    uint32_t n;     /* bytes of both symbols: tells an outdated candidate */
    token_id merged;
};

/* A word met before in this text. */
struct cached_word {
    uint32_t hash;
    uint32_t at, n;           /* in encoder.base; n is 0 in a free slot */
    uint32_t first, n_tokens; /* in encoder.out */
};
#define MAX_CACHED_WORD_BYTES 64
#define MAX_CACHED_WORDS 4096

struct encoder {
    const struct tokenizer *t;
    struct err *e;
    struct splitter *splitter;

    token_id *out;
    size_t n_out, capacity, max_tokens;

    struct symbol *symbols;
    struct candidate *heap;
    size_t n_symbols, symbol_capacity, n_heap;
    bool skip_unused;

    struct cached_word *cache; /* NULL for short texts */
    uint32_t cache_mask;

    const char *base;    /* what the words point into: the caller's text, or prepared */
    struct buf prepared; /* all fragments so far, normalised or escaped */
};

static int no_memory(struct encoder *c)
{
    return err_set(c->e, WEIR_ENOMEM, "no memory to encode text");
}

static int push_tokens(struct encoder *c, const token_id *ids, size_t n)
{
    if (n > c->max_tokens - c->n_out)
        return err_set(c->e, WEIR_ELIMIT, "the text is longer than %zu tokens", c->max_tokens);
    if (c->n_out + n > c->capacity) {
        size_t capacity = c->capacity * 2 > c->n_out + n ? c->capacity * 2 : c->n_out + n;
        token_id *grown = mem_resize(c->out, capacity, sizeof *grown);
        if (!grown)
            return no_memory(c);
        c->out = grown;
        c->capacity = capacity;
    }
    memcpy(c->out + c->n_out, ids, n * sizeof *ids);
    c->n_out += n;
    return 0;
}

static int push_token(struct encoder *c, token_id id)
{
    if (c->n_out < c->capacity && c->n_out < c->max_tokens) {
        c->out[c->n_out++] = id;
        return 0;
    }
    return push_tokens(c, &id, 1);
}

/* ---- the heap ---- */

static void heap_push(struct encoder *c, struct candidate x)
{
    size_t i = c->n_heap++;
    for (; i && x.order < c->heap[(i - 1) / 2].order; i = (i - 1) / 2)
        c->heap[i] = c->heap[(i - 1) / 2];
    c->heap[i] = x;
}

static struct candidate heap_pop(struct encoder *c)
{
    struct candidate top = c->heap[0], last = c->heap[--c->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < c->n_heap; i = child) {
        if (child + 1 < c->n_heap && c->heap[child + 1].order < c->heap[child].order)
            child++;
        if (last.order <= c->heap[child].order)
            break;
        c->heap[i] = c->heap[child];
    }
    c->heap[i] = last;
    return top;
}

/* ---- merging inside a word ---- */

/* SentencePiece never forms control, unknown or byte tokens from text. */
static bool spm_may_form(const struct encoder *c, token_id id)
{
    uint8_t type = c->t->types[id];
    return type == TOKEN_NORMAL || type == TOKEN_USER_DEFINED || (type == TOKEN_UNUSED && !c->skip_unused) ||
           type == TOKEN_UNDEFINED;
}

static token_id spm_token(const struct encoder *c, const char *text, size_t n)
{
    if (n > c->t->longest_name_bytes)
        return TOKEN_NONE;
    token_id id = tokenizer_find(c->t, text, n);
    return id != TOKEN_NONE && spm_may_form(c, id) ? id : TOKEN_NONE;
}

/* Puts the merge of a symbol with its right neighbour on the heap, if there is one. */
static void consider(struct encoder *c, const char *word, int32_t left)
{
    const struct symbol *l = &c->symbols[left];
    if (l->next < 0)
        return;
    const struct symbol *r = &c->symbols[l->next];
    struct candidate x = {.n = l->n + r->n};
    uint32_t rank;
    if (c->t->spm) {
        x.merged = spm_token(c, word + l->at, x.n);
        if (x.merged == TOKEN_NONE)
            return;
        rank = c->t->ranks[x.merged];
    } else {
        const struct merge_slot *m = tokenizer_find_merge(c->t, l->id, r->id);
        if (!m)
            return;
        x.merged = m->merged;
        rank = m->rank;
    }
    x.order = (uint64_t)rank << 32 | (uint32_t)left;
    heap_push(c, x);
}

static void merge_symbols(struct encoder *c, const char *word)
{
    c->n_heap = 0;
    for (size_t i = 0; i + 1 < c->n_symbols; i++)
        consider(c, word, (int32_t)i);
    while (c->n_heap) {
        struct candidate x = heap_pop(c);
        int32_t left = (int32_t)(uint32_t)x.order;
        struct symbol *l = &c->symbols[left];
        if (!l->n || l->next < 0 || l->n + c->symbols[l->next].n != x.n)
            continue;
        struct symbol *r = &c->symbols[l->next];
        l->n = x.n;
        l->id = x.merged;
        l->next = r->next;
        r->n = 0;
        if (l->next >= 0)
            c->symbols[l->next].prev = left;
        if (l->prev >= 0)
            consider(c, word, l->prev);
        consider(c, word, left);
    }
}

/* Room for a word of n symbols. Each merge takes a candidate away and adds two at most, so 2 n are enough. */
static int reserve_symbols(struct encoder *c, size_t n)
{
    if (n <= c->symbol_capacity)
        return 0;
    size_t capacity = 2 * c->symbol_capacity > n ? 2 * c->symbol_capacity : n;
    struct symbol *symbols = mem_resize(c->symbols, capacity, sizeof *symbols);
    if (symbols)
        c->symbols = symbols;
    struct candidate *heap = mem_resize(c->heap, 2 * capacity, sizeof *heap);
    if (heap)
        c->heap = heap;
    if (!symbols || !heap)
        return no_memory(c);
    c->symbol_capacity = capacity;
    return 0;
}

static void add_symbol(struct encoder *c, size_t at, size_t n, token_id id)
{
    c->symbols[c->n_symbols] =
        (struct symbol){(uint32_t)at, (uint32_t)n, (int32_t)c->n_symbols - 1, (int32_t)c->n_symbols + 1, id};
    c->n_symbols++;
}

/* The word's characters (SentencePiece) or bytes as symbols. A byte without a token is left out where there is no
 * unknown token either, so that its neighbours may merge. */
static int split_symbols(struct encoder *c, const char *word, size_t n)
{
    int rc = reserve_symbols(c, n);
    if (rc)
        return rc;
    c->n_symbols = 0;
    for (size_t i = 0; i < n;) {
        size_t len = 1;
        token_id id;
        if (c->t->spm) {
            uint32_t cp;
            int char_len = utf8_decode(word + i, n - i, &cp);
            len = char_len > 0 ? (size_t)char_len : 1;
            id = spm_token(c, word + i, len);
        } else {
            id = c->t->byte_tokens[(unsigned char)word[i]];
        }
        if (c->t->spm || id != TOKEN_NONE || c->t->unk != TOKEN_NONE)
            add_symbol(c, i, len, id);
        i += len;
    }
    if (c->n_symbols)
        c->symbols[c->n_symbols - 1].next = -1;
    return 0;
}

/* Text that no token holds: byte tokens, or one unknown token for all of it, or nothing if the model has neither. */
static int push_bytes(struct encoder *c, const char *text, size_t n)
{
    bool unknown = false;
    for (size_t i = 0; i < n; i++) {
        token_id id = c->t->byte_tokens[(unsigned char)text[i]];
        bool repeated = id == TOKEN_NONE && unknown;
        unknown = id == TOKEN_NONE;
        id = unknown ? c->t->unk : id;
        int rc = id == TOKEN_NONE || repeated ? 0 : push_token(c, id);
        if (rc)
            return rc;
    }
    return 0;
}

static int encode_word_merging(struct encoder *c, const char *word, size_t n);

/* Unused pieces may be steps on the way to others, but never come out: their text is encoded again without them. */
static int push_unused(struct encoder *c, const char *word, size_t n)
{
    struct encoder inner = {.t = c->t,
                            .e = c->e,
                            .out = c->out,
                            .n_out = c->n_out,
                            .capacity = c->capacity,
                            .max_tokens = c->max_tokens,
                            .skip_unused = true};
    int rc = encode_word_merging(&inner, word, n);
    c->out = inner.out;
    c->n_out = inner.n_out;
    c->capacity = inner.capacity;
    free(inner.symbols);
    free(inner.heap);
    return rc;
}

static int encode_word_merging(struct encoder *c, const char *word, size_t n)
{
    int rc = split_symbols(c, word, n);
    if (rc)
        return rc;
    merge_symbols(c, word);
    for (int32_t i = c->n_symbols ? 0 : -1; i >= 0 && !rc; i = c->symbols[i].next) {
        const struct symbol *s = &c->symbols[i];
        if (s->id == TOKEN_NONE) {
            /* Neighbouring unknown symbols make one piece of text. */
            uint32_t end = s->at + s->n;
            int32_t last = i;
            while (c->symbols[last].next >= 0 && c->symbols[c->symbols[last].next].id == TOKEN_NONE) {
                last = c->symbols[last].next;
                end = c->symbols[last].at + c->symbols[last].n;
            }
            rc = push_bytes(c, word + s->at, end - s->at);
            i = last;
        } else if (c->t->has_unused && c->t->types[s->id] == TOKEN_UNUSED && !c->skip_unused) {
            rc = push_unused(c, word + s->at, s->n);
        } else {
            rc = push_token(c, s->id);
        }
    }
    return rc;
}

/* The token that is exactly this word of bytes, for vocabularies that put that before merging. */
static token_id whole_word(const struct tokenizer *t, const char *word, size_t n)
{
    char name[512];
    size_t n_name = 0;
    if (n > sizeof name / 2)
        return TOKEN_NONE;
    for (size_t i = 0; i < n; i++)
        n_name += (size_t)utf8_encode(tokenizer_byte_char((unsigned char)word[i]), name + n_name);
    token_id id = tokenizer_find(t, name, n_name);
    return id != TOKEN_NONE && t->types[id] == TOKEN_NORMAL ? id : TOKEN_NONE;
}

static int encode_word(struct encoder *c, const char *word, size_t n)
{
    token_id whole = c->t->traits.ignore_merges ? whole_word(c->t, word, n) : TOKEN_NONE;
    return whole != TOKEN_NONE ? push_token(c, whole) : encode_word_merging(c, word, n);
}

/* Called for each word: most words of a long text were met before. */
static int on_word(void *context, const char *word, size_t n)
{
    struct encoder *c = context;
    if (!c->cache || n > MAX_CACHED_WORD_BYTES)
        return encode_word(c, word, n);
    uint32_t hash = (uint32_t)hash_bytes(word, n, 0);
    struct cached_word *w = &c->cache[hash & c->cache_mask];
    if (w->n == n && w->hash == hash && !memcmp(c->base + w->at, word, n)) {
        /* push_tokens may move the tokens that it copies. */
        token_id copy[MAX_CACHED_WORD_BYTES];
        memcpy(copy, c->out + w->first, w->n_tokens * sizeof *copy);
        return push_tokens(c, copy, w->n_tokens);
    }
    size_t first = c->n_out;
    int rc = encode_word(c, word, n);
    *w = (struct cached_word){hash, (uint32_t)(word - c->base), (uint32_t)n, (uint32_t)first,
                              (uint32_t)(c->n_out - first)};
    return rc;
}

/* ---- text between special tokens ---- */

static int encode_bpe_text(struct encoder *c, const char *text, size_t n)
{
    if (c->t->traits.nfc) {
        size_t begin = c->prepared.len;
        if (tokenizer_nfc(&c->prepared, text, n))
            return no_memory(c);
        c->base = c->prepared.data;
        text = c->base + begin;
        n = c->prepared.len - begin;
    }
    return splitter_split(c->splitter, text, n, on_word, c, c->e);
}

static size_t count_spaces(const char *s, size_t n)
{
    size_t k = 0;
    while (k < n && s[k] == ' ')
        k++;
    return k;
}

/* Appends the text with its spaces escaped (and extra ones removed) to c->prepared. */
static int escape_spaces(struct encoder *c, const char *text, size_t n, bool prefix)
{
    if (c->t->remove_extra_spaces) {
        size_t lead = count_spaces(text, n);
        text += lead;
        n -= lead;
        while (n && text[n - 1] == ' ')
            n--;
    }
    if (prefix && n)
        buf_adds(&c->prepared, ESCAPED_SPACE);
    for (size_t i = 0; i < n;) {
        const char *space = memchr(text + i, ' ', n - i);
        size_t plain = space ? (size_t)(space - text) - i : n - i;
        buf_add(&c->prepared, text + i, plain);
        i += plain;
        if (i == n)
            break;
        size_t run = count_spaces(text + i, n - i);
        for (size_t k = c->t->remove_extra_spaces ? run - 1 : 0; k < run; k++)
            buf_adds(&c->prepared, ESCAPED_SPACE);
        i += run;
    }
    return c->prepared.failed ? no_memory(c) : 0;
}

/* Where the vocabulary allows it, words are cut in front of spaces that follow another character. */
static int encode_spm_text(struct encoder *c, const char *text, size_t n, bool prefix)
{
    size_t begin = c->prepared.len;
    int rc = escape_spaces(c, text, n, prefix);
    if (rc)
        return rc;
    c->base = c->prepared.data;
    size_t end = c->prepared.len, from = begin;
    bool after_space = true;
    for (size_t i = begin; i < end && c->t->split_words;) {
        bool space = end - i >= 3 && !memcmp(c->base + i, ESCAPED_SPACE, 3);
        if (space && !after_space) {
            if ((rc = on_word(c, c->base + from, i - from)) < 0)
                return rc;
            from = i;
        }
        after_space = space;
        i += space ? 3 : 1;
    }
    return end > from ? on_word(c, c->base + from, end - from) : 0;
}

/* ---- special tokens ---- */

struct special_match {
    size_t at, n;
    token_id id;
};

/* The first special token from `from` on, the longest of those that begin there. Without one, at is n. */
static struct special_match next_special(const struct tokenizer *t, const char *text, size_t n, size_t from,
                                         bool parse_special)
{
    for (size_t i = from; i < n; i++) {
        uint32_t node = t->special_first[(unsigned char)text[i]];
        struct special_match found = {.at = i, .id = TOKEN_NONE};
        for (size_t k = i; node;) {
            const struct special_node *s = &t->specials[node];
            k++;
            if (s->id != TOKEN_NONE && (parse_special || t->types[s->id] == TOKEN_USER_DEFINED)) {
                found.n = k - i;
                found.id = s->id;
            }
            if (k == n)
                break;
            for (node = s->child; node && t->specials[node].byte != (unsigned char)text[k];)
                node = t->specials[node].sibling;
        }
        if (found.id != TOKEN_NONE)
            return found;
    }
    return (struct special_match){.at = n, .id = TOKEN_NONE};
}

/* Bytes of white space (Unicode's White_Space) that text begins with. */
static size_t leading_white_space(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t c;
        int len = utf8_decode(text + i, n - i, &c);
        bool white = len > 0 && ((c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
                                 (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
                                 c == 0x205f || c == 0x3000);
        if (!white)
            break;
        i += (size_t)len;
    }
    return i;
}

static int encode_all(struct encoder *c, const char *text, size_t n, int flags)
{
    const struct tokenizer *t = c->t;
    bool add_special = flags & TOKENIZE_ADD_SPECIAL, after_special = true;
    c->base = text;
    int rc = add_special && t->add_bos ? push_token(c, t->bos) : 0;
    for (size_t at = 0; at < n && !rc;) {
        struct special_match m = next_special(t, text, n, at, flags & TOKENIZE_PARSE_SPECIAL);
        if (m.at > at) {
            rc = t->spm ? encode_spm_text(c, text + at, m.at - at, t->add_space_prefix && after_special)
                        : encode_bpe_text(c, text + at, m.at - at);
            after_special = false;
        }
        at = m.at + m.n;
        if (rc || m.id == TOKEN_NONE)
            continue;
        rc = push_token(c, m.id);
        after_special = true;
        if (t->flags[m.id] & TOKEN_STRIPS_RIGHT)
            at += leading_white_space(text + at, n - at);
    }
    return rc ? rc : add_special && t->add_eos ? push_token(c, t->eos) : 0;
}

static int encoder_init(struct encoder *c, size_t n)
{
    const struct tokenizer *t = c->t;
    buf_init(&c->prepared, 4 * MAX_TEXT_BYTES);
    c->capacity = n / 3 + 16 < c->max_tokens ? n / 3 + 16 : c->max_tokens;
    c->out = mem_array(c->capacity, sizeof *c->out);
    if (!c->out)
        return no_memory(c);
    if (n >= 256) {
        uint32_t slots = 64;
        while (slots < n / 4 && slots < MAX_CACHED_WORDS)
            slots *= 2;
        c->cache_mask = slots - 1;
        c->cache = mem_array(slots, sizeof *c->cache);
        if (!c->cache)
            return no_memory(c);
    }
    return t->spm ? 0 : splitter_create(&c->splitter, t->pretokenizer, c->e);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int flags, size_t max_tokens,
                     token_id **out, size_t *n_out, struct err *e)
{
    *out = NULL;
    *n_out = 0;
    if (n > MAX_TEXT_BYTES)
        return err_set(e, WEIR_ELIMIT, "text of %zu bytes is longer than %zu", n, MAX_TEXT_BYTES);
    struct encoder c = {.t = t, .e = e, .max_tokens = max_tokens};
    int rc = encoder_init(&c, n);
    if (!rc)
        rc = encode_all(&c, text, n, flags);
    splitter_destroy(c.splitter);
    free(c.symbols);
    free(c.heap);
    free(c.cache);
    buf_finish(&c.prepared);
    if (rc) {
        free(c.out);
        return rc;
    }
    *out = c.out;
    *n_out = c.n_out;
    return 0;
}
