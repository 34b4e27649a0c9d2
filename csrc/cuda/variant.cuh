// What the options of a variant (variant_params.h) are in a kernel, for one direction: the numbers of a row and unit.
#pragma once

#include "../variant_params.h"
#include "scalar.cuh"

namespace gru_fused::cuda {

// The elementwise end of a step; gi and gh with their biases.
template <class Math>
__device__ __forceinline__ Stepped<typename Math::Value> variant_forward(
    const Cell& cell, typename Math::Value gi_r, typename Math::Value gi_z, typename Math::Value gi_n,
    typename Math::Value gh_r, typename Math::Value gh_z, typename Math::Value gh_n, typename Math::Value update,
    typename Math::Value h0) {
  using Value = typename Math::Value;
  const Value r = activate<Math>(cell.gate, gi_r + gh_r);
  const Value z = activate<Math>(cell.gate, gi_z + gh_z);
  const Value n = variant_candidate<Math>(cell, r, gi_n, gh_n);
  return {{r, z, n, gh_n}, variant_state<Math>(z, n, update, h0)};
}

template <class Scalar, class Value>
struct Options {
  const Variant& variant;
  const VariantArguments& arguments;
  const Shape& shape;
  int direction;

  __device__ __forceinline__ bool alive(int64_t step, int64_t row) const {
    return variant.alive(shape, shape.time_of(step, direction), row);
  }
  __device__ __forceinline__ bool resets(int64_t step, int64_t row) const {
    return variant.resets(shape, step, direction, row);
  }
  __device__ __forceinline__ Value update(int64_t step, int64_t row, int64_t unit) const {
    const Rows<const void>& rows = arguments.update;
    if (!rows.data) return Value(1);
    const int64_t t = shape.time_of(step, direction), column = arguments.update_per_unit ? unit : 0;
    return widen<Value>(*at<Scalar>(rows, shape.step_offset(rows, t), row, column));
  }
  __device__ __forceinline__ Value dropout(int64_t row, int64_t unit) const {
    return arguments.dropout.data ? widen<Value>(*at<Scalar>(arguments.dropout, 0, row, unit)) : Value(1);
  }
  // What a reset sets.
  __device__ __forceinline__ Value reset_state(int64_t row, int64_t unit) const {
    return arguments.reset_state.data ? widen<Value>(*at<Scalar>(arguments.reset_state, 0, row, unit)) : Value(0);
  }
  // h0 of a step that the row is alive at.
  __device__ __forceinline__ Value state_before(int64_t step, int64_t row, int64_t unit, const Rows<const void>& hx,
                                                const Rows<const void>& output) const {
    if (resets(step, row)) return reset_state(row, unit);
    if (!variant.continues(shape, step, direction, row)) return widen<Value>(*at<Scalar>(hx, 0, row, unit));
    const int64_t before = shape.time_of(step - 1, direction);
    return widen<Value>(*at<Scalar>(output, shape.step_offset(output, before), row, unit));
  }
};

struct NoOptions {};

template <class Scalar, class Value, class AnyLoop>
__device__ __forceinline__ auto options_of(const AnyLoop& loop, int direction) {
  if constexpr (AnyLoop::kVariant)
    return Options<Scalar, Value>{loop.variant, loop.direction[direction], loop.shape, direction};
  else
    return NoOptions{};
}

// What a lane asks for ahead of a step.
template <class Value, bool kVariant>
struct OptionsAhead {};

template <class Value>
struct OptionsAhead<Value, true> {
  Value update;
  bool alive, resets;
};

// The step of a loop: the plain cell's, or the variant's.
template <class Math, class AnyLoop, class Ahead, class Value>
__device__ __forceinline__ auto cell_step(const AnyLoop& loop, Value gi_r, Value gi_z, Value gi_n, Value gh_r,
                                          Value gh_z, Value gh_n, Value h, const Ahead& options) {
  if constexpr (AnyLoop::kVariant)
    return variant_forward<Math>(loop.variant.cell, gi_r, gi_z, gi_n, gh_r, gh_z, gh_n, options.update, h);
  else
    return cell_forward<Math>(gi_r, gi_z, gi_n, gh_r, gh_z, gh_n, h);
}

template <class Math, class AnyLoop, class Ahead, class Value>
__device__ __forceinline__ auto cell_back(const AnyLoop& loop, Value d, const Gates<Value>& gates, Value h,
                                          const Ahead& options) {
  if constexpr (AnyLoop::kVariant)
    return variant_backward<Math>(loop.variant.cell, d, gates, options.update, h);
  else
    return cell_backward<Math>(d, gates, h);
}

}  // namespace gru_fused::cuda
