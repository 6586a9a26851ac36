/* Attention of a prompt's rows with AMX tiles: included by attention_amx.c, and by attention_emulated_bf16.c, where the
 * tiles are emulated. The rows of other roles take attention.h's way.
 *
 * The span's keys and values are split into two bfloat16 each, once for all queries of the call; so are queries and
 * weights, which leaves each number 16 bits. Of the four products of halves lo lo is left out, and hi hi, lo hi and hi lo
 * are summed in this order, by 32 elements (scores) or 32 tokens (values). Softmax runs over PART_TOKENS at a time, what
 * has been summed before is scaled to the new maximum: scores of 64 queries and their weights stay in the first-level
 * cache, and each tile of keys or values that comes from the second is used by four tiles of queries.
 *
 * What a query's sums are does not depend on its tile or its neighbours: what it does not see weighs zero. */
#include "kernel/x86/amx.h"
#include "kernel/x86/attention.h"

#define TILE_QUERIES 16
#define BLOCK_QUERIES 64
#define TILE_BYTES 1024
#define GROUP_TOKENS 32
#define PART_TOKENS SPAN_PART
#define PART_VECTORS (PART_TOKENS / 16)
#define PART_STRIDE (PART_TOKENS + 16) /* floats; rows do not fall on the same sets of the cache */
#define PART_BYTES (PART_STRIDE * sizeof(float))
#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

struct tiles {
    const struct span *s;
    uint32_t first, last; /* tokens that any query sees; others' values count as zeros */
    uint32_t n_slices;    /* of 32 elements */
    uint8_t *k;           /* [block][slice][hi, lo][16 pairs of elements][16 tokens][2] */
    uint8_t *v;           /* [group][16 elements][hi, lo][tokens i and i + 16 of the group][16][2] */
    uint8_t *q;           /* [4][slice][hi, lo][16][32], times log2 e */
    float *score;     /* [64][PART_STRIDE] in units of log 2; then, in place, weights: hi [PART_TOKENS], lo likewise */
    float *acc;       /* [64][head_dim] */
    float *top, *sum; /* [64], [64][16]: largest score, sum of weights by lanes */
};

/* ---- preparing ---- */

/* Neighbours in a tile of pairs, each cut into two bfloat16. */
INLINE void split_pair(vf a, vf b, uint8_t *hi, uint8_t *lo)
{
    const __m512i top = _mm512_set1_epi32((int32_t)0xffff0000);
    const __m512i x = _mm512_castps_si512(a), y_hi = _mm512_and_si512(_mm512_castps_si512(b), top);
    const __m512i x_lo = _mm512_castps_si512(vf_sub(a, _mm512_castsi512_ps(_mm512_and_si512(x, top))));
    const __m512i y_lo = _mm512_castps_si512(vf_sub(b, _mm512_castsi512_ps(y_hi)));
    _mm512_store_si512(hi, _mm512_or_si512(_mm512_srli_epi32(x, 16), y_hi));
    _mm512_store_si512(lo, _mm512_or_si512(_mm512_srli_epi32(x_lo, 16), _mm512_and_si512(y_lo, top)));
}

/* Four elements of 16 tokens, or of 16 elements four tokens, that lie as codes. */
INLINE void widen_codes(const uint8_t *codes, bool keys, vf out[4])
{
    const vi x = _mm512_loadu_si512(codes);
    UNROLL for (int i = 0; i < 4; i++)
    {
        const vi up = _mm512_slli_epi32(x, (unsigned)(24 - 8 * i));
        out[i] = vf_from_vi(keys ? vi_sub(_mm512_srli_epi32(up, 24), vi_set(128)) : _mm512_srai_epi32(up, 24));
    }
}

/* Elements e .. e + 3 of a block. */
INLINE void load_keys(const struct span *s, uint32_t block, uint32_t e, vf out[4])
{
    if (s->a->kv_type == KV_F16) {
        const uint16_t *k = (const uint16_t *)(const void *)s->k[block] + (size_t)e * 16;
        UNROLL for (int i = 0; i < 4; i++) out[i] = vf_from_f16(k + 16 * i);
        return;
    }
    const vf scale = vf_from_f16((const uint16_t *)(const void *)s->k_scale[block] + e / 32 * 16);
    widen_codes(s->k[block] + (size_t)e * 16, true, out);
    UNROLL for (int i = 0; i < 4; i++) out[i] = vf_mul(out[i], scale);
}

