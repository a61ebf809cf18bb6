// Where the codes of two neighbouring weights are, for one lane of a warp: streams of tiles (tcq) and rows of codes
// (vq, nuq).
//
// A unit is 16 rows x 64 columns, four products of 16 x 16 x 8. Which column of a product a lane's weights stand for
// is free as long as x agrees: lane (g, q) = (lane / 4, lane % 4) has the columns 16 q .. 16 q + 15 of the unit in
// two rows, that is 16 codes that lie next to each other, and 32 bytes of each x. Product m takes codes 2 m and 2 m +
// 1 of both rows.
//
// A class of codes gives: where the unit's bytes lie in a ring slot (kItemTiles tiles of 16 columns, copied by
// `issue`), the aligned words that a lane reads, and the place of each code in them, known at compile time:
//   word_at(row i, code j) / 32 is the word, % 32 the bit.
#pragma once
#include <cstdint>

#include "arithmetic.cuh"
#include "async_copy.cuh"

namespace table {

constexpr int largest(int a, int b) { return a > b ? a : b; }
constexpr int words_of(int bits) { return (bits + 31) / 32; }

// The words of a lane's window that starts at bit `shift` of raw[0], moved to bit 0.
template <int Raw, int Words>
__device__ __forceinline__ void align(const uint32_t (&raw)[Raw], uint32_t shift, uint32_t* window) {
#pragma unroll
  for (int i = 0; i < Words; ++i) window[i] = __funnelshift_r(raw[i], i + 1 < Raw ? raw[i + 1 < Raw ? i + 1 : i] : 0, shift);
}

// K: new bits a step, L: state bits; Half: of columns of two rates, whose strips are too short for long items. A tile is 128
// steps and 16 K bytes; lane (g, q) has rows 2 g, 2 g + 1 of tile q of the unit: steps 16 g .. 16 g + 15, whose states begin
// at the cyclic bit 16 K g + K - L. For even K all lanes' windows begin at the same bit of a word.
template <int K, int L, bool Half = false>
struct TileCodes {
  static constexpr int kStateBits = L, kTile = 16 * K;
  static constexpr uint32_t kItemTiles = K <= 4 || (K < 8 && !Half) ? 16 : 8;
  static constexpr int kUnit = 4 * kTile, kItemBytes = kItemTiles * kTile, kSlot = kItemBytes, kBeside = 1;
  static constexpr bool kRows = false, kPartial = true;  // a unit may have two tiles only

  static constexpr int kFirst = K - L;  // bit of the first state of lane 0, 0 or less
  static constexpr bool kEven = K % 2 == 0;
  static constexpr int kShift = (kFirst + 32) % 32;  // of lanes with even g; with odd K others begin 16 bits on
  static constexpr int kSpan = 15 * K + L;
  static constexpr int kMostShift = kEven ? kShift : largest(kShift, (kShift + 16) % 32);
  static constexpr int kRaw = words_of(kMostShift + kSpan), kWords = kEven ? kRaw : words_of(kSpan);
  static constexpr int word_at(int row, int code) { return (kEven ? kShift : 0) + K * (8 * row + code); }
  __device__ static uint32_t row(uint32_t lane, uint32_t i) { return lane / 4 * 2 + i; }
  static_assert(kFirst <= 0 && kFirst > -32);

  // Tiles of 64 and 128 bytes lie in the ring with bits of a byte's place flipped, so that lanes with the same g read other
  // banks: without, two and four of them meet.
  __device__ static uint32_t flipped(uint32_t tile) { return K == 4 ? tile % 4 / 2 * 32 : K == 8 ? tile % 4 * 32 : 0; }

  static constexpr int ring(int slots) { return slots * kSlot; }
  __device__ static uint32_t step() { return kSlot; }

  uint32_t first, rest;  // bytes of the unit: the word that the window begins in, and the word after it
  uint32_t to;           // where the piece of an item that a lane copies first goes
  uint32_t shift;

  __device__ TileCodes(uint32_t lane, uint32_t) {
    // Bits and words are counted from the word before the tile.
    const uint32_t g = lane / 4, bit = 16 * K * g + static_cast<uint32_t>(kFirst + 32), tile = lane % 4, word = bit / 32;
    first = tile * kTile + ((word ? 4 * word - 4 : kTile - 4) ^ flipped(tile));
    rest = tile * kTile + (4 * word ^ flipped(tile));
    shift = bit % 32;
    to = lane * 16 ^ flipped(lane / K);
    known(first), known(rest);
  }

