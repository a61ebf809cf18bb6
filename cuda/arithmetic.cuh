// Arithmetic instructions that the compiler is not left to choose. (tests/cuda_on_cpu has their meaning in plain C++.)
#pragma once
#include <cstdint>

// d += a b: a 16 x 32 and b 32 x 8 signed bytes. Lane (g, q) = (lane / 4, lane % 4) holds, in each word four neighbours along
// k: a[0] row g, k 4 q ..; a[1] row g + 8; a[2], a[3] the same at k + 16; b0 column g, k 4 q ..; b1 at k + 16; d[0], d[1] row g,
// columns 2 q, 2 q + 1; d[2], d[3] row g + 8.
__device__ __forceinline__ void mma_s8(int (&d)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// v x factor by the multiplier's pipe, also where factor is a power of two.
__device__ __forceinline__ uint32_t scaled(uint32_t v, uint32_t factor) {
  uint32_t result;
  asm("mad.lo.u32 %0, %1, %2, 0;" : "=r"(result) : "r"(v), "r"(factor));
  return result;
}

// The compiler must have v here, and not work it out later, or again.
template <class T>
__device__ __forceinline__ void known(T*& v) { asm volatile("" : "+l"(v)); }
__device__ __forceinline__ void known(int& v) { asm volatile("" : "+r"(v)); }
__device__ __forceinline__ void known(uint32_t& v) { asm volatile("" : "+r"(v)); }

// a += b, opaque: otherwise the compiler may keep every multiple of b in a register of its own, and spill.
__device__ __forceinline__ void add(uint32_t& a, uint32_t b) { asm("add.u32 %0, %0, %1;" : "+r"(a) : "r"(b)); }
