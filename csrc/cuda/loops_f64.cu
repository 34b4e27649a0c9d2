#include "instances.cuh"

const gru_fused::cuda::LoopKernels& gru_fused::cuda::loops_f64() { return loops_of<MultiplyAdd<double>>(); }
