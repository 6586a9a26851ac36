/* A folder of its own for a test that records: path and, after a rotation, old_path. Nothing else may be left in it. */
#ifndef WEIR_TESTS_RECORD_FILES_H
#define WEIR_TESTS_RECORD_FILES_H

#include "test.h"

#include "base/log.h"

static char dir[64], path[80], old_path[84];

static inline int make_dir(void **state)
{
    (void)state;
    log_setup(LOG_OFF, LOG_TEXT);
    snprintf(dir, sizeof dir, "/tmp/weir-record-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/r", dir);
    snprintf(old_path, sizeof old_path, "%s.1", path);
    return 0;
}

static inline int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    unlink(old_path);
    return rmdir(dir);
}

#define RECORD_TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

#endif
