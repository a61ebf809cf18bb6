// y = R f: what a quantized layer reads, rotated in Hadamard blocks of a power of two, with the step before it and the
// conversion to bytes behind it in the same launch. A block of threads for each Hadamard block of each row.
//
//   f = x;   f = weight norm(x + delta), x + delta kept;   f = silu(gate) up
//
// A thread holds 16 numbers: pairs of neighbours, butterflies over the lowest bit of the column and the three highest;
// over the middle ones; over bits 1 to 3, of 16 neighbours. Two barriers lie between. The norm scales all of a row alike: its
// sum of squares meets the others at the first barrier, and each block adds up the whole row. Numbers go out in 16 bits, or
// as bytes with a scale for each Hadamard block (activation_bytes.cuh), or both.
//
// Bound: latency, of a read that depends on the kernel before and of two barriers.
#include <cuda_runtime.h>

#include "activation_bytes.cuh"
#include "async_copy.cuh"
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

constexpr int kSize = 1 << POWER_BITS, kThreads = kSize / 16, kWarps = kThreads / 32;
constexpr int kMiddle = POWER_BITS - 7, kEach = 1 << kMiddle;  // bits of the second butterflies, numbers of one of them
constexpr int kMostRegisters = 64;  // so that a block has room beside one of the product before
static_assert(POWER_BITS >= 9 && POWER_BITS <= 11);

enum Source { kPlain, kNorm, kAddedNorm, kGated };

// Two words of padding after 32: pairs stay aligned, and strides of 16 and of 256 numbers meet different banks.
__device__ __forceinline__ int padded(int i) { return i + (i >> 5) * 2; }

template <class T>
__device__ __forceinline__ float2 pair_at(const void* from, int64_t i) {
  const uint32_t raw = *reinterpret_cast<const uint32_t*>(static_cast<const T*>(from) + i);
  const T* v = reinterpret_cast<const T*>(&raw);
  return make_float2(to_float(v[0]), to_float(v[1]));
}

template <int Half, int Count>
__device__ __forceinline__ void butterfly(float* v) {
#pragma unroll
  for (int i = 0; i < Count; ++i)
    if (!(i & Half)) {
      const float a = v[i], b = v[i | Half];
      v[i] = a + b, v[i | Half] = a - b;
    }
}

// The squares of x + delta in the row's other Hadamard blocks.
template <class T, bool Added>
__device__ float squares_elsewhere(const RotationParams& p, const T* x, const T* delta, int first) {
  float sum = 0.f;
#pragma unroll 1
  for (int begin = first + kSize; begin < first + p.columns; begin += kSize) {
    const int from = (begin >= p.columns ? begin - p.columns : begin) + threadIdx.x * 8;
#pragma unroll
    for (int i = from; i < from + kSize; i += kThreads * 8) {
      const uint4 a = *reinterpret_cast<const uint4*>(x + i);
      const uint4 b = Added ? *reinterpret_cast<const uint4*>(delta + i) : make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float v = to_float(from_float<T>(to_float(reinterpret_cast<const T*>(&a)[k]) + to_float(reinterpret_cast<const T*>(&b)[k])));
        sum += v * v;
      }
    }
  }
  return sum;
}

