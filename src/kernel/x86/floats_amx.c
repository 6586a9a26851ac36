/* Products with BF16 and F16 weights through bfloat16 tiles, for any number of tokens.
 *
 * A C tile sums 16 rows x up to 16 tokens over all columns, 32 at a time, in the processor's own order; that order is
 * the same for any number of rows and tokens, so all products of these types come this way, those of one token too.
 *
 *   BF16  w x             x rounded to bfloat16
 *   F16   wh xl + wh xh + wl xh   with w = wh + wl, which is exact, and x = xh + xl, cut off behind 16 bits
 *
 * A cut of the columns of 64 rows is unpacked at a time, 32 KB; the first-level cache holds it while all tokens pass by.
 * Four tiles of rows share the load of each tile of tokens. Sums wait in the scratch meanwhile. One group of tokens has
 * nothing to share: then 16 whole rows at a time, one walk through memory.
 */
#include "kernel/x86/tokens_amx.h"
#include "kernel/x86/x86.h"

#define STEP_COLS 32
#define ROW_TILES 4
#define CUT_TILES 8 /* of 16 rows x 32 columns, unpacked of each 16 rows */
#define SEGMENT_STEPS (2048 / STEP_COLS)
#define X_BYTES (1u << 20) /* interleaved activations: half of a second-level cache */
#define MAX_TOKENS 512     /* that go through a row's columns together */

struct scratch {
    _Alignas(64) uint8_t x[X_BYTES];                /* [group of tokens][step][plane][16][width][2] bfloat16 */
    uint8_t w[2 * SEGMENT_STEPS][TILE_ROWS][64];    /* [tile of rows][step and plane], or one tile of rows; bfloat16 */
    float acc[ROW_TILES][MAX_TOKENS / 16][16 * 16]; /* [tile of rows][group of tokens] stored tiles */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* What does not change while a segment of a block of tokens is multiplied. */
struct job {
    const struct matmul_args *a;
    struct scratch *s;
    const struct way *way;
    uint32_t first_token, n_tokens, width;
    uint32_t first_col, n_cols, n_steps; /* of the segment */
    bool start;                          /* the first segment */
};

/* n columns (a multiple of 32) of a row to n / 32 (times planes) tile rows, 1 KB apart. */
struct way {
    void (*unpack)(const uint8_t *p, uint32_t n, uint8_t *out);
    uint32_t planes;
};

/* ---- tokens ---- */

static void interleave(const struct job *j)
{
    static const uint8_t straight[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const uint32_t width = j->width, planes = j->way->planes;
    const size_t row_bytes = j->a->x_row_bytes, step_bytes = (size_t)64 * planes;
    for (uint32_t token = 0; token < j->n_tokens; token += width) {
        const uint32_t n_t = j->n_tokens - token < width ? j->n_tokens - token : width;
        const uint8_t *p =
            (const uint8_t *)j->a->x + (j->first_token + token) * row_bytes + j->first_col / STEP_COLS * step_bytes;
        uint8_t *out = j->s->x + (size_t)token * j->n_steps * step_bytes;
        for (uint32_t i = 0; i < j->n_steps * planes; i++)
            interleave_64(p + 64 * i, row_bytes, n_t, width, straight, out + (size_t)64 * width * i);
    }
}

/* ---- weights ---- */

static void unpack_bf16(const uint8_t *p, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i += STEP_COLS, out += TILE_ROWS * 64) {
        _mm_prefetch((const char *)p + 2 * i + PREFETCH_BYTES, _MM_HINT_T0);
        _mm512_store_si512(out, _mm512_loadu_si512(p + 2 * i));
    }
}

/* Upper halves of two registers: word 2i from the first, 2i + 1 from the second. */
INLINE __m512i upper_halves(__m512i first, __m512i second)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_ternarylogic_epi32(upper, second, _mm512_srli_epi32(first, 16), 0xca);
}

