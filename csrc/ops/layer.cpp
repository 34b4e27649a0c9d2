#include "layer.h"

namespace gru_fused::ops {
namespace {

// Never indexes an argument that has too few dimensions.
int64_t size_or_zero(const Tensor& tensor, int64_t axis) { return tensor.dim() > axis ? tensor.size(axis) : 0; }

// [T, B, n] or [N, n] as a matrix.
Tensor as_matrix(const Tensor& steps, int64_t rows) {
  const int64_t n = steps.size(steps.dim() - 1);
  return strided(steps.is_contiguous() ? steps : torch::stable::contiguous(steps), 0, {rows, n}, {n, 1});
}

// Columns [first, first + count) of direction d of an array [D, rows, n].
Tensor columns(const Tensor& array, int64_t d, int64_t first, int64_t count) {
  return strided(array, d * array.stride(0) + first, {array.size(1), count}, {array.stride(1), 1});
}

}  // namespace

Weights::Weights(const std::vector<Tensor>& tensors, bool bias) : tensors_(tensors), bias_(bias) {
  directions_ = int(tensors.size()) / stride();
  check(tensors.size() % stride() == 0 && (directions_ == 1 || directions_ == 2), "weights: expected ", stride(),
        " tensors for each of one or two directions, got ", tensors.size());
}

void Weights::check_all(const Tensor& like, int64_t inputs, int64_t hidden) const {
  for (int d = 0; d < directions_; ++d) {
    check_shape("w_ih", w_ih(d), {3 * hidden, inputs});
    check_shape("w_hh", w_hh(d), {3 * hidden, hidden});
    if (!bias_) continue;
    check_shape("b_ih", b_ih(d), {3 * hidden});
    check_shape("b_hh", b_hh(d), {3 * hidden});
  }
  for (const Tensor& tensor : tensors_) check_like("weights", tensor, like);
}

Layer::Layer(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes)
    : batch_sizes_(batch_sizes) {
  const bool packed = batch_sizes_.has_value();
  check(x.dim() == (packed ? 2 : 3), "x: expected ", packed ? 2 : 3, " dimensions, got ", x.dim());
  shape_.dtype = dtype_of("x", x);
  shape_.directions = weights.directions();
  shape_.batch = packed ? size_or_zero(hx, 1) : x.size(1);
  shape_.hidden = size_or_zero(weights.w_hh(0), 1);
  inputs_ = x.size(x.dim() - 1);
  check_like("hx", hx, x);
  check_shape("hx", hx, {shape_.directions, shape_.batch, shape_.hidden});
  weights.check_all(x, inputs_, shape_.hidden);

  if (!packed) {
    shape_.steps = x.size(0);
    rows_ = shape_.steps * shape_.batch;
    return;
  }
  check(batch_sizes_->is_cpu() && batch_sizes_->scalar_type() == ScalarType::Long && batch_sizes_->dim() == 1,
        "batch_sizes: expected a 1-D int64 tensor on the CPU");
  batch_sizes_ = torch::stable::contiguous(*batch_sizes_);
  shape_.steps = batch_sizes_->size(0);
  shape_.batch_sizes = static_cast<const int64_t*>(batch_sizes_->data_ptr());
  offsets_.resize(shape_.steps);
  int64_t before = shape_.batch;
  for (int64_t t = 0; t < shape_.steps; ++t) {
    const int64_t alive = shape_.batch_sizes[t];
    check(alive > 0 && alive <= before && (t > 0 || alive == shape_.batch),
          "batch_sizes: expected to begin with the batch size ", shape_.batch,
          ", to stay positive and never to increase; got ", alive, " at step ", t);
    offsets_[t] = rows_;
    rows_ += alive;
    before = alive;
  }
  check(rows_ == x.size(0), "batch_sizes: expected a sum of ", x.size(0), ", the rows of x; got ", rows_);
  shape_.offsets = offsets_.data();
}

std::vector<int64_t> Layer::step_sizes(int64_t n) const {
  return batch_sizes_ ? std::vector<int64_t>{rows_, n} : std::vector<int64_t>{shape_.steps, shape_.batch, n};
}

void Layer::check_steps(const char* name, const Tensor& tensor, int64_t n) const {
  if (batch_sizes_)
    check_shape(name, tensor, {rows_, n});
  else
    check_shape(name, tensor, {shape_.steps, shape_.batch, n});
}

Tensor Layer::new_rows(const Tensor& like, int64_t n) const {
  return torch::stable::new_empty(like, {shape_.directions, rows_, n});
}

ForwardCall::ForwardCall(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes,
                         bool save)
    : layer(x, hx, weights, batch_sizes),
      output(torch::stable::new_empty(x, layer.step_sizes(layer.shape().directions * layer.shape().hidden))),
      h_n(torch::stable::new_empty(x, {layer.shape().directions, layer.shape().batch, layer.shape().hidden})),
      gates(layer.new_rows(x, (save ? 4 : 3) * layer.shape().hidden)) {
  const int64_t H = layer.shape().hidden, element = layer.element_size();
  const auto hold = [&](const Tensor& tensor) { return held.emplace_back(with_dense_rows(tensor)); };
  const Tensor inputs = as_matrix(x, layer.rows()), states = hold(hx);
  params.shape = layer.shape();
  for (int d = 0; d < weights.directions(); ++d) {
    // gi goes where the gates will be: the kernel reads a step's inputs just before it writes its gates.
    multiply_into(columns(gates, d, 0, 3 * H), inputs, transposed(weights.w_ih(d)));

    ForwardDirection& to = params.direction[d];
    to.gi = layer.own_rows<const void>(gates, d);
    to.hx = state_rows<const void>(states, d, element);
    const Tensor weight = hold(weights.w_hh(d));
    to.w_hh = {weight.data_ptr(), 0, weight.stride(0)};
    if (layer.shape().single_product()) {
      const Tensor gh = held.emplace_back(torch::stable::new_empty(x, {layer.shape().batch, 3 * H}));
      multiply_into(gh, columns(states, d, 0, H), transposed(weight));
      to.gh = {gh.data_ptr(), 0, 3 * H};
    }
    if (weights.has_bias()) {
      to.b_ih = hold(weights.b_ih(d)).data_ptr();
      to.b_hh = hold(weights.b_hh(d)).data_ptr();
    }
    to.output = step_rows<void>(output, d * H, element);
    to.h_n = state_rows<void>(h_n, d, element);
    if (save) to.gates = layer.own_rows<void>(gates, d);
  }
}

BackwardCall::BackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& x,
                           const Tensor& hx, const Tensor& output, const Tensor& gates, const Weights& weights,
                           const OptionalTensor& batch_sizes, bool need_weights)
    : layer(x, hx, weights, batch_sizes),
      grad_gates(layer.new_rows(x, 4 * layer.shape().hidden)),
      grad_h(torch::stable::new_empty(x, {layer.shape().single_product() ? 3 : 1, layer.shape().directions,
                                          layer.shape().batch, layer.shape().hidden})) {
  const int64_t D = layer.shape().directions, H = layer.shape().hidden, element = layer.element_size();
  check_like("gates", gates, x);
  check_shape("gates", gates, {D, layer.rows(), 4 * H});
  check_like("output", output, x);
  layer.check_steps("output", output, D * H);
  if (grad_output) {
    check_like("grad_output", *grad_output, x);
    layer.check_steps("grad_output", *grad_output, D * H);
  }
  if (grad_h_n) {
    check_like("grad_h_n", *grad_h_n, x);
    check_shape("grad_h_n", *grad_h_n, {D, layer.shape().batch, H});
  }

  const auto hold = [&](const Tensor& tensor) { return held.emplace_back(with_dense_rows(tensor)); };
  const Tensor states = hold(hx), outputs = hold(output), saved = hold(gates);
  const OptionalTensor step_grads = grad_output ? OptionalTensor(hold(*grad_output)) : std::nullopt;
  const OptionalTensor last_grads = grad_h_n ? OptionalTensor(hold(*grad_h_n)) : std::nullopt;
  params.shape = layer.shape();
  if (need_weights) h_prev = layer.new_rows(x, H);
  for (int d = 0; d < D; ++d) {
    const Tensor weight = hold(weights.w_hh(d));
    BackwardDirection& to = params.direction[d];
    if (step_grads) to.grad_output = step_rows<const void>(*step_grads, d * H, element);
    if (last_grads) to.grad_h_n = state_rows<const void>(*last_grads, d, element);
    to.output = step_rows<const void>(outputs, d * H, element);
    to.gates = layer.own_rows<const void>(saved, d);
    to.hx = state_rows<const void>(states, d, element);
    to.w_hh = {weight.data_ptr(), 0, weight.stride(0)};
    to.grad_gates = layer.own_rows<void>(grad_gates, d);
    if (h_prev) to.h_prev = layer.own_rows<void>(*h_prev, d);
    if (need_weights && weights.has_bias()) {
      to.grad_b_ih = grad_biases.emplace_back(torch::stable::new_empty(x, {3 * H})).data_ptr();
      to.grad_b_hh = grad_biases.emplace_back(torch::stable::new_empty(x, {3 * H})).data_ptr();
    }
    to.grad_hx = {static_cast<char*>(grad_h.data_ptr()) + d * grad_h.stride(1) * element, 0, H};
  }
}

