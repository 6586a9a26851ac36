/* Four codes of 16 rows, as they lie in lanes, to bfloat16 (prompt.h). */
#ifndef WEIR_KERNEL_X86_PROMPT_UNIT_H
#define WEIR_KERNEL_X86_PROMPT_UNIT_H

#include "kernel/x86/prompt.h"
#include "kernel/x86/simd512.h"

/* An unsigned byte in the right place of a float adds its value to it: no conversion. Codes below 128 can have the place that
 * leaves more bits behind them. */
INLINE float code_base(bool is_wide)
{
    return is_wide ? 32768.0f : 128.0f;
}

/* What values are: codes with an offset (is_wide: of 128 and more), or with a min. */
struct unit_kind {
    bool is_wide, has_min;
    int offset;
};

/* value = (code - offset) * scale, or code * scale + min; of 16 rows: those of 0, 1, 4, 5, .. twice each, and those of 2, 3, 6,
 * 7, .. Without mins one fused multiply-add takes back the base along with the offset: their product with a scale fits a float
 * (IQ4_XS: but for 2^-9 of the scale). With mins that could swallow a small one. */
struct unit_scale {
    __m512 scale[2], add[2];
};

INLINE struct unit_scale unit_scale(struct unit_kind k, __m512 scale, __m512 min)
{
    const __m512 base = _mm512_set1_ps(code_base(k.is_wide) + (float)k.offset);
    const __m512 add = k.has_min ? min : _mm512_fnmadd_ps(scale, base, _mm512_setzero_ps());
    return (struct unit_scale){{_mm512_unpacklo_ps(scale, scale), _mm512_unpackhi_ps(scale, scale)},
                               {_mm512_unpacklo_ps(add, add), _mm512_unpackhi_ps(add, add)}};
}

/* Codes of columns 4 u .. 4 u + 3 to two lines of a tile. */
INLINE void put_unit(struct unit_kind k, __m512i codes, const struct unit_scale *s, int u, uint8_t *tile)
{
    const __m512 base = _mm512_set1_ps(code_base(k.is_wide));
    const int at = k.is_wide ? 1 : 2; /* the code's byte of a float */
    UNROLL for (int pair = 0; pair < 2; pair++)
    {
        __m512 value[2];
        UNROLL for (int half = 0; half < 2; half++)
        {
            /* Four floats of a 128-bit lane: two rows, two columns each. */
            const int first = 8 * half + 2 * pair;
            const __m128i from = _mm_slli_epi32(_mm_setr_epi32(first, first + 1, first + 4, first + 5), 8 * at);
            __m512 f = _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(
                _mm512_castps_si512(base), 0x1111111111111111ull << at, codes, _mm512_broadcast_i32x4(from)));
            if (k.has_min)
                f = _mm512_sub_ps(f, base);
            value[half] = _mm512_fmadd_ps(f, s->scale[half], s->add[half]);
        }
        _mm512_store_si512(tile + 64 * (2 * u + pair), (__m512i)_mm512_cvtne2ps_pbh(value[1], value[0]));
    }
}

#endif
