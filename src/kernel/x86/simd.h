/* For the vector kernels: forced inlining (one template, many constant arguments) and full unrolling of short loops. */
#ifndef WEIR_KERNEL_X86_SIMD_H
#define WEIR_KERNEL_X86_SIMD_H

#include "kernel/kernel.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline, unused))

#if defined __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* How far ahead of its use a row's next bytes are asked for: about 100 ns of one core's share of the bandwidth. */
#define PREFETCH_BYTES 1024

#endif
