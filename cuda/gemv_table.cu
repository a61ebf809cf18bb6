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
#include "table_work.cuh"

using namespace table;

namespace {

template <int I> using Number = std::integral_constant<int, I>;

template <class T, int Groups, int Parts, bool Paired>
__global__ void __maxnreg__(Paired ? kMostRegisters / 2 : kMostRegisters)
    gemv(const __grid_constant__ TableParams p, int each, int larger, int window, int width) {
  using A = std::conditional_t<kComputed, PairBytes<Parts>, Halves<T>>;
  extern __shared__ __align__(128) uint8_t shared[];
  // By shuffles, or the compiler reads threadIdx again and again.
  const int lane = __shfl_sync(~0u, threadIdx.x % 32, threadIdx.x % 32), warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  const int q = lane % 4;
  const int block = blockIdx.x, own = each + (block < larger), first_strip = block * each + min(block, larger);
  const int pitch = 2 * window + 16;  // bytes of a row of x: lanes of neighbouring rows read other banks
  uint8_t* ring = shared + Table::kBytes + warp * kStages * kSlot;
  uint8_t* x = shared + Table::kBytes + kRing;
  // Sums have room for a batch of 2^width.
  const int of_strip = 16 << width;
  float* places = reinterpret_cast<float*>(x + p.batch * Parts * pitch);  // (own + warps - 1, 16, 2^width)
  float* sums = places + (own + kWarps - 1) * of_strip;                   // (own, 16, 2^width)
  uint2* spans = reinterpret_cast<uint2*>(sums + own * of_strip);         // (own): first and last warp of a strip
  __half* row_scales = reinterpret_cast<__half*>(spans + 2 * ((own + 1) / 2));  // (own, 16)
  float* scales = reinterpret_cast<float*>(row_scales + own * 16);        // (batch, segments)
  const int segments = kComputed ? segments_of(p.columns, p.segment_bits) : 0;

  const Table entries(shared, lane, p.multiplier);
  const int first_part = kTwoParts ? p.first_columns : p.columns;
  auto matrix = [&](int part) {
    return Matrix{p.codes[part], kTwoParts ? part ? p.columns - p.first_columns : p.first_columns : p.columns};
  };
  // The first copies of a pass; `run` goes on where this stops.
  auto start = [&](auto codes, const Pass& pass) {
    const int before = (pass.begin - pass.part * p.first_columns) / 16;
    Walk walk = Walk::begin(codes, matrix(pass.part), pass, before, first_strip, own, warp, kWarps, lane);
#pragma unroll 1
    for (int s = 0; s < kStages - 1; ++s) walk.copy(codes, ring + s * kSlot, lane);
    return walk;
  };
  auto run = [&](auto codes, const Pass& pass, Walk& walk) {
    using Codes = decltype(codes);
    // Of codes in rows, whose reads meet in banks, lanes of columns that are none of x's load nothing: what they multiply with
    // ends in sums that nobody reads.
    const uint8_t* lane_x[Groups];
    bool loads[Groups];
    uint32_t operand[Groups][8] = {};
#pragma unroll
    for (int group = 0; group < Groups; ++group) {
      loads[group] = !Codes::kRows || group * 8 + lane / 4 < p.batch * Parts;
      lane_x[group] = x + min(group * 8 + lane / 4, p.batch * Parts - 1) * pitch + (pass.begin - pass.loaded + 16 * q) * 2;
    }
    float* place = places + (warp + walk.strip) * of_strip;
    if (walk.left == 0)  // less items than warps: it is added up all the same
#pragma unroll 1
      for (int i = lane; i < of_strip; i += 32) place[i] = 0.f;
    bool from_start = walk.piece == 0;
    typename A::Sum acc[Groups][2][4] = {};
    float total[Groups][4 / Parts] = {};
    // Into float32, by the scale of the segment; b: which of the batch a lane's sum i is of.
    auto place_of = [&](int group, int i) { return (group * 8 + 2 * q + i % 2) / Parts; };
    auto gather = [&](int segment) {
#pragma unroll
      for (int group = 0; group < Groups; ++group)
#pragma unroll
        for (int i = 0; i < 4; i += Parts) {
          float factor = 1.f;
          if constexpr (kComputed) factor = scales[min(place_of(group, i), p.batch - 1) * segments + segment];
#pragma unroll
          for (int part = i; part < i + Parts; ++part) acc[group][0][part] += acc[group][1][part];
          total[group][i / Parts] += A::value(acc[group][0] + i) * factor;
#pragma unroll
          for (int part = i; part < i + Parts; ++part) acc[group][0][part] = acc[group][1][part] = 0;
        }
    };
    uint8_t *slot = ring, *next = ring + (kStages - 1) * kSlot;
    for (; walk.left > 0; --walk.left) {
      wait_copies<kStages - 2>();
      __syncwarp();
      walk.copy(codes, next, lane);  // into the slot that was read last: all lanes are past it
      const int offset = walk.piece * Codes::kItemTiles * 32;
      const bool last = ++walk.piece == walk.pieces;
      const int tiles = last ? walk.last_tiles : Codes::kItemTiles;
      auto multiply = [&](int tile, bool whole) {
        uint32_t words[Codes::kWords + 1];
        codes.read(slot + tile / 4 * Codes::kUnit, reinterpret_cast<uint32_t(&)[Codes::kWords]>(words));
        words[Codes::kWords] = 0;
#pragma unroll
        for (int group = 0; group < Groups; ++group)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (!loads[group]) continue;
            uint4 v = *reinterpret_cast<const uint4*>(lane_x[group] + offset + tile * 32 + 16 * i);
            if (!whole && tile + q >= tiles) v = make_uint4(0, 0, 0, 0);
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
      int tile = 0;
#pragma unroll(kUnrolled)
      for (; tile + 4 <= tiles; tile += 4) multiply(tile, true);
      if constexpr (Codes::kPartial && kTwoParts) {
        if (tile < tiles) multiply(tile, false);
      }
      const bool end = last || walk.left == 1;
      if constexpr (kComputed) {
        constexpr int kItemBits = log2_of(Codes::kItemTiles) + 4;
        const int item = (pass.begin >> kItemBits) + walk.piece, shift = p.segment_bits - kItemBits;  // the next
        if (end || (item & ((1 << shift) - 1)) == 0) gather((item - 1) >> shift);
      }
      if (end) {
        if constexpr (!kComputed) gather(0);
#pragma unroll
        for (int group = 0; group < Groups; ++group)
#pragma unroll
          for (int i = 0; i < 4; i += Parts) {
            const int b = place_of(group, i);
            if (b < p.batch) place[(Codes::row(lane, i / 2) << width) + b] = total[group][i / Parts];
            total[group][i / Parts] = 0.f;
          }
        if (lane == 0 && from_start) spans[walk.strip].x = warp;
        if (lane == 0 && last) spans[walk.strip].y = warp;
        from_start = true, walk.piece = 0, ++walk.strip;
        place += of_strip;
      }
      next = slot;
      slot = slot == ring + (kStages - 1) * kSlot ? ring : slot + kSlot;
    }
  };
  auto reduce = [&](const Pass& pass) {
#pragma unroll 1
    for (int i = threadIdx.x; i < own * of_strip; i += kThreads) {
      const int b = i & ((1 << width) - 1), row = i >> width;
      if (b >= p.batch) continue;
      const uint2 span = spans[static_cast<uint32_t>(row) / 16];
      float sum = 0;
#pragma unroll 1
      for (uint32_t first = span.x; first <= span.y; first += 4) {  // four at once: one wait for all
        float found[4];
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) found[k] = places[min(first + k, span.y) * of_strip + i];
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) sum += first + k <= span.y ? found[k] : 0.f;
      }
      sum *= kTwoParts && pass.part ? p.unit[1] : p.unit[0];
      if (pass.begin) sum += sums[i];
      if (pass.end < p.columns)
        sums[i] = sum;
      else
        static_cast<T*>(p.y)[static_cast<int64_t>(b) * p.rows + first_strip * 16 + row] = from_float<T>(sum * __half2float(row_scales[row]));
    }
  };
  // Both parts' codes: a lane's places in a unit differ.
  auto with_codes = [&](const Pass& pass, auto work) {
    if constexpr (kTwoParts) {
      if (pass.part) return work(Second(lane, matrix(1)));
    }
    work(First(lane, matrix(0)));
  };