template <class T, Source S, Form F, int Parts>
__global__ void __launch_bounds__(kThreads, 65536 / kMostRegisters / kThreads) rotate(const __grid_constant__ RotationParams p) {
  constexpr bool norm = S == kNorm || S == kAddedNorm;
  __shared__ float held[kSize + kSize / 16];
  __shared__ float squares[kWarps];
  __shared__ uint32_t room[kWarps];
  launch_dependents();
  const int t = threadIdx.x, segments = p.columns / kSize, b = blockIdx.x / segments, first = blockIdx.x % segments * kSize;
  // The columns of this thread's pairs, and what does not depend on the kernel before.
  auto column = [&](int pair) { return 2 * t + pair * (kSize / 8); };
  uint32_t negative[8];
  float2 weight[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    negative[i] = p.flips[(first + column(i)) / 32] >> (column(i) % 32);
    if constexpr (norm) weight[i] = pair_at<T>(p.weight, first + column(i));
  }
  wait_for_previous_kernel();
  const T* x = static_cast<const T*>(p.x) + b * p.x_stride;
  const T* other = static_cast<const T*>(p.other) + b * p.other_stride;
  float v[16], of_squares = 0.f;
  float2 second[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 a = pair_at<T>(x, first + column(i));
    v[2 * i] = a.x, v[2 * i + 1] = a.y;
    if constexpr (S == kGated || S == kAddedNorm) second[i] = pair_at<T>(other, first + column(i));
  }
  if constexpr (norm) of_squares = squares_elsewhere<T, S == kAddedNorm>(p, x, other, first);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float* u = v + 2 * i;
    if constexpr (S == kGated) {
      u[0] = __fdividef(u[0], 1.f + __expf(-u[0])) * second[i].x, u[1] = __fdividef(u[1], 1.f + __expf(-u[1])) * second[i].y;
    }
    if constexpr (S == kAddedNorm) {
      uint32_t both;
      T* sums = reinterpret_cast<T*>(&both);
      sums[0] = from_float<T>(u[0] + second[i].x), sums[1] = from_float<T>(u[1] + second[i].y);
      *reinterpret_cast<uint32_t*>(static_cast<T*>(p.sum) + static_cast<int64_t>(b) * p.columns + first + column(i)) = both;
      u[0] = to_float(sums[0]), u[1] = to_float(sums[1]);
    }
    if constexpr (norm) {
      of_squares += u[0] * u[0] + u[1] * u[1];
      u[0] *= weight[i].x, u[1] *= weight[i].y;
    }
    u[0] = negative[i] & 1 ? -u[0] : u[0], u[1] = negative[i] & 2 ? -u[1] : u[1];
  }
  butterfly<1, 16>(v), butterfly<2, 16>(v), butterfly<4, 16>(v), butterfly<8, 16>(v);
#pragma unroll
  for (int i = 0; i < 8; ++i) *reinterpret_cast<float2*>(held + padded(column(i))) = make_float2(v[2 * i], v[2 * i + 1]);
  if constexpr (norm) {
#pragma unroll
    for (int by = 16; by; by /= 2) of_squares += __shfl_xor_sync(~0u, of_squares, by);
    if (t % 32 == 0) squares[t / 32] = of_squares;
  }
  __syncthreads();
  float scale = 1.f / (POWER_BITS == 9 ? 22.627417f : POWER_BITS == 10 ? 32.f : 45.254834f);  // 2^(-POWER_BITS / 2)
  if constexpr (norm) {
    float all = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all += squares[w];
    scale *= rsqrtf(__fdividef(all, p.columns) + p.eps);
  }
#pragma unroll
  for (int group = 0; group < 16 / kEach; ++group) {
    const int unit = t + group * kThreads, start = unit % 16 + unit / 16 * (16 * kEach);
    float u[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) u[i] = held[padded(start + 16 * i)];
    butterfly<1, kEach>(u), butterfly<2, kEach>(u);
    if constexpr (kEach > 4) butterfly<4, kEach>(u);
    if constexpr (kEach > 8) butterfly<8, kEach>(u);
#pragma unroll
    for (int i = 0; i < kEach; ++i) held[padded(start + 16 * i)] = u[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const float2 u = *reinterpret_cast<const float2*>(held + padded(16 * t + i));
    v[i] = u.x, v[i + 1] = u.y;
  }
  butterfly<2, 16>(v), butterfly<4, 16>(v), butterfly<8, 16>(v);
  if (p.y) {
    uint4* to = reinterpret_cast<uint4*>(static_cast<T*>(p.y) + static_cast<int64_t>(b) * p.columns + first + 16 * t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 piece;
#pragma unroll
      for (int k = 0; k < 8; ++k) reinterpret_cast<T*>(&piece)[k] = from_float<T>(v[8 * half + k] * scale);
      to[half] = piece;
    }
  }
  if constexpr (F != kNone) {
    float c[16 * F];
    components<F>(v, c);
    const float limit = largest_of_block<kWarps>(largest_of(c), room), inverse = limit > 0.f ? 127.f / limit : 0.f;
    if (t == 0) p.scales[blockIdx.x] = limit / 127.f * scale;
    uint32_t words[Parts][4 * F];
    bytes_of<Parts>(c, inverse, words);
    const int64_t pitch = F * p.columns;
    write_words(words, p.bytes + b * Parts * pitch + F * (first + 16 * t), pitch);
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
