// sigmoid and tanh of a vector, from one expm1 on a reduced range.
//
//   e^x = 2^k e^r,  k = round(x / ln 2),  |r| <= ln(2)/2,  e^r - 1 = r + r^2/2! + r^3/3! + ...
//
// The Taylor series is cut where the next term is below half an ulp (degree 7 in float, 13 in double). The error of
// both is under 3 ulps over all of the range (tests/test_simd_math.py). NaN goes through; infinities saturate.
#pragma once

#include <type_traits>

#include "simd.h"

namespace gru_fused {
namespace {

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int degree = 7, fraction_bits = 23;
  static constexpr float round_magic = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  // ln 2 in two parts; the product of the first with any k has no rounding error.
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float largest = 88.0f;   // e^x stays finite
  static constexpr float tanh_one = 10.0f;  // tanh rounds to 1 from here on
};
template <>
struct ExpConstants<double> {
  static constexpr int degree = 13, fraction_bits = 52;
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

  // x = k ln 2 + r: `scale` is 2^k and `minus_one` is e^r - 1.
  struct Exp {
    Value scale, minus_one;
  };

  static inline __attribute__((always_inline)) Exp exp(Value x) {
    constexpr T log2e = T(1.4426950408889634);
    const Value shifted = x * log2e + C::round_magic;
    const Value k = shifted - C::round_magic;
    const Value r = x - k * C::ln2_high - k * C::ln2_low;
    const IntVec<T> exponent = bits_as<IntVec<T>>(shifted) - bits_as<IntVec<T>>(broadcast(C::round_magic));
    const IntVec<T> scale = (exponent << C::fraction_bits) + bits_as<IntVec<T>>(one());

    T inverse_factorial = 1;
    T coefficient[C::degree + 1];
    for (int i = 1; i <= C::degree; ++i) coefficient[i] = inverse_factorial /= T(i);
    Value series = broadcast(coefficient[C::degree]);
    for (int i = C::degree - 1; i >= 2; --i) series = series * r + coefficient[i];
    return {bits_as<Value>(scale), series * (r * r) + r};
  }

  static inline __attribute__((always_inline)) Value sigmoid(Value x) {
    const Value y = clamp(-x, -C::largest, C::largest);
    const Exp e = exp(y);
    return reciprocal(T(1) + (e.scale + e.scale * e.minus_one));
  }

  // tanh |x| = E / (E + 2) with E = e^(2|x|) - 1, which keeps all digits near zero.
  static inline __attribute__((always_inline)) Value tanh(Value x) {
    using Int = IntVec<T>;
    const Int sign = bits_as<Int>(x) & bits_as<Int>(broadcast(T(-0.0)));
    const Value magnitude = bits_as<Value>(bits_as<Int>(x) ^ sign);
    const Exp e = exp(T(2) * clamp(magnitude, T(0), C::tanh_one));
    const Value E = e.scale * e.minus_one + (e.scale - T(1));
    return bits_as<Value>(bits_as<Int>(E * reciprocal(E + T(2))) | sign);
  }

 private:
  // NaN stays: where a comparison with it decides, x is taken.
  static inline __attribute__((always_inline)) Value clamp(Value x, T low, T high) {
#if defined(__AVX512F__) && GRU_FUSED_VECTOR_BYTES == 64  // which the compiler makes of the same text in twice as many
    if constexpr (std::is_same_v<T, float>)
      return bits_as<Value>(
          _mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), bits_as<__m512>(x))));
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
