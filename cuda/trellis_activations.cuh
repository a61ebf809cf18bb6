// Activation bytes as operand B of products with the four bytes of each weight (gemv_trellis.cu), in shared memory.
//
// A product m = 0 .. 7 of a unit of four tiles takes columns 2 m, 2 m + 1 of each. The four bytes of a weight meet its
// activation four times, so operand B is, for lane (g, q) = (lane / 4, lane % 4), two words of four equal bytes: column n = g of
// the instruction, columns 2 m and 2 m + 1 of tile q. Stored is the pair of bytes; the reader spreads it by two permutations. A
// column of the instruction is a row of bytes (activation_bytes.cuh), one or two for each of the batch. Where there are less
// than eight, kShared products share their words: of products m = kShared G + c, those of equal G; c has columns
// c 8 / kShared .. . The other columns of a product are noise, in sums that nobody reads.
//
//   word (unit kGroups + group) 32 kWords + lane kWords + G / 2, half G % 2;      units are Pad kWords words further apart
#pragma once
#include <cstdint>

#include "arithmetic.cuh"

// Shared: products that share operand words (4, 2, 1). Groups: of eight columns of the instruction. Pad: of lanes' words, from unit
// to unit: with 4 a warp's writes for its units do not meet in banks, with 2 two of them do.
template <int Shared, int Groups, int Pad = Shared == 1 ? 0 : 4>
struct Operands {
  static_assert(Groups == 1 || Shared == 1);
  static constexpr int kShared = Shared, kGroups = Groups;
  static constexpr int kColumns = 8 / Shared * Groups;  // rows of bytes, and sums of a row of weights
  static constexpr int kWords = 4 / Shared;             // of a lane for a unit and a group of columns
  static constexpr int kUnit = 32 * kWords * Groups + Pad * kWords;  // words

  __host__ __device__ static constexpr int bytes(int columns) { return (columns / 64 * kUnit + 3) / 4 * 16; }

  // The 16 bytes of a row (a column of the instruction) for a tile, `to` their place.
  __device__ __forceinline__ static void put(uint32_t* to, const uint4& v) {
    constexpr int kNext = 8 / Shared * 4 * kWords;  // words from c to c + 1
    if constexpr (Shared == 1) {
      *reinterpret_cast<uint4*>(to) = v;
    } else if constexpr (Shared == 2) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t half = c ? 0x7632 : 0x5410;
        *reinterpret_cast<uint2*>(to + c * kNext) = make_uint2(__byte_perm(v.x, v.y, half), __byte_perm(v.z, v.w, half));
      }
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c)
        to[c * kNext] = __byte_perm(c < 2 ? v.x : v.y, c < 2 ? v.z : v.w, c % 2 ? 0x7632 : 0x5410);
    }
  }
};

// Rows of bytes, 16 for each tile, to their places. Through registers: a wait for copies would be one for the first codes too. The
// first pieces of a thread are asked for, and written when something else has been done; a barrier must follow.
template <class O, int Threads, class Divisor>
struct OperandPieces {
  static constexpr int kHeld = 4, kRow = 4 * O::kWords;  // words from a row to the next
  const uint8_t* from;  // this thread's first piece
  uint32_t* to;         // its place, were it of row 0
  uint32_t all;
  int row_step;         // words from a row's place to the next one's, less those of its units
  const Divisor& by_tiles;
  uint4 held[kHeld];

  // rows: of `units` 64 bytes; all: pieces of 16.
  __device__ __forceinline__ OperandPieces(const uint8_t* rows, uint32_t* words, uint32_t all, uint32_t units, const Divisor& by_tiles)
      : from(rows + 16 * threadIdx.x), to(words + threadIdx.x / 4 * O::kUnit + threadIdx.x % 4 * O::kWords), all(all),
        row_step(kRow - static_cast<int>(units) * O::kUnit), by_tiles(by_tiles) {
    known(from);
  }

  __device__ __forceinline__ void ask(uint32_t done, int h) {
    if (threadIdx.x + done + h * Threads < all) held[h] = __ldcg(reinterpret_cast<const uint4*>(from) + done + h * Threads);
  }
  __device__ __forceinline__ void put(uint32_t done, int h) const {
    const int unit = (done + h * Threads) / 4, row = by_tiles(threadIdx.x + done + h * Threads);
    if (threadIdx.x + done + h * Threads < all) O::put(to + (unit * O::kUnit + row * row_step), held[h]);
  }

  __device__ __forceinline__ void ask_first() {
    ask(0, 0);
    if (all > Threads) {
#pragma unroll
      for (int h = 1; h < kHeld; ++h) ask(0, h);
    }
  }
  __device__ __forceinline__ void write() {
    put(0, 0);
    if (all <= Threads) return;
#pragma unroll
    for (int h = 1; h < kHeld; ++h) put(0, h);
#pragma unroll 1
    for (uint32_t done = kHeld * Threads; done < all; done += kHeld * Threads) {
#pragma unroll
      for (int h = 0; h < kHeld; ++h) ask(done, h);
#pragma unroll
      for (int h = 0; h < kHeld; ++h) put(done, h);
    }
  }
};
