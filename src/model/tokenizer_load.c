/* A tokenizer from GGUF metadata (ggml's docs/gguf.md, "Tokenizer"). Every array's type and length is checked here, so
 * that encoding and decoding need no checks of their own. */
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ESCAPED_SPACE "\xe2\x96\x81" /* U+2581, SentencePiece's space */

/* Tokens that end a turn or a text in the models' own formats. Those of the first kind cannot be ordinary text, so
 * they count whatever type the file gives them; those of the second only if the file says that they are special. */
static const char *const end_names[] = {
    "<|im_end|>",    "<|eot_id|>",      "<|eom_id|>",
    "<|eot|>",       "<|eom|>",         "<|end|>",
    "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>",
    "<turn|>",       "<|return|>",      "<|call|>",
    "<|calls|>",     "<|flush|>",       "<|END_OF_TURN_TOKEN|>",
    "[|endofturn|]", "<|endofturn|>",   "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",    "<｜end▁of▁sentence｜>", /* DeepSeek */
};
static const char *const end_names_if_special[] = {
    "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>", "[e~["};

uint32_t tokenizer_byte_char(unsigned char byte)
{
    /* The printable ones of Latin-1 stand for themselves; the other 68 follow U+0100 in order. */
    static const struct {
        unsigned char first, last;
        uint32_t base;
    } others[] = {{0x00, 0x20, 0x100}, {0x7f, 0xa0, 0x121}, {0xad, 0xad, 0x143}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (byte >= others[i].first && byte <= others[i].last)
            return others[i].base + byte - others[i].first;
    return byte;
}

/* The byte that a character stands for, or -1. */
static int char_byte(uint32_t c)
{
    if (c >= 0x100 && c <= 0x143)
        return (int)(c <= 0x120 ? c - 0x100 : c <= 0x142 ? c - 0x121 + 0x7f : 0xad);
    return c < 0x100 && tokenizer_byte_char((unsigned char)c) == c ? (int)c : -1;
}

/* ---- strings and names ---- */

static int string_table_init(struct string_table *s, uint32_t n, size_t text_bytes)
{
    s->text = mem_array(text_bytes + 1, 1);
    s->at = mem_array((size_t)n + 1, sizeof *s->at);
    return s->text && s->at ? 0 : WEIR_ENOMEM;
}

static struct name_slot *name_slot(const struct tokenizer *t, const char *name, size_t n)
{
    uint32_t hash = (uint32_t)hash_bytes(name, n, 0);
    uint32_t i = hash & t->name_mask;
    for (; t->by_name[i].id_plus_1; i = (i + 1) & t->name_mask) {
        if (t->by_name[i].hash != hash)
            continue;
        struct gguf_str s = string_at(&t->names, t->by_name[i].id_plus_1 - 1);
        if (s.n == n && !memcmp(s.s, name, n))
            return &t->by_name[i];
    }
    t->by_name[i].hash = hash;
    return &t->by_name[i];
}

token_id tokenizer_find(const struct tokenizer *t, const char *name, size_t n)
{
    uint32_t hash = (uint32_t)hash_bytes(name, n, 0);
    for (uint32_t i = hash & t->name_mask; t->by_name[i].id_plus_1; i = (i + 1) & t->name_mask) {
        if (t->by_name[i].hash != hash)
            continue;
        uint32_t id = t->by_name[i].id_plus_1 - 1;
        struct gguf_str s = string_at(&t->names, id);
        if (s.n == n && !memcmp(s.s, name, n))
            return (token_id)id;
    }
    return TOKEN_NONE;
}

static token_id find_str(const struct tokenizer *t, const char *name)
{
    return tokenizer_find(t, name, strlen(name));
}

/* The array of a key, its type and length checked. n_expected 0: any length. *out is NULL if the key is absent. */
static int get_array(const struct gguf *f, const char *key, bool strings, uint64_t n_expected,
                     const struct gguf_value **out, struct err *e)
{
    const struct gguf_value *v = gguf_find(f, key);
    *out = v;
    if (!v)
        return 0;
    if (v->type != GGUF_ARRAY || (v->element_type == GGUF_STRING) != strings || v->element_type == GGUF_ARRAY)
        return err_set(e, WEIR_EFORMAT, "%s is not an array of %s", key, strings ? "strings" : "numbers");
    if (n_expected && v->n_elements != n_expected)
        return err_set(e, WEIR_EFORMAT, "%s has %llu elements, but tokenizer.ggml.tokens has %llu", key,
                       (unsigned long long)v->n_elements, (unsigned long long)n_expected);
    return 0;
}

static int load_names(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    const struct gguf_value *v;
    int rc = get_array(f, "tokenizer.ggml.tokens", true, 0, &v, e);
    if (rc)
        return rc;
    if (!v || !v->n_elements)
        return err_set(e, WEIR_EFORMAT, "tokenizer.ggml.tokens is missing or empty: this file has no vocabulary");
    if (v->n_elements > TOKENIZER_MAX_TOKENS || v->n_bytes > TOKENIZER_MAX_TEXT_BYTES)
        return err_set(e, WEIR_ELIMIT, "tokenizer.ggml.tokens has %llu tokens in %zu bytes; the most is %u in %u",
                       (unsigned long long)v->n_elements, v->n_bytes, TOKENIZER_MAX_TOKENS, TOKENIZER_MAX_TEXT_BYTES);
    t->n_vocab = (uint32_t)v->n_elements;
    uint32_t n_slots = 16;
    while (n_slots < 2 * t->n_vocab)
        n_slots *= 2;
    t->name_mask = n_slots - 1;
    t->by_name = mem_array(n_slots, sizeof *t->by_name);
    t->types = mem_array(t->n_vocab, 1);
    t->flags = mem_array(t->n_vocab, 1);
    if (string_table_init(&t->names, t->n_vocab, v->n_bytes) || !t->by_name || !t->types || !t->flags)
        return err_set(e, WEIR_ENOMEM, "no memory for a vocabulary of %u tokens", t->n_vocab);
    uint32_t at = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        struct gguf_str s = gguf_array_str(v, i);
        memcpy(t->names.text + at, s.s, s.n);
        t->names.at[i + 1] = at += (uint32_t)s.n;
        if (s.n > t->longest_name_bytes)
            t->longest_name_bytes = (uint32_t)s.n;
        if (!s.n)
            continue;
        /* Of tokens with the same name the first is the one that encoding gives. */
        struct name_slot *slot = name_slot(t, t->names.text + at - s.n, s.n);
        if (!slot->id_plus_1)
            slot->id_plus_1 = i + 1;
    }
    return 0;
}

