// y = x W^T from packed codes that stand for two weights each: by a table, tcq, half-tcq, vq, nuq; computed, trellis2.
//
// A table entry is two neighbouring weights in half precision, which is just one register of operand A of m16n8k16: a
// pair of weights costs its extraction from the stream, its index and one lookup (table_lookup.cuh), with sums in
// float32. x is float16 or bfloat16; for the latter the table is rounded to bfloat16 (relative error 2^-9 at most,
// that of x). The pair of a state of trellis2 is one product of integers, whose four bytes are a register of operand A of
// m16n8k32: 13 to 18 instructions for 256 weights, where tables take 27; x then comes as bytes with a scale for each segment
// of a row (activation_bytes.cuh), and sums of integers end where a segment does.
//
// Layout (table_codes.cuh): strips of 16 rows; an item is 8 or 16 tiles of a strip, copied by a warp to its ring in
// shared memory. A block owns some strips and each warp an equal part of their items, across strips; first copies and
// the table are fetched before the kernel that makes x is waited for. The columns are walked in passes
// (table_work.cuh): parts of two rates (half-tcq), and windows of x where a batch of it does not fit in shared
// memory. In a pass a warp writes its sums of a strip to a place of their own, warp + strip, and the places of a
// strip are added in their order: every run gives the same bits.
//
// In a model a product stands between rotations. The next kernel is let in when this one's sums are done, and a block takes
// more than half of an SM's shared memory: where blocks of the next product are let in early some find no room beside a
// rotation's, and pile up on another SM, which doubles the time. In a row of small products two blocks of the smallest
// tables share an SM (Paired): the next kernel is let in when x is here, and has its table and codes when it may go on.
//
// Bound: at 2 to 4 bits the integer instructions, 3 to 6 for two weights.
#include <cuda_runtime.h>

#include <type_traits>

#include "async_copy.cuh"
#include "launch.cuh"
#include "table_activations.cuh"
#include "table_fill.cuh"
#include "table_plan.cuh"

using namespace table;

