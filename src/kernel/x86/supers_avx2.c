/* Products with super-blocks of 256 (K types) in AVX2: as supers512.h, a register for each sub-block of 32. */
#include "kernel/x86/drive.h"
#include "kernel/x86/simd256.h"
#include "kernel/x86/types.h"
#include "kernel/x86/x86.h"

INLINE __m256i load_256(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* Adds `value` to the codes of sub-block j whose bit j is set in `high`. */
INLINE void add_high_bits(const uint8_t *high, int value, __m256i q[8])
{
    const __m256i bits = load_256(high), add = _mm256_set1_epi8((char)value);
    UNROLL for (int j = 0; j < 8; j++)
    {
        const __m256i bit = _mm256_set1_epi8((char)(1 << j));
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit);
        q[j] = _mm256_add_epi8(q[j], _mm256_and_si256(set, add));
    }
}

INLINE void unpack_nibbles(const uint8_t *p, __m256i q[8])
{
    const __m256i nibble = _mm256_set1_epi8(15);
    UNROLL for (int g = 0; g < 4; g++)
    {
        const __m256i raw = load_256(p + 32 * g);
        q[2 * g] = _mm256_and_si256(raw, nibble);
        q[2 * g + 1] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
    }
}

INLINE void unpack_pairs(const uint8_t *p, __m256i q[8])
{
    const __m256i two = _mm256_set1_epi8(3);
    UNROLL for (int n = 0; n < 2; n++)
    {
        const __m256i raw = load_256(p + 32 * n);
        q[4 * n] = _mm256_and_si256(raw, two);
        q[4 * n + 1] = _mm256_and_si256(_mm256_srli_epi16(raw, 2), two);
        q[4 * n + 2] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), two);
        q[4 * n + 3] = _mm256_and_si256(_mm256_srli_epi16(raw, 6), two);
    }
}

INLINE void unpack_q6_k(const struct block_q6_k *b, __m256i q[8])
{
    const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    UNROLL for (int n = 0; n < 2; n++)
    {
        const __m256i low0 = load_256(b->low + 64 * n), low1 = load_256(b->low + 64 * n + 32);
        const __m256i high = load_256(b->high + 32 * n);
        q[4 * n] = _mm256_or_si256(_mm256_and_si256(low0, nibble), _mm256_and_si256(_mm256_slli_epi16(high, 4), top));
        q[4 * n + 1] =
            _mm256_or_si256(_mm256_and_si256(low1, nibble), _mm256_and_si256(_mm256_slli_epi16(high, 2), top));
        q[4 * n + 2] =
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low0, 4), nibble), _mm256_and_si256(high, top));
        q[4 * n + 3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low1, 4), nibble),
                                       _mm256_and_si256(_mm256_srli_epi16(high, 2), top));
    }
}

INLINE void unpack_iq4_xs(const struct block_iq4_xs *b, __m256i q[8])
{
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)code_iq4));
    const __m128i nibble = _mm_set1_epi8(15);
    UNROLL for (int j = 0; j < 8; j++)
    {
        const __m128i raw = _mm_loadu_si128((const void *)(b->q + 16 * j));
        const __m128i low = _mm_and_si128(raw, nibble), high = _mm_and_si128(_mm_srli_epi16(raw, 4), nibble);
        q[j] = _mm256_shuffle_epi8(table, _mm256_set_m128i(high, low));
    }
}

INLINE void unpack_super(enum tensor_type t, const void *block, __m256i q[8], struct super_scales *w)
{
    if (t == TENSOR_Q4_K) {
        const struct block_q4_k *b = block;
        unpack_nibbles(b->q, q);
        scales_q4_k(b->scales, w);
    } else if (t == TENSOR_Q5_K) {
        const struct block_q5_k *b = block;
        unpack_nibbles(b->q, q);
        add_high_bits(b->high, 16, q);
        scales_q4_k(b->scales, w);
    } else if (t == TENSOR_Q6_K) {
        const struct block_q6_k *b = block;
        unpack_q6_k(b, q);
        scales_q6_k(b->scales, w);
    } else if (t == TENSOR_Q3_K) {
        const struct block_q3_k *b = block;
        unpack_pairs(b->q, q);
        add_high_bits(b->high, 4, q);
        scales_q3_k(b->scales, w);
    } else if (t == TENSOR_Q2_K) {
        const struct block_q2_k *b = block;
        unpack_pairs(b->q, q);
        scales_q2_k(b->scales, w);
    } else {
        const struct block_iq4_xs *b = block;
        unpack_iq4_xs(b, q);
        scales_iq4_xs(b, w);
    }
}

/* One super-block of four rows into the sums of n_t tokens. */
INLINE void direct_super(enum tensor_type t, const uint8_t *const p[4], const uint8_t *x, size_t x_row_bytes, int n_t,
                         __m128 *acc)
{
    __m256i sums[4][4], mins[4][4];
    UNROLL for (int r = 0; r < 4; r++)
    {
        __m256i q[8];
        struct super_scales w;
        int16_t scale[16];
        unpack_super(t, p[r], q, &w);
        _mm256_storeu_si256((void *)scale, w.scales);
        UNROLL for (int i = 0; i < n_t; i++)
        {
            const struct act_q8k *g = (const struct act_q8k *)(const void *)(x + (size_t)i * x_row_bytes);
            const __m256i x_sums = load_256(g->sum);
            __m256i sum = _mm256_setzero_si256();
            UNROLL for (int j = 0; j < 8; j++)
            {
                const __m256i codes = load_256(g->q + 32 * j);
                const __m256i pairs = codes_signed(t) ? pairs_signed(q[j], codes) : _mm256_maddubs_epi16(q[j], codes);
                const short s0 = scale[scale_word(t, 2 * j)], s1 = scale[scale_word(t, 2 * j + 1)];
                const __m256i s = scale_word(t, 1) == 0 ? _mm256_set1_epi16(s0)
                                                        : _mm256_set_m128i(_mm_set1_epi16(s1), _mm_set1_epi16(s0));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, s));
            }
            if (has_mins(t))
                mins[i][r] = _mm256_madd_epi16(w.of_sums, x_sums);
            else if (!codes_signed(t))
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w.of_sums, x_sums));
            sums[i][r] = sum;
        }
    }
    const __m128 d = load_halves(p, d_at(t)), dmin = has_mins(t) ? load_halves(p, d_at(t) + 2) : _mm_setzero_ps();
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const struct act_q8k *g = (const struct act_q8k *)(const void *)(x + (size_t)i * x_row_bytes);
        const __m128 x_d = _mm_set1_ps(g->d);
        const __m128i sum = merge_rows_256(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        acc[i] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(d, x_d), acc[i]);
        if (has_mins(t)) {
            const __m128i min = merge_rows_256(mins[i][0], mins[i][1], mins[i][2], mins[i][3]);
            acc[i] = _mm_fnmadd_ps(_mm_cvtepi32_ps(min), _mm_mul_ps(dmin, x_d), acc[i]);
        }
    }
}

#define DIRECT_TOGETHER 2
#include "kernel/x86/direct_supers.h"

void x86_supers_avx2(struct kernels *k)
{
    set_matmul_supers(k);
}
