#include "engine/stop.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

int stop_init(struct stop_matcher *m, const char *const *strings, uint32_t n, size_t max_text_bytes, struct err *e)
{
    *m = (struct stop_matcher){0};
    buf_init(&m->text, max_text_bytes);
    if (n > STOP_MAX_STRINGS)
        return err_set(e, WEIR_EINVAL, "stop: %u strings, at most %d are taken", n, STOP_MAX_STRINGS);
    for (uint32_t i = 0; i < n; i++) {
        size_t length = strlen(strings[i]);
        if (length == 0 || length > STOP_MAX_BYTES || !utf8_valid(strings[i], length)) {
            stop_finish(m);
            return err_set(e, WEIR_EINVAL, "stop: string %u must be 1 to %d bytes of UTF-8", i, STOP_MAX_BYTES);
        }
        m->strings[i] = mem_strndup(strings[i], length);
        m->lengths[i] = length;
        m->n_strings = i + 1;
        if (!m->strings[i]) {
            stop_finish(m);
            return err_set(e, WEIR_ENOMEM, "no memory for stop strings");
        }
    }
    return 0;
}

void stop_finish(struct stop_matcher *m)
{
    for (uint32_t i = 0; i < m->n_strings; i++)
        free(m->strings[i]);
    buf_finish(&m->text);
    *m = (struct stop_matcher){0};
}

int stop_scan(const struct stop_matcher *m, size_t *n_before)
{
    size_t held_from = m->text.len;
    for (size_t at = 0; at < m->text.len; at++) {
        size_t left = m->text.len - at;
        int found = -1;
        for (uint32_t i = 0; i < m->n_strings; i++) {
            size_t length = m->lengths[i], n = length < left ? length : left;
            if (memcmp(m->text.data + at, m->strings[i], n) != 0)
                continue;
            if (n == length && (found < 0 || length > m->lengths[found]))
                found = (int)i;
            if (n < length && at < held_from)
                held_from = at;
        }
        if (found >= 0) {
            *n_before = at;
            return found;
        }
    }
    *n_before = held_from;
    return -1;
}
