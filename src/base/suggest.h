/* The nearest valid name to a wrong one, for error messages. Pure; thread-safe. */
#ifndef WEIR_BASE_SUGGEST_H
#define WEIR_BASE_SUGGEST_H

#include <stddef.h>

/* Names are compared without regard to case, and '_', ' ', '.' and '-' as equal. Only the first 63 bytes count. */
int suggest_same(const char *a, const char *b);

/* Edit distance (insert, delete, replace, swap of neighbours: each 1), with the same equalities. */
unsigned suggest_distance(const char *a, const char *b);

/* The name among n nearest to `wrong`, or NULL if none is near enough to be meant: a distance of at most a third of the
 * longer one, or one begins with the other. */
const char *suggest_nearest(const char *wrong, const char *const *names, size_t n);

#endif
