/* Products with blocks of 32 in lanes (kernel/lanes.h), written once for both widths: included by lanes_blocks_avx2.c,
 * _avx512.c and _vnni.c. A lane is a row: weights are loaded as they lie, four bytes of a token's activations are
 * broadcast, nothing is merged.
 *
 * The columns of a segment go by in pieces. A tile is one piece of 16 rows with up to TILE_TOKENS tokens; it goes from
 * chain to chain, so that the sums of one stay in registers, and at its end they rest in scratch. The first tile that
 * reads a piece gets it from memory and asks for the next one meanwhile; the others read it from a cache.
 *
 * Activations are laid out for that once a segment, in scratch: by tile, chain, cell and token.
 */
#include "kernel/x86/lanes_block_codes.h"

#include <string.h>

#define SEGMENT_CELLS (SEGMENT_COLS / ACT_Q8_GROUP)
#if defined __AVX512F__
#define TILE_TOKENS 8
#define FEW_TOKENS 3 /* all chains of so many at once */
#else
#define TILE_TOKENS 4
#define FEW_TOKENS 1
#endif
/* So many tokens go through all rows together, their activations in a second-level cache. */
#define BLOCK_TOKENS 64
#define PIECE_CELLS 16
#define SEGMENT_BLOCKS (SEGMENT_COLS / 32)
#define FEW_BYTES ((size_t)128 << 10) /* of activations of all segments */

/* ---- activations ---- */

/* One block of one token: 32 codes; wide ones as elements 0 and 2, 1 and 3 of each four. Then its scale, and what comes
 * of the sum of its codes: what the weights' offset adds, negative; or the factor of the min. */
struct act_block {
    int8_t q[32];
    float d;
    union {
        int32_t start;
        float of_min;
    };
};
struct act_block_wide {
    int16_t q[32];
    float d;
    int32_t start;
};

INLINE size_t act_bytes(enum tensor_type t)
{
    return is_wide(t) ? sizeof(struct act_block_wide) : sizeof(struct act_block);
}

/* Where d stands; start and of_min follow. */
INLINE size_t act_d_at(enum tensor_type t)
{
    return is_wide(t) ? offsetof(struct act_block_wide, d) : offsetof(struct act_block, d);
}

INLINE size_t act_token_bytes(enum tensor_type t)
{
    return SEGMENT_CELLS * ACT_Q8_BLOCKS * act_bytes(t);
}

/* Straight to its place: a struct built on the stack would be read before its parts have arrived there. */
INLINE void act_put(enum tensor_type t, const struct act_q8 *g, uint32_t b, uint8_t *out)
{
    const int32_t start = -code_offset(t) * g->sum[b];
    const float of_min = g->d[b] * (float)g->sum[b];
    if (is_wide(t)) {
        const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        UNROLL for (uint32_t half = 0; half < 2; half++)
        {
            const __m128i q = _mm_loadu_si128((const void *)(g->q + 64 * half + 16 * b));
            _mm256_storeu_si256((void *)(out + 32 * half), _mm256_cvtepi8_epi16(_mm_shuffle_epi8(q, order)));
        }
    } else {
        memcpy(out, g->q + 16 * b, 16);
        memcpy(out + 16, g->q + 64 + 16 * b, 16);
    }
    memcpy(out + act_d_at(t), &g->d[b], sizeof(float));
    memcpy(out + act_d_at(t) + sizeof(float), has_min(t) ? (const void *)&of_min : &start, sizeof(int32_t));
}

/* Tile i of n_tiles takes tokens [tile_first(i), tile_first(i + 1)) of n. */
INLINE uint32_t tile_first(uint32_t i, uint32_t n_tiles, uint32_t n)
{
    return i * n / n_tiles;
}

/* A segment of n tokens' activations: of each tile [chain][SEGMENT_CELLS][token]. */
INLINE void act_lay_out(enum tensor_type t, const uint8_t *x, size_t x_row_bytes, uint32_t n_cells, uint32_t n,
                        uint32_t n_tiles, uint8_t *out)
{
    for (uint32_t tile = 0; tile < n_tiles; tile++) {
        const uint32_t first = tile_first(tile, n_tiles, n), n_t = tile_first(tile + 1, n_tiles, n) - first;
        for (uint32_t i = 0; i < n_t; i++, x += x_row_bytes) {
            for (uint32_t cell = 0; cell < n_cells; cell++) {
                const struct act_q8 *g = (const struct act_q8 *)(const void *)x + cell;
                for (uint32_t b = 0; b < ACT_Q8_BLOCKS; b++)
                    act_put(t, g, b, out + ((b * SEGMENT_CELLS + cell) * n_t + i) * act_bytes(t));
            }
        }
        out += n_t * act_token_bytes(t);
    }
}

