#include "tokenizer_check.h"

#include <pthread.h>

/* ---- merging ---- */

static void bpe_merges_the_lowest_rank_then_the_leftmost(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    struct tokenizer *t = make_bpe(&v, "gpt-2");
    assert_string_equal(tokenizer_kind(t), "bpe/gpt-2");
    assert_int_equal(tokenizer_n_vocab(t), v.n);
    assert_tokens(t, "hello", 0, "hello");
    assert_tokens(t, "helo hell", 0, "he|l|o|\xc4\xa0|hell");
    assert_tokens(t, "lll", 0, "ll|l");
    assert_tokens(t, "aaaaaaa", 0, "aaaa|aa|a");
    assert_tokens(t, "hi world", 0, "h|i|\xc4\xa0w|o|r|l|d");
    assert_tokens(t, "", TOKENIZE_ADD_SPECIAL, "");
    tokenizer_destroy(t);
}

static void merges_never_cross_words(void **state)
{
    (void)state;
    struct vocab_build v = {0};
    vocab_add_byte_level(&v);
    vocab_add_merge(&v, "1 2", "12");
    vocab_add_merge(&v, "12 34", NULL); /* its parts are no tokens: ignored */
    vocab_add_merge(&v, "a 1", "a1");
    struct tokenizer *gpt2 = make_bpe(&v, "gpt-2"), *digits = make_bpe(&v, "starcoder"),
                     *llama = make_bpe(&v, "llama-bpe");
    assert_tokens(gpt2, "a12", 0, "a|12");
    assert_tokens(digits, "a12", 0, "a|1|2");
    assert_tokens(llama, "1231212", 0, "12|3|12|1|2");
    tokenizer_destroy(gpt2);
    tokenizer_destroy(digits);
    tokenizer_destroy(llama);
}

static void whole_words_win_where_the_model_says_so(void **state)
{
    (void)state;
    struct vocab_build v = {0};
    vocab_add_byte_level(&v);
    vocab_add_merge(&v, "b c", "bc");
    vocab_add(&v, "abc", TYPE_NORMAL, 0); /* no merges lead here */
    struct tokenizer *llama = make_bpe(&v, "llama-bpe"), *qwen = make_bpe(&v, "qwen2");
    assert_tokens(llama, "abc", 0, "abc");
    assert_tokens(llama, "abcd", 0, "a|bc|d");
    assert_tokens(qwen, "abc", 0, "a|bc");
    tokenizer_destroy(llama);
    tokenizer_destroy(qwen);
}

static void bytes_without_tokens(void **state)
{
    (void)state;
    struct vocab_build v = {0};
    vocab_add(&v, "a", TYPE_NORMAL, 0);
    vocab_add(&v, "b", TYPE_NORMAL, 0);
    vocab_add_merge(&v, "a b", "ab");
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, "gpt-2");
    struct tokenizer *t = make(&g);
    assert_tokens(t, "azb", 0, "ab"); /* nothing stands for z */
    assert_tokens(t, "zzz", 0, "");
    tokenizer_destroy(t);
    int32_t unk = vocab_add(&v, "<unk>", TYPE_UNKNOWN, 0);
    gguf_build_init(&g);
    vocab_put(&v, &g, "gpt-2");
    gguf_build_u32(&g, "tokenizer.ggml.unknown_token_id", (uint32_t)unk);
    t = make(&g);
    assert_tokens(t, "azzb", 0, "a|<unk>|b");
    tokenizer_destroy(t);
}

static void duplicate_and_empty_tokens(void **state)
{
    (void)state;
    struct vocab_build v = {0};
    vocab_add_byte_level(&v);
    int32_t again = vocab_add(&v, "a", TYPE_NORMAL, 0), empty = vocab_add(&v, "", TYPE_CONTROL, 0);
    struct tokenizer *t = make_bpe(&v, "gpt-2");
    size_t n;
    token_id *ids = encode(t, "a", 1, TOKENIZE_PARSE_SPECIAL, &n);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 'a');
    free(ids);
    assert_int_equal(tokenizer_piece(t, again, true).n, 1);
    assert_int_equal(tokenizer_piece(t, empty, true).n, 0);
    assert_int_equal(tokenizer_piece(t, -1, true).n, 0);
    assert_int_equal(tokenizer_piece(t, INT32_MAX, true).n, 0);
    assert_int_equal(tokenizer_name(t, (token_id)v.n).n, 0);
    tokenizer_destroy(t);
}

