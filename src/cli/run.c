/* `weir run`: one prompt, or a conversation, in the terminal. */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/ring.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "model/model.h"

#include <editline/readline.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT_BYTES ((size_t)16 << 20)

struct run_config {
    struct load_config load;
    const char *prompt, *file, *system;
    bool raw, show_stats;
    uint32_t max_tokens, top_k, seed;
    double temperature, top_p, min_p, repetition_penalty;
    struct option_list stops;
};

/* What one generation hands from the engine's thread to this one. */
struct turn {
    pthread_mutex_t lock;
    struct ring wake; /* kicked when something below changed */
    struct buf text;  /* not yet printed */
    bool ended;
    enum finish_reason finish;
    char error[256];
    uint32_t n_prompt, n_cached, n_output;
    double first_s, last_s; /* when the first and the newest token came */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static void on_event(const struct gen_event *ev)
{
    struct turn *t = ev->user;
    double now_s = clock_monotonic_s();
    pthread_mutex_lock(&t->lock);
    buf_add(&t->text, ev->text, ev->n_text);
    if (ev->has_token) {
        t->first_s = ev->n_output_tokens == 1 ? now_s : t->first_s;
        t->last_s = now_s;
    }
    t->n_prompt = ev->n_prompt_tokens;
    t->n_cached = ev->n_cached_tokens;
    t->n_output = ev->n_output_tokens;
    if (ev->finish != FINISH_NONE) {
        t->ended = true;
        t->finish = ev->finish;
        if (ev->finish == FINISH_REFUSED)
            snprintf(t->error, sizeof t->error, "%s",
                     ev->refusal.reason == SCHED_REFUSED_LATE ? "the first token would come later than --ttft-limit"
                                                              : "the text does not fit the context");
        else if (ev->finish == FINISH_FAILED)
            snprintf(t->error, sizeof t->error, "%s", ev->error ? ev->error : "the device failed");
    }
    ring_kick(&t->wake); /* inside the lock: the turn is gone once its end was seen */
    pthread_mutex_unlock(&t->lock);
}

/* Prints what comes until the end; all of it is kept in `reply`. Ctrl-C cancels the generation. */
static void print_until_end(struct turn *t, struct engine *en, uint64_t id, struct buf *reply)
{
    bool cancelled = false, ended = false;
    while (!ended) {
        struct buf piece;
        ring_wait(&t->wake, 1);
        ring_drain(&t->wake, NULL, 0);
        pthread_mutex_lock(&t->lock);
        piece = t->text;
        buf_init(&t->text, MAX_TEXT_BYTES);
        ended = t->ended;
        pthread_mutex_unlock(&t->lock);
        if (piece.len) {
            fwrite(piece.data, 1, piece.len, stdout);
            fflush(stdout);
            buf_add(reply, piece.data, piece.len);
        }
        buf_finish(&piece);
        if (interrupted && !cancelled) {
            engine_cancel(en, id);
            cancelled = true;
        }
    }
}

static void print_stats(const struct turn *t, double start_s, const struct engine_stats *before,
                        const struct engine_stats *after)
{
    double prefill_s = t->first_s - start_s, decode_s = t->last_s - t->first_s, busy_s = after->busy_s - before->busy_s;
    const struct step_traffic *a = &after->traffic, *b = &before->traffic;
    double bytes = (double)(a->weight_bytes - b->weight_bytes) + (double)(a->kv_read_bytes - b->kv_read_bytes) +
                   (double)(a->kv_write_bytes - b->kv_write_bytes);
    fprintf(stderr, "\n[prompt %u tokens (%u from cache), first token after %.3f s; ", t->n_prompt, t->n_cached,
            prefill_s);
    fprintf(stderr, "output %u tokens", t->n_output);
    if (t->n_output > 1 && decode_s > 0)
        fprintf(stderr, ", %.1f tokens/s", (t->n_output - 1) / decode_s);
    if (busy_s > 0)
        fprintf(stderr, "; %.2f GB moved, %.1f GB/s", bytes / 1e9, bytes / busy_s / 1e9);
    fprintf(stderr, "]\n");
}

/* Generates from tokens (taken over) and appends the text to reply. */
static int generate(const struct run_config *c, struct loaded *l, token_id *tokens, size_t n, struct buf *reply,
                    struct err *e)
{
    struct turn t = {.lock = PTHREAD_MUTEX_INITIALIZER};
    int fail = ring_init(&t.wake, 1, e);
    if (fail) {
        free(tokens);
        return fail;
    }
    buf_init(&t.text, MAX_TEXT_BYTES);
    struct gen_request r = {.prompt = tokens,
                            .n_prompt = (uint32_t)n,
                            .max_new_tokens = c->max_tokens,
                            .stops = c->stops.items,
                            .n_stops = (uint32_t)c->stops.n,
                            .sink = on_event,
                            .user = &t};
    sampling_params_default(&r.sampling);
    r.sampling.temperature = (float)c->temperature;
    r.sampling.top_k = (int32_t)c->top_k;
    r.sampling.top_p = (float)c->top_p;
    r.sampling.min_p = (float)c->min_p;
    r.sampling.repetition_penalty = (float)c->repetition_penalty;
    r.sampling.seed = c->seed ? c->seed : (uint64_t)(clock_wall_s() * 1e6);
    struct engine_stats before, after;
    engine_stats(l->engine, &before);
    uint64_t id;
    interrupted = 0;
    double start_s = clock_monotonic_s();
    fail = engine_submit(l->engine, &r, &id, e);
    if (fail) {
        free(tokens);
    } else {
        print_until_end(&t, l->engine, id, reply);
        engine_stats(l->engine, &after);
        if (t.error[0])
            fail = err_set(e, WEIR_ELIMIT, "%s", t.error);
        else if (c->show_stats)
            print_stats(&t, start_s, &before, &after);
    }
    buf_finish(&t.text);
    pthread_mutex_destroy(&t.lock);
    ring_finish(&t.wake);
    return fail;
}

static int complete_text(const struct run_config *c, struct loaded *l, const char *text, size_t n, int flags,
                         struct buf *reply, struct err *e)
{
    token_id *tokens;
    size_t n_tokens;
    int fail = tokenizer_encode(l->tokenizer, text, n, flags, l->config.sched.max_context, &tokens, &n_tokens, e);
    if (fail)
        return fail;
    if (!n_tokens) {
        free(tokens);
        return err_set(e, WEIR_EINVAL, "the prompt is empty");
    }
    return generate(c, l, tokens, n_tokens, reply, e);
}

/* --- conversations ---------------------------------------------------------------------------------------------- */

static int add_message(json_t *messages, const char *role, const char *text, size_t n)
{
    json_t *m = json_object();
    if (json_object_set_new(m, "role", json_string(role)) || json_object_set_new(m, "content", json_stringn(text, n)) ||
        json_array_append_new(messages, m)) {
        json_decref(m);
        return WEIR_EINVAL;
    }
    return 0;
}

static json_t *new_conversation(const struct run_config *c)
{
    json_t *messages = json_array();
    if (messages && c->system && add_message(messages, "system", c->system, strlen(c->system))) {
        json_decref(messages);
        return NULL;
    }
    return messages;
}

/* One user message and its answer; a turn that failed leaves the conversation as it was. */
static int chat_turn(const struct run_config *c, struct loaded *l, json_t *messages, const char *text, size_t n,
                     struct err *e)
{
    size_t length = json_array_size(messages);
    if (add_message(messages, "user", text, n))
        return err_set(e, WEIR_EINVAL, "the message is not valid UTF-8");
    struct buf reply, variables;
    buf_init(&reply, MAX_TEXT_BYTES);
    buf_init(&variables, 2 * MAX_TEXT_BYTES);
    buf_adds(&variables, "{\"add_generation_prompt\":true,\"messages\":");
    json_put_value(&variables, messages);
    buf_addc(&variables, '}');
    char *prompt = NULL;
    size_t n_prompt = 0;
    int fail = variables.failed ? err_set(e, variables.failed, "the conversation is too long")
                                : chat_template_render(l->chat, variables.data, variables.len, &prompt, &n_prompt, e);
    if (!fail)
        fail = complete_text(c, l, prompt, n_prompt, TOKENIZE_PARSE_SPECIAL, &reply, e);
    if (!fail && reply.len && !add_message(messages, "assistant", reply.data, reply.len))
        length = json_array_size(messages);
    while (json_array_size(messages) > length)
        json_array_remove(messages, json_array_size(messages) - 1);
    free(prompt);
    buf_finish(&variables);
    buf_finish(&reply);
    return fail;
}

static char *read_line(bool terminal)
{
    if (terminal)
        return readline("> ");
    char *line = NULL;
    size_t room = 0;
    ssize_t n = getline(&line, &room, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n && line[n - 1] == '\n')
        line[n - 1] = 0;
    return line;
}

static const char interactive_help[] = "/reset   forget the conversation\n"
                                       "/stats   print speed and bytes after each answer, or stop to\n"
                                       "/quit    leave (also Ctrl-D); Ctrl-C stops an answer\n";

static int converse(struct run_config *c, struct loaded *l, struct err *e)
{
    bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (terminal)
        fprintf(stderr, "%s. Type a message; /help lists commands.\n", l->model->name);
    json_t *messages = new_conversation(c);
    if (!messages)
        return err_set(e, WEIR_EINVAL, "--system is not valid UTF-8");
    int last = 0;
    for (char *line; (line = read_line(terminal)); free(line)) {
        if (terminal && *line)
            add_history(line);
        if (!strcmp(line, "/quit")) {
            free(line);
            break;
        }
        if (!strcmp(line, "/help")) {
            fputs(interactive_help, stderr);
        } else if (!strcmp(line, "/reset")) {
            json_decref(messages);
            messages = new_conversation(c);
        } else if (!strcmp(line, "/stats")) {
            c->show_stats = !c->show_stats;
        } else if (*line) {
            struct err turn_error = {0};
            last = chat_turn(c, l, messages, line, strlen(line), &turn_error);
            putchar('\n');
            if (last)
                fprintf(stderr, "weir: %s\n", turn_error.msg);
        }
    }
    json_decref(messages);
    return terminal ? 0 : last ? err_set(e, last, "the last message was not answered") : 0;
}

/* --- the command ------------------------------------------------------------------------------------------------ */

static int one_shot(const struct run_config *c, struct loaded *l, const char *text, size_t n, struct err *e)
{
    int fail;
    if (c->raw || !l->chat) {
        struct buf reply;
        buf_init(&reply, MAX_TEXT_BYTES);
        fail = complete_text(c, l, text, n, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, &reply, e);
        buf_finish(&reply);
    } else {
        json_t *messages = new_conversation(c);
        fail =
            messages ? chat_turn(c, l, messages, text, n, e) : err_set(e, WEIR_EINVAL, "--system is not valid UTF-8");
        json_decref(messages);
    }
    putchar('\n');
    return fail;
}

static int run(struct run_config *c, struct err *e)
{
    struct loaded l;
    char *text = NULL;
    size_t n = c->prompt ? strlen(c->prompt) : 0;
    int fail = load_setup_log(&c->load, e);
    if (!fail && c->file)
        fail = file_read(strcmp(c->file, "-") ? c->file : "/dev/stdin", MAX_TEXT_BYTES, &text, &n, e);
    if (!fail)
        fail = load_open(&l, &c->load, e);
    if (fail) {
        free(text);
        return fail;
    }
    struct sigaction on = {.sa_handler = on_interrupt}, old;
    sigaction(SIGINT, &on, &old);
    if (text || c->prompt)
        fail = one_shot(c, &l, text ? text : c->prompt, n, e);
    else if (l.chat)
        fail = converse(c, &l, e);
    else
        fail = err_set(e, WEIR_EINVAL, "the model has no chat template: give a text with -p or --file");
    sigaction(SIGINT, &old, NULL);
    free(text);
    load_close(&l);
    return fail;
}

static void print_help(const struct option_def *defs)
{
    printf("usage: weir run [MODEL.gguf] [-p TEXT] [options]\n\n"
           "Answers one message, or without -p talks in the terminal. Without MODEL.gguf: the bundled demo model.\n");
    options_help(defs);
    printf("\nExamples:\n"
           "  weir run -p 'What is 12 + 30?'\n"
           "  weir run model.gguf                          # a conversation; /help lists its commands\n"
           "  weir run model.gguf --raw -p 'Once upon a' --max-tokens 64 --temperature 0\n"
           "  git diff | weir run model.gguf --system 'Review this change.' --file -\n");
}

int cmd_run(int argc, char **argv)
{
    struct run_config c = {.temperature = 0.7, .top_p = 0.95, .top_k = 40, .repetition_penalty = 1};
    load_config_default(&c.load);
    c.load.max_running = 1;
    c.load.log_level = "warn";
    const struct option_def defs[] = {
        OPTIONS_TITLE("Prompt"),
        OPTION("prompt", OPT_STR, &c.prompt, "TEXT", "message to answer", .letter = 'p'),
        OPTION("file", OPT_STR, &c.file, "FILE", "the message from a file; - is standard input"),
        OPTION("system", OPT_STR, &c.system, "TEXT", "system message", .letter = 's'),
        OPTION("raw", OPT_FLAG, &c.raw, NULL, "continue the text as it is, without the chat template"),
        OPTION("stats", OPT_FLAG, &c.show_stats, NULL, "print speed and bytes moved"),
        OPTIONS_TITLE("Sampling"),
        OPTION("max-tokens", OPT_U32, &c.max_tokens, "N", "output tokens (default: to the context's end)",
               .max = 1 << 24, .letter = 'n'),
        OPTION("temperature", OPT_F64, &c.temperature, "T", "0 takes the likeliest token (default 0.7)", .max = 100),
        OPTION("top-k", OPT_U32, &c.top_k, "N", "of the likeliest tokens only; 0: all (default 40)", .max = 1 << 24),
        OPTION("top-p", OPT_F64, &c.top_p, "P", "of those that make up P (default 0.95)", .min = 1e-6, .max = 1),
        OPTION("min-p", OPT_F64, &c.min_p, "P", "of those at least P times as likely as the likeliest (default 0)",
               .max = 1),
        OPTION("repetition-penalty", OPT_F64, &c.repetition_penalty, "R", "1 is none (default 1)", .min = 0.01,
               .max = 100),
        OPTION("seed", OPT_U32, &c.seed, "N", "0: another one each time (default 0)"),
        OPTION("stop", OPT_LIST, &c.stops, "TEXT", "end before this text (may be repeated)"),
        LOAD_OPTIONS(&c.load),
        OPTIONS_END,
    };
    struct options o;
    struct err e = {0};
    int fail = options_parse(&o, defs, argc, argv, &e);
    if (!fail && o.help) {
        print_help(defs);
        options_finish(&o);
        return 0;
    }
    if (!fail && o.n_positional > 1)
        fail = err_set(&e, WEIR_EINVAL, "one model file, not %zu; a message goes behind -p", o.n_positional);
    int status = fail ? 2 : 1;
    if (!fail) {
        c.load.model_path = o.n_positional ? o.positional[0] : c.load.model_path;
        fail = run(&c, &e);
    }
    if (fail)
        fprintf(stderr, "weir run: %s\n", e.msg);
    options_finish(&o);
    return fail ? status : 0;
}