static int load_types(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    const struct gguf_value *v;
    int rc = get_array(f, "tokenizer.ggml.token_type", false, t->n_vocab, &v, e);
    if (rc)
        return rc;
    if (v && (v->element_type == GGUF_F32 || v->element_type == GGUF_F64))
        return err_set(e, WEIR_EFORMAT, "tokenizer.ggml.token_type is not an array of integers");
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        int64_t type = v ? gguf_array_int(v, i) : TOKEN_NORMAL;
        t->types[i] = type >= 0 && type <= TOKEN_BYTE ? (uint8_t)type : TOKEN_UNDEFINED;
    }
    return 0;
}

/* Tokens that are no text: never formed by merging. */
static bool is_control(const struct tokenizer *t, uint32_t id)
{
    return t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_UNKNOWN || t->types[id] == TOKEN_BYTE;
}

static bool is_special(const struct tokenizer *t, uint32_t id)
{
    return t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_USER_DEFINED || t->types[id] == TOKEN_UNKNOWN;
}

/* ---- special tokens ---- */

/* Ids outside the vocabulary (converters write them for tokens that a model lacks) count as absent. */
static int get_id(const struct tokenizer *t, const struct gguf *f, const char *key, token_id *id, struct err *e)
{
    uint32_t v;
    int rc = gguf_get_u32(f, key, &v, e);
    if (rc == WEIR_ENOTFOUND) {
        if (!token_in_vocab(t, *id))
            *id = TOKEN_NONE;
        return 0;
    }
    if (rc)
        return rc;
    if (v >= t->n_vocab && v != UINT32_MAX)
        LOG(LOG_WARN, "special token outside the vocabulary is ignored", {"key", log_str(key)}, {"id", log_u64(v)},
            {"n_vocab", log_u64(t->n_vocab)});
    *id = v < t->n_vocab ? (token_id)v : TOKEN_NONE;
    return 0;
}

static void mark_end(struct tokenizer *t, token_id id)
{
    if (token_in_vocab(t, id))
        t->flags[id] |= TOKEN_IS_END;
}

