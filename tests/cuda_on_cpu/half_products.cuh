// What cuda/half_products.cuh does, in plain C++.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"
#include "numbers.cuh"

namespace emulated {
inline float number(__half v) { return __half2float(v); }
inline float number(__nv_bfloat16 v) { return __bfloat162float(v); }
}  // namespace emulated

template <class T>
void mma_half(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  uint32_t sums[4];
  emulated::together(words, 6, sums, 4, [](auto& in, auto& out) {
    const auto number = [](uint32_t word, int i) {
      const uint16_t bits = word >> (16 * i);
      T value;
      std::memcpy(&value, &bits, 2);
      return emulated::number(value);
    };
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        float total = 0;
        for (int k = 0; k < 16; ++k) {
          const int q = k % 8 / 2;
          const uint32_t left = in[row % 8 * 4 + q][row / 8 + 2 * (k / 8)], right = in[column * 4 + q][4 + k / 8];
          total += number(left, k % 2) * number(right, k % 2);
        }
        out[lane][i] = __float_as_uint(total);
      }
  });
  for (int i = 0; i < 4; ++i) d[i] += __uint_as_float(sums[i]);
}

template <class T>
uint32_t add_pairs(uint32_t a, uint32_t b) {
  T pairs[2][2];
  std::memcpy(pairs[0], &a, 4), std::memcpy(pairs[1], &b, 4);
  for (int i = 0; i < 2; ++i) pairs[0][i] = from_float<T>(to_float(pairs[0][i]) + to_float(pairs[1][i]));
  std::memcpy(&a, pairs[0], 4);
  return a;
}
