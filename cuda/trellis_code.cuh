// The computed code of the `trellis` family: what a state stands for, and how many bits each step adds.
//
//   value(s) = sum of the four signed bytes of (multiplier s + offset) mod 2^32,      s < 2^L
//
// Four nearly independent uniform bytes: variance 4 (256^2 - 1) / 12 = 147.8^2, near Gaussian, range -512 .. 508. It needs
// no table: one multiply-add and one dot product of bytes (dp4a), or the bytes themselves as operands of an integer
// matrix product in which every activation stands four times.
//
// A rate R = a / 4 in [1, 6] is a pattern of four shifts (new bits of steps 4i .. 4i + 3) with sum a, the larger ones last:
// 3.25 bits = 3-3-3-4, 3.5 = 3-4-3-4. docs/format.md is the page of record for all of this.
#pragma once
#include <cstdint>

namespace trellis {

constexpr int kBlock = 256;  // weights of a tile, steps of its tail-biting path

// New bits of step t (mod 4) at a rate of `quarters` / 4: floor((t + 1) quarters / 4) - floor(t quarters / 4).
__host__ __device__ constexpr int shift_at(int quarters, int t) {
  return ((t % 4 + 1) * quarters) / 4 - ((t % 4) * quarters) / 4;
}

// State bits: 17 where 16 would leave more than 0.45 dB (to 3 bits) or 0.70 dB (above) to the bound, or would not decode in fewer
// instructions: at 3.25, 4 and 4.25 bits states that are 16 bits apart share a window (trellis_decode.cuh).
__host__ __device__ constexpr int state_bits(int quarters) {
  return quarters <= 10 || quarters == 13 || quarters == 16 || quarters == 17 ? 16 : 17;
}

static_assert(shift_at(13, 0) == 3 && shift_at(13, 1) == 3 && shift_at(13, 2) == 3 && shift_at(13, 3) == 4);
static_assert(shift_at(14, 0) == 3 && shift_at(14, 1) == 4 && shift_at(14, 2) == 3 && shift_at(14, 3) == 4);
static_assert(shift_at(8, 0) == 2 && shift_at(8, 3) == 2);

}  // namespace trellis
