// Activations as operand B of products with pairs of weights, in shared memory: as they are, or as bytes.
//
// Row r of shared memory is column r of the instruction: 2 bytes for each column of x, 16 more from row to row. Of a pair of
// weights that a table gives in half precision operand B is the pair of activations. Of a pair that is computed from four
// bytes (trellis2) each byte has a direction in the plane, and operand B is the activations' component along each:
//
//   weights (7 b_0 + 5 b_1 - 5 b_3, 5 b_1 + 7 b_2 + 5 b_3):  x_0 w_0 + x_1 w_1 = b . (7 x_0, 5 x_0 + 5 x_1, 7 x_1, 5 x_1 - 5 x_0)
//
// in one byte, or in two in two rows where the instruction has columns to spare: scale (hi + lo / 254), 16 bits in effect.
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

// Parts: rows of an activation, bytes that it has.
template <class T, int Threads, int Parts>
struct PairBytes {
  using Sum = int;

  // Of the four pairs of a piece of x.
  __device__ static __forceinline__ void components(const uint4& piece, float (&c)[16]) {
    const T* v = reinterpret_cast<const T*>(&piece);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const float first = to_float(v[2 * pair]), second = to_float(v[2 * pair + 1]);
      c[4 * pair] = 7 * first, c[4 * pair + 2] = 7 * second;
      c[4 * pair + 1] = 5 * (first + second), c[4 * pair + 3] = 5 * (second - first);
    }
  }

  // scales[b], room: a word for each warp and batch. A barrier must follow. x is read twice: the second time it is near.
  __device__ static void load(const void* from, int batch, int columns, int column, int width, uint8_t* x, int pitch, float* scales,
                              uint32_t* room) {
    constexpr int warps = Threads / 32;
    constexpr float kMagic = 12582912.f;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pieces = width / 8;
    auto row = [&](int b) {
      return reinterpret_cast<const uint4*>(static_cast<const T*>(from) + static_cast<int64_t>(b) * columns + column);
    };
#pragma unroll 2
    for (int b = 0; b < batch; ++b) {
      float most = 0.f;
      for (int i = threadIdx.x; i < pieces; i += Threads) {
        float c[16];
        components(row(b)[i], c);
#pragma unroll
        for (float v : c) most = fmaxf(most, fabsf(v));
      }
      const uint32_t of_warp = __reduce_max_sync(~0u, __float_as_uint(most));  // floats of one sign are ordered as their bits
      if (lane == 0) room[b * warps + warp] = of_warp;
    }
    __syncthreads();
#pragma unroll 2
    for (int b = 0; b < batch; ++b) {
      const float limit = __uint_as_float(__reduce_max_sync(~0u, room[b * warps + lane % warps]));
      const float inverse = limit > 0.f ? 127.f / limit : 0.f;
      if (threadIdx.x == 0) scales[b] = limit / 127.f;
      for (int i = threadIdx.x; i < pieces; i += Threads) {
        float c[16];
        components(row(b)[i], c);
        uint32_t nearest[Parts][16];
#pragma unroll
        for (int k = 0; k < 16; ++k) {
          const float near = fmaf(c[k], inverse, kMagic);
          nearest[0][k] = __float_as_uint(near);
          if constexpr (Parts == 2)
            nearest[1][k] = __float_as_uint(fmaf(fmaf(c[k], inverse, kMagic - near), 254.f, kMagic));
        }
#pragma unroll
        for (int part = 0; part < Parts; ++part) {
          uint32_t word[4];
#pragma unroll
          for (int pair = 0; pair < 4; ++pair) {
            const uint32_t* v = nearest[part] + 4 * pair;
            word[pair] = __byte_perm(__byte_perm(v[0], v[1], 0x0040), __byte_perm(v[2], v[3], 0x0040), 0x5410);
          }
          *reinterpret_cast<uint4*>(x + (Parts * b + part) * pitch + 16 * i) = make_uint4(word[0], word[1], word[2], word[3]);
        }
      }
    }
  }
  __device__ static __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_s8(d, a, b0, b1);
  }
  __device__ static __forceinline__ float value(const Sum* parts, float scale) {
    return (Parts == 2 ? parts[0] + parts[Parts - 1] * (1.f / 254.f) : parts[0]) * scale;
  }
};

}  // namespace table
