#include "server/auth.h"

#include "base/file.h"
#include "base/mem.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-"

void auth_init(struct auth *a)
{
    *a = (struct auth){0};
}

void auth_finish(struct auth *a)
{
    free(a->digests);
    free(a->keys);
    *a = (struct auth){0};
}

/* Makes room for one more; grows at powers of two. */
static int grow(struct auth *a, struct err *e)
{
    if (a->n_keys == AUTH_MAX_KEYS)
        return err_set(e, WEIR_ELIMIT, "more than %d API keys", AUTH_MAX_KEYS);
    if (a->n_keys & (a->n_keys - 1))
        return 0;
    size_t n = a->n_keys ? a->n_keys * 2 : 1;
    void *digests = mem_resize(a->digests, n, sizeof *a->digests);
    if (digests)
        a->digests = digests;
    void *keys = mem_resize(a->keys, n, sizeof *a->keys);
    if (keys)
        a->keys = keys;
    return digests && keys ? 0 : err_set(e, WEIR_ENOMEM, "no memory for API keys");
}

static int add(struct auth *a, const char *key, size_t n, struct auth_key **out, struct err *e)
{
    if (!n)
        return err_set(e, WEIR_EINVAL, "an API key must not be empty");
    int r = grow(a, e);
    if (r)
        return r;
    unsigned char *d = a->digests[a->n_keys];
    struct auth_key *k = &a->keys[a->n_keys++];
    SHA256((const unsigned char *)key, n, d);
    *k = (struct auth_key){0};
    memcpy(&k->id, d, sizeof k->id);
    k->id += k->id == 0;
    snprintf(k->name, sizeof k->name, "key-%02x%02x%02x%02x%02x%02x", d[0], d[1], d[2], d[3], d[4], d[5]);
    if (out)
        *out = k;
    return 0;
}

int auth_add(struct auth *a, const char *key, struct err *e)
{
    return add(a, key, strlen(key), NULL, e);
}

static int set_attribute(struct auth_key *k, const char *word, unsigned line, struct err *e)
{
    if (!strcmp(word, "admin")) {
        k->admin = true;
        return 0;
    }
    if (strncmp(word, "name=", 5))
        return err_set(e, WEIR_EINVAL, "line %u: behind a key stand name=NAME and admin, nothing else", line);
    const char *name = word + 5;
    size_t n = strlen(name);
    if (!n || n > AUTH_MAX_NAME || strspn(name, NAME_LETTERS) != n)
        return err_set(e, WEIR_EINVAL, "line %u: a name has 1 to %d letters, digits and . _ @ -", line, AUTH_MAX_NAME);
    snprintf(k->name, sizeof k->name, "%s", name);
    return 0;
}

static int add_line(struct auth *a, char *text, unsigned line, struct err *e)
{
    char *save = NULL, *word = strtok_r(text, " \t\r", &save);
    struct auth_key *k;
    if (!word || *word == '#')
        return 0;
    int r = add(a, word, strlen(word), &k, e);
    while (!r && (word = strtok_r(NULL, " \t\r", &save)))
        r = set_attribute(k, word, line, e);
    return r;
}

int auth_add_file(struct auth *a, const char *path, struct err *e)
{
    char *text;
    size_t n;
    int r = file_read(path, (size_t)16 << 20, &text, &n, e);
    if (r)
        return r;
    size_t before = a->n_keys;
    unsigned line = 1;
    for (char *at = text, *end; !r && at; at = end, line++) {
        end = strchr(at, '\n');
        if (end)
            *end++ = 0;
        r = add_line(a, at, line, e);
    }
    OPENSSL_cleanse(text, n);
    free(text);
    if (r)
        return err_prefix(e, "%s", path);
    return a->n_keys > before ? 0 : err_set(e, WEIR_EINVAL, "%s holds no API key", path);
}

/* The digest of what the header presents. */
static bool presented(const char *header, unsigned char digest[32])
{
    if (!header || strncasecmp(header, "Bearer ", 7))
        return false;
    header += 7 + strspn(header + 7, " ");
    SHA256((const unsigned char *)header, strlen(header), digest);
    return true;
}

const struct auth_key *auth_check(const struct auth *a, const char *header)
{
    static const struct auth_key anonymous = {.name = "anonymous", .admin = true};
    unsigned char digest[32];
    const struct auth_key *found = NULL;
    if (!a->n_keys)
        return &anonymous;
    if (!presented(header, digest))
        return NULL;
    for (size_t i = 0; i < a->n_keys; i++) {
        if (!CRYPTO_memcmp(digest, a->digests[i], sizeof digest))
            found = &a->keys[i];
    }
    return found;
}

bool auth_is_admin(const struct auth *a, const struct auth_key *k)
{
    return k->admin || a->n_keys == 1;
}

int auth_set_metrics_key(struct auth *a, const char *key, struct err *e)
{
    if (!*key)
        return err_set(e, WEIR_EINVAL, "the key of /metrics must not be empty");
    SHA256((const unsigned char *)key, strlen(key), a->metrics_digest);
    a->has_metrics_key = true;
    return 0;
}

bool auth_check_metrics(const struct auth *a, const char *header)
{
    unsigned char digest[32];
    if (!a->has_metrics_key)
        return true;
    if (!presented(header, digest))
        return false;
    if (!CRYPTO_memcmp(digest, a->metrics_digest, sizeof digest))
        return true;
    const struct auth_key *k = a->n_keys ? auth_check(a, header) : NULL;
    return k && auth_is_admin(a, k);
}