  if (!p.alone && !Paired) launch_dependents();
#pragma unroll 1
  for (int i = threadIdx.x; i < 2 * own; i += kThreads) copy16(row_scales + 8 * i, p.row_scale + first_strip * 16 + 8 * i);
  Pass pass(0, 0, first_part, p.columns, window);
  Walk walk = start(First(lane, matrix(0)), pass);
  if constexpr (!kComputed) fill<Table, T, kThreads>(shared, p.codebook, p.scalar);
  // x, or its first window; of bytes the work on addresses is done before they are there.
  const int rows_of_x = p.batch * Parts, first_width = min(window, p.columns);
  if constexpr (kComputed) {
    const int of_x = p.batch * segments;
    const FirstPieces<kThreads> pieces(p.x, rows_of_x, first_width / 8, x);
    const float* scale_from = p.x_scale + threadIdx.x;
    known(scale_from);
    wait_for_previous_kernel();
    float early = 0.f;
    pieces.load(2 * p.columns, pitch, [&] { if (threadIdx.x < of_x) early = __ldcg(scale_from); });
    if (threadIdx.x < of_x) scales[threadIdx.x] = early;
    if (rows_of_x > 2 || first_width > 8 * kThreads) load_rows<kThreads, false>(p.x, rows_of_x, p.columns, 0, first_width, x, pitch, kThreads);
#pragma unroll 1
    for (int i = threadIdx.x + kThreads; i < of_x; i += kThreads) scales[i] = p.x_scale[i];
  } else {
    wait_for_previous_kernel();
    load_rows<kThreads, true>(p.x, rows_of_x, p.columns, 0, first_width, x, pitch);
  }
  if constexpr (Paired) {
    __syncthreads();
    launch_dependents();
  }
  for (;;) {
    __syncthreads();
    with_codes(pass, [&](auto codes) { run(codes, pass, walk); });
    const bool last = pass.end == p.columns;
    const Pass after = pass.next(first_part, p.columns, window);
    if (last) {
      if (p.alone) launch_dependents();
      wait_copies<0>();  // row scales, where a warp has had no item
    } else {
      __syncwarp();  // all lanes have read the ring
      with_codes(after, [&](auto codes) { walk = start(codes, after); });
    }
    __syncthreads();
    reduce(pass);
    if (last) return;
    pass = after;
    if (pass.begin == pass.loaded)
      load_rows<kThreads, !kComputed>(p.x, rows_of_x, p.columns, pass.begin, min(window, p.columns - pass.begin), x, pitch);
  }
}

