/* Products with super-blocks in lanes through AMX tiles, for the tokens of a batch.
 *
 * Codes times the scales of their sub-blocks are two bytes, or one (Q2_K, Q3_K); so two tiles sum a whole super-block of 16
 * rows with up to 16 tokens, exactly in integers, and floats begin once in 256 columns. Codes of Q4_K and Q5_K times three
 * bits of a scale stay in their byte, so that words of two codes are multiplied at once; the other three bits of the scale
 * give the second tile. Activations are the first operand as they were packed.
 *
 * Mins meet the sums of activations: both as bfloat16, the sums cut into a multiple of 128 and a rest that have few enough
 * bits, so that one bfloat16 tile product gives the float sum exactly: all its terms and sums are integers below 2^24. So
 * the bits are ref/'s (kernel.h).
 *
 * The first tile of tokens of a super-block unpacks the next one; every tile scales the sums of the one before.
 */
#define HAS_DOT 0
#include "kernel/x86/lanes_amx.h"
#include "kernel/x86/lanes_super_codes.h"

#define X_BYTES ((size_t)1 << 20) /* activations that go through all rows: half of a second-level cache */
#define MAX_SUPERS (X_BYTES / sizeof(struct act_q8k))
#define AHEAD_SUPERS 3

#define TILE_LOW TILE_C0
#define TILE_HIGH TILE_C1
#define TILE_MINS TILE_C2
#define TILE_X TILE_A0
#define TILE_X_SUMS TILE_A1
#define TILE_W TILE_B0
#define TILE_W_HIGH TILE_C3
#define TILE_W_MINS TILE_B1

/* 16 rows of a super-block. */
struct panel {
    uint8_t low[64][64], high[64][64];
    uint8_t mins[16][64]; /* bfloat16, twice */
    vf d, minus_dmin;
};

/* What leaves the tiles. */
struct sums {
    int32_t low[TILE_ROWS][LANES], high[TILE_ROWS][LANES];
    float mins[TILE_ROWS][LANES];
};

