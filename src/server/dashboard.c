/* The dashboard: three files that the binary carries (web/dist), compressed for clients that take it. They hold no
 * data and need no key; what the page shows comes from /v1/weir, which does. */
#include "base/embed.h"
#include "base/hash.h"
#include "server/server_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Nothing from elsewhere, nothing inline, no frames around it. The icon is a data: URL. */
static const char policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                             "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static const struct page {
    const char *path, *name, *name_gz, *type;
} pages[] = {
    {"/", "web/index.html", "web/index.html.gz", "text/html; charset=utf-8"},
    {"/ui/app.js", "web/app.js", "web/app.js.gz", "text/javascript; charset=utf-8"},
    {"/ui/style.css", "web/style.css", "web/style.css.gz", "text/css; charset=utf-8"},
};

/* Whether a list like "deflate, gzip;q=0.5" takes gzip. A weight of zero forbids it. */
static bool takes_gzip(const char *accepted)
{
    for (const char *at = accepted; at && *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t");
        size_t n = strcspn(at, " \t;,");
        if (n != 4 || strncasecmp(at, "gzip", 4))
            continue;
        const char *q = at + n + strspn(at + n, " \t;");
        if (strncasecmp(q, "q=0", 3))
            return true;
        q += 3 + strspn(q + 3, ".0");
        return *q >= '1' && *q <= '9';
    }
    return false;
}

void dashboard_reply(struct server *s, struct http_request *r)
{
    const char *path = http_request_path(r);
    const struct page *page = NULL;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        if (!strcmp(pages[i].path, path))
            page = &pages[i];
    }
    bool gzip = page && takes_gzip(http_request_header(r, "Accept-Encoding"));
    const struct embed_file *f = page ? embed_find(gzip ? page->name_gz : page->name) : NULL;
    if (!f) {
        struct api_error e;
        api_error_set(&e, 404, "not_found", NULL, "there is nothing at '%.200s'", path);
        server_reply_error(s, r, &e);
        return;
    }
    size_t n = (size_t)(f->end - f->begin);
    char tag[32];
    snprintf(tag, sizeof tag, "\"%016" PRIx64 "\"", hash_bytes(f->begin, n, 0));
    http_reply_header(r, "Content-Security-Policy", policy);
    http_reply_header(r, "X-Content-Type-Options", "nosniff");
    http_reply_header(r, "Referrer-Policy", "no-referrer");
    http_reply_header(r, "Cache-Control", "no-cache");
    http_reply_header(r, "Vary", "Accept-Encoding");
    http_reply_header(r, "ETag", tag);
    const char *known = http_request_header(r, "If-None-Match");
    if (known && strstr(known, tag)) {
        server_reply(s, r, 304, NULL, "", 0);
        return;
    }
    if (gzip)
        http_reply_header(r, "Content-Encoding", "gzip");
    server_reply(s, r, 200, page->type, (const char *)f->begin, n);
}
