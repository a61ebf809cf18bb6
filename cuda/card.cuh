// What the card has that is built for (quantizers/kernels/build.py). CAPABILITY: ten times its compute capability, 80 (A100) or more;
// MOST_SHARED: bytes of shared memory of a block at most.
#pragma once

#ifndef CAPABILITY
#define CAPABILITY 90
#define MOST_SHARED 232448
#endif

// Kernels of a chain overlap (programmatic dependent launch); before Hopper they follow each other.
constexpr bool kOverlaps = CAPABILITY >= 90;

// Bytes of shared memory: of a block at most; what the system keeps of it; of one of two blocks that share an SM; of one that has an
// SM to itself. Between rotations blocks of the next product that find no room beside a rotation's would pile up on another SM.
constexpr int kMostShared = MOST_SHARED, kSystem = 1024;
constexpr int kHalfOfAnSm = (kMostShared + kSystem) / 2 - kSystem, kAlone = kMostShared / 2 + kSystem;
// Rings and tables are smaller where a block has 163 KB (A100), and smaller again where it has 99 (RTX 30, 40, 50).
constexpr bool kLess = kMostShared < 232448, kLeast = kMostShared < 166912;
