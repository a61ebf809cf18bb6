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

// Q: quarters of a bit; O: how x stands in shared memory; S: how blocks share an SM; T: of y. each, larger: strips of a block, and
// blocks with one more; lanes, width: at the end 2^lanes threads add a row's segments, and the batch is padded to 2^width.
template <int Q, class O, Share S, class T>
__global__ void __maxnreg__((Ring<O::kShared < 4, S>::kRegisters))
    gemv(const __grid_constant__ GemvParams p, int each, int larger, int lanes, int width, Divisor by_tiles) {
  using Copies = Ring<O::kShared < 4, S>;
  using Decoder = trellis::LaneDecoder<Q>;
  constexpr int kStageTiles = Copies::kTiles, kStages = Copies::kStages;
  constexpr int kTile = 8 * Q, kStage = kStageTiles * kTile, kChains = O::kShared > 1 ? O::kShared : 2;
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tiles = p.columns / 16, segments = segments_of(p.columns, p.segment_bits), segment_tiles = 1 << (p.segment_bits - 4);
  const SharedAt ring = shared_at(shared + warp * kStages * kStage);
  SharedAt into = ring + (lane * 16 ^ Decoder::flipped_of_lane(lane));
  known(into);
  uint32_t* words = reinterpret_cast<uint32_t*>(shared + Copies::kBytes);
  int* sums = reinterpret_cast<int*>(words + O::bytes(p.columns) / 4);  // (strips, segments, 16, kColumns)

  // This block's strips are contiguous (`larger` blocks have one more than `each`), and so is the part of each warp: fours
  // of tiles, across strips.
  const int block = blockIdx.x, own = each + (block < larger), first_strip = block * each + min(block, larger);
  __half* row_scales = reinterpret_cast<__half*>(sums + own * segments * 16 * O::kColumns);  // (strips, 16)
  float* scales = reinterpret_cast<float*>(row_scales + own * 16);  // (batch, segments)
  const int fours = own * tiles / 4;
  const int begin = 4 * (fours * warp / kWarps), end = 4 * (fours * (warp + 1) / kWarps);
  const uint8_t* from = p.codes + (static_cast<int64_t>(first_strip) * tiles + begin) * kTile + lane * 16;
  int left = (end - begin) * kTile, issue_slot = 0;
  auto issue = [&]() {
    const SharedAt to = into + issue_slot * kStage;
    if (left >= kStage) {
#pragma unroll
      for (int i = 0; i < kStage; i += 512)
        if (i + 512 <= kStage || lane * 16 < kStage % 512) copy16(to + i, from + i);
    } else {
#pragma unroll 1
      for (int i = 0; i < left - lane * 16; i += 512) copy16(to + i, from + i);
    }
    commit_copies();
    from += kStage, left -= kStage;
    issue_slot = issue_slot + 1 == kStages ? 0 : issue_slot + 1;
  };
#pragma unroll 1
  for (int i = threadIdx.x; i < 2 * own; i += kThreads) copy16(row_scales + 8 * i, p.row_scale + first_strip * 16 + 8 * i);
  for (int s = 0; s < kStages - 1; ++s) issue();
  OperandPieces<O, kThreads, Divisor> pieces(p.x, p.batch * p.parts, tiles, by_tiles);
  const int of_x = p.batch * segments;
  const float* scale_from = p.x_scale + threadIdx.x;
  known(scale_from);
  wait_for_previous_kernel();
  pieces.ask_first();
  float early = 0.f;
  if (threadIdx.x < of_x) early = __ldcg(scale_from);
  // While x is on its way: whatever else the loop needs.
#pragma unroll 1
  for (int i = threadIdx.x; i < own * segments * 16 * O::kColumns; i += kThreads) sums[i] = 0;
  const SharedAt operands = shared_at(words + lane * O::kWords);
  constexpr int kStep = 4 * O::kUnit;  // bytes of the operands of a unit
  const Decoder decoder(lane, true);
  const int g = lane / 4, q = lane % 4;
  int strip = by_tiles(begin), column = begin - strip * tiles, slot = 0;
  int segment_end = min((column | (segment_tiles - 1)) + 1, tiles);
  known(strip), known(column), known(segment_end);
  pieces.write(words);
  if (threadIdx.x < of_x) scales[threadIdx.x] = early;
#pragma unroll 1
  for (int i = threadIdx.x + kThreads; i < of_x; i += kThreads) scales[i] = p.x_scale[i];
  __syncthreads();
  if (!p.alone) launch_dependents();

  int acc[kChains * O::kGroups][4] = {};
  for (int tile = begin; tile < end;) {
    wait_copies<kStages - 2>();
    __syncwarp();
    issue();  // into the slot that was read last: all lanes are past it
    SharedAt stream = ring + slot * kStage;
    for (const int stop = min(tile + kStageTiles, end); tile < stop;) {
      const int here = min(stop - tile, segment_end - column);
      const SharedAt past = operands + (column + here) / 4 * kStep;
#pragma unroll(Copies::kUnrolled)
      for (SharedAt operand = operands + column / 4 * kStep; operand != past; operand += kStep, stream += 4 * kTile) {
        uint32_t packed[O::kGroups][O::kWords];
#pragma unroll
        for (int group = 0; group < O::kGroups; ++group)
          load_words<O::kWords>(operand + group * 32 * O::kWords * 4, packed[group]);
        uint32_t raw[Decoder::kRaw], hash[4], b[O::kGroups][8 / O::kShared][2];
        decoder.read(stream, raw);
#pragma unroll
        for (int group = 0; group < O::kGroups; ++group)
#pragma unroll
          for (int i = 0; i < 16 / O::kShared; ++i) b[group][i / 2][i % 2] = __byte_perm(packed[group][i / 4], 0, 0x1111 * (i % 4));
        decoder.decode(raw, p.multiplier, [&](int step, uint32_t value) {
          hash[step % 4] = value;
          if (step % 4 == 3) {
            const int m = step / 4;
#pragma unroll
            for (int group = 0; group < O::kGroups; ++group)
              mma_s8(acc[group * kChains + m % kChains], hash, b[group][m / O::kShared][0], b[group][m / O::kShared][1]);
          }
        });
      }
      tile += here, column += here;
      if (column == segment_end || tile == end) {  // integers: the order in which warps add does not matter
#pragma unroll
        for (int group = 0; group < O::kGroups; ++group) {
          int(&sum)[4] = acc[group * kChains];
          constexpr int width = 8 / O::kShared;
          const int n = 2 * q;  // this lane's columns n and n + 1 belong to tile n / width of those that share
#pragma unroll
          for (int c = 1; c < kChains; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int other = acc[group * kChains + c][i];
              sum[i] = O::kShared == 1 ? sum[i] + other : n / width == c ? other : sum[i];
            }
          const int segment = (column - 1) >> (p.segment_bits - 4);
          int* to = sums + ((strip * segments + segment) * 16 + g) * O::kColumns + group * 8 + n % width;
          atomicAdd(to, sum[0]), atomicAdd(to + 1, sum[1]);
          atomicAdd(to + 8 * O::kColumns, sum[2]), atomicAdd(to + 8 * O::kColumns + 1, sum[3]);
        }
#pragma unroll
        for (auto& sum : acc) sum[0] = sum[1] = sum[2] = sum[3] = 0;
        if (column == tiles) column = 0, ++strip;
        segment_end = min(column + segment_tiles, tiles);
      }
    }
    if (++slot == kStages) slot = 0;
  }
  if (p.alone) launch_dependents();
  wait_copies<0>();  // row scales, where a warp has had no tile
  __syncthreads();
  // A row's segments by 2^lanes neighbours, one each: one wait for all of them. Rows of a strip, then the batch, then strips.
  const int part = threadIdx.x & ((1 << lanes) - 1);
#pragma unroll 1
  for (int i = threadIdx.x >> lanes; i < own << (4 + width); i += kThreads >> lanes) {
    const int b = i >> 4 & ((1 << width) - 1), strip = i >> (4 + width), row = strip * 16 + i % 16;
    const int* sum = sums + (strip * segments * 16 + i % 16) * O::kColumns + b * p.parts;
    float total = 0.f;
    if (b < p.batch)
#pragma unroll 1
      for (int segment = part; segment < segments; segment += 1 << lanes) {
        const int* here = sum + segment * 16 * O::kColumns;
        total += (p.parts == 2 ? here[0] + here[1] * (1.f / 254.f) : here[0]) * scales[b * segments + segment];
      }
#pragma unroll 1
    for (int other = 1 << lanes >> 1; other; other >>= 1) total += __shfl_xor_sync(~0u, total, other);
    if (part == 0 && b < p.batch)
      static_cast<T*>(p.y)[static_cast<int64_t>(b) * p.rows + first_strip * 16 + row] =
          from_float<T>(total * __half2float(row_scales[row]) * p.unit);
  }
}

