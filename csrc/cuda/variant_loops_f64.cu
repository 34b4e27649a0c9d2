#include "instances.cuh"

const gru_fused::cuda::VariantLoopKernels& gru_fused::cuda::variant_loops_f64() {
  return variant_loops_of<MultiplyAdd<double>>();
}
