// The numbers of the arrays (float, double, bfloat16, half) and the arithmetic of the cell on them.
#pragma once

#include <type_traits>

#include "../gru_params.h"
#include "arch.h"

namespace gru_fused::cuda {

template <class Value>
__device__ __forceinline__ Value widen(Value number) {
  return number;
}
template <class Value>
__device__ __forceinline__ Value widen(__nv_bfloat16 number) {
  return __bfloat162float(number);
}
template <class Value>
__device__ __forceinline__ Value widen(__half number) {
  return __half2float(number);
}

template <class Scalar, class Value>
__device__ __forceinline__ Scalar narrow(Value value) {
  if constexpr (std::is_same_v<Scalar, __nv_bfloat16>)
    return __float2bfloat16_rn(value);
  else if constexpr (std::is_same_v<Scalar, __half>)
    return __float2half_rn(value);
  else
    return value;
}

template <class Scalar>
__device__ __forceinline__ uint32_t bits_of(Scalar number) {
  if constexpr (std::is_same_v<Scalar, __nv_bfloat16>)
    return __bfloat16_as_ushort(number);
  else if constexpr (std::is_same_v<Scalar, __half>)
    return __half_as_ushort(number);
  else
    return __float_as_uint(number);
}

// An element of an array: its place in memory, by batch row and column.
template <class Scalar, class Void>
__device__ __forceinline__ auto* at(const Rows<Void>& rows, int64_t step_offset, int64_t row, int64_t column) {
  using Number = std::conditional_t<std::is_const_v<Void>, const Scalar, Scalar>;
  return static_cast<Number*>(rows.data) + step_offset + row * rows.row + column;
}
template <class Scalar, class Void>
__device__ __forceinline__ auto* at(const Rows<Void>& rows, int64_t row, int64_t column) {
  return at<Scalar>(rows, 0, row, column);
}

// What the activations of variant_cell.h are made of. A NaN in x comes out again.
template <class Value>
struct Comparisons {
  static __device__ __forceinline__ Value number(double x) { return Value(x); }
  static __device__ __forceinline__ Value max(Value x, Value y) { return x < y ? y : x; }
  static __device__ __forceinline__ Value min(Value x, Value y) { return y < x ? y : x; }
  static __device__ __forceinline__ Value positive(Value x) { return x > 0 ? Value(1) : Value(0); }
};

// Math of gru_cell.h to the last bits or so of Value.
template <class V>
struct ExactMath : Comparisons<V> {
  using Value = V;
  static __device__ __forceinline__ Value one() { return Value(1); }
  static __device__ __forceinline__ Value sigmoid(Value x) { return Value(1) / (Value(1) + exp(-x)); }
  static __device__ __forceinline__ Value tanh(Value x) { return ::tanh(x); }
};

// 1 / (1 + e^-ax) by the hardware's exponential and reciprocal: 1 / inf is 0, so that both ends saturate. Its absolute
// error is under 2e-7, a few roundings of a number near 1.
__device__ __forceinline__ float fast_sigmoid(float a, float x) {
  constexpr float kLog2E = 1.44269504f;
  return arch::fast_reciprocal(1.f + arch::fast_exp2(-kLog2E * a * x));
}

template <>
struct ExactMath<float> : Comparisons<float> {
  using Value = float;
  static __device__ __forceinline__ float one() { return 1.f; }
  static __device__ __forceinline__ float sigmoid(float x) { return fast_sigmoid(1.f, x); }
  static __device__ __forceinline__ float tanh(float x) { return tanhf(x); }
};

// For states and products rounded to 11 bits or fewer. Absolute errors are under 4e-7.
struct FastMath : Comparisons<float> {
  using Value = float;
  static __device__ __forceinline__ float one() { return 1.f; }
  static __device__ __forceinline__ float sigmoid(float x) { return fast_sigmoid(1.f, x); }
  static __device__ __forceinline__ float tanh(float x) { return 2.f * fast_sigmoid(2.f, x) - 1.f; }
};

}  // namespace gru_fused::cuda
