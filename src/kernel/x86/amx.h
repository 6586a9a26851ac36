/* AMX tiles: eight registers of up to 16 rows of 64 bytes, and products of them. A file that defines AMX_EMULATED first
 * gets the same operations in plain C, so that its kernels can be checked on any machine with AVX-512.
 *
 * tile_dot(C, A, B): C[m][n] += sum over k of A[m][k] * B[k][n], where an element of A and of B is four bytes (or two
 * bfloat16) whose products are summed. So A is read as rows lie in memory, and B has groups of four bytes interleaved:
 * B[k / 4][n][k % 4].
 *
 * Contract: a thread calls tile_begin with the shapes before it uses tiles and tile_end after it, so that it never
 * sleeps with tile state that the kernel would have to save. Tile numbers are literals.
 */
#ifndef WEIR_KERNEL_X86_AMX_H
#define WEIR_KERNEL_X86_AMX_H

#include "kernel/x86/simd.h"

#include <assert.h>
#include <string.h>

/* A and B operands and sums; two of each where a loop keeps two products in flight. */
#define TILE_C0 0
#define TILE_C1 1
#define TILE_C2 2
#define TILE_C3 3
#define TILE_A0 4
#define TILE_A1 5
#define TILE_B0 6
#define TILE_B1 7

#define TILE_ROWS 16

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(struct tile_config) == 64, "LDTILECFG");

/* A: n_rows of k_bytes; B: k_bytes of n_cols columns; C: n_rows x n_cols. */
static inline struct tile_config tile_shapes(uint32_t n_rows, uint32_t k_bytes, uint32_t n_cols)
{
    struct tile_config c = {.palette = 1};
    for (int i = TILE_C0; i <= TILE_C3; i++) {
        c.rows[i] = (uint8_t)n_rows;
        c.row_bytes[i] = (uint16_t)(4 * n_cols);
    }
    for (int i = TILE_A0; i <= TILE_A1; i++) {
        c.rows[i] = (uint8_t)n_rows;
        c.row_bytes[i] = (uint16_t)k_bytes;
    }
    for (int i = TILE_B0; i <= TILE_B1; i++) {
        c.rows[i] = (uint8_t)(k_bytes / 4);
        c.row_bytes[i] = (uint16_t)(4 * n_cols);
    }
    return c;
}

#if !defined AMX_EMULATED

#define AMX_NAME(family) family##_amx

static inline void tile_begin(const struct tile_config *c)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*c));
}

static inline void tile_end(void)
{
    __asm__ volatile("tilerelease");
}

#define TILE_LOAD(n, p, stride)                                                                                        \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #n ::"r"((const void *)(p)), "r"((size_t)(stride)) : "memory")
/* What will not be needed again soon: it need not displace anything in the first-level cache. */
#define TILE_LOAD_STREAM(n, p, stride)                                                                                 \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #n ::"r"((const void *)(p)), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(n, p, stride)                                                                                       \
    __asm__ volatile("tilestored %%tmm" #n ", (%0,%1,1)" ::"r"((void *)(p)), "r"((size_t)(stride)) : "memory")
#define TILE_ZERO(n) __asm__ volatile("tilezero %tmm" #n)
#define TILE_DOT(op, c, a, b) __asm__ volatile(#op " %tmm" #b ", %tmm" #a ", %tmm" #c)

/* Tile numbers are expanded before they become text. */
#define tile_load(n, p, stride) TILE_LOAD(n, p, stride)
#define tile_load_stream(n, p, stride) TILE_LOAD_STREAM(n, p, stride)
#define tile_store(n, p, stride) TILE_STORE(n, p, stride)
#define tile_zero(n) TILE_ZERO(n)
#define tile_dot_s8(c, a, b) TILE_DOT(tdpbssd, c, a, b)
#define tile_dot_s8u8(c, a, b) TILE_DOT(tdpbsud, c, a, b)
#define tile_dot_bf16(c, a, b) TILE_DOT(tdpbf16ps, c, a, b)

#else

#include "kernel/x86/amx_emulated.h"

#endif
#endif