static void mark_named_ends(struct tokenizer *t)
{
    for (size_t i = 0; i < sizeof end_names / sizeof *end_names; i++) {
        token_id id = find_str(t, end_names[i]);
        if (id == TOKEN_NONE)
            continue;
        mark_end(t, id);
        if (!is_special(t, (uint32_t)id))
            t->types[id] = TOKEN_CONTROL;
    }
    for (size_t i = 0; i < sizeof end_names_if_special / sizeof *end_names_if_special; i++) {
        token_id id = find_str(t, end_names_if_special[i]);
        if (id != TOKEN_NONE && is_special(t, (uint32_t)id))
            mark_end(t, id);
    }
    /* In the formats with channels <|end|> closes a message, not the turn. */
    token_id end = find_str(t, "<|end|>");
    bool channels = find_str(t, "<|return|>") != TOKEN_NONE && find_str(t, "<|call|>") != TOKEN_NONE;
    bool flushes = find_str(t, "<|flush|>") != TOKEN_NONE && find_str(t, "<|calls|>") != TOKEN_NONE;
    if (end != TOKEN_NONE && (channels || flushes))
        t->flags[end] &= (uint8_t)~TOKEN_IS_END;
}

static int load_special_ids(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    mark_named_ends(t);
    t->bos = t->spm ? 1 : TOKEN_NONE;
    t->eos = t->spm ? 2 : TOKEN_NONE;
    t->unk = t->spm ? 0 : TOKEN_NONE;
    token_id eot = TOKEN_NONE, eom = TOKEN_NONE;
    int rc = get_id(t, f, "tokenizer.ggml.bos_token_id", &t->bos, e);
    if (rc || (rc = get_id(t, f, "tokenizer.ggml.eos_token_id", &t->eos, e)) ||
        (rc = get_id(t, f, "tokenizer.ggml.unknown_token_id", &t->unk, e)) ||
        (rc = get_id(t, f, "tokenizer.ggml.eot_token_id", &eot, e)) ||
        (rc = get_id(t, f, "tokenizer.ggml.eom_token_id", &eom, e)))
        return rc;
    mark_end(t, t->eos);
    mark_end(t, eot);
    mark_end(t, eom);
    const struct gguf_value *v;
    if ((rc = get_array(f, "tokenizer.ggml.eos_token_ids", false, 0, &v, e)))
        return rc;
    bool integers = v && v->element_type != GGUF_F32 && v->element_type != GGUF_F64;
    for (uint64_t i = 0; integers && i < v->n_elements; i++) {
        int64_t id = gguf_array_int(v, i);
        if (id >= 0 && id < t->n_vocab)
            mark_end(t, (token_id)id);
    }
    t->add_bos = t->spm || t->traits.add_bos;
    bool asked = false;
    if ((rc = gguf_get_bool(f, "tokenizer.ggml.add_bos_token", &asked, e)) == 0)
        t->add_bos = asked;
    else if (rc != WEIR_ENOTFOUND)
        return rc;
    if (asked && t->bos == TOKEN_NONE)
        return err_set(e, WEIR_EFORMAT, "tokenizer.ggml.add_bos_token is true, but there is no valid bos_token_id");
    t->add_bos = t->add_bos && t->bos != TOKEN_NONE;
    rc = gguf_get_bool(f, "tokenizer.ggml.add_eos_token", &t->add_eos, e);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    if (t->add_eos && t->eos == TOKEN_NONE)
        return err_set(e, WEIR_EFORMAT, "tokenizer.ggml.add_eos_token is true, but there is no valid eos_token_id");
    return 0;
}

static bool contains_ignoring_case(struct gguf_str s, const char *what)
{
    size_t n = strlen(what);
    for (size_t i = 0; i + n <= s.n; i++) {
        size_t k = 0;
        while (k < n && tolower((unsigned char)s.s[i + k]) == what[k])
            k++;
        if (k == n)
            return true;
    }
    return false;
}

/* GGUF carries no per-token stripping; of the models in this format, Phi-3's tokenizer.json strips the white space
 * behind all its special tokens but three. */
static void mark_stripping(struct tokenizer *t, const struct gguf *f)
{
    struct gguf_str name = {"", 0};
    if (!t->spm || gguf_get_str(f, "general.name", &name, NULL) ||
        !(contains_ignoring_case(name, "phi-3") || contains_ignoring_case(name, "phi3")))
        return;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (is_special(t, i))
            t->flags[i] |= TOKEN_STRIPS_RIGHT;
    const char *const kept[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        token_id id = find_str(t, kept[i]);
        if (id != TOKEN_NONE)
            t->flags[id] &= (uint8_t)~TOKEN_STRIPS_RIGHT;
    }
}

