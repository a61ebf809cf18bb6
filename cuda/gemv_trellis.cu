// y = x W^T from the packed codes of the computed trellis code: batch 1 to 8, one pass over the weights.
//
// The four signed bytes whose sum is a weight's value are four 8-bit operands of an integer matrix instruction
// (m16n8k32, s8 x s8 -> s32) in which the weight's activation stands four times: a weight costs its extraction from the
// stream and one multiply, nothing else. Activations are 8-bit too: x = scale (hi + lo / 254), hi and lo in columns of
// their own (up to batch 4: 16 bits in effect), or hi alone (batch 5 to 8: 8 bits).
//
// Layout (docs/format.md): a tile of 16 x 16 weights is a stream of 8 Q bytes; lane l of a warp owns the steps 8 l .. 8 l +
// 7, which are the rows g, g + 8 and columns 4 q .. 4 q + 3 of the tile (g = l / 4, q = l % 4) just as the instruction wants
// them. A strip of 16 rows is contiguous. A block owns some strips and each of its warps an equal part of their tiles,
// across strips, which it streams into shared memory by bulk copies, kStages ahead, the first before it waits for the
// kernel that makes x. Sums meet in shared memory as integers, so that their order does not matter.
//
// Bound: Q / 32 bytes a weight from memory. Counted: 27 instructions for 8 weights at 2 bits, 30 at 3 bits, half of them
// on the 16-lane integer pipe, so 27 to 32 clocks of an SM quarter for 8 x 32 weights; measured 55 to 61 (EXPERIMENTS.md
// says what was tried). 1 block of 16 warps on an SM.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "async_copy.cuh"
#include "trellis_code.cuh"

struct GemvParams {
  const uint8_t* codes;      // (rows / 16, columns / 16, 8 Q)
  const __half* row_scale;   // (rows)
  const void* x;             // (batch, columns)
  void* y;                   // (batch, rows)
  int rows, columns, batch;
  uint32_t multiplier;
  float unit;                // 1 / (147.8 gain): what a value of 1 stands for
};

