// Activation bytes as operand B of products with the four bytes of each weight (gemv_trellis.cu), in shared memory.
//
// The four bytes of a weight meet its activation four times, so operand B of a tile is, for lane (g, q) = (lane / 4,
// lane % 4), four words of four equal bytes: column n = g of the instruction, weights 4 q .. 4 q + 3. Stored is one word
// with the four bytes, as it stands in memory; the reader spreads it by four permutations. A column is a row of bytes
// (activation_bytes.cuh), one or two for each of the batch. Where there are less than eight, kShared tiles share a word:
// tile c of them has columns c 8 / kShared ... The other columns of a product with that tile are noise, in sums that nobody
// reads.
//
//   word ((t / 4) kGroups + group) 32 + lane) 4 / kShared + (t % 4) / kShared,     t: the tile's place in the row
#pragma once
#include <cstdint>

#include "arithmetic.cuh"

// Shared: tiles that share operand words (4, 2, 1). Groups: of eight columns of the instruction.
template <int Shared, int Groups>
struct Operands {
  static_assert(Groups == 1 || Shared == 1);
  static constexpr int kShared = Shared, kGroups = Groups;
  static constexpr int kColumns = 8 / Shared * Groups;        // rows of bytes, and sums of a row of weights
  static constexpr int kWords = 4 / Shared;                   // of a lane for four tiles and a group of columns
  static constexpr int kBytesOfColumn = 2 * kWords * Groups;  // of shared memory, for a column of x

  __host__ __device__ static constexpr uint32_t word(uint32_t tile, uint32_t column, uint32_t q) {
    const uint32_t n = (tile % Shared) * (8 / Shared) + column % 8, group = column / 8;
    return (((tile / 4) * Groups + group) * 32 + n * 4 + q) * kWords + (tile % 4) / Shared;
  }
};

// Rows of bytes, 16 for each tile, into `words`. Through registers: a wait for copies would be one for the first codes too.
template <class O, int Threads, class Divisor>
struct OperandPieces {
  const uint8_t* from;  // this thread's first piece, and its place
  uint32_t place;
  uint32_t all, tiles;
  const Divisor& by_tiles;

  // Where the first pieces are is worked out here, before they are there.
  __device__ __forceinline__ OperandPieces(const uint8_t* rows_from, int rows, int tiles, const Divisor& by_tiles)
      : from(rows_from + 16 * threadIdx.x), all(rows * tiles), tiles(tiles), by_tiles(by_tiles) {
    place = place_of(threadIdx.x);
    known(from);
  }

  __device__ __forceinline__ uint32_t place_of(uint32_t piece) const {
    const uint32_t row = by_tiles(piece);
    return O::word(piece - row * tiles, row, 0);
  }

  __device__ __forceinline__ static void put(uint32_t* to, const uint4& v) {
    to[0] = v.x, to[O::kWords] = v.y, to[2 * O::kWords] = v.z, to[3 * O::kWords] = v.w;
  }

  // early: loads that go with the first pieces. A barrier must follow.
  template <class Early>
  __device__ __forceinline__ void load(uint32_t* words, Early early) const {
    uint4 first;
    if (threadIdx.x < all) first = __ldcg(reinterpret_cast<const uint4*>(from));
    early();
    if (threadIdx.x < all) put(words + place, first);
    constexpr int kHeld = 4;
#pragma unroll 1
    for (uint32_t begin = threadIdx.x + Threads; begin < all; begin += kHeld * Threads) {
      uint4 held[kHeld];
#pragma unroll
      for (int h = 0; h < kHeld; ++h)
        if (begin + h * Threads < all) held[h] = __ldcg(reinterpret_cast<const uint4*>(from) + (begin - threadIdx.x + h * Threads));
#pragma unroll
      for (int h = 0; h < kHeld; ++h)
        if (begin + h * Threads < all) put(words + place_of(begin + h * Threads), held[h]);
    }
  }
};
