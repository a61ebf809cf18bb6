// How a block's work is shared: passes over the columns, items of a pass, and the warps that have a part of a strip.
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "launch.cuh"
#include "table_family.cuh"

namespace table {

// Columns that are walked at once: of one part (the first has `first` columns) and one window of x, which begins at `loaded`.
// A strip has `tiles` there, in `pieces` items of Codes::kItemTiles, of which the last may be shorter.
struct Pass {
  uint32_t part, begin, end, loaded;
  uint32_t before;  // tiles of the part that are behind
  uint32_t tiles, pieces;
  uint32_t strip_bytes;  // of the part
  int skip;              // bytes of codes from the end of a strip's pieces to the next strip
  Divisor by_pieces;     // twice a number by twice `pieces`: they may be 1
  __host__ __device__ Pass(uint32_t begin, uint32_t loaded, uint32_t first, uint32_t columns, uint32_t window)
      : part(begin >= first), begin(begin), end(min(part ? columns : first, loaded + window)), loaded(loaded),
        before((part ? begin - first : begin) / 16), tiles((end - begin) / 16),
        pieces((tiles + item_tiles() - 1) / item_tiles()),
        strip_bytes(part ? Second::strip_bytes(columns - first) : First::strip_bytes(first)),
        skip(strip_bytes - pieces * (part ? Second::kItemBytes : First::kItemBytes)), by_pieces(2 * pieces) {}
  __host__ __device__ Pass next(uint32_t first, uint32_t columns, uint32_t window) const {
    return Pass(end, end == loaded + window ? end : loaded, first, columns, window);
  }
  __host__ __device__ uint32_t item_tiles() const { return part ? Second::kItemTiles : First::kItemTiles; }
};

// A warp's items of a pass, in order: item i is piece i % pieces of strip i / pieces. Copies are ahead of products.
struct Walk {
  uint32_t left, tile, strip;        // of the products: items, and where the next one is
  uint32_t copies_left, copies_rest; // of the copies: items, and tiles until the strip ends
  const uint8_t* from;               // this lane's part of the next copy

  // Items `begin` to `end` of the strips from first_strip on.
  template <class Codes>
  __device__ __forceinline__ Walk(const Codes& codes, const uint8_t* matrix, const Pass& pass, uint32_t first_strip, uint32_t begin,
                                  uint32_t end, uint32_t lane)
      : left(end - begin), strip(pass.by_pieces(2 * begin)), copies_left(left) {
    tile = (begin - strip * pass.pieces) * Codes::kItemTiles, copies_rest = pass.tiles - tile;
    from = matrix + (static_cast<uint64_t>(first_strip + strip) * pass.strip_bytes + codes.source(pass.before + tile, lane));
    known(from);
  }

  // Copies the next item, if there is one.
  template <class Codes>
  __device__ __forceinline__ void copy(const Codes& codes, const Pass& pass, uint8_t* slot, uint32_t lane) {
    if (copies_left) {
      codes.issue(slot, from, min(copies_rest, Codes::kItemTiles), lane);
      from += Codes::kItemBytes, --copies_left, copies_rest -= Codes::kItemTiles;
      if (static_cast<int>(copies_rest) <= 0) from += pass.skip, copies_rest = pass.tiles;
      known(from);
    }
    commit_copies();
  }
};

}  // namespace table
