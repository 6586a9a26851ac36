/* `weir top`: a server's state in the terminal. */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/top_feed.h"
#include "cli/top_view.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define MAX_SCREEN_BYTES ((size_t)1 << 20)

struct top_config {
    const char *url, *key_file, *ca_file;
    bool once, json, ascii;
    double interval_s;
};

static volatile sig_atomic_t stopped, resized;

static void on_stop(int sig)
{
    stopped = sig;
}

static void on_resize(int sig)
{
    (void)sig;
    resized = 1;
}

static void print_help(const struct option_def *defs)
{
    printf("usage: weir top [options]\n\n"
           "Shows what a running server does: bandwidth and compute, bytes by class, KV memory, requests, and why the\n"
           "queue waits. Where the output is not a terminal, one line an interval, for logs.\n");
    options_help(defs);
    printf("\nKeys: q quits, space pauses (the server then sends nothing), arrows and page keys scroll the requests.\n"
           "Environment: WEIR_URL, WEIR_API_KEY; NO_COLOR turns colours off.\n\n"
           "Examples:\n"
           "  weir top\n"
           "  weir top --url https://gpu7:8443 --ca-file ca.pem --api-key-file admin.key\n"
           "  weir top --once --json | jq .kv.chunks\n"
           "  weir top --interval-s 10 >>weir.log\n");
}

/* The first key of a file in the server's format, or WEIR_API_KEY. */
static int read_key(const char *path, char **text, const char **key, struct err *e)
{
    size_t n;
    *key = getenv("WEIR_API_KEY");
    if (!path)
        return 0;
    int r = file_read(path, (size_t)1 << 20, text, &n, e);
    if (r)
        return err_prefix(e, "--api-key-file");
    char *save = NULL;
    for (char *line = strtok_r(*text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        line += strspn(line, " \t");
        line[strcspn(line, " \t")] = '\0';
        if (*line && *line != '#') {
            *key = line;
            return 0;
        }
    }
    return err_set(e, WEIR_EINVAL, "--api-key-file: %s holds no API key", path);
}

/* ---- Terminal ---- */

static struct termios saved;

static void leave_screen(void)
{
    static const char back[] = "\033[0m\033[?25h\033[?1049l";
    ssize_t ignored = write(STDOUT_FILENO, back, sizeof back - 1);
    (void)ignored;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &saved);
}

static int enter_screen(struct err *e)
{
    if (tcgetattr(STDIN_FILENO, &saved))
        return err_errno(e, "the terminal");
    struct termios raw = saved;
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
    fputs("\033[?1049h\033[?25l\033[2J", stdout);
    fflush(stdout);
    struct sigaction stop = {.sa_handler = on_stop}, resize = {.sa_handler = on_resize};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGHUP, &stop, NULL);
    sigaction(SIGWINCH, &resize, NULL);
    return 0;
}

static void measure(struct top_view *v)
{
    struct winsize w = {0};
    const char *columns = getenv("COLUMNS");
    if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_col)
        v->width = w.ws_col;
    else
        v->width = columns ? (uint32_t)strtoul(columns, NULL, 10) : 100;
    if (v->width < TOP_MIN_WIDTH)
        v->width = TOP_MIN_WIDTH;
    if (v->width > TOP_MAX_WIDTH)
        v->width = TOP_MAX_WIDTH;
    if (v->height && w.ws_row)
        v->height = w.ws_row;
}

static void draw(struct top_view *v, const json_t *state, const char *status)
{
    struct buf out;
    buf_init(&out, MAX_SCREEN_BYTES);
    buf_adds(&out, "\033[H");
    top_view_screen(v, state, status, &out);
    if (out.len > 2 && !memcmp(out.data + out.len - 2, "\r\n", 2))
        out.len -= 2; /* or the last line would scroll the screen */
    fwrite(out.data, 1, out.len, stdout);
    fputs("\033[J", stdout);
    fflush(stdout);
    buf_finish(&out);
}

/* Takes what was typed. Returns false to quit. */
static bool take_keys(struct top_view *v, bool *paused)
{
    char keys[256];
    ssize_t n = read(STDIN_FILENO, keys, sizeof keys - 1);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        return false; /* the terminal is gone */
    keys[n < 0 ? 0 : n] = '\0';
    uint32_t page = v->height > 20 ? v->height / 2 : 5;
    for (const char *k = keys; *k; k++) {
        if (*k == 'q' || *k == 'Q')
            return false;
        if (*k == ' ')
            *paused = !*paused;
        if (*k != '\033' && *k != 'j' && *k != 'k')
            continue;
        const char *seq = *k == 'j' ? "[B" : *k == 'k' ? "[A" : k + 1;
        bool down = !strncmp(seq, "[B", 2) || !strncmp(seq, "[6~", 3),
             far = !strncmp(seq, "[5~", 3) || !strncmp(seq, "[6~", 3);
        uint32_t step = far ? page : 1;
        if (down)
            v->scroll += step;
        else if (far || !strncmp(seq, "[A", 2))
            v->scroll -= v->scroll < step ? v->scroll : step;
        if (*k == '\033' && k[1] == '[')
            k += far ? 3 : 2;
    }
    return true;
}

