/* Tokenizers from GGUF metadata (ggml's docs/gguf.md): text to token ids and back.
 *
 * Kinds: byte-level BPE (tokenizer.ggml.model = gpt2; words are cut as tokenizer.ggml.pre says, see pretokenizer.h),
 * and SentencePiece's BPE with byte fallback (llama). Others are refused with an error that names them.
 *
 * A tokenizer copies what it needs from the file and is immutable after creation: any thread may use it at the same
 * time. Text is bytes with a length, up to 1 GiB; text that is not valid UTF-8 is handled as bytes (no failure, nothing
 * lost). Models whose own tokenizer normalises (Qwen, StableLM 2, MPT, OLMo, Command-R: Unicode's form C) get
 * normalised text; for the others decoding gives back what was encoded. Cost is near-linear in the text's length, also
 * for adversarial text (a megabyte of one letter).
 *
 * A file may hold 4,194,304 tokens, 8,388,608 merges and 256 MiB of token text. Of tokens with the same name encoding
 * gives the first; empty tokens are never given; merges that name no tokens are ignored (with a warning), as are
 * special ids outside the vocabulary. A byte that the vocabulary cannot say becomes the unknown token, or nothing if
 * there is none.
 */
#ifndef WEIR_MODEL_TOKENIZER_H
#define WEIR_MODEL_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"
#include "model/gguf.h"

#include <stdbool.h>
#include <stdint.h>

typedef int32_t token_id; /* 0 .. n_vocab-1; TOKEN_NONE where there is none */
#define TOKEN_NONE ((token_id)-1)

struct tokenizer; /* opaque */

int tokenizer_create(struct tokenizer **out, const struct gguf *file, struct err *e);
void tokenizer_destroy(struct tokenizer *t);

uint32_t tokenizer_n_vocab(const struct tokenizer *t);
const char *tokenizer_kind(const struct tokenizer *t); /* "bpe/llama-bpe", "spm": for inspect */

token_id tokenizer_bos(const struct tokenizer *t);
token_id tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t); /* the model's own rule, for plain completions */

/* EOS, EOT and the other tokens that end a turn of this model: generation stops on them. */
bool tokenizer_is_end(const struct tokenizer *t, token_id id);

enum {
    TOKENIZE_ADD_SPECIAL = 1,  /* put BOS (and EOS) where the model's rules want them */
    TOKENIZE_PARSE_SPECIAL = 2 /* text of control tokens ("<|im_start|>") becomes those tokens */
};

/* Appends nothing: writes a fresh array of *n_out ids to *out (free()). max_tokens bounds it: WEIR_ELIMIT past it. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int flags, size_t max_tokens,
                     token_id **out, size_t *n_out, struct err *e);

/* The bytes of one token as they appear in output text; special (control) tokens give nothing unless with_special.
 * The pointer lives as long as the tokenizer. Any id outside the vocabulary gives nothing. */
struct gguf_str tokenizer_piece(const struct tokenizer *t, token_id id, bool with_special);

/* The token's literal name in the vocabulary (for inspect and chat templates' bos_token). */
struct gguf_str tokenizer_name(const struct tokenizer *t, token_id id);

/* Whole sequences: appends the text to out, byte for byte. Undoes the space that SentencePiece adds at the beginning
 * and behind each special token that is shown. Fails only as out does. */
int tokenizer_decode(const struct tokenizer *t, const token_id *ids, size_t n, bool with_special, struct buf *out);

/* Incremental detokenisation: text is handed out only on UTF-8 borders, so that pieces joined together equal
 * tokenizer_decode of all tokens, with bytes that can never become valid UTF-8 replaced by U+FFFD. */
struct detokenizer {
    const struct tokenizer *tokenizer;
    bool with_special;
    bool at_start; /* strip SentencePiece's leading space from the first piece */
    char held[8];  /* an unfinished code point */
    uint8_t n_held;
};

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool with_special, bool at_start);
int detokenizer_push(struct detokenizer *d, token_id id, struct buf *out); /* appends what is complete */
int detokenizer_flush(struct detokenizer *d, struct buf *out);             /* the rest, replaced by U+FFFD */

#endif
