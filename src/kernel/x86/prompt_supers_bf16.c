/* Super-blocks in lanes to bfloat16 tiles. */
#include "kernel/x86/lanes_super_codes.h"
#include "kernel/x86/prompt_unit.h"

#define SUPER_STEPS (256 / PROMPT_STEP_COLS)

INLINE void fill_super(enum tensor_type t, const uint8_t *cell, uint8_t *tiles)
{
    const int n_of_32 = is_wide(t) ? 1 : 2; /* scales of 32 columns */
    const struct unit_kind kind = {left_shift(t) || code_offset(t) == 128, has_mins(t), code_offset(t)};
    struct scale_bytes scales;
    vf d, minus_dmin;
    unpack_scales(t, cell, 0, &scales);
    load_d(t, cell, &d, &minus_dmin);
    d = vf_mul(d, vf_set(1.0f / (float)(1 << left_shift(t)))); /* a scale is so much too large for its codes */
    UNROLL for (int s = 0; s < SUPER_STEPS; s++)
    {
        UNROLL for (int i = 0; i < n_of_32; i++)
        {
            const int k = s * n_of_32 + i, n_units = 8 / n_of_32;
            const vf scale = vf_mul(d, vf_from_vi(scale_of(t, &scales, k)));
            const vf min =
                has_mins(t) ? vf_mul(minus_dmin, vf_from_vi(factor(scales.min[k / 4], k % 4, false, 0))) : vf_zero();
            const struct unit_scale unit = unit_scale(kind, scale, min);
            UNROLL for (int u = i * n_units; u < (i + 1) * n_units; u++)
                put_unit(kind, codes(t, cell, s, u), &unit, u, tiles + s * PROMPT_TILE_BYTES);
        }
    }
}

INLINE void fill(enum tensor_type t, const struct matmul_args *a, uint32_t row, uint32_t first, uint32_t n,
                 uint8_t *tiles)
{
    const size_t cell_bytes = LANES * super_bytes(t);
    const uint8_t *cell = (const uint8_t *)a->w + row * a->w_row_bytes + first / SUPER_STEPS * cell_bytes;
    for (uint32_t s = 0; s < n; s += SUPER_STEPS, cell += cell_bytes, tiles += SUPER_STEPS * PROMPT_TILE_BYTES)
        fill_super(t, cell, tiles);
}

#define FILL(name, type)                                                                                               \
    static void fill_##name(const struct matmul_args *a, uint32_t row, uint32_t first, uint32_t n, uint8_t *tiles)     \
    {                                                                                                                  \
        fill(type, a, row, first, n, tiles);                                                                           \
    }
FILL(q2_k, TENSOR_Q2_K)
FILL(q3_k, TENSOR_Q3_K)
FILL(q4_k, TENSOR_Q4_K)
FILL(q5_k, TENSOR_Q5_K)
FILL(q6_k, TENSOR_Q6_K)
FILL(iq4_xs, TENSOR_IQ4_XS)

void prompt_supers(struct prompt_type types[TENSOR_TYPE_COUNT])
{
    types[TENSOR_Q2_K] = (struct prompt_type){.fill = fill_q2_k, .parts = 1};
    types[TENSOR_Q3_K] = (struct prompt_type){.fill = fill_q3_k, .parts = 1};
    types[TENSOR_Q4_K] = (struct prompt_type){.fill = fill_q4_k, .parts = 1};
    types[TENSOR_Q5_K] = (struct prompt_type){.fill = fill_q5_k, .parts = 1};
    types[TENSOR_Q6_K] = (struct prompt_type){.fill = fill_q6_k, .parts = 1};
    types[TENSOR_IQ4_XS] = (struct prompt_type){.fill = fill_iq4_xs, .parts = 1};
}
