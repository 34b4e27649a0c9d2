// The ops' functions, the same for every device: a Backend computes what a call has laid out.
//
//   static void forward(ForwardCall&, const Tensor& x, const Weights&, bool tf32)
//   static void backward(BackwardCall&, const Tensor& x, const Weights&, bool tf32)
#pragma once

#include <tuple>

#include "layer.h"

namespace gru_fused::ops {

template <class Backend>
struct Entry {
  static std::tuple<Tensor, Tensor> gru_forward(Tensor x, Tensor hx, std::vector<Tensor> weights, bool bias,
                                                bool bidirectional, OptionalTensor batch_sizes, bool tf32) {
    const int directions = bidirectional ? 2 : 1, per_layer = directions * (bias ? 4 : 2);
    const int layers = int(weights.size()) / per_layer;
    check(layers > 0 && layers * per_layer == int(weights.size()), "weights: expected ", per_layer,
          " tensors for each layer, got ", weights.size());
    if (layers == 1) {
      const ForwardCall call =
          run_forward(x, hx, Weights(weights, bias, directions, 0), batch_sizes, false, false, tf32, std::nullopt);
      return {call.output, call.h_n};
    }
    check(hx.dim() == 3 && hx.size(0) == layers * directions, "hx: expected 3 dimensions, ", layers * directions,
          " states of ", layers, " layers, got shape ", shape_text(hx.sizes()));
    const int64_t batch = hx.size(1), hidden = hx.size(2);
    const Tensor h_n = new_tensor(hx, {layers * directions, batch, hidden});
    for (int layer = 0; layer < layers; ++layer) {
      const auto states = [&](const Tensor& all) {
        return strided(all, layer * directions * all.stride(0), {directions, batch, hidden},
                       {all.stride(0), all.stride(1), all.stride(2)});
      };
      const ForwardCall call = run_forward(x, states(hx), Weights(weights, bias, directions, layer), batch_sizes, false,
                                           false, tf32, states(h_n));
      x = call.output;
    }
    return {x, h_n};
  }

  static std::tuple<Tensor, Tensor, Tensor> gru_forward_train(Tensor x, Tensor hx, std::vector<Tensor> weights,
                                                              bool bias, OptionalTensor batch_sizes, bool tf32) {
    const ForwardCall call = run_forward(x, hx, Weights(weights, bias), batch_sizes, false, true, tf32, std::nullopt);
    return {call.output, call.h_n, *call.gates};
  }

  static std::vector<Tensor> gru_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor x, Tensor hx,
                                          Tensor output, OptionalTensor gates, std::vector<Tensor> weights, bool bias,
                                          OptionalTensor batch_sizes, bool need_x, bool need_weights, bool tf32) {
    return run_backward(grad_output, grad_h_n, x, hx, output, gates, weights, bias, batch_sizes, false, need_x,
                        need_weights, tf32);
  }

  static Tensor gru_cell(Tensor x, Tensor hx, std::vector<Tensor> weights, bool bias, bool tf32) {
    return run_forward(x, hx, Weights(weights, bias), std::nullopt, true, false, tf32, std::nullopt).h_n;
  }

  static std::tuple<Tensor, Tensor> gru_cell_train(Tensor x, Tensor hx, std::vector<Tensor> weights, bool bias,
                                                   bool tf32) {
    const ForwardCall call = run_forward(x, hx, Weights(weights, bias), std::nullopt, true, true, tf32, std::nullopt);
    return {call.h_n, *call.gates};
  }

  static std::vector<Tensor> gru_cell_backward(Tensor grad_h, Tensor x, Tensor hx, Tensor h, Tensor gates,
                                               std::vector<Tensor> weights, bool bias, bool need_x, bool need_weights,
                                               bool tf32) {
    return run_backward(grad_h, std::nullopt, x, hx, h, gates, weights, bias, std::nullopt, true, need_x, need_weights,
                        tf32);
  }

 private:
  static ForwardCall run_forward(const Tensor& x, const Tensor& hx, const Weights& weights,
                                 const OptionalTensor& batch_sizes, bool cell, bool save, bool tf32,
                                 const OptionalTensor& h_n) {
    ForwardCall call(x, hx, weights, batch_sizes, cell, save, h_n);
    Backend::forward(call, x, weights, tf32);
    return call;
  }

  static std::vector<Tensor> run_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                                          const Tensor& x, const Tensor& hx, const Tensor& output,
                                          const OptionalTensor& gates, const std::vector<Tensor>& tensors, bool bias,
                                          const OptionalTensor& batch_sizes, bool cell, bool need_x, bool need_weights,
                                          bool tf32) {
    const Weights weights(tensors, bias);
    BackwardCall call(grad_output, grad_h_n, x, hx, output, gates, weights, batch_sizes, cell, need_x, need_weights);
    Backend::backward(call, x, weights, tf32);
    std::vector<Tensor> grads;
    grads.reserve(2 + call.grad_weights.size());
    grads.push_back(std::move(call.grad_hx));
    if (need_x) grads.push_back(call.layer.sum_directions(*call.grad_x));
    for (Tensor& grad : call.grad_weights) grads.push_back(std::move(grad));
    return grads;
  }
};

}  // namespace gru_fused::ops

// In a translation unit of its device: GRU_FUSED_REGISTER(m, Backend) inside STABLE_TORCH_LIBRARY_IMPL.
#define GRU_FUSED_REGISTER(m, Backend)                                                        \
  m.impl("gru_forward", TORCH_BOX(&gru_fused::ops::Entry<Backend>::gru_forward));             \
  m.impl("gru_forward_train", TORCH_BOX(&gru_fused::ops::Entry<Backend>::gru_forward_train)); \
  m.impl("gru_backward", TORCH_BOX(&gru_fused::ops::Entry<Backend>::gru_backward));           \
  m.impl("gru_cell", TORCH_BOX(&gru_fused::ops::Entry<Backend>::gru_cell));                   \
  m.impl("gru_cell_train", TORCH_BOX(&gru_fused::ops::Entry<Backend>::gru_cell_train));       \
  m.impl("gru_cell_backward", TORCH_BOX(&gru_fused::ops::Entry<Backend>::gru_cell_backward))
