/* How text is cut into words before tokens are merged, and normalised before that. */
#include "tokenizer_check.h"

#include "model/pretokenizer.h"

static int join_words(void *context, const char *word, size_t n)
{
    struct buf *b = context;
    if (b->len)
        buf_addc(b, '|');
    return buf_add(b, word, n);
}

static void assert_words(const char *pre, const char *text, const char *expected)
{
    struct pretokenizer *p = NULL;
    struct pretokenizer_traits traits;
    struct splitter *s = NULL;
    struct err e = {0};
    if (pretokenizer_create(&p, (struct gguf_str){pre, strlen(pre)}, &traits, &e) || splitter_create(&s, p, &e))
        fail_msg("%s", e.msg);
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(splitter_split(s, text, strlen(text), join_words, &b, &e), 0);
    assert_string_equal(b.data ? b.data : "", expected);
    buf_finish(&b);
    splitter_destroy(s);
    pretokenizer_destroy(p);
}

static void pretokenizers_cut_words(void **state)
{
    (void)state;
    const char *text = "I'm HERE'S  12345 camelCase\n\n \t x!=y\r\n";
    assert_words("gpt-2", text, "I|'m| HERE|'|S| | 12345| camelCase|\n\n \t| x|!=|y|\r\n");
    assert_words("llama-bpe", text, "I|'m| HERE|'S| | |123|45| camelCase|\n\n| \t| x|!=|y|\r\n");
    assert_words("qwen2", text, "I|'m| HERE|'S| | |1|2|3|4|5| camelCase|\n\n| \t| x|!=|y|\r\n");
    assert_words("starcoder", text, "I|'m| HERE|'|S|  |1|2|3|4|5| camelCase|\n\n \t| x|!=|y|\r\n");
    assert_words("falcon", text, "I|'|m| HERE|'|S| | |123|45| camelCase|\n\n \t| x|!=|y|\r\n");
    assert_words("tekken", text, "I|'m| HERE|'S| | |1|2|3|4|5| camel|Case|\n\n| \t| x|!=|y|\r\n");
    assert_words("gpt-4o", text, "I'm| HERE'S| | |123|45| camel|Case|\n\n| \t| x|!=|y|\r\n");
    assert_words("default", "a=$1+2345", "a|=$|1|+|234|5");
}

static void broken_text_is_words_of_its_own(void **state)
{
    (void)state;
    assert_words("llama-bpe",
                 "ab\xff\xfe"
                 "cd\xe2\x82",
                 "ab|\xff\xfe|cd|\xe2\x82");
    assert_words("deepseek-v3", "\x80", "\x80");
    assert_words("gpt-2", "", "");
}

/* Each line of the vectors: a name, a tab, and the words in hexadecimal with spaces between. They come from Hugging
 * Face's tokenizers: tests/golden/pretokenizer.py. */
static void pretokenizers_agree_with_the_reference(void **state)
{
    (void)state;
    FILE *f = fopen("tests/golden/pretokenizer.txt", "r");
    assert_non_null(f);
    static char line[1 << 16], text[1 << 15], expected[1 << 16];
    int n_lines = 0;
    for (; fgets(line, sizeof line, f); n_lines++) {
        char *tab = strchr(line, '\t');
        assert_non_null(tab);
        *tab = 0;
        size_t n_text = 0, n_expected = 0;
        for (const char *p = tab + 1; *p && *p != '\n';) {
            unsigned byte;
            if (*p == ' ') {
                expected[n_expected++] = '|';
                p++;
                continue;
            }
            assert_int_equal(sscanf(p, "%2x", &byte), 1);
            expected[n_expected++] = text[n_text++] = (char)byte;
            p += 2;
        }
        text[n_text] = expected[n_expected] = 0;
        assert_words(line, text, expected);
    }
    fclose(f);
    assert_true(n_lines > 100);
}

static void an_unknown_pretokenizer_is_refused_by_name(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, "surprise-9b");
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(tokenizer_from(&g, &t, &e), WEIR_EUNSUPPORTED);
    assert_null(t);
    assert_non_null(strstr(e.msg, "surprise-9b"));
    assert_non_null(strstr(e.msg, "llama-bpe"));
    assert_non_null(strstr(e.msg, "qwen2"));
    assert_non_null(strstr(e.msg, "tekken"));
    assert_non_null(strstr(e.msg, "relatives")); /* the list is whole */
}

static void normalisation_is_the_models_own(void **state)
{
    (void)state;
    struct vocab_build v = {0};
    vocab_add_byte_level(&v);
    struct tokenizer *qwen = make_bpe(&v, "qwen2"), *llama = make_bpe(&v, "llama-bpe");
    size_t n;
    token_id *ids = encode(qwen, "e\xcc\x81", 3, 0, &n); /* e, combining acute */
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 0xc3);
    assert_int_equal(ids[1], 0xa9);
    free(ids);
    assert_round_trip(llama, "e\xcc\x81", 3, 0);
    /* Hangul syllables compose too; broken bytes stay; a long run of marks ends in time. */
    ids = encode(qwen, "x\xff\xe1\x84\x80\xe1\x85\xa1y", 9, 0, &n);
    char *back = decode(qwen, ids, n, &n);
    assert_string_equal(back, "x\xff\xea\xb0\x80y");
    free(back);
    free(ids);
    size_t n_marks = 100000;
    char *marks = malloc(4 * n_marks);
    for (size_t i = 0; i < n_marks; i++)
        memcpy(marks + 4 * i, "\xcc\x81\xcc\xa3", 4);
    ids = encode(qwen, marks, 4 * n_marks, 0, &n);
    assert_int_equal(n, 4 * n_marks);
    free(ids);
    free(marks);
    tokenizer_destroy(qwen);
    tokenizer_destroy(llama);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pretokenizers_cut_words),
        cmocka_unit_test(broken_text_is_words_of_its_own),
        cmocka_unit_test(pretokenizers_agree_with_the_reference),
        cmocka_unit_test(an_unknown_pretokenizer_is_refused_by_name),
        cmocka_unit_test(normalisation_is_the_models_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