static void prepare_keys(const struct tiles *t, uint32_t block)
{
    const uint32_t n = t->s->a->head_dim;
    uint8_t *out = t->k + (size_t)block * t->n_slices * 2 * TILE_BYTES;
    const size_t line = t->s->a->kv_type == KV_F16 ? 32 : 16;
    for (uint32_t e = 0; e < n; e += 4) {
        vf x[4];
        uint8_t *at = out + (size_t)(e / 32) * 2 * TILE_BYTES + e % 32 * 32;
        ask(t->s->ahead[block], e * line);
        load_keys(t->s, block, e, x);
        split_pair(x[0], x[1], at, at + TILE_BYTES);
        split_pair(x[2], x[3], at + 64, at + TILE_BYTES + 64);
    }
    if (n % 32) { /* half a slice */
        uint8_t *at = out + (size_t)(n / 32) * 2 * TILE_BYTES + TILE_BYTES / 2;
        memset(at, 0, TILE_BYTES / 2);
        memset(at + TILE_BYTES, 0, TILE_BYTES / 2);
    }
}

/* Elements e .. e + 15 of tokens token .. token + 3; zeros for those that nobody sees. */
INLINE void load_values(const struct tiles *t, uint32_t token, uint32_t e, vf out[4])
{
    const struct span *s = t->s;
    const uint32_t block = min_u32(token / 16, s->n_blocks - 1), n = s->a->head_dim;
    if (s->a->kv_type == KV_F16) {
        const uint16_t *v = (const uint16_t *)(const void *)s->v[block] + (size_t)(token % 16) * n + e;
        UNROLL for (uint32_t i = 0; i < 4; i++) out[i] = vf_from_f16(v + i * n);
    } else {
        const uint16_t *scale = (const uint16_t *)(const void *)s->v_scale[block] + e / 32 * 16 + token % 16;
        widen_codes(s->v[block] + ((size_t)(token % 16) * n + e * 4), false, out);
        UNROLL for (uint32_t i = 0; i < 4; i++) out[i] = vf_mul(out[i], vf_set(_cvtsh_ss(scale[i])));
    }
    for (uint32_t i = 0; i < 4; i++) {
        if (token + i < t->first || token + i >= t->last)
            out[i] = vf_zero();
    }
}

/* Pairs are tokens i and i + 16 of a group. */
static void prepare_values(const struct tiles *t, uint32_t group)
{
    const uint32_t n = t->s->a->head_dim, first = group * GROUP_TOKENS;
    uint8_t *out = t->v + (size_t)group * (n / 16) * 2 * TILE_BYTES;
    for (uint32_t i = 0; i < 16; i += 4) {
        for (uint32_t e = 0; e < n; e += 16) {
            vf x[4], y[4];
            uint8_t *at = out + (size_t)(e / 16) * 2 * TILE_BYTES + i * 64;
            load_values(t, first + i, e, x);
            load_values(t, first + i + 16, e, y);
            UNROLL for (int j = 0; j < 4; j++) split_pair(x[j], y[j], at + 64 * j, at + TILE_BYTES + 64 * j);
        }
    }
}

/* 32 float32, in order: hi cut off, lo rounded. */
INLINE void split_row(vf a, vf b, uint8_t *hi, uint8_t *lo)
{
    const __m512i top = _mm512_set1_epi32((int32_t)0xffff0000);
    const vf a_hi = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), top));
    const vf b_hi = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(b), top));
    const __m512bh h = _mm512_cvtne2ps_pbh(b_hi, a_hi), l = _mm512_cvtne2ps_pbh(vf_sub(b, b_hi), vf_sub(a, a_hi));
    memcpy(hi, &h, sizeof h);
    memcpy(lo, &l, sizeof l);
}

static void prepare_queries(const struct tiles *t, uint32_t query, uint32_t n_q)
{
    const uint32_t n = t->s->a->head_dim;
    const vf scale = vf_set(LOG2_E);
    for (uint32_t i = 0; i < n_q; i++) {
        const float *q = t->s->a->q + (size_t)(query + i) * n;
        for (uint32_t e = 0; e < n; e += 32) {
            uint8_t *at = t->q + ((size_t)(i / 16) * t->n_slices + e / 32) * 2 * TILE_BYTES + i % 16 * 64;
            const vf b = n - e > 16 ? vf_load(q + e + 16) : vf_zero();
            split_row(vf_mul(vf_load(q + e), scale), vf_mul(b, scale), at, at + TILE_BYTES);
        }
    }
}

