/* Files that the binary carries (EMBED in the Makefile). The bytes live as long as the program and are read-only. */
#ifndef WEIR_BASE_EMBED_H
#define WEIR_BASE_EMBED_H

struct embed_file {
    const char *name;
    const unsigned char *begin, *end; /* a NUL byte stands at end */
};

extern const struct embed_file embed_files[]; /* ends with a NULL name */

/* NULL when this build carries no file of that name. */
const struct embed_file *embed_find(const char *name);

#endif
