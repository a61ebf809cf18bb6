// Launches in a chain: the kernel may begin while the one before it ends, up to its wait_for_previous_kernel().
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "card.cuh"

// Columns of a scale are a power of two: how many scales a row of x has.
__host__ __device__ constexpr int segments_of(int columns, int segment_bits) { return (columns + (1 << segment_bits) - 1) >> segment_bits; }

__host__ __device__ constexpr int log2_above(int v) { return v <= 1 ? 0 : 1 + log2_above((v + 1) / 2); }

// A division of small numbers by 2 or more: exact while numerator x divisor < 2^32.
struct Divisor {
  uint32_t reciprocal;
  __host__ __device__ explicit Divisor(uint32_t by) : reciprocal(0xFFFFFFFFu / by + 1) {}
  __device__ __forceinline__ uint32_t operator()(uint32_t numerator) const { return __umulhi(numerator, reciprocal); }
};

// Returns a cudaError_t. shared: bytes of dynamic shared memory, at most kMostShared.
template <class... Parameters, class... Arguments>
int launch_overlapped(void (*kernel)(Parameters...), int blocks, int threads, int shared, cudaStream_t stream, Arguments... arguments) {
  if (shared > kMostShared) return cudaErrorInvalidValue;
  if (cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared)) return e;
  // All alike: an SM that is set up for less shared memory takes no block of the next kernel before it is idle, and some
  // other SM gets two.
  if (cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared))
    return e;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = kOverlaps;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
