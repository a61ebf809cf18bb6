// The codes and the table of the family that a library is built for.
//   STEP_BITS, STATE_BITS, HALF: tcq-STEP_BITS/2, or with HALF half-tcq: STEP_BITS new bits a step in the first part of the
//   columns, one more in the second
//   STEP_BITS, STATE_BITS, COMPUTED: trellis2-STEP_BITS/2
//   INDEX_BITS: vq-INDEX_BITS/2, and nuq-INDEX_BITS/2 by pairs of levels or, with LEVELS, level by level
#pragma once
#include "card.cuh"
#include "table_codes.cuh"
#include "table_lookup.cuh"

#ifndef TABLE_BYTES
#define TABLE_BYTES (kLeast ? 32768 : kLess ? 65536 : 131072)  // at most of a block's shared memory
#endif

namespace table {

#ifdef STEP_BITS  // tcq-STEP_BITS/2, or half-tcq with one bit more in the second part
using First = TileCodes<STEP_BITS, STATE_BITS, HALF != 0>;
using Second = TileCodes<STEP_BITS + HALF, STATE_BITS, HALF != 0>;
#if COMPUTED
using Table = Computed<STATE_BITS>;
#elif STATE_BITS == 16
constexpr int kMostStep = STEP_BITS + HALF, kEntryBits = kMostStep > 8 ? kMostStep + 1 : 9;
using Table = Hashed<kEntryBits, copies_of(kEntryBits, TABLE_BYTES)>;
#else
using Table = Indexed<STATE_BITS, copies_of(STATE_BITS, TABLE_BYTES)>;
#endif
#else  // vq-INDEX_BITS/2, nuq-INDEX_BITS/2
using First = RowCodes<INDEX_BITS>;
using Second = First;
#if LEVELS
using Table = Levels<INDEX_BITS / 2, 32>;
#else
using Table = Indexed<INDEX_BITS, copies_of(INDEX_BITS, INDEX_BITS > 10 ? (TABLE_BYTES) / 2 : TABLE_BYTES)>;
#endif
#endif

}  // namespace table
