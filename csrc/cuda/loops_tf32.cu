#include "instances.cuh"

const gru_fused::cuda::LoopKernels& gru_fused::cuda::loops_tf32() { return loops_of<TensorCores<float>>(); }