/* ---- output text of tokens ---- */

/* "<0x0A>": the byte, or -1. */
static int named_byte(struct gguf_str name)
{
    if (name.n != 6 || memcmp(name.s, "<0x", 3) != 0 || name.s[5] != '>' || !isxdigit((unsigned char)name.s[3]) ||
        !isxdigit((unsigned char)name.s[4]))
        return -1;
    char hex[3] = {name.s[3], name.s[4], 0};
    return (int)strtol(hex, NULL, 16);
}

/* Text that stands for itself is copied; characters of the byte alphabet become their bytes. */
static size_t decode_byte_level(struct gguf_str name, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < name.n;) {
        uint32_t c;
        int len = utf8_decode(name.s + i, name.n - i, &c);
        int byte = len > 0 ? char_byte(c) : -1;
        if (byte >= 0) {
            out[n++] = (char)byte;
        } else {
            len = len > 0 ? len : 1;
            memcpy(out + n, name.s + i, (size_t)len);
            n += (size_t)len;
        }
        i += (size_t)(len > 0 ? len : 1);
    }
    return n;
}

static size_t decode_spm(struct gguf_str name, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < name.n;) {
        bool space = name.n - i >= 3 && !memcmp(name.s + i, ESCAPED_SPACE, 3);
        out[n++] = space ? ' ' : name.s[i];
        i += space ? 3 : 1;
    }
    return n;
}

static int build_pieces(struct tokenizer *t, struct err *e)
{
    if (string_table_init(&t->pieces, t->n_vocab, t->names.at[t->n_vocab]))
        return err_set(e, WEIR_ENOMEM, "no memory for the text of %u tokens", t->n_vocab);
    uint32_t at = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        struct gguf_str name = string_at(&t->names, i);
        char *out = t->pieces.text + at;
        int byte = t->types[i] == TOKEN_BYTE ? named_byte(name) : -1;
        size_t n = name.n;
        if (byte >= 0) {
            out[0] = (char)byte;
            n = 1;
        } else if (is_special(t, i) && !(t->spm && t->types[i] == TOKEN_USER_DEFINED)) {
            memcpy(out, name.s, n);
        } else {
            n = t->spm ? decode_spm(name, out) : decode_byte_level(name, out);
        }
        t->pieces.at[i + 1] = at += (uint32_t)n;
    }
    return 0;
}

static uint32_t special_child(const struct tokenizer *t, uint32_t parent, unsigned char byte)
{
    if (!parent)
        return t->special_first[byte];
    uint32_t c = t->specials[parent].child;
    while (c && t->specials[c].byte != byte)
        c = t->specials[c].sibling;
    return c;
}

static int special_add(struct tokenizer *t, token_id id)
{
    struct gguf_str s = string_at(&t->pieces, (uint32_t)id);
    uint32_t node = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char byte = (unsigned char)s.s[i];
        uint32_t child = special_child(t, node, byte);
        if (!child) {
            if (t->n_special_nodes >= t->special_capacity) {
                uint32_t capacity = t->special_capacity ? 2 * t->special_capacity : 1024;
                struct special_node *grown = mem_resize(t->specials, capacity, sizeof *grown);
                if (!grown)
                    return WEIR_ENOMEM;
                t->specials = grown;
                t->special_capacity = capacity;
            }
            child = t->n_special_nodes++;
            t->specials[child] =
                (struct special_node){.id = TOKEN_NONE, .byte = byte, .sibling = node ? t->specials[node].child : 0};
            if (node)
                t->specials[node].child = child;
            else
                t->special_first[byte] = child;
        }
        node = child;
    }
    if (node && t->specials[node].id == TOKEN_NONE)
        t->specials[node].id = id;
    return 0;
}

static int build_specials(struct tokenizer *t, struct err *e)
{
    t->n_special_nodes = 1; /* 0 is the root, which special_first stands for */
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (is_special(t, i) && special_add(t, (token_id)i))
            return err_set(e, WEIR_ENOMEM, "no memory for the special tokens");
    return 0;
}

/* ---- merges and scores ---- */

const struct merge_slot *tokenizer_find_merge(const struct tokenizer *t, token_id left, token_id right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint32_t i = (uint32_t)hash_u64(pair) & t->merge_mask; t->merges[i].pair != MERGE_FREE;
         i = (i + 1) & t->merge_mask)
        if (t->merges[i].pair == pair)
            return &t->merges[i];
    return NULL;
}

