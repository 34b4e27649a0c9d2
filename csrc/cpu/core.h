// What differs between cores that have the same instructions. Tests define both, to have every way on any machine.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <unistd.h>
#endif

namespace gru_fused {
namespace {

// Weights of more bytes are likely past the second-level cache.
#ifndef GRU_FUSED_FAR_WEIGHTS
#define GRU_FUSED_FAR_WEIGHTS (640 * 1024)
#endif
constexpr int64_t kFarWeights = GRU_FUSED_FAR_WEIGHTS;

// Whether they come sooner if they are asked for: on Zen 5 by some 10 %. On Zen 4 they come up to 30 % later, as its
// own prefetchers ask for as much as the third-level cache gives. Where it was not measured, the core is left to
// itself. (docs/notes/2026-11-25-single-rows.md)
#ifdef GRU_FUSED_ASKS_EARLY
inline bool asks_early() { return GRU_FUSED_ASKS_EARLY; }
#elif defined(__x86_64__)
inline bool asks_early() {
  static const bool zen5 = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __get_cpuid(1, &a, &b, &c, &d);
    const unsigned base = a >> 8 & 0xf, extended = a >> 20 & 0xff;
    return base == 0xf && base + extended == 0x1a;
  }();
  return zen5;
}
#else
inline bool asks_early() { return false; }
#endif

// Bytes that may stay in the second-level cache, a quarter of it, while much else passes by. Tests define few.
#ifdef GRU_FUSED_NEAR_BYTES
inline int64_t near_bytes() { return GRU_FUSED_NEAR_BYTES; }
#else
inline int64_t near_bytes() {
  static const int64_t bytes = [] {
    int64_t cache = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return (cache > 0 ? cache : 512 * 1024) / 4;
  }();
  return bytes;
}
#endif

}  // namespace
}  // namespace gru_fused
