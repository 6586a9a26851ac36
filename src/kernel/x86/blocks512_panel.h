/* Products with blocks of 32 for many tokens in AVX-512: included after blocks512.h, which tells of both ways. */

/* Rows a panel holds, tokens that go through it at a time. */
#define PANEL_ROWS 16
#define PANEL_TOKENS 8

/* One group of four blocks of 16 rows. Register k of q: bytes 4k.. of act_q8's order, lane by row. */
struct panel_group {
    __m512i q[32];
    __m512 d[4], m[4];
};

INLINE void panel_fill_group(enum tensor_type t, const uint8_t *const rows[16], struct panel_group *out)
{
    __m512i lo[16], hi[16], d[4], m[4];
    for (int quad = 0; quad < 4; quad++) {
        for (int r = 4 * quad; r < 4 * quad + 4; r++)
            unpack_group(t, rows[r], &lo[r], &hi[r]);
        d[quad] = _mm512_castps_si512(gather_scales(t, rows + 4 * quad));
        m[quad] = _mm512_castps_si512(gather_mins(t, rows + 4 * quad));
    }
    transpose_lanes(d);
    transpose_lanes(m);
    for (int b = 0; b < 4; b++) {
        out->d[b] = _mm512_castsi512_ps(d[b]);
        out->m[b] = _mm512_castsi512_ps(m[b]);
    }
    transpose_16x16(lo);
    for (int k = 0; k < 16; k++)
        out->q[k] = lo[k];
    transpose_16x16(hi);
    for (int k = 0; k < 16; k++)
        out->q[16 + k] = hi[k];
}

INLINE void panel_fill(enum tensor_type t, const uint8_t *rows[16], uint32_t n_blocks, struct panel_group *out)
{
    for (uint32_t b = 0; b < n_blocks; b += 4, out++) {
        uint8_t copy[16][4 * sizeof(struct block_q8_0)];
        const uint8_t *p[16];
        for (int r = 0; r < 16; r++) {
            p[r] = rows[r];
            if (n_blocks - b < 4) {
                memset(copy[r], 0, sizeof copy[r]);
                p[r] = memcpy(copy[r], rows[r], (n_blocks - b) * block_bytes(t));
            }
            rows[r] += 4 * block_bytes(t);
        }
        panel_fill_group(t, p, out);
    }
}

INLINE __m512i broadcast_4(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* The 32 codes of one block of 16 rows with those of n_t tokens. */
INLINE void panel_dot(const __m512i *q, const int8_t *const *x, int n_t, __m512i *sums)
{
#if defined __AVX512VNNI__
    UNROLL for (int i = 0; i < n_t; i++) sums[i] = _mm512_setzero_si512();
    UNROLL for (int k = 0; k < 8; k++)
    {
        const __m512i w = q[k < 4 ? k : 12 + k];
        UNROLL for (int i = 0; i < n_t; i++) sums[i] =
            _mm512_dpbusd_epi32(sums[i], w, broadcast_4(x[i] + (k < 4 ? 4 * k : 48 + 4 * k)));
    }
#else
    /* Codes are 31 at most here: 4 * 2 * 31 * 127 fits 16 bits. */
    UNROLL for (int i = 0; i < n_t; i++) sums[i] = _mm512_setzero_si512();
    UNROLL for (int half = 0; half < 2; half++)
    {
        UNROLL for (int i = 0; i < n_t; i++)
        {
            __m512i pairs = _mm512_setzero_si512();
            UNROLL for (int k = 0; k < 4; k++) pairs =
                _mm512_add_epi16(pairs, _mm512_maddubs_epi16(q[16 * half + k], broadcast_4(x[i] + 64 * half + 4 * k)));
            sums[i] = _mm512_add_epi32(sums[i], _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        }
    }
#endif
}

/* One segment of n_groups groups: adds its sum to y, or starts it. */
INLINE void panel_tile(const struct panel_group *panel, uint32_t n_groups, const uint8_t *x, size_t x_row_bytes,
                       int n_t, int shift, bool mins, bool start, float *y, size_t y_stride, __mmask16 rows)
{
    __m512 chain[4][PANEL_TOKENS];
    for (int b = 0; b < 4; b++) {
        __m512 c[PANEL_TOKENS];
        UNROLL for (int i = 0; i < n_t; i++) c[i] = _mm512_setzero_ps();
        for (uint32_t g = 0; g < n_groups; g++) {
            const struct act_q8 *act[PANEL_TOKENS];
            const int8_t *q[PANEL_TOKENS];
            __m512i sums[PANEL_TOKENS];
            UNROLL for (int i = 0; i < n_t; i++)
            {
                act[i] = (const struct act_q8 *)(const void *)(x + (size_t)i * x_row_bytes) + g;
                q[i] = act[i]->q + 16 * b;
            }
            panel_dot(panel[g].q + 4 * b, q, n_t, sums);
            const __m512 d = panel[g].d[b], m = panel[g].m[b];
            UNROLL for (int i = 0; i < n_t; i++)
            {
                const __m512 x_d = _mm512_set1_ps(act[i]->d[b]);
                __m512i s = sums[i];
                if (shift >= 0)
                    s = _mm512_sub_epi32(s, _mm512_set1_epi32((int32_t)((uint32_t)act[i]->sum[b] << shift)));
                c[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, x_d), c[i]);
                if (mins)
                    c[i] = _mm512_fmadd_ps(m, _mm512_set1_ps(act[i]->d[b] * (float)act[i]->sum[b]), c[i]);
            }
        }
        UNROLL for (int i = 0; i < n_t; i++) chain[b][i] = c[i];
    }
    UNROLL for (int i = 0; i < n_t; i++)
    {
        float *out = y + (size_t)i * y_stride;
        __m512 sum = _mm512_add_ps(_mm512_add_ps(chain[0][i], chain[1][i]), _mm512_add_ps(chain[2][i], chain[3][i]));
        __m512 before = start ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, out);
        _mm512_mask_storeu_ps(out, rows, _mm512_add_ps(before, sum));
    }
}

