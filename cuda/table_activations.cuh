// Activations as operand B of products with pairs of weights, in shared memory: as they are, or as bytes.
//
// Row r of shared memory is column r of the instruction: 2 bytes for each column of x, 16 more from row to row. Of a pair of
// weights that a table gives in half precision operand B is the pair of activations; of a pair that is computed from four
// bytes it is the four bytes of activation_bytes.cuh, in one row or, where the instruction has columns to spare, in two.
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "half_products.cuh"

namespace table {

// `pieces` of 16 bytes from `column` on of `rows` rows, 2 bytes each; a barrier must follow. Through registers, four pieces of 16
// bytes at a time: a wait for copies would be one for the first codes too. CopyOne: but for one row by copies all the same,
// which products by table, whose first codes are there by then, start 2 % sooner with. skipped: pieces of the first two rows
// that are there already.
template <int Threads, bool CopyOne>
__device__ void load_rows(const void* from, int rows, int columns, int column, int pieces, uint8_t* x, int pitch, int skipped = 0) {
  const uint8_t* first = static_cast<const uint8_t*>(from) + 2 * column;
  int thread = threadIdx.x;
  known(thread);  // or the compiler has work on addresses of later windows before the first
  if (CopyOne && rows == 1) {
#pragma unroll 1
    for (int i = thread; i < pieces; i += Threads) copy16(x + 16 * i, first + 16 * i);
    commit_copies();
    wait_copies<0>();
    return;
  }
  for (int r = 0; r < rows; r += 2)
    for (int i = thread + (r ? 0 : skipped); i < pieces; i += 2 * Threads) {
      uint4 held[2][2];
      auto each = [&](auto work) {
#pragma unroll
        for (int a = 0; a < 2; ++a)
#pragma unroll
          for (int b = 0; b < 2; ++b)
            if (r + a < rows && i + b * Threads < pieces) work(held[a][b], r + a, 16 * (i + b * Threads));
      };
      each([&](uint4& v, int row, int at) { v = *reinterpret_cast<const uint4*>(first + static_cast<int64_t>(row) * 2 * columns + at); });
      each([&](uint4& v, int row, int at) { *reinterpret_cast<uint4*>(x + row * pitch + at) = v; });
    }
}

// A thread's first pieces of the first two rows: where they are is worked out before they are there.
template <int Threads>
struct FirstPieces {
  const uint8_t* from;
  uint8_t* to;
  bool one, two;
  __device__ FirstPieces(const void* rows_from, int rows, int pieces, uint8_t* x)
      : from(static_cast<const uint8_t*>(rows_from) + 16 * threadIdx.x), to(x + 16 * threadIdx.x), one(threadIdx.x < pieces),
        two(one && rows > 1) {
    known(from);
  }
  // early: loads that go with these.
  template <class Early>
  __device__ __forceinline__ void load(int row_bytes, int pitch, Early early) const {
    uint4 first, second;
    if (one) first = __ldcg(reinterpret_cast<const uint4*>(from));
    if (two) second = __ldcg(reinterpret_cast<const uint4*>(from + row_bytes));
    early();
    if (one) *reinterpret_cast<uint4*>(to) = first;
    if (two) *reinterpret_cast<uint4*>(to + pitch) = second;
  }
};

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