static void merge_add(struct tokenizer *t, token_id left, token_id right, uint32_t rank, token_id merged)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)hash_u64(pair) & t->merge_mask;
    for (; t->merges[i].pair != MERGE_FREE; i = (i + 1) & t->merge_mask)
        if (t->merges[i].pair == pair)
            return; /* the first, lowest rank counts */
    t->merges[i] = (struct merge_slot){pair, rank, merged};
}

/* One line "left right". Returns 1 if all three are tokens, 0 if not, WEIR_EFORMAT if it is no pair. */
static int merge_parse(struct tokenizer *t, struct gguf_str line, uint32_t rank, char *scratch)
{
    const char *space = line.n > 1 ? memchr(line.s + 1, ' ', line.n - 1) : NULL;
    if (!space || space == line.s + line.n - 1)
        return WEIR_EFORMAT;
    size_t n_left = (size_t)(space - line.s), n_right = line.n - n_left - 1;
    if (n_left + n_right > t->longest_name_bytes)
        return 0;
    memcpy(scratch, line.s, n_left);
    memcpy(scratch + n_left, space + 1, n_right);
    token_id left = tokenizer_find(t, scratch, n_left), right = tokenizer_find(t, scratch + n_left, n_right);
    token_id merged = tokenizer_find(t, scratch, n_left + n_right);
    if (left == TOKEN_NONE || right == TOKEN_NONE || merged == TOKEN_NONE)
        return 0;
    merge_add(t, left, right, rank, merged);
    return 1;
}

static int load_merges(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    const struct gguf_value *v;
    int rc = get_array(f, "tokenizer.ggml.merges", true, 0, &v, e);
    if (rc)
        return rc;
    if (!v)
        return err_set(e, WEIR_EFORMAT,
                       "tokenizer.ggml.merges is missing: a gpt2 vocabulary cannot be used without it");
    if (v->n_elements > TOKENIZER_MAX_MERGES)
        return err_set(e, WEIR_ELIMIT, "tokenizer.ggml.merges has %llu merges; the most is %u",
                       (unsigned long long)v->n_elements, TOKENIZER_MAX_MERGES);
    uint32_t n_slots = 16;
    while (n_slots < v->n_elements / 3 * 4 + 4)
        n_slots *= 2;
    t->merge_mask = n_slots - 1;
    t->merges = mem_array(n_slots, sizeof *t->merges);
    char *scratch = mem_array((size_t)t->longest_name_bytes + 1, 1);
    if (!t->merges || !scratch) {
        free(scratch);
        return err_set(e, WEIR_ENOMEM, "no memory for %llu merges", (unsigned long long)v->n_elements);
    }
    memset(t->merges, 0xff, n_slots * sizeof *t->merges); /* MERGE_FREE */
    uint64_t n_unknown = 0;
    for (uint64_t i = 0; i < v->n_elements && rc >= 0; i++) {
        rc = merge_parse(t, gguf_array_str(v, i), (uint32_t)i, scratch);
        if (rc == WEIR_EFORMAT)
            err_set(e, rc, "tokenizer.ggml.merges[%llu] is not two strings with a space between them",
                    (unsigned long long)i);
        n_unknown += rc == 0;
    }
    free(scratch);
    if (n_unknown)
        LOG(LOG_WARN, "merges of strings that are no tokens are ignored", {"merges", log_u64(n_unknown)});
    return rc < 0 ? rc : 0;
}

static void find_byte_tokens(struct tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char name[8];
        int n = utf8_encode(tokenizer_byte_char((unsigned char)b), name);
        token_id id = t->spm ? TOKEN_NONE : tokenizer_find(t, name, (size_t)n);
        t->byte_tokens[b] = id;
    }
    for (uint32_t i = 0; t->spm && i < t->n_vocab; i++) {
        int b = t->types[i] == TOKEN_BYTE ? named_byte(string_at(&t->names, i)) : -1;
        if (b >= 0 && t->byte_tokens[b] == TOKEN_NONE)
            t->byte_tokens[b] = (token_id)i;
    }
}

