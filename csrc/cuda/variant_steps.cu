// A variant's single steps without a norm, and what the products over all of its steps are made with.
#include "variant_steps.cuh"

namespace gru_fused::cuda {
namespace {

template <class Types>
__global__ void __launch_bounds__(kThreads) variant_begin(const __grid_constant__ VariantStepForward call) {
  const int64_t H = call.shape.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.shape.batch * H) return;
  const int64_t row = index / H, unit = index % H;
  begin_step<Types>(call, 0, row, unit, widen<typename Types::Value>(*at<typename Types::Scalar>(call.hx, row, unit)));
}

// gi or gh of one gate, with its bias.
template <class Types>
__device__ __forceinline__ typename Types::Value argument(const typename Types::Scalar* row, const void* bias,
                                                          int64_t column) {
  using Value = typename Types::Value;
  const Value number = widen<Value>(row[column]);
  return bias ? number + widen<Value>(static_cast<const typename Types::Scalar*>(bias)[column]) : number;
}

template <class Types>
__global__ void __launch_bounds__(kThreads) variant_reset(const __grid_constant__ VariantStepForward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t t = shape.time_of(call.step, call.direction), row = index / H, unit = index % H;
  const auto options = options_of_step<Types>(call);
  if (index >= shape.rows_at(t) * H || !options.alive(call.step, row)) return;
  const Value r = activate<typename Types::Math>(
      call.variant.cell.gate,
      argument<Types>(at<Scalar>(call.inputs, shape.step_offset(call.inputs, t), row, 0), call.b_ih, unit) +
          argument<Types>(at<Scalar>(call.products, row, 0), call.b_hh, unit));
  const Value h0 = static_cast<const Value*>(call.state)[index];
  static_cast<Scalar*>(call.operand)[index] = narrow<Scalar>(r * h0 * options.dropout(row, unit));
}

template <class Types>
__global__ void __launch_bounds__(kThreads) variant_finish(const __grid_constant__ VariantStepForward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t t = shape.time_of(call.step, call.direction), row = index / H, unit = index % H;
  if (index >= shape.rows_at(t) * H) return;
  const bool alive = options_of_step<Types>(call).alive(call.step, row);
  Value gi[3] = {}, gh[3] = {};
  for (int gate = 0; gate < 3 && alive; ++gate) {
    gi[gate] =
        argument<Types>(at<Scalar>(call.inputs, shape.step_offset(call.inputs, t), row, 0), call.b_ih, gate * H + unit);
    gh[gate] = argument<Types>(at<Scalar>(call.products, row, 0), call.b_hh, gate * H + unit);
  }
  finish_step<Types>(call, row, unit, alive, gi, gh);
}

template <class Types>
__global__ void __launch_bounds__(kThreads) variant_back(const __grid_constant__ VariantStepBackward call) {
  const int64_t H = call.shape.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index < call.shape.batch * H) step_back<Types>(call, index / H, index % H);
}

template <class Types>
__global__ void __launch_bounds__(kThreads) variant_reset_back(const __grid_constant__ VariantStepBackward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t t = shape.time_of(call.step, call.direction), row = index / H, unit = index % H;
  const auto options = options_of_step<Types>(call);
  if (index >= shape.rows_at(t) * H || !options.alive(call.step, row)) return;
  const Value r = widen<Value>(*at<Scalar>(call.gates, shape.step_offset(call.gates, t), row, unit));
  const Value through = widen<Value>(*at<Scalar>(call.candidate, row, unit)), mask = options.dropout(row, unit);
  const Value hd = options.state_before(call.step, row, unit, call.hx, call.output) * mask;
  at<Scalar>(call.grads, shape.step_offset(call.grads, t), row, unit)[H] =
      narrow<Scalar>(through * hd * slope<typename Types::Math>(call.variant.cell.gate, r));
  static_cast<Value*>(call.state)[index] += through * r * mask;
}