/* ---- one block of VF_N rows ---- */

/* Adds the products with the codes of n_t tokens at x. */
INLINE void dot_block(enum tensor_type t, const uint8_t *codes, const uint8_t *high, const uint8_t *x, int n_t,
                      vi *sums)
{
    const size_t stride = act_bytes(t);
    const vi h = has_high(t) ? vi_load(high) : vi_zero();
    vi a, b;
#if defined __AVX512VNNI__
    vi others[TILE_TOKENS]; /* two sums a token: one alone would wait for itself */
    UNROLL for (int k = 0; k < 4; k++)
    {
        load_codes(t, codes, h, k, &a, &b);
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const uint8_t *q = x + (size_t)i * stride + 4 * k;
            sums[i] = vi_dot_add(sums[i], a, vi_broadcast_4(q));
            others[i] = vi_dot_add(k ? others[i] : vi_zero(), b, vi_broadcast_4(q + 16));
        }
    }
    UNROLL for (int i = 0; i < n_t; i++) sums[i] = vi_add(sums[i], others[i]);
#else
    const vi ones = vi_set(0x00010001), even = vi_set(0x00ff00ff);
    vi pairs[TILE_TOKENS]; /* of 16 bits: eight times two products fit them with codes up to 15, else four times */
    const int most = has_high(t) || t == TENSOR_MXFP4 ? 2 : 4;
    UNROLL for (int k = 0; k < 4; k++)
    {
        load_codes(t, codes, h, k, &a, &b);
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const uint8_t *q = x + (size_t)i * stride + 4 * k;
            if (is_wide(t)) {
                q += 4 * k;
                sums[i] = vi_add(sums[i], vi_madd(vi_and(a, even), vi_broadcast_4(q)));
                sums[i] = vi_add(sums[i], vi_madd(vi_odd_bytes(a), vi_broadcast_4(q + 4)));
                sums[i] = vi_add(sums[i], vi_madd(vi_and(b, even), vi_broadcast_4(q + 32)));
                sums[i] = vi_keep(vi_add(sums[i], vi_madd(vi_odd_bytes(b), vi_broadcast_4(q + 36))));
                continue;
            }
            const vi two = vi_add_16(vi_maddubs(a, vi_broadcast_4(q)), vi_maddubs(b, vi_broadcast_4(q + 16)));
            pairs[i] = vi_keep(k % most ? vi_add_16(pairs[i], two) : two);
            if (k % most == most - 1)
                sums[i] = vi_add(sums[i], vi_madd(pairs[i], ones));
        }
    }
#endif
}

/* Block b of a cell of n_blocks, VF_N of its rows, to the chain of each token; x: the first one's block. */
INLINE void add_block(enum tensor_type t, const uint8_t *cell, size_t n_blocks, uint32_t b, uint32_t half,
                      const uint8_t *x, int n_t, vf *chain)
{
    const size_t stride = act_bytes(t), d_at = act_d_at(t);
    const uint8_t *high = cell + n_blocks * code_bytes(t), *scales = high + (has_high(t) ? n_blocks * 64 : 0);
    vi sums[TILE_TOKENS];
    UNROLL for (int i = 0; i < n_t; i++) sums[i] =
        code_offset(t) ? vi_broadcast_4(x + (size_t)i * stride + d_at + 4) : vi_zero();
    dot_block(t, cell + b * code_bytes(t) + half * 32, high + b * 64 + half * 32, x, n_t, sums);
    const uint8_t *d_of_b = scales + b * scale_bytes(t) + half * scale_bytes(t) / 2;
    const vf d = load_scales(t, d_of_b);
    const vf m = has_min(t) ? load_scales(t, d_of_b + n_blocks * scale_bytes(t)) : vf_zero();
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const float *x_d = (const float *)(const void *)(x + (size_t)i * stride + d_at);
        chain[i] = vf_fma(vf_from_vi(sums[i]), vf_mul(d, vf_set(x_d[0])), chain[i]);
        if (has_min(t))
            chain[i] = vf_fma(m, vf_set(x_d[1]), chain[i]);
    }
}

