// Tail-biting Viterbi search of the computed trellis code, one tile of 256 weights a thread block at a time.
//
// With k new bits at this step and k' at the next, the least cost of a path whose next step starts from overlap o' is
//
//   A'[o'] = min over j < 2^k' of  A[s mod 2^(L-k)] + (x - value(s))^2,      s = (o' << k') | j
//
// A (2^(L-k) int32) stays in shared memory, in place: a thread forms its results in registers, all meet, all write. Costs
// are exact integers in multiples of 2^kTag; the low kTag bits carry j through the minimum, so that ties go to the
// smallest j. Back-pointers go to global memory, four packed in 8, 16 or 32 bits. As on the CPU (quantizers/trellis), the
// overlap at the seam is chosen by a free pass over `window` steps on either side of it and then held in one full pass.
//
// Bound: 2^L x (hash add, byte dot product, square-and-add, minimum) a step, on two pipes of 64 lanes a clock and SM:
// 2 x 2^L / 64 clocks a weight and SM; 3 KB of back-pointers a weight at 3 bits, a fifth of that time at full bandwidth.
#include <cuda_runtime.h>

#include "arithmetic.cuh"
#include "trellis_code.cuh"

struct EncodeParams {
  const int16_t* source;   // (tiles, 256) in units of the code
  uint8_t* symbols;        // (tiles, 256) new bits of every step
  uint8_t* scratch;        // (blocks, scratch_bytes) back-pointers
  int64_t scratch_bytes;
  int64_t tiles;
  uint32_t multiplier;
  int window;              // steps on either side of the seam in the free pass, a multiple of 4
};

namespace {

using trellis::kBlock;
using trellis::shift_at;

constexpr int kUnreachable = 1 << 30;
// Steps between subtractions of the cost of overlap 0: more than 18, by when every overlap is reached from any seam; a
// step costs the best path at most 192^2 (|x| <= 700, values to 508), 2^6 times that with its tag: 32 steps 2^26.2.
constexpr int kRebase = 32;

constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Bits of the entry that holds the back-pointers of four outputs.
constexpr int entry_bits(int next) { return next <= 2 ? 8 : next <= 4 ? 16 : 32; }
constexpr int pointer_bits(int next) { return entry_bits(next) / 4; }

template <int kBits> struct Word;
template <> struct Word<8> { using type = uint8_t; };
template <> struct Word<16> { using type = uint16_t; };
template <> struct Word<32> { using type = uint32_t; };

// One step: L state bits, K new bits now, N at the next step, T threads.
template <int L, int K, int N, int T, int Tag>
__device__ __noinline__ void step(int* cost, uint8_t* pointers, int x, uint32_t multiplier) {
  constexpr int kHighs = smaller(4, 1 << K);                 // outputs of a unit: they read the same costs
  constexpr int kUnits = 1 << (L - N) >> (kHighs == 4 ? 2 : 1);
  constexpr int kEach = kUnits >= T ? kUnits / T : 1;
  constexpr int kLows = 1 << (L - K - N);
  constexpr int kScale = 0x01010101 << (Tag / 2);
  constexpr int kTagMask = (1 << Tag) - 1;
  int out[kEach][kHighs];
  const int centre = -(x << (Tag / 2));
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int unit = threadIdx.x + e * T;
    if (kUnits >= T || unit < kUnits) {
      const int low = unit & (kLows - 1);
      const int group = unit / kLows;
      const uint32_t state = static_cast<uint32_t>(group * kHighs) << (L - K) | low << N;
      const int* before = cost + (low << N);
      uint32_t bytes[kHighs];
#pragma unroll
      for (int h = 0; h < kHighs; ++h) {
        bytes[h] = (state + (h << (L - K))) * multiplier;
        out[e][h] = 0x7fffffff;
      }
#pragma unroll
      for (int j = 0; j < 1 << N; ++j) {
        const int start = before[j] | j;
#pragma unroll
        for (int h = 0; h < kHighs; ++h) {
          const int t = __dp4a(static_cast<int>(bytes[h]), kScale, centre);
          out[e][h] = min(out[e][h], t * t + start);
          add(bytes[h], multiplier);
        }
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int unit = threadIdx.x + e * T;
    if (kUnits >= T || unit < kUnits) {
      const int low = unit & (kLows - 1);
      const int group = unit / kLows;
      using Entry = typename Word<entry_bits(N)>::type;
      uint32_t entry = 0;
#pragma unroll
      for (int h = 0; h < kHighs; ++h) {
        entry |= static_cast<uint32_t>(out[e][h] & kTagMask) << (h * pointer_bits(N));
        cost[(group * kHighs + h) * kLows + low] = out[e][h] & ~kTagMask;
      }
      reinterpret_cast<Entry*>(pointers)[unit] = static_cast<Entry>(entry);
    }
  }
  __syncthreads();
}

template <int L, int Q> constexpr int pointer_bytes() {
  constexpr int k = Q / 4, m = (Q + 3) / 4;
  constexpr int a = (1 << (L - k)) / smaller(4, 1 << k) * entry_bits(k) / 8;
  constexpr int b = (1 << (L - m)) / smaller(4, 1 << k) * entry_bits(m) / 8;
  return a > b ? a : b;
}

template <int L, int Q, int T>
__device__ void forward(int* cost, uint8_t* pointers, const int16_t* x, int first, int steps, const EncodeParams& p) {
  constexpr int k = Q / 4, m = (Q + 3) / 4, tag = m <= 4 ? 4 : 6;
  for (int i = 0; i < steps; ++i) {
    const int t = (first + i) & (kBlock - 1);
    uint8_t* here = pointers + static_cast<int64_t>(i) * pointer_bytes<L, Q>();
    const int now = shift_at(Q, t), next = shift_at(Q, t + 1);
    if (i % kRebase == 0 && i > 0) {  // differences decide: the common part would run over on hostile points
      const int base = cost[0];
      __syncthreads();
      for (int o = threadIdx.x; o < 1 << (L - now); o += T) cost[o] -= base;
      __syncthreads();
    }
    if (k == m || (now == k && next == k)) step<L, k, k, T, tag>(cost, here, x[t], p.multiplier);
    else if (now == k) step<L, k, m, T, tag>(cost, here, x[t], p.multiplier);
    else if (next == k) step<L, m, k, T, tag>(cost, here, x[t], p.multiplier);
    else step<L, m, m, T, tag>(cost, here, x[t], p.multiplier);
  }
}

// The state of step t on the best path to the overlap after it.
template <int L>
__device__ int last_state(const uint8_t* pointers, int overlap, int now, int next) {
  const int highs = smaller(4, 1 << now);
  const int low_bits = L - now - next;
  const int high = overlap >> low_bits;
  const int unit = (high / highs << low_bits) | (overlap & ((1 << low_bits) - 1));
  const int bits = pointer_bits(next), at = high % highs * bits;
  const uint32_t entry = bits == 2   ? pointers[unit]
                         : bits == 4 ? reinterpret_cast<const uint16_t*>(pointers)[unit]
                                     : reinterpret_cast<const uint32_t*>(pointers)[unit];
  return overlap << next | (entry >> at & ((1u << next) - 1));
}

template <int L, int Q, int T>
__global__ void __launch_bounds__(T, 1024 / T) encode(EncodeParams p) {
  extern __shared__ int cost[];
  __shared__ int16_t x[kBlock];
  __shared__ uint8_t found[kBlock];
  __shared__ int best[T / 32], place[T / 32];
  __shared__ int seam;
  constexpr int first_bits = L - shift_at(Q, 0);
  uint8_t* pointers = p.scratch + blockIdx.x * p.scratch_bytes;
  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    for (int i = threadIdx.x; i < kBlock; i += T) x[i] = p.source[tile * kBlock + i];
    for (int i = threadIdx.x; i < 1 << (L - Q / 4); i += T) cost[i] = 0;
    __syncthreads();
    forward<L, Q, T>(cost, pointers, x, kBlock - p.window, 2 * p.window, p);
    // the cheapest end, the smallest overlap of equals
    int least = 0x7fffffff, at = 0;
    for (int i = threadIdx.x; i < 1 << first_bits; i += T)
      if (cost[i] < least) least = cost[i], at = i;
    for (int lane = 16; lane; lane >>= 1) {
      const int other = __shfl_down_sync(~0u, least, lane), spot = __shfl_down_sync(~0u, at, lane);
      if (other < least || (other == least && spot < at)) least = other, at = spot;
    }
    if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = least, place[threadIdx.x / 32] = at;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < T / 32; ++w)
        if (best[w] < least || (best[w] == least && place[w] < at)) least = best[w], at = place[w];
      for (int i = p.window - 1; i >= 0; --i) {
        const uint8_t* here = pointers + static_cast<int64_t>(p.window + i) * pointer_bytes<L, Q>();
        at = last_state<L>(here, at, shift_at(Q, i), shift_at(Q, i + 1)) & ((1 << (L - shift_at(Q, i))) - 1);
      }
      seam = at;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 1 << first_bits; i += T) cost[i] = i == seam ? 0 : kUnreachable;
    __syncthreads();
    forward<L, Q, T>(cost, pointers, x, 0, kBlock, p);
    if (threadIdx.x == 0) {
      int overlap = seam;
      for (int t = kBlock - 1; t >= 0; --t) {
        const uint8_t* here = pointers + static_cast<int64_t>(t) * pointer_bytes<L, Q>();
        const int now = shift_at(Q, t);
        const int state = last_state<L>(here, overlap, now, shift_at(Q, t + 1));
        found[t] = static_cast<uint8_t>(state >> (L - now));
        overlap = state & ((1 << (L - now)) - 1);
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kBlock; i += T) p.symbols[tile * kBlock + i] = found[i];
    __syncthreads();
  }
}

