/* Attention over 8-bit keys and values, in integers: part of attention.h.
 *
 * Scores: a query is rounded to 16 bits and multiplied with the codes of 32 elements; a fused multiply-add with their
 * scale adds the sum, 32 elements after the other. Values: the weights of 64 tokens times the scales of 32 elements are
 * rounded to 15 bits of the largest, and multiplied with codes likewise. With VNNI a word of 16 bits is taken as two
 * bytes; without, codes are widened to 16 bits. */

#define QUERIES_Q8 4   /* together, at most: they have two sums each */
#define TOKEN_GROUP 64 /* tokens whose weights are rounded together, from the span's first on */
#define Q_LARGEST 32512.0f
#define WEIGHT_LARGEST 32767.0f

/* Rounded queries or weights, in the form that they are multiplied in. */
struct words {
#if defined __AVX512VNNI__
    /* Of 32 words, by four of the first half: their low bytes, their high bytes, those of the same four of the second
     * half. A word is 256 high + low; of queries both are signed. */
    _Alignas(64) uint8_t bytes[2 * ATTN_MAX_HEAD_DIM];
#else
    _Alignas(64) int16_t w[ATTN_MAX_HEAD_DIM];
#endif
};

/* 32 words from index i on, a multiple of 32. */
INLINE void words_store(struct words *to, uint32_t i, const vi v[32 / VF_N], bool is_signed)
{
#if defined __AVX512VNNI__
    const vi carry = vi_set(is_signed ? 128 : 0); /* low bytes of 128 and more count less 256 */
    const vi two = _mm512_mask_blend_epi16(0xaaaaaaaa, vi_add(v[0], carry), _mm512_slli_epi32(vi_add(v[1], carry), 16));
    const vi order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const vi sign = _mm512_set1_epi64(is_signed ? 0x80808080 : 0);
    _mm512_store_si512(to->bytes + 2 * (size_t)i, _mm512_xor_si512(_mm512_shuffle_epi8(two, order), sign));
#else
    (void)is_signed;
    UNROLL for (uint32_t j = 0; j < 32 / VF_N; j++) vi_to_i16(to->w + i + j * VF_N, v[j]);
#endif
}

#if defined __AVX512VNNI__
/* The low bytes of four words from index i on, and four bytes later their high ones. */
INLINE const uint8_t *words_at(const struct words *w, uint32_t i)
{
    return w->bytes + (i / 32 * 64 + i % 16 * 4 + i % 32 / 16 * 8);
}
#endif

/* Sums in the making, of two vectors of lanes for each query: of the high and of the low bytes, or of two neighbours. */
struct sums {
    vi part[QUERIES_Q8][2][2];
};