/* All tokens through one segment of a panel. */
INLINE void panel_tokens(const struct panel_group *panel, uint32_t n_groups, const uint8_t *x,
                         const struct matmul_args *a, int shift, bool mins, bool start, float *y, __mmask16 rows)
{
    uint32_t i = 0;
#define TILE(n)                                                                                                        \
    panel_tile(panel, n_groups, x + i * a->x_row_bytes, a->x_row_bytes, n, shift, mins, start, y + i * a->y_stride,    \
               a->y_stride, rows)
    for (; a->n_tokens - i >= PANEL_TOKENS; i += PANEL_TOKENS)
        TILE(PANEL_TOKENS);
    if (a->n_tokens - i >= 4) {
        TILE(4);
        i += 4;
    }
    for (; i < a->n_tokens; i++)
        TILE(1);
#undef TILE
}

/* Rows first .. first + 15 (those from n_rows on are computed from the last, and dropped), all tokens. */
INLINE void panel_rows(enum tensor_type t, const struct matmul_args *a, uint32_t first)
{
    struct panel_group panel[SEGMENT_COLS / ACT_Q8_GROUP];
    const uint32_t n_blocks = a->n_cols / 32, n_rows = a->n_rows - first;
    const __mmask16 mask = n_rows >= 16 ? 0xffff : (__mmask16)((1u << n_rows) - 1);
    const uint8_t *rows[16];
    for (uint32_t r = 0; r < 16; r++)
        rows[r] = (const uint8_t *)a->w + (size_t)(first + (r < n_rows ? r : n_rows - 1)) * a->w_row_bytes;
    const uint8_t *x = a->x;
    for (uint32_t b = 0; b < n_blocks; b += SEGMENT_COLS / 32) {
        const uint32_t left = n_blocks - b, n = left < SEGMENT_COLS / 32 ? left : SEGMENT_COLS / 32;
        panel_fill(t, rows, n, panel);
        panel_tokens(panel, (n + 3) / 4, x, a, offset_shift(t), has_min(t), b == 0, a->y + first, mask);
        x += SEGMENT_COLS / ACT_Q8_GROUP * sizeof(struct act_q8);
    }
}

/* ---- choice ---- */

/* From so many tokens on, transposing a panel costs less than merging sums. */
#define PANEL_MIN_TOKENS 14

INLINE void matmul_blocks(enum tensor_type t, direct_fn direct, const struct matmul_args *a)
{
    uint32_t row = 0;
    if (a->n_tokens >= PANEL_MIN_TOKENS && !is_signed(t)) {
        for (; row < a->n_rows && a->n_rows - row > DIRECT_ROWS; row += PANEL_ROWS)
            panel_rows(t, a, row);
    }
    drive_direct(a, direct, row);
}

#define MATMUL_BLOCKS(name, type)                                                                                      \
    static void direct_##name(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes,        \
                              uint32_t n_t, float y[4][4])                                                             \
    {                                                                                                                  \
        direct_blocks(type, w, n_cols, x, x_row_bytes, n_t, y);                                                        \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        matmul_blocks(type, direct_##name, a);                                                                         \
    }
MATMUL_BLOCKS(q8_0, TENSOR_Q8_0)
MATMUL_BLOCKS(q4_0, TENSOR_Q4_0)
MATMUL_BLOCKS(q4_1, TENSOR_Q4_1)
MATMUL_BLOCKS(q5_0, TENSOR_Q5_0)
MATMUL_BLOCKS(q5_1, TENSOR_Q5_1)
MATMUL_BLOCKS(iq4_nl, TENSOR_IQ4_NL)
MATMUL_BLOCKS(mxfp4, TENSOR_MXFP4)

static void set_matmul_blocks(struct kernels *k)
{
    k->matmul[TENSOR_Q8_0] = matmul_q8_0;
    k->matmul[TENSOR_Q4_0] = matmul_q4_0;
    k->matmul[TENSOR_Q4_1] = matmul_q4_1;
    k->matmul[TENSOR_Q5_0] = matmul_q5_0;
    k->matmul[TENSOR_Q5_1] = matmul_q5_1;
    k->matmul[TENSOR_IQ4_NL] = matmul_iq4_nl;
    k->matmul[TENSOR_MXFP4] = matmul_mxfp4;
}
