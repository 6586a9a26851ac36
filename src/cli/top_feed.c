#include "cli/top_feed.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_S 5L
#define STALE_S 12L /* without a byte the stream counts as dead */
#define FIRST_DELAY_S 0.5
#define MAX_DELAY_S 15.0

struct top_feed {
    struct top_feed_config config;
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    struct buf pending; /* of the answer, not parsed yet */
    bool streaming, has_state;
    double delay_s, again_s; /* when to try again */
    json_t *state;
    char why[CURL_ERROR_SIZE], status[sizeof(((struct err *)0)->msg)];
};

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct top_feed *f = arg;
    return buf_add(&f->pending, data, size * n) ? 0 : size * n; /* 0: too much, ends the transfer */
}

int top_feed_create(struct top_feed **out, const struct top_feed_config *c, struct err *e)
{
    struct top_feed *f = mem_array(1, sizeof *f);
    if (!f)
        return err_set(e, WEIR_ENOMEM, "no memory");
    f->config = *c;
    f->delay_s = FIRST_DELAY_S;
    buf_init(&f->pending, TOP_MAX_STATE_BYTES);
    snprintf(f->status, sizeof f->status, "connecting");
    *out = f;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) || !(f->multi = curl_multi_init()) || !(f->easy = curl_easy_init())) {
        top_feed_destroy(f);
        return err_set(e, WEIR_ENOMEM, "libcurl does not start");
    }
    if (c->api_key) {
        struct buf header;
        buf_init(&header, 65536);
        buf_printf(&header, "Authorization: Bearer %s", c->api_key);
        if (!header.failed)
            f->headers = curl_slist_append(NULL, header.data);
        buf_finish(&header);
        if (!f->headers) {
            top_feed_destroy(f);
            return err_set(e, WEIR_ELIMIT, "the API key is too long");
        }
    }
    return 0;
}

void top_feed_destroy(struct top_feed *f)
{
    if (!f)
        return;
    top_feed_pause(f);
    curl_easy_cleanup(f->easy);
    curl_multi_cleanup(f->multi);
    curl_slist_free_all(f->headers);
    json_decref(f->state);
    buf_finish(&f->pending);
    free(f);
    curl_global_cleanup();
}

