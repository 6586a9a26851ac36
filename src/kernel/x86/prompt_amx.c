/* Products of a prompt's rows through bfloat16 tiles (kernel.h: matmul_prompt).
 *
 * Weights are brought into bfloat16 tiles, 32 rows by 512 columns at a time, which a first-level cache holds (32 KB); then all
 * tokens pass by, 32 at a time: four sums of 16 x 16 stay in tiles over these columns, two tiles of tokens and two of rows
 * are loaded for four tile products, each of 16 cycles. The activations of up to 512 tokens by 1,024 columns (1 MB) stay in
 * a second-level cache while all rows pass by, loaded with a hint not to displace the weights from the first; sums rest in
 * scratch between cuts and in y between such segments, where no bit of theirs is lost. So the order of summation is that of
 * the columns, for any number of rows and tokens.
 *
 * While tiles multiply, memory would idle: the next cut's weights are asked for piece by piece meanwhile.
 */
#include "kernel/lanes.h"
#include "kernel/x86/amx.h"
#include "kernel/x86/prompt.h"
#include "kernel/x86/x86.h"

#define ROW_TILES 2
#define SEGMENT_STEPS 32
#define X_BYTES (1u << 20)
#define MAX_TILES 32 /* of tokens, that go through a row's columns together */

struct scratch {
    _Alignas(64) uint8_t w[ROW_TILES][PROMPT_CUT_STEPS * 2 * PROMPT_TILE_BYTES]; /* [step][part] tiles */
    _Alignas(64) float acc[MAX_TILES][ROW_TILES][16][16]; /* [tile of tokens][of rows] sums: [token][row] */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");

/* What does not change while a segment of a block of tokens is multiplied. */
struct job {
    const struct matmul_args *a;
    const struct prompt_type *type;
    struct scratch *s;
    const uint8_t *x;                  /* the block's first tile of all columns */
    uint32_t first_token, n_tokens;    /* of the block */
    uint32_t first_step, n_steps, all; /* of the segment; of a row */
};

/* ---- what memory is asked for ahead ---- */

/* Weight rows of a cut, as they lie: n streams of so many bytes. */
struct ahead {
    const uint8_t *at;
    size_t stride, bytes;
    uint32_t n, line; /* the next line, counted through */
};

static struct ahead ahead_of(const struct job *j, uint32_t row, uint32_t step)
{
    const struct matmul_args *a = j->a;
    const uint32_t left = j->first_step + j->n_steps - step, n = left < PROMPT_CUT_STEPS ? left : PROMPT_CUT_STEPS;
    const uint32_t rows = a->n_rows - row < ROW_TILES * 16 ? a->n_rows - row : ROW_TILES * 16;
    const size_t unit = (j->type->lanes ? LANES : 1) * a->w_row_bytes;
    return (struct ahead){.at = (const uint8_t *)a->w + row * a->w_row_bytes + unit * step / j->all,
                          .stride = unit,
                          .bytes = unit * n / j->all,
                          .n = j->type->lanes ? rows / LANES : rows};
}

/* About a share of it. */
static void ask(struct ahead *h, uint32_t share)
{
    const uint32_t per_stream = (uint32_t)(h->bytes + 63) / 64, n_lines = per_stream * h->n;
    const uint32_t end = h->line + (n_lines + share - 1) / share;
    for (; h->line < end && h->line < n_lines; h->line++)
        _mm_prefetch((const char *)h->at + h->line / per_stream * h->stride + h->line % per_stream * 64, _MM_HINT_T1);
}

/* ---- tiles ---- */

/* One or two tiles of tokens by one or two of rows; A0 and A1 are tokens, C0 and C1 the sums of A0. */
#define STEP(x0, x1, w0, w1)                                                                                           \
    do {                                                                                                               \
        tile_load_stream(TILE_A0, x0, 64);                                                                             \
        tile_load(TILE_B0, w0, 64);                                                                                    \
        tile_dot_bf16(TILE_C0, TILE_A0, TILE_B0);                                                                      \
        if (n_w > 1) {                                                                                                 \
            tile_load(TILE_B1, w1, 64);                                                                                \
            tile_dot_bf16(TILE_C1, TILE_A0, TILE_B1);                                                                  \
        }                                                                                                              \
        if (n_x > 1) {                                                                                                 \
            tile_load_stream(TILE_A1, x1, 64);                                                                         \
            tile_dot_bf16(TILE_C2, TILE_A1, TILE_B0);                                                                  \
            if (n_w > 1)                                                                                               \
                tile_dot_bf16(TILE_C3, TILE_A1, TILE_B1);                                                              \
        }                                                                                                              \
    } while (0)

#define EACH_SUM(what)                                                                                                 \
    do {                                                                                                               \
        what(TILE_C0, acc[0][0], 64);                                                                                  \
        if (n_w > 1)                                                                                                   \
            what(TILE_C1, acc[0][1], 64);                                                                              \
        if (n_x > 1)                                                                                                   \
            what(TILE_C2, acc[1][0], 64);                                                                              \
        if (n_x > 1 && n_w > 1)                                                                                        \
            what(TILE_C3, acc[1][1], 64);                                                                              \
    } while (0)

/* n steps from the tokens' first tiles at x, x_stride apart. */
INLINE void multiply(const uint8_t *x, size_t x_stride, uint8_t (*w)[PROMPT_CUT_STEPS * 2 * PROMPT_TILE_BYTES],
                     uint32_t n, size_t parts, size_t n_x, size_t n_w, float (*acc)[ROW_TILES][16][16])
{
    const uint8_t *x1 = x + (n_x - 1) * x_stride, *w0 = w[0], *w1 = w[n_w - 1];
    const size_t step = parts * PROMPT_TILE_BYTES;
    EACH_SUM(tile_load);
    for (uint32_t i = 0; i < n; i++, x += step, x1 += step, w0 += step, w1 += step) {
        STEP(x, x1, w0, w1);
        if (parts == 2) {
            STEP(x + PROMPT_TILE_BYTES, x1 + PROMPT_TILE_BYTES, w0, w1);
            STEP(x, x1, w0 + PROMPT_TILE_BYTES, w1 + PROMPT_TILE_BYTES);
        }
    }
    EACH_SUM(tile_store);
}

/* All tokens with n steps from `first` on, whose weights lie in tiles; in the meantime `next` is asked for. */
INLINE void multiply_tokens(const struct job *j, uint32_t first, uint32_t n, size_t parts, size_t n_w,
                            struct ahead *next)
{
    const uint32_t n_tiles = (j->n_tokens + 15) / 16;
    const size_t stride = 16 * j->a->x_row_bytes;
    const uint8_t *x = j->x + first * parts * PROMPT_TILE_BYTES;
    struct scratch *s = j->s;
    for (uint32_t i = 0; i < n_tiles; i += 2, x += 2 * stride) {
        ask(next, (n_tiles + 1) / 2);
        if (i + 1 < n_tiles)
            multiply(x, stride, s->w, n, parts, 2, n_w, &s->acc[i]);
        else
            multiply(x, stride, s->w, n, parts, 1, n_w, &s->acc[i]);
    }
}

static void multiply_cut(const struct job *j, uint32_t first, uint32_t n, uint32_t n_w, struct ahead *next)
{
    if (j->type->parts == 2 && n_w == 2)
        multiply_tokens(j, first, n, 2, 2, next);
    else if (j->type->parts == 2)
        multiply_tokens(j, first, n, 2, 1, next);
    else if (n_w == 2)
        multiply_tokens(j, first, n, 1, 2, next);
    else
        multiply_tokens(j, first, n, 1, 1, next);
}

/* ---- sums ---- */

/* Between y and the scratch: of 16 rows from `row` on, all tokens. */
INLINE void move_sums(const struct job *j, uint32_t row, uint32_t tile, bool out)
{
    static const int column[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}; /* of each row */
    const __m512i to_rows = _mm512_loadu_si512(column);
    const __m512i to_columns = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)prompt_row));
    const uint32_t left = j->a->n_rows - row;
    const __mmask16 rows = left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff;
    for (uint32_t i = 0; i < j->n_tokens; i++) {
        float *y = j->a->y + j->a->y_rows[j->first_token + i] * j->a->y_stride + row;
        float *acc = j->s->acc[i / 16][tile][i % 16];
        if (out)
            _mm512_mask_storeu_ps(y, rows, _mm512_permutexvar_ps(to_rows, _mm512_load_ps(acc)));
        else
            _mm512_store_ps(acc, _mm512_permutexvar_ps(to_columns, _mm512_maskz_loadu_ps(rows, y)));
    }
}

