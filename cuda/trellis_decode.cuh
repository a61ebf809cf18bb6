// From the stream of a tile to the four bytes of each weight, for one lane of a warp.
//
// Lane (g, q) = (l / 4, l % 4) of a warp owns the steps 32 g .. 32 g + 31 of tile q of a unit of four tiles. They are 8 Q bits of
// the tile's stream, so that all lanes' states stand at the same bits of their words, which are known at compile time:
// state j ends where floor((j + 1) Q / 4) bits of the lane's own have passed. At whole rates a lane's bits begin at a word; at
// others the words are moved by a whole number of bytes first.
//
// Every instruction takes a clock of its quarter of an SM, whichever pipe it uses (EXPERIMENTS.md), so what counts is their
// number. A state that begins at a word's first bit is cut out by one mask, one that ends at its last by one shift, one of
// 16 bits that is two whole bytes by one permutation; any other takes two. So a window of 32 bits that begins at a state (one
// funnel shift) serves a later one too where that begins 8 or 16 bits on (16 state bits) or 15 (17): at 2 and 3 bits 1.3 and 1.5
// instructions a state.
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "async_copy.cuh"
#include "trellis_code.cuh"

namespace trellis {

constexpr int kSteps = 32;  // of a lane: two rows of a tile

// The state of L bits that starts at bit D of a word.
template <int L, int D>
__device__ __forceinline__ uint32_t state_at(uint32_t word) {
  static_assert(D >= 0 && D + L <= 32);
  if constexpr (D + L == 32) {
    return word >> D;
  } else if constexpr (D == 0) {
    return word & ((1u << L) - 1);
  } else if constexpr (L == 16) {
    constexpr int up = D % 8 ? 8 - D % 8 : 0;  // to a whole byte: D and D + 8 share the multiply
    const uint32_t moved = up ? scaled(word, 1u << up) : word;
    constexpr int byte = (D + up) / 8;
    return __byte_perm(moved, 0, 0x4400 | (byte + 1) << 4 | byte);
  } else {
    return scaled(word, 1u << (32 - L - D)) >> (32 - L);
  }
}

// Where a lane's states are, and the windows that they are cut out of.
template <int Q>
struct Run {
  static constexpr int L = state_bits(Q);
  static constexpr bool kAligned = Q % 4 == 0;     // a lane's own bits begin at a word
  static constexpr int kBefore = kAligned ? 32 : 16;  // bits in front of them that belong to it
  static constexpr int kWords = (kBefore + 8 * Q + 31) / 32;
  static constexpr int kRaw = kAligned ? kWords : (24 + kBefore + 8 * Q + 31) / 32;  // aligned words that hold those
  int begin[kSteps + kWords]{};  // first bits of windows: the words, then those that take a funnel shift
  int windows = kWords;
  int window[kSteps]{};          // which one a state is cut out of

  static constexpr int at(int step) { return kBefore + (step + 1) * Q / 4 - L; }  // the first bit of a state
  static constexpr bool one_cut(int from) { return from == 0 || from + L == 32 || (L == 16 && from > 0 && from < 16 && from % 8 == 0); }

  constexpr Run() {
    for (int i = 0; i < kWords; ++i) begin[i] = 32 * i;
    for (int j = 0; j < kSteps; ++j) {
      int found = -1;
      for (int i = 0; i < windows && found < 0; ++i)
        if (one_cut(at(j) - begin[i])) found = i;
      if (found < 0) {
        bool shared = at(j) % 32 + L > 32;  // across words: there is no other way
        for (int later = j + 1; later < kSteps; ++later) shared = shared || one_cut(at(later) - at(j));
        if (shared) begin[found = windows++] = at(j);
        else found = at(j) / 32;
      }
      window[j] = found;
    }
  }
};

static_assert(Run<8>::at(0) == 32 + 2 - 16 && Run<8>::at(31) == 32 + 64 - 16);
static_assert(Run<13>::at(3) == 16 + 13 - 16 && Run<13>::kWords == 4 && Run<13>::kRaw == 5);

// The first byte of a lane's words in the tile, and by how many bits its own are moved.
__host__ __device__ constexpr int run_byte(int quarters, int g) { return g * quarters - (quarters % 4 == 0 ? 4 : 2); }

template <int Q>
struct LaneDecoder {
  using R = Run<Q>;
  static constexpr R kRun{};
  static constexpr int kTile = 8 * Q, kUnit = 4 * kTile;  // bytes
  static constexpr int kRaw = R::kRaw, kWords = R::kWords;
  int first, rest, last;  // bytes of the unit: of the first word, which may stand at the tile's end; of the second; of the last
  uint32_t shift;

