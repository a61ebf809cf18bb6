// From the code of two neighbouring weights to the two of them, half precision, in one word: tables in shared memory.
//
// A warp looks up 32 random entries at once. With one copy of the table some bank gets 3.5 of them on average, and
// the lookups alone take longer than memory does. So each entry stands `Copies` times next to itself, one for each
// lane where that is 32: then no two lanes meet in a bank. The index is moved to the bit of the entry's size (most
// often by the one shift that cuts it out), so that an address is one logic operation, (index & mask) | copy.
//
// Each table gives operand(low, high): the pair of weights of the code that begins at bit `At` of two words of the
// stream.
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "trellis_decode.cuh"

namespace table {

constexpr int log2_of(int v) { return v == 1 ? 0 : 1 + log2_of(v / 2); }

// The bits of high:low from At on, moved to bit `To`; what is below and above them is noise.
template <int At, int To, int Bits>
__device__ __forceinline__ uint32_t moved(uint32_t low, uint32_t high) {
  static_assert(At >= 0 && At < 32 && To + Bits <= 32);
  if constexpr (At + Bits <= 32) {
    return At >= To ? low >> (At - To) : low << (To - At);
  } else {
    static_assert(At >= To);
    return __funnelshift_r(low, high, At - To);
  }
}

template <int EntryBits, int Copies>
struct Entries {
  static constexpr int kCount = 1 << EntryBits, kCopies = Copies, kBytes = kCount * Copies * 4;
  static constexpr int kIndexAt = 2 + log2_of(Copies);
  static constexpr uint32_t kMask = (kCount - 1u) << kIndexAt;
  const uint8_t* entries;
  uint32_t copy;
  __device__ Entries(const uint8_t* entries, uint32_t lane, uint32_t)
      : entries(entries), copy(Copies == 32 ? lane * 4 : lane % Copies * 4) {}
  __device__ __forceinline__ uint32_t entry(uint32_t index) const {
    return *reinterpret_cast<const uint32_t*>(entries + ((index & kMask) | copy));
  }
};

// vq, tcq of less than 16 state bits, nuq of up to 5 bits as pairs: the code is the index.
template <int Bits, int Copies>
struct Indexed : Entries<Bits, Copies> {
  using Base = Entries<Bits, Copies>;
  using Base::Base;
  template <int At>
  __device__ __forceinline__ uint32_t operand(uint32_t low, uint32_t high) const {
    return this->entry(moved<At, Base::kIndexAt, Bits>(low, high));
  }
};

// tcq of 16 state bits: h = s (s + 1); bits 15 - e .. 14 of h are the index, bit 15 is the sign of the first weight.
// Only the low 16 bits of h matter, and so of s: no mask.
template <int EntryBits, int Copies>
struct Hashed : Entries<EntryBits, Copies> {
  using Base = Entries<EntryBits, Copies>;
  using Base::Base;
  static constexpr int kUp = Base::kIndexAt - (15 - EntryBits);
  static_assert(kUp >= 0);
  template <int At>
  __device__ __forceinline__ uint32_t operand(uint32_t low, uint32_t high) const {
    const uint32_t state = moved<At, 0, 16>(low, high), h = state * state + state;
    return this->entry(kUp ? scaled(h, 1u << kUp) : h) ^ (h & 0x8000);
  }
};

// nuq of 6 to 8 bits: two lookups of a level.
template <int Bits, int Copies>
struct Levels : Entries<Bits, Copies> {
  using Base = Entries<Bits, Copies>;
  using Base::Base;
  template <int At>
  __device__ __forceinline__ uint32_t operand(uint32_t low, uint32_t high) const {
    const uint32_t first = this->entry(moved<At, Base::kIndexAt, Bits>(low, high));
    constexpr int next = At + Bits;
    const uint32_t second = this->entry(moved<next % 32, Base::kIndexAt, Bits>(next < 32 ? low : high, high));
    return __byte_perm(first, second, 0x5410);
  }
};

// trellis2: no table; the four bytes of multiplier x state are operands as they are (table_activations.cuh).
template <int StateBits>
struct Computed {
  static constexpr int kBytes = 0;
  uint32_t multiplier;
  __device__ Computed(const uint8_t*, uint32_t, uint32_t multiplier) : multiplier(multiplier) {}
  template <int At>
  __device__ __forceinline__ uint32_t operand(uint32_t low, uint32_t high) const {
    if constexpr (At + StateBits <= 32) {
      return trellis::state_at<StateBits, At>(low) * multiplier;
    } else {
      return (__funnelshift_r(low, high, At) & ((1u << StateBits) - 1)) * multiplier;
    }
  }
};

// As many copies as `most` bytes hold, 32 at most.
constexpr int copies_of(int entry_bits, int most) {
  int copies = 32;
  while (copies > 1 && (4 << entry_bits) * copies > most) copies /= 2;
  return copies;
}

}  // namespace table
