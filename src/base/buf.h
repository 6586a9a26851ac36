/* A growable byte buffer with a mandatory bound, stated at construction.
 *
 *   struct buf b;
 *   buf_init(&b, 1 << 20);
 *   buf_printf(&b, "%d", 3);
 *   if (b.failed) ...            // checked once at the end
 *   buf_finish(&b);
 *
 * An append that would pass the bound (WEIR_ELIMIT) or finds no memory (WEIR_ENOMEM) changes nothing and sets
 * `failed`, after which every further append is refused too. data is always NUL-terminated behind len (the NUL does
 * not count), and may be NULL while len is 0. One owner; not for sharing between threads.
 */
#ifndef WEIR_BASE_BUF_H
#define WEIR_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len;
    size_t capacity_bytes;
    size_t max_bytes;
    int failed; /* 0 or the first error */
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_finish(struct buf *b);
void buf_clear(struct buf *b); /* keeps the memory, forgets content and failure */

int buf_add(struct buf *b, const void *data, size_t n);
int buf_adds(struct buf *b, const char *s);
int buf_addc(struct buf *b, char c);
int buf_add_u64(struct buf *b, uint64_t v); /* in decimal digits */
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Removes n <= len bytes from the front. */
void buf_consume(struct buf *b, size_t n);

/* Hands the bytes to the caller (free()); the buffer is empty after. NULL if it failed; "" if empty. */
char *buf_detach(struct buf *b);

#endif
