// The ops on a CUDA device. The products over all steps (inputs, weights' gradients) are torch's; the time steps are
// csrc/cuda's. Compiled for the CPU too, with csrc/cuda's kernels emulated, as a library of the tests.
#include "cuda_run.h"
#include "cuda_tangent.h"
#include "cuda_variant.h"
#include "entry.h"
#include "variant_entry.h"

namespace gru_fused::ops {
namespace {

// ---- Forward, step by step.
void forward_steps(const Run& run, const ForwardCall& call, int d, const Tensor& inputs, const Tensor& w_hh,
                   const Tensor& like) {
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const ForwardDirection& my = call.params.direction[d];
  const Tensor state = wide_copy(run, call.hx, d, like);
  const bool narrow = size_of(shape.dtype) == 2;
  Tensor operand = narrow ? torch::stable::clone(torch::stable::contiguous(state_of(call.hx, d))) : state;
  const Tensor products = new_tensor(like, {shape.batch, 3 * H}), w_t = transposed(w_hh);
  const Rows<const void> all_inputs = read_only(all_steps(shape, inputs));
  for (int64_t step = 0; step < shape.steps; ++step) {
    const int64_t t = shape.time_of(step, d), alive = shape.rows_at(t);
    multiply(rows(products, 0, alive), rows(operand, 0, alive), w_t);
    cuda::StepForward one{};
    one.dtype = shape.dtype;
    one.rows = alive;
    one.hidden = H;
    one.inputs = of_step(shape, all_inputs, t);
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

// The forward of one step: the states need no copy that goes from step to step.
void forward_single(const Run& run, const ForwardCall& call, int d, const Tensor& inputs, const Tensor& w_hh) {
  const ForwardDirection& my = call.params.direction[d];
  const Tensor products = new_tensor(w_hh, {run.shape.batch, 3 * run.shape.hidden});
  multiply(products, state_of(call.hx, d), transposed(w_hh));
  cuda::StepForward one{};
  one.dtype = run.shape.dtype;
  one.rows = run.shape.batch;
  one.hidden = run.shape.hidden;
  one.inputs = read_only(matrix_of(inputs));
  one.products = read_only(matrix_of(products));
  one.b_ih = my.b_ih;
  one.b_hh = my.b_hh;
  one.previous = my.hx;
  one.operand = my.h_n;
  if (my.output.data != my.h_n.data) one.output = my.output;  // they are one in a cell
  one.gates = my.gates;
  check_status(cuda::run_step(one, run.stream));
}

// ---- Backward, step by step.
// The gates' gradients of one step.
cuda::SingleBackward single_gates(const Run& run, const BackwardDirection& my, const Rows<const void>& gates,
                                  const Rows<void>& grads) {
  cuda::SingleBackward one{};
  one.dtype = run.shape.dtype;
  one.rows = run.shape.batch;
  one.hidden = run.shape.hidden;
  one.grad_output = my.grad_output;
  one.grad_h_n = my.grad_h_n;
  one.hx = my.hx;
  one.gates = gates;
  one.grads = grads;
  check_status(cuda::run_single(one, run.stream));
  return one;
}

void backward_single(const Run& run, const BackwardCall& call, int d, const Rows<const void>& gates,
                     const Tensor& grads, const Tensor& w_hh) {
  const int64_t B = run.shape.batch, H = run.shape.hidden;
  const BackwardDirection& my = call.params.direction[d];
  cuda::SingleBackward one = single_gates(run, my, gates, matrix_of(grads));
  const Tensor products = new_tensor(w_hh, {B, H});
  multiply(products, columns(grads, 3 * H, 3 * H), w_hh);
  one.products = read_only(matrix_of(products));
  one.grad_hx = my.grad_hx;
  check_status(cuda::run_single(one, run.stream));
}

// The backward of one step that few rows take: of each direction a kernel, and one for all products.
void backward_few(const Run& run, const BackwardCall& call, const std::optional<Tensor>& again, const Tensor& like) {
  const Tensor grads = call.layer.new_rows(like, 6 * run.shape.hidden);
  cuda::SingleGradients all{};
  all.params = call.params;
  for (int d = 0; d < run.shape.directions; ++d) {
    BackwardDirection& my = all.params.direction[d];
    if (again) my.gates = call.layer.own_rows<const void>(*again, d);
    const Rows<void> mine = call.layer.own_rows<void>(grads, d);
    single_gates(run, my, my.gates, mine);
    all.grads[d] = read_only(mine);
  }
  check_status(cuda::run_single(all, run.stream));
}

void backward_steps(const Run& run, const BackwardCall& call, int d, const Rows<const void>& gates, const Tensor& grads,
                    const Tensor& previous, const Tensor& w_hh, const Tensor& like) {
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const BackwardDirection& my = call.params.direction[d];
  const Tensor state = wide_copy(run, call.grad_h_n, d, like);
  const Tensor weights = reordered(w_hh), products = new_tensor(like, {shape.batch, H});
  const Rows<const void> all_previous = read_only(all_steps(shape, previous));
  const Rows<void> all_grads = all_steps(shape, grads);
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
      one.previous = of_step(shape, all_previous, t);
      one.gates = of_step(shape, gates, t);
      one.grads = of_step(shape, all_grads, t);
    }
    check_status(cuda::run_step(one, run.stream));
    if (step == 0) break;
    multiply(rows(products, 0, alive), block(grads, run.first_row(t), alive, 0, 3 * H), weights);
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

// Of the arrays, only the output's gradient has strides that are the caller's.
bool has_small_steps(const Shape& shape, const BackwardCall& call) {
  for (int d = 0; d < shape.directions; ++d) {
    const int64_t bytes = cuda::row_step_bytes(shape, call.params.direction[d].grad_output, size_of(shape.dtype));
    if (bytes > std::numeric_limits<uint32_t>::max()) return false;
  }
  return true;
}

}  // namespace

struct Cuda {
  static void forward(const ForwardCall& call, const Tensor& x, const Weights& weights, bool tf32) {
    const Shape& shape = call.layer.shape();
    if (shape.batch == 0 || shape.hidden == 0) return;
    const Run run(shape, x, tf32, false);
    const cuda::Plan plan = run.plan();
    if (plan.regime == cuda::Regime::single) return check_status(cuda::run_single(call.params, run.stream));
    const int64_t H = shape.hidden;
    const Tensor input = flat(x);
    const Tensor all = call.gates ? *call.gates : call.layer.new_rows(x, 3 * H);
    cuda::ForwardLoop loop{};
    loop.shape = run.on_device;
    for (int d = 0; d < shape.directions; ++d) {
      const Tensor inputs = columns(of_direction(all, d), 0, 3 * H);
      multiply(inputs, input, transposed(weights.w_ih(d)));
      if (plan.regime == cuda::Regime::steps) {
        if (shape.steps == 1)
          forward_single(run, call, d, inputs, weights.w_hh(d));
        else
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
    const cuda::Plan plan = run.plan(has_small_steps(run.shape, call));
    const bool by_steps = plan.regime == cuda::Regime::steps, recompute = call.params.recompute();
    const bool few = plan.regime == cuda::Regime::single;

    std::vector<Tensor> previous;
    if (by_steps || recompute || (need_weights && !few))
      for (int d = 0; d < shape.directions; ++d) {
        const BackwardDirection& my = call.params.direction[d];
        previous.push_back(shape.steps == 1 ? state_of(call.hx, d)
                                            : run.previous_states(d, my.hx, my.output, x, all_rows));
      }
    std::optional<Tensor> again;
    if (recompute) again = made_again(run, call, x, weights, previous);
    if (few) return backward_few(run, call, again, x);

    const bool one_step = by_steps && shape.steps == 1;
    const Tensor all = call.layer.new_rows(x, (one_step ? 6 : 4) * H);  // gradients of the gates
    cuda::BackwardLoop loop{};
    loop.shape = run.on_device;
    for (int d = 0; d < shape.directions; ++d) {
      const BackwardDirection& my = call.params.direction[d];
      const Rows<const void> gates = again ? call.layer.own_rows<const void>(*again, d) : my.gates;
      if (one_step)
        backward_single(run, call, d, gates, of_direction(all, d), weights.w_hh(d));
      else if (by_steps)
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
      if (call.grad_x)
        multiply(of_direction(*call.grad_x, d), columns(grads, one_step ? 0 : H, 3 * H), weights.w_ih(d));
      if (!need_weights) continue;
      const bool bias = weights.has_bias();
      const Tensor* const to = &call.grad_weights[d * (bias ? 4 : 2)];
      if (one_step)
        weight_gradients_of_single(run, to, bias, input, grads, previous[d]);
      else
        weight_gradients(run, to, bias, input, grads, previous[d], previous[d]);
    }
  }
};

}  // namespace gru_fused::ops

#ifdef GRU_FUSED_EMULATED
STABLE_TORCH_LIBRARY_IMPL(gru_fused_emulated, CPU, m) {
  GRU_FUSED_REGISTER(m, gru_fused::ops::Cuda);
  GRU_FUSED_REGISTER_TANGENT(m);
  GRU_FUSED_REGISTER_VARIANT(m, gru_fused::ops::CudaVariant);
}
#else
STABLE_TORCH_LIBRARY_IMPL(gru_fused, CUDA, m) {
  GRU_FUSED_REGISTER(m, gru_fused::ops::Cuda);
  GRU_FUSED_REGISTER_TANGENT(m);
  GRU_FUSED_REGISTER_VARIANT(m, gru_fused::ops::CudaVariant);
}
#endif
