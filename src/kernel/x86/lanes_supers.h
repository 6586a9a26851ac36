/* Products with super-blocks in lanes (kernel/lanes.h): included by lanes_supers_{avx2,avx512,vnni}.c.
 *
 * A lane is a row. Four codes of each row, a unit, are multiplied with four activations of a token that are broadcast to
 * all lanes; nothing is summed across lanes. A tile is 16 rows and up to TILE_TOKENS tokens over all columns. Each tile
 * unpacks its units again, beside its products, so that nothing is written back; for very many tokens they are unpacked once.
 *
 * With VNNI four products are summed to 32 bits, and the sum of a sub-block is multiplied by its scale. Codes with an
 * offset begin at -offset times the sum of the activations. Without VNNI two products are summed to 16 bits, and units are
 * added up there as far as they fit; then the two words of a lane are multiplied by two words of its scale and added.
 */
#include "kernel/x86/lanes_super_codes.h"

#if defined __AVX512F__
#define TILE_TOKENS 8
#else
#define TILE_TOKENS 4
#endif
#define FEW_TOKENS (HAS_DOT ? 3 : 1)  /* with VNNI so few that the sums of all codes of a byte fit the registers */
#define PREFETCH_FEW 4096             /* bytes ahead of these, into the first-level cache */
#define ACT_BYTES ((size_t)512 << 10) /* of scratch for activations */
#define PANEL_SUPERS 16               /* unpacked together: 90 KB */

/* ---- activations ---- */

/* Tokens of the next tile, of those left. */
INLINE uint32_t tile_tokens(uint32_t left)
{
    static const uint8_t of_few[8] = {0, 1, 2, 3, 4, 3, 6, 4};
    return left >= TILE_TOKENS ? TILE_TOKENS : of_few[left];
}

/* 256 of a token, as all rows need them. of_sums: with codes that have an offset, what the sum of each sub-block begins
 * at (without VNNI: in 16 bits); else pairs of words for pair_of: sums of sub-blocks s and s + 2, s + 1 and s + 3. */
struct lane_act {
    int8_t q[256];
    int32_t of_sums[16];
    float d;
};

INLINE void put_sums(enum tensor_type t, const struct act_q8k *g, int32_t out[16])
{
    int16_t *words = (int16_t *)(void *)out;
    for (int s = 0; s < (is_wide(t) ? 8 : 16); s++) {
        const int sum = is_wide(t) ? g->sum[2 * s] + g->sum[2 * s + 1] : g->sum[s];
        if (has_first_sums(t))
            out[s] = HAS_DOT ? -code_offset(t) * sum : (uint16_t)(-code_offset(t) * sum);
        else
            words[s / 4 * 4 + s % 2 * 2 + s / 2 % 2] = (int16_t)sum;
    }
}

/* n_blocks super-blocks of n tokens in tiles: [tile][super-block][token]. */
INLINE void lay_out(enum tensor_type t, const uint8_t *x, size_t x_row_bytes, uint32_t n_blocks, uint32_t n,
                    struct lane_act *out)
{
    for (uint32_t n_t; n; n -= n_t, x += n_t * x_row_bytes) {
        n_t = tile_tokens(n);
        for (uint32_t b = 0; b < n_blocks; b++) {
            for (uint32_t i = 0; i < n_t; i++, out++) {
                const struct act_q8k *g = (const struct act_q8k *)(const void *)(x + i * x_row_bytes) + b;
                memcpy(out->q, g->q, sizeof out->q);
                out->d = g->d;
                put_sums(t, g, out->of_sums);
            }
        }
    }
}

/* ---- products ---- */

/* A cell unpacked, for many tokens. */
struct panel_cell {
    vi q[64][HALVES], scale[16][HALVES], pair[8][HALVES];
    vf d[HALVES], minus_dmin[HALVES];
};

/* 16 rows, and n_t tokens (a constant of each function below). */
struct tile {
    const uint8_t *cell;            /* of this super-block, as it is in memory; */
    const struct panel_cell *panel; /* or unpacked */
    const struct lane_act *act;     /* of the first token; the others follow */
    float *y;
    size_t y_stride;
    const uint8_t *ahead;              /* read next, of LANES * super_bytes; or NULL */
    struct scale_bytes scales[HALVES]; /* of the cell in memory */
    vi total[TILE_TOKENS][HALVES];
};

INLINE vi act_at(const struct tile *tile, int token, int unit)
{
    return vi_broadcast_4((const uint8_t *)tile->act[token].q + 4 * unit);
}

