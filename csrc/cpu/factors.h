// The factors of a product in memory: numbers of the accumulating type, or, with AVX512_BF16 or AMX, pairs of bfloat16.
//
// A pair is two consecutive terms in the 32 bits of a float, so arrays of pairs are arrays of float whose numbers are
// never looked at; a row of n terms is (n + 1) / 2 pairs, the last filled up with zero. Tiles (tiles.h) take 16 pairs
// at once: then a row has so many times 16, the rest zero.
#pragma once

#include <type_traits>

#include "simd.h"

#ifndef GRU_FUSED_BF16_PAIRS  // isa_avx512_bf16.cpp and isa_amx_bf16.cpp define it as 1
#define GRU_FUSED_BF16_PAIRS 0
#endif
#ifndef GRU_FUSED_TILES  // isa_amx_bf16.cpp defines it as 1
#define GRU_FUSED_TILES 0
#endif

namespace gru_fused {
namespace {

struct Numbers {
  static constexpr int terms = 1;  // in one factor

  template <class T>
  static inline __attribute__((always_inline)) void add(Vec<T>& sum, T x, Vec<T> w) {
    sum += x * w;
  }
  template <class S>
  static inline __attribute__((always_inline)) Vec<Accumulate<S>> load_factors(const S* p, int64_t count) {
    constexpr int lanes = Simd<Accumulate<S>>::lanes;
    return load(p, count < lanes ? int(count) : lanes);
  }
};

struct Bf16Pairs {
  static constexpr int terms = 2;

  static inline __attribute__((always_inline)) void add(Vec<float>& sum, float x, Vec<float> w) {
    const u32v pairs = u32v{} + bits_as<uint32_t>(x);
#ifdef __AVX512BF16__
    sum = bits_as<Vec<float>>(_mm512_dpbf16_ps(bits_as<__m512>(sum), bits_as<__m512bh>(pairs), bits_as<__m512bh>(w)));
#else  // the same but for the rounding of the sum, for tests on machines without
    const u32v weights = bits_as<u32v>(w), high = u32v{} + 0xffff0000u;
    sum += bits_as<Vec<float>>(pairs << 16) * bits_as<Vec<float>>(weights << 16);
    sum += bits_as<Vec<float>>(pairs & high) * bits_as<Vec<float>>(weights & high);
#endif
  }
  // Of `count` terms, as many as a vector holds.
  static inline __attribute__((always_inline)) Vec<float> load_factors(const bf16* p, int64_t count) {
    constexpr int most = 2 * Simd<float>::lanes;
    if (count >= most) return load(reinterpret_cast<const float*>(p));
    bf16 part[most] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = p[i];
    return load(reinterpret_cast<const float*>(part));
  }
};

// What products are made of for a stored type.
template <class S>
using FactorsOf = std::conditional_t<GRU_FUSED_BF16_PAIRS && std::is_same_v<S, bf16>, Bf16Pairs, Numbers>;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Whether products of factors of so many terms are made in tiles, and how many factors a row of a tile has.
constexpr bool tiled(int terms) { return GRU_FUSED_TILES && terms == 2; }
constexpr int kTileFactors = 16;

constexpr int64_t factors_in(int64_t terms, int terms_in_one) {
  const int64_t factors = (terms + terms_in_one - 1) / terms_in_one;
  return tiled(terms_in_one) ? round_up(factors, kTileFactors) : factors;
}

}  // namespace
}  // namespace gru_fused