static int watch(struct top_feed *f, struct top_view *v, struct err *e)
{
    json_t *state = json_object();
    bool paused = false;
    int r = enter_screen(e);
    if (r) {
        json_decref(state);
        return r;
    }
    while (!stopped && !r) {
        if (resized) {
            resized = 0;
            measure(v);
            fputs("\033[2J", stdout);
        }
        draw(v, state, paused ? "paused" : top_feed_status(f));
        if (paused)
            top_feed_pause(f);
        r = paused ? 0 : top_feed_wait(f, STDIN_FILENO, 1.0, e);
        json_t *next = top_feed_take(f);
        if (next) {
            json_decref(state);
            state = next;
            top_view_remember(v, state);
        }
        fd_set in;
        FD_ZERO(&in);
        FD_SET(STDIN_FILENO, &in);
        struct timeval wait = {.tv_sec = paused};
        if (select(STDIN_FILENO + 1, &in, NULL, NULL, &wait) > 0 && !take_keys(v, &paused))
            break;
    }
    leave_screen();
    json_decref(state);
    return r;
}

/* ---- Lines ---- */

static int print_state(const json_t *state, const struct top_config *c, struct top_view *v, bool screen)
{
    struct buf out;
    buf_init(&out, TOP_MAX_STATE_BYTES);
    if (c->json) {
        json_put_value(&out, state);
        buf_addc(&out, '\n');
    } else if (screen) {
        top_view_remember(v, state);
        top_view_screen(v, state, "live", &out);
    } else {
        top_view_line(state, &out);
    }
    size_t written = fwrite(out.data, 1, out.len, stdout);
    bool ok = written == out.len && !fflush(stdout);
    buf_finish(&out);
    return ok ? 0 : WEIR_EIO;
}

static int print_lines(struct top_feed *f, const struct top_config *c, struct top_view *v, struct err *e)
{
    double next_s = 0;
    int r = 0;
    char said[640] = "";
    struct sigaction stop = {.sa_handler = on_stop};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);
    while (!stopped && !r) {
        r = top_feed_wait(f, -1, 1.0, e);
        json_t *state = top_feed_take(f);
        const char *status = top_feed_status(f);
        if (!state && strcmp(status, said) && strcmp(status, "live") && strcmp(status, "connecting"))
            fprintf(stderr, "weir top: %s; trying again\n", status);
        snprintf(said, sizeof said, "%s", status);
        double now = clock_monotonic_s();
        if (state && now >= next_s) {
            next_s = (next_s ? next_s : now) + c->interval_s;
            if (next_s < now)
                next_s = now;
            if (print_state(state, c, v, false)) /* the reader has gone: done */
                stopped = 1;
        }
        json_decref(state);
    }
    return r;
}

static int run(const struct top_config *c, struct err *e)
{
    char *key_text = NULL;
    const char *key, *no_colour = getenv("NO_COLOR"), *url = c->url ? c->url : getenv("WEIR_URL");
    int r = read_key(c->key_file, &key_text, &key, e);
    struct top_feed_config fc = {.url = url ? url : "http://127.0.0.1:8080", .api_key = key, .ca_file = c->ca_file};
    struct top_feed *f = NULL;
    if (!r)
        r = top_feed_create(&f, &fc, e);
    bool terminal = isatty(STDOUT_FILENO);
    const char *term = getenv("TERM");
    bool screen = terminal && isatty(STDIN_FILENO) && term && strcmp(term, "dumb");
    setlocale(LC_CTYPE, "");
    struct top_view v = {.height = 0,
                         .utf8 = !c->ascii && !strcmp(nl_langinfo(CODESET), "UTF-8"),
                         .colour = screen && !(no_colour && *no_colour)};
    measure(&v);
    if (!r && c->once) {
        json_t *state;
        r = top_feed_once(f, &state, e);
        if (!r) {
            r = print_state(state, c, &v, true) ? err_errno(e, "the output") : 0;
            json_decref(state);
        }
    } else if (!r && screen && !c->json) {
        v.height = 24;
        v.to_end = true;
        measure(&v);
        r = watch(f, &v, e);
    } else if (!r) {
        r = print_lines(f, c, &v, e);
    }
    top_feed_destroy(f);
    if (key_text)
        explicit_bzero(key_text, strlen(key_text));
    free(key_text);
    return r;
}

int cmd_top(int argc, char **argv)
{
    struct top_config c = {0};
    const struct option_def defs[] = {
        OPTION("url", OPT_STR, &c.url, "URL", "the server (default WEIR_URL, or http://127.0.0.1:8080)"),
        OPTION("api-key-file", OPT_STR, &c.key_file, "FILE", "an admin's API key (default: WEIR_API_KEY)"),
        OPTION("ca-file", OPT_STR, &c.ca_file, "FILE", "PEM of the authority that signed the server's certificate"),
        OPTION("once", OPT_FLAG, &c.once, NULL, "show the state once and exit"),
        OPTION("json", OPT_FLAG, &c.json, NULL, "states as JSON, one a line (docs/observability.md)"),
        OPTION("interval-s", OPT_F64, &c.interval_s, "S",
               "between lines at least (default: as often as the server tells)"),
        OPTION("ascii", OPT_FLAG, &c.ascii, NULL, "no characters but ASCII"),
        OPTIONS_END};
    struct options o;
    struct err e;
    int r = options_parse(&o, defs, argc, argv, &e), status = 0;
    if (!r && o.n_positional)
        r = err_set(&e, WEIR_EINVAL, "unexpected '%s'", o.positional[0]);
    if (r) {
        status = 2;
    } else if (o.help) {
        print_help(defs);
    } else {
        r = run(&c, &e);
        status = r ? 1 : 0;
    }
    if (r)
        fprintf(stderr, "weir top: %s\n", e.msg);
    options_finish(&o);
    return status;
}
