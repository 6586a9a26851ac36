#include "base/file.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_map(struct file_map *m, const char *path, struct err *e)
{
    *m = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "%s", path);
    struct stat st;
    int r = 0;
    if (fstat(fd, &st)) {
        r = err_errno(e, "%s", path);
    } else if (!S_ISREG(st.st_mode)) {
        r = err_set(e, WEIR_EIO, "%s: not a regular file", path);
    } else if (st.st_size == 0) {
        r = err_set(e, WEIR_EFORMAT, "%s: the file is empty", path);
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            r = err_errno(e, "%s: mmap of %lld bytes", path, (long long)st.st_size);
        else
            *m = (struct file_map){.data = p, .n_bytes = (size_t)st.st_size, .fd = fd};
    }
    if (r)
        close(fd);
    return r;
}

void file_unmap(struct file_map *m)
{
    union {
        const unsigned char *in;
        void *out;
    } p = {.in = m->data};
    if (m->data) {
        munmap(p.out, m->n_bytes);
        close(m->fd);
    }
    *m = (struct file_map){0};
}

int file_read_at(const struct file_map *m, size_t at, size_t n, void *out, struct err *e)
{
    for (unsigned char *to = out; n;) {
        const ssize_t got = pread(m->fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(e, "reading %zu bytes at %zu", n, at);
        if (!got)
            return err_set(e, WEIR_EIO, "the file ends at %zu: it has been cut since it was opened", at);
        to += got;
        at += (size_t)got;
        n -= (size_t)got;
    }
    return 0;
}

int file_read(const char *path, size_t max_bytes, char **out, size_t *out_n, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "%s", path);
    struct buf b;
    buf_init(&b, max_bytes);
    char piece[16384];
    int r = 0;
    for (;;) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = err_errno(e, "%s", path);
        else if (n > 0 && buf_add(&b, piece, (size_t)n))
            r = err_set(e, b.failed, "%s: larger than %zu bytes", path, max_bytes);
        if (r || n == 0)
            break;
    }
    close(fd);
    *out_n = b.len;
    *out = r ? NULL : buf_detach(&b);
    buf_finish(&b);
    if (!r && !*out)
        r = err_set(e, WEIR_ENOMEM, "%s: no memory", path);
    return r;
}
