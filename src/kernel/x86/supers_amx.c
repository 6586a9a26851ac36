/* Products with super-blocks of 256 (K types) through AMX tiles, for many tokens.
 *
 * A code times the scale of its sub-block fits 13 bits and a sign. Its low byte (unsigned) and its high byte (signed) are
 * two tiles, so that a whole super-block of 16 rows x up to 16 tokens is summed inside two tiles, exactly in integers,
 * and floats begin once in 256 columns. With Q2_K and Q3_K code times scale fits one byte: one tile.
 *
 * Mins meet the sums of 16 activations: both as bfloat16, the sums cut into a multiple of 128 and a rest that have few
 * enough bits, so that one bfloat16 tile product gives the float sum exactly: all its terms and sums are integers below
 * 2^24. So the bits are ref/'s (kernel.h).
 */
#include "kernel/lanes.h"
#include "kernel/x86/supers512.h"
#include "kernel/x86/tokens_amx.h"
#include "kernel/x86/x86.h"

#define SEGMENT_SUPERS (SEGMENT_COLS / 256)
#define CUT_SUPERS 2 /* unpacked at a time: 18 KB, to be read from the first-level cache */

#define ROW_TILES 2
/* The way back to rows costs something, which fewer tokens do not pay for. */
#define MIN_TOKENS 32

#define X_BYTES (1u << 20) /* interleaved codes: half of a second-level cache */
#define MAX_TOKENS 512     /* that go through a row's codes together */

/* 16 rows of a super-block. */
struct tile_super {
    uint8_t low[4][TILE_ROWS][64], high[4][TILE_ROWS][64];
    uint16_t mins[TILE_ROWS][32]; /* bfloat16; twice */
    float d[TILE_ROWS], dmin[TILE_ROWS];
};

struct scratch {
    _Alignas(64) uint8_t x[X_BYTES];                  /* [group of tokens][super-block][64][width][4] */
    uint8_t x_sums[X_BYTES / 4];                      /* [group of tokens][super-block][16][width][2] bfloat16 */
    float x_d[X_BYTES / 256];                         /* [group of tokens][super-block][width] */
    _Alignas(64) struct tile_super w[SEGMENT_SUPERS]; /* [tile of rows][super-block of the cut], or one tile of rows */
    __m512 acc[ROW_TILES][MAX_TOKENS / 16][16];       /* [tile of rows][group of tokens][vector of a stored tile] */
    uint8_t rows[TILE_ROWS][SEGMENT_SUPERS * sizeof(struct block_q6_k)]; /* brought back from lanes */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* What does not change while a segment of a block of tokens is multiplied. */
struct job {
    const struct matmul_args *a;
    struct scratch *s;
    const struct way *way;
    uint32_t first_token, n_tokens, width;
    uint32_t n_supers; /* of the segment */
    bool start;        /* the first segment */
};

/* How the tiles of a type's codes times scales are to be added up. */
struct form {
    bool one_byte; /* there are no high bytes; the low ones are signed */
    bool negated;  /* of Q3_K, -32 * -4 = 128 would not fit a byte: its tile holds the negative of every product */
    bool mins;
};

INLINE struct form form_of(enum tensor_type t)
{
    return (struct form){t == TENSOR_Q2_K || t == TENSOR_Q3_K, t == TENSOR_Q3_K, has_mins(t)};
}

/* The steps that depend on the type, and the one that depends on form and width: n super-blocks from each row on
 * to the scratch; then those of n_r tiles of rows, the first of which is the
 * segment's `first`, with all tokens. */
struct way {
    void (*unpack)(const uint8_t *const rows[16], uint32_t n, struct tile_super *out);
    void (*const *multiply)(const struct job *j, uint32_t first, uint32_t n, uint32_t n_r); /* [log2(width)] */
    enum tensor_type type;
};

/* ---- tokens ---- */

/* The sums of 16 codes of a super-block as bfloat16: sums modulo 128, then the rest. */
static void split_sums(const int16_t *sum, uint8_t out[64])
{
    const __m512i all = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const void *)sum));
    const __m512i low = _mm512_and_si512(all, _mm512_set1_epi32(127)), high = _mm512_sub_epi32(all, low);
    const __m512i part[2] = {low, high};
    for (int i = 0; i < 2; i++) {
        const __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(part[i])), 16);
        _mm256_storeu_si256((void *)(out + 32 * i), _mm512_cvtepi32_epi16(bits));
    }
}