struct scratch {
    _Alignas(64) struct panel panel[2];
    struct sums sums[2];
    vf acc[MAX_TILES][TILE_ROWS];
    float x_d[MAX_SUPERS];          /* [tile][super-block][token] */
    uint8_t x_sums[MAX_SUPERS][64]; /* bfloat16 */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* Sums that wait to be scaled. */
struct pending {
    const struct sums *sums;
    const float *x_d;
    vf d, minus_dmin, *acc;
};

/* A piece of the columns of a block of tokens. */
struct part {
    struct scratch *s;
    struct token_tiles tokens;
    uint32_t n_supers;
    const uint8_t *x;
    size_t x_row_bytes;
};

/* ---- types ---- */

INLINE bool one_byte(enum tensor_type t)
{
    return t == TENSOR_Q2_K || t == TENSOR_Q3_K;
}

/* The high bytes count 2^this times. */
INLINE int high_shift(enum tensor_type t)
{
    return t == TENSOR_Q4_K || t == TENSOR_Q5_K ? 3 : 8;
}

/* Whether the next super-block is unpacked between the products; else after them, which is faster where it takes long. */
INLINE bool unpacks_between(enum tensor_type t)
{
    return has_mins(t);
}

/* ---- activations ---- */

/* The sums of a super-block's activations as bfloat16: sums modulo 128, then the rest. */
INLINE __m512i split_sums(enum tensor_type t, const int16_t sum[16])
{
    const __m256i words = _mm256_loadu_si256((const void *)sum);
    const __m512i all = is_wide(t) ? _mm512_castsi256_si512(_mm256_madd_epi16(words, _mm256_set1_epi16(1)))
                                   : _mm512_cvtepi16_epi32(words);
    const __m512i low = vi_and(all, vi_set(127)), high = vi_sub(all, low);
    const __m512i low_bits = _mm512_castps_si512(vf_from_vi(low)), high_bits = _mm512_castps_si512(vf_from_vi(high));
    return vi_or(vi_shift_right(low_bits, 16), high_bits);
}

INLINE void lay_out(enum tensor_type t, const struct part *p)
{
    size_t at = 0;
    for (uint32_t tile = 0; tile < p->tokens.count; tile++) {
        for (uint32_t b = 0; b < p->n_supers; b++) {
            for (uint32_t i = 0; i < p->tokens.width; i++, at++) {
                const uint8_t *row = p->x + (tile_first(&p->tokens, tile) + i) * p->x_row_bytes;
                const struct act_q8k *g = (const struct act_q8k *)(const void *)row + b;
                p->s->x_d[at] = g->d;
                if (has_mins(t))
                    vi_store(p->s->x_sums[at], split_sums(t, g->sum));
            }
        }
    }
}

/* ---- weights ---- */

/* Codes times the words of a factor, in their bytes. */
INLINE void scale_codes(enum tensor_type t, vi codes, vi factor, uint8_t *low, uint8_t *high)
{
    const vi even_bytes = vi_set(0x00ff00ff);
    if (t == TENSOR_Q2_K) {
        vi_store(low, _mm512_mullo_epi16(codes, factor));
    } else if (t == TENSOR_Q3_K) {
        codes = vi_sub_8(codes, bytes(4));
        const vi even = _mm512_mullo_epi16(vi_and(codes, even_bytes), factor);
        const vi odd = _mm512_mullo_epi16(_mm512_andnot_si512(even_bytes, codes), factor);
        vi_store(low, vi_and_or(even, even_bytes, odd));
    } else if (has_mins(t)) {
        vi_store(low, _mm512_mullo_epi16(codes, vi_and(factor, vi_set(0x00070007))));
        vi_store(high, _mm512_mullo_epi16(codes, _mm512_srli_epi16(factor, 3)));
    } else {
        if (codes_signed(t))
            codes = _mm512_xor_si512(codes, bytes(128));
        const vi offset = _mm512_slli_epi16(factor, codes_signed(t) ? 7 : 5), odd_factor = _mm512_slli_epi16(factor, 8);
        const vi even = _mm512_sub_epi16(vi_maddubs(codes, vi_and(factor, even_bytes)), offset);
        const vi odd = _mm512_sub_epi16(vi_maddubs(codes, odd_factor), offset);
        vi_store(low, _mm512_ternarylogic_epi32(even_bytes, even, _mm512_slli_epi16(odd, 8), 0xca));
        vi_store(high, _mm512_ternarylogic_epi32(even_bytes, _mm512_srli_epi16(even, 8), odd, 0xca));
    }
}

/* Columns [64 v, 64 v + 64); of the cell that will be read `ahead`, or NULL, a quarter is asked for. */
INLINE void unpack_quarter(enum tensor_type t, const uint8_t *cell, const struct scale_bytes *scales, int v,
                           struct panel *out, const uint8_t *ahead)
{
    const size_t ahead_bytes = LANES * super_bytes(t) / 4;
    for (size_t at = 0; ahead && at < ahead_bytes; at += 64)
        _mm_prefetch((const char *)ahead + (size_t)v * ahead_bytes + at, _MM_HINT_T1);
    const int units_of_scale = 64 / scales_of(t);
    vi factor = vi_zero();
    __asm__("" : "+r"(out), "+r"(cell)); /* or compilers keep the address of every unit, in memory */
    UNROLL for (int unit = 16 * v; unit < 16 * v + 16; unit++)
    {
        if (unit % units_of_scale == 0)
            factor = scale_of(t, scales, unit / units_of_scale);
        /* of Q3_K, -32 * -4 = 128 would not fit a byte: negative, like d */
        if (t == TENSOR_Q3_K && unit % units_of_scale == 0)
            factor = _mm512_sub_epi16(vi_zero(), factor);
        scale_codes(t, codes(t, cell, unit / 8, unit % 8), factor, out->low[unit], out->high[unit]);
    }
}

/* What is once for a super-block. */
INLINE void unpack_floats(enum tensor_type t, const uint8_t *cell, const struct scale_bytes *scales, struct panel *out)
{
    const int n_mins = has_mins(t) ? scales_of(t) : 0;
    load_d(t, cell, &out->d, &out->minus_dmin);
    if (t == TENSOR_Q3_K)
        out->d = vf_mul(out->d, vf_set(-1));
    UNROLL for (int s = 0; s < n_mins; s++)
    {
        const vi min = vi_and(shift(scales->min[s / 4], s % 4 * 8), vi_set(255));
        const vi bits = _mm512_castps_si512(vf_from_vi(min));
        vi_store(out->mins[s], vi_or(bits, vi_shift_right(bits, 16)));
    }
}

INLINE void unpack(enum tensor_type t, const uint8_t *cell, struct panel *out)
{
    struct scale_bytes scales;
    unpack_scales(t, cell, 0, &scales);
    UNROLL for (int v = 0; v < 4; v++) unpack_quarter(t, cell, &scales, v, out, NULL);
    unpack_floats(t, cell, &scales, out);
}

/* ---- products ---- */

/* Tokens [first, end) of a tile. */
INLINE void add_sums(enum tensor_type t, struct pending p, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        vi sum = _mm512_load_si512(p.sums->low[i]);
        if (!one_byte(t))
            sum = vi_add(sum, vi_shift_left(_mm512_load_si512(p.sums->high[i]), high_shift(t)));
        const vf x_d = vf_set(p.x_d[i]);
        vf acc = vf_fma(vf_from_vi(sum), vf_mul(p.d, x_d), p.acc[i]);
        if (has_mins(t))
            acc = vf_fma(vf_load(p.sums->mins[i]), vf_mul(p.minus_dmin, x_d), acc);
        p.acc[i] = acc;
    }
}

