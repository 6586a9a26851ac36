/* What the parts of the tokenizer share: tokenizer_load.c fills it, tokenizer_encode.c and tokenizer.c read it. */
#ifndef WEIR_MODEL_TOKENIZER_IMPL_H
#define WEIR_MODEL_TOKENIZER_IMPL_H

#include "model/pretokenizer.h"
#include "model/tokenizer.h"

/* Bounds on what a file may hold. */
#define TOKENIZER_MAX_TOKENS (1u << 22)
#define TOKENIZER_MAX_MERGES (1u << 23)
#define TOKENIZER_MAX_TEXT_BYTES (1u << 28) /* of all tokens together */

/* tokenizer.ggml.token_type, as the format numbers them. */
enum token_type {
    TOKEN_UNDEFINED = 0,
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4, /* added tokens that are text: always found first, always shown */
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6, /* "<0x0A>" */
};

enum token_flags {
    TOKEN_IS_END = 1,
    TOKEN_STRIPS_RIGHT = 2, /* white space behind it in the prompt is dropped */
};

/* Strings end to end: string i is text[at[i] .. at[i + 1]). */
struct string_table {
    char *text;
    uint32_t *at; /* n + 1 */
};

/* Open addressing, linear probing, a power of two of slots, at most half full. */
struct name_slot {
    uint32_t hash;
    uint32_t id_plus_1; /* 0: free */
};

struct merge_slot {
    uint64_t pair; /* left id << 32 | right id; MERGE_FREE */
    uint32_t rank; /* lower merges first */
    token_id merged;
};
#define MERGE_FREE UINT64_MAX

/* Trie of the tokens that are found in text before anything else. Node 0 is the root; a node's children are a list. */
struct special_node {
    uint32_t child, sibling; /* 0: none */
    token_id id;             /* TOKEN_NONE: only a way to longer ones */
    unsigned char byte;
};

struct tokenizer {
    bool spm;
    char kind[80];
    uint32_t n_vocab;
    struct string_table names, pieces;
    uint8_t *types; /* enum token_type */
    uint8_t *flags; /* enum token_flags */
    uint32_t longest_name_bytes;

    struct name_slot *by_name;
    uint32_t name_mask;

    token_id bos, eos, unk;
    bool add_bos, add_eos;

    struct special_node *specials;
    uint32_t n_special_nodes, special_capacity;
    uint32_t special_first[256]; /* child of the root by first byte */

    token_id byte_tokens[256]; /* TOKEN_NONE: the vocabulary has none */

    /* Byte-level BPE. */
    struct pretokenizer *pretokenizer;
    struct pretokenizer_traits traits;
    struct merge_slot *merges;
    uint32_t merge_mask;

    /* SentencePiece. */
    uint32_t *ranks; /* by id: scores in descending order, equal ones equal */
    bool add_space_prefix, remove_extra_spaces;
    bool has_unused;
    bool split_words; /* no token crosses from a character into a following space: words are independent */
};

/* Bytes of a byte-level vocabulary are written as printable characters (the GPT-2 table). */
uint32_t tokenizer_byte_char(unsigned char byte);

static inline struct gguf_str string_at(const struct string_table *t, uint32_t i)
{
    return (struct gguf_str){t->text + t->at[i], t->at[i + 1] - t->at[i]};
}

/* TOKEN_NONE if no token has that name. */
token_id tokenizer_find(const struct tokenizer *t, const char *name, size_t n);

const struct merge_slot *tokenizer_find_merge(const struct tokenizer *t, token_id left, token_id right);

/* Appends the text in normalisation form C; bytes that are not UTF-8 stay as they are. */
int tokenizer_nfc(struct buf *out, const char *text, size_t n);

static inline bool token_in_vocab(const struct tokenizer *t, token_id id)
{
    return id >= 0 && (uint32_t)id < t->n_vocab;
}

#endif