  // Tiles of 64 and 128 bytes lie in shared memory with bits of a byte's place flipped, so that lanes of the same g read other
  // banks: without, two and four of them meet. Lane l copies pieces of tile 16 l / (8 Q) of every 512 bytes.
  __device__ static int flipped(int tile) { return Q == 8 ? tile % 4 / 2 * 32 : Q == 16 ? tile % 4 * 32 : 0; }
  __device__ static int flipped_of_lane(int lane) { return flipped(lane * 16 / kTile); }

  // Where: in shared memory tiles are flipped.
  __device__ LaneDecoder(int lane, bool in_shared) {
    const int byte = run_byte(Q, lane / 4), tile = lane % 4, flip = in_shared ? flipped(tile) : 0;
    const int word = byte < 0 ? -4 : byte & ~3;
    first = tile * kTile + ((word < 0 ? kTile - 4 : word) ^ flip);
    rest = tile * kTile + ((word + 4) ^ flip);
    last = tile * kTile + (min(word + 4 * (kRaw - 1), kTile - 4) ^ flip);
    shift = (byte & 3) * 8;
    known(first), known(rest);
    if constexpr (!R::kAligned) known(last), known(shift);
  }

  template <class At>
  __device__ __forceinline__ void read(At unit, uint32_t (&raw)[kRaw]) const {
    raw[0] = load_word(unit + first);
    if constexpr (Q == 8 || Q == 16) {
      load_words<kRaw - 1>(unit + rest, raw + 1);
    } else {
#pragma unroll
      for (int i = 1; i < kRaw; ++i) raw[i] = load_word(i < kRaw - 1 || R::kAligned ? unit + rest + 4 * (i - 1) : unit + last);
    }
  }

  // each(j, hash) in order, hash: multiplier x state j mod 2^32, whose four signed bytes sum to the weight's value.
  template <class Each>
  __device__ __forceinline__ void decode(const uint32_t (&raw)[kRaw], uint32_t multiplier, Each each) const {
    uint32_t windows[kRun.windows];
#pragma unroll
    for (int i = 0; i < kWords; ++i) windows[i] = R::kAligned ? raw[i] : __funnelshift_r(raw[i], i + 1 < kRaw ? raw[i + 1] : 0, shift);
    from<0, kWords>(windows, multiplier, each);
  }

 private:
  // Made: windows that are there.
  template <int J, int Made, class Each>
  __device__ __forceinline__ void from(uint32_t (&windows)[kRun.windows], uint32_t multiplier, Each each) const {
    if constexpr (J < kSteps) {
      constexpr int w = kRun.window[J], begin = kRun.begin[w];
      if constexpr (w >= Made) {
        static_assert(w == Made && begin % 32 != 0);
        windows[w] = __funnelshift_r(windows[begin / 32], windows[begin / 32 + 1 < kWords ? begin / 32 + 1 : begin / 32], begin % 32);
      }
      each(J, state_at<R::L, R::at(J) - begin>(windows[w]) * multiplier);
      from<J + 1, (w >= Made ? w + 1 : Made)>(windows, multiplier, each);
    }
  }
};

}  // namespace trellis
