/* Products with blocks of 32 through AMX tiles, for many tokens.
 *
 * The codes of 16 rows and those of the tokens go into the tiles as bfloat16, which holds such small integers exactly.
 * One tile product is one block: 16 rows x up to 16 tokens x 32 columns. All its terms and sums are integers below 2^24,
 * so it gives the exact sum, as a float; that leaves the tile, is scaled and added to the block's chain, which lives in
 * vector registers while the chain is walked. So the bits are ref/'s (kernel.h). What bounds the speed is the scaling:
 * while tiles are in use only one vector unit multiplies and adds floats. With 8-bit tiles, the conversion to float
 * would come on top.
 *
 * 16 rows of a segment are unpacked row by row, one walk through memory. Its chains are walked one after the other over
 * all tokens: the chain's codes of 16 rows (at most 32 KB) stay in the first-level cache.
 */
#include "kernel/lanes.h"
#include "kernel/x86/blocks512.h"
#include "kernel/x86/tokens_amx.h"
#include "kernel/x86/x86.h"

#define SEGMENT_BLOCKS (SEGMENT_COLS / 32)

/* The way back to rows costs something, which fewer tokens do not pay for. */
#define MIN_TOKENS 48

#define X_BYTES (1u << 20) /* interleaved codes: half of a second-level cache */
#define MAX_TOKENS 256     /* that go through a row's codes together */

struct scratch {
    _Alignas(64) uint8_t x[X_BYTES];                       /* [group of tokens][block][16][width][2] bfloat16 */
    float x_d[X_BYTES / 64];                               /* [group of tokens][block][width] */
    float x_sum[X_BYTES / 64];                             /* d times the sum of codes, for mins */
    _Alignas(64) uint8_t w[SEGMENT_BLOCKS][TILE_ROWS][64]; /* bfloat16 */
    float w_d[SEGMENT_BLOCKS][TILE_ROWS], w_m[SEGMENT_BLOCKS][TILE_ROWS];
    __m512 acc[MAX_TOKENS / 16][4][16]; /* [group of tokens][chain][vector of a stored tile] */
    uint8_t rows[TILE_ROWS][SEGMENT_BLOCKS * sizeof(struct block_q8_0)]; /* brought back from lanes */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* What does not change while a segment of a block of tokens is multiplied. */
struct job {
    const struct matmul_args *a;
    struct scratch *s;
    const struct way *way;
    uint32_t first_token, n_tokens, width;
    uint32_t n_blocks; /* of the segment; rounded up to whole groups in the layout of x */
    bool start;        /* the first segment */
};

/* The steps that depend on the type, and the one that depends on the width and on whether the type has mins: n blocks
 * of 16 rows to the scratch; then those with all tokens. */
struct way {
    void (*unpack)(const uint8_t *const rows[16], uint32_t n, struct scratch *s);
    void (*const *walk)(const struct job *j); /* [log2(width)] */
    enum tensor_type type;
};

/* ---- tokens ---- */

/* Small integers to bfloat16, exactly. */
INLINE __m512i bf16_of_codes(__m128i first, __m128i second)
{
    const __m512 f = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(first));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(second)), f);
}