/* ---- a product ---- */

static void multiply_rows(const struct job *j, uint32_t row)
{
    struct scratch *s = j->s;
    const uint32_t end = j->first_step + j->n_steps, left = j->a->n_rows - row;
    const uint32_t n_w = left > 16 ? ROW_TILES : 1;
    if (j->first_step == 0)
        memset(s->acc, 0, sizeof s->acc[0] * ((j->n_tokens + 15) / 16));
    for (uint32_t r = 0; r < n_w && j->first_step; r++)
        move_sums(j, row + 16 * r, r, false);
    for (uint32_t step = j->first_step, n; step < end; step += n) {
        n = end - step < PROMPT_CUT_STEPS ? end - step : PROMPT_CUT_STEPS;
        for (uint32_t r = 0; r < n_w; r++)
            j->type->fill(j->a, row + 16 * r, step, n, s->w[r]);
        struct ahead next = {0};
        if (step + n < end)
            next = ahead_of(j, row, step + n);
        else if (left > ROW_TILES * 16)
            next = ahead_of(j, row + ROW_TILES * 16, j->first_step);
        multiply_cut(j, step, n, n_w, &next);
    }
    for (uint32_t r = 0; r < n_w; r++)
        move_sums(j, row + 16 * r, r, true);
}

static struct prompt_type types[TENSOR_TYPE_COUNT];

