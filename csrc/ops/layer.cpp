#include "layer.h"

namespace gru_fused::ops {
namespace {

// Never indexes an argument that has too few dimensions.
int64_t size_or_zero(const Tensor& tensor, int64_t axis) {
  return tensor.dim() > axis ? tensor.size(axis) : 0;
}

}  // namespace

Layer::Layer(const Tensor& steps, bool gates_are_saved, const Tensor& hx, const Tensor& w_hh,
             const OptionalTensor& w_hh_reverse, const OptionalTensor& batch_sizes)
    : batch_sizes_(batch_sizes) {
  shape_.dtype = dtype_of("the first argument", steps);
  shape_.directions = w_hh_reverse ? 2 : 1;
  shape_.hidden = size_or_zero(w_hh, 1);
  shape_.batch = size_or_zero(hx, 1);
  const int64_t D = shape_.directions, H = shape_.hidden;

  check_like("hx", hx, steps);
  check_shape("hx", hx, {D, shape_.batch, H});
  check_like("w_hh", w_hh, steps);
  check_shape("w_hh", w_hh, {3 * H, H});
  if (w_hh_reverse) {
    check_like("w_hh_reverse", *w_hh_reverse, steps);
    check_shape("w_hh_reverse", *w_hh_reverse, {3 * H, H});
  }

  const int64_t lead = gates_are_saved ? 1 : 0;
  if (!batch_sizes_) {
    check(steps.dim() == 3 + lead, "the first argument: expected ", 3 + lead, " dimensions, got ", steps.dim());
    shape_.steps = steps.size(lead);
    rows_ = shape_.steps * shape_.batch;
    return;
  }

  check(steps.dim() == 2 + lead, "the first argument: expected ", 2 + lead, " dimensions with batch_sizes, got ",
        steps.dim());
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
  shape_.offsets = offsets_.data();
}

std::vector<int64_t> Layer::step_sizes(int64_t n) const {
  return packed() ? std::vector<int64_t>{rows_, n} : std::vector<int64_t>{shape_.steps, shape_.batch, n};
}

std::vector<int64_t> Layer::saved_sizes(int64_t n) const {
  std::vector<int64_t> sizes = step_sizes(n);
  sizes.insert(sizes.begin(), shape_.directions);
  return sizes;
}

void Layer::check_steps(const char* name, const Tensor& tensor, int64_t n) const {
  if (packed())
    check_shape(name, tensor, {rows_, n});
  else
    check_shape(name, tensor, {shape_.steps, shape_.batch, n});
}

void Layer::check_saved(const char* name, const Tensor& tensor, int64_t n) const {
  if (packed())
    check_shape(name, tensor, {shape_.directions, rows_, n});
  else
    check_shape(name, tensor, {shape_.directions, shape_.steps, shape_.batch, n});
}

ForwardCall::ForwardCall(const Tensor& gi, const OptionalTensor& gi_reverse, const Tensor& hx, const Tensor& w_hh,
                         const OptionalTensor& w_hh_reverse, const OptionalTensor& b_hh,
                         const OptionalTensor& b_hh_reverse, const OptionalTensor& batch_sizes, bool save)
    : layer(gi, false, hx, w_hh, w_hh_reverse, batch_sizes),
      output(torch::stable::new_empty(gi, layer.step_sizes(layer.shape().directions * layer.shape().hidden))),
      h_n(torch::stable::new_empty(gi, {layer.shape().directions, layer.shape().batch, layer.shape().hidden})) {
  const int64_t H = layer.shape().hidden, element = size_of(layer.shape().dtype);
  if (save) gates = torch::stable::new_empty(gi, layer.saved_sizes(4 * H));
  check(gi_reverse.has_value() == w_hh_reverse.has_value(),
        "gi_reverse: expected together with w_hh_reverse, for two directions");

  const auto hold = [&](const Tensor& tensor) { return held.emplace_back(with_dense_rows(tensor)); };
  const Tensor states = hold(hx);
  params.shape = layer.shape();
  for (int d = 0; d < layer.shape().directions; ++d) {
    const Tensor& steps = d == 0 ? gi : *gi_reverse;
    const OptionalTensor& bias = d == 0 ? b_hh : b_hh_reverse;
    check_like("gi_reverse", steps, gi);
    layer.check_steps(d == 0 ? "gi" : "gi_reverse", steps, 3 * H);
    const Tensor weight = hold(d == 0 ? w_hh : *w_hh_reverse);

    ForwardDirection& to = params.direction[d];
    to.gi = step_rows<const void>(hold(steps), 0, element);
    to.hx = direction_rows<const void>(states, d, element);
    to.w_hh = {weight.data_ptr(), 0, weight.stride(0)};
    if (bias) {
      check_like("b_hh", *bias, gi);
      check_shape(d == 0 ? "b_hh" : "b_hh_reverse", *bias, {3 * H});
      to.b_hh = hold(*bias).data_ptr();
    }
    to.output = step_rows<void>(output, d * H, element);
    to.h_n = direction_rows<void>(h_n, d, element);
    if (gates) to.gates = direction_rows<void>(*gates, d, element);
  }
}

BackwardCall::BackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& output,
                           const Tensor& gates, const Tensor& hx, const Tensor& w_hh,
                           const OptionalTensor& w_hh_reverse, const OptionalTensor& batch_sizes)
    : layer(gates, true, hx, w_hh, w_hh_reverse, batch_sizes),
      grad_gates(torch::stable::new_empty(gates, layer.saved_sizes(4 * layer.shape().hidden))),
      h_prev(torch::stable::new_empty(gates, layer.saved_sizes(layer.shape().hidden))),
      grad_hx(torch::stable::new_empty(gates, {layer.shape().directions, layer.shape().batch, layer.shape().hidden})) {
  const int64_t D = layer.shape().directions, H = layer.shape().hidden, element = size_of(layer.shape().dtype);
  layer.check_saved("gates", gates, 4 * H);
  layer.check_steps("output", output, D * H);
  check_like("output", output, gates);
  if (grad_output) {
    layer.check_steps("grad_output", *grad_output, D * H);
    check_like("grad_output", *grad_output, gates);
  }
  if (grad_h_n) {
    check_shape("grad_h_n", *grad_h_n, {D, layer.shape().batch, H});
    check_like("grad_h_n", *grad_h_n, gates);
  }

  const auto hold = [&](const Tensor& tensor) { return held.emplace_back(with_dense_rows(tensor)); };
  const Tensor states = hold(hx), outputs = hold(output), saved = hold(gates);
  const OptionalTensor grads = grad_output ? OptionalTensor(hold(*grad_output)) : std::nullopt;
  const OptionalTensor last_grads = grad_h_n ? OptionalTensor(hold(*grad_h_n)) : std::nullopt;
  params.shape = layer.shape();
  for (int d = 0; d < D; ++d) {
    const Tensor weight = hold(d == 0 ? w_hh : *w_hh_reverse);
    BackwardDirection& to = params.direction[d];
    if (grads) to.grad_output = step_rows<const void>(*grads, d * H, element);
    if (last_grads) to.grad_h_n = direction_rows<const void>(*last_grads, d, element);
    to.output = step_rows<const void>(outputs, d * H, element);
    to.gates = direction_rows<const void>(saved, d, element);
    to.hx = direction_rows<const void>(states, d, element);
    to.w_hh = {weight.data_ptr(), 0, weight.stride(0)};
    to.grad_gates = direction_rows<void>(grad_gates, d, element);
    to.h_prev = direction_rows<void>(h_prev, d, element);
    to.grad_hx = direction_rows<void>(grad_hx, d, element);
  }
}

}  // namespace gru_fused::ops
