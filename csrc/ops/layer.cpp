#include "layer.h"

namespace gru_fused::ops {
namespace {

// Never indexes an argument that has too few dimensions.
int64_t size_or_zero(const Tensor& tensor, int64_t axis) { return tensor.dim() > axis ? tensor.size(axis) : 0; }

}  // namespace

Weights::Weights(const std::vector<Tensor>& tensors, bool bias) : tensors_(tensors), bias_(bias) {
  directions_ = int(tensors.size()) / stride();
  check(tensors.size() % stride() == 0 && (directions_ == 1 || directions_ == 2), "weights: expected ", stride(),
        " tensors for each of one or two directions, got ", tensors.size());
}

Weights::Weights(const std::vector<Tensor>& tensors, bool bias, int directions, int layer)
    : tensors_(tensors), bias_(bias), directions_(directions), first_(layer * directions * (bias ? 4 : 2)) {}

void Weights::check_all(const Tensor& like, int64_t inputs, int64_t hidden) const {
  for (int d = 0; d < directions_; ++d) {
    check_shape("w_ih", w_ih(d), {3 * hidden, inputs});
    check_shape("w_hh", w_hh(d), {3 * hidden, hidden});
    if (!bias_) continue;
    check_shape("b_ih", b_ih(d), {3 * hidden});
    check_shape("b_hh", b_hh(d), {3 * hidden});
  }
  for (int i = 0; i < directions_ * stride(); ++i) check_like("weights", tensors_[first_ + i], like);
}

Layer::Layer(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes, bool cell)
    : cell_(cell), batch_sizes_(batch_sizes) {
  const bool packed = batch_sizes_.has_value();
  const int64_t dim = packed || cell_ ? 2 : 3;
  check(x.dim() == dim, "x: expected ", dim, " dimensions, got ", x.dim());
  shape_.dtype = dtype_of("x", x);
  shape_.directions = weights.directions();
  shape_.batch = cell_ ? x.size(0) : packed ? size_or_zero(hx, 1) : x.size(1);
  shape_.hidden = size_or_zero(weights.w_hh(0), 1);
  shape_.inputs = x.size(dim - 1);
  check(!cell_ || shape_.directions == 1, "weights: expected those of one direction for a cell");
  check_like("hx", hx, x);
  check_states("hx", hx);
  weights.check_all(x, shape_.inputs, shape_.hidden);
  read_steps("x", x);
}

Layer::Layer(const char* name, const Tensor& rows, int64_t blocks, const Tensor& hx, const OptionalTensor& batch_sizes)
    : cell_(false), batch_sizes_(batch_sizes) {
  check(hx.dim() == 3 && (hx.size(0) == 1 || hx.size(0) == 2),
        "hx: expected 3 dimensions, the states of one or two directions, got shape ", shape_text(hx.sizes()));
  shape_.dtype = dtype_of("hx", hx);
  shape_.directions = int(hx.size(0));
  shape_.batch = hx.size(1);
  shape_.hidden = hx.size(2);
  const int64_t dim = batch_sizes_ ? 2 : 3;
  check(rows.dim() == dim, name, ": expected ", dim, " dimensions, got ", rows.dim());
  read_steps(name, rows);
  check_like(name, rows, hx);
  check_steps(name, rows, shape_.directions * blocks * shape_.hidden);
}

void Layer::reverse() {
  check(shape_.directions == 1, "reverse: expected one direction, got ", shape_.directions);
  shape_.reversed = true;
}

void Layer::read_steps(const char* name, const Tensor& rows) {
  if (!batch_sizes_) {
    shape_.steps = cell_ ? 1 : rows.size(0);
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
  check(rows_ == rows.size(0), "batch_sizes: expected a sum of ", rows.size(0), ", the rows of ", name, "; got ",
        rows_);
  shape_.offsets = offsets_.data();
}

void Layer::check_steps(const char* name, const Tensor& tensor, int64_t n) const {
  if (batch_sizes_ || cell_)
    check_shape(name, tensor, {rows_, n});
  else
    check_shape(name, tensor, {shape_.steps, shape_.batch, n});
}

void Layer::check_states(const char* name, const Tensor& tensor) const {
  if (cell_)
    check_shape(name, tensor, {shape_.batch, shape_.hidden});
  else
    check_shape(name, tensor, {shape_.directions, shape_.batch, shape_.hidden});
}

Tensor Layer::new_steps(const Tensor& like, int64_t n) const {
  if (batch_sizes_ || cell_) return new_tensor(like, {rows_, n});
  return new_tensor(like, {shape_.steps, shape_.batch, n});
}

Tensor Layer::new_states(const Tensor& like) const {
  if (cell_) return new_tensor(like, {shape_.batch, shape_.hidden});
  return new_tensor(like, {shape_.directions, shape_.batch, shape_.hidden});
}

Tensor Layer::new_rows(const Tensor& like, int64_t n) const { return new_tensor(like, {shape_.directions, rows_, n}); }

Tensor Layer::sum_directions(const Tensor& array) const {
  const Tensor sum = shape_.directions == 1 ? array : sum_first_axis(array);
  const int64_t n = array.size(2);
  if (batch_sizes_ || cell_) return strided(sum, 0, {rows_, n}, {n, 1});
  return strided(sum, 0, {shape_.steps, shape_.batch, n}, {shape_.batch * n, n, 1});
}

DirectionArguments Layer::arguments(const Tensor& x, const Tensor& hx, const Weights& weights, int d,
                                    std::forward_list<Tensor>& copies) const {
  const auto dense = [&](const Tensor& tensor) -> const Tensor& { return with_dense_rows(tensor, copies); };
  DirectionArguments to;
  to.x = step_rows<const void>(x, 0, element_size());
  to.hx = state_rows<const void>(hx, d, element_size());
  to.w_ih = matrix_rows(dense(weights.w_ih(d)));
  to.w_hh = matrix_rows(dense(weights.w_hh(d)));
  if (weights.has_bias()) {
    to.b_ih = dense(weights.b_ih(d)).data_ptr();
    to.b_hh = dense(weights.b_hh(d)).data_ptr();
  }
  return to;
}

ForwardCall::ForwardCall(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes,
                         bool cell, bool save, const OptionalTensor& h_n_given)
    : layer(x, hx, weights, batch_sizes, cell),
      hx(hx),
      h_n(h_n_given ? *h_n_given : layer.new_states(x)),
      output(cell ? h_n : layer.new_steps(x, layer.shape().directions * layer.shape().hidden)) {
  const int64_t H = layer.shape().hidden, element = layer.element_size();
  const auto dense = [&](const Tensor& tensor) -> const Tensor& { return with_dense_rows(tensor, copies); };
  const Tensor &inputs = dense(x), &states = dense(hx);
  if (save) gates = layer.new_rows(x, 4 * H);
  params.shape = layer.shape();
  for (int d = 0; d < weights.directions(); ++d) {
    ForwardDirection& to = params.direction[d];
    static_cast<DirectionArguments&>(to) = layer.arguments(inputs, states, weights, d, copies);
    to.output = step_rows<void>(output, d * H, element);
    to.h_n = state_rows<void>(h_n, d, element);
    if (save) to.gates = layer.own_rows<void>(*gates, d);
  }
}

BackwardCall::BackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& x,
                           const Tensor& hx, const Tensor& output, const OptionalTensor& gates, const Weights& weights,
                           const OptionalTensor& batch_sizes, bool cell, bool need_x, bool need_weights)
    : layer(x, hx, weights, batch_sizes, cell), hx(hx), grad_h_n(grad_h_n), grad_hx(layer.new_states(x)) {
  const int64_t D = layer.shape().directions, H = layer.shape().hidden, I = layer.inputs();
  const int64_t element = layer.element_size();
  if (gates) {
    check_like("gates", *gates, x);
    check_shape("gates", *gates, {D, layer.rows(), 4 * H});
  }
  check_like("output", output, x);
  layer.check_steps("output", output, D * H);
  if (grad_output) {
    check_like("grad_output", *grad_output, x);
    layer.check_steps("grad_output", *grad_output, D * H);
  }
  if (grad_h_n) {
    check_like("grad_h_n", *grad_h_n, x);
    layer.check_states("grad_h_n", *grad_h_n);
  }

  const auto dense = [&](const Tensor& tensor) -> const Tensor& { return with_dense_rows(tensor, copies); };
  this->hx = dense(hx);
  const Tensor &inputs = dense(x), &states = this->hx, &outputs = dense(output);
  const Tensor* const saved = gates ? &dense(*gates) : nullptr;
  const Tensor* const step_grads = grad_output ? &dense(*grad_output) : nullptr;
  const Tensor* const last_grads = grad_h_n ? &dense(*grad_h_n) : nullptr;
  if (need_x) grad_x = layer.new_rows(x, I);
  const auto new_grad = [&](std::initializer_list<int64_t> sizes) {
    return grad_weights.emplace_back(new_tensor(x, sizes)).data_ptr();
  };
  params.shape = layer.shape();
  grad_weights.reserve(need_weights ? 8 : 0);
  for (int d = 0; d < D; ++d) {
    BackwardDirection& to = params.direction[d];
    static_cast<DirectionArguments&>(to) = layer.arguments(inputs, states, weights, d, copies);
    if (step_grads) to.grad_output = step_rows<const void>(*step_grads, d * H, element);
    if (last_grads) to.grad_h_n = state_rows<const void>(*last_grads, d, element);
    to.output = step_rows<const void>(outputs, d * H, element);
    if (saved) to.gates = layer.own_rows<const void>(*saved, d);
    to.grad_hx = state_rows<void>(grad_hx, d, element);
    if (need_x) to.grad_x = layer.own_rows<void>(*grad_x, d);
    if (!need_weights) continue;
    to.grad_w_ih = new_grad({3 * H, I});
    to.grad_w_hh = new_grad({3 * H, H});
    // A tensor without elements has no memory; null would say that no gradient is wanted. Nothing is written there.
    if (I == 0) to.grad_w_ih = to.grad_w_hh;
    if (!weights.has_bias()) continue;
    to.grad_b_ih = new_grad({3 * H});
    to.grad_b_hh = new_grad({3 * H});
  }
}

}  // namespace gru_fused::ops