/* ---- special tokens ---- */

static void special_tokens_are_found_first(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    vocab_add(&v, "<a>", TYPE_CONTROL, 0);
    vocab_add(&v, "<a><b>", TYPE_CONTROL, 0);
    vocab_add(&v, "<b>x", TYPE_CONTROL, 0);
    vocab_add(&v, "[user]", TYPE_USER, 0);
    struct tokenizer *t = make_bpe(&v, "gpt-2");
    assert_tokens(t, "hello<a>hello", TOKENIZE_PARSE_SPECIAL, "hello|<a>|hello");
    assert_tokens(t, "<a><b>x", TOKENIZE_PARSE_SPECIAL, "<a><b>|x"); /* the leftmost, then the longest */
    assert_tokens(t, "<a><b<b>x<a", TOKENIZE_PARSE_SPECIAL, "<a>|<|b|<b>x|<|a");
    assert_tokens(t, "<a>", 0, "<|a|>");
    assert_tokens(t, "he[user]he<a>", 0, "he|[user]|he|<|a|>");
    size_t n;
    token_id *ids = encode(t, "<a>[user]h", 10, TOKENIZE_PARSE_SPECIAL, &n);
    struct buf b;
    buf_init(&b, 100);
    assert_int_equal(tokenizer_decode(t, ids, n, false, &b), 0);
    assert_string_equal(b.data, "[user]h");
    buf_clear(&b);
    assert_int_equal(tokenizer_decode(t, ids, n, true, &b), 0);
    assert_string_equal(b.data, "<a>[user]h");
    buf_finish(&b);
    free(ids);
    tokenizer_destroy(t);
}