INLINE vi sums_at(const struct tile *tile, int token, int index)
{
    return vi_set(tile->act[token].of_sums[index]);
}

INLINE vi codes_at(enum tensor_type t, bool panel, const struct tile *tile, int unit, int half)
{
    return panel ? tile->panel->q[unit][half] : codes(t, tile->cell + 32 * half, unit / 8, unit % 8);
}

INLINE vi scale_at(enum tensor_type t, bool panel, const struct tile *tile, int s, int half)
{
    return panel ? tile->panel->scale[s][half] : scale_of(t, &tile->scales[half], s);
}

INLINE vi pair_at(enum tensor_type t, bool panel, const struct tile *tile, int k, int half)
{
    return panel ? tile->panel->pair[k][half] : pair_of(t, &tile->scales[half], k);
}

/* Compilers gather the sums of an unrolled loop at its end, where the terms no longer fit the registers: not past this. */
INLINE vi settled(vi v)
{
    __asm__("" : "+v"(v));
    return v;
}

INLINE vi add_pairs(vi acc, vi a, vi b)
{
#if HAS_DOT
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return vi_add(acc, vi_madd(a, b));
#endif
}

/* Part i of n of a cell's lines, some cells on, into the first-level cache: so the second-level cache sees nothing but lines
 * in ascending order, and reads on by itself. Volatile, like in_order(): compilers gather prefetches, and a burst of them
 * leaves a core no way to miss anything else (docs/performance.md). */
INLINE void prefetch_stream(enum tensor_type t, const uint8_t *cell, int i, int n)
{
    const int lines = (int)(LANES * super_bytes(t) / 64);
    UNROLL for (int at = lines * i / n; at < lines * (i + 1) / n; at++)
    {
        __asm__ volatile("prefetcht0 %0" : : "m"(cell[PREFETCH_FEW + 64 * at]));
    }
}

INLINE vi in_order(vi v)
{
    __asm__ volatile("" : "+v"(v));
    return v;
}

#if HAS_DOT

/* The units of one scale: the sum of their products times the scale, to the totals. */
INLINE void add_sub_block(enum tensor_type t, bool panel, int index, int n_t, struct tile *tile)
{
    const int n_units = is_wide(t) ? 8 : 4;
    vi dots[TILE_TOKENS];
    UNROLL for (int i = 0; i < n_t; i++) dots[i] = has_first_sums(t) ? sums_at(tile, i, index) : vi_zero();
    UNROLL for (int u = 0; u < n_units; u++)
    {
        const vi w = codes_at(t, panel, tile, index * n_units + u, 0);
        UNROLL for (int i = 0; i < n_t; i++) dots[i] = vi_dot_add(dots[i], w, act_at(tile, i, index * n_units + u));
    }
    const vi scale = scale_at(t, panel, tile, index, 0);
    UNROLL for (int i = 0; i < n_t; i++) tile->total[i][0] = settled(vi_add(tile->total[i][0], vi_mul(dots[i], scale)));
}

/* How many codes a byte holds, with its high bits: so many sub-blocks of 32 have their codes in the same units. */
INLINE int codes_of_byte(enum tensor_type t)
{
    return t == TENSOR_Q4_K ? 2 : t == TENSOR_IQ4_XS ? 1 : t == TENSOR_Q3_K || t == TENSOR_Q5_K ? 8 : 4;
}

/* Sub-blocks of 32 that share units, side by side: each line of the cell is loaded once, in the order of memory. */
INLINE void add_side_by_side(enum tensor_type t, int first, int n_t, struct tile *tile)
{
    const int n = codes_of_byte(t), n_parts = is_wide(t) ? 1 : 2, n_units = 8 / n_parts;
    UNROLL for (int part = 0; part < n_parts; part++)
    {
        vi dots[8][FEW_TOKENS];
        UNROLL for (int c = 0; c < n; c++)
        {
            UNROLL for (int i = 0; i < n_t; i++) dots[c][i] =
                has_first_sums(t) ? sums_at(tile, i, (first + c) * n_parts + part) : vi_zero();
        }
        UNROLL for (int k = 0; k < n_units; k++)
        {
            const int at = part * n_units + k, u = t == TENSOR_IQ4_XS ? at % 2 * 4 + at / 2 : at;
            prefetch_stream(t, tile->cell, first / n * 8 + at, 64 / n);
            UNROLL for (int c = 0; c < n; c++)
            {
                const vi w = codes(t, tile->cell, first + c, u);
                UNROLL for (int i = 0; i < n_t; i++) dots[c][i] =
                    in_order(vi_dot_add(dots[c][i], w, act_at(tile, i, (first + c) * 8 + u)));
            }
        }
        UNROLL for (int c = 0; c < n; c++)
        {
            const vi scale = scale_of(t, &tile->scales[0], (first + c) * n_parts + part);
            UNROLL for (int i = 0; i < n_t; i++) tile->total[i][0] =
                settled(vi_add(tile->total[i][0], vi_mul(dots[c][i], scale)));
        }
    }
}