/* ---- products ---- */

/* Sum i of up to four += a tile of queries or weights, `next` bytes after the one before, times what B holds. */
#define DOT_4(b, a, next, stride, n_tiles)                                                                             \
    do {                                                                                                               \
        tile_load(TILE_A0, a, stride);                                                                                 \
        tile_dot_bf16(TILE_C0, TILE_A0, b);                                                                            \
        if (n_tiles > 1) {                                                                                             \
            tile_load(TILE_A1, (a) + (next), stride);                                                                  \
            tile_dot_bf16(TILE_C1, TILE_A1, b);                                                                        \
        }                                                                                                              \
        if (n_tiles > 2) {                                                                                             \
            tile_load(TILE_A0, (a) + 2 * (next), stride);                                                              \
            tile_dot_bf16(TILE_C2, TILE_A0, b);                                                                        \
        }                                                                                                              \
        if (n_tiles > 3) {                                                                                             \
            tile_load(TILE_A1, (a) + 3 * (next), stride);                                                              \
            tile_dot_bf16(TILE_C3, TILE_A1, b);                                                                        \
        }                                                                                                              \
    } while (0)

/* The three products of halves: hi hi, lo hi, hi lo. */
#define SPLIT_DOT_4(a_hi, a_lo, next, stride, b, n_tiles)                                                              \
    do {                                                                                                               \
        tile_load(TILE_B0, b, 64);                                                                                     \
        tile_load(TILE_B1, (b) + TILE_BYTES, 64);                                                                      \
        DOT_4(TILE_B0, a_hi, next, stride, n_tiles);                                                                   \
        DOT_4(TILE_B0, a_lo, next, stride, n_tiles);                                                                   \
        DOT_4(TILE_B1, a_hi, next, stride, n_tiles);                                                                   \
    } while (0)

#define STORE_4(to, next, stride, n_tiles)                                                                             \
    do {                                                                                                               \
        tile_store(TILE_C0, to, stride);                                                                               \
        if (n_tiles > 1)                                                                                               \
            tile_store(TILE_C1, (to) + (next), stride);                                                                \
        if (n_tiles > 2)                                                                                               \
            tile_store(TILE_C2, (to) + 2 * (next), stride);                                                            \
        if (n_tiles > 3)                                                                                               \
            tile_store(TILE_C3, (to) + 3 * (next), stride);                                                            \
    } while (0)

INLINE void tile_scores(const struct tiles *t, uint32_t block, uint32_t n_tiles)
{
    const uint8_t *k = t->k + (size_t)block * t->n_slices * 2 * TILE_BYTES, *q = t->q;
    const size_t next = (size_t)t->n_slices * 2 * TILE_BYTES;
    tile_zero(TILE_C0);
    tile_zero(TILE_C1);
    tile_zero(TILE_C2);
    tile_zero(TILE_C3);
    for (uint32_t i = 0; i < t->n_slices; i++, k += 2 * TILE_BYTES, q += 2 * TILE_BYTES)
        SPLIT_DOT_4(q, q + TILE_BYTES, next, 64, k, n_tiles);
    float *score = t->score + block % (PART_TOKENS / 16) * 16;
    STORE_4(score, 16 * PART_STRIDE, PART_BYTES, n_tiles);
}

/* Values of 16 elements, over groups of a part. */
INLINE void tile_values(const struct tiles *t, uint32_t tile, uint32_t begin, uint32_t end, uint32_t n_tiles)
{
    const uint32_t n = t->s->a->head_dim;
    const size_t next = 16 * (size_t)n, stride = n * sizeof(float);
    float *acc = t->acc + 16 * tile;
    tile_load(TILE_C0, acc, stride);
    if (n_tiles > 1)
        tile_load(TILE_C1, acc + next, stride);
    if (n_tiles > 2)
        tile_load(TILE_C2, acc + 2 * next, stride);
    if (n_tiles > 3)
        tile_load(TILE_C3, acc + 3 * next, stride);
    for (uint32_t group = begin; group < end; group++) {
        const uint8_t *p = (const uint8_t *)t->score + group % (PART_TOKENS / GROUP_TOKENS) * 64;
        const uint8_t *v = t->v + ((size_t)group * (n / 16) + tile) * 2 * TILE_BYTES;
        SPLIT_DOT_4(p, p + PART_TOKENS * 2, 16 * PART_BYTES, PART_BYTES, v, n_tiles);
    }
    STORE_4(acc, next, stride, n_tiles);
}

