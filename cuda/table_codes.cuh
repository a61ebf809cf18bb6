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

#include "async_copy.cuh"

namespace table {

constexpr int largest(int a, int b) { return a > b ? a : b; }
constexpr int words_of(int bits) { return (bits + 31) / 32; }

// The codes of a matrix, or of those of its columns that have one rate.
struct Matrix {
  const uint8_t* codes;
  int columns;
};

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
  static constexpr int kItemTiles = K <= 4 || (K < 8 && !Half) ? 16 : 8;
  static constexpr int kUnit = 4 * kTile, kItemBytes = kItemTiles * kTile, kSlot = kItemBytes;
  static constexpr bool kRows = false, kPartial = true;  // a unit may have two tiles only

  static constexpr int kFirst = K - L;  // bit of the first state of lane 0, 0 or less
  static constexpr bool kEven = K % 2 == 0;
  static constexpr int kShift = (kFirst + 32) % 32;  // of lanes with even g; with odd K others begin 16 bits on
  static constexpr int kSpan = 15 * K + L;
  static constexpr int kMostShift = kEven ? kShift : largest(kShift, (kShift + 16) % 32);
  static constexpr int kRaw = words_of(kMostShift + kSpan), kWords = kEven ? kRaw : words_of(kSpan);
  static constexpr int word_at(int row, int code) { return (kEven ? kShift : 0) + K * (8 * row + code); }
  __device__ static int row(int lane, int i) { return lane / 4 * 2 + i; }
  static_assert(kFirst <= 0 && kFirst > -32);

  // Tiles of 64 and 128 bytes lie in the ring with bits of a byte's place flipped, so that lanes with the same g read other
  // banks: without, two and four of them meet.
  __device__ static int flipped(int tile) { return K == 4 ? tile % 4 / 2 * 32 : K == 8 ? tile % 4 * 32 : 0; }

  int first, rest;  // bytes of the unit: the word that the window begins in, and the word after it
  int to;           // where the piece of an item that a lane copies first goes
  uint32_t shift;

  __device__ TileCodes(int lane, const Matrix&) {
    const int g = lane / 4, bit = 16 * K * g + kFirst, tile = lane % 4;
    const int word = bit < 0 ? -1 : bit / 32;
    first = tile * kTile + ((word < 0 ? kTile - 4 : 4 * word) ^ flipped(tile));
    rest = tile * kTile + ((4 * word + 4) ^ flipped(tile));
    shift = bit & 31;
    to = lane * 16 ^ flipped(lane / K);
  }

  __device__ __forceinline__ void read(const uint8_t* unit, uint32_t (&window)[kWords]) const {
    uint32_t raw[kRaw];
    raw[0] = *reinterpret_cast<const uint32_t*>(unit + first);
    if constexpr (kEven && kFirst < 0 && K % 4 == 0) {
      load_words<kRaw - 1>(unit + rest, raw + 1);
    } else {
#pragma unroll
      for (int i = 1; i < kRaw; ++i) raw[i] = *reinterpret_cast<const uint32_t*>(unit + rest + 4 * (i - 1));
    }
    if constexpr (kEven) {
#pragma unroll
      for (int i = 0; i < kRaw; ++i) window[i] = raw[i];
    } else {
      align<kRaw, kWords>(raw, shift, window);
    }
  }

  __device__ static int strip_bytes(const Matrix& matrix) { return matrix.columns / 16 * kTile; }

  // What a lane copies first of the tiles of a strip from `tile` on.
  __device__ const uint8_t* source(const Matrix& matrix, int strip, int tile, int lane) const {
    return matrix.codes + static_cast<int64_t>(strip) * strip_bytes(matrix) + tile * kTile + lane * 16;
  }

  __device__ __forceinline__ void issue(uint8_t* slot, const uint8_t* from, int tiles, int lane) const {
#pragma unroll
    for (int i = 0; i < kItemBytes; i += 512)
      if (i + lane * 16 < tiles * kTile) copy16(slot + to + i, from + i);
  }
};

