#include "server/api_reply.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

void reply_logprobs_init(struct reply_logprobs *l, bool chat)
{
    *l = (struct reply_logprobs){.chat = chat};
    buf_init(&l->tokens, REPLY_MAX_BYTES);
    buf_init(&l->values, REPLY_MAX_BYTES);
    buf_init(&l->top, REPLY_MAX_BYTES);
    buf_init(&l->offsets, REPLY_MAX_BYTES);
}

void reply_logprobs_finish(struct reply_logprobs *l)
{
    buf_finish(&l->tokens);
    buf_finish(&l->values);
    buf_finish(&l->top);
    buf_finish(&l->offsets);
}

void reply_logprobs_clear(struct reply_logprobs *l)
{
    buf_clear(&l->tokens);
    buf_clear(&l->values);
    buf_clear(&l->top);
    buf_clear(&l->offsets);
}

/* A token's text as a JSON string. One that is not whole UTF-8 is written byte by byte as \xNN, for completions behind
 * "bytes:", so that different tokens stay different. */
static void put_token(struct buf *out, struct gguf_str piece, bool chat)
{
    if (utf8_valid(piece.s, piece.n)) {
        json_put_str(out, piece.s, piece.n);
        return;
    }
    buf_adds(out, chat ? "\"" : "\"bytes:");
    for (size_t i = 0; i < piece.n; i++)
        buf_printf(out, "\\\\x%02x", (unsigned char)piece.s[i]);
    buf_addc(out, '"');
}

/* OpenAI writes -9999.0 for a token that can't occur. */
static void put_logprob(struct buf *out, float v)
{
    if (isfinite(v))
        json_put_number(out, (double)v);
    else
        buf_adds(out, "-9999.0");
}

static void put_chat_token(struct buf *out, const struct tokenizer *t, token_id id, float logprob)
{
    struct gguf_str piece = tokenizer_piece(t, id, true);
    buf_adds(out, "{\"token\":");
    put_token(out, piece, true);
    buf_adds(out, ",\"logprob\":");
    put_logprob(out, logprob);
    buf_adds(out, ",\"bytes\":[");
    for (size_t i = 0; i < piece.n; i++)
        buf_printf(out, "%s%u", i ? "," : "", (unsigned char)piece.s[i]);
    buf_addc(out, ']');
}

static void add_chat(struct reply_logprobs *l, const struct tokenizer *t, const struct sample *s, uint32_t n_top)
{
    if (l->tokens.len)
        buf_addc(&l->tokens, ',');
    put_chat_token(&l->tokens, t, s->id, s->logprob);
    buf_adds(&l->tokens, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < n_top; i++) {
        if (i)
            buf_addc(&l->tokens, ',');
        put_chat_token(&l->tokens, t, s->top[i].id, s->top[i].logprob);
        buf_addc(&l->tokens, '}');
    }
    buf_adds(&l->tokens, "]}");
}

static void add_completion(struct reply_logprobs *l, const struct tokenizer *t, const struct sample *s, uint32_t n_top,
                           bool without_value)
{
    if (l->tokens.len) {
        buf_addc(&l->tokens, ',');
        buf_addc(&l->values, ',');
        buf_addc(&l->top, ',');
        buf_addc(&l->offsets, ',');
    }
    put_token(&l->tokens, tokenizer_piece(t, s->id, true), false);
    buf_printf(&l->offsets, "%" PRIu64, l->offset);
    if (without_value) {
        buf_adds(&l->values, "null");
        buf_adds(&l->top, "null");
        return;
    }
    put_logprob(&l->values, s->logprob);
    buf_addc(&l->top, '{');
    bool listed = false;
    for (uint32_t i = 0; i < n_top; i++) {
        buf_adds(&l->top, i ? "," : "");
        put_token(&l->top, tokenizer_piece(t, s->top[i].id, true), false);
        buf_addc(&l->top, ':');
        put_logprob(&l->top, s->top[i].logprob);
        listed |= s->top[i].id == s->id;
    }
    if (!listed) { /* the chosen token is always among them */
        buf_adds(&l->top, n_top ? "," : "");
        put_token(&l->top, tokenizer_piece(t, s->id, true), false);
        buf_addc(&l->top, ':');
        put_logprob(&l->top, s->logprob);
    }
    buf_addc(&l->top, '}');
}

void reply_logprobs_add(struct reply_logprobs *l, const struct tokenizer *t, const struct sample *s, uint32_t n_top,
                        bool special_text, bool without_value)
{
    uint32_t n = s->n_top < n_top ? s->n_top : n_top;
    if (l->chat)
        add_chat(l, t, s, n);
    else
        add_completion(l, t, s, n, without_value);
    struct gguf_str shown = tokenizer_piece(t, s->id, special_text);
    for (size_t i = 0; i < shown.n; i++)
        l->offset += ((unsigned char)shown.s[i] & 0xc0) != 0x80;
}