template <class T, int Groups, int Parts, bool Paired = false>
int launch(const TableParams& p, const Plan& plan, int blocks, cudaStream_t stream) {
  const int strips = p.rows / 16;
  return launch_overlapped(gemv<T, Groups, Parts, Paired>, blocks, kThreads, plan.bytes, stream, p, strips / blocks, strips % blocks,
                           plan.window, log2_above(plan.batch));
}

template <class T>
int multiply(TableParams p, int processors, cudaStream_t stream) {
  const int strips = p.rows / 16, blocks = min(strips, processors), batch = p.batch;
  for (int done = 0; done < batch;) {
    p.batch = batch - done;
    const Plan now = plan(p, (strips + blocks - 1) / blocks);
    if (!now.batch) return cudaErrorInvalidValue;
    p.batch = now.batch;
    auto launcher = now.batch > 8 ? launch<T, 2, 1> : p.parts == 2 ? launch<T, 1, kComputed ? 2 : 1> : launch<T, 1, 1>;
    if constexpr (kPairs) {
      const bool few = blocks == processors && strips * (p.columns / 16) <= kMostPaired * kWarps * blocks;
      if (now.batch <= 8 && !p.alone && few && now.bytes <= kHalfOfAnSm) launcher = launch<T, 1, 1, true>;
    }
    if (const int status = launcher(p, now, blocks, stream)) return status;
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
