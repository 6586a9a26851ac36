#include "server/auth.h"

#include "base/file.h"
#include "base/mem.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void auth_init(struct auth *a)
{
    *a = (struct auth){0};
}

void auth_finish(struct auth *a)
{
    free(a->digests);
    *a = (struct auth){0};
}

static int add(struct auth *a, const char *key, size_t n, struct err *e)
{
    if (!n)
        return err_set(e, WEIR_EINVAL, "an API key must not be empty");
    if (a->n_keys == AUTH_MAX_KEYS)
        return err_set(e, WEIR_ELIMIT, "more than %d API keys", AUTH_MAX_KEYS);
    if ((a->n_keys & (a->n_keys - 1)) == 0) { /* grows at powers of two */
        void *grown = mem_resize(a->digests, a->n_keys ? a->n_keys * 2 : 1, sizeof *a->digests);
        if (!grown)
            return err_set(e, WEIR_ENOMEM, "no memory for API keys");
        a->digests = grown;
    }
    SHA256((const unsigned char *)key, n, a->digests[a->n_keys++]);
    return 0;
}

int auth_add(struct auth *a, const char *key, struct err *e)
{
    return add(a, key, strlen(key), e);
}

int auth_add_file(struct auth *a, const char *path, struct err *e)
{
    char *text;
    size_t n;
    int r = file_read(path, (size_t)16 << 20, &text, &n, e);
    if (r)
        return r;
    size_t before = a->n_keys;
    char *save = NULL;
    for (char *line = strtok_r(text, "\r\n", &save); line && !r; line = strtok_r(NULL, "\r\n", &save)) {
        line += strspn(line, " \t");
        size_t len = strlen(line);
        while (len && (line[len - 1] == ' ' || line[len - 1] == '\t'))
            len--;
        if (len && *line != '#')
            r = add(a, line, len, e);
    }
    OPENSSL_cleanse(text, n);
    free(text);
    if (!r && a->n_keys == before)
        r = err_set(e, WEIR_EINVAL, "%s holds no API key", path);
    return r;
}

bool auth_check(const struct auth *a, const char *header, uint64_t *id)
{
    *id = 0;
    if (!a->n_keys)
        return true;
    if (!header || strncasecmp(header, "Bearer ", 7))
        return false;
    header += 7 + strspn(header + 7, " ");
    unsigned char digest[32];
    SHA256((const unsigned char *)header, strlen(header), digest);
    int matches = 0;
    for (size_t i = 0; i < a->n_keys; i++)
        matches += !CRYPTO_memcmp(digest, a->digests[i], sizeof digest);
    if (!matches)
        return false;
    memcpy(id, digest, sizeof *id);
    return true;
}
