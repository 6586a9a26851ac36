#include "model/pretokenizer.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STAGES 6

/* Unicode's White_Space: what Oniguruma, Rust and Python call \s. PCRE2's own \s also has U+180E. */
#define WS "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE "[" WS "]"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SYMBOLS " ?[^" WS "\\p{L}\\p{N}]+"
#define NEWLINES SPACE "*[\\r\\n]+"
#define TRAILING_SPACE                                                                                                 \
    SPACE "+(?!"                                                                                                       \
          "[^" WS "])"
#define TAIL SYMBOLS "[\\r\\n]*|" NEWLINES "|" TRAILING_SPACE "|" SPACE "+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|" TRAILING_SPACE "|" SPACE "+"
#define LLAMA3 CONTRACTION "|" WORD "|\\p{N}{1,3}|" TAIL
#define QWEN2 CONTRACTION "|" WORD "|\\p{N}|" TAIL

/* Words that change case once ("camelCase" is two), shared by tekken and o200k. */
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define CASED(suffix)                                                                                                  \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" suffix "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER "]*" suffix
#define CASED_TAIL SYMBOLS "[\\r\\n/]*|" NEWLINES "|" TRAILING_SPACE "|" SPACE "+"

/* Punctuation as ASCII and Unicode see it. */
#define PUNCTUATION "\\p{P}$+<=>^~|"

#define DEEPSEEK3                                                                                                      \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"               \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" TRAILING_SPACE "|" SPACE "+"
#define CJK_KANA "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define CJK_HANGUL "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

/* The cased letters that deepseek-llm spells out. */
#define DEEPSEEK_LETTERS                                                                                               \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}"   \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"     \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"       \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{"    \
    "1d9a}"                                                                                                            \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{"     \
    "1f5b}"                                                                                                            \
    "\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{"     \
    "1fcc}"                                                                                                            \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{"     \
    "2107}"                                                                                                            \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}" \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}" \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{"     \
    "a787}"                                                                                                            \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{"    \
    "ff5a}"                                                                                                            \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"        \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

enum { IGNORE_MERGES = 1, ADD_BOS = 2, NFC = 4 };

