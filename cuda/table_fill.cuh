// A codebook as a table in shared memory (table_lookup.cuh), in the precision of x.
#pragma once
#include <cstdint>
#include <type_traits>

#include "arithmetic.cuh"
#include "numbers.cuh"
#include "table_family.cuh"

namespace table {

__device__ __forceinline__ uint16_t bits_of(__half v) { return reinterpret_cast<const uint16_t&>(v); }
__device__ __forceinline__ uint16_t bits_of(__nv_bfloat16 v) { return reinterpret_cast<const uint16_t&>(v); }

// Two neighbouring weights as one word of T, in four ways: of one register the compiler makes four more for every store.
template <class T> __device__ __forceinline__ uint32_t pair_of(const __half (&v)[2], int way) {
  uint32_t low, high;
  if constexpr (std::is_same_v<T, __half>)
    low = bits_of(v[0]), high = bits_of(v[1]);
  else
    low = bits_of(from_float<T>(__half2float(v[0]))), high = bits_of(from_float<T>(__half2float(v[1])));
  return way == 0 ? low | high << 16 : way == 1 ? __byte_perm(low, high, 0x5410) : way == 2 ? scaled(high, 65536) + low
                                                                                            : __byte_perm(high, low, 0x1054);
}

// A block's threads write the table, every entry as often as it has copies; what they read first is asked for where this is made.
// A thread has kOwn pieces of 16 bytes of an entry (or a piece of several entries), in an order in which neighbours write other
// banks. codebook: (entries, 2), or (levels) where `scalar`: then an entry is a pair of levels, the first in its low bits, or
// with LEVELS a level twice.
template <class Table, class T, int Threads>
struct Fill {
  static constexpr int kEntries = Table::kCopies < 4 ? 4 / Table::kCopies : 1;
  static constexpr int own(int pieces) { return pieces > 1 && Table::kBytes / 16 / pieces < Threads ? own(pieces / 2) : pieces; }
  static constexpr int kOwn = own(Table::kCopies < 4 ? 1 : Table::kCopies / 4), kAll = Table::kBytes / 16 / kOwn;
  static constexpr int kTurns = (kAll + Threads - 1) / Threads, kHeld = kTurns < 4 / kEntries ? kTurns : 4 / kEntries;

  const __half* codebook;
  bool scalar;
  __half held[kHeld][kEntries][2];

  __device__ __forceinline__ void read(uint32_t at, __half (&to)[kEntries][2]) const {
    constexpr int half_bits = log2_of(Table::kCount) / 2;
#pragma unroll
    for (int c = 0; c < kEntries; ++c) {
      const uint32_t entry = kEntries > 1 ? kEntries * at + c : at * (4 * kOwn) / Table::kCopies;
      to[c][0] = codebook[LEVELS ? entry : scalar ? entry % (1 << half_bits) : 2 * entry];
      to[c][1] = codebook[LEVELS ? entry : scalar ? entry >> half_bits : 2 * entry + 1];
    }
  }
  __device__ __forceinline__ static void write(uint32_t at, const __half (&from)[kEntries][2], uint8_t* entries) {
    uint32_t words[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) words[c] = pair_of<T>(from[c * kEntries / 4], c);
    const uint32_t to = (at * kOwn + at / (8 / kOwn) % kOwn) * 16;
#pragma unroll
    for (uint32_t i = 0; i < kOwn; ++i)
      *reinterpret_cast<uint4*>(entries + (to ^ 16 * i)) = make_uint4(words[0], words[1], words[2], words[3]);
  }

  __device__ __forceinline__ Fill(const __half* codebook, bool scalar) : codebook(codebook), scalar(scalar) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (const uint32_t at = threadIdx.x + i * Threads; kAll % Threads == 0 || at < kAll) read(at, held[i]);
  }
  __device__ __forceinline__ void write(uint8_t* entries) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (const uint32_t at = threadIdx.x + i * Threads; kAll % Threads == 0 || at < kAll) write(at, held[i], entries);
    if constexpr (kTurns > kHeld) {
#pragma unroll 4
      for (uint32_t at = threadIdx.x + kHeld * Threads; at < kAll; at += Threads) read(at, held[0]), write(at, held[0], entries);
    }
  }
};

template <int StateBits, class T, int Threads>
struct Fill<Computed<StateBits>, T, Threads> {
  __device__ Fill(const __half*, bool) {}
  __device__ void write(uint8_t*) const {}
};

}  // namespace table