/* Where the four-byte groups of a super-block's 64-byte pieces go: sub-blocks in the order of unpacking. */
static void order_of_codes(enum tensor_type t, uint8_t at[4][16])
{
    for (int v = 0; v < 4; v++) {
        for (int h = 0; h < 2; h++) {
            const int sub = half_of(t, v, h);
            for (int k = 0; k < 8; k++)
                at[sub / 2][sub % 2 * 8 + k] = (uint8_t)(16 * v + 8 * h + k);
        }
    }
}

static void interleave(const struct job *j, const uint8_t *x)
{
    static const uint8_t straight[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const size_t row_bytes = j->a->x_row_bytes;
    const uint32_t width = j->width;
    uint8_t at[4][16];
    order_of_codes(j->way->type, at);
    for (uint32_t token = 0; token < j->n_tokens; token += width) {
        const uint32_t n_t = j->n_tokens - token < width ? j->n_tokens - token : width;
        for (uint32_t b = 0; b < j->n_supers; b++) {
            const size_t super = (size_t)token / width * j->n_supers + b;
            const uint8_t *p = x + token * row_bytes + b * sizeof(struct act_q8k);
            uint8_t sums[16][64];
            for (int piece = 0; piece < 4; piece++)
                interleave_64(p + 64 * piece, row_bytes, n_t, width, at[piece], j->s->x + super * 256 * width);
            for (uint32_t i = 0; i < width; i++) {
                const struct act_q8k *q = (const struct act_q8k *)(const void *)(p + i * row_bytes);
                j->s->x_d[super * width + i] = i < n_t ? q->d : 0;
                if (i < n_t)
                    split_sums(q->sum, sums[i]);
            }
            if (has_mins(j->way->type))
                interleave_64(sums[0], 64, n_t, width, straight, j->s->x_sums + super * 64 * width);
        }
    }
}

/* ---- weights ---- */

/* One super-block of row r. */
INLINE void unpack_scaled(enum tensor_type t, const uint8_t *p, uint32_t r, struct tile_super *out)
{
    const __m512i even_bytes = _mm512_set1_epi16(0x00ff);
    const bool is_unsigned = has_mins(t);
    struct super s;
    unpack_super(t, p, &s);
    if (form_of(t).negated)
        s.w.scales = _mm256_sub_epi16(_mm256_setzero_si256(), s.w.scales);
    UNROLL for (int v = 0; v < 4; v++)
    {
        const __m512i scales = spread_scales(t, s.w.scales, v);
        __m512i q = s.q[v];
        if (t == TENSOR_Q3_K || t == TENSOR_Q6_K)
            q = _mm512_sub_epi8(q, _mm512_set1_epi8(t == TENSOR_Q3_K ? 4 : 32));
        __m512i even = is_unsigned ? _mm512_and_si512(q, even_bytes) : _mm512_srai_epi16(_mm512_slli_epi16(q, 8), 8);
        __m512i odd = is_unsigned ? _mm512_srli_epi16(q, 8) : _mm512_srai_epi16(q, 8);
        even = _mm512_mullo_epi16(even, scales);
        odd = _mm512_mullo_epi16(odd, scales);
        const __m512i low = _mm512_ternarylogic_epi64(even_bytes, even, _mm512_slli_epi16(odd, 8), 0xca);
        _mm512_store_si512(out->low[v][r], low);
        if (!form_of(t).one_byte) {
            const __m512i high = _mm512_ternarylogic_epi64(even_bytes, _mm512_srli_epi16(even, 8), odd, 0xca);
            _mm512_store_si512(out->high[v][r], high);
        }
    }
    if (has_mins(t)) {
        const __m512 mins = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(s.w.of_sums));
        const __m256i bits = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(mins), 16));
        _mm512_store_si512(out->mins[r], _mm512_broadcast_i64x4(bits));
    }
}

