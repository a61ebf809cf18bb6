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

constexpr int kStageTiles = 8;
constexpr int kStages = 4;

// Bits from the first state of a lane to its state j.
constexpr int state_offset(int quarters, int j) {
  int bits = 0;
  for (int i = 1; i <= j; ++i) bits += shift_at(quarters, i);
  return bits;
}

// The state that starts d bits into the 64-bit window hi:lo.
template <int L, int D>
__device__ __forceinline__ uint32_t state_at(uint32_t lo, uint32_t hi) {
  if constexpr (L == 16 && D < 24) {  // two whole bytes of a word that other states share
    const uint32_t word = D % 8 ? __funnelshift_r(lo, hi, D % 8) : lo;
    return __byte_perm(word, 0, 0x4400 | (D / 8 + 1) << 4 | D / 8);
  } else if constexpr (D + L <= 32) {
    return lo >> D & ((1u << L) - 1);
  } else if constexpr (D < 32) {
    return __funnelshift_r(lo, hi, D) & ((1u << L) - 1);
  } else {
    return hi >> (D - 32) & ((1u << L) - 1);
  }
}

template <int Q, int J = 0>
__device__ __forceinline__ void decode(uint32_t lo, uint32_t hi, uint32_t multiplier, uint32_t (&a)[8]) {
  if constexpr (J < 8) {
    a[J] = state_at<state_bits(Q), state_offset(Q, J)>(lo, hi) * multiplier;
    decode<Q, J + 1>(lo, hi, multiplier, a);
  }
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
  const T* x = static_cast<const T*>(p.x);
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int b = 0; b < p.batch; ++b) {
    float most = 0.f;
    for (int i = threadIdx.x; i < p.columns / 4; i += blockDim.x) {
      const uint2 raw = reinterpret_cast<const uint2*>(x + static_cast<int64_t>(b) * p.columns)[i];
      const T* v = reinterpret_cast<const T*>(&raw);
#pragma unroll
      for (int c = 0; c < 4; ++c) most = fmaxf(most, fabsf(to_float(v[c])));
    }
    for (int lane = 16; lane; lane >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, lane));
    if (threadIdx.x % 32 == 0) room[b * 32 + warp] = most;
  }
  __syncthreads();
  for (int b = 0; b < p.batch; ++b) {
    float most = 0.f;
    for (int w = 0; w < warps; ++w) most = fmaxf(most, room[b * 32 + w]);
    const float inverse = most > 0.f ? 127.f / most : 0.f;
    if (threadIdx.x == 0) scales[b] = most / 127.f;
    for (int i = threadIdx.x; i < p.columns / 4; i += blockDim.x) {
      const uint2 raw = reinterpret_cast<const uint2*>(x + static_cast<int64_t>(b) * p.columns)[i];
      const T* v = reinterpret_cast<const T*>(&raw);
      const int tile = i / 4, q = i % 4;
      uint32_t hi[4], lo[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float scaled = to_float(v[c]) * inverse;
        const float near = rintf(scaled);
        hi[c] = static_cast<uint32_t>(static_cast<int>(near)) & 255;
        lo[c] = static_cast<uint32_t>(static_cast<int>(rintf((scaled - near) * 254.f))) & 255;
      }
      if constexpr (Spread) {
        uint4* at = reinterpret_cast<uint4*>(operands) + tile * 8 + q;
        at[0] = make_uint4(hi[0] * 0x01010101, hi[1] * 0x01010101, hi[2] * 0x01010101, hi[3] * 0x01010101);
        at[4] = make_uint4(lo[0] * 0x01010101, lo[1] * 0x01010101, lo[2] * 0x01010101, lo[3] * 0x01010101);
      } else {
        uint32_t* at = operands + (tile * 8 + (Fine ? 2 * b : b)) * 4 + q;
        at[0] = hi[0] | hi[1] << 8 | hi[2] << 16 | hi[3] << 24;
        if constexpr (Fine) at[4] = lo[0] | lo[1] << 8 | lo[2] << 16 | lo[3] << 24;
      }
    }
  }
  __syncthreads();
}

