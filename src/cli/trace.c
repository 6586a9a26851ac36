#include "cli/trace.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_LINE_BYTES ((size_t)1 << 20)
#define MOONCAKE_BLOCK_TOKENS 512

/* Growing arrays of the trace that is being read. */
struct reader {
    struct trace *t;
    size_t request_room, block_room;
    const char *path;
    uint64_t line;
    struct err *e;
};

static int bad(const struct reader *r, const char *what)
{
    return err_set(r->e, WEIR_EFORMAT, "%s, line %" PRIu64 ": %s", r->path, r->line, what);
}

static int add_request(struct reader *r, const struct trace_request *q)
{
    struct trace *t = r->t;
    if (!(q->arrival_s >= -1e15 && q->arrival_s <= 1e15))
        return bad(r, "the arrival time is not a usable number");
    if (q->n_prompt < 1 || q->n_prompt > TRACE_MAX_TOKENS || q->n_output < 1 || q->n_output > TRACE_MAX_TOKENS)
        return bad(r, "token counts must be from 1 to 1048576");
    if (q->max_new_tokens && q->max_new_tokens < q->n_output)
        return bad(r, "max_tokens is less than the output's tokens");
    if (t->n_requests == TRACE_MAX_REQUESTS)
        return err_set(r->e, WEIR_ELIMIT, "%s: more than %u requests", r->path, TRACE_MAX_REQUESTS);
    if (t->n_requests == r->request_room) {
        size_t room = r->request_room ? 2 * r->request_room : 1024;
        struct trace_request *grown = mem_resize(t->requests, room, sizeof *grown);
        if (!grown)
            return err_set(r->e, WEIR_ENOMEM, "no memory for %zu requests", room);
        t->requests = grown;
        r->request_room = room;
    }
    t->requests[t->n_requests++] = *q;
    return 0;
}

static int add_block(struct reader *r, uint64_t id)
{
    struct trace *t = r->t;
    if (t->n_block_ids == r->block_room) {
        size_t room = r->block_room ? 2 * r->block_room : 4096;
        if (room > UINT32_MAX)
            return err_set(r->e, WEIR_ELIMIT, "%s: more than 2^31 block hashes", r->path);
        uint64_t *grown = mem_resize(t->block_ids, room, sizeof *grown);
        if (!grown)
            return err_set(r->e, WEIR_ENOMEM, "no memory for %zu block hashes", room);
        t->block_ids = grown;
        r->block_room = room;
    }
    t->block_ids[t->n_block_ids++] = id;
    return 0;
}

/* --- CSV -------------------------------------------------------------------------------------------------------- */

enum column {
    COL_NONE,
    COL_TIMESTAMP,
    COL_ARRIVAL,
    COL_PROMPT,
    COL_OUTPUT,
    COL_CONVERSATION,
    COL_KEY,
    COL_MAX_TOKENS,
    COL_PRIORITY
};
#define MAX_COLUMNS 32

static enum column column_of(const char *name)
{
    static const struct {
        const char *name;
        enum column column;
    } known[] = {{"TIMESTAMP", COL_TIMESTAMP},   {"ContextTokens", COL_PROMPT},      {"GeneratedTokens", COL_OUTPUT},
                 {"arrival_s", COL_ARRIVAL},     {"prompt_tokens", COL_PROMPT},      {"output_tokens", COL_OUTPUT},
                 {"max_tokens", COL_MAX_TOKENS}, {"conversation", COL_CONVERSATION}, {"key", COL_KEY},
                 {"priority", COL_PRIORITY}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(known[i].name, name))
            return known[i].column;
    }
    return COL_NONE;
}

