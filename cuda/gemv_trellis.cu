// y = x W^T from the packed codes of the computed trellis code: batch 1 to 8, one pass over the weights.
//
// The four signed bytes whose sum is a weight's value are four 8-bit operands of an integer matrix instruction
// (m16n8k32, s8 x s8 -> s32) in which the weight's activation stands four times: a weight costs its extraction from the
// stream and one multiply, nothing else. Activations are 8-bit too: x = scale (hi + lo / 254), hi and lo in columns of
// their own (up to batch 4: 16 bits in effect), or hi alone (batch 5 to 8: 8 bits).
//
// Layout (docs/format.md): a tile of 16 x 16 weights is a stream of 8 Q bytes; lane l of a warp owns the steps 8 l .. 8 l +
// 7, which are the rows g, g + 8 and columns 4 q .. 4 q + 3 of the tile (g = l / 4, q = l % 4) just as the instruction wants
// them. A strip of 16 rows is contiguous. A block takes strips in turn, its warps split K; every warp streams its own part
// into shared memory by bulk copies, kStages ahead and across strips, the first before it waits for the kernel that
// makes x.
//
// Bound: Q / 32 bytes a weight from memory; about 2 (Q = 8: 1.4) integer operations on the 16-lane pipe and 1 multiply
// on the other, 4 (2.8) clocks a weight and warp on an SM quarter: at 3 bits 3.6 clocks of memory time.
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