template <int Q, bool Fine, bool Spread, int W, class T>
__global__ void __launch_bounds__(W * 32) gemv(GemvParams p) {
  constexpr int kTile = 8 * Q, kStage = kStageTiles * kTile, L = state_bits(Q);
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ __align__(8) uint64_t full[W][kStages];
  __shared__ float scales[8], room[8 * 32], partial[2][W][8][16];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint8_t* ring = shared + warp * kStages * kStage;
  uint32_t* operands = reinterpret_cast<uint32_t*>(shared + W * kStages * kStage);

  // This warp's part of every strip, in pairs of tiles: bulk copies are multiples of 16 bytes.
  const int tiles = p.columns / 16, pairs = tiles / 2;
  const int first = 2 * (pairs * warp / W), count = 2 * (pairs * (warp + 1) / W) - first;
  const int stages = (count + kStageTiles - 1) / kStageTiles;
  const int strips = p.rows / 16;
  const int mine = (strips - static_cast<int>(blockIdx.x) + gridDim.x - 1) / gridDim.x;
  const int total = mine * stages;
  int issued_strip = blockIdx.x, issued_stage = 0, issued = 0;
  auto issue = [&]() {
    if (issued < total) {
      const int slot = issued % kStages, tile = issued_stage * kStageTiles;
      const int bytes = min(kStageTiles, count - tile) * kTile;
      const uint8_t* from = p.codes + (static_cast<int64_t>(issued_strip) * tiles + first + tile) * kTile;
      if (lane == 0) {
        expect_bytes(&full[warp][slot], bytes);
        copy_async(ring + slot * kStage, from, bytes, &full[warp][slot]);
      }
      if (++issued_stage == stages) issued_stage = 0, issued_strip += gridDim.x;
    }
    ++issued;
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

  // Where this lane's window lies in a tile: three words, cyclic, and the bits to shift out.
  const int start = 2 * Q * lane + shift_at(Q, 0) - L + kTile * 8;
  const int word = start / 32, shift = start % 32;
  const int at0 = word % (kTile / 4) * 4, at1 = (word + 1) % (kTile / 4) * 4, at2 = (word + 2) % (kTile / 4) * 4;
  const int g = lane / 4, q = lane % 4;
  const int column = Spread ? g % 2 : g;  // columns without a batch hold anything: nobody reads their sums
  int used = 0;
  for (int strip = blockIdx.x, round = 0; strip < strips; strip += gridDim.x, ++round) {
    int sums[4] = {0, 0, 0, 0};
    for (int stage = 0; stage < stages; ++stage, ++used) {
      const int slot = used % kStages;
      const int here = min(kStageTiles, count - stage * kStageTiles);
      wait_barrier(&full[warp][slot], used / kStages & 1);
      const uint8_t* data = ring + slot * kStage;
      const int tile0 = first + stage * kStageTiles;
#pragma unroll 4
      for (int t = 0; t < here; ++t) {
        const uint8_t* stream = data + t * kTile;
        const uint32_t w0 = *reinterpret_cast<const uint32_t*>(stream + at0);
        const uint32_t w1 = *reinterpret_cast<const uint32_t*>(stream + at1);
        const uint32_t w2 = *reinterpret_cast<const uint32_t*>(stream + at2);
        const uint32_t lo = __funnelshift_r(w0, w1, shift), hi = __funnelshift_r(w1, w2, shift);
        uint32_t a[8];
        decode<Q>(lo, hi, p.multiplier, a);
        uint4 b;
        if constexpr (Spread) {
          b = reinterpret_cast<const uint4*>(operands)[((tile0 + t) * 2 + column) * 4 + q];
        } else {
          const uint32_t packed = operands[((tile0 + t) * 8 + column) * 4 + q];
          b = make_uint4(__byte_perm(packed, 0, 0x0000), __byte_perm(packed, 0, 0x1111),
                         __byte_perm(packed, 0, 0x2222), __byte_perm(packed, 0, 0x3333));
        }
        mma_s8(sums, a, b.x, b.y);
        mma_s8(sums, a + 4, b.z, b.w);
      }
      __syncwarp();
      issue();
    }
    // Column 2 q and 2 q + 1 of rows g and g + 8: hi and lo of batch q, or batches 2 q and 2 q + 1.
    float(*out)[16] = partial[round % 2][warp];
    if constexpr (Fine) {
      if (q < p.batch) {
        out[q][g] = sums[0] + sums[1] * (1.f / 254.f);
        out[q][g + 8] = sums[2] + sums[3] * (1.f / 254.f);
      }
    } else {
      out[2 * q][g] = sums[0], out[2 * q + 1][g] = sums[1];
      out[2 * q][g + 8] = sums[2], out[2 * q + 1][g + 8] = sums[3];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * p.batch; i += W * 32) {
      const int b = i / 16, row = i % 16;
      float sum = 0.f;
      for (int w = 0; w < W; ++w) sum += partial[round % 2][w][b][row];
      const float scale = __half2float(p.row_scale[strip * 16 + row]) * p.unit * scales[b];
      static_cast<T*>(p.y)[static_cast<int64_t>(b) * p.rows + strip * 16 + row] = from_float<T>(sum * scale);
    }
  }
}

template <int Q, bool Fine, bool Spread, int W, class T>
int launch(const GemvParams& p, int blocks_per_sm, int processors, cudaStream_t stream) {
  const int ring = W * kStages * kStageTiles * 8 * Q;
  const int bytes = ring + p.columns * 8;
  if (cudaError_t e = cudaFuncSetAttribute(gemv<Q, Fine, Spread, W, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return e;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(min(p.rows / 16, blocks_per_sm * processors));
  config.blockDim = dim3(W * 32);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, gemv<Q, Fine, Spread, W, T>, p);
}

}  // namespace

// rows: a multiple of 16; columns: of 32; batch 1 to 8. Returns a cudaError_t.
extern "C" int gemv_trellis(const GemvParams* p, int bfloat16, int warps, int blocks_per_sm, int processors, cudaStream_t stream) {
#define GO(fine, spread, w) \
  (bfloat16 ? launch<QUARTERS, fine, spread, w, __nv_bfloat16>(*p, blocks_per_sm, processors, stream) \
            : launch<QUARTERS, fine, spread, w, __half>(*p, blocks_per_sm, processors, stream))
  if (p->batch == 1) return warps == 8 ? GO(true, true, 8) : GO(true, true, 16);
  if (p->batch <= 4) return warps == 8 ? GO(true, false, 8) : GO(true, false, 16);
  return warps == 8 ? GO(false, false, 8) : GO(false, false, 16);
#undef GO
}