namespace {

template <int I> using Number = std::integral_constant<int, I>;

template <class T, int Groups, int Parts, bool Paired>
__global__ void __maxnreg__(Paired ? kMostRegisters / 2 : kMostRegisters)
    gemv(const __grid_constant__ TableParams p, const __grid_constant__ TableWork work) {
  using A = std::conditional_t<kComputed, PairBytes<Parts>, Halves<T>>;
  extern __shared__ __align__(128) uint8_t shared[];
  // By shuffles, or the compiler cuts them out of threadIdx again and again, in the loop too.
  const uint32_t lane = __shfl_sync(~0u, threadIdx.x % 32, threadIdx.x % 32), warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  const uint32_t q = lane % 4, own = work.each + (blockIdx.x < work.larger);
  const uint32_t first_strip = blockIdx.x * work.each + min(blockIdx.x, work.larger);
  const uint32_t batch = work.batch, padded = 1u << work.width, of_strip = 16 * padded;
  uint8_t* const ring = shared + Table::kBytes + warp * kWarpRing;
  uint8_t* const x = shared + Table::kBytes + kRing;
  float* const places = reinterpret_cast<float*>(shared + work.places_at);
  uint2* const spans = reinterpret_cast<uint2*>(shared + work.spans_at);
  float* const scales = reinterpret_cast<float*>(shared + work.scales_at);

  const Table entries(shared, lane, p.multiplier);
  // The first copies of a pass; `run` goes on where this stops.
  auto start = [&](auto codes, const Pass& pass) {
    const uint32_t all = own * pass.pieces;
    Walk walk(codes, p.codes[kTwoParts ? pass.part : 0], pass, first_strip, all * warp / kWarps, all * (warp + 1) / kWarps, lane);
#pragma unroll 1
    for (int s = 0; s < kStages - 1; ++s) walk.copy(codes, pass, ring + s * codes.step(), lane);
    return walk;
  };
  // Of codes in rows, whose reads meet in banks, lanes of columns that are none of x's load nothing: what they multiply with ends in
  // sums that nobody reads.
  uint32_t lane_x[Groups];  // bytes of x
  bool loads[Groups];
#pragma unroll
  for (int group = 0; group < Groups; ++group) {
    loads[group] = !First::kRows || group * 8 + lane / 4 < work.rows_of_x;
    lane_x[group] = min(group * 8 + lane / 4, work.rows_of_x - 1) * work.pitch + 32 * q;
    if (!Paired) known(lane_x[group]);  // before x is waited for
  }
  // b: which of the batch a lane's sum i is of.
  auto place_of = [&](uint32_t group, uint32_t i) { return (group * 8 + 2 * q + i % 2) / Parts; };
  auto run = [&](auto codes, const Pass& pass, const Walk& begun) {
    using Codes = decltype(codes);
    Walk walk = begun;
    uint32_t left = walk.left * Codes::kItemTiles, rest = pass.tiles - walk.tile;  // tiles of this warp, and until the strip ends
    const uint32_t step = codes.step();
    uint32_t slot = 0, next = (kStages - 1) * step;
    float* place = places + (warp + walk.strip) * of_strip;
    uint2* span = spans + walk.strip;
    if (left == 0) {  // less items than warps: it is added up all the same
#pragma unroll 1
      for (uint32_t i = lane; i < of_strip; i += 32) place[i] = 0.f;
      return;
    }
    SharedAt at[Groups];  // of x
    auto go_to = [&](uint32_t tile) {
#pragma unroll
      for (int group = 0; group < Groups; ++group)
        at[group] = shared_at(x + (lane_x[group] + (pass.begin - pass.loaded) * 2 + tile * 32));
    };
    go_to(walk.tile);
    uint32_t operand[Groups][8] = {};
    typename A::Sum acc[Groups][2][4] = {};
    float total[Groups][4 / Parts] = {};
    do {
      [[maybe_unused]] uint32_t segment = 0, until = min(left, rest);  // the latter: tiles that have sums together
      if constexpr (kComputed) {
        const uint32_t at = pass.end - rest * 16;
        segment = at >> p.segment_bits, until = min(until, (((segment + 1) << p.segment_bits) - at) / 16);
      }
      if (lane == 0 && rest == pass.tiles) span->x = warp;
      rest -= until, left -= (until + Codes::kItemTiles - 1) / Codes::kItemTiles * Codes::kItemTiles;
      do {
        wait_copies<kStages - 2>();
        __syncwarp();
        walk.copy(codes, pass, ring + next, lane);  // into the slot that was read last: all lanes are past it
        const uint32_t tiles = min(until, Codes::kItemTiles);
        until -= tiles;
        auto multiply = [&](const uint8_t* unit, uint32_t tiles) {
          uint32_t words[Codes::kWords + 1];
          codes.read(unit, reinterpret_cast<uint32_t(&)[Codes::kWords]>(words));
          words[Codes::kWords] = 0;
#pragma unroll
          for (int group = 0; group < Groups; ++group)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              if (!loads[group]) continue;
              uint4 v{};
              if (q < tiles) v = load_four(at[group] + 16 * i);  // of a unit of four always: there is no test then
              operand[group][4 * i] = v.x, operand[group][4 * i + 1] = v.y;
              operand[group][4 * i + 2] = v.z, operand[group][4 * i + 3] = v.w;
            }
          auto product = [&](auto number) {
            constexpr int m = decltype(number)::value;
            auto weights = [&](auto row, auto code) {
              constexpr int at = Codes::word_at(row(), code());
              return entries.template operand<at % 32>(words[at / 32], words[at / 32 + 1]);
            };
            constexpr Number<0> upper;
            constexpr Number<1> lower;
            constexpr Number<2 * m> even;
            constexpr Number<2 * m + 1> odd;
            const uint32_t a[4] = {weights(upper, even), weights(lower, even), weights(upper, odd), weights(lower, odd)};
#pragma unroll
            for (int group = 0; group < Groups; ++group)
              A::multiply(acc[group][m % 2], a, operand[group][2 * m], operand[group][2 * m + 1]);
          };
          product(Number<0>{}), product(Number<1>{}), product(Number<2>{}), product(Number<3>{});
        };
        const uint8_t* unit = ring + slot;
#pragma unroll(kUnrolled)
        for (uint32_t count = tiles / 4; count; --count) {
          multiply(unit, 4), unit += Codes::kUnit;
#pragma unroll
          for (int group = 0; group < Groups; ++group) at[group] += 128;
        }
        if constexpr (Codes::kPartial && kTwoParts) {
          if (tiles % 4) multiply(unit, tiles % 4);
        }
        next = slot;
        slot = slot == (kStages - 1) * step ? 0 : slot + step;
      } while (until);
      // Into float32, by the scale of the segment.
#pragma unroll
      for (int group = 0; group < Groups; ++group)
#pragma unroll
        for (int i = 0; i < 4; i += Parts) {
          float factor = 1.f;
          if constexpr (kComputed) factor = scales[min(place_of(group, i), batch - 1) * work.segments + segment];
#pragma unroll
          for (int part = i; part < i + Parts; ++part) acc[group][0][part] += acc[group][1][part];
          total[group][i / Parts] += A::value(acc[group][0] + i) * factor;
#pragma unroll
          for (int part = i; part < i + Parts; ++part) acc[group][0][part] = acc[group][1][part] = 0;
        }
      if (kComputed && rest && left) continue;
#pragma unroll
      for (int group = 0; group < Groups; ++group)
#pragma unroll
        for (int i = 0; i < 4; i += Parts) {
          const uint32_t b = place_of(group, i);
          if (b < batch) place[First::row(lane, i / 2) * padded + b] = total[group][i / Parts];
          total[group][i / Parts] = 0.f;
        }
      if (lane == 0 && rest == 0) span->y = warp;
      rest = pass.tiles, place += of_strip, ++span, go_to(0);
    } while (left);
  };
  auto reduce = [&](const Pass& pass) {
    float* const sums = reinterpret_cast<float*>(shared + work.sums_at);
    const __half* const row_scales = reinterpret_cast<const __half*>(shared + work.row_scales_at);
    uint32_t thread = threadIdx.x, width = work.width;
    known(thread), known(width);  // or the compiler works on addresses before the loop
#pragma unroll 1
    for (uint32_t i = thread; i < own * of_strip; i += kThreads) {
      const uint32_t row = i >> width, b = i - (row << width);
      if (b >= batch) continue;
      const uint2 span = spans[row / 16];
      float sum = 0;
#pragma unroll 1
      for (uint32_t first = span.x; first <= span.y; first += 8) {  // eight at once: one wait for all
        float found[8];
#pragma unroll
        for (uint32_t k = 0; k < 8; ++k) found[k] = places[min(first + k, span.y) * of_strip + i];
#pragma unroll
        for (uint32_t k = 0; k < 8; ++k) sum += first + k <= span.y ? found[k] : 0.f;
      }
      sum *= kTwoParts && pass.part ? p.unit[1] : p.unit[0];
      if (pass.begin) sum += sums[i];
      if (pass.end < p.columns)
        sums[i] = sum;
      else
        static_cast<T*>(p.y)[static_cast<uint64_t>(b) * p.rows + first_strip * 16 + row] = from_float<T>(sum * __half2float(row_scales[row]));
    }
  };
  // Both parts' codes: a lane's places in a unit differ.
  const First codes(lane, First::strip_bytes(p.first_columns));
  auto with_codes = [&](const Pass& pass, auto work) {
    if constexpr (kTwoParts) {
      if (pass.part) return work(Second(lane, pass.strip_bytes));
    }
    work(codes);
  };