static void interleave(const struct job *j, const uint8_t *x)
{
    static const uint8_t straight[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const size_t row_bytes = j->a->x_row_bytes;
    const uint32_t width = j->width, n_groups = (j->n_blocks + 3) / 4;
    for (uint32_t token = 0; token < j->n_tokens; token += width) {
        const uint32_t n_t = j->n_tokens - token < width ? j->n_tokens - token : width;
        for (uint32_t b = 0; b < 4 * n_groups; b++) {
            const size_t block = (size_t)token / width * 4 * n_groups + b;
            uint8_t codes[16][64];
            for (uint32_t i = 0; i < width; i++) {
                const uint8_t *p = x + (token + i) * row_bytes + b / 4 * sizeof(struct act_q8);
                const struct act_q8 *q = (const struct act_q8 *)(const void *)p;
                j->s->x_d[block * width + i] = i < n_t ? q->d[b % 4] : 0;
                j->s->x_sum[block * width + i] = i < n_t ? q->d[b % 4] * (float)q->sum[b % 4] : 0;
                if (i < n_t)
                    _mm512_storeu_si512(codes[i],
                                        bf16_of_codes(_mm_loadu_si128((const void *)(q->q + 16 * (b % 4))),
                                                      _mm_loadu_si128((const void *)(q->q + 64 + 16 * (b % 4)))));
            }
            interleave_64(codes[0], 64, n_t, width, straight, j->s->x + block * 64 * width);
        }
    }
}

/* ---- weights ---- */

/* bfloat16 of the type's codes. Those of four bits stand there twice: then bit 4 of an index does not matter. */
INLINE __m512i table_of_codes(enum tensor_type t)
{
    int8_t code[32];
    for (int q = 0; q < 32; q++) {
        const int four = q % 16;
        code[q] = (int8_t)(t == TENSOR_Q4_0     ? four - 8
                           : t == TENSOR_Q4_1   ? four
                           : t == TENSOR_Q5_0   ? q - 16
                           : t == TENSOR_IQ4_NL ? code_iq4[four]
                           : t == TENSOR_MXFP4  ? code_mxfp4[four]
                                                : q);
    }
    return bf16_of_codes(_mm_loadu_si128((const void *)code), _mm_loadu_si128((const void *)(code + 16)));
}

/* Two blocks: elements 0..15 of both, and 16..31 of both. */
INLINE void unpack_two(enum tensor_type t, const uint8_t *p, __m512i table, __m512i *lo, __m512i *hi)
{
    const size_t stride = block_bytes(t), codes_at = stride - 16; /* the last field of every such block */
    const __m256i raw = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)(p + codes_at))),
                                                _mm_loadu_si128((const void *)(p + stride + codes_at)), 1);
    __m512i low = _mm512_cvtepu8_epi16(raw), high = _mm512_srli_epi16(low, 4);
    if (t == TENSOR_Q5_0 || t == TENSOR_Q5_1) {
        uint32_t first, second;
        memcpy(&first, p + codes_at - 4, sizeof first);
        memcpy(&second, p + stride + codes_at - 4, sizeof second);
        low = _mm512_and_si512(low, _mm512_set1_epi16(15));
        low = _mm512_mask_add_epi16(low, (first & 0xffff) | second << 16, low, _mm512_set1_epi16(16));
        high = _mm512_mask_add_epi16(high, first >> 16 | (second & 0xffff0000), high, _mm512_set1_epi16(16));
    }
    *lo = _mm512_permutexvar_epi16(low, table); /* looks at five bits of an index */
    *hi = _mm512_permutexvar_epi16(high, table);
}

/* Four blocks of a row r. */
INLINE void unpack_codes(enum tensor_type t, const uint8_t *p, __m512i table, uint32_t r, uint8_t (*out)[TILE_ROWS][64])
{
    for (uint32_t b = 0; b < 4; b += 2, p += 2 * block_bytes(t)) {
        uint8_t *first = out[b][r], *second = out[b + 1][r];
        if (t == TENSOR_Q8_0) {
            const uint8_t *q = p + sizeof(f16_bits), *next = q + block_bytes(t);
            _mm512_store_si512(
                first, bf16_of_codes(_mm_loadu_si128((const void *)q), _mm_loadu_si128((const void *)(q + 16))));
            _mm512_store_si512(
                second, bf16_of_codes(_mm_loadu_si128((const void *)next), _mm_loadu_si128((const void *)(next + 16))));
            continue;
        }
        __m512i lo, hi;
        unpack_two(t, p, table, &lo, &hi);
        _mm256_store_si256((void *)first, _mm512_castsi512_si256(lo));
        _mm256_store_si256((void *)(first + 32), _mm512_castsi512_si256(hi));
        _mm256_store_si256((void *)second, _mm512_extracti64x4_epi64(lo, 1));
        _mm256_store_si256((void *)(second + 32), _mm512_extracti64x4_epi64(hi, 1));
    }
}

/* Numbers of four blocks of four rows, lane 4b + r, to out[b][r]. */
INLINE void store_scales(__m512 v, float (*out)[TILE_ROWS], uint32_t first_row)
{
    _mm_storeu_ps(&out[0][first_row], _mm512_castps512_ps128(v));
    _mm_storeu_ps(&out[1][first_row], _mm512_extractf32x4_ps(v, 1));
    _mm_storeu_ps(&out[2][first_row], _mm512_extractf32x4_ps(v, 2));
    _mm_storeu_ps(&out[3][first_row], _mm512_extractf32x4_ps(v, 3));
}

/* n blocks of four rows, the first of which is row r. */
INLINE void unpack_quad(enum tensor_type t, const uint8_t *const rows[4], uint32_t n, __m512i table, uint32_t r,
                        struct scratch *s)
{
    const size_t group_bytes = 4 * block_bytes(t);
    uint8_t copy[4][4 * sizeof(struct block_q8_0)] = {{0}}; /* the last 1 to 3 blocks, filled up with zeros */
    const uint8_t *last[4];
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t b = 0; b < n / 4; b++) {
            const uint8_t *p = rows[i] + b * group_bytes;
            for (size_t line = 0; line < group_bytes; line += 64)
                _mm_prefetch((const char *)p + PREFETCH_BYTES + line, _MM_HINT_T0);
            unpack_codes(t, p, table, r + i, &s->w[4 * b]);
        }
        last[i] = memcpy(copy[i], rows[i] + n / 4 * group_bytes, n % 4 * block_bytes(t));
        if (n % 4)
            unpack_codes(t, last[i], table, r + i, &s->w[n / 4 * 4]);
    }
    for (uint32_t b = 0; b < n; b += 4) {
        const uint8_t *p[4];
        for (uint32_t i = 0; i < 4; i++)
            p[i] = n - b < 4 ? last[i] : rows[i] + b / 4 * group_bytes;
        store_scales(gather_scales(t, p), &s->w_d[b], r);
        if (has_min(t))
            store_scales(gather_mins(t, p), &s->w_m[b], r);
    }
}

