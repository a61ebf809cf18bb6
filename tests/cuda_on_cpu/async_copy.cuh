// What cuda/async_copy.cuh does, in plain C++: copies arrive at the wait for them, or at once with `early_copies`. An address that
// is not aligned as the instruction wants ends the process, as it ends a kernel.
#pragma once
#include "cuda_runtime.h"

using SharedAt = const uint8_t*;
inline SharedAt shared_at(const void* p) { return static_cast<SharedAt>(p); }
inline void aligned(const void* at, int bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes) std::fprintf(stderr, "address %p is no multiple of %d\n", at, bytes), std::abort();
}
inline uint32_t load_word(const uint8_t* at) { return aligned(at, 4), *reinterpret_cast<const uint32_t*>(at); }
inline uint2 load_two(const uint8_t* at) { return aligned(at, 8), *reinterpret_cast<const uint2*>(at); }
inline uint4 load_four(const uint8_t* at) { return aligned(at, 16), *reinterpret_cast<const uint4*>(at); }
template <int Words>
inline void load_words(const uint8_t* at, uint32_t* to) {
  if (Words % 4 == 0 || Words == 2) aligned(at, Words == 2 ? 8 : 16);
  for (int i = 0; i < Words; ++i) to[i] = load_word(at + 4 * i);
}

inline void copy16(const void* into, const void* from) {
  void* to = const_cast<void*>(into);
  aligned(to, 16), aligned(from, 16);
  if (emulated::early_copies) {
    std::memcpy(to, from, 16);
  } else {
    emulated::thread->open.push_back({to, from, 16});
  }
}
inline void commit_copies() {
  emulated::thread->groups.push_back(std::move(emulated::thread->open));
  emulated::thread->open.clear();
}
template <int Pending>
inline void wait_copies() {
  auto& groups = emulated::thread->groups;
  for (; groups.size() > Pending; groups.pop_front())
    for (const auto& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
}
inline void launch_dependents() {}
inline void wait_for_previous_kernel() {}
