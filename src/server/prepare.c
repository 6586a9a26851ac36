#include "server/prepare.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct prepare {
    struct prepare_config config;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct prepare_job *first, *last;
    uint32_t n_jobs;
    size_t n_bytes;
    bool stop;
    pthread_t *threads;
    uint32_t n_threads;
};

static int check_model(const struct prepare_config *c, const char *name, struct api_error *e)
{
    if (!name || !*name)
        return 0;
    for (const char *const *m = c->models; *m; m++) {
        if (!strcmp(*m, name))
            return 0;
    }
    return api_error_set(e, 404, "model_not_found", "model", "the model '%.200s' does not exist; this server has '%s'",
                         name, c->models[0]);
}

static int fail(struct api_error *e, const struct err *err, const char *param)
{
    switch (err->code) {
    case WEIR_ENOMEM:
    case WEIR_EIO:
        return api_error_set(e, 500, "internal_error", NULL, "%s", err->msg);
    default:
        return api_error_set(e, 400, "invalid_value", param, "%s", err->msg);
    }
}

/* Renders the conversation into prompts[0].text. */
static int render(const struct prepare_config *c, struct api_params *p, struct api_error *e)
{
    struct err err;
    if (!c->chat)
        return api_error_set(e, 400, "no_chat_template", "messages",
                             "this model has no chat template; use /v1/completions or start with --chat-template");
    p->prompts = mem_array(1, sizeof *p->prompts);
    if (!p->prompts)
        return api_error_set(e, 500, "out_of_memory", NULL, "no memory for this request");
    p->n_prompts = 1;
    if (chat_template_render(c->chat, p->variables, p->n_variables, &p->prompts[0].text, &p->prompts[0].n_text, &err))
        return fail(e, &err, "messages");
    free(p->variables);
    p->variables = NULL;
    return 0;
}

static int tokenise(const struct prepare_config *c, struct api_params *p, struct api_error *e)
{
    int flags = TOKENIZE_PARSE_SPECIAL | (p->add_special ? TOKENIZE_ADD_SPECIAL : 0);
    struct err err;
    for (uint32_t i = 0; i < p->n_prompts; i++) {
        struct api_prompt *q = &p->prompts[i];
        if (!q->text)
            continue;
        /* No more tokens than bytes, besides BOS and EOS and a leading space. */
        if (tokenizer_encode(c->tokenizer, q->text, q->n_text, flags, q->n_text + 8, &q->ids, &q->n_ids, &err))
            return fail(e, &err, p->kind == API_CHAT ? "messages" : "prompt");
        free(q->text);
        q->text = NULL;
    }
    return 0;
}

static int check_lengths(const struct prepare_config *c, const struct api_params *p, struct api_error *e)
{
    const char *param = p->kind == API_CHAT ? "messages" : "prompt";
    for (uint32_t i = 0; i < p->n_prompts; i++) {
        size_t n = p->prompts[i].n_ids;
        if (!n)
            return api_error_set(e, 400, "invalid_value", param, "the prompt has no tokens");
        if (n + 1 > c->max_context)
            return api_error_set(e, 400, "context_length_exceeded", param,
                                 "the prompt has %zu tokens; this model's context is %u tokens, prompt and output "
                                 "together",
                                 n, c->max_context);
        if (n + p->max_tokens > c->max_context)
            return api_error_set(e, 400, "context_length_exceeded", "max_tokens",
                                 "the prompt has %zu tokens and %u more are asked for; this model's context is %u "
                                 "tokens, prompt and output together",
                                 n, p->max_tokens, c->max_context);
    }
    return 0;
}

