// Activations as 8-bit operands of m16n8k32, quantized by a block into its shared memory: x = scale (hi + lo / 254).
//
// The four bytes of a weight meet its activation four times, so operand B of a tile is, for lane (g, q) = (lane / 4,
// lane % 4), four words of four equal bytes: column n = g of the instruction, weights 4 q .. 4 q + 3. Stored is one word
// with the four bytes; the reader spreads it by four permutations. Where a batch needs fewer than eight columns,
// kShared tiles share a word: tile c of them has columns c 8 / kShared ... The other columns of a product with that tile
// are noise, in sums that nobody reads.
//
//   word ((t / 4) kGroups + group) 32 + lane) 4 / kShared + (t % 4) / kShared,     t: the tile's place in the row
//   column n of a group: kShared = 1: n = parts (b) + part;  part 0: hi, 1: lo, where kFine
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ __half from_float(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float(float v) { return __float2bfloat16_rn(v); }

// Shared: tiles that share operand words (4, 2, 1). Groups: of eight columns of the instruction. Fine: hi and lo.
template <int Shared, int Groups, bool Fine>
struct Operands {
  static_assert(Groups == 1 || Shared == 1);
  static constexpr int kShared = Shared, kGroups = Groups, kParts = Fine ? 2 : 1;
  static constexpr int kColumns = 8 / Shared * Groups;      // of a row's sums
  static constexpr int kMostBatch = kColumns / kParts;
  static constexpr int kWords = 4 / Shared;                 // of a lane for four tiles and a group of columns
  static constexpr int kBytesOfColumn = 2 * kWords * Groups;  // of shared memory, for a column of x

  __host__ __device__ static constexpr int word(int tile, int column, int q) {
    const int n = (tile % Shared) * (8 / Shared) + column % 8, group = column / 8;
    return (((tile / 4) * Groups + group) * 32 + n * 4 + q) * kWords + (tile % 4) / Shared;
  }
};

// Largest absolute value of the eight numbers of a piece, as the bits of a float (which order as integers do).
template <class T> __device__ __forceinline__ uint32_t largest(const uint4& piece) {
  const T* v = reinterpret_cast<const T*>(&piece);
  float most = 0.f;
#pragma unroll
  for (int c = 0; c < 8; ++c) most = fmaxf(most, fabsf(to_float(v[c])));
  return __float_as_uint(most);
}

// Quantizes x (batch, columns) into `words`, with scales[b]. room: a word for each warp and batch. All threads; ends with a barrier.
template <class O, class T, int Threads, int Held>
__device__ void quantize(const void* from, int batch, int columns, uint32_t* words, float* scales, uint32_t* room) {
  constexpr int warps = Threads / 32;
  constexpr float kMagic = 12582912.f;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pieces = columns / 8;
  for (int b = 0; b < batch; ++b) {
    const uint4* x = reinterpret_cast<const uint4*>(static_cast<const T*>(from) + static_cast<int64_t>(b) * columns);
    uint4 held[Held];
    uint32_t most = 0;
#pragma unroll
    for (int h = 0; h < Held; ++h) {
      const int i = threadIdx.x + h * Threads;
      held[h] = i < pieces ? x[i] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int h = 0; h < Held; ++h)
      if (h * Threads < pieces) most = max(most, largest<T>(held[h]));
    for (int i = threadIdx.x + Held * Threads; i < pieces; i += Threads) most = max(most, largest<T>(x[i]));
    most = __reduce_max_sync(~0u, most);
    if (lane == 0) room[b * warps + warp] = most;
    __syncthreads();
    const float limit = __uint_as_float(__reduce_max_sync(~0u, room[b * warps + lane % warps]));
    const float inverse = limit > 0.f ? 127.f / limit : 0.f;
    if (threadIdx.x == 0) scales[b] = limit / 127.f;
    auto put = [&](int i, const uint4& piece) {
      const T* v = reinterpret_cast<const T*>(&piece);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t hi[4], lo[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float value = to_float(v[4 * half + c]);
          const float near = fmaf(value, inverse, kMagic);
          hi[c] = __float_as_uint(near);
          lo[c] = __float_as_uint(fmaf(fmaf(value, inverse, kMagic - near), 254.f, kMagic));
        }
        const int tile = i / 2, q = i % 2 * 2 + half;
        words[O::word(tile, O::kParts * b, q)] =
            __byte_perm(__byte_perm(hi[0], hi[1], 0x0040), __byte_perm(hi[2], hi[3], 0x0040), 0x5410);
        if constexpr (O::kParts == 2)
          words[O::word(tile, 2 * b + 1, q)] =
              __byte_perm(__byte_perm(lo[0], lo[1], 0x0040), __byte_perm(lo[2], lo[3], 0x0040), 0x5410);
      }
    };
#pragma unroll
    for (int h = 0; h < Held; ++h)
      if (const int i = threadIdx.x + h * Threads; i < pieces) put(i, held[h]);
    for (int i = threadIdx.x + Held * Threads; i < pieces; i += Threads) put(i, x[i]);
  }
  __syncthreads();
}
