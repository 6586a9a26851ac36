#include "model/gguf.h"

#include "gguf_build.h"
#include "test.h"

#include <fcntl.h>

static void *small_file(size_t *n)
{
    struct gguf_build g;
    gguf_build_init(&g);
    gguf_build_str(&g, "general.architecture", "llama");
    gguf_build_u32(&g, "a.count", 7);
    gguf_build_f32(&g, "a.eps", 0.25f);
    gguf_build_bool(&g, "a.flag", true);
    gguf_build_array_str(&g, "a.names", (const char *const[]){"x", "", "long name"}, 3);
    gguf_build_array_i32(&g, "a.ids", (const int32_t[]){-5, 6}, 2);
    gguf_build_array_f32(&g, "a.scores", (const float[]){0.5f}, 1);
    float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    gguf_build_tensor(&g, "w", TENSOR_F32, 2, (const uint64_t[]){4, 2}, data, sizeof data);
    gguf_build_tensor(&g, "q", TENSOR_Q8_0, 1, (const uint64_t[]){64}, NULL, 68);
    return gguf_build_finish(&g, n);
}

static void reads_values_and_tensors(void **state)
{
    (void)state;
    size_t n;
    void *file = small_file(&n);
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open_memory(&g, file, n, &e), 0);
    assert_int_equal(gguf_version(g), 3);
    assert_int_equal(gguf_n_values(g), 7);
    assert_int_equal(gguf_n_tensors(g), 2);

    uint32_t u = 99;
    float f = 0;
    bool b = false;
    struct gguf_str s;
    assert_int_equal(gguf_get_u32(g, "a.count", &u, &e), 0);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_f32(g, "a.eps", &f, &e), 0);
    assert_true(f == 0.25f);
    assert_int_equal(gguf_get_bool(g, "a.flag", &b, &e), 0);
    assert_true(b);
    assert_int_equal(gguf_get_str(g, "general.architecture", &s, &e), 0);
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.s, "llama", 5);
    assert_int_equal(gguf_get_u32(g, "a.absent", &u, &e), WEIR_ENOTFOUND);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_u32(g, "a.eps", &u, &e), WEIR_EFORMAT);
    assert_non_null(strstr(e.msg, "a.eps"));

    float row[4];
    assert_int_equal(gguf_read(g, gguf_tensor(g, "w")->data + sizeof row, sizeof row, row, &e), 0);
    assert_true(row[0] == 5 && row[3] == 8);

    const struct gguf_value *names = gguf_find(g, "a.names");
    assert_int_equal(names->n_elements, 3);
    assert_int_equal(gguf_array_str(names, 2).n, 9);
    assert_memory_equal(gguf_array_str(names, 2).s, "long name", 9);
    assert_int_equal(gguf_array_int(gguf_find(g, "a.ids"), 0), -5);
    assert_true(gguf_array_float(gguf_find(g, "a.scores"), 0) == 0.5);

    const struct gguf_tensor *w = gguf_tensor(g, "w");
    assert_int_equal(w->dims[0], 4);
    assert_int_equal(w->dims[1], 2);
    float last;
    memcpy(&last, w->data + 28, sizeof last);
    assert_true(last == 8);
    assert_int_equal(gguf_tensor(g, "q")->n_bytes, 68);
    assert_null(gguf_tensor(g, "nope"));
    gguf_close(g);
    free(file);
}

/* Every proper prefix of a valid file is refused, and no byte of it is read past its end (a heap block of that size).
 */
static void refuses_every_truncation(void **state)
{
    (void)state;
    size_t n;
    unsigned char *file = small_file(&n);
    for (size_t k = 0; k < n; k++) {
        unsigned char *cut = malloc(k ? k : 1);
        memcpy(cut, file, k);
        struct gguf *g;
        struct err e = {0};
        assert_int_equal(gguf_open_memory(&g, cut, k, &e), WEIR_EFORMAT);
        assert_true(e.msg[0] != 0);
        assert_null(g);
        free(cut);
    }
    free(file);
}

/* Opens what `build` made and expects a refusal whose message contains `word`. */
static void refused(struct gguf_build *b, int code, const char *word)
{
    size_t n;
    void *file = gguf_build_finish(b, &n);
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open_memory(&g, file, n, &e), code);
    if (!strstr(e.msg, word))
        fail_msg("the message \"%s\" lacks \"%s\"", e.msg, word);
    free(file);
}

static void refuses_bad_headers(void **state)
{
    (void)state;
    struct gguf_build b;
    gguf_build_init(&b);
    b.version = 1;
    refused(&b, WEIR_EUNSUPPORTED, "version 1");
    gguf_build_init(&b);
    b.version = 0x03000000;
    refused(&b, WEIR_EUNSUPPORTED, "big-endian");
    gguf_build_init(&b);
    b.n_tensors = UINT64_MAX;
    refused(&b, WEIR_ELIMIT, "18446744073709551615");
    gguf_build_init(&b);
    gguf_build_u32(&b, "twice", 1);
    gguf_build_u32(&b, "twice", 2);
    refused(&b, WEIR_EFORMAT, "twice");
    gguf_build_init(&b);
    gguf_build_u32(&b, "general.alignment", 24);
    refused(&b, WEIR_EFORMAT, "alignment");
    gguf_build_init(&b);
    gguf_build_key(&b, "odd", 77);
    refused(&b, WEIR_EFORMAT, "odd");
    gguf_build_init(&b);
    gguf_build_array(&b, "huge", GGUF_STRING, UINT64_MAX);
    refused(&b, WEIR_EFORMAT, "array");
    gguf_build_init(&b);
    gguf_build_array(&b, "huge", GGUF_F64, UINT64_MAX / 4);
    refused(&b, WEIR_EFORMAT, "array");
    gguf_build_init(&b);
    gguf_build_array(&b, "nested", GGUF_ARRAY, 1);
    refused(&b, WEIR_EFORMAT, "nested");
}

