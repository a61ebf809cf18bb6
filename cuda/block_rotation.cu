// y = R f: what a quantized layer reads, rotated in Hadamard blocks of a power of two, with the step before it and the
// conversion to bytes behind it in the same launch. A block of threads for each Hadamard block of each row.
//
//   f = x;   f = weight norm(x + delta), x + delta kept;   f = silu(gate) up
//
// A thread holds 8 numbers: neighbours, with butterflies over the lowest three bits of the column, and by shuffles over the next
// five; then, past one barrier, pairs of neighbours, over the highest bits. The norm scales all of a row alike: its sum of squares
// meets the others at that barrier, and each block adds up the whole row. Numbers go out in 16 bits, or as bytes with a scale for
// each Hadamard block (activation_bytes.cuh), or both. A few warps have an SM to themselves: what counts is how many instructions each
// executes, and that all loads are asked for at once (EXPERIMENTS.md).
//
// Bound: latency, of a read that depends on the kernel before, of shuffles and two barriers.
#include <cuda_runtime.h>

#include "activation_bytes.cuh"
#include "async_copy.cuh"
#include "half_products.cuh"
#include "launch.cuh"

struct RotationParams {
  const void* x;          // (batch, columns), rows x_stride numbers apart; the gate
  const void* other;      // the same: delta; up
  const void* weight;     // (columns), of the norm
  void* sum;              // (batch, columns): x + delta
  const uint32_t* flips;  // columns bits, low first: where the sign is -1
  void* y;                // (batch, columns), or null
  uint8_t* bytes;         // (batch, parts, form columns), or null
  float* scales;          // (batch, columns / block)
  int64_t x_stride, other_stride;
  float eps;
  int batch, columns;
};

namespace {

constexpr int kSize = 1 << POWER_BITS, kThreads = kSize / 8, kWarps = kThreads / 32;
constexpr int kMostRegisters = 64;  // so that a block has room beside one of the product before
static_assert(POWER_BITS >= 9 && POWER_BITS <= 11);

enum Source { kPlain, kNorm, kAddedNorm, kGated };

// Over a bit of the number's place in registers.
template <int Half>
__device__ __forceinline__ void butterfly(float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (!(i & Half)) {
      const float a = v[i], b = v[i | Half];
      v[i] = a + b, v[i | Half] = a - b;
    }
}
// Over a bit of the lane.
__device__ __forceinline__ void butterfly_of_lanes(float (&v)[8], int half) {
  const float sign = threadIdx.x & half ? -1.f : 1.f;
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = fmaf(sign, v[i], __shfl_xor_sync(~0u, v[i], half));
}

template <class T>
__device__ __forceinline__ float number_of(const uint4& piece, int i) {
  return to_float(reinterpret_cast<const T*>(&piece)[i]);
}
template <class T>
__device__ __forceinline__ uint4 add_pieces(const uint4& a, const uint4& b) {
  return make_uint4(add_pairs<T>(a.x, b.x), add_pairs<T>(a.y, b.y), add_pairs<T>(a.z, b.z), add_pairs<T>(a.w, b.w));
}
template <class T>
__device__ __forceinline__ float squares_of(const uint4& piece) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += number_of<T>(piece, i) * number_of<T>(piece, i);
  return sum;
}

