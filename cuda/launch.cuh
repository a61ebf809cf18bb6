// Launches in a chain: the kernel may begin while the one before it ends, up to its wait_for_previous_kernel().
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

// Bytes of shared memory: of a block at most, with what the system keeps; of one of two that share an SM; of one that has an SM to
// itself. Between rotations blocks of the next product that find no room beside a rotation's would pile up on another SM.
constexpr int kMostShared = 232448, kSystem = 1024, kHalfOfAnSm = 233472 / 2 - kSystem, kAlone = kMostShared / 2 + kSystem;

// Columns of a scale are a power of two: how many scales a row of x has.
__host__ __device__ constexpr int segments_of(int columns, int segment_bits) { return (columns + (1 << segment_bits) - 1) >> segment_bits; }

__host__ __device__ constexpr int log2_above(int v) { return v <= 1 ? 0 : 1 + log2_above((v + 1) / 2); }

// A division of small numbers by 2 or more: exact while numerator x divisor < 2^32.
struct Divisor {
  uint32_t reciprocal;
  __host__ __device__ explicit Divisor(uint32_t by) : reciprocal(0xFFFFFFFFu / by + 1) {}
  __device__ __forceinline__ uint32_t operator()(uint32_t numerator) const { return __umulhi(numerator, reciprocal); }
};

// Returns a cudaError_t. shared: bytes of dynamic shared memory.
template <class... Parameters, class... Arguments>
int launch_overlapped(void (*kernel)(Parameters...), int blocks, int threads, int shared, cudaStream_t stream, Arguments... arguments) {
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
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
