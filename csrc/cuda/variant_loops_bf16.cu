#include "instances.cuh"

const gru_fused::cuda::VariantLoopKernels& gru_fused::cuda::variant_loops_bf16() {
  return variant_loops_of<TensorCores<__nv_bfloat16>>();
}
