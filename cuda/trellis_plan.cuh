// How a product with codes of `trellis` is launched: its parameters, copies under way, and how blocks share an SM.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "launch.cuh"

struct GemvParams {
  const uint8_t* codes;      // (rows / 16, columns / 16, 8 Q)
  const __half* row_scale;   // (rows)
  const uint8_t* x;          // (batch, parts, columns)
  const float* x_scale;      // (batch, segments)
  void* y;                   // (batch, rows)
  int rows, columns, batch;
  int parts;                 // bytes of an activation
  int segment_bits;          // columns of a scale, as a power of two, 2^6 at least
  uint32_t multiplier;
  float unit;                // 1 / (147.8 gain): what a value of 1 stands for
  int alone;                 // no product before or behind: blocks have an SM each
  int early;                 // the next kernel is let in before the sums are done
};

namespace trellis {

constexpr int kWarps = 16, kThreads = kWarps * 32;
// How blocks share an SM: one alone, with registers and long copies; two, of 64 registers; two with shorter copies, where x has
// 14,336 columns.
enum Share { kOne, kTwo, kTwoShort };

constexpr int tiles_within(int bytes) {
  int tiles = 32;
  while (tiles > 4 && kWarps * 2 * tiles * 8 * QUARTERS > bytes) tiles /= 2;
  return tiles;
}

// Tiles of a copy and copies of the ring: long ones, as each costs 30 instructions. One block has room for 14,336 columns of a
// batch of 8 (wide), or of 2; two for 4,096. Of cards with less shared memory a third of it, or half of that.
template <bool Wide, Share S>
struct Ring {
  // Up to which quarters of a bit 32 tiles, and 16.
  static constexpr int kMost32 = S ? (Wide ? 8 : 13) : (Wide ? 13 : 16), kMost16 = S ? (Wide ? 16 : 24) : 18;
  static constexpr int kHopper = S == kTwoShort ? 24 : QUARTERS <= kMost32 ? 32 : QUARTERS <= kMost16 ? 16 : 8;
  static constexpr int kTiles = kLess ? tiles_within(kMostShared / (S ? 6 : 3)) : kHopper;
  static constexpr int kStages = !kLess && Wide && !S && QUARTERS > kMost32 && QUARTERS <= 16 ? 3 : 2;
  static constexpr int kBytes = kWarps * kStages * kTiles * 8 * QUARTERS;
  static constexpr int kRegisters = S ? 64 : Wide ? 128 : 96;
  static constexpr int kUnrolled = Wide ? 1 : QUARTERS < 16 ? 4 : 2;  // units a turn of the loop, measured
};
constexpr bool kHasShort = !kLess && QUARTERS >= 11 && QUARTERS <= 13;
constexpr int kMostPaired = QUARTERS <= 16 ? 128 : 64;  // tiles of a warp: beyond, what 64 registers cost is more

// What is the same for all blocks, worked out once: what stands before and behind the loop, 16 warps execute.
// Shared memory: the ring; from operands on as O has them; scales of x, of rows; sums, int32 (strips, segments, 16, kColumns).
template <class O>
struct GemvWork {
  Divisor by_tiles;
  uint32_t units;                      // of 64 columns, in a strip
  uint32_t each, larger;               // strips of a block; blocks with one more
  uint32_t segments, unit_bits, most;  // scales of a row of x, for 2^unit_bits units each, `most` where a row ends before
  uint32_t pieces, scales;             // of x: 16 bytes each; (batch, segments)
  uint32_t scales_at, row_scales_at, sums_at, bytes;
  uint32_t lanes, width;               // at the end 2^lanes threads add a row's segments, and the batch is padded to 2^width

  GemvWork(const GemvParams& p, int ring, int processors) : by_tiles(p.columns / 16) {
    const uint32_t strips = p.rows / 16, blocks = min(strips, processors), own = (strips + blocks - 1) / blocks;
    units = p.columns / 64, each = strips / blocks, larger = strips % blocks;
    segments = segments_of(p.columns, p.segment_bits), unit_bits = p.segment_bits - 6, most = min(1u << unit_bits, units);
    pieces = p.batch * p.parts * units * 4, scales = p.batch * segments;
    scales_at = ring + O::bytes(p.columns);
    row_scales_at = scales_at + (O::kColumns * segments * 4 + 15) / 16 * 16;
    sums_at = row_scales_at + own * 32, bytes = sums_at + own * segments * 16 * O::kColumns * 4;
    lanes = min(log2_above(segments), 3), width = log2_above(p.batch);
  }
};

}  // namespace trellis
