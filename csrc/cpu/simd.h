// Vectors of one register, written with the compiler's vector extension so that one source serves every
// instruction set; and the way numbers go to and from memory (float, double, bfloat16, half).
//
// Everything under cpu/ that includes this file lives in an unnamed namespace: each isa_*.cpp compiles its own
// copy with its own flags, and the linker must not merge them.
#pragma once

#include <cstdint>
#include <utility>

#ifndef GRU_FUSED_VECTOR_BYTES
#error "an isa_*.cpp defines GRU_FUSED_VECTOR_BYTES before its includes"
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace gru_fused {
namespace {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class T>
struct Simd;
template <>
struct Simd<float> {
  static constexpr int lanes = GRU_FUSED_VECTOR_BYTES / 4;
  typedef float V __attribute__((vector_size(GRU_FUSED_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(GRU_FUSED_VECTOR_BYTES)));
};
template <>
struct Simd<double> {
  static constexpr int lanes = GRU_FUSED_VECTOR_BYTES / 8;
  typedef double V __attribute__((vector_size(GRU_FUSED_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(GRU_FUSED_VECTOR_BYTES)));
};
template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using IntVec = typename Simd<T>::I;

typedef uint32_t u32v __attribute__((vector_size(GRU_FUSED_VECTOR_BYTES)));
typedef uint16_t u16v __attribute__((vector_size(GRU_FUSED_VECTOR_BYTES / 2)));

template <class To, class From>
inline __attribute__((always_inline)) To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
inline __attribute__((always_inline)) Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// Makes the compiler compute a vector here, not where it is used: it would undo an order that keeps the core busy.
template <class V>
inline __attribute__((always_inline)) void in_order([[maybe_unused]] V& v) {
#if defined(__AVX512F__) && GRU_FUSED_VECTOR_BYTES == 64
  asm volatile("" : "+v"(v));
#elif defined(__AVX2__) && GRU_FUSED_VECTOR_BYTES == 32
  asm volatile("" : "+x"(v));
#endif
}

template <class T>
inline T sum_lanes(Vec<T> v) {
  constexpr int lanes = sizeof(v) / sizeof(T);
  T part[lanes];
  __builtin_memcpy(part, &v, sizeof v);
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

// One step of a transposition: swaps the upper right and lower left blocks of `width` lanes within each 2 x 2 of them.
template <int width, class V, int... lane>
inline __attribute__((always_inline)) void swap_blocks(V& a, V& b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  const V upper = __builtin_shufflevector(a, b, ((lane & width) ? lane - width + lanes : lane)...);
  b = __builtin_shufflevector(a, b, ((lane & width) ? lane + lanes : lane + width)...);
  a = upper;
}

// A square block in registers, turned in log2(lanes) steps.
template <class T, int width = Simd<T>::lanes / 2>
inline __attribute__((always_inline)) void transpose(Vec<T> (&rows)[Simd<T>::lanes]) {
  constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i)
    if (!(i & width)) swap_blocks<width>(rows[i], rows[i + width], std::make_integer_sequence<int, lanes>{});
  if constexpr (width > 1) transpose<T, width / 2>(rows);
}

// The type that arithmetic on a stored type uses: float for the 16-bit types, which only memory holds.
template <class S>
struct AccumulateOf {
  using type = S;
};
template <>
struct AccumulateOf<bf16> {
  using type = float;
};
template <>
struct AccumulateOf<f16> {
  using type = float;
};
template <class S>
using Accumulate = typename AccumulateOf<S>::type;

inline __attribute__((always_inline)) Vec<float> decode(u16v half, bf16) {
  return bits_as<Vec<float>>(__builtin_convertvector(half, u32v) << 16);
}

inline __attribute__((always_inline)) u16v encode(Vec<float> x, bf16) {
#if defined(__AVX512BF16__) && GRU_FUSED_VECTOR_BYTES == 64
  return bits_as<u16v>(_mm512_cvtneps_pbh(bits_as<__m512>(x)));  // as below, but that subnormal numbers become zero
#else
  const u32v u = bits_as<u32v>(x);
  const u32v rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
  const u32v nan = (u >> 16) | 0x40;
  return __builtin_convertvector((u & 0x7fffffff) > 0x7f800000 ? nan : rounded, u16v);
#endif
}

// IEEE half: 5 exponent bits with bias 15, 10 bits of fraction. Scaling by 2^(127-15) moves the bias and makes
// normal numbers of the subnormal ones.
inline __attribute__((always_inline)) Vec<float> decode(u16v half, f16) {
  const u32v h = __builtin_convertvector(half, u32v);
  const u32v magnitude = (h & 0x7fff) << 13;
  const u32v finite = bits_as<u32v>(bits_as<Vec<float>>(magnitude) * 0x1p112f);
  const u32v sign = (h & 0x8000) << 16;
  return bits_as<Vec<float>>((magnitude >= 0x0f800000 ? (magnitude | 0x7f800000) : finite) | sign);
}

inline __attribute__((always_inline)) u16v encode(Vec<float> x, f16) {
  const u32v u = bits_as<u32v>(x);
  const u32v magnitude = u & 0x7fffffff;
  const u32v normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the subnormal half's bits at the end of the sum's fraction, rounded by the addition.
  const u32v subnormal = bits_as<u32v>(bits_as<Vec<float>>(magnitude) + 0.5f) - 0x3f000000;
  u32v half = magnitude < 0x38800000 ? subnormal : normal;  // 2^-14
  half = magnitude >= 0x47800000 ? u32v{} + 0x7c00 : half;  // 2^16: infinity
  half = magnitude > 0x7f800000 ? u32v{} + 0x7e00 : half;   // NaN
  return __builtin_convertvector(half | ((u >> 16) & 0x8000), u16v);
}

// One full vector from and to memory, at any alignment.
template <class T>
inline __attribute__((always_inline)) Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline __attribute__((always_inline)) Vec<float> load(const bf16* p) {
  u16v v;
  __builtin_memcpy(&v, p, sizeof v);
  return decode(v, bf16{});
}
inline __attribute__((always_inline)) Vec<float> load(const f16* p) {
  u16v v;
  __builtin_memcpy(&v, p, sizeof v);
  return decode(v, f16{});
}

template <class T>
inline __attribute__((always_inline)) void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
inline __attribute__((always_inline)) void store(bf16* p, Vec<float> v) {
  const u16v h = encode(v, bf16{});
  __builtin_memcpy(p, &h, sizeof h);
}
inline __attribute__((always_inline)) void store(f16* p, Vec<float> v) {
  const u16v h = encode(v, f16{});
  __builtin_memcpy(p, &h, sizeof h);
}

// The first `count` lanes of a vector; the others read as zero and are not written.
#if defined(__AVX512F__) && GRU_FUSED_VECTOR_BYTES == 64
inline __attribute__((always_inline)) Vec<float> load_some(const float* p, int count) {
  return bits_as<Vec<float>>(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p));
}
inline __attribute__((always_inline)) Vec<double> load_some(const double* p, int count) {
  return bits_as<Vec<double>>(_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p));
}
template <class Half>
inline __attribute__((always_inline)) Vec<float> load_some(const Half* p, int count) {
  return decode(bits_as<u16v>(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p)), Half{});
}
inline __attribute__((always_inline)) void store_some(float* p, Vec<float> v, int count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), bits_as<__m512>(v));
}
inline __attribute__((always_inline)) void store_some(double* p, Vec<double> v, int count) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), bits_as<__m512d>(v));
}
template <class Half>
inline __attribute__((always_inline)) void store_some(Half* p, Vec<float> v, int count) {
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), bits_as<__m256i>(encode(v, Half{})));
}
#else
#if defined(__AVX2__) && GRU_FUSED_VECTOR_BYTES == 32
inline __attribute__((always_inline)) __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __attribute__((always_inline)) Vec<float> load_some(const float* p, int count) {
  return bits_as<Vec<float>>(_mm256_maskload_ps(p, first_lanes(count)));
}
inline __attribute__((always_inline)) void store_some(float* p, Vec<float> v, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), bits_as<__m256>(v));
}
#endif
template <class S>
inline __attribute__((always_inline)) Vec<Accumulate<S>> load_some(const S* p, int count) {
  S part[Simd<Accumulate<S>>::lanes] = {};
  for (int i = 0; i < count; ++i) part[i] = p[i];
  return load(part);
}
template <class S>
inline __attribute__((always_inline)) void store_some(S* p, Vec<Accumulate<S>> v, int count) {
  S part[Simd<Accumulate<S>>::lanes];
  store(part, v);
  for (int i = 0; i < count; ++i) p[i] = part[i];
}
#endif

template <class S>
inline __attribute__((always_inline)) Vec<Accumulate<S>> load(const S* p, int count) {
  return count == Simd<Accumulate<S>>::lanes ? load(p) : load_some(p, count);
}
template <class S>
inline __attribute__((always_inline)) void store(S* p, Vec<Accumulate<S>> v, int count) {
  if (count == Simd<Accumulate<S>>::lanes) return store(p, v);
  store_some(p, v, count);
}

}  // namespace
}  // namespace gru_fused
