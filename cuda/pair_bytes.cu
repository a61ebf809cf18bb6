// Activations as bytes (pair_bytes.cuh) where no rotation makes them so: a block of threads a row, one scale a row.
//
// Bound: latency; x is read twice, the second time from near.
#include <cuda_runtime.h>

#include "async_copy.cuh"
#include "launch.cuh"
#include "pair_bytes.cuh"

struct PairBytesParams {
  const void* x;   // (batch, columns)
  uint8_t* bytes;  // (batch, parts, 2 columns)
  float* scales;   // (batch)
  int batch, columns;
};

namespace {

constexpr int kThreads = 512;

template <class T, int Parts>
__global__ void __launch_bounds__(kThreads) convert(const PairBytesParams p) {
  __shared__ uint32_t room[kThreads / 32];
  launch_dependents();
  wait_for_previous_kernel();
  const int b = blockIdx.x, pieces = p.columns / 8;
  const uint4* row = reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + static_cast<int64_t>(b) * p.columns);
  auto piece = [&](int i, float (&c)[16]) {
    const uint4 raw = row[i];
    float x[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = to_float(reinterpret_cast<const T*>(&raw)[k]);
    components(x, c);
  };
  float most = 0.f, c[16];
  for (int i = threadIdx.x; i < pieces; i += kThreads) piece(i, c), most = fmaxf(most, largest_of(c));
  const float limit = largest_of_block<kThreads / 32>(most, room), inverse = limit > 0.f ? 127.f / limit : 0.f;
  if (threadIdx.x == 0) p.scales[b] = limit / 127.f;
  for (int i = threadIdx.x; i < pieces; i += kThreads) {
    uint32_t words[Parts][4];
    piece(i, c), bytes_of<Parts>(c, inverse, words);
#pragma unroll
    for (int part = 0; part < Parts; ++part)
      reinterpret_cast<uint4*>(p.bytes + static_cast<int64_t>(b * Parts + part) * 2 * p.columns)[i] =
          make_uint4(words[part][0], words[part][1], words[part][2], words[part][3]);
  }
}

template <class T>
int launch(const PairBytesParams& p, int parts, cudaStream_t stream) {
  return launch_overlapped(parts == 2 ? convert<T, 2> : convert<T, 1>, p.batch, kThreads, 0, stream, p);
}

}  // namespace

// columns: a multiple of 64; parts: 1 or 2. Returns a cudaError_t.
extern "C" int pair_bytes(const PairBytesParams* p, int parts, int bfloat16, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, parts, stream) : launch<__half>(*p, parts, stream);
}
