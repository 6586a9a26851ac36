/* Attention over 8-bit keys and values, in integers: part of attention.h.
 *
 * Scores: a query is rounded to 16 bits and multiplied with the codes of 32 elements; a fused multiply-add with their
 * scale adds the sum, 32 elements after the other. Values: the weights of 64 tokens times the scales of 32 elements are
 * rounded to 15 bits of the largest, and multiplied with codes likewise. With VNNI a word of 16 bits is taken as two
 * bytes; without, codes are widened to 16 bits. */

#define QUERIES_Q8 4   /* whose products are summed together, at most: they have two sums each */
#define TOKEN_GROUP 64 /* tokens whose weights are rounded together, from the span's first on */
#define MAX_SLICES (ATTN_MAX_HEAD_DIM / 32)
#define Q_LARGEST 32512.0f
#define WEIGHT_LARGEST 32767.0f

/* Rounded queries or weights are words of 16 bits, in the form that they are multiplied in. With VNNI: of 32 words, by four
 * of the first half: their low bytes, their high bytes, those of the same four of the second half. A word is 256 high + low;
 * of queries both are signed. */

/* 32 words. */
INLINE void words_store(int16_t *to, const vi v[32 / VF_N], bool is_signed)
{
#if defined __AVX512VNNI__
    vi two = _mm512_mask_blend_epi16(0xaaaaaaaa, v[0], _mm512_slli_epi32(v[1], 16));
    if (is_signed) /* low bytes of 128 and more count less 256 */
        two = _mm512_add_epi16(two, _mm512_set1_epi16(128));
    const vi order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const vi bytes = _mm512_shuffle_epi8(two, order);
    vi_store(to, is_signed ? _mm512_xor_si512(bytes, _mm512_set1_epi64(0x80808080)) : bytes);
#else
    (void)is_signed;
    UNROLL for (uint32_t j = 0; j < 32 / VF_N; j++) vi_to_i16(to + j * VF_N, v[j]);
#endif
}

/* Where four of 32 words are, in bytes: those from index 4 f on. */
INLINE uint32_t words_offset(uint32_t f)
{
#if defined __AVX512VNNI__
    return f % 4 * 16 + f / 4 * 8;
#else
    return f * 8;
#endif
}

/* Sums in the making, of two vectors of lanes for each query: of the high and of the low bytes, or of two neighbours. */
struct sums {
    vi part[QUERIES_Q8][2][2];
};

/* Adds n_fours times four words of each query, `next` words apart, with the four codes of each lane, from the words' index
 * `first` on, a multiple of 16. Codes of keys are unsigned. Memory is asked for evenly meanwhile, if there is `ahead`. */
INLINE void sums_add(struct sums *s, int n_q, bool keys, const uint8_t *const codes[2], size_t stride, int n_fours,
                     const int16_t *w, size_t next, uint32_t first, const struct ahead *ahead)
{
    const uint8_t *words = (const uint8_t *)(w + first / 32 * 32) + words_offset(first % 32 / 4);
    UNROLL for (int f = 0; f < n_fours; f++)
    {
        const uint8_t *four = words + words_offset((uint32_t)f);
        if (ahead) {
            ask(ahead[0], (size_t)f * stride);
            if (VF_N == 16)
                ask(ahead[1], (size_t)f * stride);
        }
#if defined __AVX512VNNI__
        const vi c0 = _mm512_loadu_si512(codes[0] + (size_t)f * stride);
        const vi c1 = _mm512_loadu_si512(codes[1] + (size_t)f * stride);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const uint8_t *of = four + (size_t)i * next * 2;
            const vi lo = vi_broadcast_4(of), hi = vi_broadcast_4(of + 4);
            vi(*p)[2] = s->part[i];
            p[0][0] = keys ? _mm512_dpbusd_epi32(p[0][0], c0, hi) : _mm512_dpbusd_epi32(p[0][0], hi, c0);
            p[0][1] = keys ? _mm512_dpbusd_epi32(p[0][1], c0, lo) : _mm512_dpbusd_epi32(p[0][1], lo, c0);
            p[1][0] = keys ? _mm512_dpbusd_epi32(p[1][0], c1, hi) : _mm512_dpbusd_epi32(p[1][0], hi, c1);
            p[1][1] = keys ? _mm512_dpbusd_epi32(p[1][1], c1, lo) : _mm512_dpbusd_epi32(p[1][1], lo, c1);
        }
#else
        vi c[2][2];
        UNROLL for (int j = 0; j < 2; j++)
        {
            UNROLL for (int half = 0; half < 2; half++) c[j][half] =
                vi_widen_8(codes[j] + (size_t)f * stride + half * VF_N * 2, keys);
        }
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vi w4 = vi_set_4((const int16_t *)(const void *)four + (size_t)i * next);
            UNROLL for (int j = 0; j < 2; j++)
            {
                UNROLL for (int half = 0; half < 2; half++) s->part[i][j][half] =
                    vi_add(s->part[i][j][half], vi_madd(c[j][half], w4));
            }
        }
