// What a kernel's body may use without saying where it comes from: keywords, built-in variables, warp and maths
// functions. Inline PTX, __shared__ and __threadfence are left out on purpose: the first two need the project's own
// wrappers, and a fence can't be checked for races, where release and acquire can.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../emulator.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

// The running thread's; the scheduler sets them at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using std::max;
using std::min;

inline void __syncthreads() { emulator::barrier_sync(0, blockDim.x * blockDim.y * blockDim.z, "__syncthreads"); }
inline void __nanosleep(unsigned) { emulator::yield("__nanosleep"); }
[[noreturn]] inline void __trap() { emulator::fail("__trap"); }
inline long long clock64() { return static_cast<long long>(emulator::stats().switches); }

namespace emulator {

// A shuffle in which this lane reads lane `from`. Each lane says its own, as they may differ.
template <class T>
T shuffle(uint32_t mask, const T& value, unsigned from, const char* what) {
  struct Lane {
    T value;
    unsigned from;
  };
  const auto exchange = [what](const Lane(&in)[32], T(&out)[32], uint32_t lanes) {
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      const unsigned from = in[lane].from;
      if (!(lanes >> from & 1)) fail("%s: lane %u reads lane %u, which takes no part in it", what, lane, from);
      out[lane] = in[from].value;
    }
  };
  return warp_collective<Lane, T>(mask, {value, from}, exchange, what);
}

template <class Decide>  // of the ballot and of the lanes that take part
uint32_t vote(uint32_t mask, bool predicate, Decide decide, const char* what) {
  const auto count = [decide](const bool (&in)[32], uint32_t (&out)[32], uint32_t lanes) {
    uint32_t ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane) ballot |= static_cast<uint32_t>(in[lane]) << lane;
    for (uint32_t& result : out) result = decide(ballot & lanes, lanes);
  };
  return warp_collective<bool, uint32_t>(mask, predicate, count, what);
}

}  // namespace emulator

// `width` cuts the warp into groups; a lane whose source would lie outside its group reads itself.

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const unsigned group = emulator::lane() & ~(width - 1u);
  return emulator::shuffle(mask, value, group + (source & (width - 1u)), "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  const unsigned mine = emulator::lane(), last = mine | (width - 1u), from = mine ^ static_cast<unsigned>(bits);
  return emulator::shuffle(mask, value, from <= last ? from : mine, "__shfl_xor_sync");
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const unsigned mine = emulator::lane(), last = mine | (width - 1u), from = mine + delta;
  return emulator::shuffle(mask, value, from <= last ? from : mine, "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const unsigned mine = emulator::lane(), first = mine & ~(width - 1u);
  return emulator::shuffle(mask, value, mine >= first + delta ? mine - delta : mine, "__shfl_up_sync");
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  return emulator::vote(mask, predicate, [](uint32_t ballot, uint32_t) { return ballot; }, "__ballot_sync");
}
inline int __any_sync(uint32_t mask, int predicate) {
  return emulator::vote(mask, predicate, [](uint32_t ballot, uint32_t) { return ballot != 0; }, "__any_sync");
}
inline int __all_sync(uint32_t mask, int predicate) {
  return emulator::vote(mask, predicate, [](uint32_t ballot, uint32_t all) { return ballot == all; }, "__all_sync");
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulator::warp_sync(mask); }

// Atomics are relaxed, as on the device; release and acquire are PTX, and so the project's own.

template <class T>
T atomicAdd(T* address, T value) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (!target.compare_exchange_weak(old, old + value, std::memory_order_relaxed)) {
  }
  return old;
}
template <class T>
T atomicExch(T* address, T value) {
  return std::atomic_ref<T>(*address).exchange(value, std::memory_order_relaxed);
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  std::atomic_ref<T>(*address).compare_exchange_strong(expected, value, std::memory_order_relaxed);
  return expected;
}
template <class T>
T atomicMax(T* address, T value) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (old < value && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
  return old;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcg(T* address, T value) {
  *address = value;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}

// The fast functions err by a few ulp on the device; here they are as good as the host's, so a test's tolerance must
// come from the device's error bounds and not from what is seen here.

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
