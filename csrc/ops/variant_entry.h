// The ops of the cell's variants, the same for every device: a Backend computes what a call has laid out.
//
//   static void variant_forward(VariantForwardCall&, const Tensor& x, const VariantWeights&, bool tf32)
//   static void variant_backward(VariantBackwardCall&, const Tensor& x, const VariantWeights&, bool tf32)
#pragma once

#include <tuple>

#include "variant.h"

namespace gru_fused::ops {

template <class Backend>
struct VariantEntry {
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_variant(
      Tensor x, Tensor hx, std::vector<Tensor> tensors, bool bias, OptionalTensor batch_sizes, int64_t recurrence,
      int64_t gate, int64_t candidate, double epsilon, bool reverse, OptionalTensor lengths, OptionalTensor reset,
      OptionalTensor reset_state, OptionalTensor update, OptionalTensor dropout, bool save, bool tf32) {
    const VariantOptions options{recurrence, gate,  candidate,   epsilon, reverse,
                                 lengths,    reset, reset_state, update,  dropout};
    const VariantWeights weights(tensors, bias, options.cell().norm());
    VariantForwardCall call(x, hx, weights, batch_sizes, options, save);
    Backend::variant_forward(call, x, weights, tf32);
    const auto or_empty = [&](const OptionalTensor& made) { return made ? *made : new_tensor(x, {0}); };
    return {call.output, call.h_n, or_empty(call.gates), or_empty(call.normal), or_empty(call.scale)};
  }

  static std::vector<Tensor> gru_variant_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor x,
                                                  Tensor hx, Tensor output, Tensor gates, Tensor normal, Tensor scale,
                                                  std::vector<Tensor> tensors, bool bias, OptionalTensor batch_sizes,
                                                  int64_t recurrence, int64_t gate, int64_t candidate, double epsilon,
                                                  bool reverse, OptionalTensor lengths, OptionalTensor reset,
                                                  OptionalTensor reset_state, OptionalTensor update,
                                                  OptionalTensor dropout, bool need_x, bool need_weights,
                                                  bool need_update, bool need_reset_state, bool tf32) {
    const VariantOptions options{recurrence, gate,  candidate,   epsilon, reverse,
                                 lengths,    reset, reset_state, update,  dropout};
    const VariantWeights weights(tensors, bias, options.cell().norm());
    const auto with_norm = [&](const Tensor& saved) {
      return weights.norm() ? OptionalTensor(saved) : OptionalTensor();
    };
    VariantBackwardCall call(grad_output, grad_h_n, x, hx, output, gates, with_norm(normal), with_norm(scale), weights,
                             batch_sizes, options, need_x, need_weights, need_update, need_reset_state);
    Backend::variant_backward(call, x, weights, tf32);
    std::vector<Tensor> grads{call.grad_hx};
    if (need_x) grads.push_back(weights.norm() ? *call.grad_x : call.layer.sum_directions(*call.grad_x));
    for (const Tensor& grad : call.grad_weights) grads.push_back(grad);
    if (need_update) grads.push_back(*call.grad_update);
    if (need_reset_state) grads.push_back(*call.grad_reset_state);
    return grads;
  }
};

}  // namespace gru_fused::ops

// In a translation unit of its device, inside STABLE_TORCH_LIBRARY_IMPL.
#define GRU_FUSED_REGISTER_VARIANT(m, Backend)                                           \
  m.impl("gru_variant", TORCH_BOX(&gru_fused::ops::VariantEntry<Backend>::gru_variant)); \
  m.impl("gru_variant_backward", TORCH_BOX(&gru_fused::ops::VariantEntry<Backend>::gru_variant_backward))
