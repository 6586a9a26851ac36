/* Products of a prompt's rows through bfloat16 tiles (kernel.h: matmul_prompt).
 *
 * Weights are brought into bfloat16 tiles, 32 rows by 512 columns at a time, which a first-level cache holds (32 KB); then all
 * tokens pass by, 32 at a time: four sums of 16 x 16 stay in tiles over these columns, two tiles of tokens and two of rows
 * are loaded for four tile products, each of 16 cycles. The activations of up to 512 tokens by 512 columns (512 KB) stay in
 * a second-level cache while the rows of a panel pass by, loaded with a hint not to displace the weights from the first; so
 * do the sums of the panel (1 MB: 512 rows of 512 tokens), until they are complete and go to y, once. The order of summation
 * is that of the columns, for any number of rows and tokens.
 *
 * While tiles multiply, memory would idle: the next cut's weights are asked for piece by piece meanwhile, and complete sums
 * move to y, whose rows lie far apart.
 */
#include "kernel/lanes.h"
#include "kernel/x86/amx.h"
#include "kernel/x86/prompt_few.h"
#include "kernel/x86/x86.h"

#define ROW_TILES 2
#define MAX_TILES 32 /* of tokens, that go through together */
/* Of a second-level cache, what activations and sums of a panel take. */
#define X_BYTES ((size_t)512 << 10)
#define SUM_BYTES ((size_t)1 << 20)

typedef float sums[ROW_TILES][16][16]; /* of a tile of tokens: [tile of rows][token][row] */

struct scratch {
    _Alignas(64) uint8_t w[ROW_TILES][PROMPT_CUT_STEPS * 2 * PROMPT_TILE_BYTES]; /* [step][part] tiles */
    _Alignas(64) uint8_t sums[SUM_BYTES];                                        /* [block of rows][tile of tokens] */
    sums behind[2]; /* loaded behind the last ones, never used */
};
static_assert(sizeof(struct scratch) <= MATMUL_SCRATCH_BYTES, "scratch");
static_assert(SUM_BYTES >= MAX_TILES * sizeof(sums), "scratch");

