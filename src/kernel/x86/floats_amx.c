/* Products with BF16 weights through bfloat16 tiles, for any number of tokens.
 *
 * A C tile sums 16 rows x up to 16 tokens over all columns, 32 at a time, in the processor's own order; that order is
 * the same for any number of rows and tokens, so all products come this way, those of one token too.
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
    _Alignas(64) uint8_t x[X_BYTES];                /* [group of tokens][step][16][width][2] bfloat16 */
    uint8_t w[SEGMENT_STEPS][TILE_ROWS][64];        /* [tile of rows][step], or one tile of rows; bfloat16 */
    float acc[ROW_TILES][MAX_TOKENS / 16][16 * 16]; /* [tile of rows][group of tokens] stored tiles */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* What does not change while a segment of a block of tokens is multiplied. */
struct job {
    const struct matmul_args *a;
    struct scratch *s;
    uint32_t first_token, n_tokens, width;
    uint32_t first_col, n_cols, n_steps; /* of the segment */
    bool start;                          /* the first segment */
};

/* ---- tokens ---- */

static void interleave(const struct job *j)
{
    static const uint8_t straight[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const uint32_t width = j->width;
    const size_t row_bytes = j->a->x_row_bytes;
    for (uint32_t token = 0; token < j->n_tokens; token += width) {
        const uint32_t n_t = j->n_tokens - token < width ? j->n_tokens - token : width;
        const uint8_t *p =
            (const uint8_t *)j->a->x + (j->first_token + token) * row_bytes + j->first_col / STEP_COLS * 64;
        uint8_t *out = j->s->x + (size_t)token * j->n_steps * 64;
        for (uint32_t i = 0; i < j->n_steps; i++)
            interleave_64(p + 64 * i, row_bytes, n_t, width, straight, out + (size_t)64 * width * i);
    }
}

/* ---- weights ---- */

/* n columns (a multiple of 32) of a row to n / 32 tile rows, 1 KB apart. */
static void unpack(const uint8_t *p, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i += STEP_COLS, out += TILE_ROWS * 64) {
        _mm_prefetch((const char *)p + 2 * i + PREFETCH_BYTES, _MM_HINT_T0);
        _mm512_store_si512(out, _mm512_loadu_si512(p + 2 * i));
    }
}

/* n columns from column `first` of the segment on, of 16 rows from `row` on (those from n_rows on from the last). Four
 * rows at a time, in turns: so many streams through memory are enough to hide its latency. */
static void unpack_rows(const struct job *j, uint32_t row, uint32_t first, uint32_t n, uint8_t (*out)[TILE_ROWS][64])
{
    const struct matmul_args *a = j->a;
    const uint32_t turn = 4 * STEP_COLS;
    const uint32_t whole = j->n_cols - first < n ? (j->n_cols - first) / STEP_COLS * STEP_COLS : n;
    const uint8_t *p[TILE_ROWS];
    for (uint32_t r = 0; r < TILE_ROWS; r++) {
        const uint32_t real = row + r < a->n_rows ? row + r : a->n_rows - 1;
        p[r] = (const uint8_t *)a->w + real * a->w_row_bytes + 2 * (j->first_col + first);
        if (whole < n) /* the row's last columns, filled up with zeros */
            _mm512_store_si512(out[whole / STEP_COLS][r],
                               _mm512_maskz_loadu_epi16((1u << (j->n_cols - first - whole)) - 1, p[r] + 2 * whole));
    }
    for (uint32_t quad = 0; quad < 4; quad++) {
        for (uint32_t i = 0; i < whole; i += turn) {
            for (uint32_t r = quad; r < TILE_ROWS; r += 4)
                unpack(p[r] + 2 * i, whole - i < turn ? whole - i : turn, out[i / STEP_COLS][r]);
        }
    }
}

/* ---- tiles ---- */