/* "2023-11-16 18:15:46.6805900" as seconds since the epoch. */
static bool parse_timestamp(const char *s, double *out)
{
    struct tm tm = {0};
    int n = 0;
    if (sscanf(s, "%d-%d-%d%*1[ T]%d:%d:%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &n) != 5 ||
        n == 0)
        return false;
    char *end;
    double seconds = strtod(s + n, &end);
    if (end == s + n || !(seconds >= 0 && seconds < 61) || tm.tm_year < 1900 || tm.tm_year > 9999 || tm.tm_mon < 1 ||
        tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour < 0 || tm.tm_hour > 23 || tm.tm_min < 0 ||
        tm.tm_min > 59)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *out = (double)timegm(&tm) + seconds;
    return true;
}

static bool parse_count(const char *s, uint32_t *out)
{
    char *end;
    errno = 0;
    double v = strtod(s, &end); /* some traces write 374.0 */
    if (end == s || *end || !(v >= 0 && v <= (double)TRACE_MAX_TOKENS) || v != floor(v))
        return false;
    *out = (uint32_t)v;
    return true;
}

/* A label: numbers and text alike become a hash; 0 for an empty one. */
static uint64_t label(const char *s)
{
    return *s ? hash_bytes(s, strlen(s), 1) | 1 : 0;
}

static int parse_field(struct reader *r, enum column c, const char *s, struct trace_request *q)
{
    char *end;
    switch (c) {
    case COL_TIMESTAMP:
        return parse_timestamp(s, &q->arrival_s) ? 0 : bad(r, "TIMESTAMP is not like 2023-11-16 18:15:46.68");
    case COL_ARRIVAL:
        q->arrival_s = strtod(s, &end);
        return end != s && !*end ? 0 : bad(r, "arrival_s is not a number");
    case COL_PROMPT:
        return parse_count(s, &q->n_prompt) ? 0 : bad(r, "the prompt's tokens are not a count up to 1048576");
    case COL_OUTPUT:
        return parse_count(s, &q->n_output) ? 0 : bad(r, "the output's tokens are not a count up to 1048576");
    case COL_MAX_TOKENS:
        return !*s || parse_count(s, &q->max_new_tokens) ? 0 : bad(r, "max_tokens is not a count up to 1048576");
    case COL_CONVERSATION:
        q->content = label(s);
        return 0;
    case COL_KEY:
        q->key = label(s);
        return 0;
    case COL_PRIORITY: {
        long v = strtol(s, &end, 10);
        if (end == s || *end || v < -1000000 || v > 1000000)
            return bad(r, "priority is not an integer");
        q->priority = (int32_t)v;
        return 0;
    }
    case COL_NONE:
        break;
    }
    return 0;
}

/* Splits at commas in place (no quoting: none of the columns can hold a comma). Returns the number of fields. */
static int split(char *line, char *fields[MAX_COLUMNS])
{
    int n = 0;
    for (char *s = line; s && n < MAX_COLUMNS;) {
        char *comma = strchr(s, ',');
        if (comma)
            *comma++ = 0;
        s += strspn(s, " \t");
        for (size_t k = strlen(s); k && strchr(" \t\r", s[k - 1]); k--)
            s[k - 1] = 0;
        fields[n++] = s;
        s = comma;
    }
    return n;
}

static int read_csv_line(struct reader *r, char *line, enum column columns[MAX_COLUMNS], int *n_columns)
{
    char *fields[MAX_COLUMNS];
    int n = split(line, fields);
    if (!*n_columns) {
        bool has[COL_PRIORITY + 1] = {false};
        for (int i = 0; i < n; i++) {
            columns[i] = column_of(fields[i]);
            has[columns[i]] = true;
        }
        *n_columns = n;
        if (!(has[COL_TIMESTAMP] || has[COL_ARRIVAL]) || !has[COL_PROMPT] || !has[COL_OUTPUT])
            return bad(r, "not a trace: the header must name arrival_s, prompt_tokens and output_tokens (or TIMESTAMP, "
                          "ContextTokens, GeneratedTokens)");
        return 0;
    }
    if (n < *n_columns)
        return bad(r, "fewer fields than the header names");
    struct trace_request q = {0};
    for (int i = 0; i < *n_columns; i++) {
        int fail = parse_field(r, columns[i], fields[i], &q);
        if (fail)
            return fail;
    }
    return add_request(r, &q);
}

/* --- JSON lines ------------------------------------------------------------------------------------------------- */

static bool json_count(const json_t *v, uint32_t *out)
{
    if (!json_is_number(v))
        return false;
    double d = json_number_value(v);
    if (!(d >= 0 && d <= (double)TRACE_MAX_TOKENS) || d != floor(d))
        return false;
    *out = (uint32_t)d;
    return true;
}

static uint64_t json_label(const json_t *v)
{
    char number[32];
    if (json_is_string(v))
        return label(json_string_value(v));
    if (!json_is_integer(v))
        return 0;
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
    return label(number);
}

static int read_mooncake(struct reader *r, const json_t *o, struct trace_request *q)
{
    const json_t *ids = json_object_get(o, "hash_ids"), *at = json_object_get(o, "timestamp");
    if (!json_is_number(at) || !json_count(json_object_get(o, "input_length"), &q->n_prompt) ||
        !json_count(json_object_get(o, "output_length"), &q->n_output) || !json_is_array(ids))
        return bad(r, "timestamp, input_length, output_length and hash_ids are needed");
    q->arrival_s = json_number_value(at) / 1e3;
    q->n_output = q->n_output ? q->n_output : 1; /* a few requests of the trace asked for nothing */
    q->first_block = (uint32_t)r->t->n_block_ids;
    r->t->block_tokens = MOONCAKE_BLOCK_TOKENS;
    size_t i;
    const json_t *id;
    json_array_foreach(ids, i, id)
    {
        if (!json_is_integer(id))
            return bad(r, "hash_ids must be integers");
        int fail = add_block(r, hash_u64((uint64_t)json_integer_value(id)));
        if (fail)
            return fail;
        q->n_blocks++;
    }
    return 0;
}

static int read_json_line(struct reader *r, const char *line, size_t n)
{
    json_error_t je;
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(o)) {
        json_decref(o);
        return bad(r, "not a JSON object");
    }
    struct trace_request q = {0};
    int fail = 0;
    if (json_object_get(o, "hash_ids")) {
        fail = read_mooncake(r, o, &q);
    } else {
        const json_t *at = json_object_get(o, "arrival_s"), *priority = json_object_get(o, "priority");
        if (!json_is_number(at) || !json_count(json_object_get(o, "prompt_tokens"), &q.n_prompt) ||
            !json_count(json_object_get(o, "output_tokens"), &q.n_output))
            fail = bad(r, "arrival_s, prompt_tokens and output_tokens are needed");
        if (!fail && priority && (!json_is_integer(priority) || llabs(json_integer_value(priority)) > 1000000))
            fail = bad(r, "priority is not an integer");
        const json_t *max = json_object_get(o, "max_tokens");
        if (!fail && max && !json_count(max, &q.max_new_tokens))
            fail = bad(r, "max_tokens is not a count up to 1048576");
        q.arrival_s = json_number_value(at);
        q.priority = (int32_t)json_integer_value(priority);
        q.content = json_label(json_object_get(o, "conversation"));
        q.key = json_label(json_object_get(o, "key"));
    }
    if (!fail)
        fail = add_request(r, &q);
    json_decref(o);
    return fail;
}