#define DOT_QUARTER(t, panel, x, v, stride)                                                                            \
    do {                                                                                                               \
        tile_load(TILE_X, x + 64 * v, stride);                                                                         \
        tile_load(TILE_W, panel->low[16 * v], 64);                                                                     \
        if (one_byte(t))                                                                                               \
            tile_dot_s8(TILE_LOW, TILE_X, TILE_W);                                                                     \
        else                                                                                                           \
            tile_dot_s8u8(TILE_LOW, TILE_X, TILE_W);                                                                   \
        if (one_byte(t))                                                                                               \
            break;                                                                                                     \
        tile_load(TILE_W_HIGH, panel->high[16 * v], 64);                                                               \
        if (has_mins(t))                                                                                               \
            tile_dot_s8u8(TILE_HIGH, TILE_X, TILE_W_HIGH);                                                             \
        else                                                                                                           \
            tile_dot_s8(TILE_HIGH, TILE_X, TILE_W_HIGH);                                                               \
    } while (0)

/* One super-block with a tile of tokens, whose sums go to `out`. Between its products, the last sums are scaled and the
 * super-block at `next`, if there is one, is unpacked. */
INLINE void multiply(enum tensor_type t, const struct panel *w, const uint8_t *x, size_t x_row_bytes,
                     const uint8_t *x_sums, uint32_t width, struct sums *out, struct pending last, const uint8_t *next,
                     struct panel *next_panel, const uint8_t *ahead)
{
    __asm__("" : "+r"(w), "+r"(x), "+r"(next), "+r"(next_panel), "+r"(out));
    struct scale_bytes scales;
    if (next)
        unpack_scales(t, next, 0, &scales);
    tile_zero(TILE_LOW);
    if (!one_byte(t))
        tile_zero(TILE_HIGH);
    if (has_mins(t)) {
        tile_zero(TILE_MINS);
        tile_load(TILE_X_SUMS, x_sums, 64);
        tile_load(TILE_W_MINS, w->mins, 64);
        tile_dot_bf16(TILE_MINS, TILE_X_SUMS, TILE_W_MINS);
    }
    const bool between = unpacks_between(t);
    UNROLL for (int v = 0; v < 4; v++)
    {
        DOT_QUARTER(t, w, x, v, x_row_bytes);
        if (next && between)
            unpack_quarter(t, next, &scales, v, next_panel, ahead);
        if (last.sums && between)
            add_sums(t, last, (uint32_t)v * width / 4, (uint32_t)(v + 1) * width / 4);
    }
    UNROLL for (int v = 0; v < 4; v++)
    {
        if (next && !between)
            unpack_quarter(t, next, &scales, v, next_panel, ahead);
    }
    if (last.sums && !between)
        add_sums(t, last, 0, width);
    if (next)
        unpack_floats(t, next, &scales, next_panel);
    tile_store(TILE_LOW, out->low, 64);
    if (!one_byte(t))
        tile_store(TILE_HIGH, out->high, 64);
    if (has_mins(t))
        tile_store(TILE_MINS, out->mins, 64);
}