template <int Q, class O, Share S, class T>
int launch(const GemvParams& p, int processors, cudaStream_t stream) {
  const int strips = p.rows / 16, blocks = blocks_of(p, processors);
  const int bytes = max(shared_bytes<Q, O, S>(p, processors), p.alone ? kAlone : 0);
  return launch_overlapped(gemv<Q, O, S, T>, blocks, kThreads, bytes, stream, p, strips / blocks, strips % blocks,
                           min(log2_above(segments_of(p.columns, p.segment_bits)), 3), log2_above(p.batch), Divisor(p.columns / 16));
}

// As many of the batch at once as the instruction has columns for and as shared memory holds: long rows take several passes,
// and the many rows of a head, whose sums fill it, the shorter copies of paired blocks.
template <class T>
int multiply(GemvParams p, int processors, cudaStream_t stream) {
  const int batch = p.batch;
  for (int done = 0; done < batch;) {
    const int left = (batch - done) * p.parts;  // rows of bytes
    int status;
    auto fits = [&](auto operands) { return shared_bytes<QUARTERS, decltype(operands), kOne>(p, processors) <= kMostShared - kSystem; };
    auto pass = [&](auto operands) {
      using O = decltype(operands);
      p.batch = min(left, O::kColumns) / p.parts;
      if constexpr (O::kColumns == 2 || O::kColumns == 8) {
        const int tiles = p.rows / 16 * (p.columns / 16);
        const bool few = !p.alone && tiles <= kMostPaired * kWarps * blocks_of(p, processors);
        auto two = [&](auto share) { return few && shared_bytes<QUARTERS, O, decltype(share)::value>(p, processors) <= kHalfOfAnSm; };
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
    using Two = Operands<4, 1>;
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
