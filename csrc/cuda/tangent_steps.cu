// The gates of one step of the tangent, and of the tangent of the backward.
#include "steps.cuh"

namespace gru_fused::cuda {
namespace {

template <class Types>
__global__ void __launch_bounds__(kThreads) step_tangent(const __grid_constant__ StepTangent call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const int64_t H = call.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * H) return;
  const int64_t row = index / H, unit = index % H;
  const Scalar *const gates = at<Scalar>(call.gates, row, unit), *const given = at<Scalar>(call.given_t, row, unit),
                      *const products = at<Scalar>(call.products, row, unit);
  const auto number = [&](const Scalar* from, int gate) { return widen<Value>(from[gate * H]); };
  const Gates<Value> saved = {number(gates, 0), number(gates, 1), number(gates, 2), number(gates, 3)};
  Value* const state = static_cast<Value*>(call.state) + index;
  const auto stepped = cell_tangent<typename Types::Math>(
      saved, widen<Value>(*at<Scalar>(call.previous, row, unit)), number(given, 0) + number(products, 0),
      number(given, 1) + number(products, 1), number(given, 2), number(given, 3) + number(products, 2), *state);
  *state = stepped.h;
  if (call.operand.data) *at<Scalar>(call.operand, row, unit) = narrow<Scalar>(stepped.h);
  *at<Scalar>(call.output_t, row, unit) = narrow<Scalar>(stepped.h);
  Scalar* const to = at<Scalar>(call.gates_t, row, unit);
  to[0] = narrow<Scalar>(stepped.gates.r);
  to[H] = narrow<Scalar>(stepped.gates.z);
  to[2 * H] = narrow<Scalar>(stepped.gates.n);
  to[3 * H] = narrow<Scalar>(stepped.gates.gh_n);
}

template <class Types>
__global__ void __launch_bounds__(kThreads) step_tangent_backward(const __grid_constant__ StepTangentBackward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  using Both = Dual<Value>;
  const int64_t H = call.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * H) return;
  const int64_t row = index / H, unit = index % H;
  const auto number = [&](const Rows<const void>& rows, int gate = 0) {
    return rows.data ? widen<Value>(at<Scalar>(rows, row, unit)[gate * H]) : Value(0);
  };
  const auto both = [&](const Rows<const void>(&pair)[2], int gate = 0) {
    return Both{number(pair[0], gate), number(pair[1], gate)};
  };
  Value *const state = static_cast<Value*>(call.state[0]) + index, *const state_t =
                                                                       static_cast<Value*>(call.state[1]) + index;
  Both d = {*state, *state_t};
  if (row < call.multiplied)
    d = d + Both{number(call.products[0]), number(call.products[1]) + number(call.products[2])};
  if (row < call.alive) {
    d = d + both(call.grad_output);
    const Gates<Both> gates = {both(call.gates), both(call.gates, 1), both(call.gates, 2), both(call.gates, 3)};
    const auto grads = cell_backward<DualMath<typename Types::Math>>(d, gates, both(call.previous));
    d = grads.h;
    const Both of_gates[4] = {grads.nr, grads.r, grads.z, grads.n};
    for (int gate = 0; gate < 4; ++gate) {
      at<Scalar>(call.grads[0], row, unit)[gate * H] = narrow<Scalar>(of_gates[gate].value);
      at<Scalar>(call.grads[1], row, unit)[gate * H] = narrow<Scalar>(of_gates[gate].tangent);
    }
  }
  *state = d.value;
  *state_t = d.tangent;
}

}  // namespace

// In the order of DType: f32, f64, bf16, f16.
std::string run_step(const StepTangent& step, cudaStream_t stream) {
  static void (*const kernels[4])(StepTangent) = {step_tangent<ArithmeticOf<float>>, step_tangent<ArithmeticOf<double>>,
                                                  step_tangent<ArithmeticOf<__nv_bfloat16>>,
                                                  step_tangent<ArithmeticOf<__half>>};
  return launch("step_tangent", kernels, step.dtype, step, blocks_of(step.rows, step.hidden), step.rows, step.hidden,
                stream);
}

std::string run_step(const StepTangentBackward& step, cudaStream_t stream) {
  static void (*const kernels[4])(StepTangentBackward) = {
      step_tangent_backward<ArithmeticOf<float>>, step_tangent_backward<ArithmeticOf<double>>,
      step_tangent_backward<ArithmeticOf<__nv_bfloat16>>, step_tangent_backward<ArithmeticOf<__half>>};
  return launch("step_tangent_backward", kernels, step.dtype, step, blocks_of(step.rows, step.hidden), step.rows,
                step.hidden, stream);
}

}  // namespace gru_fused::cuda
