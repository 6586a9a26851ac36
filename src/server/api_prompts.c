#include "base/mem.h"
#include "server/api_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_text(struct reader *r, struct api_prompt *out, const json_t *v)
{
    out->n_text = json_string_length(v);
    out->text = mem_strndup(json_string_value(v), out->n_text);
    return out->text ? 0 : reader_no_memory(r);
}

static int read_ids(struct reader *r, struct api_prompt *out, const json_t *array, const char *param)
{
    size_t n = json_array_size(array);
    out->ids = mem_array(n, sizeof *out->ids);
    if (!out->ids)
        return reader_no_memory(r);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(array, i);
        if (!json_is_integer(v))
            return reader_fail(r, param, "'%s' must hold token ids only, but element %zu is %s", param, i,
                               json_type_name(v));
        json_int_t id = json_integer_value(v);
        if (id < 0 || id >= (json_int_t)r->limits->n_vocab)
            return reader_fail(r, param, "'%s' holds %lld, which is not a token id below %u", param, (long long)id,
                               r->limits->n_vocab);
        out->ids[i] = (token_id)id;
    }
    out->n_ids = n;
    return 0;
}

static int alloc_prompts(struct reader *r, struct api_params *p, size_t n)
{
    p->prompts = mem_array(n, sizeof *p->prompts);
    if (!p->prompts)
        return reader_no_memory(r);
    p->n_prompts = (uint32_t)n;
    return 0;
}

/* A string, an array of strings, an array of token ids, or an array of arrays of token ids. */
int reader_prompts(struct reader *r, struct api_params *p)
{
    const json_t *v = reader_member(r, "prompt");
    if (!v)
        return api_error_set(r->e, 400, "missing_required_parameter", "prompt", "'prompt' is missing");
    if (json_is_string(v))
        return alloc_prompts(r, p, 1) ? -1 : read_text(r, &p->prompts[0], v);
    if (!json_is_array(v))
        return reader_fail(r, "prompt", "'prompt' must be a string or an array, not %s", json_type_name(v));
    size_t n = json_array_size(v);
    if (!n)
        return reader_fail(r, "prompt", "'prompt' must not be an empty array");
    if (json_is_integer(json_array_get(v, 0)))
        return alloc_prompts(r, p, 1) ? -1 : read_ids(r, &p->prompts[0], v, "prompt");
    if (n > API_MAX_PROMPTS)
        return reader_fail(r, "prompt", "'prompt' holds %zu prompts; at most %d are allowed", n, API_MAX_PROMPTS);
    if (alloc_prompts(r, p, n))
        return -1;
    json_type type = json_typeof(json_array_get(v, 0));
    if (type != JSON_STRING && type != JSON_ARRAY)
        return reader_fail(r, "prompt", "'prompt' must hold strings, token ids or arrays of token ids, not %s",
                           json_type_name(json_array_get(v, 0)));
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(v, i);
        if (json_typeof(item) != type)
            return reader_fail(r, "prompt", "'prompt' mixes %s with %s", json_type_name(json_array_get(v, 0)),
                               json_type_name(item));
        if (type == JSON_STRING ? read_text(r, &p->prompts[i], item) : read_ids(r, &p->prompts[i], item, "prompt"))
            return -1;
    }
    return 0;
}

/* Content parts joined by newlines, as text: templates expect a string. NULL with *e filled otherwise. */
static json_t *join_parts(struct reader *r, const json_t *parts, size_t at)
{
    struct buf text;
    buf_init(&text, SIZE_MAX / 2);
    json_t *out = NULL;
    size_t n = json_array_size(parts);
    for (size_t i = 0; i < n; i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        bool is_refusal = type && !strcmp(type, "refusal");
        const json_t *s = json_object_get(part, is_refusal ? "refusal" : "text");
        if (json_is_string(part))
            s = part;
        else if (!type || (strcmp(type, "text") && !is_refusal)) {
            char param[80];
            snprintf(param, sizeof param, "messages[%zu].content[%zu].type", at, i);
            api_error_set(r->e, 400, "unsupported_value", param,
                          "content parts of type '%.40s' are not supported, only 'text'", type ? type : "");
            goto done;
        }
        if (!json_is_string(s)) {
            reader_fail(r, "messages", "'messages[%zu].content[%zu].text' must be a string, not %s", at, i,
                        json_type_name(s));
            goto done;
        }
        if (i)
            buf_addc(&text, '\n');
        buf_add(&text, json_string_value(s), json_string_length(s));
    }
    if (!text.failed)
        out = json_stringn(text.data ? text.data : "", text.len);
    if (!out)
        reader_no_memory(r);
done:
    buf_finish(&text);
    return out;
}

