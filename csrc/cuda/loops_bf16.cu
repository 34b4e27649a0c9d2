#include "instances.cuh"

const gru_fused::cuda::LoopKernels& gru_fused::cuda::loops_bf16() { return loops_of<TensorCores<__nv_bfloat16>>(); }
