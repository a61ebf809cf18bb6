// The memory limit that every other kernel is held against: a plain read, 16 bytes a thread, nothing kept.
#include <cstdint>
#include <cuda_runtime.h>

namespace {

__global__ void __launch_bounds__(512) read(const uint4* from, int64_t count, uint32_t* never) {
  uint32_t all = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    const uint4 a = from[i], b = from[i + stride], c = from[i + 2 * stride], d = from[i + 3 * stride];
    all |= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < count; i += stride) all |= from[i].x ^ from[i].y ^ from[i].z ^ from[i].w;
  if (all == 0x9e3779b9) *never = all;  // keeps the loads
}

}  // namespace

// Reads `bytes` (a multiple of 16). Returns a cudaError_t.
extern "C" int read_limit(const void* from, int64_t bytes, uint32_t* never, int processors, cudaStream_t stream) {
  read<<<processors * 4, 512, 0, stream>>>(static_cast<const uint4*>(from), bytes / 16, never);
  return cudaGetLastError();
}
