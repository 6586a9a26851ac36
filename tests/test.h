/* What every C test includes: cmocka, and the place of optional data. */
#ifndef WEIR_TESTS_TEST_H
#define WEIR_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Path of a file of the optional test data (WEIR_SHARED, else ../shared beside the checkout), or NULL: then the test
 * calls skip(). Static text. */
static inline const char *shared_path(const char *name)
{
    static char path[4096];
    const char *root = getenv("WEIR_SHARED");
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

#endif
