// The sweeps of the second order on a CUDA device, step by step.
#pragma once

#include <tuple>

#include "tangent.h"

namespace gru_fused::ops {

std::tuple<Tensor, Tensor, Tensor> cuda_tangent(Tensor given_t, Tensor hx_t, Tensor hx, Tensor output, Tensor gates,
                                                std::vector<Tensor> w_hh, OptionalTensor batch_sizes);

std::tuple<Tensor, Tensor, Tensor, Tensor> cuda_tangent_backward(
    OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_output_t, OptionalTensor grad_h_n_t,
    Tensor hx, Tensor output, Tensor gates, Tensor hx_t, Tensor output_t, Tensor gates_t, std::vector<Tensor> w_hh,
    std::vector<Tensor> w_hh_t, OptionalTensor batch_sizes);

}  // namespace gru_fused::ops

#define GRU_FUSED_REGISTER_TANGENT(m)                              \
  m.impl("gru_tangent", TORCH_BOX(&gru_fused::ops::cuda_tangent)); \
  m.impl("gru_tangent_backward", TORCH_BOX(&gru_fused::ops::cuda_tangent_backward))