static int write_tokens(const struct prepare_config *c, struct prepare_job *job, struct buf *out)
{
    const struct api_prompt *q = &job->params.prompts[0];
    buf_printf(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", q->n_ids, c->max_context);
    for (size_t i = 0; i < q->n_ids; i++)
        buf_printf(out, "%s%d", i ? "," : "", q->ids[i]);
    buf_addc(out, ']');
    if (job->params.token_strings) {
        buf_adds(out, ",\"token_strs\":[");
        for (size_t i = 0; i < q->n_ids; i++) {
            struct gguf_str s = tokenizer_piece(c->tokenizer, q->ids[i], true);
            buf_adds(out, i ? "," : "");
            json_put_str(out, s.s, s.n);
        }
        buf_addc(out, ']');
    }
    return buf_addc(out, '}');
}

/* Both names that servers use for the text: vLLM's and llama.cpp's. */
static int write_text(const struct prepare_config *c, struct prepare_job *job, struct buf *out)
{
    struct buf text;
    buf_init(&text, (size_t)256 << 20);
    const struct api_prompt *q = &job->params.prompts[0];
    int r = tokenizer_decode(c->tokenizer, q->ids, q->n_ids, true, &text);
    buf_adds(out, "{\"prompt\":");
    json_put_str(out, text.data ? text.data : "", text.len);
    buf_adds(out, ",\"content\":");
    json_put_str(out, text.data ? text.data : "", text.len);
    buf_addc(out, '}');
    buf_finish(&text);
    return r ? r : out->failed;
}

static int prepare_one(const struct prepare_config *c, struct prepare_job *job)
{
    struct api_error *e = &job->error;
    struct api_params *p = &job->params;
    struct api_limits limits = {.n_vocab = tokenizer_n_vocab(c->tokenizer),
                                .template_knows_developer = c->template_knows_developer,
                                .itl_target_min_s = c->itl_target_min_s};
    if (api_params_parse(p, job->kind, job->body, job->n_body, &limits, e))
        return -1;
    free(job->body);
    job->body = NULL;
    if (check_model(c, p->model, e) || (p->variables && render(c, p, e)))
        return -1;
    if (job->kind != API_DETOKENIZE && tokenise(c, p, e))
        return -1;
    if (job->kind == API_CHAT || job->kind == API_COMPLETION)
        return check_lengths(c, p, e);
    struct buf out;
    buf_init(&out, (size_t)1 << 30);
    int r = job->kind == API_TOKENIZE ? write_tokens(c, job, &out) : write_text(c, job, &out);
    job->n_answer = out.len;
    job->answer = r ? NULL : buf_detach(&out);
    buf_finish(&out);
    return job->answer ? 0 : api_error_set(e, 500, "out_of_memory", NULL, "no memory for this answer");
}

static void hand_back(struct prepare *p, struct prepare_job *job)
{
    int r = ring_push(p->config.done, job);
    assert(!r && "the done ring has room for every job");
    (void)r;
}

static void *work(void *arg)
{
    struct prepare *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->first && !p->stop)
            pthread_cond_wait(&p->wake, &p->lock);
        if (p->stop)
            break;
        struct prepare_job *job = p->first;
        p->first = job->next;
        if (!p->first)
            p->last = NULL;
        p->n_jobs--;
        p->n_bytes -= job->n_body;
        pthread_mutex_unlock(&p->lock);
        double began = clock_monotonic_s();
        prepare_one(&p->config, job);
        job->seconds = clock_monotonic_s() - began;
        hand_back(p, job);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int prepare_create(struct prepare **out, const struct prepare_config *c, struct err *e)
{
    struct prepare *p = mem_array(1, sizeof *p);
    if (!p)
        return err_set(e, WEIR_ENOMEM, "no memory for the worker threads");
    p->config = *c;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->threads = mem_array(c->n_threads, sizeof *p->threads);
    for (uint32_t i = 0; p->threads && i < c->n_threads; i++) {
        if (pthread_create(&p->threads[i], NULL, work, p))
            break;
        p->n_threads++;
    }
    if (p->n_threads < c->n_threads || !p->threads) {
        prepare_destroy(p);
        return err_set(e, WEIR_ENOMEM, "cannot start %u worker threads", c->n_threads);
    }
    *out = p;
    return 0;
}

void prepare_destroy(struct prepare *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    for (struct prepare_job *job = p->first, *next; job; job = next) {
        next = job->next;
        api_error_set(&job->error, 503, "shutting_down", NULL, "the server is shutting down");
        hand_back(p, job);
    }
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
}

int prepare_submit(struct prepare *p, struct prepare_job *job)
{
    pthread_mutex_lock(&p->lock);
    bool full = p->n_jobs >= p->config.max_jobs || job->n_body > p->config.max_job_bytes - p->n_bytes;
    if (!full) {
        job->next = NULL;
        if (p->last)
            p->last->next = job;
        else
            p->first = job;
        p->last = job;
        p->n_jobs++;
        p->n_bytes += job->n_body;
        pthread_cond_signal(&p->wake);
    }
    pthread_mutex_unlock(&p->lock);
    return full ? WEIR_EBUSY : 0;
}

void prepare_job_finish(struct prepare_job *job)
{
    free(job->body);
    free(job->answer);
    api_params_finish(&job->params);
    *job = (struct prepare_job){.kind = job->kind};
}