/* OpenAI sends a tool call's arguments as JSON text; templates expect the object. Text that is no object stays. */
static void decode_arguments(json_t *message)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *function = json_object_get(json_array_get(calls, i), "function");
        const json_t *arguments = json_object_get(function, "arguments");
        if (!json_is_string(arguments))
            continue;
        size_t n = json_string_length(arguments);
        json_t *decoded = NULL;
        if (!n)
            decoded = json_object();
        else if (json_parse(&decoded, json_string_value(arguments), n, NULL))
            continue;
        if (json_is_object(decoded))
            json_object_set(function, "arguments", decoded);
        json_decref(decoded);
    }
}

static int check_message(struct reader *r, json_t *message, size_t i)
{
    char param[80];
    snprintf(param, sizeof param, "messages[%zu].role", i);
    if (!json_is_object(message))
        return reader_fail(r, "messages", "'messages[%zu]' must be an object, not %s", i, json_type_name(message));
    const json_t *role = json_object_get(message, "role");
    if (!json_is_string(role) || !json_string_length(role))
        return reader_fail(r, param, "'%s' must be a string that is not empty", param);
    if (!r->limits->template_knows_developer && !strcmp(json_string_value(role), "developer") &&
        json_object_set_new(message, "role", json_string("system")))
        return reader_no_memory(r);
    const json_t *content = json_object_get(message, "content");
    if (json_is_array(content)) {
        json_t *text = join_parts(r, content, i);
        if (!text)
            return -1;
        if (json_object_set_new(message, "content", text))
            return reader_no_memory(r);
    } else if (content && !json_is_null(content) && !json_is_string(content)) {
        snprintf(param, sizeof param, "messages[%zu].content", i);
        return reader_fail(r, param, "'%s' must be a string or an array of parts, not %s", param,
                           json_type_name(content));
    }
    const json_t *calls = json_object_get(message, "tool_calls");
    if (calls && !json_is_null(calls) && !json_is_array(calls)) {
        snprintf(param, sizeof param, "messages[%zu].tool_calls", i);
        return reader_fail(r, param, "'%s' must be an array, not %s", param, json_type_name(calls));
    }
    decode_arguments(message);
    return 0;
}

static int check_tools(struct reader *r, bool *use)
{
    const json_t *tools = reader_member(r, "tools"), *choice = reader_member(r, "tool_choice");
    *use = tools && json_array_size(tools);
    if (tools && !json_is_array(tools))
        return reader_fail(r, "tools", "'tools' must be an array, not %s", json_type_name(tools));
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        if (!json_is_string(json_object_get(function, "name"))) {
            char param[80];
            snprintf(param, sizeof param, "tools[%zu].function.name", i);
            return reader_fail(r, param, "'%s' must be a string", param);
        }
    }
    if (!choice)
        return 0;
    const char *name = json_string_value(choice);
    if (!name || (strcmp(name, "none") && strcmp(name, "auto")))
        return api_error_set(r->e, 400, "unsupported_value", "tool_choice",
                             "'tool_choice' must be \"none\" or \"auto\"; forced tool calls are not supported");
    if (!strcmp(name, "none"))
        *use = false;
    return 0;
}

