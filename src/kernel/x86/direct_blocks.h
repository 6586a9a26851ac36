/* The end of blocks512.h and of blocks_avx2.c: direct products of each type of block of 32, by direct_tokens above, for one to
 * four tokens. */
INLINE void direct_blocks(enum tensor_type t, const uint8_t *const w[4], uint32_t n_cols, const uint8_t *x,
                          size_t x_row_bytes, uint32_t n_t, float y[4][4])
{
    if (n_t == 1)
        direct_tokens(t, w, n_cols / 32, x, x_row_bytes, 1, y);
    else if (n_t == 2)
        direct_tokens(t, w, n_cols / 32, x, x_row_bytes, 2, y);
    else if (n_t == 3)
        direct_tokens(t, w, n_cols / 32, x, x_row_bytes, 3, y);
    else
        direct_tokens(t, w, n_cols / 32, x, x_row_bytes, 4, y);
}

MATMUL_DIRECT(q8_0, TENSOR_Q8_0, direct_blocks)
MATMUL_DIRECT(q4_0, TENSOR_Q4_0, direct_blocks)
MATMUL_DIRECT(q4_1, TENSOR_Q4_1, direct_blocks)
MATMUL_DIRECT(q5_0, TENSOR_Q5_0, direct_blocks)
MATMUL_DIRECT(q5_1, TENSOR_Q5_1, direct_blocks)
MATMUL_DIRECT(iq4_nl, TENSOR_IQ4_NL, direct_blocks)
MATMUL_DIRECT(mxfp4, TENSOR_MXFP4, direct_blocks)

INLINE void set_matmul_blocks(struct kernels *k)
{
    k->matmul[TENSOR_Q8_0] = matmul_q8_0;
    k->matmul[TENSOR_Q4_0] = matmul_q4_0;
    k->matmul[TENSOR_Q4_1] = matmul_q4_1;
    k->matmul[TENSOR_Q5_0] = matmul_q5_0;
    k->matmul[TENSOR_Q5_1] = matmul_q5_1;
    k->matmul[TENSOR_IQ4_NL] = matmul_iq4_nl;
    k->matmul[TENSOR_MXFP4] = matmul_mxfp4;
}
