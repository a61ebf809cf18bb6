// How a block's work is shared: passes over the columns, items of a pass, and the warps that have a part of a strip.
#pragma once
#include <cstdint>

#include "async_copy.cuh"
#include "table_codes.cuh"

namespace table {

// Columns that are walked at once: of one part (the first has `first` columns) and one window of x, which begins at `loaded`.
struct Pass {
  int part, begin, end, loaded;
  __device__ Pass(int begin, int loaded, int first, int columns, int window)
      : part(begin >= first), begin(begin), end(min(begin >= first ? columns : first, loaded + window)), loaded(loaded) {}
  __device__ Pass next(int first, int columns, int window) const {
    return Pass(end, end == loaded + window ? end : loaded, first, columns, window);
  }
  __device__ int tiles() const { return (end - begin) / 16; }
};

// A warp's items of a pass, in order: item i is piece i % pieces of strip i / pieces, Codes::kItemTiles tiles or, the
// last piece, what is left. Copies are ahead of products.
struct Walk {
  int pieces, last_tiles;
  int left, piece, strip;         // of the products
  int copies_left, copies_piece;  // of the copies
  const uint8_t* from;            // this lane's part of the next copy
  int skip;                       // from the end of a strip's pieces to the next strip

  template <class Codes>
  __device__ static Walk begin(const Codes& codes, const Matrix& matrix, const Pass& pass, int before, int first_strip,
                               int strips, int warp, int warps, int lane) {
    Walk w;
    w.pieces = (pass.tiles() + Codes::kItemTiles - 1) / Codes::kItemTiles;
    w.last_tiles = pass.tiles() - (w.pieces - 1) * Codes::kItemTiles;
    const uint32_t all = strips * w.pieces;  // times the warps of a GPU it still fits
    const int begin = all * warp / warps;
    w.left = w.copies_left = static_cast<int>(all * (warp + 1) / warps) - begin;
    w.strip = begin / w.pieces, w.piece = w.copies_piece = begin - w.strip * w.pieces;
    w.from = codes.source(matrix, first_strip + w.strip, before + w.piece * Codes::kItemTiles, lane);
    w.skip = Codes::strip_bytes(matrix) - w.pieces * Codes::kItemBytes;
    return w;
  }

  // Copies the next item, if there is one.
  template <class Codes>
  __device__ __forceinline__ void copy(const Codes& codes, uint8_t* slot, int lane) {
    if (copies_left > 0) {
      const bool last = ++copies_piece == pieces;
      codes.issue(slot, from, last ? last_tiles : Codes::kItemTiles, lane);
      from += Codes::kItemBytes + (last ? skip : 0);
      if (last) copies_piece = 0;
      --copies_left;
    }
    commit_copies();
  }
};

}  // namespace table
