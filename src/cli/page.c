#include "cli/page.h"

#include "base/embed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Stands inside a script element, which a '<' could end. */
static void add_json(struct buf *b, const char *json)
{
    for (const char *c = json; *c;) {
        size_t n = strcspn(c, "<");
        buf_add(b, c, n);
        c += n;
        if (*c) {
            buf_adds(b, "\\u003c");
            c++;
        }
    }
}

static void add_file(struct buf *b, const char *name)
{
    const struct embed_file *f = embed_find(name);
    if (f)
        buf_add(b, f->begin, (size_t)(f->end - f->begin));
}

static int page_render(struct buf *b, const char *page, const char *json)
{
    static const char *const marks[] = {"/*STYLE*/", "/*SCRIPT*/", "/*REPORT*/null"};
    const struct embed_file *f = embed_find(page);
    if (!f)
        return WEIR_ENOMEM;
    for (const char *at = (const char *)f->begin; *at;) {
        const char *next = NULL;
        size_t which = 0;
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
            const char *found = strstr(at, marks[i]);
            if (found && (!next || found < next)) {
                next = found;
                which = i;
            }
        }
        buf_add(b, at, next ? (size_t)(next - at) : strlen(at));
        if (!next)
            break;
        at = next + strlen(marks[which]);
        if (which == 2)
            add_json(b, json);
        else
            add_file(b, which ? "page_script" : "page_style");
    }
    return b->failed;
}

static char *text_of(json_t *report, unsigned digits, size_t layout)
{
    char *text = report ? json_dumps(report, layout | JSON_REAL_PRECISION(digits)) : NULL;
    json_decref(report);
    return text;
}

int page_put_json(struct buf *b, json_t *report, unsigned digits)
{
    char *text = text_of(report, digits, JSON_INDENT(1));
    if (!text)
        return WEIR_ENOMEM;
    buf_adds(b, text);
    buf_addc(b, '\n');
    free(text);
    return b->failed;
}

int page_put(struct buf *b, const char *page, json_t *report, unsigned digits)
{
    char *text = text_of(report, digits, JSON_COMPACT);
    int rc = text ? page_render(b, page, text) : WEIR_ENOMEM;
    free(text);
    return rc;
}

int page_write(const struct buf *b, const char *path, struct err *e)
{
    if (b->failed)
        return err_set(e, b->failed, "no memory for the report");
    FILE *f = strcmp(path, "-") ? fopen(path, "w") : stdout;
    int fail = !f || fwrite(b->data, 1, b->len, f) != b->len ? err_errno(e, "%s", path) : 0;
    if (f && (f == stdout ? fflush(f) : fclose(f)) && !fail)
        fail = err_errno(e, "%s", path);
    return fail;
}
