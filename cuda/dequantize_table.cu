// The 16-bit weight matrix from packed codes that stand for two weights each: tcq, half-tcq, vq, nuq, trellis2; for prompts and
// large batches.
//
// All warps of all blocks have equal parts of the items (table_work.cuh): a warp copies them to its ring and decodes units of 16
// rows x 64 columns; lane (g, q) has 16 neighbours in each of two rows of a unit, which it writes as two pieces of 16 bytes.
//
// Bound: codes read, 2 bytes a weight written.
#include <cuda_runtime.h>

#include <type_traits>

#include "launch.cuh"
#include "numbers.cuh"
#include "table_fill.cuh"
#include "table_work.cuh"

struct DequantizeTableParams {
  const uint8_t* codes[2];  // of the two parts of the columns; one part: the second is empty
  const __half* codebook;   // (entries, 2), or (levels) where `scalar`
  const __half* row_scale;  // (rows)
  void* weight;             // (rows, columns)
  float unit[2];            // what an entry of 1 stands for, in each part
  int rows, columns;
  int first_columns;        // columns of the first part
  int scalar;
  uint32_t multiplier;      // where weights are computed
};

using namespace table;

namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kBehind = 16;  // bytes behind the rings: lanes of codes of odd width read a word more than they need
constexpr int of_warp(int slots) { return largest(First::ring(slots), Second::ring(slots)); }
constexpr int bytes_of(int ring) { return Table::kBytes + kWarps * ring + kBehind; }
constexpr int kStages = First::kBeside > 1 ? First::kBeside : bytes_of(of_warp(3)) <= kMostShared ? 3 : 2, kRing = of_warp(kStages);
constexpr bool kComputed = Table::kBytes == 0, kTwoParts = !std::is_same_v<First, Second>;

// The two weights of an operand of table_lookup.cuh, over the unit.
__device__ __forceinline__ float2 values(uint32_t operand) {
  if constexpr (kComputed) {  // (7, 5, 0, -5) and (0, 5, 7, 5) times the bytes
    const int word = static_cast<int>(operand);
    return make_float2(__dp4a(word, static_cast<int>(0xFB000507), 0), __dp4a(word, 0x05070500, 0));
  } else {
    return __half22float2(reinterpret_cast<const __half2&>(operand));
  }
}

template <int I> using Number = std::integral_constant<int, I>;

template <class T>
__global__ void __launch_bounds__(kThreads) dequantize(const __grid_constant__ DequantizeTableParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint8_t* ring = shared + Table::kBytes + warp * kRing;
  const Table entries(shared, lane, p.multiplier);
  launch_dependents();
  Fill<Table, __half, kThreads>(p.codebook, p.scalar).write(shared);
  wait_for_previous_kernel();
  __syncthreads();
  auto part = [&](auto codes, int number) {
    using Codes = decltype(codes);
    const int begin = number * p.first_columns, end = kTwoParts && !number ? p.first_columns : p.columns;
    if (begin == end) return;
    const Pass pass(begin, 0, p.first_columns, p.columns, p.columns);
    const uint32_t all = p.rows / 16 * pass.pieces, warps = gridDim.x * kWarps, number_of_warp = blockIdx.x * kWarps + warp;
    Walk walk(codes, p.codes[number], pass, 0, all * number_of_warp / warps, all * (number_of_warp + 1) / warps, lane);
    int slot = 0;
    for (int s = 0; s < kStages - 1; ++s) walk.copy(codes, pass, ring + s * codes.step(), lane);
    for (; walk.left; --walk.left) {
      wait_copies<kStages - 2>();
      __syncwarp();
      walk.copy(codes, pass, ring + (slot + kStages - 1) % kStages * codes.step(), lane);
      const int tiles = min(pass.tiles - walk.tile, Codes::kItemTiles);
#pragma unroll 1
      for (int tile = 0; tile < tiles; tile += 4) {
        uint32_t words[Codes::kWords + 1];
        codes.read(ring + slot * codes.step() + tile / 4 * Codes::kUnit, reinterpret_cast<uint32_t(&)[Codes::kWords]>(words));
        words[Codes::kWords] = 0;
        const int here = tile + lane % 4, column = begin + (walk.tile + here) * 16;
        auto write = [&](auto which) {
          constexpr int i = decltype(which)::value;
          const int row = walk.strip * 16 + Codes::row(lane, i);
          const float scale = __half2float(p.row_scale[row]) * p.unit[number];
          __align__(16) T of_row[16];
          auto pair = [&](auto code) {
            constexpr int j = decltype(code)::value, at = Codes::word_at(i, j);
            const float2 v = values(entries.template operand<at % 32>(words[at / 32], words[at / 32 + 1]));
            of_row[2 * j] = from_float<T>(v.x * scale), of_row[2 * j + 1] = from_float<T>(v.y * scale);
          };
          pair(Number<0>{}), pair(Number<1>{}), pair(Number<2>{}), pair(Number<3>{});
          pair(Number<4>{}), pair(Number<5>{}), pair(Number<6>{}), pair(Number<7>{});
          uint4* to = reinterpret_cast<uint4*>(static_cast<T*>(p.weight) + static_cast<int64_t>(row) * p.columns + column);
          if (here < tiles) to[0] = reinterpret_cast<uint4*>(of_row)[0], to[1] = reinterpret_cast<uint4*>(of_row)[1];
        };
        write(Number<0>{}), write(Number<1>{});
      }
      walk.tile += Codes::kItemTiles;
      if (walk.tile >= pass.tiles) walk.tile = 0, ++walk.strip;
      slot = (slot + 1) % kStages;
    }
    wait_copies<0>();
    __syncwarp();  // all lanes have read the ring
  };
  part(First(lane, First::strip_bytes(p.first_columns)), 0);
  if constexpr (kTwoParts) part(Second(lane, Second::strip_bytes(p.columns - p.first_columns)), 1);
}

template <class T>
int launch(const DequantizeTableParams& p, int processors, cudaStream_t stream) {
  const int most = p.rows / 16 * ((p.columns + 127) / 128);  // items are 8 tiles or more: blocks beyond would have none
  return launch_overlapped(dequantize<T>, min(most, 2 * processors), kThreads, bytes_of(kRing), stream, p);
}

}  // namespace

// rows: a multiple of 16; columns: of 64. Returns a cudaError_t.
extern "C" int dequantize_table(const DequantizeTableParams* p, int bfloat16, int processors, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, processors, stream) : launch<__half>(*p, processors, stream);
}