/* The first of a row's names is the one that error messages list. */
static const struct family {
    const char *names;
    int flags;
    const char *stages[MAX_STAGES];
} families[] = {
    {"default", 0, {"[" PUNCTUATION "]+", GPT2, "\\p{N}+", "[0-9]{3}"}},
    {"gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe modern-bert gigachat mellum"
     " a.x-4.0 exaone4 jais trillion granite-docling",
     0,
     {GPT2}},
    {"mpt olmo", NFC, {GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     IGNORE_MERGES | ADD_BOS,
     {LLAMA3}},
    {"dbrx smaug-bpe chatglm-bpe glm4", 0, {LLAMA3}},
    {"minicpm5", IGNORE_MERGES, {"\\p{N}{1,3}", CONTRACTION "|" WORD "|\\p{N}+|" TAIL}},
    {"qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2", NFC, {QWEN2}},
    {"hunyuan solar-open grok-2", 0, {QWEN2}},
    {"qwen35",
     NFC,
     {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES
                  "|" TRAILING_SPACE "|" SPACE "+"}},
    {"deepseek-llm",
     0,
     {"[\\r\\n]", SPACE "?[" DEEPSEEK_LETTERS "]+",
      SPACE "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      /* \s+$, tried only where a run of spaces begins, so that it stays linear. */
      "(?<!" SPACE ")" SPACE "++\\z", CJK_HANGUL, "\\p{N}"}},
    {"deepseek-coder", 0, {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", CJK_HANGUL, "\\p{N}"}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", 0, {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK3}},
    {"falcon", 0, {"[" PUNCTUATION "`]+", GPT2, "[0-9]{3}"}},
    {"command-r", NFC, {"\\p{N}", GPT2}},
    {"starcoder refact smollm codeshell exaone minerva-7b mellum2", 0, {"\\p{N}", GPT2}},
    {"bloom poro-chat gpt3-finnish", 0, {BLOOM}},
    {"viking", 0, {BLOOM, "\\p{N}"}},
    {"tekken", IGNORE_MERGES | ADD_BOS, {CASED("") "|\\p{N}|" CASED_TAIL}},
    {"gpt-4o llama4 kanana2 talkie minimax-m2", 0, {CASED(CONTRACTION "?") "|\\p{N}{1,3}|" CASED_TAIL}},
    {"chameleon",
     ADD_BOS,
     {"<sentinel:[0-9]+>|IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]", GPT2}},
    {"bailingmoe bailingmoe2 llada-moe",
     0,
     {"'(?i:[sdmt]|ll|ve|re)|" WORD "|\\p{N}|" SYMBOLS "[\\r\\n]*|" SPACE "*[\\r\\n]|" TRAILING_SPACE "|" SPACE "+"}},
    {"seed-coder",
     0,
     {CONTRACTION "|" WORD "|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" NEWLINES "|" TRAILING_SPACE "|" SPACE "+"}},
    {"ufakzeka", 0, {WORD "|\\p{N}|" TAIL}},
    {"laguna", 0, {"[^\\n]+|\\n+", QWEN2}},
    {"exaone-moe",
     0,
     {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*+(?: \\p{L}\\p{M}*+)*+)++|\\p{N}|" SYMBOLS "[\\r\\n/]?|" SPACE
                  "*[\\r\\n]|" TRAILING_SPACE "|" SPACE "+"}},
};

struct pretokenizer {
    const struct family *family;
    pcre2_code *stages[MAX_STAGES];
    int n_stages;
};

struct splitter {
    const struct pretokenizer *pretokenizer;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pretokenizer_word_fn *word;
    void *word_context;
    struct err *e;
};

static bool has_name(const char *names, struct gguf_str name)
{
    for (const char *p = names; *p;) {
        size_t n = strcspn(p, " ");
        if (n == name.n && !memcmp(p, name.s, n))
            return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

static int unknown_name(struct gguf_str name, struct err *e)
{
    struct buf list;
    buf_init(&list, 4096);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        buf_printf(&list, "%s%.*s", i ? ", " : "", (int)strcspn(families[i].names, " "), families[i].names);
    int shown = (int)(name.n < 64 ? name.n : 64);
    err_set(e, WEIR_EUNSUPPORTED,
            "tokenizer.ggml.pre '%.*s' is not a pre-tokenizer that weir knows; it knows %s and their relatives", shown,
            name.s, list.data ? list.data : "");
    buf_finish(&list);
    return WEIR_EUNSUPPORTED;
}

static int compile(pcre2_code **out, const char *pattern, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!*out) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, code == PCRE2_ERROR_NOMEMORY ? WEIR_ENOMEM : WEIR_EUNSUPPORTED,
                       "pre-tokenizer's expression at %zu: %s", (size_t)at, (const char *)why);
    }
    /* Where the system allows no generated code this fails, and matching is interpreted. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return 0;
}

int pretokenizer_create(struct pretokenizer **out, struct gguf_str name, struct pretokenizer_traits *traits,
                        struct err *e)
{
    const struct family *family = NULL;
    for (size_t i = 0; i < sizeof families / sizeof *families && !family; i++)
        if (has_name(families[i].names, name))
            family = &families[i];
    *out = NULL;
    if (!family)
        return unknown_name(name, e);
    struct pretokenizer *p = mem_array(1, sizeof *p);
    if (!p)
        return err_set(e, WEIR_ENOMEM, "no memory for a pre-tokenizer");
    p->family = family;
    for (; p->n_stages < MAX_STAGES && family->stages[p->n_stages]; p->n_stages++) {
        int rc = compile(&p->stages[p->n_stages], family->stages[p->n_stages], e);
        if (rc) {
            pretokenizer_destroy(p);
            return rc;
        }
    }
    *traits = (struct pretokenizer_traits){
        .ignore_merges = family->flags & IGNORE_MERGES, .add_bos = family->flags & ADD_BOS, .nfc = family->flags & NFC};
    *out = p;
    return 0;
}

void pretokenizer_destroy(struct pretokenizer *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_stages; i++)
        pcre2_code_free(p->stages[i]);
    free(p);
}

int splitter_create(struct splitter **out, const struct pretokenizer *p, struct err *e)
{
    struct splitter *s = mem_array(1, sizeof *s);
    if (s) {
        s->pretokenizer = p;
        s->match = pcre2_match_data_create(1, NULL);
        s->context = pcre2_match_context_create(NULL);
    }
    if (!s || !s->match || !s->context) {
        splitter_destroy(s);
        return err_set(e, WEIR_ENOMEM, "no memory to split text");
    }
    pcre2_set_match_limit(s->context, UINT32_MAX);
    *out = s;
    return 0;
}

void splitter_destroy(struct splitter *s)
{
    if (!s)
        return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    free(s);
}

/* The next match of a stage from `from` on: 1 and its range, 0 if there is none. */
static int next_match(struct splitter *s, int stage, const char *text, size_t n, size_t from, size_t range[2])
{
    const pcre2_code *code = s->pretokenizer->stages[stage];
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int rc = pcre2_match(code, (PCRE2_SPTR)text, n, from, options, s->match, s->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its state on the heap */
        rc = pcre2_match(code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_JIT, s->match, s->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return err_set(s->e, rc == PCRE2_ERROR_NOMEMORY ? WEIR_ENOMEM : WEIR_ELIMIT,
                       "splitting text of %zu bytes into words failed (PCRE2 error %d)", n, rc);
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(s->match);
    range[0] = ends[0];
    range[1] = ends[1];
    return 1;
}

/* As deep as there are stages. */
static int run_stage(struct splitter *s, int stage, const char *text, size_t n)
{
    if (stage == s->pretokenizer->n_stages)
        return s->word(s->word_context, text, n);
    for (size_t at = 0; at < n;) {
        size_t range[2] = {n, n};
        int rc = next_match(s, stage, text, n, at, range);
        if (rc < 0)
            return rc;
        if (range[0] > at && (rc = run_stage(s, stage + 1, text + at, range[0] - at)) < 0)
            return rc;
        if (range[1] > range[0] && (rc = run_stage(s, stage + 1, text + range[0], range[1] - range[0])) < 0)
            return rc;
        at = range[1];
    }
    return 0;
}

/* Length of the valid UTF-8 that text begins with. */
static size_t valid_len(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        uint64_t eight;
        for (; n - i >= 8 && (memcpy(&eight, text + i, 8), !(eight & 0x8080808080808080u)); i += 8)
            ;
        int len = i < n ? utf8_decode(text + i, n - i, &cp) : 0;
        if (len <= 0)
            break;
        i += (size_t)len;
    }
    return i;
}

int splitter_split(struct splitter *s, const char *text, size_t n, pretokenizer_word_fn *word, void *context,
                   struct err *e)
{
    s->word = word;
    s->word_context = context;
    s->e = e;
    for (size_t i = 0; i < n;) {
        size_t good = valid_len(text + i, n - i);
        int rc = good ? run_stage(s, 0, text + i, good) : 0;
        if (rc < 0)
            return rc;
        i += good;
        size_t bad = i;
        uint32_t cp;
        while (bad < n && utf8_decode(text + bad, n - bad, &cp) <= 0)
            bad++;
        if (bad > i && (rc = word(context, text + i, bad - i)) < 0)
            return rc;
        i = bad;
    }
    return 0;
}