/* --- whole traces ----------------------------------------------------------------------------------------------- */

static int by_arrival(const void *a, const void *b)
{
    const struct trace_request *x = a, *y = b;
    if (x->arrival_s != y->arrival_s)
        return x->arrival_s < y->arrival_s ? -1 : 1;
    return x->content < y->content ? -1
                                   : x->content > y->content; /* content is unique enough to keep the order stable */
}

static int read_lines(struct reader *r, FILE *in)
{
    char *line = NULL;
    size_t room = 0;
    enum column columns[MAX_COLUMNS] = {COL_NONE};
    int n_columns = 0, fail = 0;
    for (ssize_t n; !fail && (n = getline(&line, &room, in)) >= 0;) {
        r->line++;
        if ((size_t)n > MAX_LINE_BYTES)
            fail = bad(r, "the line is longer than 1 MiB");
        else if (memchr(line, 0, (size_t)n))
            fail = bad(r, "not text");
        while (!fail && n && strchr("\r\n", line[n - 1]))
            line[--n] = 0;
        char *s = line;
        if (r->line == 1 && n >= 3 && !memcmp(s, "\xef\xbb\xbf", 3))
            s += 3, n -= 3;
        if (fail || !*s)
            continue;
        fail = *s == '{' ? read_json_line(r, s, (size_t)n) : read_csv_line(r, s, columns, &n_columns);
    }
    free(line);
    if (!fail && ferror(in))
        fail = err_errno(r->e, "%s", r->path);
    return fail;
}

int trace_read(struct trace *t, const char *path, struct err *e)
{
    *t = (struct trace){.block_tokens = 1};
    FILE *in = fopen(path, "re");
    if (!in)
        return err_errno(e, "%s", path);
    struct reader r = {.t = t, .path = path, .e = e};
    int fail = read_lines(&r, in);
    fclose(in);
    if (!fail && !t->n_requests)
        fail = err_set(e, WEIR_EFORMAT, "%s: no requests in it", path);
    if (fail) {
        trace_finish(t);
        return fail;
    }
    /* Requests without a conversation are alone with their content; the line decides among equal times. */
    for (uint32_t i = 0; i < t->n_requests; i++) {
        if (!t->requests[i].content)
            t->requests[i].content = (uint64_t)(i + 1) << 1;
    }
    qsort(t->requests, t->n_requests, sizeof *t->requests, by_arrival);
    double origin = t->requests[0].arrival_s;
    for (uint32_t i = 0; i < t->n_requests; i++)
        t->requests[i].arrival_s -= origin;
    return 0;
}

void trace_finish(struct trace *t)
{
    free(t->requests);
    free(t->block_ids);
    *t = (struct trace){0};
}

uint64_t trace_chunk_hash(const struct trace *t, const struct trace_request *r, uint32_t chunk, uint32_t chunk_tokens)
{
    uint64_t end = ((uint64_t)chunk + 1) * chunk_tokens;
    if (end <= t->shared_prefix_tokens)
        return hash_u64((uint64_t)chunk + 1);
    /* A chunk is equal where the block that holds its last token is, and it ends at the same place of it. */
    uint64_t block = (end - 1) / t->block_tokens;
    if (block < r->n_blocks && (t->blocks_of_output || end <= r->n_prompt))
        return hash_u64(t->block_ids[r->first_block + block] + end % t->block_tokens);
    return hash_u64(r->content * 0x9e3779b97f4a7c15u + chunk + 1);
}