/* ---- softmax ---- */

/* 2^x for x <= 0, or about: with a relative error under 4e-6, which is less than what the split leaves. */
INLINE vf weight_of(vf x)
{
    const vf n = vf_round(x), r = vf_sub(x, n);
    vf e = vf_fma(r, vf_set(9.58285294e-3f), vf_set(5.59064262e-2f));
    e = vf_fma(e, r, vf_set(2.40240991e-1f));
    e = vf_fma(e, r, vf_set(6.93124175e-1f));
    e = vf_fma(e, r, vf_set(1));
    return vf_scale_by_power(e, n);
}

/* The largest of a query's scores in a part, of which it sees tokens [first, last). */
INLINE float row_top(float *score, uint32_t first, uint32_t last)
{
    if (first >= last)
        first = last = 0;
    if (last - first < PART_TOKENS) {
        for (uint32_t i = 0; i < PART_VECTORS; i++) {
            const uint32_t from = min_u32(max_u32(first, 16 * i) - 16 * i, 16);
            const uint32_t to = min_u32(max_u32(last, 16 * i) - 16 * i, 16);
            const uint32_t seen = ((1u << to) - 1) & ~((1u << from) - 1);
            _mm512_mask_storeu_ps(score + 16 * i, (__mmask16)~seen, vf_set(UNSEEN));
        }
    }
    vf top = vf_load(score);
    UNROLL for (uint32_t i = 1; i < PART_VECTORS; i++) top = vf_max(top, vf_load(score + 16 * i));
    return last ? vf_reduce_max(top) : -INFINITY;
}

/* What a part adds to: 16 queries' tops are raised to those of the part. */
INLINE void raise_tops(float *top, const float *part_top, float *scale, float *shift)
{
    const vf none = vf_set(-INFINITY), was = vf_load(top), now = vf_max(was, vf_load(part_top));
    const __mmask16 higher = _mm512_cmp_ps_mask(was, now, _CMP_NEQ_UQ),
                    first = _mm512_cmp_ps_mask(was, none, _CMP_EQ_OQ);
    vf_store(top, now);
    vf_store(scale, _mm512_mask_mov_ps(vf_set(1), higher,
                                       _mm512_maskz_mov_ps((__mmask16)~first, weight_of(vf_sub(was, now)))));
    vf_store(shift, _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(now, none, _CMP_NEQ_UQ), now));
}

/* Scores become weights, in place: of tokens i and i + 16 of each group side by side. */
INLINE void row_weights(const struct tiles *t, uint32_t row, float scale, float shift)
{
    float *score = t->score + row * PART_STRIDE, *acc = t->acc + (size_t)row * t->s->a->head_dim;
    vf x[PART_VECTORS], sum = vf_mul(vf_load(t->sum + 16 * row), vf_set(scale));
    if (scale != 1) {
        for (uint32_t e = 0; e < t->s->a->head_dim; e += 16)
            vf_store(acc + e, vf_mul(vf_load(acc + e), vf_set(scale)));
    }
    UNROLL for (uint32_t i = 0; i < PART_VECTORS; i++)
    {
        x[i] = weight_of(vf_sub(vf_load(score + 16 * i), vf_set(shift)));
        sum = vf_add(sum, x[i]);
    }
    vf_store(t->sum + 16 * row, sum);
    uint8_t *p = (uint8_t *)score;
    UNROLL for (uint32_t i = 0; i < PART_VECTORS; i += 2)
        split_pair(x[i], x[i + 1], p + 32 * i, p + 2 * PART_TOKENS + 32 * i);
}

static void part_weights(const struct tiles *t, uint32_t query, uint32_t n_q, uint32_t part)
{
    const struct attn_args *a = t->s->a;
    const uint32_t begin = part * PART_TOKENS + t->s->first_token;
    _Alignas(64) float top[BLOCK_QUERIES] = {0}, scale[BLOCK_QUERIES], shift[BLOCK_QUERIES];
    for (uint32_t i = 0; i < n_q; i++) {
        const uint32_t first = max_u32(a->first[query + i], begin) - begin;
        const uint32_t last = min_u32(max_u32(a->last[query + i], begin) - begin, PART_TOKENS);
        top[i] = row_top(t->score + i * PART_STRIDE, first, last);
    }
    for (uint32_t i = 0; i < n_q; i += 16)
        raise_tops(t->top + i, top + i, scale + i, shift + i);
    for (uint32_t i = 0; i < n_q; i++)
        row_weights(t, i, scale[i], shift[i]);
}

