// Kernels without a loop over time: the gates of one step (or of many rows at once), and the states before each step.
#include <algorithm>

#include "steps.cuh"

namespace gru_fused::cuda {
namespace {

constexpr int kRowsOfBlock = kThreads / kWarp;  // of the copy of the states: a row at a time is a warp's

template <class Types>
__global__ void __launch_bounds__(kThreads) step_forward(const __grid_constant__ StepForward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const int64_t H = call.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * H) return;
  const int64_t row = index / H, unit = index % H;
  const auto bias = [&](const void* from, int gate) {
    return from ? widen<Value>(static_cast<const Scalar*>(from)[gate * H + unit]) : Value(0);
  };
  const Scalar *const inputs = at<Scalar>(call.inputs, row, unit), *const products =
                                                                       at<Scalar>(call.products, row, unit);
  const auto gi = [&](int gate) { return widen<Value>(inputs[gate * H]) + bias(call.b_ih, gate); };
  const auto gh = [&](int gate) { return widen<Value>(products[gate * H]) + bias(call.b_hh, gate); };
  Value* const state = static_cast<Value*>(call.state) + index;
  const Value h = call.state ? *state : widen<Value>(*at<Scalar>(call.previous, row, unit));
  const auto stepped = cell_forward<typename Types::Math>(gi(0), gi(1), gi(2), gh(0), gh(1), gh(2), h);
  if (call.state) *state = stepped.h;
  if (call.operand.data) *at<Scalar>(call.operand, row, unit) = narrow<Scalar>(stepped.h);
  if (call.output.data) *at<Scalar>(call.output, row, unit) = narrow<Scalar>(stepped.h);
  if (call.gates.data) store_gates(at<Scalar>(call.gates, row, unit), H, stepped.gates);
}

template <class Types>
__global__ void __launch_bounds__(kThreads) step_backward(const __grid_constant__ StepBackward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const int64_t H = call.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * H) return;
  const int64_t row = index / H, unit = index % H;
  Value* const state = static_cast<Value*>(call.state) + index;
  Value d = *state;
  if (row < call.multiplied) d += widen<Value>(*at<Scalar>(call.products, row, unit));
  if (row >= call.alive) {
    *state = d;
    return;
  }
  if (call.grad_output.data) d += widen<Value>(*at<Scalar>(call.grad_output, row, unit));
  const auto saved = saved_gates<Value>(at<Scalar>(call.gates, row, unit), H);
  const Value h = widen<Value>(*at<Scalar>(call.previous, row, unit));
  const auto grads = cell_backward<typename Types::Math>(d, saved, h);
  *state = grads.h;
  store_grads(at<Scalar>(call.grads, row, unit), H, grads);
}

// A warp has some rows of one step; the steps' blocks lie side by side.
template <class Types>
__global__ void __launch_bounds__(kThreads) previous_states(const __grid_constant__ PreviousStates call) {
  using Scalar = typename Types::Scalar;
  const Shape& shape = call.shape;
  const unsigned blocks = gridDim.x / unsigned(shape.steps);
  const int64_t step = blockIdx.x / blocks, H = shape.hidden, t = shape.time_of(step, call.direction);
  const int64_t rows = shape.rows_at(t), apart = int64_t(blocks) * kRowsOfBlock;
  const int64_t before = step > 0 ? shape.time_of(step - 1, call.direction) : 0;
  const int64_t alive_before = step > 0 ? shape.rows_at(before) : 0;
  const Rows<const void> source{call.output.data, call.output.step, call.output.row};
  const int64_t from = shape.step_offset(source, before);
  const Rows<void> dense{call.previous, shape.batch * H, H};
  Scalar* const to = static_cast<Scalar*>(call.previous) + shape.step_offset(dense, t);
  const int lane = int(threadIdx.x) % kWarp;
  for (int64_t row = blockIdx.x % blocks * kRowsOfBlock + threadIdx.x / kWarp; row < rows; row += apart) {
    const Scalar* const state =
        row < alive_before ? at<Scalar>(call.output, from, row, 0) : at<Scalar>(call.hx, 0, row, 0);
    GRU_FUSED_UNROLL_BY(4)
    for (int64_t unit = lane; unit < H; unit += kWarp) to[row * H + unit] = state[unit];
  }
}

}  // namespace

// In the order of DType: f32, f64, bf16, f16.
std::string run_step(const StepForward& step, cudaStream_t stream) {
  static void (*const kernels[4])(StepForward) = {step_forward<ArithmeticOf<float>>, step_forward<ArithmeticOf<double>>,
                                                  step_forward<ArithmeticOf<__nv_bfloat16>>,
                                                  step_forward<ArithmeticOf<__half>>};
  return launch("step_forward", kernels, step.dtype, step, blocks_of(step.rows, step.hidden), step.rows, step.hidden,
                stream);
}

std::string run_step(const StepBackward& step, cudaStream_t stream) {
  static void (*const kernels[4])(StepBackward) = {
      step_backward<ArithmeticOf<float>>, step_backward<ArithmeticOf<double>>,
      step_backward<ArithmeticOf<__nv_bfloat16>>, step_backward<ArithmeticOf<__half>>};
  return launch("step_backward", kernels, step.dtype, step, blocks_of(step.rows, step.hidden), step.rows, step.hidden,
                stream);
}

std::string run_previous(const PreviousStates& call, cudaStream_t stream) {
  static void (*const kernels[4])(PreviousStates) = {
      previous_states<ArithmeticOf<float>>, previous_states<ArithmeticOf<double>>,
      previous_states<ArithmeticOf<__nv_bfloat16>>, previous_states<ArithmeticOf<__half>>};
  const Shape& shape = call.shape;
  if (shape.steps == 0) return {};
  constexpr int64_t kMaxBlocks = int64_t(1) << 30;
  const int64_t wanted = (shape.batch + kRowsOfBlock - 1) / kRowsOfBlock, most = kMaxBlocks / shape.steps;
  const int64_t blocks = shape.steps * std::max<int64_t>(1, std::min(wanted, most));
  return launch("previous_states", kernels, shape.dtype, call, blocks, shape.steps, shape.hidden, stream);
}

}  // namespace gru_fused::cuda
