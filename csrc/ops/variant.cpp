#include "variant.h"

namespace gru_fused::ops {
namespace {

Layer layer_of(const Tensor& x, const Tensor& hx, const VariantWeights& weights, const OptionalTensor& batch_sizes,
               bool reverse) {
  Layer layer =
      weights.norm() ? Layer("x", x, 3, hx, batch_sizes) : Layer(x, hx, weights.plain(), batch_sizes, /*cell=*/false);
  if (reverse) layer.reverse();
  return layer;
}

// [D, T, B, n] or, packed, [D, N, n]: the rows of one direction.
template <class Void>
Rows<Void> direction_rows(const Tensor& array, int64_t d, int64_t element_size) {
  const int64_t dim = array.dim();
  return {static_cast<char*>(array.data_ptr()) + d * array.stride(0) * element_size, dim == 4 ? array.stride(1) : 0,
          array.stride(dim - 2)};
}

// What both passes are told beside the plain arguments. params.direction has its plain arguments already.
template <class Params>
void set_variant(Params& params, const Layer& layer, const Tensor& x, const VariantWeights& weights,
                 const VariantOptions& options, bool packed, std::forward_list<Tensor>& copies) {
  const Shape& shape = layer.shape();
  const int64_t H = shape.hidden, element = layer.element_size();
  params.shape = shape;
  params.variant.cell = options.cell();
  const auto on_device = [&](const char* name, const Tensor& tensor, ScalarType dtype, const char* dtype_name) {
    check(tensor.scalar_type() == dtype, name, ": expected a tensor of ", dtype_name);
    check(tensor.device() == x.device(), name, ": expected the device of the input, got another");
  };
  if (options.lengths) {
    check(!packed, "lengths: expected None with packed rows");
    on_device("lengths", *options.lengths, ScalarType::Long, "int64");
    check_shape("lengths", *options.lengths, {shape.batch});
    const Tensor& lengths = with_dense_rows(*options.lengths, copies);
    params.variant.lengths = static_cast<const int64_t*>(lengths.data_ptr());
  }
  if (options.reset) {
    const Tensor& reset = *options.reset;
    on_device("reset", reset, ScalarType::Bool, "bool");
    if (packed) {
      check_shape("reset", reset, {layer.rows()});
      params.variant.reset = {reset.data_ptr(), 0, reset.stride(0)};
    } else {
      check_shape("reset", reset, {shape.steps, shape.batch});
      params.variant.reset = {reset.data_ptr(), reset.stride(0), reset.stride(1)};
    }
  }
  check(options.reset || !options.reset_state, "reset_state: expected None without reset");
  const auto states = [&](const char* name, const OptionalTensor& given) -> const Tensor* {
    if (!given) return nullptr;
    check_like(name, *given, x);
    layer.check_states(name, *given);
    return &with_dense_rows(*given, copies);
  };
  const Tensor* const reset_state = states("reset_state", options.reset_state);
  const Tensor* const dropout = states("dropout", options.dropout);
  const Tensor* update = nullptr;
  bool per_unit = false;
  if (options.update) {
    const Tensor& given = *options.update;
    check_like("update", given, x);
    check(given.dim() == (packed ? 3 : 4), "update: expected ", packed ? 3 : 4, " dimensions, got ", given.dim());
    per_unit = given.size(given.dim() - 1) != 1;
    const int64_t width = per_unit ? H : 1;
    if (packed)
      check_shape("update", given, {shape.directions, layer.rows(), width});
    else
      check_shape("update", given, {shape.directions, shape.steps, shape.batch, width});
    update = &with_dense_rows(given, copies);
  }
  for (int d = 0; d < shape.directions; ++d) {
    auto& to = params.direction[d];
    if (reset_state) to.reset_state = state_rows<const void>(*reset_state, d, element);
    if (dropout) to.dropout = state_rows<const void>(*dropout, d, element);
    if (update) to.update = direction_rows<const void>(*update, d, element);
    to.update_per_unit = per_unit;
    if (weights.norm()) to.gain = with_dense_rows(weights.gain(d), copies).data_ptr();
  }
}

// The plain arguments of a direction.
DirectionArguments arguments_of(const Layer& layer, const Tensor& x, const Tensor& hx, const VariantWeights& weights,
                                int d, std::forward_list<Tensor>& copies) {
  if (!weights.norm()) return layer.arguments(x, hx, weights.plain(), d, copies);
  const int64_t H = layer.shape().hidden, element = layer.element_size();
  DirectionArguments to;
  to.x = step_rows<const void>(x, d * 3 * H, element);
  to.hx = state_rows<const void>(hx, d, element);
  to.w_hh = matrix_rows(with_dense_rows(weights.w_hh(d), copies));
  to.b_hh = with_dense_rows(weights.b_hh(d), copies).data_ptr();
  return to;
}

void check_norm_weights(const VariantWeights& weights, const Layer& layer, const Tensor& x) {
  if (!weights.norm()) return;
  const int64_t H = layer.shape().hidden;
  check(weights.directions() == layer.shape().directions, "weights: expected 3 tensors for each of ",
        layer.shape().directions, " directions, got those of ", weights.directions());
  for (int d = 0; d < weights.directions(); ++d) {
    check_shape("w_hh", weights.w_hh(d), {3 * H, H});
    check_shape("gain", weights.gain(d), {3 * H});
    check_shape("b_hh", weights.b_hh(d), {3 * H});
    for (const Tensor* tensor : {&weights.w_hh(d), &weights.gain(d), &weights.b_hh(d)})
      check_like("weights", *tensor, x);
  }
}

Tensor new_scales(const Layer& layer, const Tensor& like) {
  const bool wide = layer.shape().dtype == DType::f64;
  return torch::stable::new_empty(like, {layer.shape().directions, layer.rows(), 1},
                                  wide ? ScalarType::Double : ScalarType::Float);
}

// As Layer::own_rows, of an array in the accumulating type.
template <class Void>
Rows<Void> scale_rows(const Layer& layer, const Tensor& array, int64_t d) {
  const int64_t element = layer.shape().dtype == DType::f64 ? 8 : 4;
  return {static_cast<char*>(array.data_ptr()) + d * array.stride(0) * element, layer.shape().batch * array.stride(1),
          array.stride(1)};
}

}  // namespace

Cell VariantOptions::cell() const {
  check(recurrence >= 0 && recurrence <= int64_t(Recurrence::norm_sum), "recurrence: expected 0 to 3, got ",
        recurrence);
  check(gate >= 0 && gate <= int64_t(Activation::hard_sigmoid_fifth), "gate: expected 0 to 2, got ", gate);
  check(candidate >= int64_t(Activation::tanh) && candidate <= int64_t(Activation::softsign),
        "candidate: expected 3 to 5, got ", candidate);
  return {Recurrence(recurrence), Activation(gate), Activation(candidate), epsilon};
}

VariantWeights::VariantWeights(const std::vector<Tensor>& tensors, bool bias, bool norm)
    : tensors_(tensors), norm_(norm) {
  if (norm)
    check(tensors.size() == 3 || tensors.size() == 6,
          "weights: expected 3 tensors for each of one or two directions, got ", tensors.size());
  else
    plain_.emplace(tensors, bias);
}

VariantForwardCall::VariantForwardCall(const Tensor& x, const Tensor& hx, const VariantWeights& weights,
                                       const OptionalTensor& batch_sizes, const VariantOptions& options, bool save)
    : layer(layer_of(x, hx, weights, batch_sizes, options.reverse)),
      hx(hx),
      h_n(layer.new_states(x)),
      output(layer.new_steps(x, layer.shape().directions * layer.shape().hidden)) {
  check_norm_weights(weights, layer, x);
  const int64_t H = layer.shape().hidden, element = layer.element_size();
  const Tensor &inputs = with_dense_rows(x, copies), &states = with_dense_rows(hx, copies);
  if (save) {
    gates = layer.new_rows(x, 4 * H);
    if (weights.norm()) {
      normal = layer.new_rows(x, 3 * H);
      scale = new_scales(layer, x);
    }
  }
  for (int d = 0; d < weights.directions(); ++d) {
    VariantForwardDirection& to = params.direction[d];
    static_cast<DirectionArguments&>(to) = arguments_of(layer, inputs, states, weights, d, copies);
    to.output = step_rows<void>(output, d * H, element);
    to.h_n = state_rows<void>(h_n, d, element);
    if (gates) to.gates = layer.own_rows<void>(*gates, d);
    if (!normal) continue;
    to.normal = layer.own_rows<void>(*normal, d);
    to.scale = scale_rows<void>(layer, *scale, d);
  }
  set_variant(params, layer, x, weights, options, batch_sizes.has_value(), copies);
}

VariantBackwardCall::VariantBackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                                         const Tensor& x, const Tensor& hx, const Tensor& output, const Tensor& gates,
                                         const OptionalTensor& normal, const OptionalTensor& scale,
                                         const VariantWeights& weights, const OptionalTensor& batch_sizes,
                                         const VariantOptions& options, bool need_x, bool need_weights,
                                         bool need_update, bool need_reset_state)
    : layer(layer_of(x, hx, weights, batch_sizes, options.reverse)), grad_h_n(grad_h_n), grad_hx(layer.new_states(x)) {
  check_norm_weights(weights, layer, x);
  const int64_t D = layer.shape().directions, H = layer.shape().hidden, element = layer.element_size();
  check(weights.norm() == normal.has_value() && weights.norm() == scale.has_value(),
        "normal, scale: expected with a norm, and only then");
  const auto rows_of = [&](const char* name, const Tensor& tensor, int64_t n) -> const Tensor& {
    check_like(name, tensor, x);
    check_shape(name, tensor, {D, layer.rows(), n});
    return with_dense_rows(tensor, copies);
  };
  const auto steps_of = [&](const char* name, const Tensor& tensor) -> const Tensor& {
    check_like(name, tensor, x);
    layer.check_steps(name, tensor, D * H);
    return with_dense_rows(tensor, copies);
  };
  const Tensor &saved = rows_of("gates", gates, 4 * H), &outputs = steps_of("output", output);
  const Tensor* const step_grads = grad_output ? &steps_of("grad_output", *grad_output) : nullptr;
  const Tensor* last_grads = nullptr;
  if (grad_h_n) {
    check_like("grad_h_n", *grad_h_n, x);
    layer.check_states("grad_h_n", *grad_h_n);
    last_grads = &with_dense_rows(*grad_h_n, copies);
  }
  const Tensor* const normals = normal ? &rows_of("normal", *normal, 3 * H) : nullptr;
  if (scale) check_shape("scale", *scale, {D, layer.rows(), 1});
  check(!need_update || options.update, "need_update: expected false without update");
  check(!need_reset_state || options.reset_state, "need_reset_state: expected false without reset_state");
  if (need_x) grad_x = weights.norm() ? layer.new_steps(x, D * 3 * H) : layer.new_rows(x, layer.inputs());
  if (need_update) grad_update = layer.new_rows(x, H);
  if (need_reset_state) grad_reset_state = layer.new_states(x);

  const Tensor &inputs = with_dense_rows(x, copies), &states = with_dense_rows(hx, copies);
  const auto new_grad = [&](std::initializer_list<int64_t> sizes) {
    return grad_weights.emplace_back(new_tensor(x, sizes)).data_ptr();
  };
  for (int d = 0; d < D; ++d) {
    VariantBackwardDirection& to = params.direction[d];
    static_cast<DirectionArguments&>(to) = arguments_of(layer, inputs, states, weights, d, copies);
    if (step_grads) to.grad_output = step_rows<const void>(*step_grads, d * H, element);
    if (last_grads) to.grad_h_n = state_rows<const void>(*last_grads, d, element);
    to.output = step_rows<const void>(outputs, d * H, element);
    to.gates = layer.own_rows<const void>(saved, d);
    if (normals) {
      to.normal = layer.own_rows<const void>(*normals, d);
      to.scale = scale_rows<const void>(layer, *scale, d);
    }
    to.grad_hx = state_rows<void>(grad_hx, d, element);
    if (need_x)
      to.grad_x = weights.norm() ? step_rows<void>(*grad_x, d * 3 * H, element) : layer.own_rows<void>(*grad_x, d);
    if (need_update) to.grad_update = layer.own_rows<void>(*grad_update, d);
    if (need_reset_state) to.grad_reset_state = state_rows<void>(*grad_reset_state, d, element);
    if (!need_weights) continue;
    if (weights.norm()) {
      to.grad_w_hh = new_grad({3 * H, H});
      to.grad_gain = new_grad({3 * H});
      to.grad_b_hh = new_grad({3 * H});
      continue;
    }
    to.grad_w_ih = new_grad({3 * H, layer.inputs()});
    to.grad_w_hh = new_grad({3 * H, H});
    if (layer.inputs() == 0) to.grad_w_ih = to.grad_w_hh;  // as in layer.cpp
    if (!weights.plain().has_bias()) continue;
    to.grad_b_ih = new_grad({3 * H});
    to.grad_b_hh = new_grad({3 * H});
  }
  set_variant(params, layer, x, weights, options, batch_sizes.has_value(), copies);
}

}  // namespace gru_fused::ops
