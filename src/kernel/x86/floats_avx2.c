/* Products with float weights in AVX2.
 *
 * The 16 chains of a row and a token are two registers, and four rows by three tokens have 24 of them. So a tile sums one
 * half of the chains, over a segment of columns; seven loads for twelve fused multiply-adds. Activations are copied, each
 * half by itself, so that a tile reads one sequence of bytes of them. Rows are read as they are: a segment of four stays in
 * the first-level cache (16 KB, half of it) while all tokens pass by, once for each half. A segment goes through a block of
 * rows before the next one does, and the chains wait in the scratch; meanwhile the next rows are asked for, in equal parts.
 */
#include "kernel/x86/simd.h"
#include "kernel/x86/x86.h"

#include <assert.h>
#include <string.h>

#define ROWS 4
#define TILE_TOKENS 3
#define CHAINS 16
#define HALF (CHAINS / 2)
#define SEGMENT_BYTES 4096u /* of a row */
#define X_BYTES ((size_t)1536 << 10)
#define MAX_TOKENS 32u                  /* a segment's activations stay in a second-level cache */
#define BLOCK_BYTES ((size_t)256 << 10) /* of rows */
#define BLOCK_MAX_TILES 8u

typedef float sums_of_rows[ROWS][HALF];

struct float_scratch {
    _Alignas(64) sums_of_rows sums[BLOCK_MAX_TILES][2][MAX_TOKENS];
    uint8_t x[X_BYTES]; /* [segment][half][group][step][token][HALF] */
};
static_assert(sizeof(struct float_scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

INLINE uint32_t weight_bytes(enum tensor_type t)
{
    return t == TENSOR_F32 ? 4 : 2;
}

INLINE __m256 load_weights(enum tensor_type t, const uint8_t *p)
{
    if (t == TENSOR_F32)
        return _mm256_loadu_ps((const float *)(const void *)p);
    const __m128i h = _mm_loadu_si128((const void *)p);
    if (t == TENSOR_F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE __m256 load_floats(const void *p)
{
    return _mm256_loadu_ps(p);
}

/* Four sums of eight: i and i + 4, + 2, + 1. */
INLINE __m128 sum_4x8(const __m256 v[4])
{
    const __m256 a = _mm256_add_ps(_mm256_permute2f128_ps(v[0], v[1], 0x20), _mm256_permute2f128_ps(v[0], v[1], 0x31));
    const __m256 b = _mm256_add_ps(_mm256_permute2f128_ps(v[2], v[3], 0x20), _mm256_permute2f128_ps(v[2], v[3], 0x31));
    const __m256 c = _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
    const __m256 d = _mm256_add_ps(_mm256_shuffle_ps(c, c, 0x88), _mm256_shuffle_ps(c, c, 0xdd));
    return _mm_unpacklo_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
}

/* Sums of the first n rows, from their chains. */
INLINE void put_sums(const __m256 chains[ROWS], uint32_t n, float *y)
{
    const __m128 sums = sum_4x8(chains);
    float each[ROWS];
    if (n == ROWS) {
        _mm_storeu_ps(y, sums);
        return;
    }
    _mm_storeu_ps(each, sums);
    memcpy(y, each, n * sizeof *y);
}

/* Rows from row on: where they differ in bytes; those from n_rows on repeat the first. */
INLINE void row_offsets(const struct matmul_args *a, uint32_t n_rows, size_t at[ROWS])
{
    UNROLL for (uint32_t r = 0; r < ROWS; r++) at[r] = r < n_rows ? r * a->w_row_bytes : 0;
}

/* ---- tiles ---- */

/* Four rows with a group of tokens: one half of the chains, over some columns. */
struct tile {
    const uint8_t *w, *x;
    size_t row_at[ROWS];
    uint32_t n_cols, half;
    bool first, last;                /* of the segments */
    sums_of_rows *sums, *other_sums; /* [n_t], of this half and of the first */
    const uint8_t *ahead;            /* is asked for meanwhile, every ahead_step bytes */
    size_t ahead_step;
    float *y; /* y[t * y_stride + r], in the end */
    size_t y_stride;
    uint32_t n_rows; /* rows from n_rows on are dropped */
};

#define EACH_CHAIN(what)                                                                                               \
    UNROLL for (int i = 0; i < n_t; i++)                                                                               \
    {                                                                                                                  \
        UNROLL for (int r = 0; r < ROWS; r++)                                                                          \
        {                                                                                                              \
            what;                                                                                                      \
        }                                                                                                              \
    }

INLINE void tile_step(enum tensor_type t, const uint8_t *w, const size_t row_at[ROWS], const uint8_t *x, int n_t,
                      __m256 acc[TILE_TOKENS][ROWS])
{
    __m256 v[TILE_TOKENS];
    UNROLL for (int i = 0; i < n_t; i++) v[i] = load_floats(x + (size_t)i * HALF * sizeof(float));
    UNROLL for (int r = 0; r < ROWS; r++)
    {
        const __m256 u = load_weights(t, w + row_at[r]);
        UNROLL for (int i = 0; i < n_t; i++) acc[i][r] = _mm256_fmadd_ps(u, v[i], acc[i][r]);
    }
}

/* The last columns, filled up with zeros. */
INLINE void tile_rest(enum tensor_type t, const struct tile *a, const uint8_t *w, const uint8_t *x, int n_t,
                      __m256 acc[TILE_TOKENS][ROWS])
{
    uint8_t last[ROWS][CHAINS * sizeof(float)] = {{0}};
    const size_t rest = a->n_cols % CHAINS, at[ROWS] = {0, sizeof *last, 2 * sizeof *last, 3 * sizeof *last},
                 half_bytes = a->half * HALF * weight_bytes(t);
    for (int r = 0; r < ROWS; r++)
        memcpy(last[r], w + a->row_at[r] - half_bytes, rest * weight_bytes(t));
    tile_step(t, last[0] + half_bytes, at, x, n_t, acc);
}

INLINE void float_tile(enum tensor_type t, const struct tile *a, int n_t)
{
    const uint8_t *w = a->w, *x = a->x, *ahead = a->ahead;
    __m256 acc[TILE_TOKENS][ROWS];
    if (a->first)
        EACH_CHAIN(acc[i][r] = _mm256_setzero_ps())
    else
        EACH_CHAIN(acc[i][r] = load_floats(a->sums[i][r]))
    for (uint32_t n = a->n_cols / CHAINS; n; n--) {
        UNROLL for (size_t i = 0; i < ROWS * HALF * weight_bytes(t) / 64; i++, ahead += a->ahead_step)
            _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        tile_step(t, w, a->row_at, x, n_t, acc);
        w += CHAINS * weight_bytes(t);
        x += (size_t)n_t * HALF * sizeof(float);
    }
    if (a->n_cols % CHAINS)
        tile_rest(t, a, w, x, n_t, acc);
    if (!a->last || a->half == 0) {
        EACH_CHAIN(_mm256_storeu_ps(a->sums[i][r], acc[i][r]))
        return;
    }
    EACH_CHAIN(acc[i][r] = _mm256_add_ps(load_floats(a->other_sums[i][r]), acc[i][r]))
    UNROLL for (int i = 0; i < n_t; i++) put_sums(acc[i], a->n_rows, a->y + (size_t)i * a->y_stride);
}

/* ---- products ---- */

/* Some tokens, whose activations are copied. */
struct job {
    const struct matmul_args *a;
    uint32_t first_token, n_tokens, n_groups, segment_cols;
};

/* Group g begins at this one of them. */
INLINE uint32_t group_first(const struct job *j, uint32_t g)
{
    return j->n_tokens * g / j->n_groups;
}

/* Bytes of one half of the chains of a segment, of one token. */
INLINE size_t half_bytes(uint32_t n_cols)
{
    return (n_cols + CHAINS - 1) / CHAINS * HALF * sizeof(float);
}

/* Columns of a token, in steps of so many bytes: the first half, and the second; filled up with zeros. */
INLINE void copy_token(const uint8_t *token, uint32_t n_cols, size_t step_bytes, uint8_t *first, uint8_t *second)
{
    const float *x = (const float *)(const void *)token;
    float last[CHAINS] = {0};
    for (; n_cols >= CHAINS; n_cols -= CHAINS, x += CHAINS, first += step_bytes, second += step_bytes) {
        memcpy(first, x, HALF * sizeof *x);
        memcpy(second, x + HALF, HALF * sizeof *x);
    }
    if (!n_cols)
        return;
    memcpy(last, x, n_cols * sizeof *x);
    memcpy(first, last, HALF * sizeof *x);
    memcpy(second, last + HALF, HALF * sizeof *x);
}

static inline void copy_x(const struct job *j)
{
    const struct matmul_args *a = j->a;
    uint8_t *out = ((struct float_scratch *)a->scratch)->x;
    for (uint32_t col = 0; col < a->n_cols; col += j->segment_cols) {
        const uint32_t n_cols = min_u32(a->n_cols - col, j->segment_cols);
        const size_t other_half = half_bytes(n_cols) * j->n_tokens;
        for (uint32_t g = 0; g < j->n_groups; g++) {
            const uint32_t first = group_first(j, g), n_t = group_first(j, g + 1) - first;
            const uint8_t *x = (const uint8_t *)a->x + (j->first_token + first) * a->x_row_bytes + col * sizeof(float);
            for (uint32_t i = 0; i < n_t; i++) {
                uint8_t *to = out + i * HALF * sizeof(float);
                copy_token(x + i * a->x_row_bytes, n_cols, n_t * HALF * sizeof(float), to, to + other_half);
            }
            out += half_bytes(n_cols) * n_t;
        }
        out += other_half;
    }
}

/* One half of the chains of the tile's rows, with all tokens. */
INLINE void multiply_half(enum tensor_type t, const struct job *j, sums_of_rows sums[2][MAX_TOKENS], uint32_t row,
                          struct tile *tile)
{
    const struct matmul_args *a = j->a;
    for (uint32_t g = 0; g < j->n_groups; g++) {
        const uint32_t first = group_first(j, g), n_t = group_first(j, g + 1) - first;
        tile->sums = sums[tile->half] + first;
        tile->other_sums = sums[0] + first;
        tile->y = a->y + (j->first_token + first) * a->y_stride + row;
        if (n_t == 3)
            float_tile(t, tile, 3);
        else
            float_tile(t, tile, 2);
        tile->x += half_bytes(tile->n_cols) * n_t;
        tile->ahead += tile->n_cols / CHAINS * ROWS * HALF * weight_bytes(t) / 64 * tile->ahead_step;
    }
}

/* Rows [row, end) with these tokens. */
INLINE void multiply_rows(enum tensor_type t, const struct job *j, uint32_t row, uint32_t end)
{
    const struct matmul_args *a = j->a;
    struct float_scratch *s = a->scratch;
    const uint8_t *x = s->x;
    struct tile tile = {.y_stride = a->y_stride,
                        .ahead = (const uint8_t *)a->w + end * a->w_row_bytes,
                        .ahead_step = end < a->n_rows ? (64 + j->n_groups - 1) / j->n_groups : 0};
    for (uint32_t col = 0; col < a->n_cols; col += j->segment_cols) {
        tile.n_cols = min_u32(a->n_cols - col, j->segment_cols);
        tile.first = col == 0;
        tile.last = col + tile.n_cols == a->n_cols;
        for (uint32_t r = row; r < end; r += ROWS) {
            tile.x = x;
            tile.n_rows = min_u32(end - r, ROWS);
            row_offsets(a, tile.n_rows, tile.row_at);
            for (tile.half = 0; tile.half < 2; tile.half++) {
                tile.w = (const uint8_t *)a->w + r * a->w_row_bytes + (col + tile.half * HALF) * weight_bytes(t);
                multiply_half(t, j, s->sums[(r - row) / ROWS], r, &tile);
            }
        }
        x = tile.x;
    }
}

/* 16 columns of four rows and one token. */
INLINE void step_of_one(enum tensor_type t, const uint8_t *w, const size_t row_at[ROWS], const float *x,
                        __m256 acc[2][ROWS])
{
    UNROLL for (int h = 0; h < 2; h++)
    {
        const __m256 v = load_floats(x + HALF * h);
        UNROLL for (int r = 0; r < ROWS; r++) acc[h][r] =
            _mm256_fmadd_ps(load_weights(t, w + row_at[r] + (size_t)h * HALF * weight_bytes(t)), v, acc[h][r]);
    }
}

/* One token: whole rows, both halves at once; nothing is copied. */
INLINE void multiply_one(enum tensor_type t, const struct matmul_args *a, uint32_t token)
{
    const size_t step_bytes = CHAINS * weight_bytes(t), rest = a->n_cols % CHAINS;
    for (uint32_t row = 0; row < a->n_rows; row += ROWS) {
        const uint32_t n_rows = min_u32(a->n_rows - row, ROWS);
        const float *x = (const float *)(const void *)((const uint8_t *)a->x + token * a->x_row_bytes);
        const uint8_t *w = (const uint8_t *)a->w + row * a->w_row_bytes, *ahead = w + ROWS * a->w_row_bytes;
        const size_t ahead_step = row + ROWS < a->n_rows ? 64 : 0;
        size_t at[ROWS];
        __m256 acc[2][ROWS];
        row_offsets(a, n_rows, at);
        UNROLL for (int r = 0; r < ROWS; r++) acc[0][r] = acc[1][r] = _mm256_setzero_ps();
        for (uint32_t n = a->n_cols / CHAINS; n; n--, w += step_bytes, x += CHAINS) {
            UNROLL for (size_t i = 0; i < ROWS * step_bytes / 64; i++, ahead += ahead_step)
                _mm_prefetch((const char *)ahead, _MM_HINT_T1);
            step_of_one(t, w, at, x, acc);
        }
        if (rest) {
            uint8_t last[ROWS][CHAINS * sizeof(float)] = {{0}};
            float last_x[CHAINS] = {0};
            memcpy(last_x, x, rest * sizeof *x);
            for (int r = 0; r < ROWS; r++) {
                memcpy(last[r], w + at[r], rest * weight_bytes(t));
                at[r] = (size_t)r * sizeof *last;
            }
            step_of_one(t, last[0], at, last_x, acc);
        }
        UNROLL for (int r = 0; r < ROWS; r++) acc[0][r] = _mm256_add_ps(acc[0][r], acc[1][r]);
        put_sums(acc[0], n_rows, a->y + token * a->y_stride + row);
    }
}

INLINE void matmul_floats(enum tensor_type t, const struct matmul_args *a)
{
    const uint32_t most = min_u32((uint32_t)(X_BYTES / (2 * half_bytes(a->n_cols))), MAX_TOKENS);
    const uint32_t most_tiles = min_u32((uint32_t)(BLOCK_BYTES / (ROWS * a->w_row_bytes)), BLOCK_MAX_TILES);
    const uint32_t block_rows = ROWS * (most_tiles ? most_tiles : 1);
    struct job j = {.a = a, .segment_cols = SEGMENT_BYTES / weight_bytes(t)};
    for (uint32_t i = 0; i < a->n_tokens; i += j.n_tokens) {
        j.first_token = i;
        j.n_tokens = min_u32(a->n_tokens - i, most);
        if (j.n_tokens < 2) { /* or rows too long to be copied */
            j.n_tokens = 1;
            multiply_one(t, a, i);
            continue;
        }
        j.n_groups = (j.n_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
        copy_x(&j);
        for (uint32_t row = 0; row < a->n_rows; row += block_rows)
            multiply_rows(t, &j, row, min_u32(a->n_rows, row + block_rows));
    }
}

#define MATMUL_FLOATS(name, type)                                                                                      \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        matmul_floats(type, a);                                                                                        \
    }
MATMUL_FLOATS(f32, TENSOR_F32)
MATMUL_FLOATS(f16, TENSOR_F16)
MATMUL_FLOATS(bf16, TENSOR_BF16)

void x86_floats_avx2(struct kernels *k)
{
    k->matmul[TENSOR_F32] = matmul_f32;
    k->matmul[TENSOR_F16] = matmul_f16;
    k->matmul[TENSOR_BF16] = matmul_bf16;
}
