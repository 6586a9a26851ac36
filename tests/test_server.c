/* The server against an engine that does what each test wants: failures, refusals, bursts, and cancels that a real
 * engine shows too rarely. The engine_* functions that the server calls are defined here, instead of the library's. */
#include "test.h"

#include "base/log.h"
#include "engine/watch.h"
#include "model/gguf.h"
#include "server/server.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

#define MODEL "tests/golden/llama3.gguf"

/* ---- The engine ---- */

enum script { FAIL_AT_ONCE, FAIL_AFTER_TOKEN, REFUSE, BUSY, BUSY_LATER, BURST, HOLD };

static struct {
    _Atomic enum script script;
    _Atomic bool healthy;
    pthread_mutex_t lock;
    struct gen_request held[64];
    uint64_t n_submitted, n_cancelled;
} fake = {.healthy = true, .lock = PTHREAD_MUTEX_INITIALIZER};

static void send_token(const struct gen_request *r, uint64_t id, const char *text)
{
    struct sample sample = {.id = 5, .logprob = -1};
    r->sink(&(struct gen_event){
        .id = id, .user = r->user, .text = text, .n_text = strlen(text), .has_token = true, .sample = &sample});
}

static void send_end(const struct gen_request *r, uint64_t id, enum finish_reason finish, const char *error)
{
    r->sink(&(struct gen_event){.id = id,
                                .user = r->user,
                                .text = "",
                                .finish = finish,
                                .error = error,
                                .n_prompt_tokens = r->n_prompt,
                                .n_output_tokens = 3,
                                .refusal = {.reason = SCHED_REFUSED_QUEUE_FULL, .retry_after_s = 2.5}});
}

/* Events may come before submit returns: from an engine's thread they do. */
int engine_submit(struct engine *en, const struct gen_request *r, uint64_t *id, struct err *e)
{
    (void)en;
    pthread_mutex_lock(&fake.lock);
    *id = ++fake.n_submitted;
    fake.held[*id % 64] = *r;
    pthread_mutex_unlock(&fake.lock);
    if (fake.script == BUSY || (fake.script == BUSY_LATER && *id % 2 == 0))
        return err_set(e, WEIR_EBUSY, "the inbox is full");
    free(r->prompt);
    if (fake.script == FAIL_AFTER_TOKEN)
        send_token(r, *id, "some");
    if (fake.script == BURST) {
        for (int i = 0; i < 1000; i++)
            send_token(r, *id, "\xc3\xa9\"\n");
        send_end(r, *id, FINISH_STOP, NULL);
    }
    if (fake.script == FAIL_AT_ONCE || fake.script == FAIL_AFTER_TOKEN)
        send_end(r, *id, FINISH_FAILED, "the device caught fire");
    if (fake.script == REFUSE)
        send_end(r, *id, FINISH_REFUSED, NULL);
    return 0;
}

void engine_cancel(struct engine *en, uint64_t id)
{
    (void)en;
    pthread_mutex_lock(&fake.lock);
    struct gen_request r = fake.held[id % 64];
    fake.n_cancelled++;
    pthread_mutex_unlock(&fake.lock);
    send_token(&r, id, "late");
    send_end(&r, id, FINISH_CANCELLED, NULL);
}

void engine_stats(struct engine *en, struct engine_stats *out)
{
    (void)en;
    *out = (struct engine_stats){.healthy = fake.healthy};
}

uint32_t engine_take_steps(struct engine *en, struct step_record *out, uint32_t max, uint64_t *n_lost)
{
    (void)en, (void)out, (void)max;
    *n_lost = 0;
    return 0;
}

/* A view is there at once, or never. */
static struct engine_view view = {.chunks_per_cell = 1, .n_cells = 3, .cells = {-2, -2, -1}};
static atomic_bool view_hangs;

int engine_view_fd(const struct engine *en)
{
    static int fd = -1;
    (void)en;
    return fd < 0 ? fd = eventfd(0, EFD_NONBLOCK) : fd;
}

