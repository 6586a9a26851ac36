/* SentencePiece vocabularies. */
#include "tokenizer_check.h"

static void spm_merges_by_score_with_byte_fallback(void **state)
{
    (void)state;
    struct vocab_build v = spm_vocab();
    struct tokenizer *t = make_spm(&v);
    assert_string_equal(tokenizer_kind(t), "spm");
    assert_tokens(t, "the", TOKENIZE_ADD_SPECIAL, "<s>|" SPACE "the");
    assert_tokens(t, "in the", 0, SPACE "|in|" SPACE "the");
    assert_tokens(t, "a\xc3\xa9z", 0, SPACE "|a|<0xC3>|<0xA9>|<0x7A>");
    assert_tokens(t, "  a", 0, SPACE SPACE "|" SPACE "|a");
    assert_tokens(t, "", TOKENIZE_ADD_SPECIAL, "<s>");
    /* Text never becomes a control or byte token; parsed, the space is added anew behind it. */
    assert_tokens(t, "</s>", 0, SPACE "|</|s>");
    assert_tokens(t, "a</s>the", TOKENIZE_PARSE_SPECIAL, SPACE "|a|</s>|" SPACE "the");
    assert_tokens(t, "<0x41>", 0, SPACE "|<|<0x30>|<0x78>|<0x34>|<0x31>|>");
    assert_round_trip(t, "the in  \n a\xff</s>\xf0\x9f\x98\x80 ", 20, 0);
    assert_round_trip(t, " the</s> a</s></s>  b", 21, TOKENIZE_PARSE_SPECIAL);
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_destroy(t);
}

static void spm_tokens_across_spaces_are_found(void **state)
{
    (void)state;
    struct vocab_build v = spm_vocab();
    vocab_add(&v, "n" SPACE, TYPE_NORMAL, -0.5f);
    vocab_add(&v, "in" SPACE, TYPE_NORMAL, -0.25f);
    struct tokenizer *t = make_spm(&v);
    assert_tokens(t, "in a", 0, SPACE "|in" SPACE "|a");
    tokenizer_destroy(t);
}

static void spm_options(void **state)
{
    (void)state;
    struct vocab_build v = spm_vocab();
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, NULL);
    gguf_build_bool(&g, "tokenizer.ggml.add_space_prefix", false);
    gguf_build_bool(&g, "tokenizer.ggml.add_bos_token", false);
    struct tokenizer *t = make(&g);
    assert_tokens(t, "the the", TOKENIZE_ADD_SPECIAL, "t|he|" SPACE "the");
    assert_round_trip(t, " the", 4, 0);
    tokenizer_destroy(t);
    gguf_build_init(&g);
    vocab_put(&v, &g, NULL);
    gguf_build_bool(&g, "tokenizer.ggml.remove_extra_whitespaces", true);
    t = make(&g);
    assert_tokens(t, "  a   the ", 0, SPACE "|a|" SPACE "the");
    assert_tokens(t, "   ", 0, "");
    tokenizer_destroy(t);
    /* Phi-3 drops the white space behind its special tokens. */
    vocab_add(&v, "<|user|>", TYPE_CONTROL, 0);
    gguf_build_init(&g);
    gguf_build_str(&g, "general.name", "Phi-3 Mini");
    vocab_put(&v, &g, NULL);
    t = make(&g);
    assert_tokens(t, "<|user|>\n\xc2\xa0 the<s> a", TOKENIZE_PARSE_SPECIAL,
                  "<|user|>|" SPACE "the|<s>|" SPACE SPACE "|a");
    tokenizer_destroy(t);
}

static void spm_unused_and_unknown(void **state)
{
    (void)state;
    struct vocab_build v = {0};
    vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0);
    vocab_add(&v, "a", TYPE_NORMAL, -1);
    vocab_add(&v, "b", TYPE_NORMAL, -2);
    vocab_add(&v, "ab", TYPE_UNUSED, -3);
    vocab_add(&v, "abb", TYPE_NORMAL, -4);
    vocab_add(&v, SPACE, TYPE_NORMAL, -5);
    struct tokenizer *t = make_spm(&v);
    assert_tokens(t, "ab", 0, SPACE "|a|b");
    assert_tokens(t, "abb", 0, SPACE "|abb");
    assert_tokens(t, "axyzb", 0, SPACE "|a|<unk>|b"); /* no byte tokens: one unknown for the run */
    tokenizer_destroy(t);
}

/* User-defined pieces are found in the text before merging, spaces in them too, and are text when they come out. */
static void spm_user_defined_spaces(void **state)
{
    (void)state;
    struct vocab_build v = spm_vocab();
    vocab_add(&v, SPACE SPACE SPACE, TYPE_USER, 0);
    vocab_add(&v, "\n\n", TYPE_USER, 0);
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, NULL);
    gguf_build_bool(&g, "tokenizer.ggml.add_space_prefix", false);
    struct tokenizer *t = make(&g);
    assert_tokens(t, "a    the\n\n\n", 0, "a|" SPACE SPACE SPACE "|" SPACE "the|\n\n|<0x0A>");
    assert_round_trip(t, "a    the\n\n\n", 11, 0);
    tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spm_merges_by_score_with_byte_fallback),
        cmocka_unit_test(spm_tokens_across_spaces_are_found),
        cmocka_unit_test(spm_options),
        cmocka_unit_test(spm_unused_and_unknown),
        cmocka_unit_test(spm_user_defined_spaces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
