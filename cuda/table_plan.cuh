// How a product by table is launched: its parameters, warps, ring of copies, what of x is in shared memory at once, and what all
// blocks have in common.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "launch.cuh"
#include "table_work.cuh"

struct TableParams {
  const uint8_t* codes[2];  // of the two parts of the columns; one part: the second is empty
  const __half* codebook;   // (entries, 2), or (levels) where `scalar`
  const __half* row_scale;  // (rows)
  const void* x;            // (batch, columns); where weights are computed (batch, parts, 2 columns) bytes
  const float* x_scale;     // (batch, segments) of the bytes
  void* y;                  // (batch, rows)
  float unit[2];            // what an entry of 1 stands for, in each part
  uint32_t rows, columns;
  int batch;
  uint32_t first_columns;   // columns of the first part
  int scalar;
  uint32_t multiplier;      // where weights are computed
  int parts;                // bytes of an activation
  int segment_bits;         // columns of a scale, as a power of two
  int alone;                // no product before or behind: blocks have an SM each
  int early;                // the next kernel is let in before the sums are done
};

namespace table {

constexpr bool kComputed = Table::kBytes == 0;
// Of trellis2 up to 2 bits: with 20 warps q and qkv end .5 us sooner in a model, with 24 the rest of the rates (EXPERIMENTS.md).
#ifndef WARPS
#define WARPS (kLeast ? (kComputed ? 16 : 8) : kComputed ? (First::kUnit <= 256 ? 20 : 24) : 16)
#endif
constexpr int kWarps = WARPS, kThreads = kWarps * 32;
constexpr int kMostBatch = 16, kWindow = 256;  // windows of x are multiples of it
constexpr int kMostPaired = 128;  // tiles of a warp: beyond, what half of the registers cost is more
constexpr bool kPairs = First::kRows && First::kUnit <= 32;  // vq and nuq to 4 bits: of others the table leaves no room
constexpr int kUnrolled = First::kRows && (First::kUnit == 24 || First::kUnit == 32) ? 2 : 1;  // units a turn of the loop, measured
// Copies of a warp under way. Computed: 2 KB. Tables: what leaves half of an SM's shared memory to the next kernel at 4096
// columns and batch 1; more copies ahead are slower, the loads of x stand behind them.
constexpr int kSlot = largest(First::kSlot, Second::kSlot);
constexpr int kOther = 8208 + 2048 + kSystem;  // of x, of sums, and what the system keeps
constexpr int kRoom = (Table::kBytes <= 65536 ? (kMostShared + kSystem) / 2 - kOther : kMostShared - 32768) - Table::kBytes;
constexpr int clamped(int v) { return v < 2 ? 2 : v > 4 ? 4 : v; }
constexpr int kFit = clamped(kComputed ? (2048 + kSlot - 1) / kSlot : kRoom / kWarps / kSlot);
constexpr int kStages = First::kBeside > 1 ? First::kBeside : kFit;
constexpr int kWarpRing = largest(First::ring(kStages), Second::ring(kStages)), kRing = kWarps * kWarpRing;
// As many as the warps of one block leave each: with less the compiler lets lookups wait for each other.
constexpr int kMostRegisters = (kThreads > 256 ? 65536 / kThreads : 255) / 8 * 8;
constexpr bool kTwoParts = !std::is_same_v<First, Second>;
static_assert(Table::kBytes % 16 == 0 && kSlot % 16 == 0 && Table::kBytes + kRing < kMostShared);

// What is the same for all blocks, worked out once: what stands before and behind the loop, all warps execute.
// Shared memory: the table; the ring; x; then, from these offsets on, sums with room for a batch of 2^width: of the strips' parts
// float (own + warps - 1, 16, 2^width), of the strips (own, 16, 2^width); first and last warp of a strip, uint2 (own); scales of
// rows, half (own, 16); scales of x, float (batch, segments).
struct TableWork {
  Pass first;
  uint32_t each, larger;       // strips of a block; blocks with one more
  uint32_t batch, width;       // of a launch, at most 2^width
  uint32_t window, pitch;      // columns of x at once; bytes from row to row, so that lanes of neighbouring rows read other banks
  uint32_t rows_of_x, pieces;  // rows, and 16 bytes each of a row of the first window
  uint32_t segments, scales;   // of a row of x, of a batch
  uint32_t places_at, sums_at, spans_at, row_scales_at, scales_at, bytes;

  // As much of the batch at once as leaves room for a window of 1024 columns of x, or all of them; a batch of none: not even one.
  TableWork(const TableParams& p, uint32_t blocks) : first(0, 0, p.first_columns, p.columns, p.columns) {
    const uint32_t strips = p.rows / 16, own = (strips + blocks - 1) / blocks, columns = p.columns;
    each = strips / blocks, larger = strips % blocks, segments = kComputed ? segments_of(p.columns, p.segment_bits) : 0;
    for (batch = min(p.batch, kMostBatch);; batch = (batch + 1) / 2) {
      width = log2_above(batch), rows_of_x = batch * p.parts, scales = batch * segments;
      const uint32_t of_strip = 64 << width, sums = (2 * own + kWarps - 1) * of_strip + (own + 1) / 2 * 16 + own * 32 + scales * 4;
      const int most = (kMostShared - kSystem - Table::kBytes - kRing - static_cast<int>(sums)) / static_cast<int>(rows_of_x) / 2 - 8;
      window = columns;
      if (most < static_cast<int>(columns)) {
        const int whole = most / kWindow * kWindow;
        if (whole < 1024 && batch > 1) continue;
        if (whole <= 0) batch = 0;
        if (!batch) return;
        const uint32_t windows = (columns + whole - 1) / whole;
        window = ((columns + windows - 1) / windows + kWindow - 1) / kWindow * kWindow;
      }
      pitch = 2 * window + 16, pieces = min(window, columns) / 8, places_at = Table::kBytes + kRing + rows_of_x * pitch;
      sums_at = places_at + (own + kWarps - 1) * of_strip, spans_at = sums_at + own * of_strip;
      row_scales_at = spans_at + (own + 1) / 2 * 16, scales_at = row_scales_at + own * 32;
      bytes = max(scales_at + scales * 4, p.alone ? kAlone : 0);
      first = Pass(0, 0, p.first_columns, columns, window);
      return;
    }
  }
};

}  // namespace table
