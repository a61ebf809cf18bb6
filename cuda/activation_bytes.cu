// Activations as bytes (activation_bytes.cuh) where no rotation makes them so: a block of threads a row, one scale a row.
//
// Bound: latency; x is read twice, the second time from near.
#include <cuda_runtime.h>

#include "activation_bytes.cuh"
#include "async_copy.cuh"
#include "launch.cuh"

struct BytesParams {
  const void* x;   // (batch, columns)
  uint8_t* bytes;  // (batch, parts, form columns)
  float* scales;   // (batch)
  int batch, columns;
};

namespace {

constexpr int kThreads = 512;

template <class T, Form F, int Parts>
__global__ void __launch_bounds__(kThreads) convert(const BytesParams p) {
  __shared__ uint32_t room[kThreads / 32];
  launch_dependents();
  wait_for_previous_kernel();
  const int b = blockIdx.x, pieces = p.columns / 8;
  const uint4* row = reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + static_cast<int64_t>(b) * p.columns);
  auto piece = [&](int i, float (&c)[8 * F]) {
    const uint4 raw = row[i];
    float x[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = to_float(reinterpret_cast<const T*>(&raw)[k]);
    components<F>(x, c);
  };
  float most = 0.f, c[8 * F];
  for (int i = threadIdx.x; i < pieces; i += kThreads) piece(i, c), most = fmaxf(most, largest_of(c));
  const float limit = largest_of_block<kThreads / 32>(most, room), inverse = limit > 0.f ? 127.f / limit : 0.f;
  if (threadIdx.x == 0) p.scales[b] = limit / 127.f;
  const int64_t pitch = F * p.columns;
  for (int i = threadIdx.x; i < pieces; i += kThreads) {
    uint32_t words[Parts][2 * F];
    piece(i, c), bytes_of<Parts>(c, inverse, words);
    write_words(words, p.bytes + b * Parts * pitch + 8 * F * i, pitch);
  }
}

template <class T, Form F>
int launch(const BytesParams& p, int parts, cudaStream_t stream) {
  return launch_overlapped(parts == 2 ? convert<T, F, 2> : convert<T, F, 1>, p.batch, kThreads, 0, stream, p);
}

template <class T>
int launch(const BytesParams& p, int form, int parts, cudaStream_t stream) {
  return form == kPairs ? launch<T, kPairs>(p, parts, stream) : launch<T, kSingles>(p, parts, stream);
}

}  // namespace

// columns: a multiple of 64; form: components of a column; parts: 1 or 2. Returns a cudaError_t.
extern "C" int activation_bytes(const BytesParams* p, int form, int parts, int bfloat16, cudaStream_t stream) {
  return bfloat16 ? launch<__nv_bfloat16>(*p, form, parts, stream) : launch<__half>(*p, form, parts, stream);
}
