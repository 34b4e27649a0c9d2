// The ops on a CUDA device. The products over all steps (inputs, weights' gradients) are torch's; the time steps are
// csrc/cuda's. Compiled for the CPU too, with csrc/cuda's kernels emulated, as a library of the tests.
#include <cstdlib>
#include <cstring>

#include "../cuda/kernels.h"
#include "entry.h"
#include "stream.h"

namespace gru_fused::ops {
namespace {

void check_status(const std::string& status) { check(status.empty(), "CUDA: ", status); }

// ---- Matrices: views of two dimensions.
Tensor columns(const Tensor& matrix, int64_t first, int64_t count) {
  return strided(matrix, first * matrix.stride(1), {matrix.size(0), count}, {matrix.stride(0), matrix.stride(1)});
}
Tensor rows(const Tensor& matrix, int64_t first, int64_t count) {
  return strided(matrix, first * matrix.stride(0), {count, matrix.size(1)}, {matrix.stride(0), matrix.stride(1)});
}
Tensor transposed(const Tensor& matrix) {
  return strided(matrix, 0, {matrix.size(1), matrix.size(0)}, {matrix.stride(1), matrix.stride(0)});
}
Tensor of_direction(const Tensor& array, int64_t d) {  // of [D, rows, n]
  return strided(array, d * array.stride(0), {array.size(1), array.size(2)}, {array.stride(1), array.stride(2)});
}

// [T, B, n] or [rows, n] as [rows, n].
Tensor flat(const Tensor& steps) {
  if (steps.dim() == 2) return steps;
  const int64_t T = steps.size(0), B = steps.size(1), n = steps.size(2);
  // An axis of one element has any stride, even in a contiguous array.
  const int64_t row = B == 1 ? steps.stride(0) : steps.stride(1);
  if (T == 1 || B == 1 || steps.stride(0) == B * row) return strided(steps, 0, {T * B, n}, {row, steps.stride(2)});
  return strided(torch::stable::contiguous(steps), 0, {T * B, n}, {n, 1});
}

void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
  using torch::stable::detail::from;
  StableIValue stack[3] = {from(a), from(b), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack, TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

void sum_rows(Tensor out, const Tensor& matrix) {
  const int64_t first = 0;
  torch::stable::sum_out(out, matrix, torch::headeronly::IntHeaderOnlyArrayRef(&first, 1));
}

Tensor part(const Tensor& vector, int64_t first, int64_t count) { return strided(vector, first, {count}, {1}); }

// torch's functions with an output refuse arguments that require a gradient, unless nobody records.
class NoGrad {
 public:
  NoGrad() : before_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~NoGrad() { aoti_torch_grad_mode_set_enabled(before_); }
  NoGrad(const NoGrad&) = delete;

 private:
  const bool before_;
};

// ---- What a call of either kind has in common.
class Run {
 public:
  Run(const Shape& shape, const Tensor& like, bool tf32, bool backward)
      : guard(like), stream(guard.stream()), shape(shape), on_device(shape) {
    check_status(cuda::current_device(device));
    problem.arithmetic = arithmetic_of(shape.dtype, tf32);
    problem.batch = shape.batch;
    problem.hidden = shape.hidden;
    problem.directions = shape.directions;
    problem.backward = backward;
    if (!shape.batch_sizes) return;
    const int64_t T = shape.steps;
    Tensor host = torch::stable::empty({2 * T}, ScalarType::Long);
    auto* const numbers = static_cast<int64_t*>(host.data_ptr());
    std::memcpy(numbers, shape.batch_sizes, T * sizeof(int64_t));
    std::memcpy(numbers + T, shape.offsets, T * sizeof(int64_t));
    sizes = torch::stable::new_empty(like, {2 * T}, ScalarType::Long);
    torch::stable::copy_(*sizes, host);
    on_device.batch_sizes = static_cast<const int64_t*>(sizes->data_ptr());
    on_device.offsets = on_device.batch_sizes + T;
  }

  cuda::Plan plan() const {
    cuda::Plan plan;
    check_status(cuda::resident_plan(device, problem, allowed(), plan));
    return plan;
  }

  template <class Loop>
  void loop(const cuda::Plan& plan, const Loop& loop, const Tensor& like) const {
    const int64_t bytes = cuda::workspace_bytes(plan);
    std::optional<Tensor> workspace;
    if (bytes) workspace = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
    check_status(cuda::run_loop(plan, loop, workspace ? workspace->data_ptr() : nullptr, stream));
  }

  // States as the kernels of single steps keep them: [B, H].
  Tensor wide_states(const Tensor& like) const {
    const auto dtype = shape.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
    return torch::stable::new_empty(like, {shape.batch, shape.hidden}, dtype);
  }

  // The states before each step, [rows, H].
  Tensor previous_states(int d, const Rows<const void>& hx, const Rows<const void>& output, const Tensor& like,
                         int64_t all_rows) const {
    const Tensor previous = new_tensor(like, {all_rows, shape.hidden});
    check_status(cuda::run_previous({on_device, d, hx, output, previous.data_ptr()}, stream));
    return previous;
  }

  int64_t first_row(int64_t t) const { return shape.offsets ? shape.offsets[t] : t * shape.batch; }

  const NoGrad no_grad;
  const DeviceGuard guard;
  const cudaStream_t stream;
  const Shape shape;
  Shape on_device;  // its arrays are the device's
  std::optional<Tensor> sizes;
  cuda::Device device;
  cuda::Problem problem;

 private:
  static cuda::Arithmetic arithmetic_of(DType dtype, bool tf32) {
    switch (dtype) {
      case DType::f32:
        return tf32 ? cuda::Arithmetic::tf32 : cuda::Arithmetic::f32;
      case DType::f64:
        return cuda::Arithmetic::f64;
      case DType::bf16:
        return cuda::Arithmetic::bf16;
      case DType::f16:
        break;
    }
    return cuda::Arithmetic::f16;
  }

  // GRU_FUSED_CUDA_REGIME: block, cluster, packets, flags or steps, for tests and measurements; steps if it can't be.
  static cuda::Allowed allowed() {
    const char* const wanted = std::getenv("GRU_FUSED_CUDA_REGIME");
    if (!wanted || !*wanted) return {};
    cuda::Allowed allowed{false, false, false, false, false};
    bool* const flags[] = {&allowed.block, &allowed.cluster, &allowed.packets, &allowed.flags, &allowed.steps};
    const char* const names[] = {"block", "cluster", "packets", "flags", "steps"};
    for (int i = 0; i < 5; ++i)
      if (!std::strcmp(wanted, names[i])) {
        *flags[i] = true;
        return allowed;
      }
    fail("the environment variable GRU_FUSED_CUDA_REGIME: expected block, cluster, packets, flags or steps, got ",
         wanted);
  }
};

Rows<void> matrix_of(const Tensor& matrix) { return {matrix.data_ptr(), 0, matrix.stride(0)}; }
Rows<const void> read_only(const Rows<void>& rows) { return {rows.data, rows.step, rows.row}; }

// The rows of one step.
template <class Void>
Rows<Void> of_step(const Shape& shape, const Rows<Void>& all, int64_t t) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  if (!all.data) return all;
  return {static_cast<Byte*>(all.data) + shape.step_offset(all, t) * size_of(shape.dtype), 0, all.row};
}

// A state's rows as a tensor: the arguments' own strides, or the ones of an array [.., B, H].
Tensor state_of(const Tensor& states, int d) {
  const int64_t dim = states.dim();
  return strided(states, dim == 3 ? d * states.stride(0) : 0, {states.size(dim - 2), states.size(dim - 1)},
                 {states.stride(dim - 2), states.stride(dim - 1)});
}

// ---- Forward, step by step.
void forward_steps(const Run& run, const ForwardCall& call, int d, const Tensor& inputs, const Tensor& w_hh,
                   const Tensor& like) {
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const ForwardDirection& my = call.params.direction[d];
  Tensor state = run.wide_states(like);
  torch::stable::copy_(state, state_of(call.hx, d));
  const bool narrow = size_of(shape.dtype) == 2;
  Tensor operand = narrow ? torch::stable::clone(torch::stable::contiguous(state_of(call.hx, d))) : state;
  const Tensor products = new_tensor(like, {shape.batch, 3 * H}), w_t = transposed(w_hh);
  for (int64_t step = 0; step < shape.steps; ++step) {
    const int64_t t = shape.time_of(step, d), alive = shape.rows_at(t);
    multiply(rows(products, 0, alive), rows(operand, 0, alive), w_t);
    cuda::StepForward one{};
    one.dtype = shape.dtype;
    one.rows = alive;
    one.hidden = H;
    one.inputs = read_only(matrix_of(rows(inputs, run.first_row(t), alive)));
    one.products = read_only(matrix_of(products));
    one.b_ih = my.b_ih;
    one.b_hh = my.b_hh;
    one.state = state.data_ptr();
    if (narrow) one.operand = matrix_of(operand);
    one.output = of_step(shape, my.output, t);
    one.gates = of_step(shape, my.gates, t);
    check_status(cuda::run_step(one, run.stream));
  }
  Tensor last = state_of(call.h_n, d);
  torch::stable::copy_(last, state);
}

// ---- Backward, step by step.
void backward_steps(const Run& run, const BackwardCall& call, int d, const Rows<const void>& gates, const Tensor& grads,
                    const Tensor& previous, const Tensor& w_hh, const Tensor& like) {
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const BackwardDirection& my = call.params.direction[d];
  Tensor state = run.wide_states(like);
  if (call.grad_h_n)
    torch::stable::copy_(state, state_of(*call.grad_h_n, d));
  else
    torch::stable::zero_(state);
  // d_gh lies as n, r, z in the first 3H columns of the gates' gradients.
  const Tensor reordered = new_tensor(like, {3 * H, H}), products = new_tensor(like, {shape.batch, H});
  Tensor n = rows(reordered, 0, H), rz = rows(reordered, H, 2 * H);
  torch::stable::copy_(n, rows(w_hh, 2 * H, H));
  torch::stable::copy_(rz, rows(w_hh, 0, 2 * H));
  int64_t multiplied = 0;
  for (int64_t step = shape.steps; step >= 0; --step) {
    // After the first step of the direction, what is left is dL/dhx.
    const int64_t t = step > 0 ? shape.time_of(step - 1, d) : 0, alive = step > 0 ? shape.rows_at(t) : 0;
    cuda::StepBackward one{};
    one.dtype = shape.dtype;
    one.rows = std::max(alive, multiplied);
    one.alive = alive;
    one.multiplied = multiplied;
    one.hidden = H;
    one.products = read_only(matrix_of(products));
    one.state = state.data_ptr();
    if (step > 0) {
      one.grad_output = of_step(shape, my.grad_output, t);
      one.previous = read_only(matrix_of(rows(previous, run.first_row(t), alive)));
      one.gates = of_step(shape, gates, t);
      one.grads = matrix_of(rows(grads, run.first_row(t), alive));
    }
    check_status(cuda::run_step(one, run.stream));
    if (step == 0) break;
    multiply(rows(products, 0, alive), columns(rows(grads, run.first_row(t), alive), 0, 3 * H), reordered);
    multiplied = alive;
  }
  Tensor grad_hx = state_of(call.grad_hx, d);
  torch::stable::copy_(grad_hx, state);
}

// The gates of a forward that saved none.
Tensor made_again(const Run& run, const BackwardCall& call, const Tensor& x, const Weights& weights,
                  const std::vector<Tensor>& previous) {
  const int64_t H = run.shape.hidden, all_rows = call.layer.rows();
  const Tensor gates = call.layer.new_rows(x, 4 * H), products = new_tensor(x, {all_rows, 3 * H});
  for (int d = 0; d < run.shape.directions; ++d) {
    const Tensor mine = of_direction(gates, d), inputs = columns(mine, 0, 3 * H);
    multiply(inputs, flat(x), transposed(weights.w_ih(d)));
    multiply(products, previous[d], transposed(weights.w_hh(d)));
    cuda::StepForward all{};
    all.dtype = run.shape.dtype;
    all.rows = all_rows;
    all.hidden = H;
    all.inputs = read_only(matrix_of(inputs));
    all.products = read_only(matrix_of(products));
    all.b_ih = call.params.direction[d].b_ih;
    all.b_hh = call.params.direction[d].b_hh;
    all.previous = read_only(matrix_of(previous[d]));
    all.gates = matrix_of(mine);
    check_status(cuda::run_step(all, run.stream));
  }
  return gates;
}

void weight_gradients(const BackwardCall& call, int d, bool bias, const Tensor& x, const Tensor& grads,
                      const Tensor& previous, int64_t H) {
  const Tensor* const to = &call.grad_weights[d * (bias ? 4 : 2)];
  multiply(to[0], transposed(columns(grads, H, 3 * H)), x);
  multiply(rows(to[1], 0, 2 * H), transposed(columns(grads, H, 2 * H)), previous);
  multiply(rows(to[1], 2 * H, H), transposed(columns(grads, 0, H)), previous);
  if (!bias) return;
  sum_rows(to[2], columns(grads, H, 3 * H));
  Tensor rz = part(to[3], 0, 2 * H);
  torch::stable::copy_(rz, part(to[2], 0, 2 * H));
  sum_rows(part(to[3], 2 * H, H), columns(grads, 0, H));
}

}  // namespace

struct Cuda {
  static void forward(const ForwardCall& call, const Tensor& x, const Weights& weights, bool tf32) {
    const Shape& shape = call.layer.shape();
    if (shape.batch == 0 || shape.hidden == 0) return;
    const Run run(shape, x, tf32, false);
    const int64_t H = shape.hidden;
    const Tensor input = flat(x);
    const Tensor all = call.gates ? *call.gates : call.layer.new_rows(x, 3 * H);
    cuda::ForwardLoop loop{};
    loop.shape = run.on_device;
    const cuda::Plan plan = run.plan();
    for (int d = 0; d < shape.directions; ++d) {
      const Tensor inputs = columns(of_direction(all, d), 0, 3 * H);
      multiply(inputs, input, transposed(weights.w_ih(d)));
      if (plan.regime == cuda::Regime::steps) {
        forward_steps(run, call, d, inputs, weights.w_hh(d), x);
        continue;
      }
      const ForwardDirection& my = call.params.direction[d];
      const int64_t row = inputs.stride(0);
      loop.direction[d] = {
          {inputs.data_ptr(), shape.batch * row, row}, my.hx, my.w_hh, my.b_ih, my.b_hh, my.output, my.h_n, my.gates};
    }
    if (plan.regime != cuda::Regime::steps) run.loop(plan, loop, x);
  }

