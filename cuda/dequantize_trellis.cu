// The 16-bit weight matrix from the packed codes of the computed trellis code: for prompts and large batches.
//
// A warp takes four tiles at a time: lane l = 4 g + q decodes the rows g and g + 8 of tile q, 32 bytes of each, a sector. Tiles are dealt
// in order, so that the writes of neighbours meet in the second cache.
//
// Bound: Q / 32 bytes a weight read, 2 written.
#include <cuda_runtime.h>

#include "async_copy.cuh"
#include "launch.cuh"
#include "numbers.cuh"
#include "trellis_decode.cuh"

struct DequantizeParams {
  const uint8_t* codes;     // (rows / 16, columns / 16, 8 Q)
  const __half* row_scale;  // (rows)
  void* weight;             // (rows, columns)
  int rows, columns;
  uint32_t multiplier;
  float unit;               // 1 / (147.8 gain): what a value of 1 stands for
};

namespace {

constexpr int kThreads = 256;

// One block an SM at least: of its own accord the compiler takes 32 registers at some rates, and loads wait for each other.
template <int Q, class T>
__global__ void __launch_bounds__(kThreads, 1) dequantize(const DequantizeParams p) {
  using Decoder = trellis::LaneDecoder<Q>;
  const int lane = threadIdx.x % 32, across = p.columns / 16, tiles = p.rows / 16 * across;
  const int warps = gridDim.x * (kThreads / 32);
  const Decoder decoder(lane, false);
  launch_dependents();
  wait_for_previous_kernel();
  for (int unit = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; 4 * unit < tiles; unit += warps) {
    const int tile = 4 * unit + lane % 4;  // past the last one at the end
    const int strip = min(tile, tiles - 1) / across, row = strip * 16 + lane / 4;
    const float scale[2] = {__half2float(p.row_scale[row]) * p.unit, __half2float(p.row_scale[row + 8]) * p.unit};
    uint32_t raw[Decoder::kRaw] = {};
    if (tile < tiles) decoder.read(p.codes + static_cast<int64_t>(unit) * Decoder::kUnit, raw);
    uint32_t words[2][8] = {};  // of each row, two weights each
    decoder.decode(raw, p.multiplier, [&](int step, uint32_t hash) {
      const T value = from_float<T>(__dp4a(static_cast<int>(hash), 0x01010101, 0) * scale[step % 2]);
      words[step % 2][step / 4] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t&>(value)) << (step / 2 % 2 * 16);
    });
    if (tile < tiles) {
      T* to = static_cast<T*>(p.weight) + static_cast<int64_t>(row) * p.columns + (tile - strip * across) * 16;
#pragma unroll
      for (int half = 0; half < 2; ++half, to += 8 * static_cast<int64_t>(p.columns)) {
        const uint32_t* w = words[half];
        reinterpret_cast<uint4*>(to)[0] = make_uint4(w[0], w[1], w[2], w[3]);
        reinterpret_cast<uint4*>(to)[1] = make_uint4(w[4], w[5], w[6], w[7]);
      }
    }
  }
}

template <class T>
int launch(const DequantizeParams& p, int processors, cudaStream_t stream) {
  const int tiles = p.rows / 16 * (p.columns / 16), blocks = min((tiles + 31) / 32, processors * 16);
  return launch_overlapped(dequantize<QUARTERS, T>, blocks, kThreads, 0, stream, p);
}

}  // namespace

// rows and columns: multiples of 16. Returns a cudaError_t.
extern "C" int dequantize_trellis(const DequantizeParams* p, int bfloat16, int processors, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, processors, stream) : launch<__half>(*p, processors, stream);
}
