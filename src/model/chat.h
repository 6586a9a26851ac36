/* Chat templates: a conversation in OpenAI's JSON form to the model's prompt text.
 *
 * The GGUF's Jinja template is rendered by the reference implementation itself, Python's jinja2, in a worker process
 * (src/model/jinja_worker.py, carried in the binary) with Hugging Face's settings: ImmutableSandboxedEnvironment,
 * trim_blocks, lstrip_blocks, loopcontrols, `generation` blocks, raise_exception, strftime_now, tojson without ASCII
 * escapes. The worker has no files, no network, no children, a memory limit and a time limit for each render; if it
 * exceeds them it is killed and replaced, and the render fails with an error (a client's fault, not a crash).
 *
 * A chat_template may be used by several threads: renders are serialised by a mutex inside.
 */
#ifndef WEIR_MODEL_CHAT_H
#define WEIR_MODEL_CHAT_H

#include "base/err.h"

#include <stddef.h>

struct chat_template; /* opaque */

struct chat_limits {
    double render_s;         /* time for one render; 0: 5 s */
    size_t memory_bytes;     /* of the worker; 0: 512 MiB */
    size_t max_output_bytes; /* 0: 16 MiB */
};

/* source: the template's text. bos/eos: the literal special tokens (may be ""). Compiles at once, so that a broken
 * template is known at start-up. Needs python3 with jinja2 (Debian: python3-jinja2); the error says so if it is
 * missing. */
int chat_template_create(struct chat_template **out, const char *source, const char *bos, const char *eos,
                         const struct chat_limits *limits, struct err *e);
void chat_template_destroy(struct chat_template *t);

/* variables_json: one JSON object with the template's variables: messages, tools, documents, add_generation_prompt,
 * and anything from chat_template_kwargs (they may not replace messages). Returns text in *out (free()), NUL-terminated
 * with *n_out bytes. WEIR_EINVAL with the template's own message when it raises; WEIR_ETIMEOUT, WEIR_ELIMIT past the
 * limits. */
int chat_template_render(struct chat_template *t, const char *variables_json, size_t n, char **out, size_t *n_out,
                         struct err *e);

#endif
