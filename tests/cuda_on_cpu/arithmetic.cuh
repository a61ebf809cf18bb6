// What cuda/arithmetic.cuh does, in plain C++.
#pragma once
#include "cuda_runtime.h"

inline void mma_s8(int (&d)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  uint32_t sums[4];
  emulated::together(words, 6, sums, 4, [](auto& in, auto& out) {
    const auto byte = [](uint32_t word, int i) { return static_cast<int>(static_cast<int8_t>(word >> (8 * i))); };
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        int total = 0;
        for (int k = 0; k < 32; ++k) {
          const int q = k % 16 / 4;
          const uint32_t left = in[row % 8 * 4 + q][row / 8 + 2 * (k / 16)], right = in[column * 4 + q][4 + k / 16];
          total += byte(left, k % 4) * byte(right, k % 4);
        }
        out[lane][i] = total;
      }
  });
  for (int i = 0; i < 4; ++i) d[i] += static_cast<int>(sums[i]);
}
template <class T> void known(T&) {}
inline uint32_t scaled(uint32_t v, uint32_t factor) { return v * factor; }
inline void add(uint32_t& a, uint32_t b) { a += b; }
