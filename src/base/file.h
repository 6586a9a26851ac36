/* Files read whole or mapped. */
#ifndef WEIR_BASE_FILE_H
#define WEIR_BASE_FILE_H

#include "base/err.h"

#include <stddef.h>

/* A read-only mapping. data is valid until file_unmap. A file truncated by someone else while mapped raises SIGBUS:
 * model files are to be replaced by rename, not overwritten. */
struct file_map {
    const unsigned char *data;
    size_t n_bytes;
    int fd; /* the open file, for file_read_at */
};

int file_map(struct file_map *m, const char *path, struct err *e);
void file_unmap(struct file_map *m);

/* n bytes from `at` on, read and not taken from the mapping: no page tables to fill, and what the disk does not give or
 * somebody has cut off is an error, not a signal. Any thread. */
int file_read_at(const struct file_map *m, size_t at, size_t n, void *out, struct err *e);

/* The whole file with a NUL behind it (free()). Refuses more than max_bytes. */
int file_read(const char *path, size_t max_bytes, char **out, size_t *out_n, struct err *e);

#endif