// B: bits of the code of two weights. A row is columns B / 16 bytes without gaps, so that rows begin at multiples of
// 4 bytes: copies begin at the multiple of 16 before, and lanes know by how much. Lane (g, q) has rows g, g + 8 of a
// unit and the bits 8 B q .. of it.
template <int B>
struct RowCodes {
  static constexpr int kItemTiles = B > 8 && B % 2 == 0 ? 8 : 16;
  static constexpr int kUnit = 4 * B, kItemBytes = kItemTiles * B;  // of a row
  static constexpr bool kWhole = B % 4 == 0;          // rows begin at multiples of 16 bytes, lanes' windows at words
  static constexpr int kPieces = kItemTiles * B / 16 + !kWhole;
  // Pieces from row to row in the ring: lanes with the same q then read other banks.
  static constexpr int kSpread = B == 16 ? 4 : B >= 8 ? 2 : 1;
  static constexpr int kRow = 16 * ((kPieces + kSpread - 1) / (2 * kSpread) * (2 * kSpread) + kSpread);
  static constexpr int kSlot = 16 * kRow;
  static constexpr int kAcross = kPieces > 4 ? 8 : 4;  // lanes that copy neighbouring pieces of a row: few rows at once are few lines
  static constexpr bool kRows = true, kPartial = false;
  static constexpr int kMostShift = kWhole ? 0 : B % 2 ? 24 : 16;
  static constexpr int kRaw = words_of(kMostShift + 8 * B), kRowWords = words_of(8 * B), kWords = 2 * kRowWords;
  static constexpr int word_at(int row, int code) { return 32 * kRowWords * row + B * code; }
  __device__ static int row(int lane, int i) { return lane / 4 + 8 * i; }
  static_assert(kRow >= 16 * kPieces && kItemBytes % 16 == 0);
  static_assert(!(B == 6) || (kRaw == 2 && kRowWords == 2));

  // Of 6 bits two words hold a lane's window, which begins at the third byte for odd q. Read in order, lanes of neighbouring rows
  // meet in banks; with the later word first for odd q none do, and two permutations make the window of either.
  static constexpr bool kSwapped = B == 6;

  int at[2];  // bytes of the unit: the first word of a lane's window in each row
  int bytes;  // of a row
  int to;     // where the piece of an item that a lane copies first goes
  uint32_t shift, order[2];

  __device__ static int late(int row, int bytes) { return kWhole ? 0 : row * bytes & 15; }

  __device__ RowCodes(int lane, const Matrix& matrix) : bytes(matrix.columns / 16 * B) {
    const int q = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) at[i] = row(lane, i) * kRow + late(row(lane, i), bytes) + B * q / 4 * 4;
    shift = 8 * (B * q % 4);
    order[0] = q % 2 ? 0x1076 : 0x3210, order[1] = q % 2 ? 0x3232 : 0x7654;
    to = lane / kAcross * kRow + lane % kAcross * 16;
  }

  __device__ __forceinline__ void read(const uint8_t* unit, uint32_t (&window)[kWords]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t raw[kRaw];
      if constexpr (kWhole) {
        load_words<kRaw>(unit + at[i], window + i * kRowWords);
      } else if constexpr (kSwapped) {
        const uint32_t first = *reinterpret_cast<const uint32_t*>(unit + (at[i] + shift / 4));
        const uint32_t other = *reinterpret_cast<const uint32_t*>(unit + (at[i] + 4 - shift / 4));
        window[i * kRowWords] = __byte_perm(first, other, order[0]);
        window[i * kRowWords + 1] = __byte_perm(first, other, order[1]);
      } else {
#pragma unroll
        for (int w = 0; w < kRaw; ++w) raw[w] = *reinterpret_cast<const uint32_t*>(unit + at[i] + 4 * w);
        align<kRaw, kRowWords>(raw, shift, window + i * kRowWords);
      }
    }
  }

  __device__ static int strip_bytes(const Matrix& matrix) { return matrix.columns * B; }

  // The row that a lane copies first, from `tile` on.
  __device__ const uint8_t* source(const Matrix& matrix, int strip, int tile, int lane) const {
    return matrix.codes + (static_cast<int64_t>(strip) * 16 + lane / kAcross) * bytes + tile * B;
  }

  __device__ __forceinline__ void issue(uint8_t* slot, const uint8_t* from, int tiles, int lane) const {
#pragma unroll
    for (int i = 0; i < 16; i += 32 / kAcross) {
      const int behind = late(i + lane / kAcross, bytes), size = tiles * B + behind;
      const uint8_t* piece = from + (i * bytes - behind + lane % kAcross * 16);
#pragma unroll
      for (int c = 0; c < kPieces; c += kAcross)
        if ((c + lane % kAcross) * 16 < size && c + lane % kAcross < kPieces)
          copy16(slot + to + i * kRow + c * 16, piece + c * 16);
    }
  }
};

}  // namespace table
