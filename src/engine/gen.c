/* A request's life between arrival and end: its tokens, its text, its events. */
#include "engine/engine_impl.h"

#include "base/clock.h"
#include "base/mem.h"
#include "policy/prefix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PENDING_TEXT_BYTES ((size_t)1 << 20) /* of one token's text and what is held back for stop strings */

static uint32_t max_new_of(const struct engine *en, const struct gen_request *r)
{
    const struct sched_config *c = &en->config;
    uint64_t room = (uint64_t)c->n_chunks * c->chunk_tokens + 1; /* the last token is not stored */
    uint32_t wanted = r->max_new_tokens ? r->max_new_tokens : UINT32_MAX;
    if (r->prompt_only)
        wanted = 1;
    else if (!r->max_new_tokens && room > r->n_prompt && room - r->n_prompt < wanted)
        wanted = (uint32_t)(room - r->n_prompt);
    uint32_t context_room = r->n_prompt < c->max_context ? c->max_context - r->n_prompt : 1;
    return wanted < context_room ? wanted : context_room; /* a prompt too long is the scheduler's to refuse */
}

static int check_request(const struct engine *en, const struct gen_request *r, struct err *e)
{
    if (r->n_prompt == 0)
        return err_set(e, WEIR_EINVAL, "prompt: has no tokens");
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || (uint32_t)r->prompt[i] >= en->n_vocab)
            return err_set(e, WEIR_EINVAL, "prompt: token %d at %u is not in the vocabulary of %u tokens", r->prompt[i],
                           i, en->n_vocab);
    if (r->max_new_tokens && r->min_new_tokens > r->max_new_tokens)
        return err_set(e, WEIR_EINVAL, "min_tokens: is %u, more than max_tokens (%u)", r->min_new_tokens,
                       r->max_new_tokens);
    return 0;
}

int gen_create(struct gen **out, const struct engine *en, const struct gen_request *r, struct err *e)
{
    *out = NULL;
    int rc = check_request(en, r, e);
    if (rc)
        return rc;
    struct gen *g = mem_array(1, sizeof *g);
    if (!g)
        return err_set(e, WEIR_ENOMEM, "no memory for a request");
    *g = (struct gen){
        .sink = r->sink,
        .user = r->user,
        .n_prompt = r->n_prompt,
        .max_new_tokens = max_new_of(en, r),
        .min_new_tokens = r->min_new_tokens,
        .priority = r->priority,
        .itl_target_s = r->itl_target_s,
        .ttft_limit_s = r->ttft_limit_s,
        .n_pinned = r->n_pinned,
        .key = r->key,
        .ignore_eos = r->ignore_eos,
        .echo = r->echo,
        .prompt_only = r->prompt_only,
        .logprobs = r->logprobs,
        .keep_stop_text = r->keep_stop_text,
        .n_tokens = r->n_prompt,
        .hash_root = prefix_hash_root(r->cache_salt ^ en->hash_secret),
        .stop_index = -1,
        .submitted_s = clock_monotonic_s(),
    };
    size_t n_tokens = (size_t)g->n_prompt + g->max_new_tokens;
    struct sampling_params sampling = r->sampling;
    if (!r->logprobs)
        sampling.top_logprobs = -1;
    else if (sampling.top_logprobs < 0)
        sampling.top_logprobs = 0;
    rc = stop_init(&g->stop, r->stops, r->n_stops, MAX_PENDING_TEXT_BYTES, e);
    if (!rc)
        rc = sampler_create(&g->sampler, &sampling, en->n_vocab, e);
    g->tokens = mem_array(n_tokens, sizeof *g->tokens);
    g->hashes = mem_array(n_tokens / en->config.chunk_tokens, sizeof *g->hashes);
    if (!rc && (!g->tokens || !g->hashes))
        rc = err_set(e, WEIR_ENOMEM, "no memory for a request of %zu tokens", n_tokens);
    if (rc) {
        gen_destroy(g);
        return rc;
    }
    memcpy(g->tokens, r->prompt, g->n_prompt * sizeof *g->tokens);
    sampler_note_prompt(g->sampler, g->tokens, g->n_prompt);
    detokenizer_init(&g->detokenizer, en->tokenizer, r->special_text, r->echo);
    if (en->config.prefix_cache)
        gen_hash(g, en->config.chunk_tokens, g->n_prompt / en->config.chunk_tokens);
    *out = g;
    return 0;
}

void gen_destroy(struct gen *g)
{
    if (!g)
        return;
    sampler_destroy(g->sampler);
    stop_finish(&g->stop);
    free(g->tokens);
    free(g->hashes);
    free(g);
}

/* Hashes of the chunks up to n_full, whose tokens are all known. */
void gen_hash(struct gen *g, uint32_t chunk_tokens, uint32_t n_full)
{
    for (; g->n_hashes < n_full; g->n_hashes++)
        g->hashes[g->n_hashes] = prefix_hash_next(g->n_hashes ? g->hashes[g->n_hashes - 1] : g->hash_root,
                                                  g->tokens + (size_t)g->n_hashes * chunk_tokens, chunk_tokens);
}

