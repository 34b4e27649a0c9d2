#include "cuda_tangent.h"

#include "cuda_run.h"

namespace gru_fused::ops {
namespace {

void tangent_steps(const Run& run, const TangentCall& call, int d, const Tensor& hx_t, const Tensor& w_hh) {
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden;
  const TangentDirection& my = call.params.direction[d];
  const Tensor state = wide_copy(run, hx_t, d, w_hh);
  const bool narrow = size_of(shape.dtype) == 2;
  const Tensor operand = narrow ? torch::stable::clone(torch::stable::contiguous(state_of(hx_t, d))) : state;
  const Tensor products = new_tensor(w_hh, {shape.batch, 3 * H}), w_t = transposed(w_hh);
  const Tensor previous = run.previous_states(d, my.hx, my.output, w_hh, call.layer.rows());
  const Rows<const void> all_previous = read_only(all_steps(shape, previous));
  for (int64_t step = 0; step < shape.steps; ++step) {
    const int64_t t = shape.time_of(step, d), alive = shape.rows_at(t);
    multiply(rows(products, 0, alive), rows(operand, 0, alive), w_t);
    cuda::StepTangent one{};
    one.dtype = shape.dtype;
    one.rows = alive;
    one.hidden = H;
    one.given_t = of_step(shape, my.given_t, t);
    one.products = read_only(matrix_of(products));
    one.gates = of_step(shape, my.gates, t);
    one.previous = of_step(shape, all_previous, t);
    one.state = state.data_ptr();
    if (narrow) one.operand = matrix_of(operand);
    one.output_t = of_step(shape, my.output_t, t);
    one.gates_t = of_step(shape, my.gates_t, t);
    check_status(cuda::run_step(one, run.stream));
  }
  Tensor last = state_of(call.h_n_t, d);
  torch::stable::copy_(last, state);
}

// The steps back, two gradients at once: [0] is a gradient and [1] its tangent.
void tangent_backward_steps(const Run& run, const TangentBackwardCall& call, int d, const OptionalTensor& grad_h_n,
                            const OptionalTensor& grad_h_n_t, const Tensor& w_hh, const OptionalTensor& w_hh_t) {
  const Shape& shape = run.shape;
  const int64_t H = shape.hidden, all_rows = call.layer.rows();
  const TangentBackwardDirection& my = call.params.direction[d];
  const Tensor state[2] = {wide_copy(run, grad_h_n, d, w_hh), wide_copy(run, grad_h_n_t, d, w_hh)};
  const Tensor previous[2] = {run.previous_states(d, my.hx, my.output, w_hh, all_rows),
                              run.previous_states(d, my.hx_t, my.output_t, w_hh, all_rows)};
  const Tensor grads[2] = {of_direction(call.gate_grads, d), of_direction(call.gate_grads_t, d)};
  const Tensor weights = reordered(w_hh);
  const OptionalTensor weights_t = w_hh_t ? OptionalTensor(reordered(*w_hh_t)) : std::nullopt;
  const Tensor products[3] = {new_tensor(w_hh, {shape.batch, H}), new_tensor(w_hh, {shape.batch, H}),
                              new_tensor(w_hh, {shape.batch, H})};
  int64_t multiplied = 0;
  for (int64_t step = shape.steps; step >= 0; --step) {
    // After the first step of the direction, what is left are the gradients of hx.
    const int64_t t = step > 0 ? shape.time_of(step - 1, d) : 0, alive = step > 0 ? shape.rows_at(t) : 0;
    cuda::StepTangentBackward one{};
    one.dtype = shape.dtype;
    one.rows = std::max(alive, multiplied);
    one.hidden = H;
    one.alive = alive;
    one.multiplied = multiplied;
    for (int i = 0; i < 3; ++i)
      if (i < 2 || weights_t) one.products[i] = read_only(matrix_of(products[i]));
    for (int i = 0; i < 2; ++i) {
      one.state[i] = state[i].data_ptr();
      if (step == 0) continue;
      one.grad_output[i] = of_step(shape, i ? my.grad_output_t : my.grad_output, t);
      one.previous[i] = of_step(shape, read_only(all_steps(shape, previous[i])), t);
      one.gates[i] = of_step(shape, i ? my.gates_t : my.gates, t);
      one.grads[i] = of_step(shape, all_steps(shape, grads[i]), t);
    }
    check_status(cuda::run_step(one, run.stream));
    if (step == 0) break;
    const auto product = [&](int to, int of, const Tensor& weight) {
      multiply(rows(products[to], 0, alive), block(grads[of], run.first_row(t), alive, 0, 3 * H), weight);
    };
    product(0, 0, weights);
    product(1, 1, weights);
    if (weights_t) product(2, 0, *weights_t);
    multiplied = alive;
  }
  Tensor grad_hx = state_of(call.grad_hx, d), grad_hx_t = state_of(call.grad_hx_t, d);
  torch::stable::copy_(grad_hx, state[0]);
  torch::stable::copy_(grad_hx_t, state[1]);
}

bool is_empty(const Shape& shape) { return shape.batch == 0 || shape.hidden == 0; }

}  // namespace

std::tuple<Tensor, Tensor, Tensor> cuda_tangent(Tensor given_t, Tensor hx_t, Tensor hx, Tensor output, Tensor gates,
                                                std::vector<Tensor> w_hh, OptionalTensor batch_sizes) {
  const TangentCall call(given_t, hx_t, hx, output, gates, w_hh, batch_sizes);
  if (!is_empty(call.layer.shape())) {
    const Run run(call.layer.shape(), hx, false, false);
    for (int d = 0; d < run.shape.directions; ++d) tangent_steps(run, call, d, hx_t, w_hh[d]);
  }
  return {call.output_t, call.h_n_t, call.gates_t};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cuda_tangent_backward(
    OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_output_t, OptionalTensor grad_h_n_t,
    Tensor hx, Tensor output, Tensor gates, Tensor hx_t, Tensor output_t, Tensor gates_t, std::vector<Tensor> w_hh,
    std::vector<Tensor> w_hh_t, OptionalTensor batch_sizes) {
  const TangentBackwardCall call(grad_output, grad_h_n, grad_output_t, grad_h_n_t, hx, output, gates, hx_t, output_t,
                                 gates_t, w_hh, w_hh_t, batch_sizes);
  if (!is_empty(call.layer.shape())) {
    const Run run(call.layer.shape(), hx, false, true);
    for (int d = 0; d < run.shape.directions; ++d)
      tangent_backward_steps(run, call, d, grad_h_n, grad_h_n_t, w_hh[d],
                             w_hh_t.empty() ? std::nullopt : OptionalTensor(w_hh_t[d]));
  }
  return {call.grad_hx, call.grad_hx_t, call.gate_grads, call.gate_grads_t};
}

}  // namespace gru_fused::ops
