#include "model/chat.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "model/chat_worker.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPILE_S 10.0 /* beyond render_s */
#define MAX_MESSAGE_BYTES 4096

struct chat_template {
    struct chat_limits limits;
    json_t *setup; /* what a worker is told first: templates, variables, limits */
    pthread_mutex_t lock;
    struct chat_worker worker; /* under the lock, like what follows */
    bool is_set_up;
};

const char chat_template_chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static int check_limits(struct chat_limits *l, const struct chat_limits *asked, struct err *e)
{
    *l = asked ? *asked : (struct chat_limits){0};
    if (l->render_s == 0)
        l->render_s = 5;
    if (l->memory_bytes == 0)
        l->memory_bytes = (size_t)512 << 20;
    if (l->max_output_bytes == 0)
        l->max_output_bytes = (size_t)16 << 20;
    if (!(l->render_s > 0 && l->render_s <= 3600))
        return err_set(e, WEIR_EINVAL, "the time limit for chat templates is %g s; at most an hour", l->render_s);
    if (l->memory_bytes > PTRDIFF_MAX || l->max_output_bytes > (size_t)1 << 30)
        return err_set(e, WEIR_EINVAL, "the memory limits for chat templates are out of range");
    return 0;
}

static json_t *limits_json(const struct chat_limits *l)
{
    return json_pack("{s:f, s:I, s:I, s:o}", "render_s", l->render_s, "memory_bytes", (json_int_t)l->memory_bytes,
                     "max_output_bytes", (json_int_t)l->max_output_bytes, "fixed_time_s",
                     l->fixed_time_s == 0 ? json_null() : json_real(l->fixed_time_s));
}

/* -- The worker, under the lock ----------------------------------------------------------------------------------- */

/* The error that an answer other than "o" stands for. */
static int refuse(const struct chat_answer *a, struct err *e)
{
    int code = a->kind == 't' ? WEIR_EINVAL : a->kind == 'y' ? WEIR_EFORMAT : a->kind == 'l' ? WEIR_ELIMIT : WEIR_EIO;
    return err_set(e, code, "%s", a->data);
}

static size_t answer_bound(const struct chat_template *t)
{
    return t->limits.max_output_bytes > MAX_MESSAGE_BYTES ? t->limits.max_output_bytes : MAX_MESSAGE_BYTES;
}

static int set_up(struct chat_template *t, struct err *e)
{
    int r = 0;
    t->is_set_up = false;
    if (!t->worker.pid && (r = chat_worker_start(&t->worker, t->limits.memory_bytes, e)))
        return r;
    char *text = json_dumps(t->setup, JSON_COMPACT);
    if (!text)
        return err_set(e, WEIR_ENOMEM, "no memory for a chat template");
    struct chat_answer a;
    double deadline_s = clock_monotonic_s() + t->limits.render_s + COMPILE_S;
    r = chat_worker_ask(&t->worker, 's', text, strlen(text), answer_bound(t), deadline_s, &a, e);
    free(text);
    if (!r && a.kind != 'o')
        r = refuse(&a, e);
    free(a.data);
    t->is_set_up = !r;
    return r;
}

static int render_once(struct chat_template *t, const char *variables_json, size_t n, struct chat_answer *a,
                       struct err *e)
{
    if (!t->worker.pid || !t->is_set_up) {
        int r = set_up(t, e);
        if (r)
            return r;
    }
    double deadline_s = clock_monotonic_s() + t->limits.render_s;
    int r = chat_worker_ask(&t->worker, 'r', variables_json, n, answer_bound(t), deadline_s, a, e);
    if (r == WEIR_ETIMEOUT)
        return err_set(e, r, "the chat template took longer than %g s", t->limits.render_s);
    return r;
}

/* -- Life --------------------------------------------------------------------------------------------------------- */