template <int L, int Q, int T>
int launch(const EncodeParams& given, int blocks, bool dry, int64_t* scratch, cudaStream_t stream) {
  EncodeParams p = given;
  const int bytes = (1 << (L - Q / 4)) * 4;
  *scratch = static_cast<int64_t>(pointer_bytes<L, Q>()) * (kBlock > 2 * p.window ? kBlock : 2 * p.window);
  if (dry) return 0;
  p.scratch_bytes = *scratch;
  if (cudaError_t e = cudaFuncSetAttribute(encode<L, Q, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return e;
  encode<L, Q, T><<<blocks, T, bytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

// `dry`: only say the scratch bytes of a block. Returns a cudaError_t, or -1 for a rate without an instance.
extern "C" int encode_trellis(const EncodeParams* p, int quarters, int blocks, int dry, int64_t* scratch, cudaStream_t stream) {
  switch (quarters) {
#define RATE(q, t) case q: return launch<trellis::state_bits(q), q, t>(*p, blocks, dry, scratch, stream);
#ifdef QUARTERS
    RATE(QUARTERS, THREADS)
#else
    RATE(5, 1024) RATE(6, 1024) RATE(7, 1024)
    RATE(8, 512) RATE(9, 512) RATE(10, 512) RATE(11, 1024)
    RATE(12, 512) RATE(13, 512) RATE(14, 512) RATE(15, 512)
    RATE(16, 512) RATE(17, 512) RATE(18, 512) RATE(19, 512)
    RATE(20, 512) RATE(21, 512) RATE(22, 512) RATE(23, 512) RATE(24, 512)
#endif
#undef RATE
    default: return -1;
  }
}
