// y = H (s x) / sqrt(n): the randomized Hadamard rotation of the inputs of quantized layers, a block of threads a row.
//
// H = H_p x F (Kronecker): p = 2^POWER_BITS by butterflies, F a dense matrix of +-1 of order ORDER (1: none) that stands
// last. Element a ORDER + r of a row has place a in the butterflies and place r in F. First signs are flipped and F is
// multiplied by, as matrix products of 16-bit numbers with sums in float32 (F is +-1: every term is exact); then butterflies
// over 3 or 4 bits of a at a time in registers, with shared memory and a barrier between. Where there is no F the first
// butterflies are of neighbours, straight from memory; the last ones always go straight to memory.
//
// Bound: latency; bytes are 4 n a row.
#include <cuda_runtime.h>

#include "async_copy.cuh"
#include "half_products.cuh"
#include "launch.cuh"
#include "numbers.cuh"

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
constexpr int kPasses = POWER_BITS == 9 ? 2 : (POWER_BITS + 3) / 4;  // each is a round trip through shared memory
// As many registers as leave room for a block of the product that comes next: else some other SM gets two of its blocks.
constexpr int kThreads = kSize <= 4096 ? 256 : kSize <= 16384 ? 512 : 1024;

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

// Eight neighbours of a row, signs flipped where the bits of `signs` are one.
template <class T>
__device__ __forceinline__ void eight(const T* x, uint32_t signs, float* to) {
  const uint4 piece = *reinterpret_cast<const uint4*>(x);
  const T* v = reinterpret_cast<const T*>(&piece);
#pragma unroll
  for (int c = 0; c < 8; ++c) to[c] = signs >> c & 1 ? -to_float(v[c]) : to_float(v[c]);
}

// The dense factor as operand A, rows and columns filled with zeros up to multiples of 16, and a pad against bank conflicts.
constexpr int kSide = (kOrder + 15) / 16 * 16, kPitch = kSide + 8;

constexpr int kTurns = (kPlaces * 4 + kThreads - 1) / kThreads;  // of a warp, eight places each

// Numbers c and c + 1 of a group as a word of operand B; beyond the order: zero.
template <class T>
__device__ __forceinline__ uint32_t two(const T* x, int place, int c) {
  const uint16_t* v = reinterpret_cast<const uint16_t*>(x) + place * kOrder + c;
  if constexpr (kOrder % 2 == 0) return c < kOrder ? *reinterpret_cast<const uint32_t*>(v) : 0;
  else return (c < kOrder ? v[0] : 0) | (c + 1 < kOrder ? static_cast<uint32_t>(v[1]) << 16 : 0);
}

// What flips the signs of these two.
__device__ __forceinline__ uint32_t two_signs(const uint32_t* flips, int place, int c) {
  uint32_t mask = 0;
#pragma unroll
  for (int k = 0; k < 2; ++k)
    if (const int i = place * kOrder + c + k; c + k < kOrder && place < kPlaces) mask |= (flips[i / 32] >> (i % 32) & 1) << (16 * k + 15);
  return mask;
}

// The words of operand B of all turns of this thread, signs flipped. All loads are on their way before one is used: between
// two steps of a model the flips are gone from the caches.
template <class T>
__device__ __forceinline__ void read_groups(const T* x, const uint32_t* flips, uint32_t (&words)[kTurns][kSide / 16][2]) {
  const int lane = threadIdx.x % 32, place = threadIdx.x / 32 * 8 + lane / 4;
  uint32_t signs[kTurns][kSide / 16][2];
#pragma unroll
  for (int i = 0; i < kTurns * (kSide / 8); ++i) {
    const int turn = i / (kSide / 8), k = i / 2 % (kSide / 16), half = i % 2, c = 16 * k + 8 * half + lane % 4 * 2;
    const int here = place + turn * kThreads / 4;
    words[turn][k][half] = here < kPlaces ? two(x, here, c) : 0;
    signs[turn][k][half] = two_signs(flips, here, c);
  }
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn)
#pragma unroll
    for (int k = 0; k < kSide / 16; ++k) words[turn][k][0] ^= signs[turn][k][0], words[turn][k][1] ^= signs[turn][k][1];
}

template <class T>
__device__ void times_dense(const uint32_t (&words)[kTurns][kSide / 16][2], const T* dense, float* held) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int first = threadIdx.x / 32 * 8 + turn * kThreads / 4;
#pragma unroll 1
    for (int m = 0; m < kSide; m += 16) {
      float d[4] = {};
#pragma unroll
      for (int k = 0; k < kSide / 16; ++k) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          a[i] = *reinterpret_cast<const uint32_t*>(dense + (m + g + i % 2 * 8) * kPitch + 16 * k + i / 2 * 8 + 2 * q);
        mma_half<T>(d, a, words[turn][k][0], words[turn][k][1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = m + g + i / 2 * 8, place = first + 2 * q + i % 2;
        if (r < kOrder && place < kPlaces) held[padded(place * kOrder + r)] = d[i];
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) hadamard(const HadamardParams p) {
  extern __shared__ __align__(16) float held[];  // padded(kSize), then the dense factor in 16 bits
  T* dense = reinterpret_cast<T*>(held + (padded(kSize) + 4) / 4 * 4);
  launch_dependents();
  const uint32_t* flips = p.flips + static_cast<int64_t>(blockIdx.x % p.segments) * kSize / 32;
  const T* x = static_cast<const T*>(p.x) + static_cast<int64_t>(blockIdx.x) * kSize;
  T* y = static_cast<T*>(p.y) + static_cast<int64_t>(blockIdx.x) * kSize;
  wait_for_previous_kernel();
  constexpr int count = 1 << pass_bits(0);
  if constexpr (kOrder > 1) {
    uint32_t words[kTurns][kSide / 16][2];
    read_groups(x, flips, words);
#pragma unroll 4
    for (int i = threadIdx.x; i < kSide * kPitch; i += kThreads) {
      const int r = i / kPitch, c = i % kPitch;
      dense[i] = from_float<T>(r < kOrder && c < kOrder ? p.dense[r * kOrder + c] : 0.f);
    }
    __syncthreads();
    times_dense(words, dense, held);
    pass<0, T>(held, y, p.scale);
  } else if constexpr (count % 8 == 0 && kPasses > 1) {
    constexpr int turns = (kSize + kThreads * count - 1) / (kThreads * count);
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const int i = (turn * kThreads + threadIdx.x) * count;
      if (i >= kSize) break;
      const uint32_t signs = flips[i / 32] >> (i % 32);
      float v[count];
#pragma unroll
      for (int c = 0; c < count; c += 8) eight(x + i + c, signs >> c, v + c);
      butterflies<pass_bits(0)>(v);
#pragma unroll
      for (int c = 0; c < count; ++c) held[padded(i + c)] = v[c];
    }
    pass<1, T>(held, y, p.scale);
  } else {
    for (int i = threadIdx.x; i < kSize; i += kThreads)
      held[padded(i)] = flips[i / 32] >> (i % 32) & 1 ? -to_float(x[i]) : to_float(x[i]);
    pass<0, T>(held, y, p.scale);
  }
}

template <class T>
int launch(const HadamardParams& p, cudaStream_t stream) {
  const int bytes = (kSize + kSize / 16 + 5) * 4 + kSide * kPitch * 2;
  return launch_overlapped(hadamard<T>, p.rows, kThreads, bytes, stream, p);
}

}  // namespace

// Returns a cudaError_t.
extern "C" int hadamard_rotation(const HadamardParams* p, int bfloat16, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, stream) : launch<__half>(*p, stream);
}