/* C tile r += A tile r `at` of its cut, times the B tile; of the tiles of rows that there are. */
#define DOTS(at)                                                                                                       \
    do {                                                                                                               \
        tile_load(TILE_A0, s->w[at], 64);                                                                              \
        tile_dot_bf16(TILE_C0, TILE_A0, TILE_B0);                                                                      \
        if (n_r > 1) {                                                                                                 \
            tile_load(TILE_A1, s->w[CUT_TILES + at], 64);                                                              \
            tile_dot_bf16(TILE_C1, TILE_A1, TILE_B0);                                                                  \
        }                                                                                                              \
        if (n_r > 2) {                                                                                                 \
            tile_load(TILE_A0, s->w[2 * CUT_TILES + at], 64);                                                          \
            tile_dot_bf16(TILE_C2, TILE_A0, TILE_B0);                                                                  \
        }                                                                                                              \
        if (n_r > 3) {                                                                                                 \
            tile_load(TILE_A1, s->w[3 * CUT_TILES + at], 64);                                                          \
            tile_dot_bf16(TILE_C3, TILE_A1, TILE_B0);                                                                  \
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
INLINE void multiply_group(struct scratch *s, uint32_t g, const uint8_t *x, size_t n, size_t width, int n_r)
{
    const size_t tile_bytes = 64 * width;
    EACH_SUM(tile_load);
    for (size_t i = 0; i < n; i++, x += tile_bytes) {
        tile_load(TILE_B0, x, 4 * width);
        DOTS(i);
    }
    EACH_SUM(tile_store);
}

/* Steps [first, first + n) of the segment, which are unpacked, with all tokens. */
INLINE void multiply_cut(const struct job *j, uint32_t first, uint32_t n, int n_r)
{
    const size_t step_bytes = (size_t)64 * j->width;
    const uint8_t *x = j->s->x + first * step_bytes;
    for (uint32_t g = 0; g * j->width < j->n_tokens; g++)
        multiply_group(j->s, g, x + (size_t)g * j->n_steps * step_bytes, n, j->width, n_r);
}

static void multiply(const struct job *j, uint32_t first, uint32_t n, int n_r)
{
    if (n_r == ROW_TILES)
        multiply_cut(j, first, n, ROW_TILES);
    else
        multiply_cut(j, first, n, n_r);
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
    const uint32_t cut = one_group ? SEGMENT_STEPS : CUT_TILES;
    for (uint32_t row = 0; row < a->n_rows; row += most * TILE_ROWS) {
        const uint32_t tiles = (a->n_rows - row + TILE_ROWS - 1) / TILE_ROWS, n_r = tiles < most ? tiles : most;
        for (uint32_t r = 0; r < n_r; r++)
            resume_rows(j, row + r * TILE_ROWS, j->s->acc[r]);
        for (uint32_t i = 0; i < j->n_steps; i += cut) {
            const uint32_t n = j->n_steps - i < cut ? j->n_steps - i : cut;
            for (uint32_t r = 0; r < n_r; r++)
                unpack_rows(j, row + r * TILE_ROWS, i * STEP_COLS, n * STEP_COLS, &j->s->w[r * CUT_TILES]);
            multiply(j, i, n, (int)n_r);
        }
        for (uint32_t r = 0; r < n_r; r++)
            finish_rows(j, row + r * TILE_ROWS, j->s->acc[r]);
    }
}

static void matmul_bf16(const struct matmul_args *a)
{
    const uint32_t segment_cols = SEGMENT_STEPS * STEP_COLS;
    struct job j = {.a = a, .s = a->scratch, .width = token_width(a->n_tokens)};
    const struct tile_config shapes = tile_shapes(64, j.width);
    tile_begin(&shapes);
    for (uint32_t col = 0; col < a->n_cols; col += segment_cols) {
        j.start = col == 0;
        j.first_col = col;
        j.n_cols = a->n_cols - col < segment_cols ? a->n_cols - col : segment_cols;
        j.n_steps = (j.n_cols + STEP_COLS - 1) / STEP_COLS;
        const uint32_t fit = X_BYTES / (j.n_steps * 64) / 16 * 16;
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

void AMX_NAME(x86_floats)(struct kernels *k)
{
    k->matmul[TENSOR_BF16] = matmul_bf16;
}
