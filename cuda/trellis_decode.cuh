// From the stream of a tile to the four bytes of each weight, for one lane of a warp.
//
// Lane l of a warp owns the steps 8 l .. 8 l + 7 of a tile. Their states lie in a window of the stream that starts at bit
// 2 Q l + k_0 - L (cyclic) and spans more than 32 bits at most rates, so it is read as one to three overlapping words, each
// a funnel shift of two aligned ones, chosen so that every state lies whole in one of them. Integer shifts, masks and byte
// permutations share a pipe of 16 lanes, multiplies have another: so a state is moved by multiplying with a power of two
// where that balances the two, and cut out by one permutation (16 state bits) or one shift (17).
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "trellis_code.cuh"

namespace trellis {

constexpr int kSteps = 8;  // of a lane
constexpr int kMostWords = 3;

// Where a lane's states are: bits from the start of its window to state j, and the words that hold them.
template <int Q>
struct Window {
  static constexpr int L = state_bits(Q);
  int offset[kSteps]{};  // of a state from the window's start
  int word[kSteps]{};    // which word holds it
  int start[kMostWords]{};
  int words = 1;

  constexpr Window() {
    for (int j = 1; j < kSteps; ++j) offset[j] = offset[j - 1] + shift_at(Q, j);
    for (int j = 0; j < kSteps; ++j) {
      if (offset[j] + L > start[words - 1] + 32) {
        int last = j;  // the last state that a word with this one in it can hold; the word ends where that state ends
        while (last + 1 < kSteps && offset[last + 1] + L - 32 <= offset[j]) ++last;
        start[words++] = offset[last] + L - 32;
      }
      word[j] = words - 1;
    }
  }
  constexpr int bits() const { return offset[kSteps - 1] + L; }
};

// The first bit of a lane's window in the tile's stream of 64 Q bits.
__host__ __device__ constexpr int window_start(int quarters, int lane) {
  return (2 * quarters * lane + shift_at(quarters, 0) - state_bits(quarters) + 64 * quarters) % (64 * quarters);
}

// Whether the whole window of every lane lies within two aligned words.
constexpr bool two_words(int quarters, int bits) {
  for (int lane = 0; lane < 32; ++lane)
    if (window_start(quarters, lane) % 32 + bits > 64) return false;
  return true;
}

// The state of L bits that starts at bit D of a word.
template <int L, int D, bool ByMultiply>
__device__ __forceinline__ uint32_t state_at(uint32_t word) {
  static_assert(D >= 0 && D + L <= 32);
  if constexpr (D + L == 32) {
    return word >> D;
  } else if constexpr (L == 16) {
    constexpr int up = D % 8 ? 8 - D % 8 : 0;  // to a whole byte: D and D + 8 share the multiply
    const uint32_t moved = up ? scaled(word, 1u << up) : word;
    constexpr int byte = (D + up) / 8;
    return __byte_perm(moved, 0, 0x4400 | (byte + 1) << 4 | byte);
  } else if constexpr (D == 0) {
    return word & ((1u << L) - 1);
  } else {
    return ByMultiply ? scaled(word, 1u << (32 - L - D)) >> (32 - L) : word >> D & ((1u << L) - 1);
  }
}

template <int Q>
struct LaneDecoder {
  static constexpr Window<Q> kWindow{};
  static constexpr int kBytes = 8 * Q;  // of a tile
  static constexpr int kWords = kWindow.words;
  static constexpr bool kTwo = two_words(Q, kWindow.bits());
  static constexpr int kPairs = kTwo ? 1 : kWords;  // pairs of aligned words that are read
  int at[kPairs][2];                                // bytes of a tile
  int shift[kWords];

  __device__ explicit LaneDecoder(int lane) {
    constexpr Window<Q> window{};
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int word = (window_start(Q, lane) + window.start[i]) / 32;
      at[i][0] = word % (kBytes / 4) * 4, at[i][1] = (word + 1) % (kBytes / 4) * 4;
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int first = window_start(Q, lane) % 32 + window.start[i];
      shift[i] = kTwo ? first : first % 32;
    }
  }

  // The aligned words of a tile that this lane needs. At: a pointer, or an address in shared memory.
  template <class At>
  __device__ __forceinline__ void read(At tile, uint32_t (&raw)[kPairs][2]) const {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      raw[i][0] = load_word(tile + at[i][0]);
      raw[i][1] = load_word(tile + at[i][1]);
    }
  }

  // hash[j]: multiplier x state j mod 2^32, whose four signed bytes sum to the weight's value.
  __device__ __forceinline__ void decode(const uint32_t (&raw)[kPairs][2], uint32_t multiplier, uint32_t (&hash)[kSteps]) const {
    uint32_t words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int pair = kTwo ? 0 : i;
      words[i] = __funnelshift_rc(raw[pair][0], raw[pair][1], shift[i]);
    }
    each<0>(words, multiplier, hash);
  }

 private:
  template <int J>
  __device__ __forceinline__ void each(const uint32_t (&words)[kWords], uint32_t multiplier, uint32_t (&hash)[kSteps]) const {
    if constexpr (J < kSteps) {
      constexpr int word = kWindow.word[J], offset = kWindow.offset[J] - kWindow.start[word];
      hash[J] = state_at<Window<Q>::L, offset, (J != 6)>(words[word]) * multiplier;
      each<J + 1>(words, multiplier, hash);
    }
  }
};

}  // namespace trellis