/* ---- tiles ---- */

struct piece {
    const uint8_t *w, *ahead; /* ahead: what will be read next, or NULL */
    uint32_t n_blocks;
    bool first, last; /* of its segment */
    bool adds;        /* to y, which has the segments before */
};

INLINE void prefetch_lines(const uint8_t *p, size_t n_bytes)
{
    for (size_t at = 0; at < n_bytes; at += 64)
        _mm_prefetch((const char *)p + at, _MM_HINT_T1);
}

/* Blocks b, b + 4, .. of a piece into their chain. half: which VF_N rows. */
INLINE void add_chain(enum tensor_type t, const struct piece *p, uint32_t b, uint32_t half, const uint8_t *x, int n_t,
                      vf *chain)
{
    const size_t cell_bytes = LANES_CELL_BLOCKS * group_block_bytes(t);
    const uint32_t tail = p->n_blocks % LANES_CELL_BLOCKS, full = p->n_blocks / LANES_CELL_BLOCKS;
    const size_t ahead_bytes = group_block_bytes(t) / (LANES / VF_N);
    const uint8_t *cell = p->w, *ahead = p->ahead ? p->ahead + (4 * half + b) * full * ahead_bytes : NULL;
    for (uint32_t n = 0; n < full + (b < tail); n++) {
        if (ahead) {
            prefetch_lines(ahead, ahead_bytes);
            ahead += ahead_bytes;
        }
        add_block(t, cell, n < full ? LANES_CELL_BLOCKS : tail, b, half, x, n_t, chain);
        x += (size_t)n_t * act_bytes(t);
        cell += cell_bytes;
    }
}

#define STREAM_AHEAD_BYTES 4096 /* of few tokens */

/* The lines of a cell's block b. Into the first-level cache, so that the loads of codes, of their
 * high bits and of scales, which jump, miss nothing and what the second-level cache sees are lines in ascending order: it
 * reads on by itself then. Q8_0's loads hardly jump. */
INLINE void prefetch_stream(enum tensor_type t, const uint8_t *cell, uint32_t b)
{
    const size_t cell_bytes = LANES_CELL_BLOCKS * group_block_bytes(t);
    const size_t first = b * cell_bytes / 4 / 64 * 64, end = (b + 1) * cell_bytes / 4 / 64 * 64;
    const size_t most = cell_bytes / 4 / 64 * 64 + 64; /* a constant, whatever compilers know of b */
    UNROLL for (size_t at = 0; at < most; at += 64)
    {
        if (first + at >= end)
            continue;
        if (t == TENSOR_Q8_0)
            _mm_prefetch((const char *)cell + STREAM_AHEAD_BYTES + first + at, _MM_HINT_T1);
        else
            _mm_prefetch((const char *)cell + STREAM_AHEAD_BYTES + first + at, _MM_HINT_T0);
    }
}

/* Few tokens: all chains at once, so that the group is read from its beginning to its end. */
INLINE void tile_of_few(enum tensor_type t, const struct piece *p, const uint8_t *x, int n_t, vf *state, float *y,
                        size_t y_stride)
{
    const size_t token_bytes = (size_t)n_t * act_bytes(t);
    const uint8_t *cell = p->w;
    vf chain[LANES / VF_N][4][FEW_TOKENS];
    UNROLL for (int b = 0; b < 4 * LANES / VF_N; b++)
    {
        UNROLL for (int i = 0; i < n_t; i++) chain[b / 4][b % 4][i] = p->first ? vf_zero() : state[b * TILE_TOKENS + i];
    }
    for (uint32_t left = p->n_blocks, n_blocks; left; left -= n_blocks, x += token_bytes) {
        n_blocks = left < LANES_CELL_BLOCKS ? left : LANES_CELL_BLOCKS;
        UNROLL for (uint32_t b = 0; b < 4; b++)
        {
            if (b >= n_blocks)
                continue;
            prefetch_stream(t, cell, b);
            UNROLL for (uint32_t half = 0; half < LANES / VF_N; half++)
                add_block(t, cell, n_blocks, b, half, x + b * SEGMENT_CELLS * token_bytes, n_t, chain[half][b]);
        }
        cell += LANES_CELL_BLOCKS * group_block_bytes(t);
    }
    UNROLL for (int half = 0; half < LANES / VF_N; half++, state += 4 * TILE_TOKENS)
    {
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const vf *c = &chain[half][0][i];
            float *out = y + (size_t)i * y_stride + half * VF_N;
            const vf sum = vf_add(vf_add(c[0], c[FEW_TOKENS]), vf_add(c[2 * FEW_TOKENS], c[3 * FEW_TOKENS]));
            UNROLL for (int b = 0; b < 4; b++) state[b * TILE_TOKENS + i] = c[b * FEW_TOKENS];
            if (p->last)
                vf_store(out, vf_add(p->adds ? vf_load(out) : vf_zero(), sum));
        }
    }
}