/* In the order of ACT_BF16X2. */
static void unpack_f16(const uint8_t *p, uint32_t n, uint8_t *out)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    for (uint32_t i = 0; i < n; i += STEP_COLS, out += 2 * TILE_ROWS * 64) {
        __m512i high[2], low[2];
        _mm_prefetch((const char *)p + 2 * i + PREFETCH_BYTES, _MM_HINT_T0);
        for (int h = 0; h < 2; h++) {
            const __m512 w = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p + 2 * i + 32 * h)));
            high[h] = _mm512_and_si512(_mm512_castps_si512(w), upper);
            low[h] = _mm512_castps_si512(_mm512_sub_ps(w, _mm512_castsi512_ps(high[h])));
        }
        _mm512_store_si512(out, upper_halves(high[0], high[1]));
        _mm512_store_si512(out + TILE_ROWS * 64, upper_halves(low[0], low[1]));
    }
}

/* n columns from column `first` of the segment on, of 16 rows from `row` on (those from n_rows on from the last). Four
 * rows at a time, in turns: so many streams through memory are enough to hide its latency. */
static void unpack_rows(const struct job *j, uint32_t row, uint32_t first, uint32_t n, uint8_t (*out)[TILE_ROWS][64])
{
    const struct matmul_args *a = j->a;
    const uint32_t turn = 4 * STEP_COLS, planes = j->way->planes;
    const uint32_t whole = j->n_cols - first < n ? (j->n_cols - first) / STEP_COLS * STEP_COLS : n;
    const uint8_t *p[TILE_ROWS];
    for (uint32_t r = 0; r < TILE_ROWS; r++) {
        const uint32_t real = row + r < a->n_rows ? row + r : a->n_rows - 1;
        p[r] = (const uint8_t *)a->w + real * a->w_row_bytes + 2 * (j->first_col + first);
        if (whole < n) { /* the row's last columns, filled up with zeros */
            uint8_t copy[2 * STEP_COLS] = {0};
            memcpy(copy, p[r] + 2 * whole, 2 * (j->n_cols - first - whole));
            j->way->unpack(copy, STEP_COLS, out[whole / STEP_COLS * planes][r]);
        }
    }
    for (uint32_t quad = 0; quad < 4; quad++) {
        for (uint32_t i = 0; i < whole; i += turn) {
            for (uint32_t r = quad; r < TILE_ROWS; r += 4)
                j->way->unpack(p[r] + 2 * i, whole - i < turn ? whole - i : turn, out[i / STEP_COLS * planes][r]);
        }
    }
}

/* ---- packing ---- */

/* Rounded to nearest even, in the upper half. */
INLINE __m512i round_bf16(__m512 x)
{
    const __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_and_si512(sum, _mm512_set1_epi32((int)0xffff0000));
}

static void pack_bf16x2(const float *x, uint32_t n, void *out)
{
    uint8_t *p = out;
    for (uint32_t i = 0; i < n; i += STEP_COLS, p += 128) {
        const uint32_t left = n - i;
        const __mmask32 mask = left >= 32 ? 0xffffffff : (1u << left) - 1;
        __m512i high[2], low[2];
        for (int h = 0; h < 2; h++) {
            const __m512 v = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16 * h), x + i + 16 * h);
            high[h] = round_bf16(v);
            low[h] = round_bf16(_mm512_sub_ps(v, _mm512_castsi512_ps(high[h])));
        }
        _mm512_storeu_si512(p, upper_halves(high[0], high[1]));
        _mm512_storeu_si512(p + 64, upper_halves(low[0], low[1]));
    }
}

/* ---- tiles ---- */

