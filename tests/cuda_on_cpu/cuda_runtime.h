// CUDA kernels as plain C++, for tests of their logic where no GPU is: every thread of a block is a fiber, blocks run one
// after another. What a warp or a block does together (barriers, shuffles, matrix products) waits until all have come.
//
// Bulk copies into shared memory arrive as late as the kernel allows, at the wait for them (or, with `early_copies`, at once),
// and fibers run in order of their threads or, with `backwards`, against it: a kernel that reads before it waits, or writes over
// what another lane has yet to read, gives wrong sums here. Both are set in a loaded library, by `set_order`. Dynamic
// shared memory starts as noise, and ends where the launch says: what a kernel reads or writes behind it is a segmentation fault.
#pragma once
#include "standard.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __maxnreg__(n)
#define __grid_constant__
#define __restrict__
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace emulated {

constexpr int kStack = 1 << 17, kMostWords = 16;
static bool backwards = false, early_copies = false;  // static, not inline: inline ones would be one for all libraries

struct Copy { void* to; const void* from; size_t bytes; };

struct Warp {
  int arrived = 0;
  uint64_t generation = 0;
  uint32_t in[32][kMostWords], out[32][kMostWords];
};

struct Thread {
  ucontext_t start;
  jmp_buf place;
  bool started = false;
  std::unique_ptr<char[]> stack;
  dim3 index;
  int lane = 0, warp = 0;
  bool done = false;
  std::deque<std::vector<Copy>> groups;  // committed copies
  std::vector<Copy> open;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int arrived = 0;
  uint64_t generation = 0, progress = 0;
  jmp_buf scheduler;
  std::function<void()> body;
};

inline Block* block = nullptr;
inline Thread* thread = nullptr;
inline uint8_t* dynamic_shared = nullptr;
inline size_t dynamic_bytes = 0;

// Shared memory of `bytes` in front of a page that nobody may touch.
inline void give_shared(size_t bytes) {
  constexpr size_t room = 1 << 18, page = 1 << 16;
  static uint8_t* const end = [] {
    void* all = mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t* end = static_cast<uint8_t*>(all) + room;
    mprotect(end, page, PROT_NONE);
    return end;
  }();
  dynamic_bytes = (bytes + 15) / 16 * 16, dynamic_shared = end - dynamic_bytes;
}

// A context starts a fiber; after that jumps are a tenth of the price of swapcontext, which asks the system for signals.
inline void yield() {
  if (!_setjmp(thread->place)) _longjmp(block->scheduler, 1);
}
inline void resume(Thread& t) {
  if (_setjmp(block->scheduler)) return;
  if (std::exchange(t.started, true)) _longjmp(t.place, 1);
  setcontext(&t.start);
}

inline void enter() {
  block->body();
  thread->done = true;
  ++block->progress;
  yield();
}

// Runs a block; false where its threads wait for each other for ever.
inline bool run(dim3 index, dim3 grid, dim3 size, const std::function<void()>& body) {
  const int count = size.x * size.y * size.z;
  Block here;
  here.threads.resize(count), here.warps.resize((count + 31) / 32);
  here.body = body;
  blockIdx = index, gridDim = grid, blockDim = size;
  block = &here;
  uint32_t noise = 12345;
  for (size_t i = 0; i < dynamic_bytes; ++i) dynamic_shared[i] = (noise = noise * 1664525 + 1013904223) >> 24;
  for (int i = 0; i < count; ++i) {
    Thread& t = here.threads[i];
    t.stack.reset(new char[kStack]);
    t.index = dim3(i % size.x, i / size.x % size.y, i / size.x / size.y), t.lane = i % 32, t.warp = i / 32;
    getcontext(&t.start);
    t.start.uc_stack.ss_sp = t.stack.get(), t.start.uc_stack.ss_size = kStack, t.start.uc_link = nullptr;
    makecontext(&t.start, enter, 0);
  }
  for (;;) {
    const uint64_t before = here.progress;
    bool left = false;
    for (int i = 0; i < count; ++i) {
      Thread& t = here.threads[backwards ? count - 1 - i : i];
      if (t.done) continue;
      left = true, thread = &t, threadIdx = t.index;
      resume(t);
    }
    if (!left) return true;
    if (here.progress == before) return false;
  }
}

// All lanes of the warp: each brings words, the last one computes out from in for everybody.
template <class F>
void together(const uint32_t* words, int count, uint32_t* result, int results, F compute) {
  Warp& warp = block->warps[thread->warp];
  std::memcpy(warp.in[thread->lane], words, 4 * count);
  const int lanes = std::min<int>(32, block->threads.size() - 32 * thread->warp);
  if (++warp.arrived == lanes) {
    compute(warp.in, warp.out);
    warp.arrived = 0, ++warp.generation, ++block->progress;
  } else {
    for (const uint64_t now = warp.generation; warp.generation == now;) yield();
  }
  std::memcpy(result, warp.out[thread->lane], 4 * results);
}

template <class T, class F>
T exchange(T value, F source) {  // source(lane): whose value the lane gets
  static_assert(sizeof(T) == 4);
  uint32_t word, result;
  std::memcpy(&word, &value, 4);
  together(&word, 1, &result, 1, [&](auto& in, auto& out) { for (int l = 0; l < 32; ++l) out[l][0] = in[source(l) & 31][0]; });
  std::memcpy(&value, &result, 4);
  return value;
}

template <class T, class F>
T reduced(T value, F combine) {
  uint32_t word, result;
  std::memcpy(&word, &value, 4);
  together(&word, 1, &result, 1, [&](auto& in, auto& out) {
    T total, next;
    std::memcpy(&total, in[0], 4);
    for (int l = 1; l < 32; ++l) std::memcpy(&next, in[l], 4), total = combine(total, next);
    for (int l = 0; l < 32; ++l) std::memcpy(out[l], &total, 4);
  });
  std::memcpy(&value, &result, 4);
  return value;
}

}  // namespace emulated

