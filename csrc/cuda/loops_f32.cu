#include "instances.cuh"

const gru_fused::cuda::LoopKernels& gru_fused::cuda::loops_f32() { return loops_of<MultiplyAdd<float>>(); }
