// How a block's work is shared: passes over the columns, items of a pass, and the warps that have a part of a strip.
#pragma once
#include <cstdint>

namespace table {

// Columns that are walked at once: of one part (the first has `first` columns) and one window of x.
struct Pass {
  int part, begin, end;
  __device__ Pass(int column, int first, int columns, int window)
      : part(column >= first), begin(column), end(min(column >= first ? columns : first, (column / window + 1) * window)) {}
  __device__ int tiles() const { return (end - begin) / 16; }
};

// A warp's items of a pass, in order: item i is piece i % pieces of strip i / pieces, Codes::kItemTiles tiles or what
// is left.
template <class Codes, int Warps>
struct Items {
  int pieces, begin, end, strip, piece;
  __device__ Items(const Pass& pass, int strips, int warp)
      : pieces((pass.tiles() + Codes::kItemTiles - 1) / Codes::kItemTiles) {
    const int all = strips * pieces;
    begin = all * warp / Warps, end = all * (warp + 1) / Warps;
    strip = begin / pieces, piece = begin - strip * pieces;
  }
  __device__ __forceinline__ int tiles(const Pass& pass) const {
    return min(Codes::kItemTiles, pass.tiles() - piece * Codes::kItemTiles);
  }
  __device__ __forceinline__ void step() {
    ++begin;
    if (++piece == pieces) piece = 0, ++strip;
  }
};

// The warp that has an item, of `all`: the last one w with all w / Warps <= item.
template <int Warps>
__device__ __forceinline__ int warp_of(int item, int all) {
  return ((item + 1) * Warps - 1) / all;
}

}  // namespace table
