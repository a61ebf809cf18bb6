// y = H (s x) / sqrt(n): the randomized Hadamard rotation of the inputs of quantized layers, a block of threads a row.
//
// H = H_p x F (Kronecker): p = 2^POWER_BITS by butterflies, F a dense matrix of +-1 of order ORDER (1: none) that stands
// last. Element a ORDER + r of a row has place a in the butterflies and place r in F. First a thread takes whole groups of
// ORDER neighbours from memory, flips signs, multiplies by F; then butterflies over 3 or 4 bits of a at a time in
// registers, with shared memory and a barrier between, the last straight to memory. Everything in float32.
//
// Bound: latency; bytes are 4 n a row.
#include <cuda_runtime.h>

#include "activations.cuh"
#include "async_copy.cuh"
#include "launch.cuh"

struct HadamardParams {
  const void* x;          // (rows, n), n = 2^POWER_BITS ORDER
  void* y;                // (rows, n)
  const uint32_t* flips;  // n bits, low first: where s is -1
  const float* dense;     // (ORDER, ORDER) of +-1
  float scale;            // 1 / sqrt(n)
  int rows;
  int segments;           // a row of the tensor is this many rows here, each with flips of its own
};

namespace {

constexpr int kPlaces = 1 << POWER_BITS, kOrder = ORDER, kSize = kPlaces * kOrder;
constexpr int kPasses = (POWER_BITS + 3) / 4;
constexpr int kThreads = kSize <= 4096 ? 256 : kSize <= 8192 ? 512 : 1024;

// A word of padding after each 16: strides of powers of two then meet different banks.
__device__ __forceinline__ int padded(int i) { return i + (i >> 4); }

// Bits of the place that pass number i works on: as even as can be.
constexpr int pass_bits(int i) { return (POWER_BITS * (i + 1)) / kPasses - (POWER_BITS * i) / kPasses; }
constexpr int pass_first(int i) { return (POWER_BITS * i) / kPasses; }

template <int Bits>
__device__ __forceinline__ void butterflies(float (&v)[1 << Bits]) {
#pragma unroll
  for (int half = 1; half < 1 << Bits; half *= 2)
#pragma unroll
    for (int i = 0; i < 1 << Bits; ++i)
      if (!(i & half)) {
        const float a = v[i], b = v[i | half];
        v[i] = a + b, v[i | half] = a - b;
      }
}

template <int Pass, class T>
__device__ void pass(float* held, T* y, float scale) {
  if constexpr (Pass < kPasses) {
    constexpr int bits = pass_bits(Pass), first = pass_first(Pass), count = 1 << bits;
    __syncthreads();
    for (int unit = threadIdx.x; unit < kSize / count; unit += kThreads) {
      const int r = unit % kOrder, place = unit / kOrder;
      const int low = place & ((1 << first) - 1), start = ((place - low) << bits | low) * kOrder + r;
      float v[count];
#pragma unroll
      for (int i = 0; i < count; ++i) v[i] = held[padded(start + (i << first) * kOrder)];
      butterflies<bits>(v);
#pragma unroll
      for (int i = 0; i < count; ++i) {
        const int at = start + (i << first) * kOrder;
        if constexpr (Pass + 1 == kPasses) y[at] = from_float<T>(v[i] * scale);
        else held[padded(at)] = v[i];
      }
    }
    pass<Pass + 1, T>(held, y, scale);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) hadamard(const HadamardParams p) {
  extern __shared__ __align__(16) float held[];  // padded(kSize), then (ORDER, ORDER)
  float* dense = held + padded(kSize);
  launch_dependents();
  if constexpr (kOrder > 1)
    for (int i = threadIdx.x; i < kOrder * kOrder; i += kThreads) dense[i] = p.dense[i];
  const uint32_t* flips = p.flips + static_cast<int64_t>(blockIdx.x % p.segments) * kSize / 32;
  if constexpr (kOrder > 1) __syncthreads();
  wait_for_previous_kernel();
  const T* x = static_cast<const T*>(p.x) + static_cast<int64_t>(blockIdx.x) * kSize;
  for (int place = threadIdx.x; place < kPlaces; place += kThreads) {
    float v[kOrder];
#pragma unroll
    for (int c = 0; c < kOrder; ++c) {
      const int i = place * kOrder + c;
      const float value = to_float(x[i]);
      v[c] = flips[i / 32] >> (i % 32) & 1 ? -value : value;
    }
    if constexpr (kOrder == 1) {
      held[padded(place)] = v[0];
    } else {
#pragma unroll 2
      for (int r = 0; r < kOrder; ++r) {
        float sum = 0.f;
#pragma unroll
        for (int c = 0; c < kOrder; ++c) sum = fmaf(dense[r * kOrder + c], v[c], sum);
        held[padded(place * kOrder + r)] = sum;
      }
    }
  }
  pass<0, T>(held, static_cast<T*>(p.y) + static_cast<int64_t>(blockIdx.x) * kSize, p.scale);
}

template <class T>
int launch(const HadamardParams& p, cudaStream_t stream) {
  const int bytes = (kSize + kSize / 16 + 1 + kOrder * kOrder) * 4;
  return launch_overlapped(hadamard<T>, p.rows, kThreads, bytes, stream, p);
}

}  // namespace

// Returns a cudaError_t.
extern "C" int hadamard_rotation(const HadamardParams* p, int bfloat16, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, stream) : launch<__half>(*p, stream);
}