/* Events. */

void gen_event_init(const struct gen *g, struct gen_event *ev)
{
    *ev = (struct gen_event){
        .id = g->id,
        .user = g->user,
        .text = "",
        .n_prompt_tokens = g->n_prompt,
        .n_output_tokens = g->n_tokens - g->n_prompt,
        .n_cached_tokens = g->n_cached,
        .usage = g->usage.n_spans ? &g->usage : NULL,
    };
    if (g->scheduled_s > 0)
        ev->queued_s = g->scheduled_s - g->submitted_s;
    if (g->first_token_s > 0)
        ev->prefill_s = g->first_token_s - g->scheduled_s;
}

/* An event with the first n bytes of the text that waits. */
static void deliver_text(struct gen *g, struct gen_event *ev, size_t n)
{
    ev->text = n ? g->stop.text.data : "";
    ev->n_text = n;
    g->sink(ev);
    buf_consume(&g->stop.text, n);
}

static void deliver_prompt_token(struct gen *g, const struct sample *sample)
{
    struct gen_event ev;
    gen_event_init(g, &ev);
    ev.has_token = ev.is_prompt = true;
    ev.sample = sample;
    detokenizer_push(&g->detokenizer, g->tokens[g->n_echoed++], &g->stop.text);
    deliver_text(g, &ev, g->stop.text.len);
}

void gen_begin_echo(struct gen *g, struct engine *en)
{
    if (!g->echo || g->echo_begun)
        return;
    g->echo_begun = true;
    if (g->logprobs) {
        deliver_prompt_token(g, &(struct sample){.id = g->tokens[0], .logprob = NAN});
        return;
    }
    buf_clear(&en->scratch);
    for (uint32_t i = 0; i < g->n_prompt; i++)
        detokenizer_push(&g->detokenizer, g->tokens[i], &en->scratch);
    struct gen_event ev;
    gen_event_init(g, &ev);
    ev.is_prompt = true;
    ev.text = en->scratch.len ? en->scratch.data : "";
    ev.n_text = en->scratch.len;
    g->sink(&ev);
}

void gen_echo_next(struct gen *g, const float *logits)
{
    struct sample sample;
    sampler_logprobs(g->sampler, logits, g->tokens[g->n_echoed], &sample);
    deliver_prompt_token(g, &sample);
}

/* Text of a token that goes into the output: finds stop strings, delivers what may be sent. */
static bool add_text(struct gen *g, const struct sample *sample)
{
    uint32_t n_output = g->n_tokens - g->n_prompt;
    struct gen_event ev;
    gen_event_init(g, &ev);
    ev.has_token = true;
    ev.sample = sample;
    size_t n_ready;
    if (detokenizer_push(&g->detokenizer, sample->id, &g->stop.text)) {
        g->finish = FINISH_FAILED;
        g->error = "the text of a token passes its bound";
        return true;
    }
    int found = -1;
    if (n_output < g->min_new_tokens)
        n_ready = g->stop.text.len;
    else
        found = stop_scan(&g->stop, &n_ready);
    if (found >= 0 && g->keep_stop_text)
        n_ready += g->stop.lengths[found];
    deliver_text(g, &ev, n_ready);
    if (found < 0)
        return false;
    g->finish = FINISH_STOP;
    g->stop_index = found;
    return true;
}

void gen_sample(struct gen *g, const struct tokenizer *t, const float *logits)
{
    uint32_t n_output = g->n_tokens - g->n_prompt;
    if (!g->prompt_only)
        sampler_sample(g->sampler, logits, n_output < g->min_new_tokens ? t : NULL, &g->sample);
}

bool gen_next_token(struct gen *g, struct engine *en, double now_s)
{
    if (g->prompt_only) {
        g->finish = FINISH_LENGTH;
        return true;
    }
    struct sample sample = g->sample;
    uint32_t n_output = g->n_tokens - g->n_prompt;
    g->tokens[g->n_tokens++] = sample.id;
    if (n_output == 0)
        g->first_token_s = now_s;
    if (!g->ignore_eos && tokenizer_is_end(en->tokenizer, sample.id)) {
        g->finish = FINISH_STOP;
        return true;
    }
    if (add_text(g, &sample))
        return true;
    if (n_output + 1 >= g->max_new_tokens)
        g->finish = FINISH_LENGTH;
    return g->finish != FINISH_NONE;
}

void gen_deliver_end(struct gen *g, const struct sched_event *why)
{
    struct gen_event ev;
    if (g->stop_index >= 0) {
        buf_clear(&g->stop.text); /* the stop string and what followed it */
    } else if (g->finish == FINISH_STOP || g->finish == FINISH_LENGTH) {
        detokenizer_flush(&g->detokenizer, &g->stop.text);
    } else {
        buf_clear(&g->stop.text);
    }
    gen_event_init(g, &ev);
    ev.finish = g->finish;
    ev.stop_text = g->stop_index >= 0 ? g->stop.strings[g->stop_index] : NULL;
    ev.refusal = *why;
    ev.error = g->error;
    deliver_text(g, &ev, g->stop.text.len);
}
