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

// Shared: tiles that share operand words (4, 2, 1). Groups: of eight columns of the instruction.
template <int Shared, int Groups>
struct Operands {
  static_assert(Groups == 1 || Shared == 1);
  static constexpr int kShared = Shared, kGroups = Groups;
  static constexpr int kColumns = 8 / Shared * Groups;        // rows of bytes, and sums of a row of weights
  static constexpr int kWords = 4 / Shared;                   // of a lane for four tiles and a group of columns
  static constexpr int kBytesOfColumn = 2 * kWords * Groups;  // of shared memory, for a column of x

  __host__ __device__ static constexpr int word(int tile, int column, int q) {
    const int n = (tile % Shared) * (8 / Shared) + column % 8, group = column / 8;
    return (((tile / 4) * Groups + group) * 32 + n * 4 + q) * kWords + (tile % 4) / Shared;
  }
};

// Rows of bytes (rows, columns) into `words`, four pieces of 16 bytes, of a tile each, at a time; a barrier must follow.
// Through registers: a wait for copies would be one for the first codes too.
template <class O, int Threads>
__device__ void load_operands(const uint8_t* from, int rows, int columns, uint32_t* words) {
  constexpr int kHeld = 4;
  const int tiles = columns / 16;
  for (int r = 0; r < rows; ++r, from += columns)
    for (int first = threadIdx.x; first < tiles; first += kHeld * Threads) {
      uint4 held[kHeld];
#pragma unroll
      for (int h = 0; h < kHeld; ++h)
        if (const int tile = first + h * Threads; tile < tiles) held[h] = reinterpret_cast<const uint4*>(from)[tile];
#pragma unroll
      for (int h = 0; h < kHeld; ++h)
        if (const int tile = first + h * Threads; tile < tiles) {
          uint32_t* to = words + O::word(tile, r, 0);
          to[0] = held[h].x, to[O::kWords] = held[h].y, to[2 * O::kWords] = held[h].z, to[3 * O::kWords] = held[h].w;
        }
    }
}
