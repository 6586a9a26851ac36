/* The Python process that renders chat templates: starting it, asking it, ending it. Internal to chat.c.
 *
 * The process is src/model/jinja_worker.py, carried in the binary; its header comment states the protocol. It gets one
 * socket and /dev/null, an environment of its own, and none of weir's other descriptors. It ends when the socket
 * closes, and by its own alarm if it is busy then.
 *
 * A worker is used by one thread at a time; any thread may start and stop it.
 */
#ifndef WEIR_MODEL_CHAT_WORKER_H
#define WEIR_MODEL_CHAT_WORKER_H

#include "base/err.h"

#include <stddef.h>
#include <sys/types.h>

struct chat_worker {
    pid_t pid; /* 0: none runs */
    int fd;
    char about[160]; /* JSON: versions, and whether the kernel filters its system calls */
};

struct chat_answer {
    char kind;  /* as jinja_worker.py has them */
    char *data; /* NUL-terminated (free()) */
    size_t n;
};

/* WEIR_EUNSUPPORTED when there is no Python with jinja2. */
int chat_worker_start(struct chat_worker *w, size_t memory_bytes, struct err *e);
void chat_worker_stop(struct chat_worker *w); /* at once; nothing if none runs */

/* One question and its answer of at most max_answer_bytes, by the deadline (clock_monotonic_s). WEIR_EIO when the
 * process died, WEIR_ETIMEOUT; after any error the worker is stopped. */
int chat_worker_ask(struct chat_worker *w, char kind, const char *data, size_t n, size_t max_answer_bytes,
                    double deadline_s, struct chat_answer *out, struct err *e);

#endif
