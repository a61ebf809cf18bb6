// Activations as operand B of products with pairs of weights, in shared memory: as they are, or as bytes.
//
// Row r of shared memory is column r of the instruction: 2 bytes for each column of x, 16 more from row to row. Of a pair of
// weights that a table gives in half precision operand B is the pair of activations; of a pair that is computed from four
// bytes it is the four bytes of pair_bytes.cuh, in one row or, where the instruction has columns to spare, in two.
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "half_products.cuh"

namespace table {

// `width` columns from `column` on of `rows` rows, 2 bytes each; a barrier must follow. Through registers: a wait for copies
// would be one for the first codes too.
template <int Threads>
__device__ void load_rows(const void* from, int rows, int columns, int column, int width, uint8_t* x, int pitch) {
  constexpr int kHeld = 4;
  const int pieces = width / 8;
  int r = 0, piece = threadIdx.x;  // the next
  auto settle = [&]() { while (piece >= pieces && r < rows) piece -= pieces, ++r; };
  for (settle(); r < rows;) {
    uint4 held[kHeld];
    uint8_t* to[kHeld];
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      to[k] = r < rows ? x + r * pitch + 16 * piece : nullptr;
      if (to[k]) held[k] = *reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(from) + (static_cast<int64_t>(r) * columns + column + 8 * piece) * 2);
      piece += Threads, settle();
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (to[k]) *reinterpret_cast<uint4*>(to[k]) = held[k];
  }
}

template <class T>
struct Halves {
  using Sum = float;
  __device__ static __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_half<T>(d, a, b0, b1);
  }
  __device__ static __forceinline__ float value(const Sum* parts) { return parts[0]; }
};

// Parts: rows of an activation, bytes that it has.
template <int Parts>
struct PairBytes {
  using Sum = int;
  __device__ static __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_s8(d, a, b0, b1);
  }
  __device__ static __forceinline__ float value(const Sum* parts) {
    return Parts == 2 ? parts[0] + parts[Parts - 1] * (1.f / 254.f) : parts[0];
  }
};

}  // namespace table