#else

/* Sums of two products. */
INLINE vi pairs(enum tensor_type t, vi w, vi x)
{
    return codes_signed(t) ? pairs_signed(w, x) : vi_maddubs(w, x);
}

INLINE void add_units(enum tensor_type t, bool panel, int first, int index, int n_t, const struct tile *tile,
                      vi words[TILE_TOKENS][HALVES])
{
    const int n_units = units_that_fit(t);
    UNROLL for (int u = 0; u < n_units; u++)
    {
        vi w[HALVES];
        if (!panel && n_t <= FEW_TOKENS)
            prefetch_stream(t, tile->cell, first + u, 64);
        UNROLL for (int h = 0; h < HALVES; h++) w[h] = codes_at(t, panel, tile, first + u, h);
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const vi x = act_at(tile, i, first + u);
            UNROLL for (int h = 0; h < HALVES; h++)
            {
                const vi two = pairs(t, w[h], x);
                if (u)
                    words[i][h] = in_order(vi_add_16(words[i][h], two));
                else
                    words[i][h] = has_first_sums(t) ? vi_add_16(sums_at(tile, i, index), two) : two;
            }
        }
    }
}

INLINE void add_sub_block(enum tensor_type t, bool panel, int index, int n_t, struct tile *tile)
{
    const int n_units = is_wide(t) ? 8 : 4;
    UNROLL for (int u = 0; u < n_units; u += units_that_fit(t))
    {
        vi words[TILE_TOKENS][HALVES];
        add_units(t, panel, index * n_units + u, index, n_t, tile, words);
        UNROLL for (int h = 0; h < HALVES; h++)
        {
            const vi scale = scale_at(t, panel, tile, index, h);
            UNROLL for (int i = 0; i < n_t; i++) tile->total[i][h] =
                settled(add_pairs(tile->total[i][h], words[i][h], scale));
        }
    }
}

#endif

/* Ends a super-block: what the sums of activations give, and from integers to y. */
INLINE void end_cell(enum tensor_type t, bool panel, const vf d[HALVES], const vf minus_dmin[HALVES], int n_t,
                     const struct tile *tile)
{
    const int n_pairs = pairs_of(t);
    UNROLL for (int h = 0; h < HALVES; h++)
    {
        vi sums[TILE_TOKENS];
        UNROLL for (int i = 0; i < n_t; i++) sums[i] = vi_zero();
        UNROLL for (int k = 0; k < n_pairs; k++)
        {
            const vi pair = pair_at(t, panel, tile, k, h);
            UNROLL for (int i = 0; i < n_t; i++) sums[i] = add_pairs(sums[i], pair, sums_at(tile, i, k));
        }
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const vf x_d = vf_set(tile->act[i].d);
            float *y = tile->y + (size_t)i * tile->y_stride + 8 * h;
            vi total = tile->total[i][h];
            if (has_offset_pairs(t)) /* of Q6_K: 32 times */
                total = vi_sub(total, vi_shift_left(sums[i], 5));
            if (left_shift(t))
                total = vi_shift_signed(total, left_shift(t));
            vf acc = vf_fma(vf_from_vi(total), vf_mul(d[h], x_d), vf_load(y));
            if (has_mins(t))
                acc = vf_fma(vf_from_vi(sums[i]), vf_mul(minus_dmin[h], x_d), acc);
            vf_store(y, acc);
        }
    }
}

/* Where sub-block s's part begins of the lines of a cell. */
INLINE size_t share_at(enum tensor_type t, int s)
{
    const size_t share = (LANES * super_bytes(t) + 63) / (size_t)scales_of(t);
    return share * (size_t)s / 64 * 64;
}

/* n bytes ahead into the second-level cache. A loop: the processor's own prefetcher learns from one instruction that goes
 * from line to line; from fifty it learns nothing. And one that compilers don't see: around theirs they keep fewer sums in
 * registers. */
