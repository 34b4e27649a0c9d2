// The backward of a layer of one step, of which nothing goes on to another step.
#include "steps.cuh"

namespace gru_fused::cuda {
namespace {

// Twice: first for the gradients of the gates; then, when their products with W_hh are there, for dL/dhx.
template <class Types, bool kProducts>
__global__ void __launch_bounds__(kThreads) single_backward(const __grid_constant__ SingleBackward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const int64_t H = call.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * H) return;
  const int64_t row = index / H, unit = index % H;
  const auto number = [&](const Rows<const void>& rows) {
    return rows.data ? widen<Value>(*at<Scalar>(rows, row, unit)) : Value(0);
  };
  const Value d = number(call.grad_output) + number(call.grad_h_n);
  const Scalar* const gates = at<Scalar>(call.gates, row, unit);
  if constexpr (kProducts) {
    const Value sum = d * widen<Value>(gates[H]) + number(call.products);
    *at<Scalar>(call.grad_hx, row, unit) = narrow<Scalar>(sum);
  } else {
    const auto grads = cell_backward<typename Types::Math>(d, saved_gates<Value>(gates, H), number(call.hx));
    Scalar* const to = at<Scalar>(call.grads, row, unit);
    to[0] = to[3 * H] = narrow<Scalar>(grads.r);
    to[H] = to[4 * H] = narrow<Scalar>(grads.z);
    to[2 * H] = narrow<Scalar>(grads.n);
    to[5 * H] = narrow<Scalar>(grads.nr);
  }
}

template <bool kProducts>
std::string run(const SingleBackward& call, cudaStream_t stream) {
  static void (*const kernels[4])(SingleBackward) = {
      single_backward<ArithmeticOf<float>, kProducts>, single_backward<ArithmeticOf<double>, kProducts>,
      single_backward<ArithmeticOf<__nv_bfloat16>, kProducts>, single_backward<ArithmeticOf<__half>, kProducts>};
  return launch("single_backward", kernels, call.dtype, call, blocks_of(call.rows, call.hidden), call.rows, call.hidden,
                stream);
}

}  // namespace

std::string run_single(const SingleBackward& call, cudaStream_t stream) {
  return call.products.data ? run<true>(call, stream) : run<false>(call, stream);
}

}  // namespace gru_fused::cuda