  if (p.early && !Paired) launch_dependents();
  Fill<Table, T, kThreads> fill(p.codebook, p.scalar);
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < 2 * own; i += kThreads)
    copy16(shared + work.row_scales_at + 16 * i, p.row_scale + first_strip * 16 + 8 * i);
  Pass pass = work.first;
  Walk walk = start(codes, pass);
  fill.write(shared);
  // x, or its first window; of bytes the work on addresses is done before they are there.
  if constexpr (kComputed) {
    const FirstPieces<kThreads> pieces(p.x, work.rows_of_x, work.pieces, x);
    const float* scale_from = p.x_scale + threadIdx.x;
    known(scale_from);
    wait_for_previous_kernel();
    float early = 0.f;
    pieces.load(2 * p.columns, work.pitch, [&] { if (threadIdx.x < work.scales) early = __ldcg(scale_from); });
    if (threadIdx.x < work.scales) scales[threadIdx.x] = early;
    if (work.rows_of_x > 2 || work.pieces > kThreads)
      load_rows<kThreads, false>(p.x, work.rows_of_x, p.columns, 0, work.pieces, x, work.pitch, kThreads);
#pragma unroll 1
    for (uint32_t i = threadIdx.x + kThreads; i < work.scales; i += kThreads) scales[i] = p.x_scale[i];
  } else {
    wait_for_previous_kernel();
    load_rows<kThreads, true>(p.x, work.rows_of_x, p.columns, 0, work.pieces, x, work.pitch);
  }
  if constexpr (Paired) __syncthreads(), launch_dependents();
  for (;;) {
    __syncthreads();
    with_codes(pass, [&](auto codes) { run(codes, pass, walk); });
    const bool last = pass.end == p.columns;
    Pass after = pass;
    if (last) {
      if (!p.early) launch_dependents();
      wait_copies<0>();  // row scales, where a warp has had no item
    } else {
      after = pass.next(p.first_columns, p.columns, work.window);
      __syncwarp();  // all lanes have read the ring
      with_codes(after, [&](auto codes) { walk = start(codes, after); });
    }
    __syncthreads();
    reduce(pass);
    if (last) return;
    pass = after;
    if (pass.begin == pass.loaded)
      load_rows<kThreads, !kComputed>(p.x, work.rows_of_x, p.columns, pass.begin, min(work.window, p.columns - pass.begin) / 8, x, work.pitch);
  }
}