#endif
    }
}

INLINE vi sums_finish(const vi part[2])
{
#if defined __AVX512VNNI__
    return vi_add(_mm512_slli_epi32(part[0], 8), part[1]);
#else
    return vi_pair_sums(part[0], part[1]);
#endif
}

INLINE void sums_clear(struct sums *s, int n_q)
{
    UNROLL for (int i = 0; i < n_q; i++) s->part[i][0][0] = s->part[i][0][1] = s->part[i][1][0] = s->part[i][1][1] =
        vi_zero();
}

/* ---- scores ---- */

struct query_q8 {
    _Alignas(64) int16_t w[QUERIES][ATTN_MAX_HEAD_DIM];
    int32_t offset[QUERIES][MAX_SLICES]; /* 128 times the sum of 32 words: keys are codes + 128 */
    float scale[QUERIES];
};

static void query_round(const float *q, uint32_t n, int16_t *w, int32_t *offset, float *scale)
{
    vf top = vf_zero();
    for (uint32_t e = 0; e < n; e += VF_N)
        top = vf_max(top, vf_abs(vf_load(q + e)));
    const float largest = vf_reduce_max(top);
    const vf inverse = vf_set(largest > 1e-30f ? Q_LARGEST / largest : 0);
    *scale = largest * (LOG2_E / Q_LARGEST);
    for (uint32_t e = 0; e < n; e += 32) {
        vi sum = vi_zero();
        vi v[32 / VF_N];
        UNROLL for (uint32_t j = 0; j < 32 / VF_N; j++)
        {
            v[j] = vi_from_vf(vf_mul(vf_load(q + e + j * VF_N), inverse));
            sum = vi_add(sum, v[j]);
        }
        words_store(w + e, v, true);
        offset[e / 32] = -128 * vi_reduce_add(sum);
    }
}

/* Two vectors of tokens, with n_q queries from `first` on: the first ones ask for memory. */
INLINE void score_q8(const struct span *s, uint32_t token, const struct query_q8 *q, int first, int n_q, float *score)
{
    const uint32_t n = s->a->head_dim;
    const uint8_t *k[2], *scale[2];
    struct ahead ahead[2];
    UNROLL for (int j = 0; j < 2; j++)
    {
        const uint32_t b = min_u32((token + (uint32_t)j * VF_N) / 16, s->n_blocks - 1);
        k[j] = s->k[b] + j * VF_N % 16 * 4;
        scale[j] = s->k_scale[b] + j * VF_N % 16 * 2;
        ahead[j] = s->ahead[b];
        for (uint32_t e = 0; !first && e < n; e += 64)
            ask(s->ahead_scale[b], e);
    }
    vf sum[QUERIES_Q8][2];
    UNROLL for (int i = 0; i < n_q; i++) sum[i][0] = sum[i][1] = vf_zero();
    for (uint32_t e = 0; e < n; e += 32) {
        const uint8_t *const codes[2] = {k[0] + (size_t)e * 16, k[1] + (size_t)e * 16};
        struct sums d;
        sums_clear(&d, n_q);
        const struct ahead next[2] = {ahead_at(ahead[0], (size_t)e * 16), ahead_at(ahead[1], (size_t)e * 16)};
        sums_add(&d, n_q, true, codes, 64, 8, q->w[first], ATTN_MAX_HEAD_DIM, e, first ? NULL : next);
        UNROLL for (int j = 0; j < 2; j++)
        {
            const vf x = vf_from_f16((const uint16_t *)(const void *)scale[j] + e / 2);
            UNROLL for (int i = 0; i < n_q; i++)
            {
                const vi dot = vi_add(sums_finish(d.part[i][j]), vi_set(q->offset[first + i][e / 32]));
                sum[i][j] = vf_fma(x, vf_from_vi(dot), sum[i][j]);
            }
        }
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < 2; j++)
            vf_store(score + i * SCORE_STRIDE + j * VF_N, vf_mul(sum[i][j], vf_set(q->scale[first + i])));
    }
}

