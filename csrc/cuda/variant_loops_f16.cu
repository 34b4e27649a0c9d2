#include "instances.cuh"

const gru_fused::cuda::VariantLoopKernels& gru_fused::cuda::variant_loops_f16() {
  return variant_loops_of<TensorCores<__half>>();
}
