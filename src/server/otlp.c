#include "server/otlp.h"

#include "base/clock.h"
#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/weir_json.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 64
#define MAX_BODY_BYTES ((size_t)4 << 20)
#define SEND_TIMEOUT_MS 3000L
#define KIND_INTERNAL 1
#define KIND_SERVER 2
#define STATUS_ERROR 2

/* A request and its first choice. */
struct item {
    struct request_record record;
    struct gen_usage usage;
    char key[AUTH_MAX_NAME + 1];
};

struct otlp {
    char *url;
    const char *model;
    CURL *curl;
    struct curl_slist *headers;
    struct buf body;
    struct item batch[BATCH]; /* the thread's */
    bool failing;

    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct item *queue; /* [OTLP_MAX_QUEUED]: a ring */
    uint32_t first, n;
    bool stop;
    struct otlp_counts counts;
};

/* ---- JSON ---- */

static void put_ns(struct json_out *o, const char *name, double wall_s)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, (uint64_t)(wall_s * 1e9)); /* 64-bit numbers are strings in OTLP */
    json_add_str(o, name, text);
}

static void put_text(struct json_out *o, const char *key, const char *value)
{
    json_begin_object(o, NULL);
    json_add_str(o, "key", key);
    json_begin_object(o, "value");
    json_add_str(o, "stringValue", value);
    json_close(o);
    json_close(o);
}

static void put_int(struct json_out *o, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    json_begin_object(o, NULL);
    json_add_str(o, "key", key);
    json_begin_object(o, "value");
    json_add_str(o, "intValue", text);
    json_close(o);
    json_close(o);
}

static void put_double(struct json_out *o, const char *key, double value)
{
    json_begin_object(o, NULL);
    json_add_str(o, "key", key);
    json_begin_object(o, "value");
    json_add_f64(o, "doubleValue", value);
    json_close(o);
    json_close(o);
}

static void begin_span(struct json_out *o, const struct trace_context *t, const char *id, const char *parent,
                       const char *name, int kind, double begin_s, double end_s)
{
    json_begin_object(o, NULL);
    json_add_str(o, "traceId", t->trace_id);
    json_add_str(o, "spanId", id);
    if (*parent)
        json_add_str(o, "parentSpanId", parent);
    if (t->state[0] && kind == KIND_SERVER)
        json_add_str(o, "traceState", t->state);
    json_add_str(o, "name", name);
    json_add_i64(o, "kind", kind);
    put_ns(o, "startTimeUnixNano", begin_s);
    put_ns(o, "endTimeUnixNano", end_s);
}

/* Children's ids follow from their parent's: nobody else's span begins another below it. */
static void put_phases(struct json_out *o, const struct item *it)
{
    const struct request_record *r = &it->record;
    uint64_t parent = strtoull(r->trace.span_id, NULL, 16);
    for (uint32_t i = 0; i < it->usage.n_spans; i++) {
        const struct gen_span *s = &it->usage.spans[i];
        char id[17];
        double began_s = r->arrived_wall_s + r->prepare_s;
        snprintf(id, sizeof id, "%016" PRIx64, parent + 2 * (i + 1));
        begin_span(o, &r->trace, id, r->trace.span_id, gen_phase_names[s->phase], KIND_INTERNAL, began_s + s->begin_s,
                   began_s + s->end_s);
        json_begin_array(o, "attributes");
        if (s->phase == GEN_QUEUED)
            put_text(o, "weir.queued_for", sched_wait_names[s->reason]);
        put_int(o, "weir.memory_bytes", s->memory_bytes);
        json_close(o);
        json_close(o);
    }
}

