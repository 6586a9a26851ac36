/* Allocation with checked sizes. All return NULL when memory is short or n * size overflows; free with free(),
 * or mem_free_aligned for the aligned one. */
#ifndef WEIR_BASE_MEM_H
#define WEIR_BASE_MEM_H

#include <stddef.h>

/* n zeroed elements of size bytes; n == 0 gives a unique pointer. */
void *mem_array(size_t n, size_t size);

/* realloc to n elements; the old block stays valid when NULL comes back. */
void *mem_resize(void *p, size_t n, size_t size);

/* Zeroed pages aligned to 64 bytes at least (2 MiB with transparent huge pages asked for from 4 MiB on), not touched:
 * the thread that first writes a page places it on its NUMA node. bytes may be 0. */
void *mem_aligned(size_t bytes);
void mem_free_aligned(void *p, size_t bytes);

/* A copy of n bytes with a NUL behind them. */
char *mem_strndup(const char *s, size_t n);

#endif
