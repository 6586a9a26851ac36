/* Products with blocks of 32 in AVX-512: included by blocks_avx512.c and blocks_vnni.c, which differ in one step (dot).
 *
 * Four blocks of a row, a group of 128 codes, fill two registers: `lo` holds elements 0..15 of the four blocks, `hi`
 * elements 16..31, so that each 128-bit lane belongs to one block. struct act_q8 stores activations in that order.
 *
 * 4 rows x T tokens: the sums of four rows are merged into one register of 4 blocks x 4 rows; lane 4b + r is chain b of
 * row r, so one fused multiply-add advances all four chains of four rows.
 */
#include "kernel/x86/drive.h"
#include "kernel/x86/simd512.h"
#include "kernel/x86/types.h"

#include <string.h>

/* ---- unpacking ---- */

/* Four times 16 bytes, `stride` apart. */
INLINE __m512i load_4x16(const uint8_t *p, size_t stride)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(p + stride)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(p + 2 * stride)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(p + 3 * stride)), 3);
}

INLINE __m512i load_2x32(const uint8_t *p, size_t stride)
{
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)p));
    return _mm512_inserti64x4(v, _mm256_loadu_si256((const void *)(p + stride)), 1);
}

/* The four blocks' 32 high bits: low halves and high halves, each as a mask of 64 bytes. */
INLINE void high_bits(const uint8_t *p, size_t stride, __mmask64 *lo, __mmask64 *hi)
{
    int32_t bits[4];
    for (int b = 0; b < 4; b++)
        memcpy(&bits[b], p + (size_t)b * stride, sizeof *bits);
    const __m128i halves = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m128i sorted = _mm_shuffle_epi8(_mm_setr_epi32(bits[0], bits[1], bits[2], bits[3]), halves);
    *lo = (__mmask64)_mm_cvtsi128_si64(sorted);
    *hi = (__mmask64)_mm_extract_epi64(sorted, 1);
}

/* The group of four blocks at p, as unsigned codes unless is_signed(). */
INLINE void unpack_group(enum tensor_type t, const uint8_t *p, __m512i *lo, __m512i *hi)
{
    const size_t stride = block_bytes(t);
    if (t == TENSOR_Q8_0) {
        __m512i a = load_2x32(p + 2, stride), b = load_2x32(p + 2 + 2 * stride, stride);
        if (!SIGNED_CODES) {
            const __m512i top = _mm512_set1_epi8(-128);
            a = _mm512_xor_si512(a, top);
            b = _mm512_xor_si512(b, top);
        }
        *lo = _mm512_shuffle_i64x2(a, b, 0x88);
        *hi = _mm512_shuffle_i64x2(a, b, 0xdd);
        return;
    }
    const size_t codes_at = stride - 16; /* the last field of every such block */
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i v = load_4x16(p + codes_at, stride);
    *lo = _mm512_and_si512(v, nibble);
    *hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble);
    if (t == TENSOR_Q5_0 || t == TENSOR_Q5_1) {
        const __m512i fifth = _mm512_set1_epi8(16);
        __mmask64 lo_bits, hi_bits;
        high_bits(p + codes_at - 4, stride, &lo_bits, &hi_bits);
        *lo = _mm512_mask_add_epi8(*lo, lo_bits, *lo, fifth);
        *hi = _mm512_mask_add_epi8(*hi, hi_bits, *hi, fifth);
    } else if (t == TENSOR_IQ4_NL || t == TENSOR_MXFP4) {
        __m128i table = _mm_loadu_si128((const void *)(t == TENSOR_MXFP4 ? code_mxfp4 : code_iq4));
        if (t == TENSOR_MXFP4)
            table = _mm_add_epi8(table, _mm_set1_epi8(16));
        else if (!SIGNED_CODES)
            table = _mm_xor_si128(table, _mm_set1_epi8(-128));
        const __m512i tables = _mm512_broadcast_i32x4(table);
        *lo = _mm512_shuffle_epi8(tables, *lo);
        *hi = _mm512_shuffle_epi8(tables, *hi);
    }
}

/* Where gather_words loads from: a group's first 64 bytes hold the numbers of blocks 0..n-1, a second load those of the
 * others. */
INLINE int first_load_blocks(enum tensor_type t, size_t at)
{
    return t == TENSOR_Q8_0 ? 2 : 3 * block_bytes(t) + at + 2 <= 64 ? 4 : 3;
}

INLINE size_t second_load_at(enum tensor_type t)
{
    return t == TENSOR_Q8_0 ? 2 * block_bytes(t) : 4 * block_bytes(t) - 64;
}

INLINE short word_index(enum tensor_type t, size_t at, int block)
{
    const size_t load_at = block < first_load_blocks(t, at) ? 0 : second_load_at(t);
    return (short)(((size_t)block * block_bytes(t) + at - load_at) / 2);
}