namespace {

using trellis::shift_at;
using trellis::state_bits;

constexpr int kWarps = 16;
constexpr int kStages = 3;
constexpr int kStageTiles = QUARTERS <= 16 ? 16 : 8;  // 1 to 2 KB; a stage costs 30 clocks whatever its size
constexpr int kHeld = 4;  // 16-byte pieces of x that a thread keeps in registers: 16384 columns

// v x factor by a multiply instruction, also where factor is a power of two.
__device__ __forceinline__ uint32_t scaled(uint32_t v, uint32_t factor) {
  uint32_t result;
  asm("mul.lo.u32 %0, %1, %2;" : "=r"(result) : "r"(v), "r"(factor));
  return result;
}

// Bits from the first state of a lane to its state j.
constexpr int state_offset(int quarters, int j) {
  int bits = 0;
  for (int i = 1; i <= j; ++i) bits += shift_at(quarters, i);
  return bits;
}

// The state that starts D bits into the 64-bit window hi:lo. Shifts and masks share a 16-lane pipe, multiplies have
// another: every second state is moved to the top by a multiply and down again by a shift, in place of shift and mask.
template <int L, int D, bool ByMultiply>
__device__ __forceinline__ uint32_t state_at(uint32_t lo, uint32_t hi) {
  if constexpr (L == 16 && D < 24) {  // two whole bytes of a word that other states share
    const uint32_t word = D % 8 ? __funnelshift_r(lo, hi, D % 8) : lo;
    return __byte_perm(word, 0, 0x4400 | (D / 8 + 1) << 4 | D / 8);
  } else if constexpr (D + L == 32) {
    return lo >> D;
  } else if constexpr (D + L < 32) {
    return ByMultiply ? scaled(lo, 1u << (32 - L - D)) >> (32 - L) : lo >> D & ((1u << L) - 1);
  } else if constexpr (D < 32) {
    return __funnelshift_r(lo, hi, D) & ((1u << L) - 1);
  } else {
    return ByMultiply ? scaled(hi, 1u << (64 - L - D)) >> (32 - L) : hi >> (D - 32) & ((1u << L) - 1);
  }
}

template <int Q, int J = 0>
__device__ __forceinline__ void decode(uint32_t lo, uint32_t hi, uint32_t multiplier, uint32_t (&a)[8]) {
  if constexpr (J < 8) {
    a[J] = state_at<state_bits(Q), state_offset(Q, J), J % 2 == 1>(lo, hi) * multiplier;
    decode<Q, J + 1>(lo, hi, multiplier, a);
  }
}

// Whether the window of every lane, wherever it starts in a word, ends within two words.
constexpr bool two_words(int quarters) {
  const int bits = 2 * quarters - shift_at(quarters, 0) + state_bits(quarters);
  for (int lane = 0; lane < 32; ++lane)
    if ((2 * quarters * lane + shift_at(quarters, 0) - state_bits(quarters) + 64 * quarters) % 32 + bits > 64) return false;
  return true;
}

__device__ __forceinline__ void mma_s8(int (&d)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ __half from_float(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float(float v) { return __float2bfloat16_rn(v); }

// Activations in shared memory, for every tile, column n of the instruction and q. Fine: hi and lo of batch b in columns
// 2 b and 2 b + 1; else hi in column b. Spread (batch 1): four words of four equal bytes, ready as operands; else one word
// with a byte for each of the four weights, which the reader spreads.
template <bool Fine, bool Spread, class T>
__device__ void prepare(const GemvParams& p, uint32_t* operands, float* scales, float* room) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pieces = p.columns / 8;
  constexpr int threads = kWarps * 32;
  constexpr float kMagic = 12582912.f;  // 1.5 x 2^23: adding it leaves the nearest integer in the low bits
  for (int b = 0; b < p.batch; ++b) {
    const uint4* x = reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + static_cast<int64_t>(b) * p.columns);
    uint4 held[kHeld];
    float most = 0.f;
    auto take = [&](const uint4& piece) {
      const T* v = reinterpret_cast<const T*>(&piece);
#pragma unroll
      for (int c = 0; c < 8; ++c) most = fmaxf(most, fabsf(to_float(v[c])));
    };
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = threadIdx.x + h * threads;
      held[h] = i < pieces ? x[i] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int h = 0; h < kHeld; ++h) take(held[h]);
    for (int i = threadIdx.x + kHeld * threads; i < pieces; i += threads) take(x[i]);
    for (int far = 16; far; far >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, far));
    if (lane == 0) room[b * kWarps + warp] = most;
    __syncthreads();
    most = room[b * kWarps + lane % kWarps];
    for (int far = kWarps / 2; far; far >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, far));
    const float inverse = most > 0.f ? 127.f / most : 0.f;
    if (threadIdx.x == 0) scales[b] = most / 127.f;
    auto put = [&](int i, const uint4& piece) {
      const T* v = reinterpret_cast<const T*>(&piece);
      uint32_t hi[8], lo[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float value = to_float(v[c]) * inverse;
        const float near = value + kMagic;
        hi[c] = __float_as_uint(near);
        lo[c] = __float_as_uint((value - (near - kMagic)) * 254.f + kMagic);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int quad = 2 * i + half, tile = quad / 4, q = quad % 4;
        const uint32_t* u = hi + 4 * half;
        const uint32_t* w = lo + 4 * half;
        if constexpr (Spread) {
          uint4* at = reinterpret_cast<uint4*>(operands) + tile * 8 + q;
          at[0] = make_uint4(__byte_perm(u[0], 0, 0), __byte_perm(u[1], 0, 0), __byte_perm(u[2], 0, 0), __byte_perm(u[3], 0, 0));
          at[4] = make_uint4(__byte_perm(w[0], 0, 0), __byte_perm(w[1], 0, 0), __byte_perm(w[2], 0, 0), __byte_perm(w[3], 0, 0));
        } else {
          uint32_t* at = operands + (tile * 8 + (Fine ? 2 * b : b)) * 4 + q;
          at[0] = __byte_perm(__byte_perm(u[0], u[1], 0x0040), __byte_perm(u[2], u[3], 0x0040), 0x5410);
          if constexpr (Fine) at[4] = __byte_perm(__byte_perm(w[0], w[1], 0x0040), __byte_perm(w[2], w[3], 0x0040), 0x5410);
        }
      }
    };