INLINE const uint8_t *prefetch_next(const uint8_t *ahead, size_t n)
{
    const uint8_t *end = ahead + n;
    __asm__ volatile("1: prefetcht1 (%0)\n\tadd $64, %0\n\tcmp %1, %0\n\tjb 1b" : "+r"(ahead) : "r"(end) : "cc");
    return ahead;
}

/* A cell straight from memory. */
INLINE void add_cell(enum tensor_type t, int n_t, struct tile *tile)
{
    const int n_scales = scales_of(t);
    const uint8_t *ahead = tile->ahead ? tile->ahead : (const uint8_t *)tile->act; /* which is at hand */
    vf d[HALVES], minus_dmin[HALVES];
    UNROLL for (int h = 0; h < HALVES; h++) unpack_scales(t, tile->cell + 32 * h, h, &tile->scales[h]);
#if HAS_DOT
    const int step = codes_of_byte(t), end = n_t <= FEW_TOKENS ? 8 : 0;
    UNROLL for (int s = 0; s < end; s += step) add_side_by_side(t, s, n_t, tile);
#endif
    UNROLL for (int s = HAS_DOT && n_t <= FEW_TOKENS ? n_scales : 0; s < n_scales; s++)
    {
        if (n_t > FEW_TOKENS)
            ahead = prefetch_next(ahead, share_at(t, s + 1) - share_at(t, s));
        add_sub_block(t, false, s, n_t, tile);
    }
    load_d(t, tile->cell, d, minus_dmin);
    end_cell(t, false, d, minus_dmin, n_t, tile);
}

INLINE void add_panel_cell(enum tensor_type t, int n_t, struct tile *tile)
{
    const struct panel_cell *p = tile->panel;
    const int n_scales = scales_of(t);
    for (int s = 0; s < n_scales; s++) {
        if (tile->ahead)
            for (size_t at = share_at(t, s); at < share_at(t, s + 1); at += 64)
                _mm_prefetch((const char *)tile->ahead + at, _MM_HINT_T1);
        add_sub_block(t, true, s, n_t, tile);
    }
    end_cell(t, true, p->d, p->minus_dmin, n_t, tile);
}

INLINE void fill_panel(enum tensor_type t, const uint8_t *cell, uint32_t n_blocks, struct panel_cell *out)
{
    const int n_scales = scales_of(t), n_pairs = pairs_of(t);
    for (uint32_t b = 0; b < n_blocks; b++, cell += LANES * super_bytes(t), out++) {
        UNROLL for (int h = 0; h < HALVES; h++)
        {
            struct scale_bytes scales;
            for (int u = 0; u < 8; u++) {
                UNROLL for (int s = 0; s < 8; s++) out->q[8 * s + u][h] = codes(t, cell + 32 * h, s, u);
            }
            unpack_scales(t, cell + 32 * h, h, &scales);
            UNROLL for (int s = 0; s < n_scales; s++) out->scale[s][h] = scale_of(t, &scales, s);
            UNROLL for (int k = 0; k < n_pairs; k++) out->pair[k][h] = pair_of(t, &scales, k);
        }
        load_d(t, cell, out->d, out->minus_dmin);
    }
}

/* n_blocks super-blocks of a group with n_t tokens: y[token][row], or what they add to y. */
INLINE void multiply_tile(enum tensor_type t, bool panel, struct tile tile, uint32_t n_blocks, int n_t, bool adds)
{
    UNROLL for (int i = 0; i < n_t; i++)
    {
        UNROLL for (int h = 0; !adds && h < HALVES; h++)
            vf_store(tile.y + (size_t)i * tile.y_stride + 8 * h, vf_zero());
    }
    for (uint32_t b = 0; b < n_blocks; b++, tile.act += n_t) {
        UNROLL for (int i = 0; i < n_t; i++)
        {
            UNROLL for (int h = 0; h < HALVES; h++) tile.total[i][h] = vi_zero();
        }
        if (panel) {
            add_panel_cell(t, n_t, &tile);
            tile.panel++;
        } else {
            add_cell(t, n_t, &tile);
            tile.cell += LANES * super_bytes(t);
        }
        tile.ahead = tile.ahead ? tile.ahead + LANES * super_bytes(t) : NULL;
    }
}

/* The tokens of a tile, which begins at x and y. panel: room for n_blocks, or NULL where tokens are too few for it; next:
 * the next group. */
