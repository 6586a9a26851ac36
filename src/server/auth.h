/* API keys: who may use the API, and under which name what they use is counted. Keys are kept as SHA-256 digests; a
 * presented key is compared with all of them in constant time. Keys never appear in logs, metrics or answers: their
 * names do. Immutable after loading: any thread may check. */
#ifndef WEIR_SERVER_AUTH_H
#define WEIR_SERVER_AUTH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_MAX_KEYS 65536
#define AUTH_MAX_NAME 64

struct auth_key {
    uint64_t id;                  /* a stable hash of the key; 0: the server has no keys */
    char name[AUTH_MAX_NAME + 1]; /* letters, digits and ._@- ; several keys may share one */
    bool admin;                   /* may see what others do */
};

struct auth {
    unsigned char (*digests)[32]; /* [n_keys] */
    struct auth_key *keys;        /* [n_keys] */
    size_t n_keys;
    bool has_metrics_key;
    unsigned char metrics_digest[32];
};

void auth_init(struct auth *a);
void auth_finish(struct auth *a);

/* Named by its hash; an admin's if it is the only key. */
int auth_add(struct auth *a, const char *key, struct err *e);

/* A key a line, then in any order `name=NAME` and `admin`; blank lines and lines that begin with # do not count. An
 * error names the line, never the key. */
int auth_add_file(struct auth *a, const char *path, struct err *e);

/* header: the Authorization header's value, or NULL. NULL without a valid key; where there are no keys, everyone is the
 * admin "anonymous". Lives as long as a. */
const struct auth_key *auth_check(const struct auth *a, const char *header);
bool auth_is_admin(const struct auth *a, const struct auth_key *k);

/* Who may read /metrics: everybody, or with a key of its own that one and admins. */
int auth_set_metrics_key(struct auth *a, const char *key, struct err *e);
bool auth_check_metrics(const struct auth *a, const char *header);

#endif
