// What differs between cores that have the same instructions. Tests define all, to have every way on any machine.
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

// Cores on which ways to read weights for one row were measured; every other is left to its own prefetchers. Asking for
// weights early brings some 10 % on Zen 5 and on Zen 3, 30 % past the latter's third-level cache, and costs up to 30 %
// on Zen 4, whose own prefetchers ask for as much as that cache gives. (docs/notes/2026-11-25-single-rows.md,
// docs/notes/2026-11-27-zen3-streams.md) Golden Cove and its like, Intel's server cores that have tiles, are one more
// by what products they cut into slices.
enum class Core { other, zen3, zen5, golden_cove };
#ifdef GRU_FUSED_CORE
inline Core core() { return Core::GRU_FUSED_CORE; }
#elif defined(__x86_64__)
inline Core core() {
  static const Core found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __get_cpuid(0, &a, &b, &c, &d);
    const bool amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
    const bool intel = b == signature_INTEL_ebx && c == signature_INTEL_ecx && d == signature_INTEL_edx;
    __get_cpuid(1, &a, &b, &c, &d);
    const unsigned base = a >> 8 & 0xf, family = base == 0xf ? base + (a >> 20 & 0xff) : base;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Core::other;
    const bool avx512 = b & bit_AVX512F, tiles = d & (1u << 24);
    if (intel && tiles) return Core::golden_cove;
    if (amd && family == 0x1a) return Core::zen5;
    if (amd && family == 0x19 && !avx512) return Core::zen3;  // with it, Zen 4
    return Core::other;
  }();
  return found;
}
#else
inline Core core() { return Core::other; }
#endif
// Whether panels are asked for early, too.
inline bool asks_early() { return core() == Core::zen5; }

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
