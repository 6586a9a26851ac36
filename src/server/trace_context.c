#include "server/trace_context.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_MEMBERS 32
#define MAX_PART 256

static bool is_hex(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
            return false; /* the end too */
    }
    return true;
}

static bool is_zero(const char *s, size_t n)
{
    return strspn(s, "0") >= n;
}

/* version "-" trace-id "-" parent-id "-" flags; later versions may go on behind another "-". */
static bool parse_parent(struct trace_context *t, const char *s)
{
    if (!is_hex(s, 2) || s[2] != '-' || !is_hex(s + 3, 32) || s[35] != '-' || !is_hex(s + 36, 16) || s[52] != '-' ||
        !is_hex(s + 53, 2))
        return false;
    bool first = !strncmp(s, "00", 2);
    if (!strncmp(s, "ff", 2) || (s[55] && (first || s[55] != '-')) || is_zero(s + 3, 32) || is_zero(s + 36, 16))
        return false;
    memcpy(t->trace_id, s + 3, 32);
    memcpy(t->parent_id, s + 36, 16);
    t->sampled = strchr("13579bdf", s[54]) != NULL;
    return true;
}

/* key "=" value, of n bytes without the space around it. */
static bool is_member(const char *s, size_t n)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_-*/@";
    size_t key = 0;
    while (key < n && s[key] != '=')
        key++;
    if (key == 0 || key >= n || key > MAX_PART || n - key - 1 == 0 || n - key - 1 > MAX_PART || strchr("_-*/@", s[0]))
        return false;
    for (size_t i = 0; i < key; i++) {
        if (!strchr(letters, s[i]))
            return false;
    }
    for (size_t i = key + 1; i < n; i++) {
        if (s[i] < 0x20 || s[i] > 0x7e || s[i] == '=')
            return false;
    }
    return true;
}

static bool is_state(const char *s)
{
    unsigned n_members = 0;
    if (strlen(s) > TRACE_STATE_BYTES)
        return false;
    for (;;) {
        s += strspn(s, " \t");
        size_t n = strcspn(s, ","), trimmed = n;
        while (trimmed && (s[trimmed - 1] == ' ' || s[trimmed - 1] == '\t'))
            trimmed--;
        if (trimmed && (!is_member(s, trimmed) || ++n_members > MAX_MEMBERS))
            return false;
        if (!s[n])
            return n_members > 0;
        s += n + 1;
    }
}

void trace_context_begin(struct trace_context *t, const char *traceparent, const char *tracestate, bool sample_new,
                         struct rng *rng)
{
    *t = (struct trace_context){0};
    bool continued = traceparent && parse_parent(t, traceparent);
    if (!continued)
        t->sampled = sample_new;
    if (!continued)
        snprintf(t->trace_id, sizeof t->trace_id, "%016" PRIx64 "%016" PRIx64, rng_u64(rng), rng_u64(rng) | 1);
    else if (tracestate && is_state(tracestate))
        snprintf(t->state, sizeof t->state, "%s", tracestate);
    snprintf(t->span_id, sizeof t->span_id, "%016" PRIx64, rng_u64(rng) | 1);
}

void trace_context_format(const struct trace_context *t, char out[56])
{
    snprintf(out, 56, "00-%s-%s-0%c", t->trace_id, t->span_id, t->sampled ? '1' : '0');
}
