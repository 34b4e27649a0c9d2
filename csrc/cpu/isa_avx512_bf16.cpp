// The AVX-512 kernels with the forward of bfloat16 in AVX512_BF16: its products take pairs of bfloat16 from memory.
#define GRU_FUSED_VECTOR_BYTES 64
#define GRU_FUSED_BF16_PAIRS 1
#include "forward.h"

namespace gru_fused {
namespace {

size_t forward_scratch(const ForwardParams& params, int64_t threads) {
  if (params.shape.dtype != DType::bf16) return cpu::kernels_avx512().forward_scratch(params, threads);
  const cpu::Plan plan = cpu::plan_of(params.shape, threads);
  return size_t(ForwardScratch(params.shape, plan, Simd<float>::lanes, Bf16Pairs::terms).total) * sizeof(float);
}

void forward(const ForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  if (params.shape.dtype != DType::bf16) return cpu::kernels_avx512().forward(params, scratch, parallel);
  run_forward<bf16>(params, scratch, parallel);
}

}  // namespace

const cpu::Kernels& cpu::kernels_avx512_bf16() {
  static const Kernels kernels = [] {
    Kernels others = kernels_avx512();
    others.name = "avx512_bf16";
    others.forward_scratch = gru_fused::forward_scratch;
    others.forward = gru_fused::forward;
    return others;
  }();
  return kernels;
}

}  // namespace gru_fused