/* ---- a span ---- */

/* Up to 64 queries. */
INLINE void tile_attend(const struct tiles *t, uint32_t query, uint32_t n_q, uint32_t n_tiles)
{
    const struct attn_args *a = t->s->a;
    const uint32_t n = a->head_dim;
    uint32_t first, last;
    if (!span_range(t->s, query, n_q, &first, &last)) {
        span_empty(t->s, query, n_q);
        return;
    }
    prepare_queries(t, query, n_q);
    memset(t->acc, 0, (size_t)n_tiles * TILE_QUERIES * n * sizeof *t->acc);
    memset(t->sum, 0, (size_t)n_q * 16 * sizeof *t->sum);
    for (uint32_t i = 0; i < BLOCK_QUERIES; i++)
        t->top[i] = -INFINITY;
    const struct tile_config shapes = tile_shapes(TILE_ROWS, 64, 16);
    tile_begin(&shapes);
    for (uint32_t part = first / PART_TOKENS; part * PART_TOKENS < last; part++) {
        const uint32_t begin = max_u32(first, part * PART_TOKENS), end = min_u32(last, (part + 1) * PART_TOKENS);
        for (uint32_t block = begin / 16; block * 16 < end; block++)
            tile_scores(t, block, n_tiles);
        part_weights(t, query, n_q, part);
        for (uint32_t tile = 0; tile < n / 16; tile++)
            tile_values(t, tile, begin / GROUP_TOKENS, (end + GROUP_TOKENS - 1) / GROUP_TOKENS, n_tiles);
    }
    tile_end();
    memcpy(a->out.acc + (size_t)query * n, t->acc, (size_t)n_q * n * sizeof *t->acc);
    for (uint32_t i = 0; i < n_q; i++) {
        a->out.m[query + i] = t->top[i] * LN_2;
        a->out.l[query + i] = vf_reduce_add(_mm512_load_ps(t->sum + 16 * i));
    }
}

static void tile_attend_few(const struct tiles *t, uint32_t query, uint32_t n_q)
{
    tile_attend(t, query, n_q, (n_q + TILE_QUERIES - 1) / TILE_QUERIES);
}

static void tile_attend_64(const struct tiles *t, uint32_t query)
{
    tile_attend(t, query, BLOCK_QUERIES, 4);
}

static void tiles_open(struct tiles *t, const struct span *s)
{
    const uint32_t n = s->a->head_dim, n_slices = (n + 31) / 32;
    const size_t prepared = (size_t)ATTN_SPAN_TOKENS * n_slices * 128;
    uint8_t *at = s->a->scratch;
    *t = (struct tiles){.s = s, .n_slices = n_slices, .k = at, .v = at + prepared, .q = at + 2 * prepared};
    t->score = (float *)(void *)(t->q + (size_t)n_slices * 8 * TILE_BYTES);
    t->acc = t->score + BLOCK_QUERIES * PART_STRIDE;
    t->sum = t->acc + (size_t)BLOCK_QUERIES * n_slices * 32;
    t->top = t->sum + BLOCK_QUERIES * 16;
    span_range(s, 0, s->a->n_q, &t->first, &t->last);
}

static void attention_tiles(const struct attn_args *a)
{
    struct span s;
    struct tiles t;
    if (!a->prompt || a->head_dim % 16) {
        attention(a);
        return;
    }
    span_open(&s, a);
    if (!s.n_blocks) {
        span_empty(&s, 0, a->n_q);
        return;
    }
    tiles_open(&t, &s);
    for (uint32_t block = t.first / 16; block < s.n_blocks; block++)
        prepare_keys(&t, block);
    for (uint32_t group = t.first / GROUP_TOKENS; group * GROUP_TOKENS < t.last; group++)
        prepare_values(&t, group);
    uint32_t i = 0;
    for (; a->n_q - i >= BLOCK_QUERIES; i += BLOCK_QUERIES)
        tile_attend_64(&t, i);
    if (i < a->n_q)
        tile_attend_few(&t, i, a->n_q - i);
}
