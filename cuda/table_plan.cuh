// How a product by table is launched: its parameters, warps, ring of copies, and what of x is in shared memory at once.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "launch.cuh"
#include "table_family.cuh"

struct TableParams {
  const uint8_t* codes[2];  // of the two parts of the columns; one part: the second is empty
  const __half* codebook;   // (entries, 2), or (levels) where `scalar`
  const __half* row_scale;  // (rows)
  const void* x;            // (batch, columns); where weights are computed (batch, parts, 2 columns) bytes
  const float* x_scale;     // (batch, segments) of the bytes
  void* y;                  // (batch, rows)
  float unit[2];            // what an entry of 1 stands for, in each part
  int rows, columns, batch;
  int first_columns;        // columns of the first part
  int scalar;
  uint32_t multiplier;      // where weights are computed
  int parts;                // bytes of an activation
  int segment_bits;         // columns of a scale, as a power of two
  int alone;                // no product before or behind: the next kernel starts late, and blocks have an SM each
};

namespace table {

constexpr bool kComputed = Table::kBytes == 0;
// Of trellis2 up to 2 bits: with 20 warps q and qkv end .5 us sooner in a model, with 24 the rest of the rates (EXPERIMENTS.md).
#ifndef WARPS
#define WARPS (kComputed ? (First::kUnit <= 256 ? 20 : 24) : 16)
#endif
constexpr int kWarps = WARPS, kThreads = kWarps * 32;
constexpr int kMostBatch = 16, kWindow = 256;  // windows of x are multiples of it
constexpr int kMostPaired = 64;  // tiles of a warp: beyond, what half of the registers cost is more
constexpr bool kPairs = First::kRows && First::kUnit <= 24;  // vq and nuq to 3 bits: of others half of the registers cost more
constexpr int kUnrolled = First::kRows && (First::kUnit == 24 || First::kUnit == 32) ? 2 : 1;  // units a turn of the loop, measured
// Copies of a warp under way. Computed: 2 KB. Tables: what leaves half of an SM's shared memory to the next kernel at 4096
// columns and batch 1; more copies ahead are slower, the loads of x stand behind them.
constexpr int kSlot = largest(First::kSlot, Second::kSlot);
constexpr int kOther = 8208 + 2048 + kSystem;  // of x, of sums, and what the system keeps
constexpr int kRoom = (Table::kBytes <= 65536 ? 116736 - kOther : kMostShared - 32768) - Table::kBytes;
constexpr int clamped(int v) { return v < 2 ? 2 : v > 4 ? 4 : v; }
constexpr int kStages = clamped(kComputed ? (2048 + kSlot - 1) / kSlot : kRoom / kWarps / kSlot);
constexpr int kRing = kWarps * kStages * kSlot;
// As many as the warps of one block leave each: with less the compiler lets lookups wait for each other.
constexpr int kMostRegisters = 65536 / kThreads / 8 * 8;
constexpr bool kTwoParts = !std::is_same_v<First, Second>;
static_assert(Table::kBytes % 16 == 0 && kSlot % 16 == 0 && Table::kBytes + kRing < kMostShared);

struct Plan {
  int batch, window, bytes;
};

// As much of the batch at once as leaves room for a window of 1024 columns of x, or all of them.
inline Plan plan(const TableParams& p, int own) {
  for (int batch = min(p.batch, kMostBatch);; batch = (batch + 1) / 2) {
    const int scales = own * 32 + (kComputed ? batch * segments_of(p.columns, p.segment_bits) * 4 : 0);
    const int sums = ((2 * own + kWarps - 1) * 64 << log2_above(batch)) + (own + 1) / 2 * 16 + scales;
    const int fixed = Table::kBytes + kRing + sums;
    const int most = (kMostShared - kSystem - fixed) / (batch * p.parts) / 2 - 8;
    int window = p.columns;
    if (most < p.columns) {
      const int whole = most / kWindow * kWindow;
      if (whole < 1024 && batch > 1) continue;
      if (whole <= 0) return {0, 0, 0};
      const int windows = (p.columns + whole - 1) / whole;
      window = ((p.columns + windows - 1) / windows + kWindow - 1) / kWindow * kWindow;
    }
    return {batch, window, max(fixed + batch * p.parts * (2 * window + 16), p.alone ? kAlone : 0)};
  }
}

}  // namespace table
