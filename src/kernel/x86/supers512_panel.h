/* Products with super-blocks for many tokens in AVX-512: 16 rows transposed so that a lane is a row, as in
 * blocks512_panel.h. Included after supers512.h. */

#define PANEL_ROWS 16
#define PANEL_TOKENS 8
#define PANEL_SUPERS 16 /* super-blocks of a row at a time: 90 KB, to stay in the second-level cache */
#define PANEL_MIN_TOKENS 8

/* Without VNNI, signed codes cannot be summed in 16 bits: they take the direct way. */
INLINE bool has_panel(enum tensor_type t)
{
    return !codes_signed(t) || !SIGNED_CODES;
}

struct panel_super {
    __m512i q[64];      /* codes 4k.. in natural order, lane by row */
    __m512i scale[16];  /* of sub-blocks of 16 */
    __m512i of_sums[8]; /* words for sums 2j and 2j + 1 */
    __m512 d, dmin;
};

INLINE void panel_fill_super(enum tensor_type t, const uint8_t *const rows[16], struct panel_super *out)
{
    struct super s[16];
    __m512i v[16];
    for (int r = 0; r < 16; r++) {
        unpack_super(t, rows[r], &s[r]);
        if (codes_signed(t)) { /* unsigned by an offset of 128, which the sums take back */
            UNROLL for (int i = 0; i < 4; i++) s[r].q[i] = _mm512_xor_si512(s[r].q[i], _mm512_set1_epi8(-128));
            const __m256i twice = _mm256_setr_epi16(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            s[r].w.of_sums =
                _mm256_mullo_epi16(_mm256_permutexvar_epi16(twice, s[r].w.scales), _mm256_set1_epi16(-128));
        }
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        for (int r = 0; r < 16; r++)
            v[r] = s[r].q[i];
        transpose_16x16(v);
        for (int k = 0; k < 16; k++)
            out->q[8 * half_of(t, i, k / 8) + k % 8] = v[k];
    }
    for (int r = 0; r < 16; r++)
        v[r] = _mm512_cvtepi16_epi32(s[r].w.scales);
    transpose_16x16(v);
    for (int k = 0; k < 16; k++)
        out->scale[k] = v[scale_word(t, k)];
    for (int r = 0; r < 16; r++)
        v[r] = _mm512_zextsi256_si512(s[r].w.of_sums);
    transpose_16x16(v);
    for (int k = 0; k < 8; k++)
        out->of_sums[k] = v[k];
    uint16_t d[16], dmin[16] = {0};
    for (int r = 0; r < 16; r++) {
        memcpy(&d[r], rows[r] + d_at(t), sizeof *d);
        if (has_mins(t))
            memcpy(&dmin[r], rows[r] + d_at(t) + 2, sizeof *dmin);
    }
    out->d = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)d));
    out->dmin = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)dmin));
}

INLINE __m512i broadcast_4(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* 16 codes (registers q[0..3]) of 16 rows with those of n_t tokens, added to sums. */
INLINE void panel_dot_16(const __m512i *q, const struct act_q8k *const *act, int first, int n_t, __m512i *sums)
{
#if defined __AVX512VNNI__
    UNROLL for (int k = 0; k < 4; k++)
    {
        const __m512i w = q[k];
        UNROLL for (int i = 0; i < n_t; i++) sums[i] =
            _mm512_dpbusd_epi32(sums[i], w, broadcast_4(act[i]->q + first + 4 * k));
    }
#else
    /* Codes are 63 at most: two sums of pairs fit 16 bits. */
    const __m512i one = _mm512_set1_epi16(1);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const int8_t *x = act[i]->q + first;
        __m512i a = _mm512_add_epi16(_mm512_maddubs_epi16(q[0], broadcast_4(x)),
                                     _mm512_maddubs_epi16(q[1], broadcast_4(x + 4)));
        __m512i b = _mm512_add_epi16(_mm512_maddubs_epi16(q[2], broadcast_4(x + 8)),
                                     _mm512_maddubs_epi16(q[3], broadcast_4(x + 12)));
        sums[i] = _mm512_add_epi32(sums[i], _mm512_add_epi32(_mm512_madd_epi16(a, one), _mm512_madd_epi16(b, one)));
    }
#endif
}

