#include "tangent.h"

namespace gru_fused::ops {
namespace {

// Checks arguments against the layer and points the kernels to them, or to dense copies that `copies` keeps.
template <class Direction>
struct Arguments {
  using Member = Rows<const void> Direction::*;

  const Layer& layer;
  const Tensor& like;
  std::forward_list<Tensor>& copies;
  Direction* to;  // [D]

  int64_t directions() const { return layer.shape().directions; }
  int64_t hidden() const { return layer.shape().hidden; }

  const Tensor& dense(const char* name, const Tensor& tensor) const {
    check_like(name, tensor, like);
    return with_dense_rows(tensor, copies);
  }

  // The array of all steps [T, B, D H], the states [D, B, H], and the rows [D, T B, 4H], for each direction.
  void steps(const char* name, const OptionalTensor& tensor, Member member) const {
    if (!tensor) return;
    layer.check_steps(name, *tensor, directions() * hidden());
    const Tensor& rows = dense(name, *tensor);
    for (int d = 0; d < directions(); ++d)
      to[d].*member = step_rows<const void>(rows, d * hidden(), layer.element_size());
  }
  void states(const char* name, const OptionalTensor& tensor, Member member) const {
    if (!tensor) return;
    layer.check_states(name, *tensor);
    const Tensor& rows = dense(name, *tensor);
    for (int d = 0; d < directions(); ++d) to[d].*member = state_rows<const void>(rows, d, layer.element_size());
  }
  void gates(const char* name, const Tensor& tensor, Member member) const {
    check_shape(name, tensor, {directions(), layer.rows(), 4 * hidden()});
    const Tensor& rows = dense(name, tensor);
    for (int d = 0; d < directions(); ++d) to[d].*member = layer.own_rows<const void>(rows, d);
  }
  void weights(const char* name, const std::vector<Tensor>& tensors, Member member) const {
    check(int64_t(tensors.size()) == directions(), name, ": expected one for each of ", directions(),
          " directions, got ", tensors.size());
    for (int d = 0; d < directions(); ++d) {
      check_shape(name, tensors[d], {3 * hidden(), hidden()});
      to[d].*member = matrix_rows(dense(name, tensors[d]));
    }
  }
};

}  // namespace

TangentCall::TangentCall(const Tensor& given_t, const Tensor& hx_t, const Tensor& hx, const Tensor& output,
                         const Tensor& gates, const std::vector<Tensor>& w_hh, const OptionalTensor& batch_sizes)
    : layer("output", output, 1, hx, batch_sizes),
      output_t(layer.new_steps(hx, layer.shape().directions * layer.shape().hidden)),
      h_n_t(layer.new_states(hx)),
      gates_t(layer.new_rows(hx, 4 * layer.shape().hidden)) {
  using Direction = TangentDirection;
  params.shape = layer.shape();
  const Arguments<Direction> arguments{layer, hx, copies, params.direction};
  arguments.gates("given_t", given_t, &Direction::given_t);
  arguments.states("hx_t", hx_t, &Direction::hx_t);
  arguments.states("hx", hx, &Direction::hx);
  arguments.steps("output", output, &Direction::output);
  arguments.gates("gates", gates, &Direction::gates);
  arguments.weights("w_hh", w_hh, &Direction::w_hh);
  for (int d = 0; d < params.shape.directions; ++d) {
    Direction& to = params.direction[d];
    to.output_t = step_rows<void>(output_t, d * params.shape.hidden, layer.element_size());
    to.h_n_t = state_rows<void>(h_n_t, d, layer.element_size());
    to.gates_t = layer.own_rows<void>(gates_t, d);
  }
}

TangentBackwardCall::TangentBackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                                         const OptionalTensor& grad_output_t, const OptionalTensor& grad_h_n_t,
                                         const Tensor& hx, const Tensor& output, const Tensor& gates,
                                         const Tensor& hx_t, const Tensor& output_t, const Tensor& gates_t,
                                         const std::vector<Tensor>& w_hh, const std::vector<Tensor>& w_hh_t,
                                         const OptionalTensor& batch_sizes)
    : layer("output", output, 1, hx, batch_sizes),
      grad_hx(layer.new_states(hx)),
      grad_hx_t(layer.new_states(hx)),
      gate_grads(layer.new_rows(hx, 4 * layer.shape().hidden)),
      gate_grads_t(layer.new_rows(hx, 4 * layer.shape().hidden)) {
  using Direction = TangentBackwardDirection;
  params.shape = layer.shape();
  const Arguments<Direction> arguments{layer, hx, copies, params.direction};
  arguments.steps("grad_output", grad_output, &Direction::grad_output);
  arguments.states("grad_h_n", grad_h_n, &Direction::grad_h_n);
  arguments.steps("grad_output_t", grad_output_t, &Direction::grad_output_t);
  arguments.states("grad_h_n_t", grad_h_n_t, &Direction::grad_h_n_t);
  arguments.states("hx", hx, &Direction::hx);
  arguments.steps("output", output, &Direction::output);
  arguments.gates("gates", gates, &Direction::gates);
  arguments.states("hx_t", hx_t, &Direction::hx_t);
  arguments.steps("output_t", output_t, &Direction::output_t);
  arguments.gates("gates_t", gates_t, &Direction::gates_t);
  arguments.weights("w_hh", w_hh, &Direction::w_hh);
  if (!w_hh_t.empty()) arguments.weights("w_hh_t", w_hh_t, &Direction::w_hh_t);
  for (int d = 0; d < params.shape.directions; ++d) {
    Direction& to = params.direction[d];
    to.grad_hx = state_rows<void>(grad_hx, d, layer.element_size());
    to.grad_hx_t = state_rows<void>(grad_hx_t, d, layer.element_size());
    to.gate_grads = layer.own_rows<void>(gate_grads, d);
    to.gate_grads_t = layer.own_rows<void>(gate_grads_t, d);
  }
}

}  // namespace gru_fused::ops
