#include "model/chat_worker.h"

#include "base/clock.h"
#include "base/embed.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_S 30.0 /* for Python to come up on a busy machine */
#define FRAME_HEAD_BYTES 5

/* -- Frames ------------------------------------------------------------------------------------------------------- */

/* Waits until the socket is ready for `events`. */
static int wait_for(const struct chat_worker *w, short events, double deadline_s, struct err *e)
{
    for (;;) {
        double left_s = deadline_s - clock_monotonic_s();
        if (left_s <= 0)
            return err_set(e, WEIR_ETIMEOUT, "the chat template's process did not answer in time");
        struct pollfd p = {.fd = w->fd, .events = events};
        int r = poll(&p, 1, left_s > 1000 ? 1000000 : (int)(left_s * 1000) + 1);
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return err_errno(e, "poll");
    }
}

static int died(struct err *e)
{
    return err_set(e, WEIR_EIO, "the chat template's process ended unexpectedly");
}

static int send_all(const struct chat_worker *w, const char *data, size_t n, double deadline_s, struct err *e)
{
    while (n) {
        ssize_t sent = send(w->fd, data, n, MSG_NOSIGNAL);
        if (sent > 0) {
            data += sent;
            n -= (size_t)sent;
        } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return died(e);
        } else {
            int r = wait_for(w, POLLOUT, deadline_s, e);
            if (r)
                return r;
        }
    }
    return 0;
}

static int receive_all(const struct chat_worker *w, char *data, size_t n, double deadline_s, struct err *e)
{
    while (n) {
        ssize_t got = recv(w->fd, data, n, 0);
        if (got > 0) {
            data += got;
            n -= (size_t)got;
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            return died(e);
        } else {
            int r = wait_for(w, POLLIN, deadline_s, e);
            if (r)
                return r;
        }
    }
    return 0;
}

static int receive_answer(const struct chat_worker *w, size_t max_bytes, double deadline_s, struct chat_answer *out,
                          struct err *e)
{
    unsigned char head[FRAME_HEAD_BYTES];
    int r = receive_all(w, (char *)head, sizeof head, deadline_s, e);
    if (r)
        return r;
    size_t n = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    if (n > max_bytes)
        return err_set(e, WEIR_EIO, "the chat template's process answered with %zu bytes", n);
    char *data = mem_array(n + 1, 1);
    if (!data)
        return err_set(e, WEIR_ENOMEM, "no memory for a prompt of %zu bytes", n);
    r = receive_all(w, data, n, deadline_s, e);
    if (r) {
        free(data);
        return r;
    }
    *out = (struct chat_answer){.kind = (char)head[4], .data = data, .n = n};
    return 0;
}

int chat_worker_ask(struct chat_worker *w, char kind, const char *data, size_t n, size_t max_answer_bytes,
                    double deadline_s, struct chat_answer *out, struct err *e)
{
    *out = (struct chat_answer){0};
    if (n > UINT32_MAX)
        return err_set(e, WEIR_ELIMIT, "%zu bytes for a chat template are too many", n);
    const char head[FRAME_HEAD_BYTES] = {(char)n, (char)(n >> 8), (char)(n >> 16), (char)(n >> 24), kind};
    int r = send_all(w, head, sizeof head, deadline_s, e);
    if (!r)
        r = send_all(w, data, n, deadline_s, e);
    if (!r)
        r = receive_answer(w, max_answer_bytes, deadline_s, out, e);
    if (r)
        chat_worker_stop(w);
    return r;
}

/* -- The process -------------------------------------------------------------------------------------------------- */

void chat_worker_stop(struct chat_worker *w)
{
    if (!w->pid)
        return;
    close(w->fd);
    kill(w->pid, SIGKILL);
    while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *w = (struct chat_worker){.fd = -1};
}

/* Above the numbers that the child's descriptors get, so that none is overwritten while they are put in place. */
static int move_up(int fd)
{
    int up = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 10);
    if (fd >= 0)
        close(fd);
    return up;
}

/* The script as a file without a name, read by the child from descriptor 3. */
static int open_script(struct err *e)
{
    const struct embed_file *script = embed_find("jinja_worker");
    if (!script)
        return err_set(e, WEIR_EUNSUPPORTED, "this build of weir carries no chat-template worker");
    size_t n = (size_t)(script->end - script->begin);
    int fd = move_up(memfd_create("jinja_worker", MFD_CLOEXEC));
    if (fd < 0)
        return err_errno(e, "memfd_create");
    if (write(fd, script->begin, n) != (ssize_t)n || lseek(fd, 0, SEEK_SET) != 0) {
        err_errno(e, "writing the chat-template worker");
        close(fd);
        return WEIR_EIO;
    }
    return fd;
}

