// Activations as operand B of products with pairs of weights, in shared memory: as they are, or as bytes.
//
// Row r of shared memory is column r of the instruction: 2 bytes for each column of x, 16 more from row to row. Of a pair of
// weights that a table gives in half precision operand B is the pair of activations. Of a pair that is computed from four
// bytes (trellis2) each byte has a direction in the plane, and operand B is the activations' component along each:
//
//   weights (7 b_0 + 5 b_1 - 5 b_3, 5 b_1 + 7 b_2 + 5 b_3):  x_0 w_0 + x_1 w_1 = b . (7 x_0, 5 x_0 + 5 x_1, 7 x_1, 5 x_1 - 5 x_0)
//
// in bytes twice: scale (hi + lo / 254), 16 bits in effect, in two rows.
#pragma once
#include <cstdint>

#include "activations.cuh"
#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "half_products.cuh"

namespace table {

template <class T, int Threads>
struct Halves {
  using Sum = float;
  static constexpr int kParts = 1;  // rows of an activation

  // x (batch, columns) from `column` on, `width` of them; a barrier must follow.
  __device__ static void load(const void* from, int batch, int columns, int column, int width, uint8_t* x, int pitch, float*, uint32_t*) {
    for (int b = 0; b < batch; ++b) {
      const T* row = static_cast<const T*>(from) + static_cast<int64_t>(b) * columns + column;
      for (int i = threadIdx.x; i < width / 8; i += Threads) copy16(x + b * pitch + 16 * i, row + 8 * i);
    }
    commit_copies();
    wait_copies<0>();
  }
  __device__ static __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_half<T>(d, a, b0, b1);
  }
  __device__ static __forceinline__ float value(const Sum* parts, float) { return parts[0]; }
};

template <class T, int Threads>
struct PairBytes {
  using Sum = int;
  static constexpr int kParts = 2, kHeld = 4;  // 16-byte pieces of x that a thread keeps in registers

  __device__ static __forceinline__ void components(const uint4& piece, float (&c)[4][4]) {
    const T* v = reinterpret_cast<const T*>(&piece);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const float first = to_float(v[2 * pair]), second = to_float(v[2 * pair + 1]);
      c[pair][0] = 7 * first, c[pair][2] = 7 * second;
      c[pair][1] = 5 * (first + second), c[pair][3] = 5 * (second - first);
    }
  }
  __device__ static __forceinline__ float largest_of(const uint4& piece) {
    float c[4][4], most = 0.f;
    components(piece, c);
#pragma unroll
    for (auto& pair : c)
#pragma unroll
      for (float v : pair) most = fmaxf(most, fabsf(v));
    return most;
  }
  __device__ static __forceinline__ uint32_t packed(const uint32_t (&v)[4]) {
    return __byte_perm(__byte_perm(v[0], v[1], 0x0040), __byte_perm(v[2], v[3], 0x0040), 0x5410);
  }

  // scales[b], room: a word for each warp and batch. A barrier must follow.
  __device__ static void load(const void* from, int batch, int columns, int column, int width, uint8_t* x, int pitch, float* scales,
                              uint32_t* room) {
    constexpr int warps = Threads / 32;
    constexpr float kMagic = 12582912.f;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pieces = width / 8;
    for (int b = 0; b < batch; ++b) {
      const uint4* row = reinterpret_cast<const uint4*>(static_cast<const T*>(from) + static_cast<int64_t>(b) * columns + column);
      uint4 held[kHeld];
      float most = 0.f;
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        const int i = threadIdx.x + h * Threads;
        held[h] = i < pieces ? row[i] : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int h = 0; h < kHeld; ++h)
        if (h * Threads < pieces) most = fmaxf(most, largest_of(held[h]));
      for (int i = threadIdx.x + kHeld * Threads; i < pieces; i += Threads) most = fmaxf(most, largest_of(row[i]));
      const uint32_t of_warp = __reduce_max_sync(~0u, __float_as_uint(most));  // floats of one sign are ordered as their bits
      if (lane == 0) room[b * warps + warp] = of_warp;
      __syncthreads();
      const float limit = __uint_as_float(__reduce_max_sync(~0u, room[b * warps + lane % warps]));
      const float inverse = limit > 0.f ? 127.f / limit : 0.f;
      if (threadIdx.x == 0) scales[b] = limit / 127.f;
      auto put = [&](int i, const uint4& piece) {
        float c[4][4];
        uint32_t hi[4], lo[4], word[2][4];
        components(piece, c);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const float near = fmaf(c[pair][k], inverse, kMagic);
            hi[k] = __float_as_uint(near);
            lo[k] = __float_as_uint(fmaf(fmaf(c[pair][k], inverse, kMagic - near), 254.f, kMagic));
          }
          word[0][pair] = packed(hi), word[1][pair] = packed(lo);
        }
#pragma unroll
        for (int part = 0; part < 2; ++part)
          *reinterpret_cast<uint4*>(x + (2 * b + part) * pitch + 16 * i) =
              make_uint4(word[part][0], word[part][1], word[part][2], word[part][3]);
      };
#pragma unroll
      for (int h = 0; h < kHeld; ++h)
        if (const int i = threadIdx.x + h * Threads; i < pieces) put(i, held[h]);
      for (int i = threadIdx.x + kHeld * Threads; i < pieces; i += Threads) put(i, row[i]);
    }
  }
  __device__ static __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_s8(d, a, b0, b1);
  }
  __device__ static __forceinline__ float value(const Sum* parts, float scale) {
    return (parts[0] + parts[1] * (1.f / 254.f)) * scale;
  }
};

}  // namespace table