INLINE void unpack(enum tensor_type t, const uint8_t *const rows[16], uint32_t n, struct tile_super *out)
{
    for (uint32_t r = 0; r < TILE_ROWS; r++) {
        for (uint32_t b = 0; b < n; b++) {
            const uint8_t *p = rows[r] + b * super_bytes(t);
            for (size_t line = 0; line < super_bytes(t); line += 64)
                _mm_prefetch((const char *)p + PREFETCH_BYTES + line, _MM_HINT_T0);
            unpack_scaled(t, p, r, &out[b]);
            uint16_t h[2] = {0};
            memcpy(&h[0], p + d_at(t), sizeof *h);
            if (has_mins(t))
                memcpy(&h[1], p + d_at(t) + 2, sizeof *h);
            out[b].d[r] = _cvtsh_ss(h[0]);
            out[b].dmin[r] = _cvtsh_ss(h[1]);
        }
    }
}

/* ---- one or two tiles of rows and a group of tokens ---- */

/* What leaves the tiles, for one tile of rows. */
struct tile_sums {
    _Alignas(64) int32_t low[16 * 16], high[16 * 16];
    float mins[16 * 16];
};

#define DOT_LOW(c, a, b)                                                                                               \
    do {                                                                                                               \
        if (f.one_byte)                                                                                                \
            tile_dot_s8(c, a, b);                                                                                      \
        else                                                                                                           \
            tile_dot_u8s8(c, a, b);                                                                                    \
    } while (0)

/* A super-block of n_r tiles of rows, with interleaved codes at x and sums at x_sums. */
INLINE void multiply_super(struct form f, const struct tile_super *w0, const struct tile_super *w1, int n_r,
                           const uint8_t *x, const uint8_t *x_sums, size_t W, struct tile_sums *out)
{
    tile_zero(TILE_C0);
    tile_zero(TILE_C1);
    tile_zero(TILE_C2);
    tile_zero(TILE_C3);
    UNROLL for (size_t v = 0; v < 4; v++)
    {
        tile_load(TILE_B0, x + v * 64 * W, 4 * W);
        tile_load(TILE_A0, w0->low[v], 64);
        DOT_LOW(TILE_C0, TILE_A0, TILE_B0);
        if (n_r == 2) {
            tile_load(TILE_A1, w1->low[v], 64);
            DOT_LOW(TILE_C2, TILE_A1, TILE_B0);
        }
        if (f.one_byte)
            continue;
        tile_load(TILE_A0, w0->high[v], 64);
        tile_dot_s8(TILE_C1, TILE_A0, TILE_B0);
        if (n_r == 2) {
            tile_load(TILE_A1, w1->high[v], 64);
            tile_dot_s8(TILE_C3, TILE_A1, TILE_B0);
        }
    }
    tile_store(TILE_C0, out[0].low, 4 * W);
    if (!f.one_byte)
        tile_store(TILE_C1, out[0].high, 4 * W);
    if (n_r == 2) {
        tile_store(TILE_C2, out[1].low, 4 * W);
        if (!f.one_byte)
            tile_store(TILE_C3, out[1].high, 4 * W);
    }
    if (!f.mins)
        return;
    tile_load(TILE_B1, x_sums, 4 * W);
    tile_load(TILE_A0, w0->mins, 64);
    tile_zero(TILE_C0);
    tile_dot_bf16(TILE_C0, TILE_A0, TILE_B1);
    tile_store(TILE_C0, out[0].mins, 4 * W);
    if (n_r == 2) {
        tile_load(TILE_A1, w1->mins, 64);
        tile_zero(TILE_C1);
        tile_dot_bf16(TILE_C1, TILE_A1, TILE_B1);
        tile_store(TILE_C1, out[1].mins, 4 * W);
    }
}

/* acc += the sums, scaled. While tiles are in use, floats are added and multiplied by one of the two vector units only;
 * so the high bytes are moved up by a shuffle, which the other does. */
INLINE void add_super(struct form f, const struct tile_super *w, const struct tile_sums *sums, const float *x_d,
                      size_t W, __m512 *acc)
{
    const __m512i up = _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 0, 1, 2, -1, 4, 5, 6, -1, 8, 9, 10, -1, 12, 13, 14));
    const __m512 d = spread_tokens(x_d, W);
    UNROLL for (size_t v = 0; v < W; v++)
    {
        __m512i dot = _mm512_load_si512(sums->low + 16 * v);
        if (!f.one_byte)
            dot = _mm512_add_epi32(dot, _mm512_shuffle_epi8(_mm512_load_si512(sums->high + 16 * v), up));
        const __m512 scale = _mm512_mul_ps(d, spread_rows(w->d, v, W)), sum = _mm512_cvtepi32_ps(dot);
        __m512 c = f.negated ? _mm512_fnmadd_ps(sum, scale, acc[v]) : _mm512_fmadd_ps(sum, scale, acc[v]);
        if (f.mins)
            c = _mm512_fnmadd_ps(_mm512_load_ps(sums->mins + 16 * v), _mm512_mul_ps(d, spread_rows(w->dmin, v, W)), c);
        acc[v] = c;
    }
}