extern "C" void set_order(int backwards, int early_copies) {
  emulated::backwards = backwards, emulated::early_copies = early_copies;
}

inline void __syncthreads() {
  emulated::Block& b = *emulated::block;
  if (++b.arrived == static_cast<int>(b.threads.size())) {
    b.arrived = 0, ++b.generation, ++b.progress;
  } else {
    for (const uint64_t now = b.generation; b.generation == now;) emulated::yield();
  }
}
inline void __syncwarp(unsigned = ~0u) {
  uint32_t nothing = 0;
  emulated::together(&nothing, 0, &nothing, 0, [](auto&, auto&) {});
}
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return emulated::exchange(v, [=](int l) { return l ^ mask; }); }
template <class T> T __shfl_down_sync(unsigned, T v, int by) { return emulated::exchange(v, [=](int l) { return l + by < 32 ? l + by : l; }); }
template <class T> T __shfl_up_sync(unsigned, T v, int by) { return emulated::exchange(v, [=](int l) { return l >= by ? l - by : l; }); }
template <class T> T __shfl_sync(unsigned, T v, int from) {  // each lane may name another source
  uint32_t words[2] = {0, static_cast<uint32_t>(from)}, result;
  std::memcpy(words, &v, 4);
  emulated::together(words, 2, &result, 1, [](auto& in, auto& out) { for (int l = 0; l < 32; ++l) out[l][0] = in[in[l][1] & 31][0]; });
  std::memcpy(&v, &result, 4);
  return v;
}
inline uint32_t __reduce_max_sync(unsigned, uint32_t v) { return emulated::reduced(v, [](uint32_t a, uint32_t b) { return std::max(a, b); }); }
inline int __reduce_add_sync(unsigned, int v) { return emulated::reduced(v, [](int a, int b) { return a + b; }); }
template <class T> T atomicAdd(T* to, T by) { return std::exchange(*to, *to + by); }

template <class A, class B> auto min(A a, B b) { using C = std::common_type_t<A, B>; return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(a) : static_cast<C>(b); }
template <class A, class B> auto max(A a, B b) { using C = std::common_type_t<A, B>; return static_cast<C>(a) > static_cast<C>(b) ? static_cast<C>(a) : static_cast<C>(b); }

template <class T> T __ldcg(const T* from) { return *from; }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b >> 32; }
inline uint32_t __funnelshift_r(uint32_t lo, uint32_t hi, uint32_t by) { return (static_cast<uint64_t>(hi) << 32 | lo) >> (by & 31); }
inline uint32_t __funnelshift_rc(uint32_t lo, uint32_t hi, uint32_t by) { return (static_cast<uint64_t>(hi) << 32 | lo) >> std::min(by, 32u); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> (4 * i), byte = both >> (8 * (pick & 7)) & 255;
    result |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
  }
  return result;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return c;
}
inline float __expf(float v) { return std::exp(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float v) { return 1 / std::sqrt(v); }
inline uint32_t __float_as_uint(float v) { uint32_t r; std::memcpy(&r, &v, 4); return r; }
inline float __uint_as_float(uint32_t v) { float r; std::memcpy(&r, &v, 4); return r; }
inline int __float_as_int(float v) { return static_cast<int>(__float_as_uint(v)); }
inline float __int_as_float(int v) { return __uint_as_float(static_cast<uint32_t>(v)); }
inline int __float2int_rn(float v) { return static_cast<int>(std::nearbyint(v)); }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719;
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout, cudaLaunchAttributeProgrammaticStreamSerialization };
constexpr int cudaSharedmemCarveoutMaxShared = 100;
struct cudaLaunchAttribute { int id; struct { int programmaticStreamSerializationAllowed; } val; };
struct cudaLaunchConfig_t { dim3 gridDim, blockDim; size_t dynamicSmemBytes; cudaStream_t stream; cudaLaunchAttribute* attrs; int numAttrs; };
namespace emulated { inline cudaError_t last = 0; }
inline cudaError_t cudaGetLastError() { return std::exchange(emulated::last, 0); }
template <class K> cudaError_t cudaFuncSetAttribute(K, int, int bytes) { return bytes > 232448 ? cudaErrorInvalidValue : 0; }
namespace emulated {
inline cudaError_t launch(dim3 grid, dim3 size, size_t shared, const std::function<void()>& body) {
  if (shared > 232448) return last = cudaErrorInvalidValue;
  give_shared(shared);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x)
        if (!run(dim3(x, y, z), grid, size, body)) return last = cudaErrorLaunchFailure;
  return cudaSuccess;
}
}  // namespace emulated
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  return emulated::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { kernel(P(arguments)...); });
}
