/* Lanes: how a device keeps its own copy of weights, so that kernels stream them without unpacking twice.
 *
 * Sixteen consecutive rows of a matrix are a group, of exactly the bytes of the rows themselves. A group is a sequence
 * of cells along the columns: 16 rows by 128 columns (four blocks of 32; the last cell may have fewer) or 256 (a
 * super-block). In a cell each field of the block struct (kernel/blocks.h) stands by itself, for all blocks of the cell
 * in turn, and in units of four bytes (two for 16-bit floats, one for MXFP4's exponent) row by row: unit u of block b of
 * row r is at ((b * n_units + u) * 16 + r). A 64-byte load so meets four codes (bytes) of each of the 16 rows: a lane is a
 * row, and four bytes of activations are broadcast to all.
 *
 * The fields in their order, with units of a block:
 *   Q8_0            q 8 | d
 *   Q4_0 IQ4_NL     q 4 | d            Q4_1        q 4 | d | m
 *   Q5_0            q 4 | high | d     Q5_1        q 4 | high | d | m
 *   MXFP4           q 4 | e
 *   Q2_K            q 16 | scales 4 | d | dmin
 *   Q3_K            q 16 + high 8 | scales 3 | d
 *   Q4_K            q 32 | scales 3 | d | dmin
 *   Q5_K            q 32 + high 8 | scales 3 | d | dmin
 *   Q6_K            low 32 + high 16 | scales 4 | d
 *   IQ4_XS          q 32 | scales_low 1 | d | scales_high
 *   BF16            a pair of columns (an odd last column: of 2 bytes)
 * Fields with a + are woven, so that what makes a code lies together and is read in the order of memory: with V = 2, of Q5_K 4,
 * units 8 (V h) + u, 8 (V h + 1) + u, .., 8 (V h + V - 1) + u of the first and unit 8 h + u of the second follow each other,
 * for u from 0 to 7, for h from 0 on.
 * Bytes are as in the block but for two: codes of Q8_0 are stored as q + 128, unsigned; and bit 8 i + k of `high` of Q5_0
 * and Q5_1 belongs to element 4 k + i, so that a shift and one mask bring the bits of unit k to its bytes.
 *
 * So 32 columns of BF16 are operand B of a tile product as they lie (x86/amx.h). F16 and F32 stay rows. Pure; any thread. Rows at
 * any alignment; groups best at multiples of 64 bytes.
 */
#ifndef WEIR_KERNEL_LANES_H
#define WEIR_KERNEL_LANES_H

#include "model/tensor_type.h"

#include <stddef.h>
#include <stdint.h>

#define LANES 16
#define LANES_CELL_BLOCKS 4 /* of 32 elements */

/* Sixteen rows of n_cols elements, row_bytes apart, into a group. They do not overlap. */
void lanes_pack(enum tensor_type t, const void *rows, size_t row_bytes, uint32_t n_cols, void *group);

/* Row `row` of a group, as it was. */
void lanes_unpack_row(enum tensor_type t, const void *group, uint32_t n_cols, uint32_t row, void *out);

#endif
