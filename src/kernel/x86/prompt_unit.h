/* Four codes of 16 rows, as they lie in lanes, to bfloat16 (prompt.h). */
#ifndef WEIR_KERNEL_X86_PROMPT_UNIT_H
#define WEIR_KERNEL_X86_PROMPT_UNIT_H

#include "kernel/x86/prompt.h"
#include "kernel/x86/simd512.h"

/* An unsigned byte in these bits of a float adds its value to it: no conversion. */
#define CODE_BASE 32768.0f
#define CODE_BASE_BITS 0x47000000
#define CODE_BYTE 0x2222222222222222ull /* byte 1 of each float */

/* value = (code - offset) * scale + min; of 16 rows: those of 0, 1, 4, 5, .. twice each, and those of 2, 3, 6, 7, .. */
struct unit_scale {
    __m512 offset, scale[2], min[2];
};

INLINE struct unit_scale unit_scale(int offset, __m512 scale, __m512 min)
{
    return (struct unit_scale){_mm512_set1_ps(CODE_BASE + (float)offset),
                               {_mm512_unpacklo_ps(scale, scale), _mm512_unpackhi_ps(scale, scale)},
                               {_mm512_unpacklo_ps(min, min), _mm512_unpackhi_ps(min, min)}};
}

/* Codes of columns 4 u .. 4 u + 3 to two lines of a tile. */
INLINE void put_unit(__m512i codes, const struct unit_scale *s, bool has_min, int u, uint8_t *tile)
{
    UNROLL for (int pair = 0; pair < 2; pair++)
    {
        __m512 value[2];
        UNROLL for (int half = 0; half < 2; half++)
        {
            /* Four floats of a 128-bit lane: two rows, two columns each. */
            const int first = 8 * half + 2 * pair;
            const __m128i from = _mm_setr_epi8(0, (char)first, 0, 0, 0, (char)(first + 1), 0, 0, 0, (char)(first + 4),
                                               0, 0, 0, (char)(first + 5), 0, 0);
            const __m512i f = _mm512_mask_shuffle_epi8(_mm512_set1_epi32(CODE_BASE_BITS), CODE_BYTE, codes,
                                                       _mm512_broadcast_i32x4(from));
            const __m512 code = _mm512_sub_ps(_mm512_castsi512_ps(f), s->offset);
            value[half] =
                has_min ? _mm512_fmadd_ps(code, s->scale[half], s->min[half]) : _mm512_mul_ps(code, s->scale[half]);
        }
        _mm512_store_si512(tile + 64 * (2 * u + pair), (__m512i)_mm512_cvtne2ps_pbh(value[1], value[0]));
    }
}

#endif