static void put_logprobs(struct buf *out, const struct reply_logprobs *l)
{
    if (!l) {
        buf_adds(out, "null");
    } else if (l->chat) {
        buf_adds(out, "{\"content\":[");
        buf_add(out, l->tokens.data, l->tokens.len);
        buf_adds(out, "],\"refusal\":null}");
    } else {
        buf_adds(out, "{\"tokens\":[");
        buf_add(out, l->tokens.data, l->tokens.len);
        buf_adds(out, "],\"token_logprobs\":[");
        buf_add(out, l->values.data, l->values.len);
        buf_adds(out, "],\"top_logprobs\":[");
        buf_add(out, l->top.data, l->top.len);
        buf_adds(out, "],\"text_offset\":[");
        buf_add(out, l->offsets.data, l->offsets.len);
        buf_adds(out, "]}");
    }
    if (l && !out->failed)
        out->failed = l->tokens.failed ? l->tokens.failed : l->top.failed;
}

static void put_head(struct buf *out, const struct reply_head *h, const char *object)
{
    buf_adds(out, "{\"id\":");
    json_put_cstr(out, h->id);
    buf_printf(out, ",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", object, h->created);
    json_put_cstr(out, h->model);
    if (h->service_tier)
        buf_printf(out, ",\"service_tier\":\"%s\"", h->service_tier);
    buf_adds(out, ",\"system_fingerprint\":\"weir-" WEIR_VERSION "\",\"choices\":[");
}

static void put_tail(struct buf *out, const struct reply_choice *c)
{
    buf_adds(out, ",\"logprobs\":");
    put_logprobs(out, c->logprobs);
    buf_adds(out, ",\"finish_reason\":");
    if (c->finish_reason)
        json_put_cstr(out, c->finish_reason);
    else
        buf_adds(out, "null");
    buf_addc(out, '}');
}

static void put_usage(struct buf *out, const struct reply_usage *u)
{
    buf_printf(out,
               "{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64
               ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64 "}",
               u->prompt_tokens, u->completion_tokens, u->prompt_tokens + u->completion_tokens, u->cached_tokens);
    if (u->weir) {
        buf_adds(out, ",\"weir\":");
        buf_adds(out, u->weir);
    }
    buf_addc(out, '}');
}

void reply_object(struct buf *out, const struct reply_head *h, const struct reply_choice *choices, uint32_t n,
                  const struct reply_usage *u)
{
    put_head(out, h, h->chat ? "chat.completion" : "text_completion");
    for (uint32_t i = 0; i < n; i++) {
        const struct reply_choice *c = &choices[i];
        buf_printf(out, "%s{\"index\":%u,", i ? "," : "", c->index);
        buf_adds(out, h->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
        json_put_str(out, c->text, c->n_text);
        if (h->chat)
            buf_adds(out, ",\"refusal\":null}");
        put_tail(out, c);
    }
    buf_adds(out, "],\"usage\":");
    put_usage(out, u);
    buf_addc(out, '}');
}

void reply_chunk(struct buf *out, const struct reply_head *h, const struct reply_choice *c)
{
    buf_adds(out, "data: ");
    put_head(out, h, h->chat ? "chat.completion.chunk" : "text_completion");
    buf_printf(out, "{\"index\":%u,", c->index);
    if (!h->chat) {
        buf_adds(out, "\"text\":");
        json_put_str(out, c->text, c->n_text);
    } else {
        buf_adds(out, "\"delta\":{");
        if (c->first)
            buf_adds(out, "\"role\":\"assistant\",");
        if (!c->finish_reason) {
            buf_adds(out, "\"content\":");
            json_put_str(out, c->text, c->n_text);
        }
        buf_addc(out, '}');
    }
    put_tail(out, c);
    buf_adds(out, h->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

void reply_usage_chunk(struct buf *out, const struct reply_head *h, const struct reply_usage *u)
{
    buf_adds(out, "data: ");
    put_head(out, h, h->chat ? "chat.completion.chunk" : "text_completion");
    buf_adds(out, "],\"usage\":");
    put_usage(out, u);
    buf_adds(out, "}\n\n");
}

void reply_error(struct buf *out, const struct api_error *e)
{
    buf_adds(out, "{\"error\":{\"message\":");
    json_put_cstr(out, e->message);
    buf_adds(out, ",\"type\":");
    json_put_cstr(out, e->type);
    buf_adds(out, ",\"param\":");
    if (e->param[0])
        json_put_cstr(out, e->param);
    else
        buf_adds(out, "null");
    buf_adds(out, ",\"code\":");
    if (e->code)
        json_put_cstr(out, e->code);
    else
        buf_adds(out, "null");
    buf_adds(out, "}}");
}

void reply_error_event(struct buf *out, const struct api_error *e)
{
    buf_adds(out, "data: ");
    reply_error(out, e);
    buf_adds(out, "\n\n");
}