static void multiply_prompt(const struct matmul_args *a, enum tensor_type t)
{
    const struct tile_config shapes = tile_shapes(TILE_ROWS, 64, 16);
    struct job j = {
        .a = a, .type = &types[t], .s = a->scratch, .all = (a->n_cols + PROMPT_STEP_COLS - 1) / PROMPT_STEP_COLS};
    const uint32_t segment = j.all < SEGMENT_STEPS ? j.all : SEGMENT_STEPS;
    const uint32_t fit = X_BYTES / (segment * j.type->parts * PROMPT_TILE_BYTES);
    const uint32_t step = 16 * (fit < MAX_TILES ? fit : MAX_TILES);
    tile_begin(&shapes);
    for (uint32_t i = 0; i < a->n_tokens; i += step) {
        j.first_token = i;
        j.n_tokens = a->n_tokens - i < step ? a->n_tokens - i : step;
        j.x = (const uint8_t *)a->x + i * a->x_row_bytes;
        for (j.first_step = 0; j.first_step < j.all; j.first_step += j.n_steps) {
            j.n_steps = j.all - j.first_step < segment ? j.all - j.first_step : segment;
            for (uint32_t row = 0; row < a->n_rows; row += ROW_TILES * 16)
                multiply_rows(&j, row);
        }
    }
    tile_end();
}

#define EACH_TYPE(X)                                                                                                   \
    X(Q8_0)                                                                                                            \
    X(Q4_0)                                                                                                            \
    X(Q4_1)                                                                                                            \
    X(Q5_0)                                                                                                            \
    X(Q5_1)                                                                                                            \
    X(IQ4_NL)                                                                                                          \
    X(MXFP4)                                                                                                           \
    X(Q2_K)                                                                                                            \
    X(Q3_K)                                                                                                            \
    X(Q4_K)                                                                                                            \
    X(Q5_K)                                                                                                            \
    X(Q6_K)                                                                                                            \
    X(IQ4_XS)                                                                                                          \
    X(F16)                                                                                                             \
    X(BF16)
#define MULTIPLY(name)                                                                                                 \
    static void prompt_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        multiply_prompt(a, TENSOR_##name);                                                                             \
    }
EACH_TYPE(MULTIPLY)

void AMX_NAME(x86_prompt)(struct kernels *k)
{
    prompt_blocks(types);
    prompt_supers(types);
    prompt_floats(types);
    k->pack_prompt = prompt_pack;
#define SET(name)                                                                                                      \
    k->matmul_prompt[TENSOR_##name] = prompt_##name;                                                                   \
    k->prompt_parts[TENSOR_##name] = types[TENSOR_##name].parts;
    EACH_TYPE(SET)
}