INLINE void scores_q8(const struct span *s, const float *q, int n_q, uint32_t begin, uint32_t end, float *score)
{
    const uint32_t n = s->a->head_dim;
    struct query_q8 r;
    for (int i = 0; i < n_q; i++)
        query_round(q + (size_t)i * n, n, r.w[i], r.offset[i], &r.scale[i]);
    for (uint32_t t = begin; t < end; t += 2 * VF_N) {
        const uint32_t at = whole_vectors(t, end, 2);
        score_q8(s, at, &r, 0, n_q < QUERIES_Q8 ? n_q : QUERIES_Q8, score + at);
        if (n_q > QUERIES_Q8)
            score_q8(s, at, &r, QUERIES_Q8, n_q - QUERIES_Q8, score + QUERIES_Q8 * SCORE_STRIDE + at);
    }
}

/* ---- values ---- */

/* Weights of a group of tokens and some queries, times the scales of 32 elements each, as words. */
struct weights_q8 {
    _Alignas(64) int16_t w[QUERIES_Q8][MAX_SLICES * TOKEN_GROUP];
    float unit[MAX_SLICES][16]; /* what a unit of the words is worth, of query i at 4 i */
};

/* From the largest number of each query in any lane: what it is multiplied with to be a word, in all lanes. */
INLINE void weight_units(const vf top[QUERIES_Q8], int n_q, vf inverse[QUERIES_Q8], float unit[16])
{
#if VF_N == 16
    const vf all = reduce_4(top, n_q, vf_max);
    vf_store(unit, vf_mul(all, vf_set(1 / WEIGHT_LARGEST)));
    spread_4(vf_zero_below(vf_div(vf_set(WEIGHT_LARGEST), all), all, 1e-30f), inverse);
#else
    for (int i = 0; i < n_q; i++) {
        const float largest = vf_reduce_max(top[i]);
        inverse[i] = vf_set(largest > 1e-30f ? WEIGHT_LARGEST / largest : 0);
        unit[4 * i] = largest * (1 / WEIGHT_LARGEST);
    }
#endif
}

/* Of the group from token `group` on; what the queries see is in [first, last). */
INLINE void weights_round(const struct span *s, const float *p, int n_q, uint32_t group, uint32_t first, uint32_t last,
                          struct weights_q8 *to)
{
    enum { N = TOKEN_GROUP / VF_N };
    for (uint32_t e = 0; e < s->a->head_dim; e += 32) {
        vf x[QUERIES_Q8][N], top[QUERIES_Q8], inverse[QUERIES_Q8];
        UNROLL for (uint32_t j = 0; j < N; j++)
        {
            const uint32_t at = group + j * VF_N, block = min_u32(at / 16, s->n_blocks - 1);
            const vf scale = vf_from_f16((const uint16_t *)(const void *)s->v_scale[block] + e / 2 + at % 16);
            const vm seen = vm_range(at, first, last); /* what is not may hold anything */
            UNROLL for (int i = 0; i < n_q; i++)
            {
                x[i][j] = vf_mul_where(seen, vf_load(p + i * SCORE_STRIDE + at), scale);
                top[i] = j ? vf_max(top[i], x[i][j]) : x[i][j];
            }
        }
        weight_units(top, n_q, inverse, to->unit[e / 32]);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            UNROLL for (uint32_t j = 0; j < N; j += 32 / VF_N)
            {
                vi v[32 / VF_N];
                UNROLL for (uint32_t k = 0; k < 32 / VF_N; k++) v[k] = vi_from_vf(vf_mul(x[i][j + k], inverse[i]));
                words_store(to->w[i] + e * 2 + j * VF_N, v, false);
            }
        }
    }
}

