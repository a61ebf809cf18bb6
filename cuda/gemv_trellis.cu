// y = x W^T from the packed codes of the computed trellis code: batch 1 to 16, one pass over the weights.
//
// The four signed bytes whose sum is a weight's value are four 8-bit operands of an integer matrix instruction
// (m16n8k32, s8 x s8 -> s32) in which the weight's activation stands four times: a weight costs its extraction from the
// stream and one multiply, nothing else. Activations come as bytes (activation_bytes.cuh), with a scale for each segment of a
// row; every segment has sums of its own.
//
// Layout (docs/format.md): a tile of 16 x 16 weights is a stream of 8 Q bytes; four tiles are a unit, of which lane l of a warp
// has the rows g, g + 8 of tile q (g = l / 4, q = l % 4), 32 steps in a row: steps 4 m .. 4 m + 3 are columns 2 m, 2 m + 1 of
// both, operand A of product m. A strip of 16 rows is contiguous. A block owns some strips and each of its warps an equal part of
// their tiles, across strips, which it copies to shared memory ahead of use, the first before it waits for the kernel that makes
// x. Sums meet in shared memory as integers, so that their order does not matter.
//
// In a row of small products, where a third of the time is around the sums, two blocks fit on an SM (kTwo): the next
// kernel is let in when x is here, not before, and has its first codes when it may go on. Large ones want the registers.
//
// Bound: Q / 32 bytes a weight from memory; counted instructions in EXPERIMENTS.md.
#include <cuda_runtime.h>

#include <type_traits>

#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "numbers.cuh"
#include "trellis_activations.cuh"
#include "trellis_decode.cuh"
#include "trellis_plan.cuh"

namespace {

using namespace trellis;

// Q: quarters of a bit; O: how x stands in shared memory; S: how blocks share an SM; T: of y.
template <int Q, class O, Share S, class T>
__global__ void __maxnreg__((Ring<O::kShared < 4, S>::kRegisters))
    gemv(const __grid_constant__ GemvParams p, const __grid_constant__ GemvWork<O> work) {
  using Copies = Ring<O::kShared < 4, S>;
  using Decoder = trellis::LaneDecoder<Q>;
  constexpr uint32_t kUnit = Decoder::kUnit, kCopyUnits = Copies::kTiles / 4, kCopy = kCopyUnits * kUnit, kStages = Copies::kStages;
  constexpr int kChains = O::kShared > 1 ? O::kShared : 2, kWidth = 8 / O::kShared;
  constexpr uint32_t kStrip = 16 * O::kColumns;  // sums of a strip and segment
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, block = blockIdx.x;

  // This block's strips are contiguous (`larger` blocks have one more than `each`), and so is the part of each warp: units
  // of four tiles, across strips.
  const uint32_t own = work.each + (block < work.larger), first_strip = block * work.each + min(block, work.larger);
  const uint32_t all = own * work.units, begin = all * warp / kWarps, end = all * (warp + 1) / kWarps;
  const SharedAt ring = shared_at(shared + warp * kStages * kCopy);
  SharedAt into = ring + (lane * 16 ^ Decoder::flipped_of_lane(lane));
  const uint8_t* from = p.codes + static_cast<uint64_t>(first_strip * work.units + begin) * kUnit + lane * 16;
  int left = (end - begin) * kUnit;  // bytes to copy
  known(into), known(from), known(left);
  uint32_t issue_slot = 0;
  auto issue = [&]() {
    const SharedAt to = into + issue_slot * kCopy;
    if (left >= static_cast<int>(kCopy)) {
#pragma unroll
      for (uint32_t i = 0; i < kCopy; i += 512)
        if (i + 512 <= kCopy || static_cast<int>(lane * 16) < static_cast<int>(kCopy % 512)) copy16(to + i, from + i);
    } else {
#pragma unroll 1
      for (int i = 0; i < left - static_cast<int>(lane * 16); i += 512) copy16(to + i, from + i);
    }
    commit_copies();
    from += kCopy, left -= kCopy;
    if (++issue_slot == kStages) issue_slot = 0;
  };
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < 2 * own; i += kThreads)
    copy16(shared + work.row_scales_at + 16 * i, p.row_scale + first_strip * 16 + 8 * i);
  for (int s = 0; s < static_cast<int>(kStages) - 1; ++s) issue();
  uint32_t* const words = reinterpret_cast<uint32_t*>(shared + Copies::kBytes);
  float* const scales = reinterpret_cast<float*>(shared + work.scales_at);  // (batch, segments)
  int* const sums = reinterpret_cast<int*>(shared + work.sums_at);          // (strips, segments, 16, kColumns)
  OperandPieces<O, kThreads, Divisor> pieces(p.x, words, work.pieces, work.units, work.by_tiles);
  const float* scale_from = p.x_scale + threadIdx.x;
  known(scale_from);
  wait_for_previous_kernel();
  pieces.ask_first();
  float early = 0.f;
  if (threadIdx.x < work.scales) early = __ldcg(scale_from);
  // While x is on its way: whatever else the loop needs.
#pragma unroll 1
  for (uint32_t i = 4 * threadIdx.x; i < own * work.segments * kStrip; i += 4 * kThreads) *reinterpret_cast<uint4*>(sums + i) = uint4{};
  constexpr uint32_t kStep = 4 * O::kUnit;  // bytes of the operands of a unit
  const Decoder decoder(lane, true);
  const uint32_t strip = work.by_tiles(4 * begin), segment_mask = (1u << work.unit_bits) - 1;
  uint32_t column = begin - strip * work.units;
  const uint32_t row = lane / 4, n = lane % 4 * 2;  // this lane's columns n and n + 1 belong to tile n / kWidth of those that share
  int* to = sums + (strip * work.segments + (column >> work.unit_bits)) * kStrip + row * O::kColumns + n % kWidth;
  uint32_t until = begin + min((column | segment_mask) + 1, work.units) - column;  // where the segment ends
  pieces.write();
  if (threadIdx.x < work.scales) scales[threadIdx.x] = early;
#pragma unroll 1
  for (uint32_t i = threadIdx.x + kThreads; i < work.scales; i += kThreads) scales[i] = p.x_scale[i];
  __syncthreads();
  if (p.early) launch_dependents();