INLINE void multiply_group(enum tensor_type t, struct tile tile, uint32_t n_blocks, uint32_t n_tokens,
                           struct panel_cell *panel, bool adds)
{
    if (panel)
        fill_panel(t, tile.cell, n_blocks, panel);
    tile.panel = panel;
    for (uint32_t n; n_tokens; n_tokens -= n) {
        n = tile_tokens(n_tokens);
#define TILE(n_t)                                                                                                      \
    case n_t:                                                                                                          \
        multiply_tile(t, false, tile, n_blocks, n_t, adds);                                                            \
        break;
        switch (panel && n == TILE_TOKENS ? 0 : n) {
        case 0:
            multiply_tile(t, true, tile, n_blocks, TILE_TOKENS, adds);
            break;
            TILE(1)
            TILE(2)
            TILE(3)
            TILE(4)
#if TILE_TOKENS == 8
            TILE(6)
            TILE(8)
#endif
        }
#undef TILE
        tile.ahead = NULL;
        tile.act += (size_t)n * n_blocks;
        tile.y += n * tile.y_stride;
    }
}

/* From so many tokens on it pays to unpack a piece once: beside products, unpacking is free where registers suffice. */
INLINE uint32_t panel_tokens(enum tensor_type t)
{
    return HALVES == 1 ? (has_high(t) ? 64 : UINT32_MAX) : has_high(t) ? 8 : 24;
}

/* Pieces of columns and tokens whose activations stay in the second-level cache go through all groups. */
INLINE void matmul_lanes_supers(enum tensor_type t, const struct matmul_args *a)
{
    const bool many = a->n_tokens >= panel_tokens(t);
    const uint32_t n_blocks = a->n_cols / 256, most = ACT_BYTES / sizeof(struct lane_act);
    const uint32_t max_piece = many ? PANEL_SUPERS : most / TILE_TOKENS;
    const uint32_t piece = n_blocks < max_piece ? n_blocks : max_piece;
    const uint32_t max_tokens = most / piece / TILE_TOKENS * TILE_TOKENS;
    struct lane_act *x = a->scratch;
    struct panel_cell *panel = many ? (void *)((uint8_t *)a->scratch + ACT_BYTES) : NULL;
    for (uint32_t b = 0, n; b < n_blocks; b += n) {
        n = n_blocks - b < piece ? n_blocks - b : piece;
        for (uint32_t i = 0, n_t; i < a->n_tokens; i += n_t) {
            n_t = a->n_tokens - i < max_tokens ? a->n_tokens - i : max_tokens;
            lay_out(t, (const uint8_t *)a->x + i * a->x_row_bytes + b * sizeof(struct act_q8k), a->x_row_bytes, n, n_t,
                    x);
            struct tile tile = {.cell = (const uint8_t *)a->w + LANES * super_bytes(t) * b,
                                .act = x,
                                .y = a->y + i * a->y_stride,
                                .y_stride = a->y_stride};
            for (uint32_t r = 0; r < a->n_rows; r += LANES, tile.cell += LANES * a->w_row_bytes, tile.y += LANES) {
                tile.ahead = r + LANES < a->n_rows ? tile.cell + LANES * a->w_row_bytes : NULL;
                multiply_group(t, tile, n, n_t, panel, b > 0);
            }
        }
    }
}

#define MATMUL_LANES(name, type)                                                                                       \
    static void matmul_lanes_##name(const struct matmul_args *a)                                                       \
    {                                                                                                                  \
        matmul_lanes_supers(type, a);                                                                                  \
    }
MATMUL_LANES(q2_k, TENSOR_Q2_K)
MATMUL_LANES(q3_k, TENSOR_Q3_K)
MATMUL_LANES(q4_k, TENSOR_Q4_K)
MATMUL_LANES(q5_k, TENSOR_Q5_K)
MATMUL_LANES(q6_k, TENSOR_Q6_K)
MATMUL_LANES(iq4_xs, TENSOR_IQ4_XS)

static void set_matmul_lanes_supers(struct kernels *k)
{
    k->matmul_lanes[TENSOR_Q2_K] = matmul_lanes_q2_k;
    k->matmul_lanes[TENSOR_Q3_K] = matmul_lanes_q3_k;
    k->matmul_lanes[TENSOR_Q4_K] = matmul_lanes_q4_k;
    k->matmul_lanes[TENSOR_Q5_K] = matmul_lanes_q5_k;
    k->matmul_lanes[TENSOR_Q6_K] = matmul_lanes_q6_k;
    k->matmul_lanes[TENSOR_IQ4_XS] = matmul_lanes_iq4_xs;
}