template <class T, Source S, Form F, int Parts>
__global__ void __launch_bounds__(kThreads, 65536 / kMostRegisters / kThreads) rotate(const __grid_constant__ RotationParams p) {
  constexpr bool norm = S == kNorm || S == kAddedNorm, two = S == kGated || S == kAddedNorm;
  constexpr int kAhead = norm ? 2 : 1;  // pieces of a row that are asked for at once
  __shared__ float4 held[kSize / 4];
  __shared__ float squares[kWarps];
  __shared__ uint32_t room[kWarps];
  launch_dependents();
  const int t = threadIdx.x, lane = t % 32, segments = p.columns / kSize, b = blockIdx.x / segments, first = blockIdx.x % segments * kSize;
  // What does not depend on the kernel before.
  const uint32_t negative = reinterpret_cast<const uint8_t*>(p.flips)[(first + 8 * t) / 8];
  uint4 weight;
  if constexpr (norm) weight = reinterpret_cast<const uint4*>(static_cast<const T*>(p.weight) + first)[t];
  wait_for_previous_kernel();
  const uint4* const x = reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + b * p.x_stride);
  const uint4* const other = reinterpret_cast<const uint4*>(static_cast<const T*>(p.other) + b * p.other_stride);
  // This thread's piece of each Hadamard block of the row, its own block first.
  uint4 of_x[kAhead], of_other[kAhead]{};
  const int pieces = p.columns / 8;
  int at = first / 8 + t;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    of_x[i] = x[at];
    if constexpr (two) of_other[i] = other[at];
    at += at + kThreads < pieces ? kThreads : kThreads - pieces;
  }
  float v[8], of_squares = 0.f;
  if constexpr (norm) {
    auto f = [](const uint4& a, const uint4& b) { return two ? add_pieces<T>(a, b) : a; };
    of_x[0] = f(of_x[0], of_other[0]);
    of_squares = squares_of<T>(of_x[0]);
    if (segments > 1) of_squares += squares_of<T>(f(of_x[1], of_other[1]));
#pragma unroll 1
    for (int i = 2; i < segments; ++i) {
      of_squares += squares_of<T>(f(x[at], two ? other[at] : uint4{}));
      at += at + kThreads < pieces ? kThreads : kThreads - pieces;
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    v[i] = number_of<T>(of_x[0], i);
    if constexpr (S == kGated) v[i] = __fdividef(v[i], 1.f + __expf(-v[i])) * number_of<T>(of_other[0], i);
    if constexpr (norm) v[i] *= number_of<T>(weight, i);
    v[i] = negative >> i & 1 ? -v[i] : v[i];
  }
  if constexpr (S == kAddedNorm)
    reinterpret_cast<uint4*>(static_cast<T*>(p.sum) + static_cast<int64_t>(b) * p.columns + first)[t] = of_x[0];
  butterfly<1>(v), butterfly<2>(v), butterfly<4>(v);
#pragma unroll
  for (int half = 1; half < 32; half *= 2) butterfly_of_lanes(v, half);
  held[2 * t] = make_float4(v[0], v[1], v[2], v[3]), held[2 * t + 1] = make_float4(v[4], v[5], v[6], v[7]);
  if constexpr (norm) {
#pragma unroll
    for (int by = 16; by; by /= 2) of_squares += __shfl_xor_sync(~0u, of_squares, by);
    if (lane == 0) squares[t / 32] = of_squares;
  }
  __syncthreads();
  float scale = 1.f / (POWER_BITS == 9 ? 22.627417f : POWER_BITS == 10 ? 32.f : 45.254834f);  // 2^(-POWER_BITS / 2)
  if constexpr (norm) {
    float all = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all += squares[w];
    scale *= rsqrtf(__fdividef(all, p.columns) + p.eps);
  }
  // Four pairs of neighbours, a quarter of the block apart. Of 2,048 bit 8 is the highest of the lane.
  const int own = 2 * (POWER_BITS == 11 ? lane % 16 + t / 32 * 16 + lane / 16 * 128 : t);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 u = reinterpret_cast<const float2*>(held)[(own + i * (kSize / 4)) / 2];
    v[2 * i] = u.x, v[2 * i + 1] = u.y;
  }
  butterfly<4>(v);
  if constexpr (POWER_BITS > 9) butterfly<2>(v);
  if constexpr (POWER_BITS > 10) butterfly_of_lanes(v, 16);
  const int64_t before = static_cast<int64_t>(b) * p.columns + first + own;
  if (p.y) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      alignas(4) const T pair[2] = {from_float<T>(v[2 * i] * scale), from_float<T>(v[2 * i + 1] * scale)};
      *reinterpret_cast<uint32_t*>(static_cast<T*>(p.y) + before + i * (kSize / 4)) = *reinterpret_cast<const uint32_t*>(pair);
    }
  }
  if constexpr (F != kNone) {
    float c[8 * F];
    components<F>(v, c);
    const float limit = largest_of_block<kWarps>(largest_of(c), room), inverse = limit > 0.f ? __fdividef(127.f, limit) : 0.f;
    if (t == 0) p.scales[blockIdx.x] = limit * scale * (1.f / 127.f);
    uint32_t words[Parts][2 * F];
    bytes_of<Parts>(c, inverse, words);
#pragma unroll
    for (int part = 0; part < Parts; ++part) {
      uint8_t* const row = p.bytes + F * (static_cast<int64_t>(b * (Parts - 1) + part) * p.columns + before);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint8_t* const to = row + F * i * (kSize / 4);
        if constexpr (F == kPairs)
          *reinterpret_cast<uint32_t*>(to) = words[part][i];
        else
          *reinterpret_cast<uint16_t*>(to) = words[part][i / 2] >> (i % 2 * 16);
      }
    }
  }
}

template <class T, Source S>
int launch(const RotationParams& p, int form, int parts, cudaStream_t stream) {
  auto kernel = rotate<T, S, kNone, 0>;
  if (form == kSingles) kernel = parts == 2 ? rotate<T, S, kSingles, 2> : rotate<T, S, kSingles, 1>;
  if (form == kPairs) kernel = parts == 2 ? rotate<T, S, kPairs, 2> : rotate<T, S, kPairs, 1>;
  return launch_overlapped(kernel, p.batch * (p.columns / kSize), kThreads, 0, stream, p);
}

template <class T>
int launch(const RotationParams& p, int source, int form, int parts, cudaStream_t stream) {
  switch (source) {
    case kPlain: return launch<T, kPlain>(p, form, parts, stream);
    case kNorm: return launch<T, kNorm>(p, form, parts, stream);
    case kAddedNorm: return launch<T, kAddedNorm>(p, form, parts, stream);
    case kGated: return launch<T, kGated>(p, form, parts, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

// source: 0 x, 1 norm of x, 2 norm of x + delta, 3 gated; form: of the bytes (activation_bytes.cuh), 0: none; parts: rows of
// them, 1 or 2. Returns a cudaError_t.
extern "C" int block_rotation(const RotationParams* p, int source, int form, int parts, int bfloat16, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, source, form, parts, stream) : launch<__half>(*p, source, form, parts, stream);
}