  static void backward(const BackwardCall& call, const Tensor& x, const Weights& weights, bool tf32) {
    const Shape& shape = call.layer.shape();
    const int64_t H = shape.hidden, all_rows = call.layer.rows();
    const bool need_weights = !call.grad_weights.empty();
    if (shape.batch == 0 || H == 0) {
      for (Tensor grad : call.grad_weights) torch::stable::zero_(grad);
      return;
    }
    const Run run(shape, x, tf32, true);
    const cuda::Plan plan = run.plan();
    const bool by_steps = plan.regime == cuda::Regime::steps, recompute = call.params.recompute();

    std::vector<Tensor> previous;
    if (by_steps || recompute || need_weights)
      for (int d = 0; d < shape.directions; ++d)
        previous.push_back(
            run.previous_states(d, call.params.direction[d].hx, call.params.direction[d].output, x, all_rows));
    std::optional<Tensor> again;
    if (recompute) again = made_again(run, call, x, weights, previous);

    const Tensor all = call.layer.new_rows(x, 4 * H);  // gradients of the gates
    cuda::BackwardLoop loop{};
    loop.shape = run.on_device;
    for (int d = 0; d < shape.directions; ++d) {
      const BackwardDirection& my = call.params.direction[d];
      const Rows<const void> gates = again ? call.layer.own_rows<const void>(*again, d) : my.gates;
      if (by_steps)
        backward_steps(run, call, d, gates, of_direction(all, d), previous[d], weights.w_hh(d), x);
      else
        loop.direction[d] = {
            my.grad_output, my.grad_h_n, my.hx, my.w_hh, my.output, gates, call.layer.own_rows<void>(all, d),
            my.grad_hx};
    }
    if (!by_steps) run.loop(plan, loop, x);

    const Tensor input = flat(x);
    for (int d = 0; d < shape.directions; ++d) {
      const Tensor grads = of_direction(all, d);
      if (call.grad_x) multiply(of_direction(*call.grad_x, d), columns(grads, H, 3 * H), weights.w_ih(d));
      if (need_weights) weight_gradients(call, d, weights.has_bias(), input, grads, previous[d], H);
    }
  }
};

}  // namespace gru_fused::ops

#ifdef GRU_FUSED_EMULATED
STABLE_TORCH_LIBRARY_IMPL(gru_fused_emulated, CPU, m) { GRU_FUSED_REGISTER(m, gru_fused::ops::Cuda); }
#else
STABLE_TORCH_LIBRARY_IMPL(gru_fused, CUDA, m) { GRU_FUSED_REGISTER(m, gru_fused::ops::Cuda); }
#endif
