#include "row_instances.cuh"

const gru_fused::cuda::RowKernels& gru_fused::cuda::rows_f16() { return rows_of<__half, FastMath>(); }