/* Sets setup[group][name] to a text and tells the worker; on failure all is as it was. */
static int set_text(struct chat_template *t, const char *group, const char *name, const char *text, struct err *e)
{
    if (!utf8_valid(name, strlen(name)) || !utf8_valid(text, strlen(text)))
        return err_set(e, WEIR_EFORMAT, "it is not UTF-8");
    pthread_mutex_lock(&t->lock);
    json_t *texts = json_object_get(t->setup, group), *before = json_incref(json_object_get(texts, name));
    int r = json_object_set_new(texts, name, json_string(text))
                ? err_set(e, WEIR_ENOMEM, "no memory for a chat template")
                : set_up(t, e);
    if (r) {
        t->is_set_up = false;
        if (before)
            json_object_set(texts, name, before);
        else
            json_object_del(texts, name);
    }
    json_decref(before);
    pthread_mutex_unlock(&t->lock);
    return r;
}

int chat_template_add(struct chat_template *t, const char *name, const char *source, struct err *e)
{
    int r = set_text(t, "templates", name, source, e);
    return r ? err_prefix(e, "chat template %s", name) : 0;
}

int chat_template_define(struct chat_template *t, const char *name, const char *value, struct err *e)
{
    int r = set_text(t, "variables", name, value, e);
    return r ? err_prefix(e, "chat template variable %s", name) : 0;
}

/* Without a worker yet. */
static int create_idle(struct chat_template **out, const struct chat_limits *limits, struct err *e)
{
    *out = NULL;
    struct chat_template *t = mem_array(1, sizeof *t);
    if (!t)
        return err_set(e, WEIR_ENOMEM, "no memory for a chat template");
    int r = check_limits(&t->limits, limits, e);
    if (r) {
        free(t);
        return r;
    }
    t->worker.fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    t->setup = json_pack("{s:{}, s:{}, s:o}", "templates", "variables", "limits", limits_json(&t->limits));
    if (!t->setup) {
        chat_template_destroy(t);
        return err_set(e, WEIR_ENOMEM, "no memory for a chat template");
    }
    *out = t;
    return 0;
}

int chat_template_create(struct chat_template **out, const char *source, const char *bos, const char *eos,
                         const struct chat_limits *limits, struct err *e)
{
    struct chat_template *t;
    int r = create_idle(&t, limits, e);
    *out = NULL;
    if (r)
        return r;
    json_t *variables = json_object_get(t->setup, "variables");
    if ((bos && json_object_set_new(variables, "bos_token", json_string(bos))) ||
        (eos && json_object_set_new(variables, "eos_token", json_string(eos))))
        r = err_set(e, WEIR_EFORMAT, "chat template: bos_token or eos_token is not UTF-8");
    else if ((r = set_text(t, "templates", "default", source, e)))
        err_prefix(e, "chat template");
    if (r) {
        chat_template_destroy(t);
        return r;
    }
    *out = t;
    return 0;
}

void chat_template_destroy(struct chat_template *t)
{
    if (!t)
        return;
    chat_worker_stop(&t->worker);
    pthread_mutex_destroy(&t->lock);
    json_decref(t->setup);
    free(t);
}

/* -- Rendering ---------------------------------------------------------------------------------------------------- */

int chat_template_render(struct chat_template *t, const char *variables_json, size_t n, char **out, size_t *n_out,
                         struct err *e)
{
    *out = NULL;
    *n_out = 0;
    if (n > CHAT_MAX_VARIABLES_BYTES)
        return err_set(e, WEIR_ELIMIT, "the conversation is longer than %zu bytes", CHAT_MAX_VARIABLES_BYTES);
    struct chat_answer a = {0};
    pthread_mutex_lock(&t->lock);
    int r = render_once(t, variables_json, n, &a, e);
    if (r == WEIR_EIO)
        r = render_once(t, variables_json, n, &a, e);
    pthread_mutex_unlock(&t->lock);
    if (!r && a.kind != 'o')
        r = refuse(&a, e);
    if (r) {
        free(a.data);
        return r;
    }
    *out = a.data;
    *n_out = a.n;
    return 0;
}

void chat_template_about(struct chat_template *t, char *out, size_t n_out)
{
    pthread_mutex_lock(&t->lock);
    snprintf(out, n_out, "%s", t->worker.about);
    pthread_mutex_unlock(&t->lock);
}

bool chat_template_mentions(struct chat_template *t, const char *word)
{
    pthread_mutex_lock(&t->lock);
    char *text = json_dumps(t->setup, JSON_COMPACT);
    pthread_mutex_unlock(&t->lock);
    bool found = text && strstr(text, word);
    free(text);
    return found;
}
