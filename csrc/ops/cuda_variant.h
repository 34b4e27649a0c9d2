// The layers of the cell's variants on a CUDA device: a Backend of variant_entry.h.
#pragma once

#include "variant.h"

namespace gru_fused::ops {

struct CudaVariant {
  static void variant_forward(const VariantForwardCall& call, const Tensor& x, const VariantWeights& weights,
                              bool tf32);
  static void variant_backward(const VariantBackwardCall& call, const Tensor& x, const VariantWeights& weights,
                               bool tf32);
};

}  // namespace gru_fused::ops