/* C tile r += A tile r `at` of its cut, times the B tile; of the tiles of rows that there are. */
#define DOTS(at, b)                                                                                                    \
    do {                                                                                                               \
        tile_load(TILE_A0, s->w[at], 64);                                                                              \
        tile_dot_bf16(TILE_C0, TILE_A0, b);                                                                            \
        if (n_r > 1) {                                                                                                 \
            tile_load(TILE_A1, s->w[CUT_TILES + at], 64);                                                              \
            tile_dot_bf16(TILE_C1, TILE_A1, b);                                                                        \
        }                                                                                                              \
        if (n_r > 2) {                                                                                                 \
            tile_load(TILE_A0, s->w[2 * CUT_TILES + at], 64);                                                          \
            tile_dot_bf16(TILE_C2, TILE_A0, b);                                                                        \
        }                                                                                                              \
        if (n_r > 3) {                                                                                                 \
            tile_load(TILE_A1, s->w[3 * CUT_TILES + at], 64);                                                          \
            tile_dot_bf16(TILE_C3, TILE_A1, b);                                                                        \
        }                                                                                                              \
    } while (0)

#define EACH_SUM(what)                                                                                                 \
    do {                                                                                                               \
        what(TILE_C0, s->acc[0][g], 4 * width);                                                                        \
        if (n_r > 1)                                                                                                   \
            what(TILE_C1, s->acc[1][g], 4 * width);                                                                    \
        if (n_r > 2)                                                                                                   \
            what(TILE_C2, s->acc[2][g], 4 * width);                                                                    \
        if (n_r > 3)                                                                                                   \
            what(TILE_C3, s->acc[3][g], 4 * width);                                                                    \
    } while (0)

/* n steps of n_r tiles of rows and one group of tokens, whose interleaved rows begin at x. */
INLINE void multiply_group(struct scratch *s, uint32_t g, const uint8_t *x, size_t n, size_t width, int n_r, int planes)
{
    const size_t tile_bytes = 64 * width;
    EACH_SUM(tile_load);
    for (size_t i = 0; i < n; i++, x += (size_t)planes * tile_bytes) {
        tile_load(TILE_B0, x, 4 * width);
        if (planes == 1) {
            DOTS(i, TILE_B0);
            continue;
        }
        tile_load(TILE_B1, x + tile_bytes, 4 * width);
        DOTS(2 * i, TILE_B1);
        DOTS(2 * i, TILE_B0);
        DOTS(2 * i + 1, TILE_B0);
    }
    EACH_SUM(tile_store);
}

/* Steps [first, first + n) of the segment, which are unpacked, with all tokens. */
INLINE void multiply_cut(const struct job *j, uint32_t first, uint32_t n, int n_r, int planes)
{
    const size_t step_bytes = (size_t)64 * j->width * (size_t)planes;
    const uint8_t *x = j->s->x + first * step_bytes;
    for (uint32_t g = 0; g * j->width < j->n_tokens; g++)
        multiply_group(j->s, g, x + (size_t)g * j->n_steps * step_bytes, n, j->width, n_r, planes);
}

static void multiply_one(const struct job *j, uint32_t first, uint32_t n, int n_r)
{
    if (n_r == 4)
        multiply_cut(j, first, n, 4, 1);
    else
        multiply_cut(j, first, n, n_r, 1);
}

static void multiply_two(const struct job *j, uint32_t first, uint32_t n, int n_r)
{
    if (n_r == 4)
        multiply_cut(j, first, n, 4, 2);
    else
        multiply_cut(j, first, n, n_r, 2);
}

/* ---- a product ---- */

/* The sums of 16 rows between y and the scratch. */
static void resume_rows(const struct job *j, uint32_t row, float (*acc)[16 * 16])
{
    const __mmask16 rows = tile_row_mask(j->a->n_rows - row);
    for (uint32_t token = 0; token < j->n_tokens; token += j->width, acc++) {
        __m512 sum[16];
        for (uint32_t i = 0; i < j->width; i++) {
            const bool absent = j->start || token + i >= j->n_tokens;
            const float *y = j->a->y + (j->first_token + token + i) * j->a->y_stride + row;
            sum[i] = absent ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y);
        }
        tile_of_rows(sum, j->width, sum);
        for (uint32_t i = 0; i < j->width; i++)
            _mm512_store_ps(*acc + 16 * i, sum[i]);
    }
}