static void beginnings_and_ends(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    int32_t bos = vocab_add(&v, "<bos>", TYPE_CONTROL, 0), eos = vocab_add(&v, "<stop>", TYPE_CONTROL, 0),
            im_end = vocab_add(&v, "<|im_end|>", TYPE_NORMAL, 0), s = vocab_add(&v, "</s>", TYPE_NORMAL, 0),
            extra = vocab_add(&v, "<extra>", TYPE_CONTROL, 0);
    struct gguf_build g;
    gguf_build_init(&g);
    vocab_put(&v, &g, "gpt-2");
    gguf_build_u32(&g, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    gguf_build_u32(&g, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    gguf_build_array_i32(&g, "tokenizer.ggml.eos_token_ids", (int32_t[]){extra, -3, 100000}, 3);
    gguf_build_bool(&g, "tokenizer.ggml.add_bos_token", true);
    gguf_build_bool(&g, "tokenizer.ggml.add_eos_token", true);
    struct tokenizer *t = make(&g);
    assert_int_equal(tokenizer_bos(t), bos);
    assert_int_equal(tokenizer_eos(t), eos);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_end(t, eos));
    assert_true(tokenizer_is_end(t, im_end));
    assert_true(tokenizer_is_end(t, extra));
    assert_false(tokenizer_is_end(t, s)); /* ordinary text in this vocabulary */
    assert_false(tokenizer_is_end(t, bos));
    assert_false(tokenizer_is_end(t, -1));
    assert_tokens(t, "hello", TOKENIZE_ADD_SPECIAL, "<bos>|hello|<stop>");
    assert_tokens(t, "", TOKENIZE_ADD_SPECIAL, "<bos>|<stop>");
    assert_tokens(t, "<|im_end|>", TOKENIZE_PARSE_SPECIAL, "<|im_end|>");
    tokenizer_destroy(t);

    /* llama-bpe adds BOS by itself, unless there is none or the file says no. */
    gguf_build_init(&g);
    vocab_put(&v, &g, "llama-bpe");
    gguf_build_u32(&g, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    t = make(&g);
    assert_tokens(t, "hello", TOKENIZE_ADD_SPECIAL, "<bos>|hello");
    assert_int_equal(tokenizer_eos(t), TOKEN_NONE);
    tokenizer_destroy(t);
    gguf_build_init(&g);
    vocab_put(&v, &g, "llama-bpe");
    gguf_build_u32(&g, "tokenizer.ggml.bos_token_id", UINT32_MAX);
    t = make(&g);
    assert_false(tokenizer_adds_bos(t));
    assert_tokens(t, "hello", TOKENIZE_ADD_SPECIAL, "hello");
    tokenizer_destroy(t);
}

static void end_of_message_is_not_the_end_where_turns_have_channels(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    int32_t end = vocab_add(&v, "<|end|>", TYPE_CONTROL, 0);
    struct tokenizer *t = make_bpe(&v, "gpt-4o");
    assert_true(tokenizer_is_end(t, end));
    tokenizer_destroy(t);
    int32_t ret = vocab_add(&v, "<|return|>", TYPE_CONTROL, 0);
    vocab_add(&v, "<|call|>", TYPE_CONTROL, 0);
    t = make_bpe(&v, "gpt-4o");
    assert_false(tokenizer_is_end(t, end));
    assert_true(tokenizer_is_end(t, ret));
    tokenizer_destroy(t);
}

/* ---- text out ---- */

static void decoding_gives_back_every_text(void **state)
{
    (void)state;
    static const char *const pres[] = {
        "default",    "gpt-2",      "llama-bpe", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",
        "starcoder",  "bloom",      "viking",    "tekken",       "gpt-4o",         "chameleon",   "bailingmoe",
        "seed-coder", "exaone-moe", "minicpm5",  "hunyuan",      "ufakzeka",       "laguna",      "dbrx"};
    struct vocab_build v = hello_vocab();
    vocab_add(&v, "<|end|>", TYPE_CONTROL, 0);
    vocab_add(&v, "<s>", TYPE_USER, 0);
    struct rng r = {7};
    char text[2048];
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        struct tokenizer *t = make_bpe(&v, pres[i]);
        for (int k = 0; k < 200; k++)
            assert_round_trip(t, text, random_text(&r, text, sizeof text, true), k % 2 ? TOKENIZE_PARSE_SPECIAL : 0);
        tokenizer_destroy(t);
    }
    v = spm_vocab();
    struct tokenizer *t = make_spm(&v);
    for (int k = 0; k < 500; k++)
        assert_round_trip(t, text, random_text(&r, text, sizeof text, true), k % 2 ? TOKENIZE_PARSE_SPECIAL : 0);
    tokenizer_destroy(t);
}

/* What the incremental detokeniser must give: the whole text with each maximal broken part replaced by U+FFFD. */
static void replace_broken(const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (len > 0) {
            buf_add(out, s + i, (size_t)len);
            i += (size_t)len;
            continue;
        }
        size_t part = 1;
        while (i + part < n && part < 4 && utf8_decode(s + i, part + 1, &cp) == 0)
            part++;
        buf_adds(out, "\xef\xbf\xbd");
        i += part;
    }
}

static void pieces_joined_equal_the_whole(void **state)
{
    (void)state;
    struct vocab_build bpe = hello_vocab(), spm = spm_vocab();
    vocab_add(&bpe, "<|end|>", TYPE_CONTROL, 0);
    struct tokenizer *ts[] = {make_bpe(&bpe, "gpt-2"), make_spm(&spm)};
    struct rng r = {11};
    for (int k = 0; k < 2000; k++) {
        const struct tokenizer *t = ts[k % 2];
        bool special = k % 4 < 2;
        token_id ids[40];
        size_t n = rng_below(&r, 40);
        for (size_t i = 0; i < n; i++)
            ids[i] = (token_id)rng_below(&r, tokenizer_n_vocab(t) + 1); /* one of them does not exist */
        struct buf whole, expected, joined;
        buf_init(&whole, 1 << 16);
        buf_init(&expected, 1 << 16);
        buf_init(&joined, 1 << 16);
        assert_int_equal(tokenizer_decode(t, ids, n, special, &whole), 0);
        replace_broken(whole.data, whole.len, &expected);
        struct detokenizer d;
        detokenizer_init(&d, t, special, true);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(detokenizer_push(&d, ids[i], &joined), 0);
            assert_true(utf8_valid(joined.data, joined.len));
        }
        assert_int_equal(detokenizer_flush(&d, &joined), 0);
        assert_int_equal(joined.len, expected.len);
        if (joined.len)
            assert_memory_equal(joined.data, expected.data, joined.len);
        buf_finish(&whole);
        buf_finish(&expected);
        buf_finish(&joined);
    }
    tokenizer_destroy(ts[0]);
    tokenizer_destroy(ts[1]);
}

