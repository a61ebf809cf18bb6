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
  uint4* to = reinterpret_cast<uint4*>(entries);
#pragma unroll 8
  for (int i = threadIdx.x; i < pieces; i += Threads) {
    uint32_t words[4];
#pragma unroll
    for (int c = 0; c < (Table::kCopies >= 4 ? 1 : 4); ++c) {
      const int entry = (4 * i + c) / Table::kCopies;
      const int low = LEVELS ? entry : entry & ((1 << half_bits) - 1), high = LEVELS ? entry : entry >> half_bits;
      const __half2 pair = scalar ? __halves2half2(codebook[low], codebook[high])
                                  : reinterpret_cast<const __half2*>(codebook)[entry];
      words[c] = pair_of<T>(pair);
    }
    if constexpr (Table::kCopies >= 4) words[1] = words[2] = words[3] = words[0];
    to[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

}  // namespace table
