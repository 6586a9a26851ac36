/* UTF-8 (RFC 3629). Pure functions on bytes; no locale. */
#ifndef WEIR_BASE_UTF8_H
#define WEIR_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Decodes one code point from n >= 1 bytes. Returns its length 1..4 with *cp set, 0 if the bytes are a valid but
 * unfinished beginning, -1 if they are not UTF-8 (overlong, surrogate, above U+10FFFF, stray continuation). */
int utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Writes cp (<= 0x10FFFF) to out; returns 1..4. */
int utf8_encode(uint32_t cp, char out[4]);

/* Length of the longest prefix of s that ends on a code point border: what may be sent now, while the rest may yet
 * be completed. Bytes that can never become valid count as complete (they are replaced on output). */
size_t utf8_complete_len(const char *s, size_t n);

/* 1 if all n bytes are valid UTF-8. */
int utf8_valid(const char *s, size_t n);

#endif
