#include "server/api_params.h"

#include "base/hash.h"
#include "base/mem.h"
#include "server/api_reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TARGET_S 86400.0
#define MIN_TTFT_S 0.001

static const char *error_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "service_unavailable_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

int api_error_set(struct api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
{
    *e = (struct api_error){.status = status, .type = error_type(status), .code = code};
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return -1;
}

int reader_fail(struct reader *r, const char *param, const char *fmt, ...)
{
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    return api_error_set(r->e, 400, "invalid_value", param, "%s", message);
}

int reader_no_memory(struct reader *r)
{
    return api_error_set(r->e, 500, "out_of_memory", NULL, "no memory for this request");
}

/* Maps a JSON reader's result: 1 read, 0 absent, -1 refused (with the field named). */
static int outcome(struct reader *r, int code, const char *key, const struct err *err)
{
    if (code == WEIR_ENOTFOUND)
        return 0;
    return code ? api_error_set(r->e, 400, "invalid_value", key, "%s", err->msg) : 1;
}

int reader_int(struct reader *r, const char *key, int64_t min, int64_t max, int64_t *out)
{
    struct err err;
    return outcome(r, json_get_int(r->body, key, min, max, out, &err), key, &err);
}

int reader_u32(struct reader *r, const char *key, int64_t min, int64_t max, uint32_t *out)
{
    int64_t v;
    int got = reader_int(r, key, min, max, &v);
    if (got > 0)
        *out = (uint32_t)v;
    return got;
}

int reader_float(struct reader *r, const char *key, double min, double max, float *out)
{
    struct err err;
    double v;
    int got = outcome(r, json_get_number(r->body, key, min, max, &v, &err), key, &err);
    if (got > 0)
        *out = (float)v;
    return got;
}

int reader_double(struct reader *r, const char *key, double min, double max, double *out)
{
    struct err err;
    return outcome(r, json_get_number(r->body, key, min, max, out, &err), key, &err);
}

int reader_bool(struct reader *r, const char *key, bool *out)
{
    struct err err;
    return outcome(r, json_get_bool(r->body, key, out, &err), key, &err);
}

int reader_str(struct reader *r, const char *key, const char **out, size_t *n)
{
    struct err err;
    return outcome(r, json_get_str(r->body, key, out, n, &err), key, &err);
}

const json_t *reader_member(struct reader *r, const char *key)
{
    const json_t *v = json_object_get(r->body, key);
    return json_is_null(v) ? NULL : v;
}

/* Parameters that would change the answer and that weir does not have: refused unless their value is the neutral one
 * (false, 0, "", [], {}). */
static int refuse_unsupported(struct reader *r)
{
    static const char *const names[] = {
        "suffix",
        "stop_token_ids",
        "bad_words",
        "allowed_token_ids",
        "prompt_logprobs",
        "prompt_embeds",
        "use_beam_search",
        "truncate_prompt_tokens",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "grammar",
        "json_schema",
        "structured_outputs",
        "functions",
        "chat_template",
        "audio",
        "continue_final_message",
        "typical_p",
        "mirostat",
        "logits_processors",
        "thinking_token_budget",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = reader_member(r, names[i]);
        bool neutral = !v || json_is_false(v) || (json_is_string(v) && !json_string_length(v)) ||
                       (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v)) ||
                       (json_is_integer(v) && !json_integer_value(v)) ||
                       (!strcmp(names[i], "typical_p") && json_is_number(v) && json_number_value(v) == 1);
        if (!neutral)
            return api_error_set(r->e, 400, "unsupported_parameter", names[i], "'%s' is not supported", names[i]);
    }
    const json_t *format = reader_member(r, "response_format");
    if (format) {
        const char *type = json_string_value(json_object_get(format, "type"));
        if (!type)
            return reader_fail(r, "response_format", "'response_format' must be an object with a 'type'");
        if (strcmp(type, "text"))
            return api_error_set(r->e, 400, "unsupported_value", "response_format",
                                 "'response_format' of type '%.60s' is not supported, only 'text'", type);
    }
    return 0;
}