/* x: the tile's activations from the piece's first cell on; state: its chains, [LANES / VF_N][4][TILE_TOKENS]. */
INLINE void tile(enum tensor_type t, const struct piece *p, const uint8_t *x, int n_t, vf *state, float *y,
                 size_t y_stride)
{
    for (uint32_t half = 0; half < LANES / VF_N; half++, state += 4 * TILE_TOKENS) {
        for (uint32_t b = 0; b < 4; b++) {
            vf chain[TILE_TOKENS], *rest = state + b * TILE_TOKENS;
            UNROLL for (int i = 0; i < n_t; i++) chain[i] = p->first ? vf_zero() : rest[i];
            add_chain(t, p, b, half, x + b * SEGMENT_CELLS * (size_t)n_t * act_bytes(t), n_t, chain);
            UNROLL for (int i = 0; i < n_t; i++) rest[i] = chain[i];
        }
        for (int i = 0; p->last && i < n_t; i++) {
            const vf *s = state + i;
            float *out = y + (size_t)i * y_stride + half * VF_N;
            const vf sum = vf_add(vf_add(s[0], s[TILE_TOKENS]), vf_add(s[2 * TILE_TOKENS], s[3 * TILE_TOKENS]));
            vf_store(out, vf_add(p->adds ? vf_load(out) : vf_zero(), sum));
        }
    }
}

INLINE void tile_any(enum tensor_type t, const struct piece *p, const uint8_t *x, uint32_t n_t, vf *state, float *y,
                     size_t y_stride)
{
    switch (n_t) {
#define CASE(which, n)                                                                                                 \
    case n:                                                                                                            \
        which(t, p, x, n, state, y, y_stride);                                                                         \
        break;
#if defined __AVX512F__
        CASE(tile_of_few, 1)
        CASE(tile_of_few, 2)
        CASE(tile_of_few, 3)
        CASE(tile, 4)
        CASE(tile, 5)
        CASE(tile, 6)
        CASE(tile, 7)
        CASE(tile, 8)
#else
        CASE(tile_of_few, 1)
        CASE(tile, 2)
        CASE(tile, 3)
        CASE(tile, 4)
#endif
#undef CASE
    }
}

/* ---- all rows ---- */

/* One segment of 16 rows, n tokens in n_tiles tiles. */
INLINE void segment_group(enum tensor_type t, const struct matmul_args *a, struct piece p, const uint8_t *next,
                          const uint8_t *x, uint32_t n_blocks, uint32_t n, uint32_t n_tiles, vf *state, float *y)
{
    for (uint32_t at = 0; at < n_blocks; at += p.n_blocks) {
        const uint32_t left = n_blocks - at, most = PIECE_CELLS * LANES_CELL_BLOCKS;
        p.n_blocks = left < most ? left : most;
        p.first = at == 0;
        p.last = at + p.n_blocks == n_blocks;
        const uint8_t *after = p.w + p.n_blocks * group_block_bytes(t);
        p.ahead = p.last ? next : after;
        for (uint32_t i = 0; i < n_tiles; i++) {
            const uint32_t first = tile_first(i, n_tiles, n), n_t = tile_first(i + 1, n_tiles, n) - first;
            tile_any(t, &p, x + first * act_token_bytes(t) + at / LANES_CELL_BLOCKS * n_t * act_bytes(t), n_t,
                     state + i * 4 * TILE_TOKENS * (LANES / VF_N), y + first * a->y_stride, a->y_stride);
            p.ahead = NULL;
        }
        p.w = after;
    }
}