static void finish_rows(const struct job *j, uint32_t row, float (*acc)[16 * 16])
{
    const __mmask16 rows = tile_row_mask(j->a->n_rows - row);
    for (uint32_t token = 0; token < j->n_tokens; token += j->width, acc++) {
        __m512 sum[16];
        for (uint32_t i = 0; i < j->width; i++)
            sum[i] = _mm512_load_ps(*acc + 16 * i);
        rows_of_tile(sum, j->width, sum);
        for (uint32_t i = 0; i < j->width && token + i < j->n_tokens; i++)
            _mm512_mask_storeu_ps(j->a->y + (j->first_token + token + i) * j->a->y_stride + row, rows, sum[i]);
    }
}

static void multiply_rows(const struct job *j)
{
    const struct matmul_args *a = j->a;
    const bool one_group = j->n_tokens <= j->width;
    const uint32_t most = one_group ? 1 : ROW_TILES;
    const uint32_t cut = one_group ? SEGMENT_STEPS : CUT_TILES / j->way->planes;
    for (uint32_t row = 0; row < a->n_rows; row += most * TILE_ROWS) {
        const uint32_t tiles = (a->n_rows - row + TILE_ROWS - 1) / TILE_ROWS, n_r = tiles < most ? tiles : most;
        for (uint32_t r = 0; r < n_r; r++)
            resume_rows(j, row + r * TILE_ROWS, j->s->acc[r]);
        for (uint32_t i = 0; i < j->n_steps; i += cut) {
            const uint32_t n = j->n_steps - i < cut ? j->n_steps - i : cut;
            for (uint32_t r = 0; r < n_r; r++)
                unpack_rows(j, row + r * TILE_ROWS, i * STEP_COLS, n * STEP_COLS, &j->s->w[r * CUT_TILES]);
            if (j->way->planes == 2)
                multiply_two(j, i, n, (int)n_r);
            else
                multiply_one(j, i, n, (int)n_r);
        }
        for (uint32_t r = 0; r < n_r; r++)
            finish_rows(j, row + r * TILE_ROWS, j->s->acc[r]);
    }
}

static void matmul_floats(const struct way *way, const struct matmul_args *a)
{
    const uint32_t segment_cols = SEGMENT_STEPS * STEP_COLS;
    struct job j = {.a = a, .s = a->scratch, .way = way, .width = token_width(a->n_tokens)};
    const struct tile_config shapes = tile_shapes(64, j.width);
    tile_begin(&shapes);
    for (uint32_t col = 0; col < a->n_cols; col += segment_cols) {
        j.start = col == 0;
        j.first_col = col;
        j.n_cols = a->n_cols - col < segment_cols ? a->n_cols - col : segment_cols;
        j.n_steps = (j.n_cols + STEP_COLS - 1) / STEP_COLS;
        const uint32_t fit = X_BYTES / (j.n_steps * way->planes * 64) / 16 * 16;
        const uint32_t step = fit < MAX_TOKENS ? fit : MAX_TOKENS;
        for (uint32_t i = 0; i < a->n_tokens; i += step) {
            j.first_token = i;
            j.n_tokens = a->n_tokens - i < step ? a->n_tokens - i : step;
            interleave(&j);
            multiply_rows(&j);
        }
    }
    tile_end();
}

#define MATMUL_FLOATS(name, planes)                                                                                    \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        static const struct way way = {unpack_##name, planes};                                                         \
        matmul_floats(&way, a);                                                                                        \
    }
MATMUL_FLOATS(bf16, 1)
MATMUL_FLOATS(f16, 2)

void AMX_NAME(x86_floats)(struct kernels *k)
{
    k->matmul[TENSOR_BF16] = matmul_bf16;
    k->matmul[TENSOR_F16] = matmul_f16;
    k->act_pack[ACT_BF16X2] = pack_bf16x2;
    k->act_format[TENSOR_F16] = ACT_BF16X2;
}