static void a_code_point_is_held_until_it_is_whole(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    struct tokenizer *t = make_bpe(&v, "gpt-2");
    struct detokenizer d;
    struct buf out;
    buf_init(&out, 100);
    detokenizer_init(&d, t, false, true);
    const token_id rocket[] = {0xf0, 0x9f, 0x9a, 0x80};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(out.len, 0);
        assert_int_equal(detokenizer_push(&d, rocket[i], &out), 0);
    }
    assert_string_equal(out.data, "\xf0\x9f\x9a\x80");
    buf_clear(&out);
    detokenizer_push(&d, 0xe2, &out);
    detokenizer_push(&d, 0x82, &out);
    assert_int_equal(out.len, 0);
    detokenizer_push(&d, 'x', &out);
    assert_string_equal(out.data, "\xef\xbf\xbdx");
    buf_clear(&out);
    detokenizer_push(&d, 0xe2, &out);
    assert_int_equal(detokenizer_flush(&d, &out), 0);
    assert_int_equal(detokenizer_flush(&d, &out), 0);
    assert_string_equal(out.data, "\xef\xbf\xbd");
    buf_finish(&out);
    tokenizer_destroy(t);
}

/* ---- hard inputs ---- */

static void adversarial_text_ends_in_time(void **state)
{
    (void)state;
    enum { N = 1 << 18 };
    static const char *const units[] = {
        " ", "a", "A", "1", "\n", " \t", "=", "aA", "'s", "<|", "\xe4\xb8\xad", "\xcc\x81", "\xff", "a ", "\r\n", " a"};
    static const char *const pres[] = {"default",        "gpt-2",       "llama-bpe", "qwen2",    "deepseek-llm",
                                       "deepseek-coder", "deepseek-v3", "falcon",    "bloom",    "tekken",
                                       "gpt-4o",         "exaone-moe",  "qwen35",    "chameleon"};
    struct vocab_build v = hello_vocab();
    vocab_add(&v, "<|end|>", TYPE_CONTROL, 0);
    vocab_add(&v, "<|end|><|end|>", TYPE_CONTROL, 0);
    char *text = malloc(N);
    for (size_t p = 0; p < sizeof pres / sizeof *pres; p++) {
        struct tokenizer *t = make_bpe(&v, pres[p]);
        for (size_t u = p % 4; u < sizeof units / sizeof *units; u += 4) { /* each unit meets some of each kind */
            size_t len = strlen(units[u]);
            for (size_t i = 0; i < N; i++)
                text[i] = units[u][i % len];
            text[N - 1] = '!'; /* something that the run does not match */
            assert_round_trip(t, text, N, TOKENIZE_PARSE_SPECIAL);
        }
        tokenizer_destroy(t);
    }
    v = spm_vocab();
    struct tokenizer *t = make_spm(&v);
    memset(text, ' ', N);
    assert_round_trip(t, text, N, 0);
    memset(text, 'a', N);
    assert_round_trip(t, text, N, 0);
    tokenizer_destroy(t);
    free(text);
}

static void the_bound_on_tokens_holds(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    struct tokenizer *t = make_bpe(&v, "gpt-2");
    token_id *ids;
    size_t n;
    struct err e = {0};
    assert_int_equal(tokenizer_encode(t, "hello he", 8, 0, 3, &ids, &n, &e), 0);
    assert_int_equal(n, 3);
    free(ids);
    assert_int_equal(tokenizer_encode(t, "hello he", 8, 0, 2, &ids, &n, &e), WEIR_ELIMIT);
    assert_null(ids);
    assert_non_null(strstr(e.msg, "2 tokens"));
    assert_int_equal(tokenizer_encode(t, "", 0, 0, 0, &ids, &n, &e), 0);
    assert_int_equal(n, 0);
    free(ids);
    tokenizer_destroy(t);
}

