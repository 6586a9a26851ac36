#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

void *mem_array(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > PTRDIFF_MAX)
        return NULL; /* here, since sanitised callocs abort */
    return calloc(bytes ? bytes : 1, 1);
}

void *mem_resize(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    return realloc(p, bytes ? bytes : 1);
}

static size_t mapped_bytes(size_t bytes)
{
    size_t page = bytes >= 2 * HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 4096;
    if (bytes > SIZE_MAX - page)
        return 0;
    size_t n = (bytes + page - 1) / page * page;
    return n ? n : page;
}

void *mem_aligned(size_t bytes)
{
    size_t n = mapped_bytes(bytes);
    if (!n)
        return NULL;
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (n < 2 * HUGE_PAGE_BYTES) {
        void *p = mmap(NULL, n, prot, flags, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    /* Map one huge page more and trim both ends to the alignment. */
    char *raw = mmap(NULL, n + HUGE_PAGE_BYTES, prot, flags, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    size_t head = (HUGE_PAGE_BYTES - (uintptr_t)raw % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    if (head)
        munmap(raw, head);
    munmap(raw + head + n, HUGE_PAGE_BYTES - head);
    madvise(raw + head, n, MADV_HUGEPAGE);
    return raw + head;
}

void mem_free_aligned(void *p, size_t bytes)
{
    if (p)
        munmap(p, mapped_bytes(bytes));
}

char *mem_strndup(const char *s, size_t n)
{
    if (n == SIZE_MAX)
        return NULL;
    char *d = malloc(n + 1);
    if (!d)
        return NULL;
    memcpy(d, s, n);
    d[n] = 0;
    return d;
}