// S strips of 16 rows at a time share the activations that a warp loads.
template <int Q, bool Fine, bool Spread, int S, class T>
__global__ void __launch_bounds__(kWarps * 32) gemv(GemvParams p) {
  constexpr int kTile = 8 * Q, L = state_bits(Q);
  constexpr int kStageTiles = (Q <= 16 ? 16 : 8) / S;  // 2 KB at 2 to 4 bits
  constexpr int kStage = S * kStageTiles * kTile;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ __align__(8) uint64_t full[kWarps][kStages];
  __shared__ float scales[8], room[8 * kWarps], partial[2][kWarps][Fine ? 4 : 8][16 * S];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint8_t* ring = shared + warp * kStages * kStage;
  uint32_t* operands = reinterpret_cast<uint32_t*>(shared + kWarps * kStages * kStage);

  // This warp's part of every strip, in pairs of tiles: bulk copies are multiples of 16 bytes.
  const int tiles = p.columns / 16, pairs = tiles / 2;
  const int first = 2 * (pairs * warp / kWarps), count = 2 * (pairs * (warp + 1) / kWarps) - first;
  const int stages = (count + kStageTiles - 1) / kStageTiles;
  const int groups = p.rows / (16 * S);
  const int total = (groups - static_cast<int>(blockIdx.x) + gridDim.x - 1) / gridDim.x * stages;
  int issued_group = blockIdx.x, issued_stage = 0, issued = 0, issue_slot = 0;
  auto issue = [&]() {
    if (issued < total) {
      const int tile = issued_stage * kStageTiles, bytes = min(kStageTiles, count - tile) * kTile;
      if (lane == 0) {
        const uint8_t* from = p.codes + (static_cast<int64_t>(issued_group) * S * tiles + first + tile) * kTile;
        expect_bytes(&full[warp][issue_slot], S * bytes);
        for (int s = 0; s < S; ++s)
          copy_async(ring + issue_slot * kStage + s * kStageTiles * kTile, from + static_cast<int64_t>(s) * tiles * kTile, bytes,
                     &full[warp][issue_slot]);
      }
      if (++issued_stage == stages) issued_stage = 0, issued_group += gridDim.x;
    }
    ++issued;
    issue_slot = issue_slot + 1 == kStages ? 0 : issue_slot + 1;
  };
  if (lane == 0) {
    for (int s = 0; s < kStages; ++s) init_barrier(&full[warp][s]);
    fence_barrier_init();
  }
  __syncwarp();
  for (int s = 0; s < kStages; ++s) issue();
  launch_dependents();
  wait_for_previous_kernel();
  prepare<Fine, Spread, T>(p, operands, scales, room);

  // Where this lane's window lies in a tile: two or three words, cyclic, and the bits to shift out.
  const int start = 2 * Q * lane + shift_at(Q, 0) - L + kTile * 8;
  const int word = start / 32, shift = start % 32;
  const int at0 = word % (kTile / 4) * 4, at1 = (word + 1) % (kTile / 4) * 4, at2 = (word + 2) % (kTile / 4) * 4;
  const int g = lane / 4, q = lane % 4;
  // columns without a batch hold anything: nobody reads their sums
  const uint32_t* mine = operands + (Spread ? (first * 2 + g % 2) * 16 + q * 4 : (first * 8 + g) * 4 + q);
  int slot = 0, phase = 0;
  for (int group = blockIdx.x, round = 0; group < groups; group += gridDim.x, ++round) {
    int sums[S][4] = {};
    const uint32_t* operand = mine;
    for (int stage = 0; stage < stages; ++stage) {
      const int here = min(kStageTiles, count - stage * kStageTiles);
      wait_barrier(&full[warp][slot], phase);
      const uint8_t* stream = ring + slot * kStage;
#pragma unroll 2
      for (int t = 0; t < here; ++t, stream += kTile, operand += 32) {
        uint4 b;
        if constexpr (Spread) {
          b = *reinterpret_cast<const uint4*>(operand);
        } else {
          const uint32_t packed = *operand;
          b = make_uint4(__byte_perm(packed, 0, 0x0000), __byte_perm(packed, 0, 0x1111),
                         __byte_perm(packed, 0, 0x2222), __byte_perm(packed, 0, 0x3333));
        }
#pragma unroll
        for (int s = 0; s < S; ++s) {
          const uint8_t* from = stream + s * kStageTiles * kTile;
          const uint32_t w0 = *reinterpret_cast<const uint32_t*>(from + at0);
          const uint32_t w1 = *reinterpret_cast<const uint32_t*>(from + at1);
          const uint32_t w2 = two_words(Q) ? 0 : *reinterpret_cast<const uint32_t*>(from + at2);
          uint32_t a[8];
          decode<Q>(__funnelshift_r(w0, w1, shift), two_words(Q) ? w1 >> shift : __funnelshift_r(w1, w2, shift), p.multiplier, a);
          mma_s8(sums[s], a, b.x, b.y);
          mma_s8(sums[s], a + 4, b.z, b.w);
        }
      }
      __syncwarp();
      issue();
      if (++slot == kStages) slot = 0, phase ^= 1;
    }
    // Column 2 q and 2 q + 1 of rows g and g + 8: hi and lo of batch q, or batches 2 q and 2 q + 1.
    auto out = partial[round % 2][warp];
#pragma unroll
    for (int s = 0; s < S; ++s) {
      const int row = 16 * s + g;
      if constexpr (Fine) {
        if (q < p.batch) {
          out[q][row] = sums[s][0] + sums[s][1] * (1.f / 254.f);
          out[q][row + 8] = sums[s][2] + sums[s][3] * (1.f / 254.f);
        }
      } else {
        out[2 * q][row] = sums[s][0], out[2 * q + 1][row] = sums[s][1];
        out[2 * q][row + 8] = sums[s][2], out[2 * q + 1][row + 8] = sums[s][3];
      }
    }
    __syncthreads();
    if (const int b = threadIdx.x / (16 * S), row = threadIdx.x % (16 * S); b < p.batch) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += partial[round % 2][w][b][row];
      const float scale = __half2float(p.row_scale[group * 16 * S + row]) * p.unit * scales[b];
      static_cast<T*>(p.y)[static_cast<int64_t>(b) * p.rows + group * 16 * S + row] = from_float<T>(sum * scale);
    }
  }
}

template <int Q, bool Fine, bool Spread, int S, class T>
int launch(const GemvParams& p, int blocks, cudaStream_t stream) {
  const int ring = kWarps * kStages * (Q <= 16 ? 16 : 8) * 8 * Q;
  const int bytes = ring + p.columns * 8;
  const auto kernel = gemv<Q, Fine, Spread, S, T>;
  if (cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return e;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(min(p.rows / (16 * S), blocks));
  config.blockDim = dim3(kWarps * 32);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, p);
}

}  // namespace

// rows: a multiple of 16 x strips; columns: of 32; batch 1 to 8; strips: 1 or 2 at a time. Returns a cudaError_t.
extern "C" int gemv_trellis(const GemvParams* p, int bfloat16, int strips, int blocks, cudaStream_t stream) {
#define GO(fine, spread, strips) \
  (bfloat16 ? launch<QUARTERS, fine, spread, strips, __nv_bfloat16>(*p, blocks, stream) \
            : launch<QUARTERS, fine, spread, strips, __half>(*p, blocks, stream))
  if (p->batch == 1) return strips == 1 ? GO(true, true, 1) : GO(true, true, 2);
  if (p->batch <= 4) return strips == 1 ? GO(true, false, 1) : GO(true, false, 2);
  return strips == 1 ? GO(false, false, 1) : GO(false, false, 2);
#undef GO
}
