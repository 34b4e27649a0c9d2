// sigmoid and tanh of a vector, from e^r on a reduced range.
//
//   e^x = 2^k e^r,  k = round(x / ln 2),  |r| <= ln(2)/2,  e^r = 1 + r + r^2 q(r)
//
// q is a minimax polynomial for the error relative to e^r - 1 (by Remez' algorithm), whose error of e^r is under 1/8
// ulp. That of sigmoid and tanh is under 3 ulps, in double 3.3, over all of the range (tests/test_simd_math.py). NaN
// goes through; infinities saturate.
#pragma once

#include <type_traits>

#include "simd.h"

namespace gru_fused {
namespace {

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int fraction_bits = 23;
  static constexpr float q[] = {0x1.0p-1f, 0x1.5554bp-3f, 0x1.555488p-5f, 0x1.1227ep-7f, 0x1.6d98ep-10f};
  static constexpr float round_magic = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  // ln 2 in two parts; the product of the first with any k has no rounding error.
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float largest = 88.0f;   // e^x stays finite
  static constexpr float tanh_one = 10.0f;  // tanh rounds to 1 from here on
};
template <>
struct ExpConstants<double> {
  static constexpr int fraction_bits = 52;
  static constexpr double q[] = {0x1.0000000000005p-1,  0x1.555555555555cp-3,  0x1.555555555213cp-5,
                                 0x1.111111110e701p-7,  0x1.6c16c17f28a81p-10, 0x1.a01a01b5c9bd8p-13,
                                 0x1.a019a6aba652cp-16, 0x1.71ddea240e8b2p-19, 0x1.28a28a5db0a84p-22,
                                 0x1.af767dc4b168fp-26};
  static constexpr double round_magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double largest = 709.0;
  static constexpr double tanh_one = 20.0;
};

template <class T>
struct VectorMath {
  using Value = Vec<T>;
  using C = ExpConstants<T>;

  static inline __attribute__((always_inline)) Value number(double x) { return broadcast(T(x)); }
  static inline __attribute__((always_inline)) Value one() { return number(1); }
  // NaN stays, if it is the first.
  static inline __attribute__((always_inline)) Value max(Value x, Value y) { return x < y ? y : x; }
  static inline __attribute__((always_inline)) Value min(Value x, Value y) { return x > y ? y : x; }
  static inline __attribute__((always_inline)) Value positive(Value x) { return x > Value{} ? one() : Value{}; }

  // x = k ln 2 + r: `scale` is 2^k.
  struct Reduced {
    Value scale, r;
  };

  // Of x, or of -x.
  template <int sign = 1>
  static inline __attribute__((always_inline)) Reduced reduced(Value x) {
    constexpr T log2e = T(1.4426950408889634);
    const Value shifted = C::round_magic + x * (sign * log2e);
    const Value k = shifted - C::round_magic;
    const Value r = sign * x - k * C::ln2_high - k * C::ln2_low;
    // The magic number's own bits are shifted out.
    const IntVec<T> scale = (bits_as<IntVec<T>>(shifted) << C::fraction_bits) + bits_as<IntVec<T>>(one());
    return {bits_as<Value>(scale), r};
  }

  static inline __attribute__((always_inline)) Value q(Value r) {
    constexpr int degree = sizeof(C::q) / sizeof(T) - 1;
    Value sum = broadcast(C::q[degree]);
    for (int i = degree - 1; i >= 0; --i) sum = sum * r + C::q[i];
    return sum;
  }

  static inline __attribute__((always_inline)) Value sigmoid(Value x) {
    const Reduced e = reduced<-1>(clamp(x, -C::largest, C::largest));
    return reciprocal(T(1) + e.scale * ((q(e.r) * e.r + T(1)) * e.r + T(1)));
  }

  // E / (E + 2) with E = e^2x - 1, which keeps all digits near zero; but -0 becomes 0.
  static inline __attribute__((always_inline)) Value tanh(Value x) {
    const Reduced e = reduced(T(2) * clamp(x, -C::tanh_one, C::tanh_one));
    const Value E = e.scale * (q(e.r) * (e.r * e.r) + e.r) + (e.scale - T(1));
    return E * reciprocal(E + T(2));
  }

 private:
  // NaN stays: where a comparison with it decides, x is taken.
  static inline __attribute__((always_inline)) Value clamp(Value x, T low, T high) {
// Where GCC makes two instructions of each comparison below.
#if defined(__AVX512F__) && GRU_FUSED_VECTOR_BYTES == 64
    if constexpr (std::is_same_v<T, float>)
      return bits_as<Value>(
          _mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), bits_as<__m512>(x))));
#elif defined(__AVX2__) && GRU_FUSED_VECTOR_BYTES == 32
    if constexpr (std::is_same_v<T, float>)
      return bits_as<Value>(
          _mm256_max_ps(_mm256_set1_ps(low), _mm256_min_ps(_mm256_set1_ps(high), bits_as<__m256>(x))));
#endif
    x = x > broadcast(high) ? broadcast(high) : x;
    return x < broadcast(low) ? broadcast(low) : x;
  }

  // 1 / x for finite x > 0. An estimate of 14 bits and a Newton step take a third of a division's time.
  static inline __attribute__((always_inline)) Value reciprocal(Value x) {
#if defined(__AVX512F__) && GRU_FUSED_VECTOR_BYTES == 64
    if constexpr (std::is_same_v<T, float>) {
      const Value estimate = bits_as<Value>(_mm512_rcp14_ps(bits_as<__m512>(x)));
      return estimate + estimate * (T(1) - x * estimate);
    }
#endif
    return T(1) / x;
  }
};

}  // namespace
}  // namespace gru_fused