/* Word lane 4b + r of the low half becomes the 16-bit number `at` bytes into block b of row r. */
INLINE __m256i gather_words(enum tensor_type t, const uint8_t *const p[4], size_t at)
{
    const short w0 = word_index(t, at, 0), w1 = word_index(t, at, 1), w2 = word_index(t, at, 2),
                w3 = word_index(t, at, 3);
    const __m512i from =
        _mm512_castsi256_si512(_mm256_setr_epi16(w0, w0, w0, w0, w1, w1, w1, w1, w2, w2, w2, w2, w3, w3, w3, w3));
    const int first = first_load_blocks(t, at);
    const __mmask32 early = (__mmask32)((1u << 4 * first) - 1);
    __m512i words = _mm512_setzero_si512();
    UNROLL for (int r = 0; r < 4; r++)
    {
        const __mmask32 row = 0x1111u << r;
        words = _mm512_mask_permutexvar_epi16(words, row & early, from, _mm512_loadu_si512(p[r]));
        if (first < 4)
            words =
                _mm512_mask_permutexvar_epi16(words, row & ~early, from, _mm512_loadu_si512(p[r] + second_load_at(t)));
    }
    return _mm512_castsi512_si256(words);
}

/* The sixteen E8M0 scales of four rows of MXFP4 blocks. */
INLINE __m512 gather_e8m0(const uint8_t *const p[4])
{
    uint32_t rows[4];
    for (int r = 0; r < 4; r++) {
        const uint8_t *q = p[r];
        rows[r] = (uint32_t)q[0] | (uint32_t)q[17] << 8 | (uint32_t)q[34] << 16 | (uint32_t)q[51] << 24;
    }
    const __m128i transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i e = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(_mm_loadu_si128((const void *)rows), transpose));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), tiny));
}

/* Lane 4b + r: scale (and min) of block b of row r. */
INLINE __m512 gather_scales(enum tensor_type t, const uint8_t *const p[4])
{
    if (t == TENSOR_MXFP4)
        return gather_e8m0(p);
    return _mm512_cvtph_ps(gather_words(t, p, 0));
}

INLINE __m512 gather_mins(enum tensor_type t, const uint8_t *const p[4])
{
    return has_min(t) ? _mm512_cvtph_ps(gather_words(t, p, 2)) : _mm512_setzero_ps();
}

/* ---- direct: 4 rows x n_t tokens ---- */

/* One group of four rows into the chains of n_t tokens. */
INLINE void direct_group(enum tensor_type t, const uint8_t *const p[4], const uint8_t *x, size_t x_row_bytes, int n_t,
                         __m512 *chains)
{
    __m512i lo[4], hi[4];
    UNROLL for (int r = 0; r < 4; r++) unpack_group(t, p[r], &lo[r], &hi[r]);
    const __m512 d = gather_scales(t, p), m = gather_mins(t, p);
    const int shift = offset_shift(t);
    UNROLL for (int i = 0; i < n_t; i++)
    {
        const struct act_q8 *g = (const struct act_q8 *)(const void *)(x + (size_t)i * x_row_bytes);
        const __m512i xlo = _mm512_loadu_si512(g->q), xhi = _mm512_loadu_si512(g->q + 64);
        __m512i s[4];
        UNROLL for (int r = 0; r < 4; r++) s[r] =
            is_signed(t) ? dot_signed(lo[r], hi[r], xlo, xhi) : dot(lo[r], hi[r], xlo, xhi);
        __m512i sums = merge_4x4(s[0], s[1], s[2], s[3]);
        const __m512i x_sum = spread_4(_mm_loadu_si128((const void *)g->sum));
        const __m512 x_d = _mm512_castsi512_ps(spread_4(_mm_loadu_si128((const void *)g->d)));
        if (shift >= 0)
            sums = _mm512_sub_epi32(sums, _mm512_slli_epi32(x_sum, (unsigned)shift));
        chains[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(d, x_d), chains[i]);
        if (has_min(t))
            chains[i] = _mm512_fmadd_ps(m, _mm512_mul_ps(x_d, _mm512_cvtepi32_ps(x_sum)), chains[i]);
    }
}

/* The last 1 to 3 blocks, filled up with zeros. */
INLINE void direct_tail(enum tensor_type t, const uint8_t *const p[4], uint32_t n_blocks, const uint8_t *x,
                        size_t x_row_bytes, int n_t, __m512 *chains)
{
    uint8_t copy[4][4 * sizeof(struct block_q8_0)] = {{0}};
    const uint8_t *q[4];
    for (int r = 0; r < 4; r++) {
        memcpy(copy[r], p[r], n_blocks * block_bytes(t));
        q[r] = copy[r];
    }
    direct_group(t, q, x, x_row_bytes, n_t, chains);
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
        __m512 chains[4];
        UNROLL for (int i = 0; i < n_t; i++) chains[i] = _mm512_setzero_ps();
        for (uint32_t g = 0; g < n / 4; g++) {
            UNROLL for (int r = 0; r < 4; r++)
            {
                for (size_t line = 0; line < group_bytes; line += 64)
                    _mm_prefetch((const char *)p[r] + PREFETCH_BYTES + line, _MM_HINT_T0);
            }
            direct_group(t, p, x, x_row_bytes, n_t, chains);
            x += sizeof(struct act_q8);
            UNROLL for (int r = 0; r < 4; r++) p[r] += group_bytes;
        }
        if (n % 4)
            direct_tail(t, p, n % 4, x, x_row_bytes, n_t, chains);
        UNROLL for (int i = 0; i < n_t; i++) total[i] = _mm_add_ps(total[i], sum_chains(chains[i]));
    }
    UNROLL for (int i = 0; i < n_t; i++) _mm_storeu_ps(y[i], total[i]);
}

#include "kernel/x86/direct_blocks.h"