template <class T, int Groups, int Parts, bool Paired = false>
int launch(const TableParams& p, const TableWork& work, int blocks, cudaStream_t stream) {
  return launch_overlapped(gemv<T, Groups, Parts, Paired>, blocks, kThreads, work.bytes, stream, p, work);
}

template <class T>
int multiply(TableParams p, int processors, cudaStream_t stream) {
  const int strips = p.rows / 16, batch = p.batch;
  for (int done = 0; done < batch;) {
    p.batch = batch - done;
    int blocks = min(strips, processors);
    TableWork work(p, blocks);
    while (!work.batch && blocks < strips) blocks = min(strips, 2 * blocks), work = TableWork(p, blocks);  // fewer sums each
    if (!(p.batch = work.batch)) return cudaErrorInvalidValue;
    auto launcher = p.batch > 8 ? launch<T, 2, 1> : p.parts == 2 ? launch<T, 1, kComputed ? 2 : 1> : launch<T, 1, 1>;
    const bool few = blocks == processors && strips * (p.columns / 16) <= kMostPaired * kWarps * blocks;
    if constexpr (kPairs)
      if (p.batch <= 8 && !p.alone && few && work.bytes <= kHalfOfAnSm) launcher = launch<T, 1, 1, true>;
    if (const int status = launcher(p, work, blocks, stream)) return status;
    done += p.batch;
    p.x = static_cast<const T*>(p.x) + static_cast<int64_t>(p.batch) * p.parts * p.columns;
    if constexpr (kComputed) p.x_scale += p.batch * segments_of(p.columns, p.segment_bits);
    p.y = static_cast<T*>(p.y) + static_cast<int64_t>(p.batch) * p.rows;
  }
  return 0;
}

}  // namespace

// rows: a multiple of 16; columns: of 64; parts: 1 where x is in 16 bits, 2 for a batch of 4 at most. Returns a cudaError_t.
extern "C" int gemv_table(const TableParams* p, int bfloat16, int processors, cudaStream_t stream) {
  return bfloat16 ? multiply<__nv_bfloat16>(*p, processors, stream) : multiply<__half>(*p, processors, stream);
}
