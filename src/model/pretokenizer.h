/* Pre-tokenizers of byte-level BPE vocabularies: text to words, inside which alone merges happen.
 *
 * A pre-tokenizer is one or more regular expressions (stages), applied one after another: each stage cuts every piece
 * that the one before it left into its matches and what lies between them. Lookaheads see the piece, not the text
 * around it. The expressions are those of the models' own tokenizer.json (Oniguruma's semantics, spelled for PCRE2),
 * chosen by the GGUF value tokenizer.ggml.pre.
 *
 * Text is bytes. What is not valid UTF-8 becomes words of its own, one for each run of such bytes; nothing is lost: the
 * words joined together are the text (after normalisation, where the model's tokenizer has one).
 *
 * Immutable after creation; any thread may use it. A splitter is one thread's working memory.
 * Expressions are written so that matching is linear in the text; there is no limit on a match's steps.
 */
#ifndef WEIR_MODEL_PRETOKENIZER_H
#define WEIR_MODEL_PRETOKENIZER_H

#include "base/err.h"
#include "model/gguf.h"

#include <stdbool.h>
#include <stddef.h>

struct pretokenizer; /* opaque */

/* What else a name says about its vocabularies. */
struct pretokenizer_traits {
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
    bool add_bos;       /* unless the file says otherwise */
    bool nfc;           /* text is brought to Unicode's normalisation form C first */
};

/* WEIR_EUNSUPPORTED for a name that is not known; the message lists those that are. */
int pretokenizer_create(struct pretokenizer **out, struct gguf_str name, struct pretokenizer_traits *traits,
                        struct err *e);
void pretokenizer_destroy(struct pretokenizer *p);

struct splitter;
int splitter_create(struct splitter **out, const struct pretokenizer *p, struct err *e);
void splitter_destroy(struct splitter *s);

/* Calls word for each word in order; stops at its first negative return and hands that back. */
typedef int pretokenizer_word_fn(void *context, const char *word, size_t n);
int splitter_split(struct splitter *s, const char *text, size_t n, pretokenizer_word_fn *word, void *context,
                   struct err *e);

#endif