INLINE void unpack(enum tensor_type t, const uint8_t *const rows[16], uint32_t n, struct scratch *s)
{
    const __m512i table = table_of_codes(t);
    for (uint32_t r = 0; r < TILE_ROWS; r += 4)
        unpack_quad(t, rows + r, n, table, r, s);
}

/* ---- one chain of 16 rows and a group of tokens ---- */

#define MULTIPLY_BLOCK(a_, b_, c_, at, sums)                                                                           \
    do {                                                                                                               \
        tile_load(a_, s->w[at], 64);                                                                                   \
        tile_load(b_, x + (size_t)(at)*64 * W, 4 * W);                                                                 \
        tile_zero(c_);                                                                                                 \
        tile_dot_bf16(c_, a_, b_);                                                                                     \
        tile_store(c_, sums, 4 * W);                                                                                   \
    } while (0)

/* The sums of block b, scaled, into the chain. */
INLINE void add_block(const struct scratch *s, const float *sums, const float *x_d, const float *x_sum, uint32_t b,
                      size_t W, bool mins, __m512 *c)
{
    const __m512 d = spread_tokens(x_d + b * W, W);
    const __m512 sum = mins ? spread_tokens(x_sum + b * W, W) : _mm512_setzero_ps();
    UNROLL for (size_t v = 0; v < W; v++)
    {
        const __m512 scale = _mm512_mul_ps(d, spread_rows(s->w_d[b], v, W));
        c[v] = _mm512_fmadd_ps(_mm512_load_ps(sums + 16 * v), scale, c[v]);
        if (mins)
            c[v] = _mm512_fmadd_ps(spread_rows(s->w_m[b], v, W), sum, c[v]);
    }
}

/* Blocks [first, end) in steps of four; sums are scaled two products after they left the tiles. */
INLINE void walk_chain(const struct scratch *s, const uint8_t *x, const float *x_d, const float *x_sum, uint32_t first,
                       uint32_t end, size_t W, bool mins, __m512 *acc)
{
    _Alignas(64) float sums[4][16 * 16];
    __m512 c[16];
    UNROLL for (size_t v = 0; v < W; v++) c[v] = _mm512_setzero_ps();
    uint32_t b = first, slot = 0;
    for (; b + 4 < end; b += 8, slot ^= 2) {
        MULTIPLY_BLOCK(TILE_A0, TILE_B0, TILE_C0, b, sums[slot]);
        if (b > first)
            add_block(s, sums[slot ^ 2], x_d, x_sum, b - 8, W, mins, c);
        MULTIPLY_BLOCK(TILE_A1, TILE_B1, TILE_C1, b + 4, sums[slot + 1]);
        if (b > first)
            add_block(s, sums[(slot ^ 2) + 1], x_d, x_sum, b - 4, W, mins, c);
    }
    if (b < end)
        MULTIPLY_BLOCK(TILE_A0, TILE_B0, TILE_C0, b, sums[slot]);
    if (b > first) {
        add_block(s, sums[slot ^ 2], x_d, x_sum, b - 8, W, mins, c);
        add_block(s, sums[(slot ^ 2) + 1], x_d, x_sum, b - 4, W, mins, c);
    }
    if (b < end)
        add_block(s, sums[slot], x_d, x_sum, b, W, mins, c);
    UNROLL for (size_t v = 0; v < W; v++) acc[v] = c[v];
}

/* All blocks of 16 rows, all tokens. */
INLINE void walk_chains(const struct job *j, size_t W, bool mins)
{
    struct scratch *s = j->s;
    const size_t n_blocks = (j->n_blocks + 3) / 4 * 4; /* of a group of tokens in x */
    for (uint32_t chain = 0; chain < 4; chain++) {
        for (uint32_t i = 0; i * W < j->n_tokens; i++) {
            const size_t at = i * n_blocks * W;
            walk_chain(s, s->x + at * 64, s->x_d + at, s->x_sum + at, chain, j->n_blocks, W, mins, s->acc[i][chain]);
        }
    }
}

/* ---- a product ---- */