void engine_ask_view(struct engine *en)
{
    if (!view_hangs)
        eventfd_write(engine_view_fd(en), 1);
}

const struct engine_view *engine_take_view(struct engine *en)
{
    eventfd_t ignored;
    return eventfd_read(engine_view_fd(en), &ignored) ? NULL : &view;
}

static uint64_t cancelled(void)
{
    pthread_mutex_lock(&fake.lock);
    uint64_t n = fake.n_cancelled;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

static uint64_t submitted(void)
{
    pthread_mutex_lock(&fake.lock);
    uint64_t n = fake.n_submitted;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

/* ---- The server ---- */

static struct gguf *file;
static struct tokenizer *tokenizer;
static struct auth auth;
static struct ledger *ledger;
static struct server *server;
static pthread_t thread;

static void *serve(void *arg)
{
    server_run(arg);
    return NULL;
}

static int start(void **state)
{
    (void)state;
    static const char *const none[] = {NULL}, *const models[] = {"m", NULL};
    struct err e;
    log_setup(LOG_OFF, LOG_TEXT);
    if (gguf_open(&file, MODEL, &e) || tokenizer_create(&tokenizer, file, &e) || ledger_create(&ledger, NULL, 0, &e)) {
        print_error("%s\n", e.msg);
        return -1;
    }
    struct server_config c = {.http = {.host = "127.0.0.1",
                                       .max_header_bytes = 65536,
                                       .max_body_bytes = 1 << 20,
                                       .max_output_bytes = 1 << 20,
                                       .max_receiving_bytes = 1 << 24,
                                       .max_connections = 64,
                                       .idle_timeout_s = 30,
                                       .header_timeout_s = 30},
                              .auth = &auth,
                              .cors_origins = none,
                              .tokenizer = tokenizer,
                              .models = models,
                              .info = {.model = "m", .max_context = 1000, .chunk_tokens = 4},
                              .figures = {.price_per_bandwidth_hour = -1},
                              .ledger = ledger,
                              .n_prepare_threads = 2,
                              .drain_timeout_s = 5};
    if (server_create(&server, &c, &e)) {
        print_error("%s\n", e.msg);
        return -1;
    }
    return pthread_create(&thread, NULL, serve, server);
}

static int stop(void **state)
{
    (void)state;
    raise(SIGTERM);
    pthread_join(thread, NULL);
    server_destroy(server);
    ledger_destroy(ledger);
    tokenizer_destroy(tokenizer);
    gguf_close(file);
    return 0;
}

/* ---- A client ---- */

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(server_port(server))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 20}, sizeof(struct timeval));
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void post(int fd, const char *body)
{
    char text[4096];
    int n = snprintf(text, sizeof text,
                     "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    assert_int_equal(write(fd, text, (size_t)n), n);
}

/* Everything until the server closes; static text. */
static const char *answer(int fd)
{
    static char text[1 << 20];
    size_t n = 0;
    ssize_t got;
    while (n < sizeof text - 1 && (got = read(fd, text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    close(fd);
    text[n] = 0;
    return text;
}

static const char *ask(enum script script, const char *body)
{
    fake.script = script;
    int fd = dial();
    post(fd, body);
    return answer(fd);
}

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %.2000s", part, text);
}

static size_t count(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        n++;
    return n;
}

static void test_failures(void **state)
{
    (void)state;
    const char *a = ask(FAIL_AT_ONCE, "{\"prompt\":\"x\"}");
    contains(a, "HTTP/1.1 500 ");
    contains(a, "the device caught fire");
    a = ask(FAIL_AT_ONCE, "{\"prompt\":\"x\",\"stream\":true}");
    contains(a, "HTTP/1.1 500 "); /* nothing was sent yet: a plain error */
    a = ask(FAIL_AFTER_TOKEN, "{\"prompt\":\"x\"}");
    contains(a, "HTTP/1.1 500 ");
}

static void test_failure_after_the_stream_began(void **state)
{
    (void)state;
    fake.script = HOLD;
    uint64_t before = submitted();
    int fd = dial();
    post(fd, "{\"prompt\":\"x\",\"stream\":true}");
    while (submitted() == before)
        usleep(1000);
    uint64_t id = before + 1;
    pthread_mutex_lock(&fake.lock);
    struct gen_request r = fake.held[id % 64];
    pthread_mutex_unlock(&fake.lock);
    send_token(&r, id, "some");
    char first[4096];
    ssize_t n = read(fd, first, sizeof first - 1);
    assert_true(n > 0);
    send_end(&r, id, FINISH_FAILED, "the device caught fire");
    const char *a = answer(fd);
    contains(a, "data: {\"error\":{\"message\":\"the device caught fire\"");
    assert_null(strstr(a, "[DONE]"));
}

static void test_refusals(void **state)
{
    (void)state;
    const char *bodies[] = {"{\"prompt\":\"x\"}", "{\"prompt\":\"x\",\"stream\":true}", "{\"prompt\":\"x\",\"n\":3}"};
    for (int i = 0; i < 3; i++) {
        const char *a = ask(REFUSE, bodies[i]);
        contains(a, "HTTP/1.1 429 ");
        contains(a, "Retry-After: 3\r\n"); /* 2.5 rounded up */
        contains(a, "\"code\":\"queue_full\"");
        contains(ask(BUSY, bodies[i]), "HTTP/1.1 429 ");
    }
}

static void test_half_submitted_call_is_cancelled(void **state)
{
    (void)state;
    if (submitted() % 2)
        ask(REFUSE, "{\"prompt\":\"x\"}"); /* so that the second choice is refused */
    uint64_t before = cancelled();
    contains(ask(BUSY_LATER, "{\"prompt\":\"x\",\"n\":2}"), "HTTP/1.1 429 ");
    assert_int_equal(cancelled(), before + 1);
}

static void test_burst(void **state)
{
    (void)state;
    const char *a = ask(BURST, "{\"prompt\":\"x\",\"n\":2,\"max_tokens\":900}");
    contains(a, "HTTP/1.1 200 ");
    assert_int_equal(count(a, "\xc3\xa9\\\"\\n"), 2000);
    contains(a, "\"completion_tokens\":6"); /* the engine's count */
    a = ask(BURST, "{\"prompt\":\"x\",\"stream\":true,\"max_tokens\":900}");
    assert_int_equal(count(a, "\"text\":\"\xc3\xa9\\\"\\n\""), 1000);
    assert_int_equal(count(a, "\"finish_reason\":\"stop\""), 1);
    contains(a, "data: [DONE]\n\n");
    contains(ask(BURST, "{\"prompt\":\"x\",\"logprobs\":0,\"max_tokens\":900}"), "\"token_logprobs\":[-1,-1,");
}

static void test_client_that_leaves(void **state)
{
    (void)state;
    for (int stream = 0; stream < 2; stream++) {
        fake.script = HOLD;
        uint64_t before = cancelled(), known = submitted();
        int fd = dial();
        post(fd, stream ? "{\"prompt\":\"x\",\"n\":2,\"stream\":true}" : "{\"prompt\":\"x\",\"n\":2}");
        while (submitted() < known + 2)
            usleep(1000);
        close(fd);
        for (int i = 0; i < 5000 && cancelled() < before + 2; i++)
            usleep(1000);
        assert_int_equal(cancelled(), before + 2);
    }
}

static void test_ready(void **state)
{
    (void)state;
    static const char get[] = "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (int healthy = 0; healthy < 2; healthy++) {
        fake.healthy = healthy;
        int fd = dial();
        assert_int_equal(write(fd, get, sizeof get - 1), sizeof get - 1);
        contains(answer(fd), healthy ? "HTTP/1.1 200 " : "HTTP/1.1 503 ");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures), cmocka_unit_test(test_failure_after_the_stream_began),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_half_submitted_call_is_cancelled),
        cmocka_unit_test(test_burst),    cmocka_unit_test(test_client_that_leaves),
        cmocka_unit_test(test_ready),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
