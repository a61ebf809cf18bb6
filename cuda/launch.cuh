// Launches in a chain: the kernel may begin while the one before it ends, up to its wait_for_previous_kernel().
#pragma once
#include <cuda_runtime.h>

constexpr int kHalfOfAnSm = 233472 / 2 - 1024;  // bytes of shared memory of a block where two share an SM

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