static void *encode_many(void *arg)
{
    const struct tokenizer *t = arg;
    struct rng r = {3};
    char text[1024];
    for (int k = 0; k < 200; k++)
        assert_round_trip(t, text, random_text(&r, text, sizeof text, true), TOKENIZE_PARSE_SPECIAL);
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct vocab_build v = hello_vocab();
    struct tokenizer *t = make_bpe(&v, "llama-bpe");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, t), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    tokenizer_destroy(t);
}

/* ---- malformed files ---- */

enum breakage {
    NO_MODEL,
    OTHER_MODEL,
    NO_TOKENS,
    TOKENS_OF_NUMBERS,
    TOKENS_EMPTY,
    TYPES_SHORT,
    TYPES_STRINGS,
    TYPES_FLOATS,
    NO_MERGES,
    MERGES_OF_NUMBERS,
    MERGE_WITHOUT_SPACE,
    MERGE_EMPTY,
    NO_SCORES,
    SCORES_SHORT,
    SCORE_NAN,
    BOS_STRING,
    BOS_MISSING,
    EOS_MISSING,
    ENDS_STRINGS,
    N_BREAKAGES
};

static void put_broken(struct gguf_build *g, enum breakage b)
{
    struct vocab_build v = b == NO_SCORES || b == SCORES_SHORT || b == SCORE_NAN ? spm_vocab() : hello_vocab();
    bool spm = b == NO_SCORES || b == SCORES_SHORT || b == SCORE_NAN;
    if (b != NO_MODEL)
        gguf_build_str(g, "tokenizer.ggml.model", b == OTHER_MODEL ? "bert" : spm ? "llama" : "gpt2");
    gguf_build_str(g, "tokenizer.ggml.pre", "gpt-2");
    if (b == TOKENS_OF_NUMBERS)
        gguf_build_array_i32(g, "tokenizer.ggml.tokens", v.types, v.n);
    else if (b != NO_TOKENS)
        gguf_build_array_str(g, "tokenizer.ggml.tokens", v.names, b == TOKENS_EMPTY ? 0 : v.n);
    if (b == TYPES_STRINGS)
        gguf_build_array_str(g, "tokenizer.ggml.token_type", v.names, v.n);
    else if (b == TYPES_FLOATS)
        gguf_build_array_f32(g, "tokenizer.ggml.token_type", v.scores, v.n);
    else
        gguf_build_array_i32(g, "tokenizer.ggml.token_type", v.types, b == TYPES_SHORT ? v.n - 1 : v.n);
    if (b == MERGE_WITHOUT_SPACE || b == MERGE_EMPTY)
        v.merges[1] = b == MERGE_EMPTY ? "" : "ab";
    if (b == MERGES_OF_NUMBERS)
        gguf_build_array_i32(g, "tokenizer.ggml.merges", v.types, 3);
    else if (b != NO_MERGES)
        gguf_build_array_str(g, "tokenizer.ggml.merges", v.merges, v.n_merges);
    if (b == SCORE_NAN)
        memset(&v.scores[3], 0xff, sizeof v.scores[3]);
    if (b != NO_SCORES)
        gguf_build_array_f32(g, "tokenizer.ggml.scores", v.scores, b == SCORES_SHORT ? 2 : v.n);
    if (b == BOS_STRING)
        gguf_build_str(g, "tokenizer.ggml.bos_token_id", "one");
    if (b == BOS_MISSING)
        gguf_build_bool(g, "tokenizer.ggml.add_bos_token", true);
    if (b == EOS_MISSING) {
        gguf_build_u32(g, "tokenizer.ggml.eos_token_id", 4000);
        gguf_build_bool(g, "tokenizer.ggml.add_eos_token", true);
    }
    if (b == ENDS_STRINGS)
        gguf_build_array_str(g, "tokenizer.ggml.eos_token_ids", v.names, 2);
}