/* --- synthesis -------------------------------------------------------------------------------------------------- */

static double draw_normal(struct rng *g)
{
    double radius = sqrt(-2 * log(1 - rng_unit(g)));
    return radius * cos(2 * 3.14159265358979323846 * rng_unit(g));
}

static double draw_log_normal(struct rng *g, double median, double sigma)
{
    return median * exp(sigma * draw_normal(g));
}

/* Gamma with mean 1 and the given shape (Marsaglia and Tsang 2000). */
static double draw_gamma(struct rng *g, double shape)
{
    double boost = 1, k = shape;
    if (k < 1) {
        boost = pow(1 - rng_unit(g), 1 / k);
        k += 1;
    }
    double d = k - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = draw_normal(g), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(1 - rng_unit(g)) < 0.5 * x * x + d - d * v + d * log(v))
            return boost * d * v / shape;
    }
}

static uint32_t draw_tokens(struct rng *g, double median, double sigma)
{
    double n = draw_log_normal(g, median, sigma);
    return n < 1 ? 1 : n > (double)TRACE_MAX_TOKENS / 4 ? TRACE_MAX_TOKENS / 4 : (uint32_t)n;
}

static int check_synthesis(const struct trace_synthesis *s, struct err *e)
{
    if (s->n_requests < 1 || s->n_requests > TRACE_MAX_REQUESTS)
        return err_set(e, WEIR_EINVAL, "the number of requests must be from 1 to %u", TRACE_MAX_REQUESTS);
    if (!(s->rate_per_s > 0) || !(s->burstiness > 0 && s->burstiness <= 100))
        return err_set(e, WEIR_EINVAL, "the rate must be positive and the burstiness from above 0 to 100");
    if (!(s->prompt_median >= 1) || !(s->output_median >= 1) || !(s->prompt_sigma >= 0) || !(s->output_sigma >= 0))
        return err_set(e, WEIR_EINVAL, "median lengths must be at least 1 token and sigmas not negative");
    if (!(s->mean_turns >= 1) || !(s->gap_median_s >= 0) || !(s->gap_sigma >= 0))
        return err_set(e, WEIR_EINVAL, "mean turns must be at least 1 and gaps not negative");
    if (s->max_context < 2 || s->max_context > TRACE_MAX_TOKENS || s->shared_prefix_tokens >= s->max_context)
        return err_set(e, WEIR_EINVAL, "the context must be from 2 to %u tokens and longer than the shared prefix",
                       TRACE_MAX_TOKENS);
    return 0;
}

/* One conversation: its first turn arrives at at_s, each later one a gap after the one before has ended. */
static int add_conversation(struct reader *r, const struct trace_synthesis *s, struct rng *g, double at_s,
                            uint64_t content)
{
    uint64_t key = s->n_keys > 1 ? hash_u64(1 + rng_below(g, s->n_keys)) : 0;
    uint32_t history = s->shared_prefix_tokens, before = 0;
    do {
        uint32_t n_new = draw_tokens(g, s->prompt_median, s->prompt_sigma);
        struct trace_request q = {.content = content, .key = key, .after = before};
        q.n_output = draw_tokens(g, s->output_median, s->output_sigma);
        if (history + n_new + q.n_output > s->max_context && before)
            return 0;
        q.n_prompt = history + n_new < s->max_context ? history + n_new : s->max_context - 1;
        if (q.n_output > s->max_context - q.n_prompt)
            q.n_output = s->max_context - q.n_prompt;
        q.arrival_s = before ? draw_log_normal(g, s->gap_median_s, s->gap_sigma) : at_s;
        int fail = add_request(r, &q);
        if (fail)
            return fail;
        before = r->t->n_requests;
        history = q.n_prompt + q.n_output;
    } while (r->t->n_requests < s->n_requests && rng_unit(g) < 1 - 1 / s->mean_turns);
    return 0;
}

int trace_synthesise(struct trace *t, const struct trace_synthesis *s, struct err *e)
{
    *t = (struct trace){.block_tokens = 1, .shared_prefix_tokens = s->shared_prefix_tokens};
    struct reader r = {.t = t, .path = "synthetic trace", .e = e};
    struct rng g = {s->seed};
    int fail = check_synthesis(s, e);
    double at_s = 0;
    for (uint64_t conversation = 1; !fail && t->n_requests < s->n_requests; conversation++) {
        fail = add_conversation(&r, s, &g, at_s, conversation << 1);
        at_s += draw_gamma(&g, 1 / (s->burstiness * s->burstiness)) / s->rate_per_s;
    }
    if (fail)
        trace_finish(t);
    return fail;
}