Tensor BackwardCall::grad_hx(const Weights& weights) const {
  const int64_t D = layer.shape().directions, B = layer.shape().batch, H = layer.shape().hidden;
  if (!layer.shape().single_product()) return strided(grad_h, 0, {D, B, H}, {B * H, H, 1});
  for (int d = 0; d < D; ++d) {
    // d_gh is r, z, nr; a row of grad_gates is nr, r, z, n.
    const auto part = [&](int64_t i) { return strided(grad_h, (i * D + d) * B * H, {B, H}, {H, 1}); };
    const Tensor& w = weights.w_hh(d);
    const auto rows = [&](int64_t first, int64_t count) {
      return strided(w, first * w.stride(0), {count, H}, {w.stride(0), w.stride(1)});
    };
    multiply_into(part(1), columns(grad_gates, d, H, 2 * H), rows(0, 2 * H));
    multiply_into(part(2), columns(grad_gates, d, 0, H), rows(2 * H, H));
  }
  return sum_first_axis(grad_h);
}

Tensor BackwardCall::grad_x(const Tensor& x, const Weights& weights) const {
  const int64_t D = layer.shape().directions, H = layer.shape().hidden;
  std::vector<int64_t> sizes = layer.step_sizes(layer.inputs());
  if (D == 2) sizes.insert(sizes.begin(), D);
  const Tensor grads = torch::stable::new_empty(x, sizes);
  for (int d = 0; d < D; ++d)
    multiply_into(
        strided(grads, d * layer.rows() * layer.inputs(), {layer.rows(), layer.inputs()}, {layer.inputs(), 1}),
        columns(grad_gates, d, H, 3 * H), weights.w_ih(d));
  return D == 1 ? grads : sum_first_axis(grads);
}

