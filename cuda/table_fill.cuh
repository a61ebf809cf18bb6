// A codebook as a table in shared memory (table_lookup.cuh), in the precision of x.
#pragma once
#include <cstdint>

#include "numbers.cuh"
#include "table_family.cuh"

namespace table {

__device__ __forceinline__ uint16_t bits_of(__half v) { return reinterpret_cast<const uint16_t&>(v); }
__device__ __forceinline__ uint16_t bits_of(__nv_bfloat16 v) { return reinterpret_cast<const uint16_t&>(v); }

// Two neighbouring weights as one word of T.
template <class T> __device__ __forceinline__ uint32_t pair_of(__half2 v) {
  const T low = from_float<T>(__half2float(__low2half(v))), high = from_float<T>(__half2float(__high2half(v)));
  return bits_of(low) | static_cast<uint32_t>(bits_of(high)) << 16;
}

// A block's threads write the table, every entry as often as it has copies. codebook: (entries, 2), or (levels) where
// `scalar`: then an entry is a pair of levels, the first in its low bits, or with LEVELS a level twice.
template <class Table, class T, int Threads>
__device__ __forceinline__ void fill(uint8_t* entries, const __half* codebook, bool scalar) {
  constexpr int half_bits = log2_of(Table::kCount) / 2, pieces = Table::kBytes / 16;
  constexpr int kOwn = Table::kCopies >= 4 ? 1 : 4;                            // entries of a piece
  constexpr int kRounds = (pieces + Threads - 1) / Threads, kHeld = kRounds < 8 ? kRounds : 8;  // under way at once
  uint4* to = reinterpret_cast<uint4*>(entries);
#pragma unroll 1
  for (int begin = threadIdx.x; begin < pieces; begin += kHeld * Threads) {
    __half2 pairs[kHeld][kOwn];
#pragma unroll
    for (int h = 0; h < kHeld; ++h)
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        const int entry = min((4 * (begin + h * Threads) + c) / Table::kCopies, Table::kCount - 1);
        const int low = LEVELS ? entry : entry & ((1 << half_bits) - 1), high = LEVELS ? entry : entry >> half_bits;
        pairs[h][c] = scalar ? __halves2half2(codebook[low], codebook[high]) : reinterpret_cast<const __half2*>(codebook)[entry];
      }
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      uint32_t words[4];
#pragma unroll
      for (int c = 0; c < kOwn; ++c) words[c] = pair_of<T>(pairs[h][c]);
      if constexpr (kOwn == 1) words[1] = words[2] = words[3] = words[0];
      if (begin + h * Threads < pieces) to[begin + h * Threads] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

}  // namespace table