  __device__ __forceinline__ void read(const uint8_t* unit, uint32_t (&window)[kWords]) const {
    uint32_t raw[kRaw];
    raw[0] = load_word(unit + first);
    if constexpr (kEven && kFirst < 0 && K % 4 == 0) {
      load_words<kRaw - 1>(unit + rest, raw + 1);
    } else {
#pragma unroll
      for (int i = 1; i < kRaw; ++i) raw[i] = load_word(unit + rest + 4 * (i - 1));
    }
    if constexpr (kEven) {
#pragma unroll
      for (int i = 0; i < kRaw; ++i) window[i] = raw[i];
    } else {
      align<kRaw, kWords>(raw, shift, window);
    }
  }

  __host__ __device__ static uint32_t strip_bytes(uint32_t columns) { return columns / 16 * kTile; }

  // Bytes of a strip: what a lane copies first of the tiles from `tile` on.
  __device__ __forceinline__ uint32_t source(uint32_t tile, uint32_t lane) const { return tile * kTile + lane * 16; }

  __device__ __forceinline__ void issue(const uint8_t* slot, const uint8_t* from, uint32_t tiles, uint32_t lane) const {
    const SharedAt into = shared_at(slot + to);
    if (tiles == kItemTiles) {
#pragma unroll
      for (uint32_t i = 0; i < kItemBytes; i += 512)
        if (i + 512 <= kItemBytes || static_cast<int>(lane * 16) < kItemBytes % 512) copy16(into + i, from + i);
    } else {
#pragma unroll 1
      for (uint32_t i = 0; i + lane * 16 < tiles * kTile; i += 512) copy16(into + i, from + i);
    }
  }
};

// B: bits of the code of two weights. A row is columns B / 16 bytes without gaps, so that rows begin at multiples of
// 4 bytes: copies begin at the multiple of 16 before, and lanes know by how much. Lane (g, q) has rows g, g + 8 of a
// unit and the bits 8 B q .. of it.
template <int B>
struct RowCodes {
  static constexpr uint32_t kItemTiles = B > 8 && B % 2 == 0 ? 8 : 16;
  static constexpr int kUnit = 4 * B, kItemBytes = kItemTiles * B;  // of a row
  static constexpr bool kWhole = B % 4 == 0;          // rows begin at multiples of 16 bytes, lanes' windows at words
  static constexpr int kPieces = kItemTiles * B / 16 + !kWhole;
  // Pieces from row to row in the ring: lanes with the same q then read other banks.
  static constexpr int kSpread = B == 16 ? 4 : B >= 8 ? 2 : 1;
  // Of 6 and 8 bits the slots of the ring lie beside each other. Of 6 an item of 96 bytes is behind the next where rows begin at
  // multiples of 16: then each piece has the place in its 32 bytes that it has in memory, which rows 112 bytes apart have not. Of 8
  // the ring is 11 % smaller: two blocks have room on an SM, or the next kernel's beside this one's.
  static constexpr int kBeside = B == 6 ? 3 : B == 8 ? 2 : 1;
  static constexpr int kRow = kBeside > 1 ? ((kBeside * 16 * kPieces + 31) / 32 | 1) * 32
                                          : 16 * ((kPieces + kSpread - 1) / (2 * kSpread) * (2 * kSpread) + kSpread);
  static constexpr int kSlot = 16 * kRow / kBeside / 16 * 16;
  static constexpr int ring(int slots) { return kBeside > 1 ? (15 * kRow + kBeside * 16 * kPieces + 31) / 32 * 32 : slots * kSlot; }
  static constexpr int kAcross = kPieces > 4 ? 8 : 4;  // lanes that copy neighbouring pieces of a row: few rows at once are few lines
  static constexpr bool kRows = true, kPartial = false;
  static constexpr int kMostShift = kWhole ? 0 : B % 2 ? 24 : 16;
  static constexpr int kRaw = words_of(kMostShift + 8 * B), kRowWords = words_of(8 * B), kWords = 2 * kRowWords;
  static constexpr int word_at(int row, int code) { return 32 * kRowWords * row + B * code; }
  __device__ static uint32_t row(uint32_t lane, uint32_t i) { return lane / 4 + 8 * i; }
  static_assert(kRow >= 16 * kPieces && kItemBytes % 16 == 0);
  static_assert(!(B == 6) || (kRaw == 2 && kRowWords == 2));

