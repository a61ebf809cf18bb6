// Activations as bytes, for products with weights that are computed from four bytes: a component is scale hi, or scale
// (hi + lo / 254), 16 bits in effect: one row of bytes or two. A scale holds for one row of x, or for a segment of it.
//
// Of `trellis`, where a weight is the sum of its bytes, a component is an activation. Of `trellis2` each byte of a pair of
// weights has a direction in the plane, and what multiplies it is the activations' component along it:
//
//   weights (7 b_0 + 5 b_1 - 5 b_3, 5 b_1 + 7 b_2 + 5 b_3):  x_0 w_0 + x_1 w_1 = b . (7 x_0, 5 x_0 + 5 x_1, 7 x_1, 5 x_1 - 5 x_0)
#pragma once
#include <cstdint>

#include "numbers.cuh"

// Components of a column: of activations, and along the directions of pairs.
enum Form { kNone = 0, kSingles = 1, kPairs = 2 };

template <Form F, int Count>
__device__ __forceinline__ void components(const float (&x)[Count], float (&c)[F * Count]) {
#pragma unroll
  for (int i = 0; i < Count; i += 2) {
    if constexpr (F == kSingles) {
      c[i] = x[i], c[i + 1] = x[i + 1];
    } else {
      c[2 * i] = 7 * x[i], c[2 * i + 2] = 7 * x[i + 1];
      c[2 * i + 1] = 5 * (x[i] + x[i + 1]), c[2 * i + 3] = 5 * (x[i + 1] - x[i]);
    }
  }
}

template <int Count>
__device__ __forceinline__ float largest_of(const float (&c)[Count]) {
  float most = 0.f;
#pragma unroll
  for (float v : c) most = fmaxf(most, fabsf(v));
  return most;
}

// The largest of a block's threads; all call it. room: a word for each warp, which nothing else uses.
template <int Warps>
__device__ __forceinline__ float largest_of_block(float most, uint32_t* room) {
  const int lane = threadIdx.x % 32;
  const uint32_t of_warp = __reduce_max_sync(~0u, __float_as_uint(most));  // floats of one sign are ordered as their bits
  if (lane == 0) room[threadIdx.x / 32] = of_warp;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, room[lane % Warps]));
}

// words[part][i]: the bytes of four components. inverse: 127 / the largest component.
template <int Parts, int Count>
__device__ __forceinline__ void bytes_of(const float (&c)[Count], float inverse, uint32_t (&words)[Parts][Count / 4]) {
  constexpr float kMagic = 12582912.f;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
#pragma unroll
  for (int i = 0; i < Count / 4; ++i) {
    uint32_t nearest[Parts][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float v = c[4 * i + k], near = fmaf(v, inverse, kMagic);
      nearest[0][k] = __float_as_uint(near);
      if constexpr (Parts == 2) nearest[Parts - 1][k] = __float_as_uint(fmaf(fmaf(v, inverse, kMagic - near), 254.f, kMagic));
    }
#pragma unroll
    for (int part = 0; part < Parts; ++part) {
      const uint32_t* v = nearest[part];
      words[part][i] = __byte_perm(__byte_perm(v[0], v[1], 0x0040), __byte_perm(v[2], v[3], 0x0040), 0x5410);
    }
  }
}

// The words of a thread's components, as they stand in memory: rows `pitch` bytes apart.
template <int Parts, int Count>
__device__ __forceinline__ void write_words(const uint32_t (&words)[Parts][Count], uint8_t* to, int64_t pitch) {
  static_assert(Count % 2 == 0);
#pragma unroll
  for (int part = 0; part < Parts; ++part)
#pragma unroll
    for (int i = 0; i < Count;) {
      uint32_t* at = reinterpret_cast<uint32_t*>(to + part * pitch) + i;
      const uint32_t* w = words[part] + i;
      if (Count % 4 == 0)
        *reinterpret_cast<uint4*>(at) = make_uint4(w[0], w[1], w[2], w[3]), i += 4;
      else
        *reinterpret_cast<uint2*>(at) = make_uint2(w[0], w[1]), i += 2;
    }
}