// A block has the rows of one step.
template <class Types>
__global__ void __launch_bounds__(kThreads) variant_operands(const __grid_constant__ VariantOperands call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  const Shape& shape = call.shape;
  const Options<Scalar, Value> options{call.variant, call.arguments, shape, call.direction};
  const int64_t H = shape.hidden, step = blockIdx.x, t = shape.time_of(step, call.direction);
  const int64_t offset = shape.step_offset(Rows<void>{call.hd, shape.batch * H, H}, t);
  for (int64_t i = threadIdx.x; i < shape.rows_at(t) * H; i += kThreads) {
    const int64_t row = i / H, unit = i % H;
    const bool alive = options.alive(step, row);
    const Value hd =
        alive ? options.state_before(step, row, unit, call.hx, call.output) * options.dropout(row, unit) : Value(0);
    static_cast<Scalar*>(call.hd)[offset + i] = narrow<Scalar>(hd);
    if (!call.reset_hd) continue;
    const Value r =
        alive ? widen<Value>(*at<Scalar>(call.gates, shape.step_offset(call.gates, t), row, unit)) : Value(0);
    static_cast<Scalar*>(call.reset_hd)[offset + i] = narrow<Scalar>(r * hd);
  }
}

// A block has the rows of one step.
template <class Types>
__global__ void __launch_bounds__(kThreads) alive_rows(const __grid_constant__ AliveRows call) {
  using Scalar = typename Types::Scalar;
  const Shape& shape = call.shape;
  const int64_t t = blockIdx.x, n = call.columns;
  const int64_t from = shape.step_offset(call.rows, t);
  Scalar* const to = static_cast<Scalar*>(call.copy) + shape.step_offset(Rows<void>{call.copy, shape.batch * n, n}, t);
  for (int64_t i = threadIdx.x; i < shape.rows_at(t) * n; i += kThreads)
    to[i] = call.variant.alive(shape, t, i / n) ? *at<Scalar>(call.rows, from, i / n, i % n) : narrow<Scalar>(0.f);
}

template <class Call>
std::string launch_units(const char* name, void (*const (&kernels)[4])(Call), const Call& call, cudaStream_t stream) {
  const Shape& shape = call.shape;
  return launch(name, kernels, shape.dtype, call, blocks_of(shape.batch, shape.hidden), shape.batch, shape.hidden,
                stream);
}

}  // namespace

std::string run_variant_step(ForwardPhase phase, const VariantStepForward& step, cudaStream_t stream) {
  static void (*const begin[4])(VariantStepForward) = GRU_FUSED_BY_DTYPE(variant_begin);
  static void (*const reset[4])(VariantStepForward) = GRU_FUSED_BY_DTYPE(variant_reset);
  static void (*const finish[4])(VariantStepForward) = GRU_FUSED_BY_DTYPE(variant_finish);
  if (phase == ForwardPhase::begin) return launch_units("variant_begin", begin, step, stream);
  if (phase == ForwardPhase::reset) return launch_units("variant_reset", reset, step, stream);
  return launch_units("variant_finish", finish, step, stream);
}

std::string run_variant_step(BackwardPhase phase, const VariantStepBackward& step, cudaStream_t stream) {
  static void (*const back[4])(VariantStepBackward) = GRU_FUSED_BY_DTYPE(variant_back);
  static void (*const reset[4])(VariantStepBackward) = GRU_FUSED_BY_DTYPE(variant_reset_back);
  if (phase == BackwardPhase::step) return launch_units("variant_back", back, step, stream);
  return launch_units("variant_reset_back", reset, step, stream);
}

std::string run_variant_operands(const VariantOperands& call, cudaStream_t stream) {
  static void (*const kernels[4])(VariantOperands) = GRU_FUSED_BY_DTYPE(variant_operands);
  const Shape& shape = call.shape;
  return launch("variant_operands", kernels, shape.dtype, call, shape.steps, shape.steps, shape.hidden, stream);
}

std::string run_alive_rows(const AliveRows& call, cudaStream_t stream) {
  static void (*const kernels[4])(AliveRows) = GRU_FUSED_BY_DTYPE(alive_rows);
  const Shape& shape = call.shape;
  return launch("alive_rows", kernels, shape.dtype, call, shape.steps, shape.steps, shape.hidden, stream);
}

}  // namespace gru_fused::cuda