/* 16 rows. Super-block b is in panel (parity + b) % 2; the first one of the next 16 rows is unpacked as well. */
INLINE void multiply_group(enum tensor_type t, const struct part *p, const uint8_t *cell, const uint8_t *next_group,
                           uint32_t parity)
{
    struct scratch *s = p->s;
    struct pending last = {0};
    const size_t cell_bytes = LANES * super_bytes(t), width = p->tokens.width;
    const uint32_t n = p->n_supers;
    uint32_t n_items = 0;
    for (uint32_t b = 0; b < n; b++) {
        const struct panel *w = &s->panel[(parity + b) % 2];
        const uint8_t *next = b + 1 < n ? cell + (b + 1) * cell_bytes : next_group;
        const uint8_t *ahead = b + AHEAD_SUPERS < n ? cell + (b + AHEAD_SUPERS) * cell_bytes
                               : next_group         ? next_group + (b + AHEAD_SUPERS - n) * cell_bytes
                                                    : NULL;
        for (uint32_t tile = 0; tile < p->tokens.count; tile++, n_items++) {
            const size_t at = ((size_t)tile * n + b) * width;
            const uint8_t *x = p->x + tile_first(&p->tokens, tile) * p->x_row_bytes + b * sizeof(struct act_q8k);
            struct sums *sums = &s->sums[n_items % 2];
            if (tile)
                multiply(t, w, x, p->x_row_bytes, s->x_sums[at], (uint32_t)width, sums, last, NULL, NULL, NULL);
            else
                multiply(t, w, x, p->x_row_bytes, s->x_sums[at], (uint32_t)width, sums, last, next,
                         &s->panel[(parity + b + 1) % 2], ahead);
            last = (struct pending){sums, s->x_d + at, w->d, w->minus_dmin, s->acc[tile]};
        }
    }
    add_sums(t, last, 0, (uint32_t)width);
}

/* A piece of all rows. */
INLINE void multiply_rows(enum tensor_type t, const struct part *p, const uint8_t *w, size_t w_row_bytes,
                          uint32_t n_rows, bool adds, float *y, size_t y_stride)
{
    const struct token_tiles *tokens = &p->tokens;
    uint32_t parity = 0;
    unpack(t, w, &p->s->panel[0]);
    for (uint32_t row = 0; row < n_rows; row += LANES, y += LANES, parity += p->n_supers) {
        const uint8_t *next = row + LANES < n_rows ? w + LANES * w_row_bytes : NULL;
        for (uint32_t tile = 0; tile < tokens->count; tile++) {
            const float *from = y + tile_first(tokens, tile) * y_stride;
            for (uint32_t i = 0; i < tokens->width; i++)
                p->s->acc[tile][i] = adds ? vf_load(from + i * y_stride) : vf_zero();
        }
        multiply_group(t, p, w, next, parity);
        for (uint32_t tile = 0; tile < tokens->count; tile++) {
            float *to = y + tile_first(tokens, tile) * y_stride;
            for (uint32_t i = tile_twice(tokens, tile); i < tokens->width; i++)
                vf_store(to + i * y_stride, p->s->acc[tile][i]);
        }
        w = next;
    }
}

INLINE void matmul_tiles(enum tensor_type t, const struct matmul_args *a)
{
    const uint32_t n_supers = a->n_cols / 256;
    struct part p = {.s = a->scratch, .x_row_bytes = a->x_row_bytes};
    for (uint32_t token = 0; token < a->n_tokens; token += p.tokens.n) {
        p.tokens = token_tiles(a->n_tokens - token);
        struct tile_config shapes = tile_shapes(p.tokens.width, 64, LANES);
        shapes.rows[TILE_W_HIGH] = 16;
        shapes.row_bytes[TILE_X_SUMS] = (uint16_t)(4 * scales_of(t));
        shapes.rows[TILE_W_MINS] = (uint8_t)scales_of(t);
        tile_begin(&shapes);
        const uint32_t most = MAX_SUPERS / (p.tokens.count * p.tokens.width);
        for (uint32_t b = 0; b < n_supers; b += p.n_supers) {
            p.n_supers = n_supers - b < most ? n_supers - b : most;
            p.x = (const uint8_t *)a->x + token * a->x_row_bytes + b * sizeof(struct act_q8k);
            lay_out(t, &p);
            multiply_rows(t, &p, (const uint8_t *)a->w + LANES * super_bytes(t) * b, a->w_row_bytes, a->n_rows, b > 0,
                          a->y + token * a->y_stride, a->y_stride);
        }
        tile_end();
    }
}

TILE_PRODUCT(q2_k, TENSOR_Q2_K, 4)
TILE_PRODUCT(q3_k, TENSOR_Q3_K, 6)
TILE_PRODUCT(q4_k, TENSOR_Q4_K, 8)
TILE_PRODUCT(q5_k, TENSOR_Q5_K, 8)
TILE_PRODUCT(q6_k, TENSOR_Q6_K, 8)
TILE_PRODUCT(iq4_xs, TENSOR_IQ4_XS, 12)

void AMX_NAME(x86_lanes_supers)(struct kernels *k)
{
    set_q2_k(k);
    set_q3_k(k);
    set_q4_k(k);
    set_q5_k(k);
    set_q6_k(k);
    set_iq4_xs(k);
}