/* n_supers super-blocks of 16 rows and n_t tokens, going on from y unless start. wide: scales belong to 32 codes. */
INLINE void panel_tile(const struct panel_super *panel, uint32_t n_supers, const uint8_t *x, size_t x_row_bytes,
                       int n_t, bool wide, bool mins, bool start, float *y, size_t y_stride, __mmask16 rows)
{
    __m512 acc[PANEL_TOKENS];
    UNROLL for (int i = 0; i < n_t; i++) acc[i] =
        start ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y + (size_t)i * y_stride);
    for (uint32_t b = 0; b < n_supers; b++) {
        const struct panel_super *w = &panel[b];
        const struct act_q8k *act[PANEL_TOKENS];
        __m512i sums[PANEL_TOKENS], min_sums[PANEL_TOKENS];
        UNROLL for (int i = 0; i < n_t; i++)
        {
            act[i] = (const struct act_q8k *)(const void *)(x + (size_t)i * x_row_bytes) + b;
            sums[i] = min_sums[i] = _mm512_setzero_si512();
        }
        for (int s = 0; s < 16; s += wide ? 2 : 1) {
            __m512i dots[PANEL_TOKENS];
            UNROLL for (int i = 0; i < n_t; i++) dots[i] = _mm512_setzero_si512();
            panel_dot_16(w->q + 4 * s, act, 16 * s, n_t, dots);
            if (wide)
                panel_dot_16(w->q + 4 * s + 4, act, 16 * s + 16, n_t, dots);
            UNROLL for (int i = 0; i < n_t; i++) sums[i] =
                _mm512_add_epi32(sums[i], _mm512_mullo_epi32(dots[i], w->scale[s]));
        }
        for (int k = 0; k < 8; k++) {
            UNROLL for (int i = 0; i < n_t; i++)
            {
                const __m512i pair = broadcast_4(act[i]->sum + 2 * k);
                if (mins)
                    min_sums[i] = add_pairs(min_sums[i], w->of_sums[k], pair);
                else
                    sums[i] = add_pairs(sums[i], w->of_sums[k], pair);
            }
        }
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const __m512 x_d = _mm512_set1_ps(act[i]->d);
            acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), _mm512_mul_ps(w->d, x_d), acc[i]);
            if (mins)
                acc[i] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(min_sums[i]), _mm512_mul_ps(w->dmin, x_d), acc[i]);
        }
    }
    UNROLL for (int i = 0; i < n_t; i++) _mm512_mask_storeu_ps(y + (size_t)i * y_stride, rows, acc[i]);
}

INLINE void panel_tokens(const struct panel_super *panel, uint32_t n_supers, const uint8_t *x,
                         const struct matmul_args *a, bool wide, bool mins, bool start, float *y, __mmask16 rows)
{
    uint32_t i = 0;
#define TILE(n)                                                                                                        \
    panel_tile(panel, n_supers, x + i * a->x_row_bytes, a->x_row_bytes, n, wide, mins, start, y + i * a->y_stride,     \
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
    struct panel_super panel[PANEL_SUPERS];
    const uint32_t n_blocks = a->n_cols / 256, n_rows = a->n_rows - first;
    const __mmask16 mask = n_rows >= 16 ? 0xffff : (__mmask16)((1u << n_rows) - 1);
    const uint8_t *rows[16], *x = a->x;
    for (uint32_t r = 0; r < 16; r++)
        rows[r] = (const uint8_t *)a->w + (size_t)(first + (r < n_rows ? r : n_rows - 1)) * a->w_row_bytes;
    for (uint32_t b = 0; b < n_blocks; b += PANEL_SUPERS) {
        const uint32_t n = n_blocks - b < PANEL_SUPERS ? n_blocks - b : PANEL_SUPERS;
        for (uint32_t i = 0; i < n; i++) {
            panel_fill_super(t, rows, &panel[i]);
            for (int r = 0; r < 16; r++)
                rows[r] += super_bytes(t);
        }
        panel_tokens(panel, n, x, a, scale_word(t, 1) == 0, has_mins(t), b == 0, a->y + first, mask);
        x += PANEL_SUPERS * sizeof(struct act_q8k);
    }
}

INLINE void matmul_supers(enum tensor_type t, direct_fn direct, const struct matmul_args *a)
{
    uint32_t row = 0;
    if (a->n_tokens >= PANEL_MIN_TOKENS && has_panel(t)) {
        for (; row < a->n_rows && a->n_rows - row > DIRECT_ROWS; row += PANEL_ROWS)
            panel_rows(t, a, row);
    }
    drive_direct(a, direct, row);
}

#define MATMUL_SUPERS(name, type)                                                                                      \
    static void direct_##name(const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x, size_t x_row_bytes,        \
                              uint32_t n_t, float y[4][4])                                                             \
    {                                                                                                                  \
        direct_supers(type, w, n_cols, x, x_row_bytes, n_t, y);                                                        \
    }                                                                                                                  \
    static void matmul_##name(const struct matmul_args *a)                                                             \
    {                                                                                                                  \
        matmul_supers(type, direct_##name, a);                                                                         \
    }
MATMUL_SUPERS(q2_k, TENSOR_Q2_K)
MATMUL_SUPERS(q3_k, TENSOR_Q3_K)
MATMUL_SUPERS(q4_k, TENSOR_Q4_K)
MATMUL_SUPERS(q5_k, TENSOR_Q5_K)
MATMUL_SUPERS(q6_k, TENSOR_Q6_K)
MATMUL_SUPERS(iq4_xs, TENSOR_IQ4_XS)

static void set_matmul_supers(struct kernels *k)
{
    k->matmul[TENSOR_Q2_K] = matmul_q2_k;
    k->matmul[TENSOR_Q3_K] = matmul_q3_k;
    k->matmul[TENSOR_Q4_K] = matmul_q4_k;
    k->matmul[TENSOR_Q5_K] = matmul_q5_k;
    k->matmul[TENSOR_Q6_K] = matmul_q6_k;
    k->matmul[TENSOR_IQ4_XS] = matmul_iq4_xs;
}