static int spawn(pid_t *pid, const char *python, int socket_fd, int script_fd, size_t memory_bytes)
{
    char memory[32], zone[256], path[4096];
    const char *tz = getenv("TZ"), *search = getenv("PATH");
    snprintf(memory, sizeof memory, "%zu", memory_bytes);
    /* Named even if it is the default, since then the C library does not look at the file again. */
    snprintf(zone, sizeof zone, "TZ=%s", tz && *tz ? tz : ":/etc/localtime");
    snprintf(path, sizeof path, "PATH=%s", search ? search : "/usr/bin:/bin");
    char name[] = "python3", isolated[] = "-I", no_cache[] = "-B", command[] = "-c", locale[] = "LC_ALL=C.UTF-8";
    char bootstrap[] =
        "import os; code = os.read(3, 1 << 20); os.close(3); exec(compile(code, 'jinja_worker', 'exec'))";
    char *const argv[] = {name, isolated, no_cache, command, bootstrap, memory, NULL};
    char *const envp[] = {path, zone, locale, NULL};

    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int r = posix_spawn_file_actions_init(&files);
    if (r)
        return r;
    r = posix_spawnattr_init(&attributes);
    if (r) {
        posix_spawn_file_actions_destroy(&files);
        return r;
    }
    if (!(r = posix_spawn_file_actions_adddup2(&files, socket_fd, 0)) &&
        !(r = posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_RDWR, 0)) &&
        !(r = posix_spawn_file_actions_adddup2(&files, 1, 2)) &&
        !(r = posix_spawn_file_actions_adddup2(&files, script_fd, 3)) &&
        !(r = posix_spawn_file_actions_addclosefrom_np(&files, 4)) &&
        !(r = posix_spawnattr_setsigmask(&attributes, &none)) &&
        !(r = posix_spawnattr_setsigdefault(&attributes, &all)) &&
        !(r = posix_spawnattr_setpgroup(&attributes, 0)) && /* a terminal's ^C is not for it */
        !(r = posix_spawnattr_setflags(&attributes,
                                       POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP)))
        r = posix_spawnp(pid, python, &files, &attributes, argv, envp);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return r;
}

/* One Python: started and heard from. */
static int start_with(struct chat_worker *w, const char *python, size_t memory_bytes, struct err *e)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return err_errno(e, "socketpair");
    ends[1] = move_up(ends[1]);
    int script = ends[1] < 0 ? err_errno(e, "fcntl") : open_script(e);
    if (script < 0) {
        close(ends[0]);
        if (ends[1] >= 0)
            close(ends[1]);
        return script;
    }
    pid_t pid;
    int r = spawn(&pid, python, ends[1], script, memory_bytes);
    close(script);
    close(ends[1]);
    if (r) {
        close(ends[0]);
        return err_set(e, WEIR_EUNSUPPORTED, "%s: %s", python, strerror(r));
    }
    *w = (struct chat_worker){.pid = pid, .fd = ends[0]};
    struct chat_answer hello = {0};
    if (fcntl(w->fd, F_SETFL, O_NONBLOCK))
        r = err_errno(e, "fcntl");
    else
        r = receive_answer(w, 4096, clock_monotonic_s() + START_S, &hello, e);
    if (!r && hello.kind != 'h')
        r = err_set(e, WEIR_EUNSUPPORTED, "%s: %s", python, hello.data);
    if (!r)
        snprintf(w->about, sizeof w->about, "%s", hello.data);
    else
        chat_worker_stop(w);
    free(hello.data);
    return r;
}

int chat_worker_start(struct chat_worker *w, size_t memory_bytes, struct err *e)
{
    /* Debian's own first: that one has Debian's jinja2, whatever else is on the PATH. */
    static const char *const pythons[] = {"/usr/bin/python3", "python3"};
    struct err tried[2] = {0};
    *w = (struct chat_worker){.fd = -1};
    for (int i = 0; i < 2; i++) {
        int r = start_with(w, pythons[i], memory_bytes, &tried[i]);
        if (!r)
            return 0;
    }
    return err_set(e, WEIR_EUNSUPPORTED,
                   "chat templates need Python 3 with jinja2 (Debian: python3-jinja2); tried %.150s; %.150s",
                   tried[0].msg, tried[1].msg);
}