/* The sums of a group and of super-block b of the cut, which begins at the segment's `first`. */
INLINE void add_supers(struct form f, const struct job *j, const struct tile_sums *sums, size_t group, size_t first,
                       size_t b, int n_r, size_t W)
{
    struct scratch *s = j->s;
    const float *x_d = s->x_d + (group * j->n_supers + first + b) * W;
    add_super(f, &s->w[b], &sums[0], x_d, W, s->acc[0][group]);
    if (n_r == 2)
        add_super(f, &s->w[CUT_SUPERS + b], &sums[1], x_d, W, s->acc[1][group]);
}

/* Super-blocks [first, first + n) of the segment, which are unpacked, of n_r tiles of rows, with all tokens. Sums are
 * scaled while the tiles work on the next ones. */
INLINE void multiply_cut(struct form f, const struct job *j, uint32_t first, uint32_t n, int n_r, size_t W)
{
    struct scratch *s = j->s;
    struct tile_sums sums[2][ROW_TILES];
    size_t n_items = 0, last_group = 0, last_super = 0;
    for (size_t i = 0; i * W < j->n_tokens; i++) {
        for (size_t b = 0; b < n; b++, n_items++) {
            const size_t at = i * j->n_supers + first + b;
            multiply_super(f, &s->w[b], &s->w[CUT_SUPERS + b], n_r, s->x + at * 256 * W, s->x_sums + at * 64 * W, W,
                           sums[n_items % 2]);
            if (n_items)
                add_supers(f, j, sums[(n_items - 1) % 2], last_group, first, last_super, n_r, W);
            last_group = i;
            last_super = b;
        }
    }
    add_supers(f, j, sums[(n_items - 1) % 2], last_group, first, last_super, n_r, W);
}

/* ---- a product ---- */