static void refuses_bad_tensors(void **state)
{
    (void)state;
    static const struct {
        uint32_t type, n_dims;
        uint64_t dims[4];
        size_t n_bytes;
        int code;
        const char *word;
    } cases[] = {
        {TENSOR_F32, 1, {64}, 60, WEIR_EFORMAT, "beyond the end"},
        {TENSOR_F32, 2, {UINT64_MAX, 4}, 64, WEIR_EFORMAT, "impossible shape"},
        {TENSOR_F32, 4, {1u << 31, 1u << 31, 4, 4}, 64, WEIR_EFORMAT, "impossible shape"},
        {TENSOR_F32, 2, {4, 0}, 64, WEIR_EFORMAT, "impossible shape"},
        {TENSOR_F32, 2, {1ull << 62, 1}, 64, WEIR_EFORMAT, "t"},
        {TENSOR_Q8_0, 1, {33}, 64, WEIR_EFORMAT, "Q8_0 blocks"},
        {16, 1, {256}, 64, WEIR_EUNSUPPORTED, "Q4_K"},
        {4000, 1, {256}, 64, WEIR_EUNSUPPORTED, "4000"},
        {TENSOR_F32, 0, {0}, 64, WEIR_EFORMAT, "dimensions"},
        {TENSOR_F32, 5, {1, 1, 1, 1}, 64, WEIR_EFORMAT, "dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_build b;
        gguf_build_init(&b);
        uint64_t dims[5] = {cases[i].dims[0], cases[i].dims[1], cases[i].dims[2], cases[i].dims[3], 1};
        gguf_build_tensor(&b, "t", cases[i].type, cases[i].n_dims, dims, NULL, cases[i].n_bytes);
        refused(&b, cases[i].code, cases[i].word);
    }
    struct gguf_build b;
    gguf_build_init(&b);
    gguf_build_tensor(&b, "same", TENSOR_F32, 1, (const uint64_t[]){4}, NULL, 16);
    gguf_build_tensor(&b, "same", TENSOR_F32, 1, (const uint64_t[]){4}, NULL, 16);
    refused(&b, WEIR_EFORMAT, "same");
}

static void write_file(const char *path, const void *data, size_t n)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, n), n);
    close(fd);
}

static void joins_split_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/weir-gguf-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char path[3][80];
    for (uint32_t i = 0; i < 3; i++) {
        struct gguf_build b;
        gguf_build_init(&b);
        gguf_build_u32(&b, "split.no", i);
        gguf_build_u32(&b, "split.count", 3);
        gguf_build_u32(&b, "split.tensors.count", 3);
        char name[8];
        snprintf(name, sizeof name, "t%u", i);
        float v = (float)i;
        gguf_build_tensor(&b, name, TENSOR_F32, 1, (const uint64_t[]){1}, &v, sizeof v);
        size_t n;
        void *file = gguf_build_finish(&b, &n);
        snprintf(path[i], sizeof path[i], "%s/m-%05u-of-00003.gguf", dir, i + 1);
        write_file(path[i], file, n);
        free(file);
    }
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open(&g, path[0], &e), 0);
    assert_int_equal(gguf_n_files(g), 3);
    assert_int_equal(gguf_n_tensors(g), 3);
    float v;
    const unsigned char *data = gguf_tensor(g, "t2")->data;
    memcpy(&v, data, sizeof v);
    assert_true(v == 2);
    for (uint32_t i = 0; i < 3; i++) {
        const char name[] = {'t', (char)('0' + i), 0};
        assert_int_equal(gguf_read(g, gguf_tensor(g, name)->data, sizeof v, &v, &e), 0);
        assert_true(v == (float)i);
    }
    assert_int_equal(truncate(path[2], 64), 0);
    assert_int_equal(gguf_read(g, data, sizeof v, &v, &e), WEIR_EIO);
    assert_non_null(strstr(e.msg, "cut"));
    gguf_close(g);

    assert_int_equal(gguf_open(&g, path[1], &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "m-00001-of-00003.gguf"));
    unlink(path[2]);
    assert_int_equal(gguf_open(&g, path[0], &e), WEIR_EIO);
    assert_non_null(strstr(e.msg, "m-00003-of-00003.gguf"));
    unlink(path[0]);
    unlink(path[1]);
    rmdir(dir);
    assert_int_equal(gguf_open(&g, dir, &e), WEIR_EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_values_and_tensors), cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_bad_headers),      cmocka_unit_test(refuses_bad_tensors),
        cmocka_unit_test(joins_split_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