  const SharedAt operands = shared_at(words + lane * O::kWords);
  SharedAt operand = operands + column * kStep, stream = ring;
  uint32_t here = begin, copied = begin, slot = 0;
  while (here < end) {
    int acc[kChains * O::kGroups][4] = {};
    const uint32_t stop = min(until, end);
    do {
      if (here == copied) {
        wait_copies<kStages - 2>();
        __syncwarp();
        issue();  // into the slot that was read last: all lanes are past it
        stream = ring + slot * kCopy, copied += kCopyUnits;
        if (++slot == kStages) slot = 0;
      }
      const uint32_t next = min(stop, copied);
#pragma unroll(Copies::kUnrolled)
      for (uint32_t count = next - here; count; --count, operand += kStep, stream += kUnit) {
        uint32_t packed[O::kGroups][O::kWords];
#pragma unroll
        for (int group = 0; group < O::kGroups; ++group)
          load_words<O::kWords>(operand + group * 32 * O::kWords * 4, packed[group]);
        uint32_t raw[Decoder::kRaw], hash[4];
        decoder.read(stream, raw);
        decoder.decode(raw, p.multiplier, [&](int step, uint32_t value) {
          hash[step % 4] = value;
          if (step % 4 == 3) {
            const int m = step / 4, pair = m / O::kShared, spread = 0x1111 * (pair % 2 * 2);
#pragma unroll
            for (int group = 0; group < O::kGroups; ++group)
              mma_s8(acc[group * kChains + m % kChains], hash, __byte_perm(packed[group][pair / 2], 0, spread),
                     __byte_perm(packed[group][pair / 2], 0, spread + 0x1111));
          }
        });
      }
      here = next;
    } while (here < stop);
    // Integers: the order in which warps add does not matter.
#pragma unroll
    for (int group = 0; group < O::kGroups; ++group) {
      int(&sum)[4] = acc[group * kChains];
#pragma unroll
      for (uint32_t c = 1; c < kChains; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int other = acc[group * kChains + c][i];
          sum[i] = O::kShared == 1 ? sum[i] + other : n / kWidth == c ? other : sum[i];
        }
      int* const at = to + group * 8;
      atomicAdd(at, sum[0]), atomicAdd(at + 1, sum[1]);
      atomicAdd(at + 8 * O::kColumns, sum[2]), atomicAdd(at + 8 * O::kColumns + 1, sum[3]);
    }
    to += kStrip;
    column = (column | segment_mask) + 1;
    if (column >= work.units) column = 0, operand = operands;
    until += min(work.most, work.units - column);
  }
  if (!p.early) launch_dependents();
  wait_copies<0>();  // row scales, where a warp has had no tile
  __syncthreads();
  // A row's segments by 2^lanes neighbours, one each: one wait for all of them. Rows of a strip, then the batch, then strips.
  const __half* const row_scales = reinterpret_cast<const __half*>(shared + work.row_scales_at);  // (strips, 16)
  const uint32_t part = threadIdx.x & ((1u << work.lanes) - 1);
#pragma unroll 1
  for (uint32_t i = threadIdx.x >> work.lanes; i < own << (4 + work.width); i += kThreads >> work.lanes) {
    const uint32_t b = i >> 4 & ((1u << work.width) - 1), its_strip = i >> (4 + work.width), its_row = its_strip * 16 + i % 16;
    float total = 0.f;
    if (b < static_cast<uint32_t>(p.batch)) {
      const int* sum = sums + (its_strip * work.segments + part) * kStrip + i % 16 * O::kColumns + b * p.parts;
      const float* scale = scales + b * work.segments + part;
#pragma unroll 1
      for (uint32_t segment = part; segment < work.segments; segment += 1u << work.lanes) {
        total += (p.parts == 2 ? sum[0] + sum[1] * (1.f / 254.f) : sum[0]) * *scale;
        sum += kStrip << work.lanes, scale += 1u << work.lanes;
      }
    }
#pragma unroll 1
    for (uint32_t other = 1u << work.lanes >> 1; other; other >>= 1) total += __shfl_xor_sync(~0u, total, other);
    if (part == 0 && b < static_cast<uint32_t>(p.batch))
      static_cast<T*>(p.y)[static_cast<uint64_t>(b) * p.rows + first_strip * 16 + its_row] =
          from_float<T>(total * __half2float(row_scales[its_row]) * p.unit);
  }
}

