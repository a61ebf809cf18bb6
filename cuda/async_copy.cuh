// Copies into shared memory ahead of use, addresses there, and the hand-over between kernels of a chain: one instruction each.
#pragma once
#include <cstdint>

#include "card.cuh"

// An address in shared memory that the compiler keeps as it is: of a pointer it works out the block's window again and again.
using SharedAt = uint32_t;
__device__ __forceinline__ SharedAt shared_at(const void* p) {
  SharedAt at = static_cast<SharedAt>(__cvta_generic_to_shared(p));
  asm volatile("" : "+r"(at));
  return at;
}

// A word, or two, or four, from shared memory or anywhere else.
__device__ __forceinline__ uint32_t load_word(SharedAt at) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ uint2 load_two(SharedAt at) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ uint4 load_four(SharedAt at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t load_word(const uint8_t* at) { return *reinterpret_cast<const uint32_t*>(at); }
__device__ __forceinline__ uint2 load_two(const uint8_t* at) { return *reinterpret_cast<const uint2*>(at); }
__device__ __forceinline__ uint4 load_four(const uint8_t* at) { return *reinterpret_cast<const uint4*>(at); }

// Words in a row, aligned to as many where that is 2 or a multiple of 4 (then to 4).
template <int Words, class At>
__device__ __forceinline__ void load_words(At at, uint32_t* to) {
  if constexpr (Words % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Words; i += 4) {
      const uint4 v = load_four(at + 4 * i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else if constexpr (Words == 2) {
    const uint2 v = load_two(at);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < Words; ++i) to[i] = load_word(at + 4 * i);
  }
}

// 16 bytes, both addresses aligned to 16, past the first cache.
__device__ __forceinline__ void copy16(SharedAt to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy16(void* to, const void* from) {
  copy16(static_cast<SharedAt>(__cvta_generic_to_shared(to)), from);
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `Pending` of this thread's groups are on their way; other lanes' need a __syncwarp after it.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Programmatic dependent launch: the next kernel may start its prologue; this one waits for all of the kernel before it.
__device__ __forceinline__ void launch_dependents() {
  if constexpr (kOverlaps) asm volatile("griddepcontrol.launch_dependents;");
}
__device__ __forceinline__ void wait_for_previous_kernel() {
  if constexpr (kOverlaps) asm volatile("griddepcontrol.wait;" ::: "memory");
}
