#include "row_instances.cuh"

const gru_fused::cuda::RowKernels& gru_fused::cuda::rows_f32() { return rows_of<float, ExactMath<float>>(); }