template <class O, Share S>
constexpr int ring_bytes = Ring<O::kShared < 4, S>::kBytes;

template <int Q, class O, Share S, class T>
int launch(const GemvParams& p, int blocks, cudaStream_t stream) {
  const int strips = p.rows / 16;
  GemvWork<O> work(p, ring_bytes<O, S>, blocks);
  while (work.bytes > kMostShared && blocks < strips) work = GemvWork<O>(p, ring_bytes<O, S>, blocks *= 2);  // fewer sums each
  const int bytes = max(static_cast<int>(work.bytes), p.alone ? kAlone : 0);
  return launch_overlapped(gemv<Q, O, S, T>, min(strips, blocks), kThreads, bytes, stream, p, work);
}

// As many of the batch at once as the instruction has columns for and as shared memory holds: long rows take several passes,
// and the many rows of a head, whose sums fill it, the shorter copies of paired blocks.
template <class T>
int multiply(GemvParams p, int processors, cudaStream_t stream) {
  const int batch = p.batch;
  for (int done = 0; done < batch;) {
    const int left = (batch - done) * p.parts;  // rows of bytes
    int status;
    constexpr std::integral_constant<Share, kOne> one;
    auto bytes = [&](auto operands, auto share) {
      return static_cast<int>(GemvWork<decltype(operands)>(p, ring_bytes<decltype(operands), decltype(share)::value>, processors).bytes);
    };
    auto fits = [&](auto operands) { return bytes(operands, one) <= kMostShared - kSystem; };
    auto pass = [&](auto operands) {
      using O = decltype(operands);
      p.batch = min(left, O::kColumns) / p.parts;
      if constexpr (O::kColumns == 2 || O::kColumns == 8) {
        const int tiles = p.rows / 16 * (p.columns / 16);
        const bool few = !p.alone && tiles <= kMostPaired * kWarps * min(p.rows / 16, processors);
        auto two = [&](auto share) { return few && bytes(operands, share) <= kHalfOfAnSm; };
        if (!fits(operands) || two(std::integral_constant<Share, kTwo>{})) {
          status = launch<QUARTERS, O, kTwo, T>(p, processors, stream);
          return;
        }
        if constexpr (kHasShort && O::kColumns == 2) {
          if (two(std::integral_constant<Share, kTwoShort>{})) {
            status = launch<QUARTERS, O, kTwoShort, T>(p, processors, stream);
            return;
          }
        }
      }
      status = launch<QUARTERS, O, kOne, T>(p, processors, stream);
    };
    using Sixteen = Operands<1, 2>;
    using Eight = Operands<1, 1>;
    using Four = Operands<2, 1>;
    using Two = Operands<4, 1, QUARTERS == 13 || kLess ? 2 : 4>;  // or 4,096 columns would leave no room for two blocks
    if (left > 8 && fits(Sixteen{})) pass(Sixteen{});
    else if (left > 4 && fits(Eight{})) pass(Eight{});
    else if (left > 2 && fits(Four{})) pass(Four{});
    else pass(Two{});
    if (status) return status;
    done += p.batch;
    p.x += static_cast<int64_t>(p.batch) * p.parts * p.columns;
    p.x_scale += p.batch * segments_of(p.columns, p.segment_bits);
    p.y = static_cast<T*>(p.y) + static_cast<int64_t>(p.batch) * p.rows;
  }
  return 0;
}

}  // namespace

// rows: a multiple of 16; columns: of 64, at most 33024; batch 1 to 16; parts: 1, or 2. Returns a cudaError_t.
extern "C" int gemv_trellis(const GemvParams* p, int bfloat16, int processors, cudaStream_t stream) {
  return bfloat16 ? multiply<__nv_bfloat16>(*p, processors, stream) : multiply<__half>(*p, processors, stream);
}