static void malformed_files_are_refused_with_the_key_at_fault(void **state)
{
    (void)state;
    static const char *const words[N_BREAKAGES] = {"tokenizer.ggml.model",
                                                   "bert",
                                                   "tokens",
                                                   "tokens",
                                                   "tokens",
                                                   "token_type",
                                                   "token_type",
                                                   "token_type",
                                                   "merges",
                                                   "merges",
                                                   "merges[1]",
                                                   "merges[1]",
                                                   "scores",
                                                   "scores",
                                                   "scores[3]",
                                                   "bos_token_id",
                                                   "bos_token_id",
                                                   "eos_token_id",
                                                   "eos_token_ids"};
    for (int b = 0; b < N_BREAKAGES; b++) {
        struct gguf_build g;
        gguf_build_init(&g);
        put_broken(&g, (enum breakage)b);
        struct tokenizer *t;
        struct err e = {0};
        int rc = tokenizer_from(&g, &t, &e);
        assert_int_equal(rc, b == OTHER_MODEL ? WEIR_EUNSUPPORTED : WEIR_EFORMAT);
        assert_null(t);
        if (!strstr(e.msg, words[b]))
            fail_msg("'%s' does not name %s", e.msg, words[b]);
    }
    tokenizer_destroy(NULL);
}

/* ---- real vocabularies, where they are at hand ---- */

static void real_vocabularies(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2", "llama-bpe", "llama-spm", "qwen2"};
    int n_checked = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[100];
        snprintf(name, sizeof name, "vocab/ggml-vocab-%s.gguf", names[i]);
        const char *path = shared_path(name);
        if (!path)
            continue;
        char file[3][4200];
        snprintf(file[0], sizeof file[0], "%s", path);
        snprintf(file[1], sizeof file[1], "%s.inp", path);
        snprintf(file[2], sizeof file[2], "%s.out", path);
        struct gguf *g;
        struct tokenizer *t;
        struct err e = {0};
        if (gguf_open(&g, file[0], &e) || tokenizer_create(&t, g, &e))
            fail_msg("%s", e.msg);
        gguf_close(g);
        FILE *in = fopen(file[1], "rb"), *out = fopen(file[2], "r");
        assert_non_null(in);
        assert_non_null(out);
        static char text[1 << 16], line[1 << 16];
        size_t n = fread(text, 1, sizeof text - 1, in);
        text[n] = 0;
        for (char *s = text; s;) {
            static const char separator[] = "\n__ggml_vocab_test__\n";
            char *end = strstr(s, separator);
            size_t len = end ? (size_t)(end - s) : strlen(s);
            size_t n_ids;
            token_id *ids = encode(t, s, len, 0, &n_ids);
            if (!fgets(line, sizeof line, out)) /* the last, empty text has no line of its own */
                assert_int_equal(line[0] = 0, n_ids);
            char *p = line;
            for (size_t k = 0; k < n_ids; k++)
                assert_int_equal(ids[k], strtol(p, &p, 10));
            assert_int_equal(strspn(p, " \n"), strlen(p));
            size_t n_back;
            char *back = decode(t, ids, n_ids, &n_back);
            assert_int_equal(n_back, len);
            assert_memory_equal(back, s, len);
            free(back);
            free(ids);
            s = end ? end + strlen(separator) : NULL;
            n_checked++;
        }
        fclose(in);
        fclose(out);
        tokenizer_destroy(t);
    }
    if (!n_checked)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_merges_the_lowest_rank_then_the_leftmost),
        cmocka_unit_test(merges_never_cross_words),
        cmocka_unit_test(whole_words_win_where_the_model_says_so),
        cmocka_unit_test(bytes_without_tokens),
        cmocka_unit_test(duplicate_and_empty_tokens),
        cmocka_unit_test(special_tokens_are_found_first),
        cmocka_unit_test(beginnings_and_ends),
        cmocka_unit_test(end_of_message_is_not_the_end_where_turns_have_channels),
        cmocka_unit_test(decoding_gives_back_every_text),
        cmocka_unit_test(pieces_joined_equal_the_whole),
        cmocka_unit_test(a_code_point_is_held_until_it_is_whole),
        cmocka_unit_test(adversarial_text_ends_in_time),
        cmocka_unit_test(the_bound_on_tokens_holds),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(malformed_files_are_refused_with_the_key_at_fault),
        cmocka_unit_test(real_vocabularies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