static void finish_rows(const struct job *j, uint32_t row)
{
    for (uint32_t token = 0; token < j->n_tokens; token += j->width) {
        __m512(*c)[16] = j->s->acc[token / j->width], sum[16];
        for (uint32_t v = 0; v < j->width; v++)
            sum[v] = _mm512_add_ps(_mm512_add_ps(c[0][v], c[1][v]), _mm512_add_ps(c[2][v], c[3][v]));
        rows_of_tile(sum, j->width, sum);
        for (uint32_t i = 0; i < j->width && token + i < j->n_tokens; i++) {
            float *y = j->a->y + (j->first_token + token + i) * j->a->y_stride + row;
            const __m512 before = j->start ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
            _mm512_storeu_ps(y, _mm512_add_ps(before, sum[i]));
        }
    }
}

/* A segment of all rows, beginning `offset` bytes into them. */
static void multiply_rows(const struct job *j, size_t offset)
{
    const struct matmul_args *a = j->a;
    for (uint32_t row = 0; row < a->n_rows; row += TILE_ROWS) {
        const uint8_t *p[TILE_ROWS];
        lanes_unpack(j->way->type, (const uint8_t *)a->w + row * a->w_row_bytes + offset * LANES, 32 * j->n_blocks,
                     j->s->rows, sizeof j->s->rows[0]);
        for (uint32_t r = 0; r < TILE_ROWS; r++)
            p[r] = j->s->rows[r];
        j->way->unpack(p, j->n_blocks, j->s);
        j->way->walk[__builtin_ctz(j->width)](j);
        finish_rows(j, row);
    }
}

static void matmul_blocks(const struct way *way, const struct matmul_args *a)
{
    const uint32_t n_blocks = a->n_cols / 32;
    struct job j = {.a = a, .s = a->scratch, .way = way, .width = token_width(a->n_tokens)};
    const struct tile_config shapes = tile_shapes(64, j.width);
    tile_begin(&shapes);
    for (uint32_t b = 0; b < n_blocks; b += SEGMENT_BLOCKS) {
        j.start = b == 0;
        j.n_blocks = n_blocks - b < SEGMENT_BLOCKS ? n_blocks - b : SEGMENT_BLOCKS;
        const uint32_t fit = X_BYTES / ((j.n_blocks + 3) / 4 * ACT_Q8_GROUP * 2) / 16 * 16;
        const uint32_t step = fit < MAX_TOKENS ? fit : MAX_TOKENS;
        for (uint32_t i = 0; i < a->n_tokens; i += step) {
            j.first_token = i;
            j.n_tokens = a->n_tokens - i < step ? a->n_tokens - i : step;
            interleave(&j, (const uint8_t *)a->x + i * a->x_row_bytes + b / 4 * sizeof(struct act_q8));
            multiply_rows(&j, b * block_bytes(way->type));
        }
    }
    tile_end();
}

#define WALKS(name, mins)                                                                                              \
    static void walk_##name##_8(const struct job *j)                                                                   \
    {                                                                                                                  \
        walk_chains(j, 8, mins);                                                                                       \
    }                                                                                                                  \
    static void walk_##name##_16(const struct job *j)                                                                  \
    {                                                                                                                  \
        walk_chains(j, 16, mins);                                                                                      \
    }                                                                                                                  \
    static void (*const walk_##name[])(const struct job *j) = {[3] = walk_##name##_8, [4] = walk_##name##_16};
WALKS(plain, false)
WALKS(mins, true)

#define MATMUL_BLOCKS(name, type)                                                                                      \
    static void unpack_##name(const uint8_t *const rows[16], uint32_t n, struct scratch *s)                            \
    {                                                                                                                  \
        unpack(type, rows, n, s);                                                                                      \
    }                                                                                                                  \
    static void tiles_##name(const struct matmul_args *a)                                                              \
    {                                                                                                                  \
        const struct way way = {unpack_##name, has_min(type) ? walk_mins : walk_plain, type};                          \
        matmul_blocks(&way, a);                                                                                        \
    }                                                                                                                  \
    TILE_PRODUCT(name, type, tiles_##name)
MATMUL_BLOCKS(q8_0, TENSOR_Q8_0)
MATMUL_BLOCKS(q4_0, TENSOR_Q4_0)
MATMUL_BLOCKS(q4_1, TENSOR_Q4_1)
MATMUL_BLOCKS(q5_0, TENSOR_Q5_0)
MATMUL_BLOCKS(q5_1, TENSOR_Q5_1)
MATMUL_BLOCKS(iq4_nl, TENSOR_IQ4_NL)
MATMUL_BLOCKS(mxfp4, TENSOR_MXFP4)

void AMX_NAME(x86_blocks)(struct kernels *k)
{
    set_q8_0(k);
    set_q4_0(k);
    set_q4_1(k);
    set_q5_0(k);
    set_q5_1(k);
    set_iq4_nl(k);
    set_mxfp4(k);
}
