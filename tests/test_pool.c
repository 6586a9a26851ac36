/* The pieces under the scheduler: chunk pool, index, prefix hashes. Random operations against plain models.
 */
#include "base/rng.h"
#include "policy/index_map.h"
#include "policy/pool.h"
#include "policy/prefix.h"
#include "test.h"

static void pool_counts_references(void **state)
{
    (void)state;
    struct pool p;
    assert_int_equal(pool_init(&p, 3, NULL), 0);
    uint32_t a = pool_alloc(&p), b = pool_alloc(&p), c = pool_alloc(&p);
    assert_true(a != b && b != c && a != c && a < 3 && b < 3 && c < 3);
    assert_int_equal(pool_alloc(&p), POOL_NONE);
    pool_ref(&p, b);
    assert_false(pool_unref(&p, b));
    assert_int_equal(p.n_active, 3);
    assert_true(pool_unref(&p, b));
    assert_int_equal(p.n_idle, 1);
    assert_int_equal(pool_alloc(&p), POOL_NONE); /* idle is not free */
    pool_ref(&p, b);
    assert_int_equal(p.n_idle, 0);
    assert_true(pool_unref(&p, b));
    pool_free(&p, b);
    assert_true(pool_unref(&p, a));
    pool_free(&p, a);
    assert_int_equal(p.n_free, 2);
    assert_int_equal(pool_alloc(&p), a); /* last freed, first reused */
    assert_int_equal(pool_alloc(&p), b);
    pool_finish(&p);
}

static void index_map_matches_an_array(void **state)
{
    (void)state;
    enum { N_KEYS = 300, MAX = 100 };
    struct index_map m;
    assert_int_equal(index_map_init(&m, MAX, NULL), 0);
    uint32_t model[N_KEYS];
    memset(model, 0xff, sizeof model);
    struct rng rng = {7};
    for (int step = 0; step < 200000; step++) {
        uint64_t key = rng_below(&rng, N_KEYS);
        /* Keys that differ in high bits only, and in low ones only, both occur. */
        uint64_t spread = key < 150 ? key : key << 50;
        assert_int_equal(index_map_find(&m, spread), model[key]);
        if (model[key] != INDEX_NONE) {
            index_map_remove(&m, spread);
            model[key] = INDEX_NONE;
        } else if (m.n < MAX) {
            model[key] = (uint32_t)step;
            index_map_insert(&m, spread, model[key]);
        }
    }
    for (uint64_t key = 0; key < N_KEYS; key++)
        assert_int_equal(index_map_find(&m, key < 150 ? key : key << 50), model[key]);
    index_map_finish(&m);
}

static void prefix_hashes_depend_on_all_before(void **state)
{
    (void)state;
    const int32_t a[4] = {1, 2, 3, 4}, b[4] = {1, 2, 3, 5};
    uint64_t root = prefix_hash_root(0);
    assert_true(root != prefix_hash_root(1));
    uint64_t ha = prefix_hash_next(root, a, 4), hb = prefix_hash_next(root, b, 4);
    assert_true(ha != hb);
    assert_true(ha == prefix_hash_next(root, a, 4));
    assert_true(prefix_hash_next(ha, a, 4) != prefix_hash_next(hb, a, 4));
    assert_true(prefix_hash_next(ha, a, 4) != ha);
    assert_true(prefix_hash_next(root, a, 3) != prefix_hash_next(root, b, 4));
}

static void prefix_index_finds_chunks(void **state)
{
    (void)state;
    struct prefix_index x;
    assert_int_equal(prefix_init(&x, 4, NULL), 0);
    prefix_insert(&x, 42, 3, PREFIX_PENDING);
    prefix_insert(&x, 43, 0, PREFIX_READY);
    assert_int_equal(prefix_find(&x, 42), 3);
    assert_int_equal(x.state[3], PREFIX_PENDING);
    prefix_remove(&x, 3);
    prefix_remove(&x, 3);
    assert_int_equal(prefix_find(&x, 42), INDEX_NONE);
    assert_int_equal(prefix_find(&x, 43), 0);
    prefix_finish(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_counts_references),
        cmocka_unit_test(index_map_matches_an_array),
        cmocka_unit_test(prefix_hashes_depend_on_all_before),
        cmocka_unit_test(prefix_index_finds_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
