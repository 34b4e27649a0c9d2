// The element-wise options of reset_after run within the fused loops. The n of reset_before and every norm need all
// units of a product before the next: they go step by step, as does what no loop can hold.
#include "cuda_variant.h"

#include "../cuda/variant_kernels.h"
#include "cuda_run.h"

namespace gru_fused::ops {
namespace {

template <class Step, class Params>
Step step_of(const Run& run, const Params& params, int d) {
  Step step{};
  step.shape = run.on_device;
  step.variant = params.variant;
  step.arguments = params.direction[d];
  step.direction = d;
  return step;
}

Tensor zeros(Tensor tensor) {
  torch::stable::zero_(tensor);
  return tensor;
}

// ---- Forward, step by step; inputs: gi without b_ih.
void forward_steps(const Run& run, const VariantForwardCall& call, int d, const Rows<const void>& inputs,
                   const Tensor& w_hh, const Tensor& like) {
  using cuda::ForwardPhase;
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const VariantForwardDirection& my = call.params.direction[d];
  const Cell& cell = call.params.variant.cell;
  const Tensor state = run.wide_states(like), operand = new_tensor(like, {shape.batch, H});
  const Tensor products = new_tensor(like, {shape.batch, 3 * H}), w_t = transposed(w_hh);
  auto one = step_of<cuda::VariantStepForward>(run, call.params, d);
  one.inputs = inputs;
  one.products = read_only(matrix_of(products));
  one.b_ih = my.b_ih;
  one.b_hh = my.b_hh;
  one.hx = my.hx;
  one.state = state.data_ptr();
  one.operand = operand.data_ptr();
  one.output = my.output;
  one.gates = my.gates;
  one.normal = my.normal;
  one.scale = my.scale;
  check_status(cuda::run_variant_step(ForwardPhase::begin, one, run.stream));
  for (int64_t step = 0; step < shape.steps; ++step) {
    const int64_t alive = shape.rows_at(shape.time_of(step, d));
    const Tensor of_rows = rows(operand, 0, alive), to = rows(products, 0, alive);
    one.step = step;
    if (cell.recurrence == Recurrence::reset_before) {
      multiply(columns(to, 0, 2 * H), of_rows, columns(w_t, 0, 2 * H));
      check_status(cuda::run_variant_step(ForwardPhase::reset, one, run.stream));
      multiply(columns(to, 2 * H, H), of_rows, columns(w_t, 2 * H, H));
    } else {
      multiply(to, of_rows, w_t);
    }
    check_status(cell.norm() ? cuda::run_variant_norm(one, run.stream)
                             : cuda::run_variant_step(ForwardPhase::finish, one, run.stream));
  }
  Tensor last = state_of(call.h_n, d);
  torch::stable::copy_(last, state);
}

// ---- Backward, step by step.
// What a direction leaves of its steps, [rows, n]: the gates' gradients; with a norm the gradients of what was
// normalised, and the terms of the gain's.
struct StepGrads {
  Tensor gates;
  OptionalTensor products, gain;
};

void backward_steps(const Run& run, const VariantBackwardCall& call, int d, const StepGrads& grads, const Tensor& w_hh,
                    const Tensor& like) {
  using cuda::BackwardPhase;
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const VariantBackwardDirection& my = call.params.direction[d];
  const Cell& cell = call.params.variant.cell;
  const bool reset_before = cell.recurrence == Recurrence::reset_before;
  const Tensor state = wide_copy(run, call.grad_h_n, d, like), products = new_tensor(like, {shape.batch, H});
  const OptionalTensor reset_state =
      my.grad_reset_state.data ? OptionalTensor(zeros(run.wide_states(like))) : std::nullopt;
  const OptionalTensor candidate = reset_before ? OptionalTensor(new_tensor(like, {shape.batch, H})) : std::nullopt;
  const Tensor weights = cell.two_phases() ? w_hh : reordered(w_hh);
  auto one = step_of<cuda::VariantStepBackward>(run, call.params, d);
  one.grad_output = my.grad_output;
  one.products = read_only(matrix_of(products));
  if (candidate) one.candidate = read_only(matrix_of(*candidate));
  one.hx = my.hx;
  one.output = my.output;
  one.gates = my.gates;
  one.normal = my.normal;
  one.scale = my.scale;
  one.state = state.data_ptr();
  one.grad_reset_state = reset_state ? reset_state->data_ptr() : nullptr;
  one.grads = all_steps(shape, grads.gates);
  one.grad_update = my.grad_update;
  if (grads.products) one.grad_products = all_steps(shape, *grads.products);
  if (grads.gain) one.grad_gain = all_steps(shape, *grads.gain);
  if (cell.recurrence == Recurrence::norm_recurrent) one.grad_inputs = my.grad_x;
  for (int64_t step = shape.steps - 1; step >= -1; --step) {
    one.step = step;
    check_status(cell.norm() ? cuda::run_variant_norm(one, run.stream)
                             : cuda::run_variant_step(BackwardPhase::step, one, run.stream));
    if (step < 0) break;
    const int64_t t = shape.time_of(step, d), alive = shape.rows_at(t);
    const auto of_step = [&](const Tensor& all, int64_t first, int64_t count) {
      return block(all, run.first_row(t), alive, first, count);
    };
    const Tensor to = rows(products, 0, alive);
    if (cell.norm()) {
      multiply(to, of_step(*grads.products, 0, 3 * H), weights);
    } else if (reset_before) {
      multiply(rows(*candidate, 0, alive), of_step(grads.gates, 3 * H, H), rows(weights, 2 * H, H));
      check_status(cuda::run_variant_step(BackwardPhase::reset, one, run.stream));
      multiply(to, of_step(grads.gates, H, 2 * H), rows(weights, 0, 2 * H));
    } else {
      multiply(to, of_step(grads.gates, 0, 3 * H), weights);
    }
  }
  Tensor grad_hx = state_of(call.grad_hx, d);
  torch::stable::copy_(grad_hx, state);
  if (!reset_state) return;
  Tensor grad_reset_state = state_of(*call.grad_reset_state, d);
  torch::stable::copy_(grad_reset_state, *reset_state);
}

void norm_weight_gradients(const Tensor* to, const StepGrads& grads, const Tensor& hd) {
  const int64_t H = hd.size(1);
  multiply(to[0], transposed(*grads.products), hd);
  sum_rows(to[1], *grads.gain);
  sum_rows(part(to[2], 0, 2 * H), columns(grads.gates, H, 2 * H));
  sum_rows(part(to[2], 2 * H, H), columns(grads.gates, 0, H));
}

// x where rows are alive: what stands past a row's length is no factor of a sum.
Tensor alive_inputs(const Run& run, const VariantBackwardCall& call, const Tensor& x) {
  const Variant& variant = call.params.variant;
  if (!variant.lengths) return flat(x);
  const int64_t I = run.shape.inputs;
  const Tensor copy = new_tensor(x, {call.layer.rows(), I});
  check_status(
      cuda::run_alive_rows({run.on_device, variant, call.params.direction[0].x, I, copy.data_ptr()}, run.stream));
  return copy;
}

}  // namespace

void CudaVariant::variant_forward(const VariantForwardCall& call, const Tensor& x, const VariantWeights& weights,
                                  bool tf32) {
  const Shape& shape = call.layer.shape();
  if (shape.batch == 0 || shape.hidden == 0) return;
  const Run run(shape, x, tf32, false, true);
  const int64_t H = shape.hidden;
  const Variant& variant = call.params.variant;
  cuda::Plan plan;  // by steps
  if (!variant.cell.two_phases()) plan = run.plan();
  const bool by_steps = plan.regime == cuda::Regime::steps;
  const OptionalTensor all = weights.norm() ? std::nullopt
                             : call.gates   ? call.gates
                                            : OptionalTensor(call.layer.new_rows(x, 3 * H));
  cuda::VariantForwardLoop loop{};
  loop.shape = run.on_device;
  loop.variant = variant;
  for (int d = 0; d < shape.directions; ++d) {
    const VariantForwardDirection& my = call.params.direction[d];
    Rows<const void> inputs = my.x;
    if (all) {
      const Tensor made = columns(of_direction(*all, d), 0, 3 * H);
      multiply(made, flat(x), transposed(weights.plain().w_ih(d)));
      inputs = read_only(all_steps(shape, made));
    }
    if (by_steps)
      forward_steps(run, call, d, inputs, weights.w_hh(d), x);
    else
      loop.direction[d] = {{inputs, my.hx, my.w_hh, my.b_ih, my.b_hh, my.output, my.h_n, my.gates},
                           static_cast<const VariantArguments&>(my)};
  }
  if (!by_steps) run.loop(plan, loop, x);
}

void CudaVariant::variant_backward(const VariantBackwardCall& call, const Tensor& x, const VariantWeights& weights,
                                   bool tf32) {
  const Shape& shape = call.layer.shape();
  const int64_t H = shape.hidden, all_rows = call.layer.rows();
  const bool need_weights = !call.grad_weights.empty(), norm = weights.norm();
  if (shape.batch == 0 || H == 0) {
    for (Tensor grad : call.grad_weights) torch::stable::zero_(grad);
    return;
  }
  const Run run(shape, x, tf32, true, true);
  const Variant& variant = call.params.variant;
  cuda::Plan plan;  // by steps
  if (!variant.cell.two_phases()) plan = run.plan();
  const bool by_steps = plan.regime == cuda::Regime::steps;

  cuda::VariantBackwardLoop loop{};
  loop.shape = run.on_device;
  loop.variant = variant;
  std::vector<StepGrads> grads;
  for (int d = 0; d < shape.directions; ++d) {
    const VariantBackwardDirection& my = call.params.direction[d];
    grads.push_back({new_tensor(x, {all_rows, 4 * H}), {}, {}});
    if (norm) {
      const bool as_x = call.grad_x && variant.cell.recurrence == Recurrence::norm_sum;
      grads[d].products = as_x ? columns(flat(*call.grad_x), d * 3 * H, 3 * H) : new_tensor(x, {all_rows, 3 * H});
      if (need_weights) grads[d].gain = new_tensor(x, {all_rows, 3 * H});
    }
    if (by_steps)
      backward_steps(run, call, d, grads[d], weights.w_hh(d), x);
    else
      loop.direction[d] = {{my.grad_output, my.grad_h_n, my.hx, my.w_hh, my.output, my.gates,
                            all_steps(shape, grads[d].gates), my.grad_hx},
                           static_cast<const VariantArguments&>(my),
                           my.grad_update,
                           my.grad_reset_state};
  }
  if (!by_steps) run.loop(plan, loop, x);

  const OptionalTensor input = need_weights && !norm ? OptionalTensor(alive_inputs(run, call, x)) : std::nullopt;
  for (int d = 0; d < shape.directions; ++d) {
    if (call.grad_x && !norm)
      multiply(of_direction(*call.grad_x, d), columns(grads[d].gates, H, 3 * H), weights.plain().w_ih(d));
    if (!need_weights) continue;
    const VariantBackwardDirection& my = call.params.direction[d];
    const Tensor hd = new_tensor(x, {all_rows, H});
    const bool reset_before = variant.cell.recurrence == Recurrence::reset_before;
    const Tensor hd_n = reset_before ? new_tensor(x, {all_rows, H}) : hd;
    check_status(cuda::run_variant_operands({run.on_device, variant, my, d, my.hx, my.output, my.gates, hd.data_ptr(),
                                             reset_before ? hd_n.data_ptr() : nullptr},
                                            run.stream));
    const int64_t each = int64_t(call.grad_weights.size()) / shape.directions;
    const Tensor* const to = &call.grad_weights[d * each];
    if (norm)
      norm_weight_gradients(to, grads[d], hd);
    else
      weight_gradients(run, to, each == 4, *input, grads[d].gates, hd, hd_n);
  }
}

}  // namespace gru_fused::ops