static void put_item(struct json_out *o, const struct item *it, const char *model)
{
    const struct request_record *r = &it->record;
    const struct request_sums *s = &r->sums;
    const char *operation = r->kind == API_CHAT ? "chat" : "text_completion";
    bool failed = s->finish == FINISH_FAILED || s->finish == FINISH_REFUSED;
    begin_span(o, &r->trace, r->trace.span_id, r->trace.parent_id, operation, KIND_SERVER, r->arrived_wall_s,
               r->arrived_wall_s + r->total_s);
    json_begin_array(o, "attributes");
    put_text(o, "gen_ai.operation.name", operation);
    put_text(o, "gen_ai.request.model", model);
    put_text(o, "gen_ai.response.id", r->id);
    put_int(o, "gen_ai.usage.input_tokens", s->prompt_tokens);
    put_int(o, "gen_ai.usage.output_tokens", s->output_tokens);
    put_text(o, "weir.key", it->key);
    put_text(o, "weir.state", weir_state_name(s->finish));
    put_int(o, "weir.cached_tokens", s->cached_tokens);
    put_int(o, "weir.memory_bytes", gen_memory_bytes(&s->traffic));
    put_int(o, "weir.flops", s->traffic.flops);
    put_double(o, "weir.bandwidth_s", r->bandwidth_s);
    json_close(o);
    if (failed) {
        json_begin_object(o, "status");
        json_add_i64(o, "code", STATUS_ERROR);
        json_close(o);
    }
    json_close(o);
    put_phases(o, it);
}

static void render(struct otlp *o, uint32_t n)
{
    buf_clear(&o->body);
    struct json_out out = json_out_begin(&o->body);
    json_begin_object(&out, NULL);
    json_begin_array(&out, "resourceSpans");
    json_begin_object(&out, NULL);
    json_begin_object(&out, "resource");
    json_begin_array(&out, "attributes");
    put_text(&out, "service.name", "weir");
    put_text(&out, "service.version", WEIR_VERSION);
    json_close(&out);
    json_close(&out);
    json_begin_array(&out, "scopeSpans");
    json_begin_object(&out, NULL);
    json_begin_object(&out, "scope");
    json_add_str(&out, "name", "weir");
    json_close(&out);
    json_begin_array(&out, "spans");
    for (uint32_t i = 0; i < n; i++)
        put_item(&out, &o->batch[i], o->model);
    for (int depth = 6; depth > 0; depth--)
        json_close(&out);
}

/* ---- Sending ---- */

static size_t ignore_answer(char *data, size_t size, size_t n, void *user)
{
    (void)data, (void)user;
    return size * n;
}

static bool send_batch(struct otlp *o, uint32_t n)
{
    long status = 0;
    render(o, n);
    curl_easy_setopt(o->curl, CURLOPT_POSTFIELDS, o->body.data);
    curl_easy_setopt(o->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)o->body.len);
    CURLcode rc = o->body.failed ? CURLE_OUT_OF_MEMORY : curl_easy_perform(o->curl);
    if (!rc)
        curl_easy_getinfo(o->curl, CURLINFO_RESPONSE_CODE, &status);
    bool sent = !rc && status >= 200 && status < 300;
    if (!sent && !o->failing)
        LOG(LOG_WARN, "the collector takes no spans", {"status", log_i64(status)},
            {"error", log_str(rc ? curl_easy_strerror(rc) : "refused")});
    if (sent && o->failing)
        LOG(LOG_INFO, "the collector takes spans again");
    o->failing = !sent;
    return sent;
}