#pragma unroll
    for (int h = 0; h < kHeld; ++h)
      if (const int i = threadIdx.x + h * threads; i < pieces) put(i, held[h]);
    for (int i = threadIdx.x + kHeld * threads; i < pieces; i += threads) put(i, x[i]);
  }
  __syncthreads();
}

template <int Q, bool Fine, bool Spread, class T>
__global__ void __launch_bounds__(kWarps * 32) gemv(GemvParams p) {
  constexpr int kTile = 8 * Q, L = state_bits(Q), kColumns = Spread ? 2 : 8;
  constexpr int kStage = kStageTiles * kTile;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ __align__(8) uint64_t full[kWarps][kStages];
  __shared__ float scales[8], room[8 * kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tiles = p.columns / 16, strips = p.rows / 16;
  uint8_t* ring = shared + warp * kStages * kStage;
  uint32_t* operands = reinterpret_cast<uint32_t*>(shared + kWarps * kStages * kStage);
  int* sums = reinterpret_cast<int*>(operands + p.columns * 2);  // (strips of this block, 16, kColumns)

  // This block's strips are contiguous, and so is the part of each warp: whole pairs of tiles, across strips.
  const int first_strip = static_cast<int64_t>(strips) * blockIdx.x / gridDim.x;
  const int own = static_cast<int>(static_cast<int64_t>(strips) * (blockIdx.x + 1) / gridDim.x) - first_strip;
  const int pairs = own * tiles / 2;
  const int begin = 2 * (pairs * warp / kWarps), end = 2 * (pairs * (warp + 1) / kWarps);
  const uint8_t* from = p.codes + (static_cast<int64_t>(first_strip) * tiles + begin) * kTile;
  int left = end - begin, issue_slot = 0;
  auto issue = [&]() {
    if (left > 0) {
      const int bytes = min(kStageTiles, left) * kTile;
      if (lane == 0) {
        expect_bytes(&full[warp][issue_slot], bytes);
        copy_async(ring + issue_slot * kStage, from, bytes, &full[warp][issue_slot]);
      }
      from += kStage, left -= kStageTiles;
      issue_slot = issue_slot + 1 == kStages ? 0 : issue_slot + 1;
    }
  };
  if (lane == 0) {
    for (int s = 0; s < kStages; ++s) init_barrier(&full[warp][s]);
    fence_barrier_init();
  }
  __syncwarp();
  for (int s = 0; s < kStages; ++s) issue();
  for (int i = threadIdx.x; i < own * 16 * kColumns; i += kWarps * 32) sums[i] = 0;
  launch_dependents();
  wait_for_previous_kernel();
  prepare<Fine, Spread, T>(p, operands, scales, room);

  // Where this lane's window lies in a tile: two or three words, cyclic, and the bits to shift out.
  const int start = 2 * Q * lane + shift_at(Q, 0) - L + kTile * 8;
  const int word = start / 32, shift = start % 32;
  const int at0 = word % (kTile / 4) * 4, at1 = (word + 1) % (kTile / 4) * 4, at2 = (word + 2) % (kTile / 4) * 4;
  const int g = lane / 4, q = lane % 4;
  // columns of the instruction without a batch hold anything: nobody reads their sums
  const uint32_t* mine = operands + (Spread ? g % 2 * 16 + q * 4 : g * 4 + q);
  int acc[4] = {0, 0, 0, 0};
  int strip = begin / tiles, column = begin % tiles, slot = 0, phase = 0;
  for (int tile = begin; tile < end;) {
    wait_barrier(&full[warp][slot], phase);
    const uint8_t* stream = ring + slot * kStage;
    for (const int stop = min(tile + kStageTiles, end); tile < stop;) {
      const int here = min(stop - tile, tiles - column);
      const uint32_t* operand = mine + column * 32;
#pragma unroll 8
      for (int t = 0; t < here; ++t, stream += kTile, operand += 32) {
        uint4 b;
        if constexpr (Spread) {
          b = *reinterpret_cast<const uint4*>(operand);
        } else {
          const uint32_t packed = *operand;
          b = make_uint4(__byte_perm(packed, 0, 0x0000), __byte_perm(packed, 0, 0x1111),
                         __byte_perm(packed, 0, 0x2222), __byte_perm(packed, 0, 0x3333));
        }
        const uint32_t w0 = *reinterpret_cast<const uint32_t*>(stream + at0);
        const uint32_t w1 = *reinterpret_cast<const uint32_t*>(stream + at1);
        const uint32_t w2 = two_words(Q) ? 0 : *reinterpret_cast<const uint32_t*>(stream + at2);
        uint32_t a[8];
        decode<Q>(__funnelshift_r(w0, w1, shift), two_words(Q) ? w1 >> shift : __funnelshift_r(w1, w2, shift), p.multiplier, a);
        mma_s8(acc, a, b.x, b.y);
        mma_s8(acc, a + 4, b.z, b.w);
      }
      tile += here, column += here;
      if (column == tiles || tile == end) {  // integers: the order in which warps add does not matter
        if (2 * q < kColumns) {
          int* to = sums + (strip * 16 + g) * kColumns + 2 * q;
          atomicAdd(to, acc[0]), atomicAdd(to + 1, acc[1]);
          atomicAdd(to + 8 * kColumns, acc[2]), atomicAdd(to + 8 * kColumns + 1, acc[3]);
        }
        acc[0] = acc[1] = acc[2] = acc[3] = 0;
        column = 0, ++strip;
      }
    }
    __syncwarp();
    issue();
    if (++slot == kStages) slot = 0, phase ^= 1;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < own * 16 * p.batch; i += kWarps * 32) {
    const int row = i / p.batch, b = i % p.batch;
    const int* sum = sums + row * kColumns;
    const float value = Fine ? sum[2 * b] + sum[2 * b + 1] * (1.f / 254.f) : sum[b];
    const float scale = __half2float(p.row_scale[first_strip * 16 + row]) * p.unit * scales[b];
    static_cast<T*>(p.y)[static_cast<int64_t>(b) * p.rows + first_strip * 16 + row] = from_float<T>(value * scale);
  }
}

template <int Q, bool Fine, bool Spread, class T>
int launch(const GemvParams& p, int processors, cudaStream_t stream) {
  const int blocks = min(p.rows / 16, processors), own = (p.rows / 16 + blocks - 1) / blocks;
  const int bytes = kWarps * kStages * kStageTiles * 8 * Q + p.columns * 8 + own * 16 * (Spread ? 2 : 8) * 4;
  const auto kernel = gemv<Q, Fine, Spread, T>;
  if (cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return e;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(kWarps * 32);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, p);
}

}  // namespace

// rows: a multiple of 16; columns: of 32; batch 1 to 8. Returns a cudaError_t.
extern "C" int gemv_trellis(const GemvParams* p, int bfloat16, int processors, cudaStream_t stream) {
#define GO(fine, spread) \
  (bfloat16 ? launch<QUARTERS, fine, spread, __nv_bfloat16>(*p, processors, stream) \
            : launch<QUARTERS, fine, spread, __half>(*p, processors, stream))
  if (p->batch == 1) return GO(true, true);
  return p->batch <= 4 ? GO(true, false) : GO(false, false);
#undef GO
}
