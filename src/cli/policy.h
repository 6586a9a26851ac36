/* --policy: the name of a built-in policy, or a file that lists the nodes of one (docs/policies.md). */
#ifndef WEIR_CLI_POLICY_H
#define WEIR_CLI_POLICY_H

#include "base/err.h"
#include "policy/sched.h"

/* A name with a '/' or that ends with ".json" is a file. The pipeline is checked: WEIR_EINVAL says what is wrong. */
int policy_open(struct sched_policy *out, const char *name, struct err *e);

/* Reads the text of such a file. */
int policy_parse(struct sched_policy *out, const char *text, size_t n, struct err *e);

#endif
