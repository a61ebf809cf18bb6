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
  int alone;                 // no product before or behind: the next kernel starts late, and blocks have an SM each
};

namespace trellis {

// A division of small numbers by a number that the host knows: exact while numerator x divisor < 2^32.
struct Divisor {
  uint32_t reciprocal;
  explicit Divisor(uint32_t by) : reciprocal(0xFFFFFFFFu / by + 1) {}
  __device__ __forceinline__ uint32_t operator()(uint32_t numerator) const { return __umulhi(numerator, reciprocal); }
};

constexpr int kWarps = 16, kThreads = kWarps * 32;
// How blocks share an SM: one alone, with registers and long copies; two, of 64 registers; two with shorter copies, where x has
// 14,336 columns.
enum Share { kOne, kTwo, kTwoShort };

// Tiles of a copy and copies of the ring: long ones, as each costs 50 instructions. One block has room for 14,336 columns of a
// batch of 8 (wide), or of 2; two for 4,096.
template <bool Wide, Share S>
struct Ring {
  // Up to which quarters of a bit 32 tiles, and 16.
  static constexpr int kMost32 = S ? (Wide ? 8 : 13) : (Wide ? 13 : 16), kMost16 = S ? (Wide ? 16 : 24) : 18;
  static constexpr int kTiles = S == kTwoShort ? 24 : QUARTERS <= kMost32 ? 32 : QUARTERS <= kMost16 ? 16 : 8;
  static constexpr int kStages = Wide && !S && QUARTERS > kMost32 && QUARTERS <= 16 ? 3 : 2;
  static constexpr int kBytes = kWarps * kStages * kTiles * 8 * QUARTERS;
  static constexpr int kRegisters = S ? 64 : Wide ? 128 : 96;
  static constexpr int kUnrolled = Wide ? 1 : 2;  // units a turn of the loop, measured
};
constexpr bool kHasShort = QUARTERS >= 11 && QUARTERS <= 13;
constexpr int kMostPaired = QUARTERS <= 16 ? 128 : 64;  // tiles of a warp: beyond, what 64 registers cost is more

inline int blocks_of(const GemvParams& p, int processors) { return min(p.rows / 16, processors); }

template <int Q, class O, Share S>
int shared_bytes(const GemvParams& p, int processors) {
  const int strips = p.rows / 16, blocks = blocks_of(p, processors), own = (strips + blocks - 1) / blocks;
  return Ring<O::kShared < 4, S>::kBytes + O::bytes(p.columns) + own * segments_of(p.columns, p.segment_bits) * 16 * O::kColumns * 4 +
         own * 32 + O::kColumns * segments_of(p.columns, p.segment_bits) * 4;
}

}  // namespace trellis