static int set_up(struct top_feed *f, const char *path, struct err *e)
{
    struct buf url;
    buf_init(&url, 65536);
    size_t n = strlen(f->config.url);
    while (n && f->config.url[n - 1] == '/')
        n--;
    buf_printf(&url, "%.*s%s", (int)n, f->config.url, path);
    curl_easy_reset(f->easy);
    buf_clear(&f->pending);
    *f->why = '\0';
    CURLcode r = url.failed ? CURLE_OUT_OF_MEMORY : curl_easy_setopt(f->easy, CURLOPT_URL, url.data);
    buf_finish(&url);
    if (r)
        return err_set(e, WEIR_EINVAL, "--url: %s", curl_easy_strerror(r));
    curl_easy_setopt(f->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(f->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(f->easy, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(f->easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(f->easy, CURLOPT_LOW_SPEED_TIME, STALE_S);
    curl_easy_setopt(f->easy, CURLOPT_ERRORBUFFER, f->why);
    curl_easy_setopt(f->easy, CURLOPT_HTTPHEADER, f->headers);
    curl_easy_setopt(f->easy, CURLOPT_USERAGENT, "weir-top/" WEIR_VERSION);
    curl_easy_setopt(f->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(f->easy, CURLOPT_WRITEDATA, f);
    if (f->config.ca_file)
        curl_easy_setopt(f->easy, CURLOPT_CAINFO, f->config.ca_file);
    return 0;
}

/* What an ended transfer means: 0 for 200, else the error, with the server's own words where it has some. */
static int judge(struct top_feed *f, CURLcode r, struct err *e)
{
    long status = 0;
    curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status);
    if (r == CURLE_WRITE_ERROR && f->pending.failed)
        return err_set(e, WEIR_ELIMIT, "the answer is larger than %zu bytes", TOP_MAX_STATE_BYTES);
    if (r)
        return err_set(e, WEIR_EIO, "%s", *f->why ? f->why : curl_easy_strerror(r));
    if (status == 200)
        return 0;
    json_t *body = NULL;
    const char *message = NULL;
    if (f->pending.len && !json_parse(&body, f->pending.data, f->pending.len, NULL))
        message = json_string_value(json_object_get(json_object_get(body, "error"), "message"));
    int code = status == 401 || status == 403 ? WEIR_EINVAL : status == 404 ? WEIR_ENOTFOUND : WEIR_EIO;
    err_set(e, code, "HTTP status %ld%s%.200s%s", status, message ? ": " : "", message ? message : "",
            status == 401 ? " (--api-key-file or WEIR_API_KEY)" : "");
    json_decref(body);
    return code;
}

int top_feed_once(struct top_feed *f, json_t **state, struct err *e)
{
    int r = set_up(f, "/v1/weir/state", e);
    if (!r)
        r = judge(f, curl_easy_perform(f->easy), e);
    if (!r)
        r = json_parse(state, f->pending.data ? f->pending.data : "", f->pending.len, e);
    return r ? err_prefix(e, f->config.url) : 0;
}

/* One event: lines "event: NAME" and "data: TEXT". */
static void take_event(struct top_feed *f, const char *text, size_t n)
{
    const char *data = NULL, *end = text + n;
    size_t n_data = 0;
    bool is_state = false;
    for (const char *at = text; at < end;) {
        const char *eol = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((eol ? eol : end) - at);
        if (len >= 6 && !memcmp(at, "data: ", 6)) {
            data = at + 6;
            n_data = len - 6;
        }
        is_state |= len == 12 && !memcmp(at, "event: state", 12);
        at += len + 1;
    }
    json_t *state = NULL;
    if (!is_state || !data || json_parse(&state, data, n_data, NULL))
        return;
    json_decref(f->state);
    f->state = state;
    f->has_state = true;
    f->delay_s = FIRST_DELAY_S;
    snprintf(f->status, sizeof f->status, "live");
}

static void take_events(struct top_feed *f)
{
    char *end;
    while (f->pending.len && (end = memmem(f->pending.data, f->pending.len, "\n\n", 2))) {
        take_event(f, f->pending.data, (size_t)(end - f->pending.data));
        buf_consume(&f->pending, (size_t)(end - f->pending.data) + 2);
    }
}

static int check_ended(struct top_feed *f, struct err *e)
{
    int left;
    CURLMsg *m = curl_multi_info_read(f->multi, &left);
    if (!m || m->msg != CURLMSG_DONE)
        return 0;
    struct err why;
    int r = judge(f, m->data.result, &why);
    top_feed_pause(f);
    if (r == WEIR_EINVAL || r == WEIR_ENOTFOUND)
        return err_set(e, r, "%s: %s", f->config.url, why.msg);
    snprintf(f->status, sizeof f->status, "%s", r ? why.msg : "the stream ended");
    f->again_s = clock_monotonic_s() + f->delay_s;
    f->delay_s = fmin(f->delay_s * 1.7, MAX_DELAY_S);
    return 0;
}

int top_feed_wait(struct top_feed *f, int fd, double timeout_s, struct err *e)
{
    double now = clock_monotonic_s(), until = now + timeout_s;
    struct curl_waitfd input = {.fd = fd, .events = CURL_WAIT_POLLIN};
    while (!f->has_state) {
        if (!f->streaming && now >= f->again_s) {
            int r = set_up(f, "/v1/weir/stream", e);
            if (r)
                return r;
            f->streaming = !curl_multi_add_handle(f->multi, f->easy);
        }
        int n_running;
        curl_multi_perform(f->multi, &n_running);
        take_events(f);
        int r = f->streaming ? check_ended(f, e) : 0;
        now = clock_monotonic_s();
        if (r || f->has_state || now >= until)
            return r;
        double wait_s = f->streaming ? until - now : fmin(until, f->again_s) - now;
        curl_multi_poll(f->multi, fd >= 0 ? &input : NULL, fd >= 0 ? 1 : 0, (int)ceil(fmax(wait_s, 0) * 1e3), NULL);
        if (input.revents)
            return 0;
        now = clock_monotonic_s();
    }
    return 0;
}

json_t *top_feed_take(struct top_feed *f)
{
    json_t *state = f->state;
    f->state = NULL;
    f->has_state = false;
    return state;
}

void top_feed_pause(struct top_feed *f)
{
    if (f->streaming)
        curl_multi_remove_handle(f->multi, f->easy);
    f->streaming = false;
    buf_clear(&f->pending);
}

const char *top_feed_status(const struct top_feed *f)
{
    return f->status;
}