static void *run(void *arg)
{
    struct otlp *o = arg;
    pthread_mutex_lock(&o->lock);
    for (;;) {
        double until_s = clock_wall_s() + 1;
        struct timespec until = {.tv_sec = (time_t)until_s, .tv_nsec = (long)((until_s - floor(until_s)) * 1e9)};
        int late = 0;
        while (o->n < BATCH && !o->stop && !late)
            late = pthread_cond_timedwait(&o->changed, &o->lock, &until);
        if (o->n == 0 && o->stop)
            break;
        uint32_t n = o->n < BATCH ? o->n : BATCH;
        for (uint32_t i = 0; i < n; i++)
            o->batch[i] = o->queue[(o->first + i) % OTLP_MAX_QUEUED];
        o->first = (o->first + n) % OTLP_MAX_QUEUED;
        o->n -= n;
        if (!n)
            continue;
        pthread_mutex_unlock(&o->lock);
        bool sent = send_batch(o, n);
        pthread_mutex_lock(&o->lock);
        *(sent ? &o->counts.sent : &o->counts.dropped) += n;
        if (!sent && o->stop)
            break; /* not worth more waiting */
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

void otlp_add(struct otlp *o, const struct request_record *r)
{
    if (!r->trace.sampled)
        return;
    pthread_mutex_lock(&o->lock);
    if (o->n == OTLP_MAX_QUEUED) {
        o->counts.dropped++;
    } else {
        struct item *it = &o->queue[(o->first + o->n++) % OTLP_MAX_QUEUED];
        *it = (struct item){.record = *r};
        it->record.choices = NULL;
        snprintf(it->key, sizeof it->key, "%s", r->key->name);
        if (r->n_choices && r->choices)
            it->usage = r->choices[0].usage;
        if (o->n == BATCH)
            pthread_cond_signal(&o->changed);
    }
    pthread_mutex_unlock(&o->lock);
}

struct otlp_counts otlp_counts(struct otlp *o)
{
    pthread_mutex_lock(&o->lock);
    struct otlp_counts c = o->counts;
    pthread_mutex_unlock(&o->lock);
    return c;
}

/* ---- Life ---- */

/* The URL that spans go to, or an error that says what is wrong with it. */
static int make_url(struct otlp *o, const char *endpoint, struct err *e)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *path = NULL, *whole = NULL;
    bool valid = u && !curl_url_set(u, CURLUPART_URL, endpoint, 0) && !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
                 (!strcmp(scheme, "http") || !strcmp(scheme, "https")) && !curl_url_get(u, CURLUPART_PATH, &path, 0);
    if (valid && !strcmp(path, "/"))
        valid = !curl_url_set(u, CURLUPART_PATH, "/v1/traces", 0);
    if (valid && !curl_url_get(u, CURLUPART_URL, &whole, 0))
        o->url = mem_strndup(whole, strlen(whole));
    curl_free(scheme);
    curl_free(path);
    curl_free(whole);
    curl_url_cleanup(u);
    return o->url ? 0
                  : err_set(e, WEIR_EINVAL, "--otlp-endpoint: '%s' is not a URL like http://localhost:4318", endpoint);
}

static int set_up_curl(struct otlp *o, struct err *e)
{
    o->curl = curl_easy_init();
    o->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!o->curl || !o->headers)
        return err_set(e, WEIR_ENOMEM, "no memory for sending spans");
    curl_easy_setopt(o->curl, CURLOPT_URL, o->url);
    curl_easy_setopt(o->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(o->curl, CURLOPT_HTTPHEADER, o->headers);
    curl_easy_setopt(o->curl, CURLOPT_USERAGENT, "weir/" WEIR_VERSION);
    curl_easy_setopt(o->curl, CURLOPT_TIMEOUT_MS, SEND_TIMEOUT_MS);
    curl_easy_setopt(o->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(o->curl, CURLOPT_WRITEFUNCTION, ignore_answer);
    return 0;
}

int otlp_create(struct otlp **out, const char *endpoint, const char *model, struct err *e)
{
    *out = NULL;
    struct otlp *o = mem_array(1, sizeof *o);
    if (!o)
        return err_set(e, WEIR_ENOMEM, "no memory for sending spans");
    o->model = model;
    buf_init(&o->body, MAX_BODY_BYTES);
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->changed, NULL);
    o->queue = mem_array(OTLP_MAX_QUEUED, sizeof *o->queue);
    int rc = o->queue ? 0 : err_set(e, WEIR_ENOMEM, "no memory for sending spans");
    if (!rc)
        rc = make_url(o, endpoint, e);
    if (!rc)
        rc = set_up_curl(o, e);
    if (!rc) {
        int failed = pthread_create(&o->thread, NULL, run, o);
        o->thread_runs = !failed;
        rc = failed ? err_set(e, WEIR_ENOMEM, "no thread for sending spans (error %d)", failed) : 0;
    }
    if (rc)
        otlp_destroy(o);
    else
        *out = o;
    return rc;
}

void otlp_destroy(struct otlp *o)
{
    if (!o)
        return;
    if (o->thread_runs) {
        pthread_mutex_lock(&o->lock);
        o->stop = true;
        pthread_cond_signal(&o->changed);
        pthread_mutex_unlock(&o->lock);
        pthread_join(o->thread, NULL);
    }
    curl_easy_cleanup(o->curl);
    curl_slist_free_all(o->headers);
    buf_finish(&o->body);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->changed);
    free(o->queue);
    free(o->url);
    free(o);
}
