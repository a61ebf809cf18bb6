// The 16-bit weight matrix from the packed codes of the computed trellis code: for prompts and large batches.
//
// A warp takes a tile at a time: lane l = 4 g + q decodes the rows g and g + 8 of columns 4 q .. 4 q + 3, four neighbours of
// a row, which it writes as 8 bytes; the four lanes of a row fill a sector. Tiles are dealt in order, so that the writes of
// neighbours meet in the second cache.
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

template <int Q, class T>
__global__ void __launch_bounds__(kThreads) dequantize(const DequantizeParams p) {
  const int lane = threadIdx.x % 32, across = p.columns / 16, tiles = p.rows / 16 * across;
  const int warps = gridDim.x * (kThreads / 32);
  const trellis::LaneDecoder<Q> decoder(lane);
  launch_dependents();
  wait_for_previous_kernel();
  for (int tile = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; tile < tiles; tile += warps) {
    uint32_t raw[trellis::LaneDecoder<Q>::kPairs][2], hash[8];
    decoder.read(p.codes + static_cast<int64_t>(tile) * (8 * Q), raw);
    decoder.decode(raw, p.multiplier, hash);
    const int strip = tile / across, row = strip * 16 + lane / 4, column = (tile - strip * across) * 16 + lane % 4 * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = __half2float(p.row_scale[row + 8 * half]) * p.unit;
      __align__(8) T values[4];
#pragma unroll
      for (int c = 0; c < 4; ++c)
        values[c] = from_float<T>(__dp4a(static_cast<int>(hash[2 * c + half]), 0x01010101, 0) * scale);
      T* to = static_cast<T*>(p.weight) + static_cast<int64_t>(row + 8 * half) * p.columns + column;
      *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(values);
    }
  }
}

template <class T>
int launch(const DequantizeParams& p, int processors, cudaStream_t stream) {
  const int tiles = p.rows / 16 * (p.columns / 16), blocks = min((tiles + 7) / 8, processors * 8);
  return launch_overlapped(dequantize<QUARTERS, T>, blocks, kThreads, 0, stream, p);
}

}  // namespace

// rows and columns: multiples of 16. Returns a cudaError_t.
extern "C" int dequantize_trellis(const DequantizeParams* p, int bfloat16, int processors, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, processors, stream) : launch<__half>(*p, processors, stream);
}
