/* Products with blocks of 32 in AVX2: as blocks512.h's direct way, with a group taken as two pairs of blocks. Lane
 * 4b + r of a pair's register is the chain of its block b and row r. */
#include "kernel/half.h"
#include "kernel/x86/drive.h"
#include "kernel/x86/simd256.h"
#include "kernel/x86/types.h"
#include "kernel/x86/x86.h"

/* 0xff where bit i % 16 of word i / 16 is set. */
INLINE __m256i bytes_of_bits(uint16_t first, uint16_t second)
{
    const __m256i words = _mm256_set_m128i(_mm_set1_epi16((short)second), _mm_set1_epi16((short)first));
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1,
                                            1, 1, 1, 1, 1, 1, 1);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(words, spread), bit), bit);
}

/* Two blocks: `lo` holds elements 0..15 of both, `hi` elements 16..31. */
INLINE void unpack_pair(enum tensor_type t, const uint8_t *p, __m256i *lo, __m256i *hi)
{
    const uint8_t *a = p + block_bytes(t), *b = p + 2 * block_bytes(t); /* the blocks' ends */
    if (t == TENSOR_Q8_0) {
        const __m256i u = _mm256_loadu_si256((const void *)(a - 32)), v = _mm256_loadu_si256((const void *)(b - 32));
        *lo = _mm256_permute2x128_si256(u, v, 0x20);
        *hi = _mm256_permute2x128_si256(u, v, 0x31);
        return;
    }
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i raw =
        _mm256_set_m128i(_mm_loadu_si128((const void *)(b - 16)), _mm_loadu_si128((const void *)(a - 16)));
    *lo = _mm256_and_si256(raw, nibble);
    *hi = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
    if (t == TENSOR_Q5_0 || t == TENSOR_Q5_1) {
        const __m256i fifth = _mm256_set1_epi8(16);
        uint16_t first[2], second[2];
        memcpy(first, a - 20, sizeof first);
        memcpy(second, b - 20, sizeof second);
        *lo = _mm256_or_si256(*lo, _mm256_and_si256(bytes_of_bits(first[0], second[0]), fifth));
        *hi = _mm256_or_si256(*hi, _mm256_and_si256(bytes_of_bits(first[1], second[1]), fifth));
    } else if (t == TENSOR_IQ4_NL || t == TENSOR_MXFP4) {
        __m128i table = _mm_loadu_si128((const void *)(t == TENSOR_MXFP4 ? code_mxfp4 : code_iq4));
        if (t == TENSOR_MXFP4)
            table = _mm_add_epi8(table, _mm_set1_epi8(16));
        const __m256i tables = _mm256_broadcastsi128_si256(table);
        *lo = _mm256_shuffle_epi8(tables, *lo);
        *hi = _mm256_shuffle_epi8(tables, *hi);
    }
}

/* Lane 4b + r: the float16 number `at` bytes into block b of row r. */
INLINE __m256 gather_halves(enum tensor_type t, const uint8_t *const p[4], size_t at)
{
    uint16_t h[8];
    UNROLL for (int i = 0; i < 8; i++) memcpy(&h[i], p[i % 4] + (size_t)(i / 4) * block_bytes(t) + at, sizeof *h);
    return _mm256_cvtph_ps(_mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], (short)h[4], (short)h[5],
                                          (short)h[6], (short)h[7]));
}

INLINE __m256 gather_scales(enum tensor_type t, const uint8_t *const p[4])
{
    if (t != TENSOR_MXFP4)
        return gather_halves(t, p, 0);
    const size_t b = block_bytes(t);
    return _mm256_setr_ps(mxfp4_scale(*p[0]), mxfp4_scale(*p[1]), mxfp4_scale(*p[2]), mxfp4_scale(*p[3]),
                          mxfp4_scale(p[0][b]), mxfp4_scale(p[1][b]), mxfp4_scale(p[2][b]), mxfp4_scale(p[3][b]));
}

/* Two numbers, four times each. */
INLINE __m256i spread_2(const void *p)
{
    const __m128i v = _mm_loadl_epi64(p);
    return _mm256_set_m128i(_mm_shuffle_epi32(v, 0x55), _mm_shuffle_epi32(v, 0));
}