/* What does not change while a segment of a block of tokens is multiplied. */
struct job {
    const struct matmul_args *a;
    const struct prompt_type *type;
    struct scratch *s;
    const uint8_t *x;                  /* the block's first tile of all columns */
    uint32_t first_token, n_tokens;    /* of the block */
    uint32_t first_step, n_steps, all; /* of the segment; of a row */
    uint32_t end_row;                  /* of the panel */
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
    const size_t unit = (j->type->as_rows ? 1 : LANES) * a->w_row_bytes;
    return (struct ahead){.at = (const uint8_t *)a->w + row * a->w_row_bytes + unit * step / j->all,
                          .stride = unit,
                          .bytes = unit * n / j->all,
                          .n = j->type->as_rows ? rows : (rows + LANES - 1) / LANES};
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

/* One or two tiles of tokens by one or two of rows; A0 and A1 are tokens, C0 and C1 the sums of A0. Behind each product
 * `then` of its sums, of tile [of tokens][of rows]. */
#define STEP(x0, x1, w0, w1, then)                                                                                     \
    do {                                                                                                               \
        tile_load_stream(TILE_A0, x0, 64);                                                                             \
        tile_load(TILE_B0, w0, 64);                                                                                    \
        tile_dot_bf16(TILE_C0, TILE_A0, TILE_B0);                                                                      \
        then(TILE_C0, 0, 0);                                                                                           \
        if (n_w > 1) {                                                                                                 \
            tile_load(TILE_B1, w1, 64);                                                                                \
            tile_dot_bf16(TILE_C1, TILE_A0, TILE_B1);                                                                  \
            then(TILE_C1, 0, 1);                                                                                       \
        }                                                                                                              \
        if (n_x > 1) {                                                                                                 \
            tile_load_stream(TILE_A1, x1, 64);                                                                         \
            tile_dot_bf16(TILE_C2, TILE_A1, TILE_B0);                                                                  \
            then(TILE_C2, 1, 0);                                                                                       \
            if (n_w > 1) {                                                                                             \
                tile_dot_bf16(TILE_C3, TILE_A1, TILE_B1);                                                              \
                then(TILE_C3, 1, 1);                                                                                   \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

#define GO_ON(c, token_tile, row_tile) (void)0

/* Sums that go on from cuts before, or begin. */
#define BEGIN(c, token_tile, row_tile)                                                                                 \
    do {                                                                                                               \
        if (fresh)                                                                                                     \
            tile_zero(c);                                                                                              \
        else                                                                                                           \
            tile_load(c, next[token_tile][row_tile], 64);                                                              \
    } while (0)

/* Each sum makes room for the next one as soon as it is complete: stored and loaded together they would stall the
 * products. */
#define END(c, token_tile, row_tile)                                                                                   \
    do {                                                                                                               \
        tile_store(c, acc[token_tile][row_tile], 64);                                                                  \
        BEGIN(c, token_tile, row_tile);                                                                                \
    } while (0)

/* n steps from the tokens' first tiles at x, x_stride apart; sums from tiles to acc, the next ones to tiles. */
INLINE void multiply(const uint8_t *x, size_t x_stride, const uint8_t *const w[ROW_TILES], uint32_t n, size_t parts,
                     size_t n_x, size_t n_w, sums *acc, sums *next, bool fresh)
{
    const uint8_t *x1 = x + (n_x - 1) * x_stride, *w0 = w[0], *w1 = w[n_w - 1];
    const size_t part = PROMPT_TILE_BYTES, step = parts * part;
    for (uint32_t i = 0; i < n; i++, x += step, x1 += step, w0 += step, w1 += step) {
        if (parts == 2) {
            STEP(x + part, x1 + part, w0, w1, GO_ON);
            STEP(x, x1, w0 + part, w1 + part, GO_ON);
        }
        if (i + 1 < n)
            STEP(x, x1, w0, w1, GO_ON);
        else
            STEP(x, x1, w0, w1, END);
    }
}

/* Of 32 tokens and up to 32 weight rows to y. */
static void put_sums(const struct job *j, uint32_t row, uint32_t tile, const sums *acc)
{
    static const int column[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}; /* of each row */
    static const int same[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const __m512i to_rows = _mm512_loadu_si512(j->type->are_tiles ? same : column);
    const uint32_t rows = j->a->n_rows - row, first = j->first_token + 16 * tile, left = j->n_tokens - 16 * tile;
    const __mmask32 mask = rows < 32 ? (1u << rows) - 1 : 0xffffffff;
    for (uint32_t i = 0; i < 32 && i < left; i++) {
        float *y = j->a->y + prompt_y_row(j->a, first + i) * j->a->y_stride + row;
        const float(*from)[16][16] = acc[tile + i / 16];
        _mm512_mask_storeu_ps(y, (__mmask16)mask, _mm512_permutexvar_ps(to_rows, _mm512_load_ps(from[0][i % 16])));
        if (rows > 16)
            _mm512_mask_storeu_ps(y + 16, (__mmask16)(mask >> 16),
                                  _mm512_permutexvar_ps(to_rows, _mm512_load_ps(from[1][i % 16])));
    }
}

/* All tokens with n steps from `first` on of the rows from `row` on, whose weights lie in tiles at w; in the meantime `ahead` is
 * asked for, and what is complete moves to y, while the next tiles multiply. */
INLINE void multiply_tokens(const struct job *j, uint32_t row, const uint8_t *const w[ROW_TILES], uint32_t first,
                            uint32_t n, size_t parts, size_t n_w, sums *acc, struct ahead *ahead)
{
    const uint32_t n_tiles = (j->n_tokens + 15) / 16;
    const size_t stride = 16 * j->a->x_row_bytes, n_x = 2;
    const uint8_t *x = j->x + first * parts * PROMPT_TILE_BYTES;
    const bool fresh = first == 0, last = first + n == j->all;
    const sums *next = acc;
    BEGIN(TILE_C0, 0, 0);
    BEGIN(TILE_C1, 0, 1);
    BEGIN(TILE_C2, 1, 0);
    BEGIN(TILE_C3, 1, 1);
    for (uint32_t i = 0; i < n_tiles; i += 2, x += 2 * stride) {
        ask(ahead, (n_tiles + 1) / 2);
        if (i + 1 < n_tiles)
            multiply(x, stride, w, n, parts, n_x, n_w, acc + i, acc + i + 2, fresh);
        else
            multiply(x, stride, w, n, parts, 1, n_w, acc + i, acc + i + 2, fresh);
        if (last && i)
            put_sums(j, row, i - 2, acc);
    }
    if (last)
        put_sums(j, row, (n_tiles - 1) / 2 * 2, acc);
}

static void multiply_cut(const struct job *j, uint32_t row, const uint8_t *const w[ROW_TILES], uint32_t first,
                         uint32_t n, uint32_t n_w, sums *acc, struct ahead *ahead)
{
    if (j->type->parts == 2 && n_w == 2)
        multiply_tokens(j, row, w, first, n, 2, 2, acc, ahead);
    else if (j->type->parts == 2)
        multiply_tokens(j, row, w, first, n, 2, 1, acc, ahead);
    else if (n_w == 2)
        multiply_tokens(j, row, w, first, n, 1, 2, acc, ahead);
    else
        multiply_tokens(j, row, w, first, n, 1, 1, acc, ahead);
}

/* ---- a product ---- */

/* Tiles of a cut of 16 rows: where they lie, or made in `made`. */
static const uint8_t *weights(const struct job *j, uint32_t row, uint32_t step, uint32_t n, uint8_t *made)
{
    const uint8_t *tiles = prompt_tiles(j->type, j->a, row);
    if (tiles)
        return tiles + (size_t)step * PROMPT_TILE_BYTES;
    j->type->fill(j->a, row, step, n, made);
    return made;
}

static void multiply_rows(const struct job *j, uint32_t row, sums *acc)
{
    struct scratch *s = j->s;
    const uint32_t end = j->first_step + j->n_steps, n_w = j->a->n_rows - row > 16 ? ROW_TILES : 1;
    for (uint32_t step = j->first_step, n; step < end; step += n) {
        n = end - step < PROMPT_CUT_STEPS ? end - step : PROMPT_CUT_STEPS;
        const uint8_t *w[ROW_TILES];
        for (uint32_t r = 0; r < n_w; r++)
            w[r] = weights(j, row + 16 * r, step, n, s->w[r]);
        struct ahead next = {0};
        if (step + n < end)
            next = ahead_of(j, row, step + n);
        else if (row + ROW_TILES * 16 < j->end_row)
            next = ahead_of(j, row + ROW_TILES * 16, j->first_step);
        multiply_cut(j, row, w, step, n, n_w, acc, &next);
    }
}

static struct prompt_type types[TENSOR_TYPE_COUNT];

static void multiply_block(struct job *j, uint32_t n_tiles)
{
    const struct matmul_args *a = j->a;
    const size_t block = (n_tiles + 1) / 2 * 2 * sizeof(sums);
    uint32_t fit = (uint32_t)(X_BYTES / (n_tiles * j->type->parts * PROMPT_TILE_BYTES));
    fit = fit < PROMPT_CUT_STEPS ? PROMPT_CUT_STEPS : fit / PROMPT_CUT_STEPS * PROMPT_CUT_STEPS;
    const bool one = fit >= j->all;
    const uint32_t panel = one ? a->n_rows : (uint32_t)(SUM_BYTES / block) * ROW_TILES * 16;
    for (uint32_t first = 0; first < a->n_rows; first += panel) {
        j->end_row = a->n_rows - first < panel ? a->n_rows : first + panel;
        for (j->first_step = 0; j->first_step < j->all; j->first_step += j->n_steps) {
            j->n_steps = j->all - j->first_step < fit ? j->all - j->first_step : fit;
            uint8_t *acc = j->s->sums;
            for (uint32_t row = first; row < j->end_row; row += ROW_TILES * 16, acc += one ? 0 : block)
                multiply_rows(j, row, (sums *)(void *)acc);
        }
    }
}

static void multiply_prompt(const struct matmul_args *a, enum tensor_type t)
{
    const struct tile_config shapes = tile_shapes(TILE_ROWS, 64, 16);
    struct job j = {
        .a = a, .type = &types[t], .s = a->scratch, .all = (a->n_cols + PROMPT_STEP_COLS - 1) / PROMPT_STEP_COLS};
    if (prompt_tiles(j.type, a, 0) && few_fit(a)) {
        multiply_few(a);
        return;
    }
    tile_begin(&shapes);
    for (uint32_t i = 0; i < a->n_tokens; i += j.n_tokens) {
        j.first_token = i;
        j.n_tokens = a->n_tokens - i < MAX_TILES * 16 ? a->n_tokens - i : MAX_TILES * 16;
        j.x = (const uint8_t *)a->x + i * a->x_row_bytes;
        multiply_block(&j, (j.n_tokens + 15) / 16);
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
    k->prompt_way_only[TENSOR_BF16] = true;
}
