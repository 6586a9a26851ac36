/* The end of supers512.h and of supers_avx2.c: direct products of each K type, by direct_super above, DIRECT_TOGETHER tokens at a
 * time, whose sums fit the registers. */
INLINE void direct_super_tokens(enum tensor_type t, const uint8_t *const w[4], uint32_t n_blocks, const uint8_t *x,
                                size_t x_row_bytes, int n_t, float y[4][4])
{
    const uint8_t *p[4] = {w[0], w[1], w[2], w[3]};
    __m128 acc[4];
    UNROLL for (int i = 0; i < n_t; i++) acc[i] = _mm_setzero_ps();
    for (uint32_t b = 0; b < n_blocks; b++) {
        UNROLL for (int r = 0; r < 4; r++)
        {
            for (size_t line = 0; line < super_bytes(t); line += 64)
                _mm_prefetch((const char *)p[r] + PREFETCH_BYTES + line, _MM_HINT_T0);
        }
        direct_super(t, p, x, x_row_bytes, n_t, acc);
        x += sizeof(struct act_q8k);
        UNROLL for (int r = 0; r < 4; r++) p[r] += super_bytes(t);
    }
    UNROLL for (int i = 0; i < n_t; i++) _mm_storeu_ps(y[i], acc[i]);
}

INLINE void direct_supers(enum tensor_type t, const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x,
                          size_t x_row_bytes, uint32_t n_t, float y[4][4])
{
    for (uint32_t n; n_t; n_t -= n, x += n * x_row_bytes, y += n) {
        n = n_t < DIRECT_TOGETHER ? n_t : DIRECT_TOGETHER;
        if (n == 1)
            direct_super_tokens(t, w, n_cols / 256, x, x_row_bytes, 1, y);
        else if (n == 2)
            direct_super_tokens(t, w, n_cols / 256, x, x_row_bytes, 2, y);
#if DIRECT_TOGETHER > 2
        else if (n == 3)
            direct_super_tokens(t, w, n_cols / 256, x, x_row_bytes, 3, y);
        else
            direct_super_tokens(t, w, n_cols / 256, x, x_row_bytes, 4, y);
#endif
    }
}

MATMUL_DIRECT(q2_k, TENSOR_Q2_K, direct_supers)
MATMUL_DIRECT(q3_k, TENSOR_Q3_K, direct_supers)
MATMUL_DIRECT(q4_k, TENSOR_Q4_K, direct_supers)
MATMUL_DIRECT(q5_k, TENSOR_Q5_K, direct_supers)
MATMUL_DIRECT(q6_k, TENSOR_Q6_K, direct_supers)
MATMUL_DIRECT(iq4_xs, TENSOR_IQ4_XS, direct_supers)

INLINE void set_matmul_supers(struct kernels *k)
{
    k->matmul[TENSOR_Q2_K] = matmul_q2_k;
    k->matmul[TENSOR_Q3_K] = matmul_q3_k;
    k->matmul[TENSOR_Q4_K] = matmul_q4_k;
    k->matmul[TENSOR_Q5_K] = matmul_q5_k;
    k->matmul[TENSOR_Q6_K] = matmul_q6_k;
    k->matmul[TENSOR_IQ4_XS] = matmul_iq4_xs;
}