/* The chains of 16 rows between y and the scratch. */
static void resume_rows(const struct job *j, uint32_t row, __m512 (*acc)[16])
{
    for (uint32_t token = 0; token < j->n_tokens; token += j->width) {
        __m512 sum[16];
        for (uint32_t i = 0; i < j->width; i++) {
            const bool absent = j->start || token + i >= j->n_tokens;
            const float *y = j->a->y + (j->first_token + token + i) * j->a->y_stride + row;
            sum[i] = absent ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
        tile_of_rows(sum, j->width, acc[token / j->width]);
    }
}

static void finish_rows(const struct job *j, uint32_t row, __m512 (*acc)[16])
{
    for (uint32_t token = 0; token < j->n_tokens; token += j->width) {
        __m512 sum[16];
        rows_of_tile(acc[token / j->width], j->width, sum);
        for (uint32_t i = 0; i < j->width && token + i < j->n_tokens; i++)
            _mm512_storeu_ps(j->a->y + (j->first_token + token + i) * j->a->y_stride + row, sum[i]);
    }
}

/* A segment of all rows, beginning `offset` bytes into them. */
static void multiply_rows(const struct job *j, size_t offset)
{
    const struct matmul_args *a = j->a;
    const size_t super = super_bytes(j->way->type);
    const bool one_group = j->n_tokens <= j->width;
    const uint32_t step = one_group ? TILE_ROWS : ROW_TILES * TILE_ROWS, cut = one_group ? SEGMENT_SUPERS : CUT_SUPERS;
    for (uint32_t row = 0; row < a->n_rows; row += step) {
        const uint32_t n_r = step > TILE_ROWS && a->n_rows - row > TILE_ROWS ? 2 : 1;
        for (uint32_t r = 0; r < n_r; r++)
            resume_rows(j, row + r * TILE_ROWS, j->s->acc[r]);
        for (uint32_t b = 0; b < j->n_supers; b += cut) {
            const uint32_t n = j->n_supers - b < cut ? j->n_supers - b : cut;
            for (uint32_t r = 0; r < n_r; r++) {
                const uint8_t *p[TILE_ROWS];
                const size_t at = (row + r * TILE_ROWS) * a->w_row_bytes + (offset + b * super) * LANES;
                lanes_unpack(j->way->type, (const uint8_t *)a->w + at, 256 * n, j->s->rows, sizeof j->s->rows[0]);
                for (uint32_t i = 0; i < TILE_ROWS; i++)
                    p[i] = j->s->rows[i];
                j->way->unpack(p, n, &j->s->w[r * CUT_SUPERS]);
            }
            j->way->multiply[__builtin_ctz(j->width)](j, b, n, n_r);
        }
        for (uint32_t r = 0; r < n_r; r++)
            finish_rows(j, row + r * TILE_ROWS, j->s->acc[r]);
    }
}

static void matmul_supers(const struct way *way, const struct matmul_args *a)
{
    const uint32_t n_supers = a->n_cols / 256;
    struct job j = {.a = a, .s = a->scratch, .way = way, .width = token_width(a->n_tokens)};
    const struct tile_config shapes = tile_shapes(64, j.width);
    tile_begin(&shapes);
    for (uint32_t b = 0; b < n_supers; b += SEGMENT_SUPERS) {
        j.start = b == 0;
        j.n_supers = n_supers - b < SEGMENT_SUPERS ? n_supers - b : SEGMENT_SUPERS;
        const uint32_t fit = X_BYTES / (j.n_supers * 256) / 16 * 16, step = fit < MAX_TOKENS ? fit : MAX_TOKENS;
        for (uint32_t i = 0; i < a->n_tokens; i += step) {
            j.first_token = i;
            j.n_tokens = a->n_tokens - i < step ? a->n_tokens - i : step;
            interleave(&j, (const uint8_t *)a->x + i * a->x_row_bytes + b * sizeof(struct act_q8k));
            multiply_rows(&j, b * super_bytes(way->type));
        }
    }
    tile_end();
}

#define MULTIPLY(name, width, type)                                                                                    \
    static void multiply_##name##_##width(const struct job *j, uint32_t first, uint32_t n, uint32_t n_r)               \
    {                                                                                                                  \
        if (n_r == 2)                                                                                                  \
            multiply_cut(form_of(type), j, first, n, 2, width);                                                        \
        else                                                                                                           \
            multiply_cut(form_of(type), j, first, n, 1, width);                                                        \
    }
#define MULTIPLIES(name, type)                                                                                         \
    MULTIPLY(name, 8, type)                                                                                            \
    MULTIPLY(name, 16, type)                                                                                           \
    static void (*const multiply_##name[])(const struct job *j, uint32_t first, uint32_t n,                            \
                                           uint32_t n_r) = {[3] = multiply_##name##_8, [4] = multiply_##name##_16};
MULTIPLIES(q2_k, TENSOR_Q2_K)
MULTIPLIES(q3_k, TENSOR_Q3_K)
MULTIPLIES(with_mins, TENSOR_Q4_K)
MULTIPLIES(plain, TENSOR_Q6_K)

#define MATMUL_SUPERS(name, type, form)                                                                                \
    static void unpack_rows_##name(const uint8_t *const rows[16], uint32_t n, struct tile_super *out)                  \
    {                                                                                                                  \
        unpack(type, rows, n, out);                                                                                    \
    }                                                                                                                  \
    static void tiles_##name(const struct matmul_args *a)                                                              \
    {                                                                                                                  \
        static const struct way way = {unpack_rows_##name, multiply_##form, type};                                     \
        matmul_supers(&way, a);                                                                                        \
    }                                                                                                                  \
    TILE_PRODUCT(name, type, tiles_##name)
MATMUL_SUPERS(q2_k, TENSOR_Q2_K, q2_k)
MATMUL_SUPERS(q3_k, TENSOR_Q3_K, q3_k)
MATMUL_SUPERS(q4_k, TENSOR_Q4_K, with_mins)
MATMUL_SUPERS(q5_k, TENSOR_Q5_K, with_mins)
MATMUL_SUPERS(q6_k, TENSOR_Q6_K, plain)
MATMUL_SUPERS(iq4_xs, TENSOR_IQ4_XS, plain)

void AMX_NAME(x86_supers)(struct kernels *k)
{
    set_q2_k(k);
    set_q3_k(k);
    set_q4_k(k);
    set_q5_k(k);
    set_q6_k(k);
    set_iq4_xs(k);
}