static int read_sampling(struct reader *r, struct api_params *p)
{
    struct sampling_params *s = &p->sampling;
    int64_t top_k = 0, seed;
    if (reader_float(r, "temperature", 0, 2, &s->temperature) < 0 || reader_float(r, "top_p", 0, 1, &s->top_p) < 0 ||
        reader_int(r, "top_k", -1, INT32_MAX, &top_k) < 0 || reader_float(r, "min_p", 0, 1, &s->min_p) < 0 ||
        reader_float(r, "repetition_penalty", 0.01, 10, &s->repetition_penalty) < 0 ||
        reader_float(r, "presence_penalty", -2, 2, &s->presence_penalty) < 0 ||
        reader_float(r, "frequency_penalty", -2, 2, &s->frequency_penalty) < 0)
        return -1;
    /* OpenAI's range includes 0, the sampler's does not: the smallest nucleus is the best token either way. */
    if (s->top_p < 1e-6f)
        s->top_p = 1e-6f;
    s->top_k = (int32_t)top_k;
    int got = reader_int(r, "seed", INT64_MIN, INT64_MAX, &seed);
    if (got > 0) {
        p->has_seed = true;
        s->seed = (uint64_t)seed;
    }
    return got < 0 ? -1 : 0;
}

static int read_logit_bias(struct reader *r, struct api_params *p)
{
    const json_t *map = reader_member(r, "logit_bias");
    if (!map)
        return 0;
    if (!json_is_object(map))
        return reader_fail(r, "logit_bias", "'logit_bias' must be an object of token ids and biases, not %s",
                           json_type_name(map));
    size_t n = json_object_size(map);
    if (n > SAMPLER_MAX_BIAS)
        return reader_fail(r, "logit_bias", "'logit_bias' has %zu entries; at most %d are allowed", n,
                           SAMPLER_MAX_BIAS);
    p->bias = mem_array(n, sizeof *p->bias);
    if (!p->bias)
        return reader_no_memory(r);
    uint32_t i = 0;
    for (void *it = json_object_iter((json_t *)(uintptr_t)map); it;
         it = json_object_iter_next((json_t *)(uintptr_t)map, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        char *end;
        errno = 0;
        unsigned long id = strtoul(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || errno || id >= r->limits->n_vocab)
            return reader_fail(r, "logit_bias", "'logit_bias' names '%.40s', which is not a token id below %u", key,
                               r->limits->n_vocab);
        double bias = json_number_value(v);
        if (!json_is_number(v) || !(bias >= -100 && bias <= 100))
            return reader_fail(r, "logit_bias", "'logit_bias' of token %lu must be a number from -100 to 100", id);
        p->bias[i++] = (struct logit_bias){.id = (token_id)id, .bias = (float)bias};
    }
    p->sampling.bias = p->bias;
    p->sampling.n_bias = i;
    return 0;
}

static int add_stop(struct reader *r, struct api_params *p, const json_t *v)
{
    if (!json_is_string(v))
        return reader_fail(r, "stop", "'stop' must be a string or an array of strings, not %s", json_type_name(v));
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    if (!n || n > API_MAX_STOP_BYTES || memchr(s, 0, n))
        return reader_fail(r, "stop", "each string of 'stop' must have 1 to %d bytes and no NUL", API_MAX_STOP_BYTES);
    if (p->n_stops == API_MAX_STOPS)
        return reader_fail(r, "stop", "'stop' has more than %d strings", API_MAX_STOPS);
    p->stops[p->n_stops] = mem_strndup(s, n);
    if (!p->stops[p->n_stops])
        return reader_no_memory(r);
    p->n_stops++;
    return 0;
}

static int read_stops(struct reader *r, struct api_params *p)
{
    const json_t *v = reader_member(r, "stop");
    if (!v)
        return 0;
    if (!json_is_array(v))
        return add_stop(r, p, v);
    for (size_t i = 0; i < json_array_size(v); i++) {
        if (add_stop(r, p, json_array_get(v, i)))
            return -1;
    }
    return 0;
}

static int read_stream(struct reader *r, struct api_params *p)
{
    if (reader_bool(r, "stream", &p->stream) < 0)
        return -1;
    const json_t *options = reader_member(r, "stream_options");
    if (!options)
        return 0;
    if (!p->stream)
        return reader_fail(r, "stream_options", "'stream_options' is only allowed when 'stream' is true");
    if (!json_is_object(options))
        return reader_fail(r, "stream_options", "'stream_options' must be an object, not %s", json_type_name(options));
    struct err err;
    int code = json_get_bool(options, "include_usage", &p->include_usage, &err);
    if (code == WEIR_EINVAL)
        return reader_fail(r, "stream_options.include_usage", "in 'stream_options.include_usage': %s", err.msg);
    return 0;
}

static int read_extension(struct reader *r, struct api_params *p)
{
    const json_t *weir = reader_member(r, "weir");
    if (!weir)
        return 0;
    if (!json_is_object(weir))
        return reader_fail(r, "weir", "'weir' must be an object, not %s", json_type_name(weir));
    struct err err;
    if (json_get_bool(weir, "usage", &p->weir_usage, &err) == WEIR_EINVAL)
        return reader_fail(r, "weir.usage", "in 'weir.usage': %s", err.msg);
    return 0;
}

static int read_lengths(struct reader *r, struct api_params *p)
{
    uint32_t a = 0, b = 0;
    int got_a = reader_u32(r, "max_tokens", 0, INT32_MAX, &a);
    int got_b = got_a < 0 ? -1 : reader_u32(r, "max_completion_tokens", 1, INT32_MAX, &b);
    if (got_a < 0 || got_b < 0)
        return -1;
    if (got_a && got_b && a != b)
        return reader_fail(r, "max_tokens", "'max_tokens' (%u) and 'max_completion_tokens' (%u) contradict each other",
                           a, b);
    p->max_tokens = got_b ? b : a;
    if (!got_a && !got_b)
        p->max_tokens = p->kind == API_COMPLETION ? API_DEFAULT_COMPLETION_TOKENS : 0;
    else if (!p->max_tokens && !p->echo)
        return reader_fail(r, "max_tokens", "'max_tokens' must be at least 1%s",
                           p->kind == API_COMPLETION ? " (0 is allowed with 'echo')" : "");
    if (!p->max_tokens && p->echo) {
        p->prompt_only = true;
        p->max_tokens = 1;
    }
    if (reader_u32(r, "min_tokens", 0, INT32_MAX, &p->min_tokens) < 0)
        return -1;
    if (p->max_tokens && p->min_tokens > p->max_tokens)
        return reader_fail(r, "min_tokens", "'min_tokens' (%u) is greater than 'max_tokens' (%u)", p->min_tokens,
                           p->max_tokens);
    return 0;
}

static int read_choices(struct reader *r, struct api_params *p)
{
    uint32_t best_of = 0;
    if (reader_u32(r, "n", 1, API_MAX_N, &p->n) < 0 || reader_u32(r, "best_of", 1, API_MAX_N, &best_of) < 0)
        return -1;
    if (best_of && best_of != p->n)
        return reader_fail(r, "best_of", "'best_of' (%u) other than 'n' (%u) is not supported", best_of, p->n);
    return 0;
}

static int read_logprobs(struct reader *r, struct api_params *p)
{
    int64_t top = -1;
    if (p->kind == API_COMPLETION) {
        int got = reader_int(r, "logprobs", 0, SAMPLER_MAX_TOP_LOGPROBS, &top);
        p->logprobs = got > 0;
        p->sampling.top_logprobs = (int32_t)top;
        return got < 0 ? -1 : 0;
    }
    if (reader_bool(r, "logprobs", &p->logprobs) < 0)
        return -1;
    int got = reader_int(r, "top_logprobs", 0, SAMPLER_MAX_TOP_LOGPROBS, &top);
    if (got < 0)
        return -1;
    if (got && top > 0 && !p->logprobs)
        return reader_fail(r, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
    p->sampling.top_logprobs = p->logprobs ? (got ? (int32_t)top : 0) : -1;
    return 0;
}

/* OpenAI's names for classes of priority; `priority` itself goes before. */
static int read_service_tier(struct reader *r, struct api_params *p)
{
    static const struct {
        const char *asked, *given;
        int32_t priority;
    } tiers[] = {{"auto", "default", 0},
                 {"default", "default", 0},
                 {"scale", "default", 0},
                 {"flex", "flex", 1},
                 {"priority", "priority", -1}};
    const char *name;
    size_t n;
    int got = reader_str(r, "service_tier", &name, &n);
    for (size_t i = 0; got > 0 && i < sizeof tiers / sizeof *tiers; i++) {
        if (strlen(tiers[i].asked) == n && !memcmp(tiers[i].asked, name, n)) {
            p->service_tier = tiers[i].given;
            p->priority = tiers[i].priority;
            return 0;
        }
    }
    return got > 0 ? reader_fail(r, "service_tier", "'service_tier' must be auto, default, flex or priority") : got;
}

static int read_scheduling(struct reader *r, struct api_params *p)
{
    int64_t priority, pinned = 0;
    const char *salt, *user;
    size_t n, n_user;
    if (read_service_tier(r, p) || reader_str(r, "user", &user, &n_user) < 0 ||
        reader_double(r, "itl_target_s", r->limits->itl_target_min_s, MAX_TARGET_S, &p->itl_target_s) < 0 ||
        reader_double(r, "ttft_limit_s", MIN_TTFT_S, MAX_TARGET_S, &p->ttft_limit_s) < 0)
        return -1;
    int given = reader_int(r, "priority", INT32_MIN, INT32_MAX, &priority);
    if (given < 0)
        return -1;
    if (given)
        p->priority = (int32_t)priority;
    if (reader_int(r, "pin_prefix_tokens", 0, INT32_MAX, &pinned) < 0)
        return -1;
    p->pin_prefix_tokens = (uint32_t)pinned;
    int got = reader_str(r, "cache_salt", &salt, &n);
    if (got > 0 && !n)
        return reader_fail(r, "cache_salt", "'cache_salt' must not be empty");
    if (got > 0)
        p->cache_salt = hash_bytes(salt, n, 0) | 1; /* 0 means none */
    return got < 0 ? -1 : 0;
}

static int read_generation(struct reader *r, struct api_params *p)
{
    if (reader_bool(r, "echo", &p->echo) < 0)
        return -1;
    if (p->kind == API_CHAT && p->echo)
        return api_error_set(r->e, 400, "unsupported_parameter", "echo", "'echo' is for /v1/completions only");
    if (refuse_unsupported(r) || read_choices(r, p) || read_lengths(r, p) || read_sampling(r, p) ||
        read_logit_bias(r, p) || read_stops(r, p) || read_stream(r, p) || read_extension(r, p) || read_logprobs(r, p) ||
        read_scheduling(r, p) || reader_bool(r, "ignore_eos", &p->ignore_eos) < 0 ||
        reader_bool(r, "include_stop_str_in_output", &p->keep_stop_text) < 0)
        return -1;
    bool skip_special = true;
    if (reader_bool(r, "skip_special_tokens", &skip_special) < 0)
        return -1;
    p->special_text = !skip_special;
    return 0;
}

static int read_body(struct reader *r, struct api_params *p)
{
    const char *model;
    size_t n;
    int got = reader_str(r, "model", &model, &n);
    if (got < 0)
        return -1;
    if (got && !(p->model = mem_strndup(model, n)))
        return reader_no_memory(r);
    switch (p->kind) {
    case API_COMPLETION:
        if (read_generation(r, p) || reader_prompts(r, p))
            return -1;
        break;
    case API_CHAT:
        if (read_generation(r, p) || reader_messages(r, p))
            return -1;
        break;
    case API_TOKENIZE:
        return reader_tokenize(r, p);
    case API_DETOKENIZE:
        return reader_detokenize(r, p);
    }
    uint32_t n_prompts = p->kind == API_CHAT ? 1 : p->n_prompts;
    if (n_prompts * p->n > API_MAX_CHOICES)
        return reader_fail(r, "n", "%u prompts with 'n' of %u are more than %d choices", n_prompts, p->n,
                           API_MAX_CHOICES);
    return 0;
}

int api_params_parse(struct api_params *p, enum api_kind kind, const char *body, size_t n, const struct api_limits *l,
                     struct api_error *e)
{
    *p = (struct api_params){.kind = kind, .n = 1, .add_special = kind != API_CHAT};
    *e = (struct api_error){0};
    sampling_params_default(&p->sampling);
    p->sampling.top_logprobs = -1;
    json_t *json;
    struct err err;
    int code = json_parse(&json, body, n, &err);
    if (code)
        return api_error_set(e, code == WEIR_ENOMEM ? 500 : 400, "invalid_json", NULL, "the request body is %s%s",
                             code == WEIR_EFORMAT ? "" : "refused: ", err.msg);
    int failed = -1;
    if (json_is_object(json))
        failed = read_body(&(struct reader){.body = json, .limits = l, .e = e}, p);
    else
        api_error_set(e, 400, "invalid_json", NULL, "the request body must be a JSON object, not %s",
                      json_type_name(json));
    json_decref(json);
    if (failed)
        api_params_finish(p);
    return failed;
}

void api_params_finish(struct api_params *p)
{
    free(p->model);
    for (uint32_t i = 0; i < p->n_prompts; i++) {
        free(p->prompts[i].text);
        free(p->prompts[i].ids);
    }
    free(p->prompts);
    free(p->variables);
    free(p->bias);
    for (uint32_t i = 0; i < p->n_stops; i++)
        free(p->stops[i]);
    *p = (struct api_params){.kind = p->kind};
}
