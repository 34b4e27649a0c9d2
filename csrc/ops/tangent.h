// The arguments of the sweeps of the second order, checked and turned into what the kernels take.
#pragma once

#include "layer.h"

namespace gru_fused::ops {

// A call of the tangent.
struct TangentCall {
  Layer layer;
  Tensor output_t, h_n_t, gates_t;
  std::forward_list<Tensor> copies;
  TangentParams params;

  TangentCall(const Tensor& given_t, const Tensor& hx_t, const Tensor& hx, const Tensor& output, const Tensor& gates,
              const std::vector<Tensor>& w_hh, const OptionalTensor& batch_sizes);
};

// A call of the tangent of the backward.
struct TangentBackwardCall {
  Layer layer;
  Tensor grad_hx, grad_hx_t, gate_grads, gate_grads_t;
  std::forward_list<Tensor> copies;
  TangentBackwardParams params;

  TangentBackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                      const OptionalTensor& grad_output_t, const OptionalTensor& grad_h_n_t, const Tensor& hx,
                      const Tensor& output, const Tensor& gates, const Tensor& hx_t, const Tensor& output_t,
                      const Tensor& gates_t, const std::vector<Tensor>& w_hh, const std::vector<Tensor>& w_hh_t,
                      const OptionalTensor& batch_sizes);
};

}  // namespace gru_fused::ops