/* Scores as integers in descending order of score; equal scores are equal integers. */
static uint32_t score_rank(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

/* Whether a space stands behind another character inside a token. */
static bool crosses_space(struct gguf_str s)
{
    bool other = false;
    for (size_t i = 0; i < s.n;) {
        bool space = s.n - i >= 3 && !memcmp(s.s + i, ESCAPED_SPACE, 3);
        if (space && other)
            return true;
        other = !space;
        i += space ? 3 : 1;
    }
    return false;
}

static int load_spm(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    const struct gguf_value *v;
    int rc = get_array(f, "tokenizer.ggml.scores", false, t->n_vocab, &v, e);
    if (rc)
        return rc;
    if (!v)
        return err_set(e, WEIR_EFORMAT,
                       "tokenizer.ggml.scores is missing: a llama vocabulary cannot be used without it");
    t->ranks = mem_array(t->n_vocab, sizeof *t->ranks);
    if (!t->ranks)
        return err_set(e, WEIR_ENOMEM, "no memory for the scores of %u tokens", t->n_vocab);
    t->split_words = true;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        float score = (float)gguf_array_float(v, i);
        if (isnan(score))
            return err_set(e, WEIR_EFORMAT, "tokenizer.ggml.scores[%u] is not a number", i);
        t->ranks[i] = score_rank(score);
        t->has_unused |= t->types[i] == TOKEN_UNUSED;
        if (!is_control(t, i) && crosses_space(string_at(&t->names, i)))
            t->split_words = false;
    }
    t->add_space_prefix = true;
    rc = gguf_get_bool(f, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, e);
    if (rc && rc != WEIR_ENOTFOUND)
        return rc;
    rc = gguf_get_bool(f, "tokenizer.ggml.remove_extra_whitespaces", &t->remove_extra_spaces, e);
    return rc == WEIR_ENOTFOUND ? 0 : rc;
}

/* ---- all of it ---- */

static int load_kind(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    struct gguf_str model, pre = {"default", 7};
    int rc = gguf_get_str(f, "tokenizer.ggml.model", &model, e);
    if (rc == WEIR_ENOTFOUND)
        return err_set(e, WEIR_EFORMAT, "tokenizer.ggml.model is missing: this file has no tokenizer");
    if (rc)
        return rc;
    if (model.n == 5 && !memcmp(model.s, "llama", 5)) {
        t->spm = true;
        snprintf(t->kind, sizeof t->kind, "spm");
        return 0;
    }
    if (model.n != 4 || memcmp(model.s, "gpt2", 4) != 0)
        return err_set(e, WEIR_EUNSUPPORTED,
                       "tokenizer.ggml.model '%.*s' is not supported; weir knows gpt2 (byte-level BPE) and llama "
                       "(SentencePiece)",
                       (int)(model.n < 64 ? model.n : 64), model.s);
    rc = gguf_get_str(f, "tokenizer.ggml.pre", &pre, e);
    if (rc == WEIR_ENOTFOUND)
        LOG(LOG_WARN, "the file names no pre-tokenizer (tokenizer.ggml.pre), so the default one is used");
    else if (rc)
        return rc;
    snprintf(t->kind, sizeof t->kind, "bpe/%.*s", (int)(pre.n < 64 ? pre.n : 64), pre.s);
    return pretokenizer_create(&t->pretokenizer, pre, &t->traits, e);
}

static int load(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    int rc = load_kind(t, f, e);
    if (rc || (rc = load_names(t, f, e)) || (rc = load_types(t, f, e)) || (rc = load_special_ids(t, f, e)) ||
        (rc = t->spm ? load_spm(t, f, e) : load_merges(t, f, e)))
        return rc;
    find_byte_tokens(t);
    mark_stripping(t, f);
    if ((rc = build_pieces(t, e)))
        return rc;
    return build_specials(t, e);
}

int tokenizer_create(struct tokenizer **out, const struct gguf *file, struct err *e)
{
    *out = NULL;
    struct tokenizer *t = mem_array(1, sizeof *t);
    if (!t)
        return err_set(e, WEIR_ENOMEM, "no memory for a tokenizer");
    int rc = load(t, file, e);
    if (rc) {
        tokenizer_destroy(t);
        return rc;
    }
    *out = t;
    return 0;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (!t)
        return;
    pretokenizer_destroy(t->pretokenizer);
    free(t->names.text);
    free(t->names.at);
    free(t->pieces.text);
    free(t->pieces.at);
    free(t->types);
    free(t->flags);
    free(t->by_name);
    free(t->specials);
    free(t->merges);
    free(t->ranks);
    free(t);
}
