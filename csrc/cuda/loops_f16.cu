#include "instances.cuh"

const gru_fused::cuda::LoopKernels& gru_fused::cuda::loops_f16() { return loops_of<TensorCores<__half>>(); }