std::vector<Tensor> BackwardCall::grad_weights(const Tensor& x, const Weights& weights) const {
  const int64_t H = layer.shape().hidden, I = layer.inputs();
  const Tensor inputs = as_matrix(x, layer.rows());
  std::vector<Tensor> grads;
  for (int d = 0; d < weights.directions(); ++d) {
    const Tensor w_ih = grads.emplace_back(torch::stable::new_empty(x, {3 * H, I}));
    multiply_into(w_ih, transposed(columns(grad_gates, d, H, 3 * H)), inputs);

    // d_gh is r, z, nr; a row of grad_gates is nr, r, z, n.
    const Tensor w_hh = grads.emplace_back(torch::stable::new_empty(x, {3 * H, H}));
    const Tensor states = columns(*h_prev, d, 0, H);
    multiply_into(strided(w_hh, 0, {2 * H, H}, {H, 1}), transposed(columns(grad_gates, d, H, 2 * H)), states);
    multiply_into(strided(w_hh, 2 * H * H, {H, H}, {H, 1}), transposed(columns(grad_gates, d, 0, H)), states);
    if (weights.has_bias()) grads.insert(grads.end(), {grad_biases[2 * d], grad_biases[2 * d + 1]});
  }
  return grads;
}

}  // namespace gru_fused::ops
