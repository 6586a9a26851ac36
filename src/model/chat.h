/* Chat templates: a conversation in OpenAI's JSON form to the model's prompt text.
 *
 * A model's Jinja template is rendered by the reference implementation itself, Python's jinja2, in a worker process
 * (src/model/jinja_worker.py, carried in the binary) with Hugging Face's settings: ImmutableSandboxedEnvironment,
 * trim_blocks, lstrip_blocks, loopcontrols, `generation` blocks, raise_exception, strftime_now, tojson without ASCII
 * escapes. The worker has no files, no network, no children, a memory limit and a time limit for each render; if it
 * exceeds the time it is killed and replaced, and the render fails with an error (a client's fault, not a crash). A
 * worker that dies otherwise is replaced once and the render tried again.
 *
 * A chat_template may be used by several threads: renders are serialised by a mutex inside.
 */
#ifndef WEIR_MODEL_CHAT_H
#define WEIR_MODEL_CHAT_H

#include "base/err.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

#define CHAT_MAX_VARIABLES_BYTES ((size_t)64 << 20)

struct chat_template; /* opaque */

struct chat_limits {
    double render_s;         /* time for one render; 0: 5 s */
    size_t memory_bytes;     /* address space of the worker; 0: 512 MiB */
    size_t max_output_bytes; /* 0: 16 MiB; at most 1 GiB */
    double fixed_time_s;     /* what strftime_now takes for now, seconds since the epoch; 0: the clock */
};

/* The template for models that carry none but have the tokens <|im_start|> and <|im_end|>: ChatML. */
extern const char chat_template_chatml[];

/* source: the template's text. bos/eos: the literal special tokens; "" is the empty string, NULL leaves the variable
 * undefined (as Hugging Face does for models that have no such token). limits may be NULL. Compiles at once, so that
 * a broken template is known at start-up: WEIR_EFORMAT with the line. Needs python3 with jinja2 (Debian:
 * python3-jinja2); WEIR_EUNSUPPORTED, saying so, if it is missing. */
int chat_template_create(struct chat_template **out, const char *source, const char *bos, const char *eos,
                         const struct chat_limits *limits, struct err *e);
void chat_template_destroy(struct chat_template *t);

/* A second template of the model, by its name. Hugging Face's rule chooses: "tool_use" renders what has tools, the
 * default all else; templates of other names are compiled and never chosen. */
int chat_template_add(struct chat_template *t, const char *name, const char *source, struct err *e);

/* A variable with this text for every render that does not bring its own: pad_token, unk_token, ... */
int chat_template_define(struct chat_template *t, const char *name, const char *value, struct err *e);

/* The templates and special tokens of a model file: tokenizer.chat_template, tokenizer.chat_template.NAME, and
 * bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token as far as the file has them. Without a
 * template: ChatML if the vocabulary has its tokens, else WEIR_ENOTFOUND. source: a template to use instead of the
 * file's, or NULL. */
int chat_template_open(struct chat_template **out, const struct gguf *file, const struct tokenizer *tokenizer,
                       const char *source, const struct chat_limits *limits, struct err *e);

/* Does the text of a template contain this word? (Whether it knows the role "developer", say.) */
bool chat_template_mentions(struct chat_template *t, const char *word);

/* variables_json: one JSON object with the template's variables: messages, tools, documents, add_generation_prompt,
 * and anything from chat_template_kwargs (they may not replace messages). Returns text in *out (free()), NUL-terminated
 * with *n_out bytes of UTF-8. Lone surrogates that the JSON escapes come out as U+FFFD. WEIR_EINVAL with the template's
 * own message when it raises, or when the variables are not a JSON object; WEIR_ETIMEOUT, WEIR_ELIMIT past the limits;
 * WEIR_EIO when the worker cannot be kept alive. */
int chat_template_render(struct chat_template *t, const char *variables_json, size_t n, char **out, size_t *n_out,
                         struct err *e);

/* The worker in JSON, for logs and `inspect`: {"python": "3.11.2", "jinja2": "3.1.2", "seccomp": true}. Copied. */
void chat_template_about(struct chat_template *t, char *out, size_t n_out);

#endif