  // Of 6 bits two words hold a lane's window, which begins at the third byte for odd q. Rows are an odd number of 8 words apart, so
  // that g and g + 4 read the same 8 banks: words 0, 2, 3, 5 of them where the later word is first for odd q, and 1, 1, 4, 4 where it
  // is for even q. With the one order for g < 4 and the other for the rest none meet; two permutations make the window of either.
  static constexpr bool kSwapped = B == 6;

  // Bytes of the unit: the first word of a lane's window in row g, where swapped the other of two. Row g + 8 is as late as g.
  uint32_t at, other;
  uint32_t bytes;  // of a row
  uint32_t to;     // where the piece of an item that a lane copies first goes
  uint32_t shift, order[2];

  __device__ static uint32_t late(uint32_t row, uint32_t bytes) { return kWhole ? 0 : row * bytes % 16; }

  __device__ RowCodes(uint32_t lane, uint32_t strip_bytes) : bytes(strip_bytes / 16) {
    const uint32_t q = lane % 4;
    at = lane / 4 * kRow + late(lane / 4, bytes) + B * q / 4 * 4;
    const uint32_t later = (q ^ lane / 16) % 2;  // first
    if constexpr (kSwapped) other = at + 4 - later * 4, at += later * 4, known(other);
    known(at);
    shift = 8 * (B * q % 4);
    order[0] = (q % 2 ? 0x5432 : 0x3210) ^ later * 0x4444, order[1] = (q % 2 ? 0x7676 : 0x7654) ^ later * 0x4444;
    to = lane / kAcross * kRow + lane % kAcross * 16;
  }

  // From slot to slot.
  __device__ uint32_t step() const { return kBeside == 1 ? kSlot : bytes % 16 ? 16 * kPieces : kItemBytes; }

  __device__ __forceinline__ void read(const uint8_t* unit, uint32_t (&window)[kWords]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t raw[kRaw];
      if constexpr (kWhole) {
        load_words<kRaw>(unit + i * (8 * kRow) + at, window + i * kRowWords);
      } else if constexpr (kSwapped) {
        const uint32_t first = load_word(unit + i * (8 * kRow) + at);
        const uint32_t second = load_word(unit + i * (8 * kRow) + other);
        window[i * kRowWords] = __byte_perm(first, second, order[0]);
        window[i * kRowWords + 1] = __byte_perm(first, second, order[1]);
      } else {
#pragma unroll
        for (int w = 0; w < kRaw; ++w) raw[w] = load_word(unit + i * (8 * kRow) + at + 4 * w);
        align<kRaw, kRowWords>(raw, shift, window + i * kRowWords);
      }
    }
  }

  __host__ __device__ static uint32_t strip_bytes(uint32_t columns) { return columns * B; }

  // Bytes of a strip: the row that a lane copies first, from `tile` on.
  __device__ __forceinline__ uint32_t source(uint32_t tile, uint32_t lane) const {
    return lane / kAcross * bytes + tile * B + lane % kAcross * 16;
  }

  __device__ __forceinline__ void issue(const uint8_t* slot, const uint8_t* from, uint32_t tiles, uint32_t lane) const {
    const uint32_t mine = lane % kAcross * 16;
    const SharedAt into = shared_at(slot + to);
    if (kWhole || bytes % 16 == 0) {
#pragma unroll
      for (uint32_t i = 0; i < 16; i += 32 / kAcross, from += 32 / kAcross * bytes)
#pragma unroll
        for (uint32_t c = 0; c < kItemBytes; c += 16 * kAcross)
          if (c + mine < tiles * B) copy16(into + i * kRow + c, from + c);
    } else {
#pragma unroll 1
      for (uint32_t i = 0; i < 16; i += 32 / kAcross, from += 32 / kAcross * bytes) {
        const uint32_t behind = reinterpret_cast<uintptr_t>(from) % 16;
#pragma unroll 1
        for (uint32_t c = 0; c + mine < tiles * B + behind; c += 16 * kAcross) copy16(into + i * kRow + c, from - behind + c);
      }
    }
  }
};

}  // namespace table
