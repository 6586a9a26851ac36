/* Unicode normalisation form C (UAX #15) by utf8proc, over pieces between characters that no normalisation crosses. */
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Reordering a run of combining marks costs the square of its length, so pieces are cut behind this many bytes where
 * a character allows it and, inside longer runs of marks than any writing has, behind the second. */
#define PIECE_BYTES 1024
#define MARKS_BYTES 2048

/* Whether a character takes part in composition or reordering with what stands before it. */
static bool joins_previous(uint32_t c)
{
    if (c < 0x300)
        return false;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME ||
           (c >= 0x1160 && c <= 0x11ff); /* Hangul vowels and finals */
}

static bool may_change(uint32_t c)
{
    return c >= 0x300 &&
           (joins_previous(c) || utf8proc_get_property((utf8proc_int32_t)c)->decomp_seqindex != UINT16_MAX);
}

static int add_normalised(struct buf *out, const char *text, size_t n)
{
    utf8proc_uint8_t *s = NULL;
    utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &s, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    int rc = len == UTF8PROC_ERROR_NOMEM ? WEIR_ENOMEM : len < 0 ? buf_add(out, text, n) : buf_add(out, s, (size_t)len);
    free(s);
    return rc;
}

int tokenizer_nfc(struct buf *out, const char *text, size_t n)
{
    size_t begin = 0; /* of the piece being read */
    bool change = false;
    int rc = 0;
    for (size_t i = 0; i < n && !rc;) {
        uint32_t c = 0;
        int len = utf8_decode(text + i, n - i, &c);
        bool broken = len <= 0, cut = broken || (!joins_previous(c) && (change || i - begin >= PIECE_BYTES));
        if (cut || i - begin >= MARKS_BYTES) {
            rc = change ? add_normalised(out, text + begin, i - begin) : buf_add(out, text + begin, i - begin);
            begin = i;
            change = false;
        }
        if (broken && !rc) {
            rc = buf_add(out, text + i, 1);
            begin = i + 1;
        }
        change |= !broken && may_change(c);
        i += broken ? 1 : (size_t)len;
    }
    if (rc)
        return rc;
    return change ? add_normalised(out, text + begin, n - begin) : buf_add(out, text + begin, n - begin);
}
