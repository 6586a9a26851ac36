/* API keys: who may use the API. Keys are kept as SHA-256 digests; a presented key is compared with all of them in
 * constant time. Keys never appear in logs, metrics or answers. Immutable after loading: any thread may check. */
#ifndef WEIR_SERVER_AUTH_H
#define WEIR_SERVER_AUTH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_MAX_KEYS 65536

struct auth {
    unsigned char (*digests)[32];
    size_t n_keys;
};

void auth_init(struct auth *a);
void auth_finish(struct auth *a);

int auth_add(struct auth *a, const char *key, struct err *e);

/* One key a line; blank lines and lines that begin with # do not count. */
int auth_add_file(struct auth *a, const char *path, struct err *e);

/* header: the Authorization header's value, or NULL. True without keys (open server) or with a valid one; *id is then a
 * stable hash of the key, 0 for none. */
bool auth_check(const struct auth *a, const char *header, uint64_t *id);

#endif