/* Blocks 2 * pair and 2 * pair + 1 of a group, of four rows, into chains[token][pair]. */
INLINE void direct_pair(enum tensor_type t, const uint8_t *const rows[4], int pair, const uint8_t *x,
                        size_t x_row_bytes, int n_t, __m256 chains[4][2])
{
    const uint8_t *p[4];
    __m256i lo[4], hi[4];
    UNROLL for (int r = 0; r < 4; r++)
    {
        p[r] = rows[r] + (size_t)(2 * pair) * block_bytes(t);
        unpack_pair(t, p[r], &lo[r], &hi[r]);
    }
    const __m256 d = gather_scales(t, p), m = has_min(t) ? gather_halves(t, p, 2) : _mm256_setzero_ps();
    const int shift = offset_shift(t);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const struct act_q8 *g = (const struct act_q8 *)(const void *)(x + (size_t)i * x_row_bytes);
        const __m256i xlo = _mm256_loadu_si256((const void *)(g->q + 32 * pair));
        const __m256i xhi = _mm256_loadu_si256((const void *)(g->q + 64 + 32 * pair));
        __m256i s[4];
        UNROLL for (int r = 0; r < 4; r++) s[r] = dot_256(lo[r], hi[r], xlo, xhi, is_signed(t));
        __m256i sums = merge_4x2(s[0], s[1], s[2], s[3]);
        const __m256i x_sum = spread_2(g->sum + 2 * pair);
        const __m256 x_d = _mm256_castsi256_ps(spread_2(g->d + 2 * pair));
        if (shift >= 0)
            sums = _mm256_sub_epi32(sums, _mm256_slli_epi32(x_sum, shift));
        __m256 c = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_mul_ps(d, x_d), chains[i][pair]);
        if (has_min(t))
            c = _mm256_fmadd_ps(m, _mm256_mul_ps(x_d, _mm256_cvtepi32_ps(x_sum)), c);
        chains[i][pair] = c;
    }
}

INLINE __m128 add_halves(__m256 v)
{
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

/* The last 1 to 3 blocks of a row, filled up with zeros. */
INLINE void direct_tail(enum tensor_type t, const uint8_t *const p[4], uint32_t n_blocks, const uint8_t *x,
                        size_t x_row_bytes, int n_t, __m256 chains[4][2])
{
    uint8_t copy[4][4 * sizeof(struct block_q8_0)] = {{0}};
    const uint8_t *q[4];
    for (int r = 0; r < 4; r++) {
        memcpy(copy[r], p[r], n_blocks * block_bytes(t));
        q[r] = copy[r];
    }
    for (int pair = 0; pair < 2; pair++)
        direct_pair(t, q, pair, x, x_row_bytes, n_t, chains);
}

INLINE void direct_tokens(enum tensor_type t, const uint8_t *const w[4], uint32_t n_blocks, const uint8_t *x,
                          size_t x_row_bytes, int n_t, float y[4][4])
{
    const size_t group_bytes = 4 * block_bytes(t);
    const uint8_t *p[4] = {w[0], w[1], w[2], w[3]};
    __m128 total[4];
    UNROLL for (int i = 0; i < n_t; i++) total[i] = _mm_setzero_ps();
    for (uint32_t b = 0; b < n_blocks; b += SEGMENT_COLS / 32) {
        const uint32_t left = n_blocks - b, n = left < SEGMENT_COLS / 32 ? left : SEGMENT_COLS / 32;
        __m256 chains[4][2];
        UNROLL for (int i = 0; i < n_t; i++) chains[i][0] = chains[i][1] = _mm256_setzero_ps();
        for (uint32_t g = 0; g < n / 4; g++) {
            UNROLL for (int r = 0; r < 4; r++)
            {
                for (size_t line = 0; line < group_bytes; line += 64)
                    _mm_prefetch((const char *)p[r] + PREFETCH_BYTES + line, _MM_HINT_T0);
            }
            direct_pair(t, p, 0, x, x_row_bytes, n_t, chains);
            direct_pair(t, p, 1, x, x_row_bytes, n_t, chains);
            x += sizeof(struct act_q8);
            UNROLL for (int r = 0; r < 4; r++) p[r] += group_bytes;
        }
        if (n % 4)
            direct_tail(t, p, n % 4, x, x_row_bytes, n_t, chains);
        UNROLL for (int i = 0; i < n_t; i++) total[i] =
            _mm_add_ps(total[i], _mm_add_ps(add_halves(chains[i][0]), add_halves(chains[i][1])));
    }
    UNROLL for (int i = 0; i < n_t; i++) _mm_storeu_ps(y[i], total[i]);
}

#include "kernel/x86/direct_blocks.h"

void x86_blocks_avx2(struct kernels *k)
{
    set_matmul_blocks(k);
}
