// A variant's single steps with a norm over the 3H numbers of a row: a block has a row.
#include "variant_steps.cuh"

namespace gru_fused::cuda {
namespace {

constexpr int kWarps = kThreads / kWarp;

// The sum over a block, in one order. `shared` has a number for each warp.
template <class Value>
__device__ __forceinline__ Value block_sum(Value value, Value* shared) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  __syncthreads();  // the sum before has been read
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  Value sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp];
  return sum;
}

template <class Types>
__global__ void __launch_bounds__(kThreads) variant_norm(const __grid_constant__ VariantStepForward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  GRU_FUSED_DYNAMIC_SHARED(memory);
  Value* const shared = reinterpret_cast<Value*>(memory);
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, t = shape.time_of(call.step, call.direction), row = blockIdx.x;
  if (row >= shape.rows_at(t)) return;
  const bool alive = options_of_step<Types>(call).alive(call.step, row),
             sum = call.variant.cell.recurrence == Recurrence::norm_sum;
  const Scalar *const inputs = at<Scalar>(call.inputs, shape.step_offset(call.inputs, t), row, 0),
                      *const products = at<Scalar>(call.products, row, 0);
  const auto y = [&](int64_t i) { return widen<Value>(products[i]) + (sum ? widen<Value>(inputs[i]) : Value(0)); };

  Value mean = 0, scale = 0;
  if (alive) {
    Value of_thread = 0;
    for (int64_t i = threadIdx.x; i < 3 * H; i += kThreads) of_thread += y(i);
    mean = block_sum(of_thread, shared) / Value(3 * H);
    of_thread = 0;
    for (int64_t i = threadIdx.x; i < 3 * H; i += kThreads) of_thread += (y(i) - mean) * (y(i) - mean);
    const Value variance = block_sum(of_thread, shared) / Value(3 * H);
    scale = Value(1) / sqrt(variance + Value(call.variant.cell.epsilon));
  }
  if (call.scale.data && threadIdx.x == 0) *at<Value>(call.scale, shape.step_offset(call.scale, t), row, 0) = scale;

  Scalar* const saved = call.normal.data ? at<Scalar>(call.normal, shape.step_offset(call.normal, t), row, 0) : nullptr;
  const Scalar *const gain = static_cast<const Scalar*>(call.arguments.gain), *const bias =
                                                                                  static_cast<const Scalar*>(call.b_hh);
  for (int64_t unit = threadIdx.x; unit < H; unit += kThreads) {
    Value gi[3] = {}, gh[3] = {};
    for (int gate = 0; gate < 3; ++gate) {
      const int64_t i = gate * H + unit;
      const Value normal = alive ? (y(i) - mean) * scale : Value(0);
      if (saved) saved[i] = narrow<Scalar>(normal);
      gh[gate] = widen<Value>(gain[i]) * normal + widen<Value>(bias[i]);
      if (alive && !sum) gi[gate] = widen<Value>(inputs[i]);
    }
    finish_step<Types>(call, row, unit, alive, gi, gh);
  }
}

// g, the gradients of gh, go back through the norm:
//   dL/dy = scale (g gain - mean(g gain) - normal mean(g gain normal))
template <class Types>
__global__ void __launch_bounds__(kThreads) variant_norm_back(const __grid_constant__ VariantStepBackward call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  GRU_FUSED_DYNAMIC_SHARED(memory);
  Value* const shared = reinterpret_cast<Value*>(memory);
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden, row = blockIdx.x;
  const int64_t t = call.step < 0 ? 0 : shape.time_of(call.step, call.direction);
  const bool in_batch = call.step >= 0 && row < shape.rows_at(t);
  const Scalar* const gain = static_cast<const Scalar*>(call.arguments.gain);
  const auto of_row = [&](const auto& rows) { return at<Scalar>(rows, shape.step_offset(rows, t), row, 0); };

  Value sum = 0, along = 0;
  for (int64_t unit = threadIdx.x; unit < H; unit += kThreads) {
    const VariantGrads<Value> made = step_back<Types>(call, row, unit);
    if (!in_batch) continue;
    const Value g[3] = {made.r, made.z, made.nr}, of_inputs[3] = {made.r, made.z, made.n};
    for (int gate = 0; gate < 3; ++gate) {
      const int64_t i = gate * H + unit;
      const Value of_normal = g[gate] * widen<Value>(gain[i]), normal = widen<Value>(of_row(call.normal)[i]);
      sum += of_normal;
      along += of_normal * normal;
      if (call.grad_gain.data) of_row(call.grad_gain)[i] = narrow<Scalar>(g[gate] * normal);
      if (call.grad_inputs.data) of_row(call.grad_inputs)[i] = narrow<Scalar>(of_inputs[gate]);
    }
  }
  if (!in_batch) return;
  const Value mean = block_sum(sum, shared) / Value(3 * H), mean_along = block_sum(along, shared) / Value(3 * H);
  const Value scale = *at<Value>(call.scale, shape.step_offset(call.scale, t), row, 0);
  const Scalar* const grads = of_row(call.grads);  // nr, r, z
  for (int64_t unit = threadIdx.x; unit < H; unit += kThreads)
    for (int gate = 0; gate < 3; ++gate) {
      const int64_t i = gate * H + unit;
      const Value of_normal = widen<Value>(grads[(gate + 1) % 3 * H + unit]) * widen<Value>(gain[i]);
      of_row(call.grad_products)[i] =
          narrow<Scalar>(scale * (of_normal - mean - widen<Value>(of_row(call.normal)[i]) * mean_along));
    }
}

template <class Call>
std::string launch_rows(const char* name, void (*const (&kernels)[4])(Call), const Call& call, cudaStream_t stream) {
  const Shape& shape = call.shape;
  return launch(name, kernels, shape.dtype, call, shape.batch, shape.batch, shape.hidden, stream,
                kWarps * sizeof(double));
}

}  // namespace

std::string run_variant_norm(const VariantStepForward& step, cudaStream_t stream) {
  static void (*const kernels[4])(VariantStepForward) = GRU_FUSED_BY_DTYPE(variant_norm);
  return launch_rows("variant_norm", kernels, step, stream);
}

std::string run_variant_norm(const VariantStepBackward& step, cudaStream_t stream) {
  static void (*const kernels[4])(VariantStepBackward) = GRU_FUSED_BY_DTYPE(variant_norm_back);
  return launch_rows("variant_norm_back", kernels, step, stream);
}

}  // namespace gru_fused::cuda