/* Adds n_fours times four words of each query with the four codes of each lane. Codes of keys are unsigned. */
INLINE void sums_add(struct sums *s, int n_q, bool keys, const uint8_t *const codes[2], size_t stride, int n_fours,
                     const struct words *w, uint32_t first_word)
{
    UNROLL for (int f = 0; f < n_fours; f++)
    {
#if defined __AVX512VNNI__
        const vi c0 = _mm512_loadu_si512(codes[0] + (size_t)f * stride);
        const vi c1 = _mm512_loadu_si512(codes[1] + (size_t)f * stride);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const uint8_t *four = words_at(&w[i], first_word + 4 * (uint32_t)f);
            const vi lo = vi_broadcast_4(four), hi = vi_broadcast_4(four + 4);
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
            const vi four = vi_set_4(w[i].w + first_word + 4 * f);
            UNROLL for (int j = 0; j < 2; j++)
            {
                UNROLL for (int half = 0; half < 2; half++) s->part[i][j][half] =
                    vi_add(s->part[i][j][half], vi_madd(c[j][half], four));
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
    struct words w[QUERIES_Q8];
    int32_t offset[QUERIES_Q8][ATTN_MAX_HEAD_DIM / 32]; /* 128 times the sum of 32 words: keys are codes + 128 */
    float scale[QUERIES_Q8];
};

static void query_round(const float *q, uint32_t n, struct words *w, int32_t *offset, float *scale)
{
    vf top = vf_zero();
    for (uint32_t e = 0; e < n; e += VF_N)
        top = vf_max(top, vf_abs(vf_load(q + e)));
    const float largest = vf_reduce_max(top);
    const vf inverse = vf_set(largest > 1e-30f ? Q_LARGEST / largest : 0);
    *scale = largest / Q_LARGEST;
    for (uint32_t e = 0; e < n; e += 32) {
        vi sum = vi_zero();
        vi v[32 / VF_N];
        UNROLL for (uint32_t j = 0; j < 32 / VF_N; j++)
        {
            v[j] = vi_from_vf(vf_mul(vf_load(q + e + j * VF_N), inverse));
            sum = vi_add(sum, v[j]);
        }
        words_store(w, e, v, true);
        offset[e / 32] = 128 * vi_reduce_add(sum);
    }
}

/* Two vectors of tokens. */
INLINE void score_q8(const struct span *s, uint32_t block, const struct query_q8 *q, int n_q, float *score)
{
    const uint32_t n = s->a->head_dim;
    const uint8_t *k[2], *scale[2];
    struct ahead ahead[2];
    UNROLL for (int j = 0; j < 2; j++)
    {
        const uint32_t b = min_u32(block + (uint32_t)j * VF_N / 16, s->n_blocks - 1);
        k[j] = s->k[b] + j * VF_N % 16 * 4;
        scale[j] = s->k_scale[b] + j * VF_N % 16 * 2;
        ahead[j] = s->ahead[b];
        for (uint32_t e = 0; e < n; e += 64)
            ask(s->ahead_scale[b], e);
    }
    vf sum[QUERIES_Q8][2];
    UNROLL for (int i = 0; i < n_q; i++) sum[i][0] = sum[i][1] = vf_zero();
    for (uint32_t e = 0; e < n; e += 32) {
        const uint8_t *const codes[2] = {k[0] + (size_t)e * 16, k[1] + (size_t)e * 16};
        struct sums d;
        sums_clear(&d, n_q);
        UNROLL for (uint32_t line = 0; line < 8; line++)
        {
            ask(ahead[0], (size_t)e * 16 + 64 * line);
            if (VF_N == 16)
                ask(ahead[1], (size_t)e * 16 + 64 * line);
        }
        sums_add(&d, n_q, true, codes, 64, 8, q->w, e);
        UNROLL for (int j = 0; j < 2; j++)
        {
            const vf x = vf_from_f16((const uint16_t *)(const void *)scale[j] + e / 2);
            UNROLL for (int i = 0; i < n_q; i++) sum[i][j] =
                vf_fma(x, vf_from_vi(vi_sub(sums_finish(d.part[i][j]), vi_set(q->offset[i][e / 32]))), sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < 2; j++)
            vf_store(score + i * SCORE_STRIDE + j * VF_N, vf_mul(sum[i][j], vf_set(q->scale[i])));
    }
}

INLINE void scores_q8(const struct span *s, const float *q, int n_q, uint32_t begin, uint32_t end, float *score)
{
    const uint32_t n = s->a->head_dim;
    struct query_q8 r;
    for (int i = 0; i < n_q; i++)
        query_round(q + (size_t)i * n, n, &r.w[i], r.offset[i], &r.scale[i]);
    for (uint32_t t = begin; t < end; t += 2 * VF_N) {
        const uint32_t at = whole_vectors(t, end, 2);
        score_q8(s, at / 16, &r, n_q, score + at);
    }
}

/* ---- values ---- */

/* Weights of tokens [begin, end), within one group, times the scales of elements [element, element + 32) become words, by
 * token of the group. Returns what a unit of the words is worth. */
INLINE float weights_round(const struct span *s, const float *p, uint32_t begin, uint32_t end, uint32_t element,
                           struct words *w)
{
    const uint32_t first = begin / TOKEN_GROUP * TOKEN_GROUP;
    vf x[TOKEN_GROUP / VF_N], top = vf_zero();
    UNROLL for (uint32_t i = 0; i < TOKEN_GROUP / VF_N; i++)
    {
        const uint32_t t = first + i * VF_N;
        x[i] = vf_zero();
        if (t >= begin && t < end) {
            const uint16_t *scale = (const uint16_t *)(const void *)s->v_scale[t / 16] + element / 2 + t % 16;
            x[i] = vf_mul_nonzero(vf_load(p + t), vf_from_f16(scale)); /* what is not seen may hold anything */
        }
        top = vf_max(top, x[i]);
    }
    const float largest = vf_reduce_max(top);
    const vf inverse = vf_set(largest > 1e-30f ? WEIGHT_LARGEST / largest : 0);
    UNROLL for (uint32_t i = 0; i < TOKEN_GROUP / 32; i++)
    {
        vi v[32 / VF_N];
        UNROLL for (uint32_t j = 0; j < 32 / VF_N; j++) v[j] = vi_from_vf(vf_mul(x[i * 32 / VF_N + j], inverse));
        words_store(w, i * 32, v, false);
    }
    return largest / WEIGHT_LARGEST;
}

/* acc[q][element ..] of two vectors over tokens of one group. */
INLINE void weigh_q8(const struct span *s, const struct words *w, const float *unit, int n_q, uint32_t begin,
                     uint32_t end, uint32_t element, float *acc)
{
    const uint32_t n = s->a->head_dim;
    struct sums d;
    sums_clear(&d, n_q);
    for (uint32_t t = begin; t < end; t += 16) {
        const uint8_t *v = s->v[t / 16] + (size_t)element * 4;
        const uint8_t *const codes[2] = {v, v + VF_N * 4};
        const struct ahead ahead = s->ahead[s->n_blocks + t / 16];
        if (element % 64 == 0)
            ask(s->ahead_scale[s->n_blocks + t / 16], element);
        UNROLL for (int f = 0; f < 4; f++)
        {
            ask(ahead, ((size_t)f * n + element) * 4);
            if (VF_N == 16)
                ask(ahead, ((size_t)f * n + element) * 4 + 64);
        }
        sums_add(&d, n_q, false, codes, (size_t)n * 4, 4, w, t % TOKEN_GROUP);
    }
    UNROLL for (int i = 0; i < n_q; i++)
    {
        UNROLL for (int j = 0; j < 2; j++)
        {
            float *to = acc + (size_t)i * n + element + (uint32_t)j * VF_N;
            vf_store(to, vf_fma(vf_from_vi(sums_finish(d.part[i][j])), vf_set(unit[i]), vf_load(to)));
        }
    }
}

INLINE void values_q8(const struct span *s, const float *p, int n_q, uint32_t begin, uint32_t end, float *acc)
{
    const uint32_t n = s->a->head_dim;
    struct words w[QUERIES_Q8];
    float unit[QUERIES_Q8];
    memset(acc, 0, (size_t)n_q * n * sizeof *acc);
    for (uint32_t t = begin, next; t < end; t = next) {
        next = min_u32(end, t + TOKEN_GROUP - t % TOKEN_GROUP);
        for (uint32_t e = 0; e < n; e += 32) {
            for (int i = 0; i < n_q; i++)
                unit[i] = weights_round(s, p + i * SCORE_STRIDE, t, next, e, &w[i]);
            for (uint32_t j = 0; j < 32; j += 2 * VF_N)
                weigh_q8(s, w, unit, n_q, t, next, e + j, acc);
        }
    }
}
