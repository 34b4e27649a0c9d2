// One unit of one row of a variant's step, forward and backward, however its products and its norm were made.
#pragma once

#include "steps.cuh"
#include "variant.cuh"
#include "variant_kernels.h"

namespace gru_fused::cuda {
namespace {

template <class Types>
__device__ __forceinline__ auto options_of_step(const VariantStep& call) {
  return Options<typename Types::Scalar, typename Types::Value>{call.variant, call.arguments, call.shape,
                                                                call.direction};
}

// h0 and hd of a step, from the state before it.
template <class Types>
__device__ __forceinline__ void begin_step(const VariantStepForward& call, int64_t step, int64_t row, int64_t unit,
                                           typename Types::Value h) {
  const auto options = options_of_step<Types>(call);
  const int64_t index = row * call.shape.hidden + unit;
  if (options.resets(step, row)) h = options.reset_state(row, unit);
  static_cast<typename Types::Value*>(call.state)[index] = h;
  static_cast<typename Types::Scalar*>(call.operand)[index] =
      narrow<typename Types::Scalar>(h * options.dropout(row, unit));
}

// All of a step from gi and gh with their biases, gi_r.. gh_n; alive: else they are not read.
template <class Types>
__device__ __forceinline__ void finish_step(const VariantStepForward& call, int64_t row, int64_t unit, bool alive,
                                            const typename Types::Value (&gi)[3],
                                            const typename Types::Value (&gh)[3]) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, t = shape.time_of(call.step, call.direction);
  Value h = static_cast<const Value*>(call.state)[row * H + unit];
  Stepped<Value> stepped{};
  if (alive) {
    const Value update = options_of_step<Types>(call).update(call.step, row, unit);
    stepped =
        variant_forward<typename Types::Math>(call.variant.cell, gi[0], gi[1], gi[2], gh[0], gh[1], gh[2], update, h);
    h = stepped.h;
  }
  *at<Scalar>(call.output, shape.step_offset(call.output, t), row, unit) = narrow<Scalar>(stepped.h);
  if (call.gates.data) {
    Scalar* const gates = at<Scalar>(call.gates, shape.step_offset(call.gates, t), row, unit);
    gates[0] = narrow<Scalar>(stepped.gates.r);
    gates[H] = narrow<Scalar>(stepped.gates.z);
    gates[2 * H] = narrow<Scalar>(stepped.gates.n);
    gates[3 * H] = narrow<Scalar>(stepped.gates.gh_n);
  }
  if (call.step + 1 < shape.steps)
    begin_step<Types>(call, call.step + 1, row, unit, h);
  else
    static_cast<Value*>(call.state)[row * H + unit] = h;
}

// The gradients of a step's gates, which are kept; without r's of reset_before. Zero where the row is not alive.
template <class Types>
__device__ __forceinline__ VariantGrads<typename Types::Value> step_back(const VariantStepBackward& call, int64_t row,
                                                                         int64_t unit) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const auto options = options_of_step<Types>(call);
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, index = row * H + unit, after = call.step + 1;
  Value& state = static_cast<Value*>(call.state)[index];
  Value d = state;
  if (after < shape.steps && options.alive(after, row)) {
    d += widen<Value>(*at<Scalar>(call.products, row, unit)) * options.dropout(row, unit);
    if (options.resets(after, row)) {  // h0 of the step after was set
      if (call.grad_reset_state) static_cast<Value*>(call.grad_reset_state)[index] += d;
      d = 0;
    }
  }
  VariantGrads<Value> made{};
  made.h = d;
  const int64_t t = call.step < 0 ? 0 : shape.time_of(call.step, call.direction);
  const bool in_batch = call.step >= 0 && row < shape.rows_at(t);
  if (in_batch && options.alive(call.step, row)) {
    if (call.grad_output.data)
      d += widen<Value>(*at<Scalar>(call.grad_output, shape.step_offset(call.grad_output, t), row, unit));
    const Scalar* const saved = at<Scalar>(call.gates, shape.step_offset(call.gates, t), row, unit);
    const Gates<Value> gates = {widen<Value>(saved[0]), widen<Value>(saved[H]), widen<Value>(saved[2 * H]),
                                widen<Value>(saved[3 * H])};
    made = variant_backward<typename Types::Math>(call.variant.cell, d, gates, options.update(call.step, row, unit),
                                                  options.state_before(call.step, row, unit, call.hx, call.output));
  }
  state = made.h;
  if (!in_batch) return made;
  Scalar* const grads = at<Scalar>(call.grads, shape.step_offset(call.grads, t), row, unit);
  grads[0] = narrow<Scalar>(made.nr);
  grads[H] = narrow<Scalar>(made.r);
  grads[2 * H] = narrow<Scalar>(made.z);
  grads[3 * H] = narrow<Scalar>(made.n);
  if (call.grad_update.data)
    *at<Scalar>(call.grad_update, shape.step_offset(call.grad_update, t), row, unit) = narrow<Scalar>(made.update);
  return made;
}

// In the order of DType: f32, f64, bf16, f16.
#define GRU_FUSED_BY_DTYPE(kernel)                                                                 \
  {kernel<ArithmeticOf<float>>, kernel<ArithmeticOf<double>>, kernel<ArithmeticOf<__nv_bfloat16>>, \
   kernel<ArithmeticOf<__half>>}

}  // namespace
}  // namespace gru_fused::cuda