/* acc[q][element ..] of two vectors over a group's tokens. */
INLINE void weigh_q8(const struct span *s, const struct weights_q8 *w, bool asks, int n_q, uint32_t group,
                     uint32_t element, float *acc)
{
    const uint32_t n = s->a->head_dim;
    struct sums d;
    sums_clear(&d, n_q);
    UNROLL for (uint32_t i = 0; i < TOKEN_GROUP / 16; i++)
    {
        const uint32_t block = min_u32(group / 16 + i, s->n_blocks - 1); /* past the last: what weighs nothing */
        const uint8_t *v = s->v[block] + (size_t)element * 4;
        const uint8_t *const codes[2] = {v, v + VF_N * 4};
        const struct ahead ahead = ahead_at(s->ahead[s->n_blocks + block], (size_t)element * 4);
        const struct ahead next[2] = {ahead, ahead_at(ahead, 64)};
        if (asks && element % 64 == 0)
            ask(s->ahead_scale[s->n_blocks + block], element);
        sums_add(&d, n_q, false, codes, (size_t)n * 4, 4, w->w[0] + element / 32 * TOKEN_GROUP,
                 MAX_SLICES * TOKEN_GROUP, 16 * i, asks ? next : NULL);
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        const vf unit = vf_set(w->unit[element / 32][4 * i]);
        UNROLL for (int j = 0; j < 2; j++)
        {
            float *to = acc + (size_t)i * n + element + (uint32_t)j * VF_N;
            vf_store(to, vf_fma(vf_from_vi(sums_finish(d.part[i][j])), unit, vf_load(to)));
        }
    }
}

/* Weights and values of up to eight queries, by four. */
struct weights_q8_both {
    struct weights_q8 w[2];
};

INLINE void weights_round_both(const struct span *s, const float *p, int n_q, uint32_t group, uint32_t first,
                               uint32_t last, struct weights_q8_both *to)
{
    weights_round(s, p, n_q < QUERIES_Q8 ? n_q : QUERIES_Q8, group, first, last, &to->w[0]);
    if (n_q > QUERIES_Q8)
        weights_round(s, p + QUERIES_Q8 * SCORE_STRIDE, n_q - QUERIES_Q8, group, first, last, &to->w[1]);
}

INLINE void values_q8(const struct span *s, const float *p, int n_q, uint32_t first, uint32_t last, float *acc)
{
    const uint32_t n = s->a->head_dim, begin = first / TOKEN_GROUP * TOKEN_GROUP;
    struct weights_q8_both w[2];
    memset(acc, 0, (size_t)n_q * n * sizeof *acc);
    weights_round_both(s, p, n_q, begin, first, last, &w[0]);
    for (uint32_t group = begin, i = 0; group < last; group += TOKEN_GROUP, i ^= 1) {
        if (group + TOKEN_GROUP < last) /* before products that need not wait for it */
            weights_round_both(s, p, n_q, group + TOKEN_GROUP, first, last, &w[i ^ 1]);
        for (uint32_t e = 0; e < n; e += 2 * VF_N) {
            weigh_q8(s, &w[i].w[0], true, n_q < QUERIES_Q8 ? n_q : QUERIES_Q8, group, e, acc);
            if (n_q > QUERIES_Q8)
                weigh_q8(s, &w[i].w[1], false, n_q - QUERIES_Q8, group, e, acc + (size_t)QUERIES_Q8 * n);
        }
    }
}
