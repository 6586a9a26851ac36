/* Layouts of the quantised blocks of GGUF files, and of packed activations.
 *
 * Blocks are read in place from the mapped file, at any alignment; all integers and floats are little-endian. `w` is
 * the value of an element, q its code. Types of 32: one float scale a block. K types of 256: a float scale for the
 * super-block and small integer scales for its sub-blocks of 16 or 32.
 */
#ifndef WEIR_KERNEL_BLOCKS_H
#define WEIR_KERNEL_BLOCKS_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED __attribute__((packed))
typedef uint16_t f16_bits; /* IEEE binary16 */

/* ---- blocks of 32 ---- */

/* w = d * q, q signed 8 bit. */
struct PACKED block_q8_0 {
    f16_bits d;
    int8_t q[32];
};

/* w = d * (q - 8). Byte i holds element i in its low nibble and element i + 16 in its high nibble; so do all the
 * 4- and 5-bit blocks of 32. */
struct PACKED block_q4_0 {
    f16_bits d;
    uint8_t q[16];
};

/* w = d * q + m */
struct PACKED block_q4_1 {
    f16_bits d, m;
    uint8_t q[16];
};

/* w = d * (q - 16); bit i of high is bit 4 of element i's code. */
struct PACKED block_q5_0 {
    f16_bits d;
    uint8_t high[4];
    uint8_t q[16];
};

/* w = d * q + m */
struct PACKED block_q5_1 {
    f16_bits d, m;
    uint8_t high[4];
    uint8_t q[16];
};

/* w = d * code_iq4[q]: sixteen levels, denser around zero. */
struct PACKED block_iq4_nl {
    f16_bits d;
    uint8_t q[16];
};

/* OCP microscaling FP4: w = 2^(e - 128) * code_mxfp4[q]; the codes are E2M1 values doubled, hence 128 for the
 * exponent's bias of 127. */
struct PACKED block_mxfp4 {
    uint8_t e;
    uint8_t q[16];
};

/* ---- super-blocks of 256 ---- */

/* Sub-blocks of 16: w = d * (scale & 15) * q - dmin * (scale >> 4). Each half of 128 elements has 32 bytes of q; its
 * element 32 j + l is in bits 2j, 2j+1 of byte l. */
struct PACKED block_q2_k {
    uint8_t scales[16];
    uint8_t q[64];
    f16_bits d, dmin;
};

/* Sub-blocks of 16: w = d * (scale - 32) * (q - 4). The low two bits of q lie as in Q2_K; bit 4 h + j of high[l] is the
 * third bit of element 128 h + 32 j + l. The 6-bit scale s has its low four bits in nibble s / 8 of byte s % 8 and its
 * high two bits in bits 2 (s / 4), .. of byte 8 + s % 4. */
struct PACKED block_q3_k {
    uint8_t high[32];
    uint8_t q[64];
    uint8_t scales[12];
    f16_bits d;
};

/* Sub-blocks of 32: w = d * scale * q - dmin * min. Sub-blocks 2g and 2g+1 are the low and high nibbles of the 32
 * bytes q[32 g ..]. The 6-bit scales and mins of sub-blocks 0..3 are the low six bits of bytes 0..3 and 4..7; those of
 * 4 + i have their low four bits in the low (scale) and high (min) nibble of byte 8 + i, and their high two bits in the
 * high two bits of bytes i and 4 + i. */
struct PACKED block_q4_k {
    f16_bits d, dmin;
    uint8_t scales[12];
    uint8_t q[128];
};

/* As Q4_K with a fifth bit: bit s of high[l] belongs to element l of sub-block s. */
struct PACKED block_q5_k {
    f16_bits d, dmin;
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t q[128];
};

/* Sub-blocks of 16: w = d * scale * (q - 32). Each half of 128 elements has 64 bytes of low bits and 32 of high bits:
 * its element 64 n + l (l < 64) has its low four bits in nibble n of low[l]; element 32 j + l (l < 32) has its high two
 * in bits 2j, 2j+1 of high[l]. */
struct PACKED block_q6_k {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    f16_bits d;
};

/* Sub-blocks of 32 laid out as in IQ4_NL: w = d * (scale - 32) * code_iq4[q]. The 6-bit scale s has its low four bits
 * in nibble s % 2 of scales_low[s / 2], its high two in bits 2s, 2s+1 of scales_high. */
struct PACKED block_iq4_xs {
    f16_bits d;
    uint16_t scales_high;
    uint8_t scales_low[4];
    uint8_t q[128];
};

static_assert(sizeof(struct block_q8_0) == 34, "Q8_0");
static_assert(sizeof(struct block_q4_0) == 18, "Q4_0");
static_assert(sizeof(struct block_q4_1) == 20, "Q4_1");
static_assert(sizeof(struct block_q5_0) == 22, "Q5_0");
static_assert(sizeof(struct block_q5_1) == 24, "Q5_1");
static_assert(sizeof(struct block_iq4_nl) == 18, "IQ4_NL");
static_assert(sizeof(struct block_mxfp4) == 17, "MXFP4");
static_assert(sizeof(struct block_q2_k) == 84, "Q2_K");
static_assert(sizeof(struct block_q3_k) == 110, "Q3_K");
static_assert(sizeof(struct block_q4_k) == 144, "Q4_K");
static_assert(sizeof(struct block_q5_k) == 176, "Q5_K");
static_assert(sizeof(struct block_q6_k) == 210, "Q6_K");
static_assert(sizeof(struct block_iq4_xs) == 136, "IQ4_XS");

static const int8_t code_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t code_mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* ---- packed activations ---- */

/* ACT_Q8: blocks of 32, x = d * q with q in [-127, 127], taken four at a time: a group of 128 elements. Element 32 b +
 * 16 h + i of a group is q[64 h + 16 b + i], so that one 64-byte load meets what one load and one mask (or shift) give
 * of four 4-bit weight blocks. A row's last group is filled up with zero blocks. */
#define ACT_Q8_BLOCKS 4
#define ACT_Q8_GROUP 128
struct act_q8 {
    int8_t q[ACT_Q8_GROUP];
    float d[ACT_Q8_BLOCKS];
    int32_t sum[ACT_Q8_BLOCKS]; /* of the block's q */
};
static_assert(sizeof(struct act_q8) == 160, "ACT_Q8");

/* ACT_Q8K: x = d * q, with the sums of 16 consecutive q. */
struct act_q8k {
    int8_t q[256];
    int16_t sum[16];
    float d;
    uint32_t unused[7]; /* keeps q on 64-byte boundaries */
};
static_assert(sizeof(struct act_q8k) == 320, "ACT_Q8K");

/* A block whose largest magnitude is below this is packed as zeros: its scale's inverse would overflow. */
#define ACT_TINY 0x1p-118f

/* Sums over blocks of 32 are cut here: see kernel.h on the order of summation. */
#define SEGMENT_COLS 4096

#endif
