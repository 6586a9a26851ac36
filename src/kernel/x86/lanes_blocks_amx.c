/* Products with blocks of 32 in lanes through AMX tiles, for the tokens of a batch.
 *
 * One tile product is one block of 16 rows with up to 16 tokens. The tile leaves exact integers, which are converted,
 * scaled and added to the block's chain; so the bits are ref/'s (kernel.h). That bounds the speed: while tiles are in use,
 * only one vector unit multiplies and adds floats. bfloat16 codes would need no conversion, but twice the loads: slower.
 *
 * The columns of a segment go by chain after chain, four blocks of a chain at a time; sums of four are scaled while the
 * tiles work on the next. 8-bit codes are read where they lie in memory; others are unpacked, 16 KB that stay in the
 * first-level cache while all tokens pass by. Activations are laid out for that once a segment.
 */
#include "kernel/x86/lanes_amx.h"
#include "kernel/x86/lanes_block_codes.h"

#define MIN_TOKENS 16
#define CHAIN_BLOCKS (SEGMENT_COLS / ACT_Q8_GROUP)
#define STEP 4 /* blocks of a chain */

/* What comes of the sum of a block's activations: what the offset of codes adds, negative; or the factor of the min. */
union of_sum {
    int32_t start;
    float of_min;
};

struct scratch {
    _Alignas(64) uint8_t x[BLOCK_TOKENS * SEGMENT_COLS];     /* [tile][chain][block][token][32] */
    float x_d[BLOCK_TOKENS * SEGMENT_COLS / 32];             /* [tile][chain][step][token][STEP] */
    union of_sum x_of_sum[BLOCK_TOKENS * SEGMENT_COLS / 32]; /* likewise */
    uint8_t w[CHAIN_BLOCKS][8][64];
    vf d[CHAIN_BLOCKS], min[CHAIN_BLOCKS];
    vi sums[2][STEP][TILE_ROWS];
    vf chain[MAX_TILES][4][TILE_ROWS];
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* A segment of a block of tokens, or of those the part with 16 rows. */
struct part {
    struct scratch *s;
    struct token_tiles tokens;
    uint32_t n_blocks;
    const uint8_t *w, *ahead; /* ahead: read next, or NULL */
};

/* Whether codes go from memory into the tiles. */
INLINE bool is_direct(enum tensor_type t)
{
    return t == TENSOR_Q8_0;
}

/* ---- activations ---- */

/* Where the numbers of a tile's chain begin, in blocks. */
INLINE size_t chain_at(const struct part *p, uint32_t tile, uint32_t chain)
{
    return ((size_t)tile * 4 + chain) * CHAIN_BLOCKS * p->tokens.width;
}

/* x: of the first token. Chains are filled up to whole steps with zeros. */
INLINE void lay_out(enum tensor_type t, const struct part *p, const uint8_t *x, size_t x_row_bytes)
{
    static const struct act_q8 zeros;
    const size_t width = p->tokens.width, n_cells = (p->n_blocks + 3) / 4;
    for (uint32_t i = 0; i < p->tokens.count * width; i++) {
        const uint32_t tile = i / (uint32_t)width, token = i % (uint32_t)width;
        const uint8_t *row = x + (tile_first(&p->tokens, tile) + token) * x_row_bytes;
        for (size_t n = 0; n < (n_cells + STEP - 1) / STEP * STEP; n++) {
            const struct act_q8 *g = n < n_cells ? (const struct act_q8 *)(const void *)row + n : &zeros;
            for (uint32_t b = 0; b < 4; b++) {
                const size_t at = chain_at(p, tile, b), d_at = at + n / STEP * STEP * width + token * STEP + n % STEP;
                memcpy(p->s->x + (at + n * width + token) * 32, g->q + 16 * b, 16);
                memcpy(p->s->x + (at + n * width + token) * 32 + 16, g->q + 64 + 16 * b, 16);
                p->s->x_d[d_at] = g->d[b];
                if (has_min(t))
                    p->s->x_of_sum[d_at].of_min = g->d[b] * (float)g->sum[b];
                else
                    p->s->x_of_sum[d_at].start = -code_offset(t) * g->sum[b];
            }
        }
    }
}

/* ---- weights ---- */

INLINE void unpack_codes(enum tensor_type t, const uint8_t *codes, const uint8_t *high, uint8_t out[8][64])
{
    const vi h = has_high(t) ? vi_load(high) : vi_zero();
    UNROLL for (int k = 0; k < 4; k++)
    {
        vi a, b;
        load_codes(t, codes, h, k, &a, &b);
        vi_store(out[k], a);
        vi_store(out[k + 4], b);
    }
}

/* Blocks b, b + 4, .. of 16 rows, n of them. */
INLINE void unpack_chain(enum tensor_type t, const struct part *p, uint32_t b, uint32_t n)
{
    struct scratch *s = p->s;
    const uint8_t *cell = p->w;
    for (uint32_t i = 0; i < n; i++, cell += LANES_CELL_BLOCKS * group_block_bytes(t)) {
        const uint32_t left = p->n_blocks - i * 4, n_blocks = left < 4 ? left : 4;
        const uint8_t *high = cell + n_blocks * code_bytes(t), *scales = high + (has_high(t) ? n_blocks * 64 : 0);
        if (!is_direct(t))
            unpack_codes(t, cell + b * code_bytes(t), high + 64 * b, s->w[i]);
        s->d[i] = load_scales(t, scales + b * scale_bytes(t));
        if (has_min(t))
            s->min[i] = load_scales(t, scales + (n_blocks + b) * scale_bytes(t));
    }
    for (uint32_t i = n; i % STEP; i++)
        s->d[i] = s->min[i] = vf_zero();
}

/* ---- products ---- */

#define DOT_BLOCK(c, a, b, i)                                                                                          \
    do {                                                                                                               \
        tile_load(a, x + (i)*32 * width, 32);                                                                          \
        tile_load(b, w + ((i) < n ? (i) : n - 1) * w_step, 64);                                                        \
        tile_zero(c);                                                                                                  \
        tile_dot_s8u8(c, a, b);                                                                                        \
        for (size_t line = 0; line < ahead_bytes; line += 64)                                                          \
            _mm_prefetch((const char *)p->ahead + line, _MM_HINT_T1);                                                  \
        if (ahead_bytes)                                                                                               \
            p->ahead += ahead_bytes;                                                                                   \
    } while (0)

/* Scales the sums of a step's blocks, whose scales begin at d and min, with the tokens' x_d and x_of_sum. */
INLINE void add_step(enum tensor_type t, const vi sums[STEP][TILE_ROWS], const vf *w_d, const vf *w_min,
                     const float *x_d, const union of_sum *x_of_sum, size_t width, vf *chain)
{
    const vf d[STEP] = {w_d[0], w_d[1], w_d[2], w_d[3]}, min[STEP] = {w_min[0], w_min[1], w_min[2], w_min[3]};
    for (size_t i = 0; i < width; i++, x_d += STEP, x_of_sum += STEP) {
        vf c = chain[i];
        UNROLL for (int k = 0; k < STEP; k++)
        {
            const vi sum = code_offset(t) ? vi_add(sums[k][i], vi_set(x_of_sum[k].start)) : sums[k][i];
            c = vf_fma(vf_from_vi(sum), vf_mul(d[k], vf_set(x_d[k])), c);
            if (has_min(t))
                c = vf_fma(min[k], vf_set(x_of_sum[k].of_min), c);
        }
        chain[i] = c;
    }
}

/* The n blocks of chain b with a tile of tokens. */
INLINE void walk_chain(enum tensor_type t, struct part *p, uint32_t tile, uint32_t b, uint32_t n)
{
    struct scratch *s = p->s;
    const size_t width = p->tokens.width, at = chain_at(p, tile, b);
    const uint8_t *x = s->x + at * 32, *w = is_direct(t) ? p->w + b * code_bytes(t) : s->w[0][0];
    const size_t w_step = is_direct(t) ? LANES_CELL_BLOCKS * group_block_bytes(t) : sizeof s->w[0];
    const size_t ahead_bytes = p->ahead && !tile ? group_block_bytes(t) : 0;
    vf *chain = s->chain[tile][b];
    for (size_t i = 0; i < n + STEP; i += STEP) {
        if (i < n) {
            DOT_BLOCK(TILE_C0, TILE_A0, TILE_B0, i);
            DOT_BLOCK(TILE_C1, TILE_A1, TILE_B1, i + 1);
            DOT_BLOCK(TILE_C2, TILE_A0, TILE_B0, i + 2);
            DOT_BLOCK(TILE_C3, TILE_A1, TILE_B1, i + 3);
        }
        if (i) {
            const size_t last = i - STEP;
            add_step(t, s->sums[last / STEP % 2], s->d + last, s->min + last, s->x_d + at + last * width,
                     s->x_of_sum + at + last * width, width, chain);
        }
        if (i < n) {
            vi(*sums)[TILE_ROWS] = s->sums[i / STEP % 2];
            tile_store(TILE_C0, sums[0], 64);
            tile_store(TILE_C1, sums[1], 64);
            tile_store(TILE_C2, sums[2], 64);
            tile_store(TILE_C3, sums[3], 64);
        }
    }
}

/* 16 rows of a segment. */
INLINE void multiply_group(enum tensor_type t, struct part p, bool adds, float *y, size_t y_stride)
{
    memset(p.s->chain, 0, p.tokens.count * sizeof p.s->chain[0]);
    for (uint32_t b = 0; b < 4 && b < p.n_blocks; b++) {
        const uint32_t n = (p.n_blocks - b + 3) / 4;
        unpack_chain(t, &p, b, n);
        for (uint32_t tile = 0; tile < p.tokens.count; tile++)
            walk_chain(t, &p, tile, b, n);
    }
    for (uint32_t tile = 0; tile < p.tokens.count; tile++) {
        const vf(*c)[TILE_ROWS] = p.s->chain[tile];
        for (uint32_t i = tile_twice(&p.tokens, tile); i < p.tokens.width; i++) {
            float *out = y + (tile_first(&p.tokens, tile) + i) * y_stride;
            const vf sum = vf_add(vf_add(c[0][i], c[1][i]), vf_add(c[2][i], c[3][i]));
            vf_store(out, vf_add(adds ? vf_load(out) : vf_zero(), sum));
        }
    }
}

INLINE void matmul_tiles(enum tensor_type t, const struct matmul_args *a)
{
    const uint32_t n_blocks = a->n_cols / 32, segment_blocks = SEGMENT_COLS / 32;
    struct part p = {.s = a->scratch};
    for (uint32_t token = 0; token < a->n_tokens; token += p.tokens.n) {
        p.tokens = token_tiles(a->n_tokens - token);
        const struct tile_config shapes = tile_shapes(p.tokens.width, 32, LANES);
        tile_begin(&shapes);
        for (uint32_t at = 0; at < n_blocks; at += segment_blocks) {
            p.n_blocks = n_blocks - at < segment_blocks ? n_blocks - at : segment_blocks;
            lay_out(t, &p, (const uint8_t *)a->x + token * a->x_row_bytes + at / 4 * sizeof(struct act_q8),
                    a->x_row_bytes);
            p.w = (const uint8_t *)a->w + at * group_block_bytes(t);
            for (uint32_t row = 0; row < a->n_rows; row += LANES, p.w += LANES * a->w_row_bytes) {
                p.ahead = row + LANES < a->n_rows ? p.w + LANES * a->w_row_bytes : NULL;
                multiply_group(t, p, at > 0, a->y + token * a->y_stride + row, a->y_stride);
            }
        }
        tile_end();
    }
}

TILE_PRODUCT(q8_0, TENSOR_Q8_0, MIN_TOKENS)
TILE_PRODUCT(q4_0, TENSOR_Q4_0, MIN_TOKENS)
TILE_PRODUCT(q4_1, TENSOR_Q4_1, MIN_TOKENS)
TILE_PRODUCT(q5_0, TENSOR_Q5_0, MIN_TOKENS)
TILE_PRODUCT(q5_1, TENSOR_Q5_1, MIN_TOKENS)
TILE_PRODUCT(iq4_nl, TENSOR_IQ4_NL, MIN_TOKENS)
TILE_PRODUCT(mxfp4, TENSOR_MXFP4, MIN_TOKENS)

void AMX_NAME(x86_lanes_blocks)(struct kernels *k)
{
    set_q8_0(k);
    set_q4_0(k);
    set_q4_1(k);
    set_q5_0(k);
    set_q5_1(k);
    set_iq4_nl(k);
    set_mxfp4(k);
}