/* Collects the template's variables: kwargs first, so that they replace nothing of the request's own. */
static int add_variables(struct reader *r, json_t *vars, bool use_tools)
{
    const json_t *kwargs = reader_member(r, "chat_template_kwargs"), *documents = reader_member(r, "documents");
    const json_t *effort = reader_member(r, "reasoning_effort");
    bool generate = true;
    if (kwargs && !json_is_object(kwargs))
        return reader_fail(r, "chat_template_kwargs", "'chat_template_kwargs' must be an object, not %s",
                           json_type_name(kwargs));
    if (documents && !json_is_array(documents))
        return reader_fail(r, "documents", "'documents' must be an array, not %s", json_type_name(documents));
    if (effort && !json_is_string(effort))
        return reader_fail(r, "reasoning_effort", "'reasoning_effort' must be a string, not %s",
                           json_type_name(effort));
    if (reader_bool(r, "add_generation_prompt", &generate) < 0)
        return -1;
    int failed = 0;
    json_t *own = (json_t *)(uintptr_t)r->body;
    if (effort)
        failed |= json_object_set(vars, "reasoning_effort", json_object_get(own, "reasoning_effort"));
    if (kwargs)
        failed |= json_object_update(vars, json_object_get(own, "chat_template_kwargs"));
    failed |= json_object_set(vars, "messages", json_object_get(own, "messages"));
    if (use_tools)
        failed |= json_object_set(vars, "tools", json_object_get(own, "tools"));
    else
        json_object_del(vars, "tools");
    if (documents)
        failed |= json_object_set(vars, "documents", json_object_get(own, "documents"));
    if (reader_member(r, "add_generation_prompt") || !json_object_get(vars, "add_generation_prompt"))
        failed |= json_object_set_new(vars, "add_generation_prompt", json_boolean(generate));
    return failed ? reader_no_memory(r) : 0;
}

int reader_messages(struct reader *r, struct api_params *p)
{
    const json_t *messages = reader_member(r, "messages");
    if (!messages)
        return api_error_set(r->e, 400, "missing_required_parameter", "messages", "'messages' is missing");
    if (!json_is_array(messages))
        return reader_fail(r, "messages", "'messages' must be an array, not %s", json_type_name(messages));
    size_t n = json_array_size(messages);
    if (!n || n > API_MAX_MESSAGES)
        return reader_fail(r, "messages", "'messages' must hold 1 to %d messages, not %zu", API_MAX_MESSAGES, n);
    for (size_t i = 0; i < n; i++) {
        if (check_message(r, json_array_get(messages, i), i))
            return -1;
    }
    bool use_tools;
    if (check_tools(r, &use_tools))
        return -1;
    json_t *vars = json_object();
    if (!vars)
        return reader_no_memory(r);
    int failed = add_variables(r, vars, use_tools);
    if (!failed) {
        struct buf text;
        buf_init(&text, SIZE_MAX / 2);
        json_put_value(&text, vars);
        p->n_variables = text.len;
        p->variables = buf_detach(&text);
        if (!p->variables)
            failed = reader_no_memory(r);
        buf_finish(&text);
    }
    json_decref(vars);
    return failed;
}

/* {prompt | content | messages, add_special_tokens | add_special, return_token_strs | with_pieces} */
int reader_tokenize(struct reader *r, struct api_params *p)
{
    if (reader_member(r, "messages")) {
        p->add_special = false;
        if (reader_messages(r, p))
            return -1;
    } else {
        const char *key = reader_member(r, "content") ? "content" : "prompt";
        const json_t *v = reader_member(r, key);
        if (!v)
            return api_error_set(r->e, 400, "missing_required_parameter", "prompt",
                                 "'prompt' or 'messages' is missing");
        if (!json_is_string(v))
            return reader_fail(r, key, "'%s' must be a string, not %s", key, json_type_name(v));
        if (alloc_prompts(r, p, 1) || read_text(r, &p->prompts[0], v))
            return -1;
    }
    return reader_bool(r, "add_special_tokens", &p->add_special) < 0 ||
                   reader_bool(r, "add_special", &p->add_special) < 0 ||
                   reader_bool(r, "return_token_strs", &p->token_strings) < 0 ||
                   reader_bool(r, "with_pieces", &p->token_strings) < 0
               ? -1
               : 0;
}

int reader_detokenize(struct reader *r, struct api_params *p)
{
    const json_t *v = reader_member(r, "tokens");
    if (!v)
        return api_error_set(r->e, 400, "missing_required_parameter", "tokens", "'tokens' is missing");
    if (!json_is_array(v))
        return reader_fail(r, "tokens", "'tokens' must be an array of token ids, not %s", json_type_name(v));
    return alloc_prompts(r, p, 1) ? -1 : read_ids(r, &p->prompts[0], v, "tokens");
}
