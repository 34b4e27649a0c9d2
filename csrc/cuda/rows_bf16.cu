#include "row_instances.cuh"

const gru_fused::cuda::RowKernels& gru_fused::cuda::rows_bf16() { return rows_of<__nv_bfloat16, FastMath>(); }