/* Segments [at, at + n_blocks) of all rows with n tokens. */
INLINE void multiply_segments(enum tensor_type t, const struct matmul_args *a, uint32_t at, uint32_t n_blocks,
                              uint32_t token, uint32_t n)
{
    const uint32_t n_tiles = (n + TILE_TOKENS - 1) / TILE_TOKENS;
    const size_t group_bytes = LANES * a->w_row_bytes, x_bytes = n * act_token_bytes(t);
    vf *state = a->scratch;
    uint8_t *x = (uint8_t *)a->scratch + sizeof(float) * LANES * 4 * BLOCK_TOKENS;
    for (uint32_t s = 0, rest; s < n_blocks; s += SEGMENT_BLOCKS) {
        rest = n_blocks - s < SEGMENT_BLOCKS ? n_blocks - s : SEGMENT_BLOCKS;
        act_lay_out(t, (const uint8_t *)a->x + token * a->x_row_bytes + (at + s) / 4 * sizeof(struct act_q8),
                    a->x_row_bytes, (rest + 3) / 4, n, n_tiles, x + s / SEGMENT_BLOCKS * x_bytes);
    }
    const uint8_t *group = (const uint8_t *)a->w + at * group_block_bytes(t);
    for (uint32_t row = 0; row < a->n_rows; row += LANES, group += group_bytes) {
        for (uint32_t s = 0; s < n_blocks; s += SEGMENT_BLOCKS) {
            const uint32_t rest = n_blocks - s < SEGMENT_BLOCKS ? n_blocks - s : SEGMENT_BLOCKS;
            const struct piece p = {.w = group + s * group_block_bytes(t), .adds = at + s > 0};
            const uint8_t *next = s + rest < n_blocks       ? p.w + rest * group_block_bytes(t)
                                  : row + LANES < a->n_rows ? group + group_bytes
                                                            : NULL;
            segment_group(t, a, p, next, x + s / SEGMENT_BLOCKS * x_bytes, rest, n, n_tiles, state,
                          a->y + token * a->y_stride + row);
        }
    }
}

/* Of few tokens, all segments of a group before the next group, so that memory is read in its order. */
INLINE void matmul_lanes(enum tensor_type t, const struct matmul_args *a)
{
    const uint32_t n_blocks = a->n_cols / 32, n_segments = (n_blocks + SEGMENT_BLOCKS - 1) / SEGMENT_BLOCKS;
    const uint32_t step = n_segments * a->n_tokens * act_token_bytes(t) <= FEW_BYTES ? n_blocks : SEGMENT_BLOCKS;
    for (uint32_t at = 0; at < n_blocks; at += step) {
        const uint32_t n = n_blocks - at < step ? n_blocks - at : step;
        for (uint32_t token = 0; token < a->n_tokens; token += BLOCK_TOKENS) {
            const uint32_t rest = a->n_tokens - token;
            multiply_segments(t, a, at, n, token, rest < BLOCK_TOKENS ? rest : BLOCK_TOKENS);
        }
    }
}

#define MATMUL_LANES(name, type)                                                                                       \
    static void matmul_lanes_##name(const struct matmul_args *a)                                                       \
    {                                                                                                                  \
        matmul_lanes(type, a);                                                                                         \
    }
MATMUL_LANES(q8_0, TENSOR_Q8_0)
MATMUL_LANES(q4_0, TENSOR_Q4_0)
MATMUL_LANES(q4_1, TENSOR_Q4_1)
MATMUL_LANES(q5_0, TENSOR_Q5_0)
MATMUL_LANES(q5_1, TENSOR_Q5_1)
MATMUL_LANES(iq4_nl, TENSOR_IQ4_NL)
MATMUL_LANES(mxfp4, TENSOR_MXFP4)

static void set_lanes_blocks(struct kernels *k)
{
    k->matmul_lanes[TENSOR_Q8_0] = matmul_lanes_q8_0;
    k->matmul_lanes[TENSOR_Q4_0] = matmul_lanes_q4_0;
    k->matmul_lanes[TENSOR_Q4_1] = matmul_lanes_q4_1;
    k->matmul_lanes[TENSOR_Q5_0] = matmul_lanes_q5_0;
    k->matmul_lanes[TENSOR_Q5_1] = matmul_lanes_q5_1;
    k->matmul_lanes[TENSOR_IQ4_NL] = matmul_lanes_iq4_nl;
    k->matmul_lanes[TENSOR_MXFP4] = matmul_lanes_mxfp4;
}
