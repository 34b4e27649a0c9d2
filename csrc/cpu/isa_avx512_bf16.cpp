// The AVX-512 kernels with the forward of bfloat16 in AVX512_BF16: its products take pairs of bfloat16 from memory.
#define GRU_FUSED_VECTOR_BYTES 64
#define GRU_FUSED_BF16_PAIRS 1
#include "variant_forward.h"

namespace gru_fused {
namespace {

size_t forward_scratch(const ForwardParams& params, int64_t threads) {
  if (params.shape.dtype != DType::bf16) return cpu::kernels_avx512().forward_scratch(params, threads);
  return forward_bytes<bf16>(params, threads);
}

void forward(const ForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  if (params.shape.dtype != DType::bf16) return cpu::kernels_avx512().forward(params, scratch, parallel);
  run_forward<bf16>(params, scratch, parallel);
}

size_t variant_forward_scratch(const VariantForwardParams& params, int64_t threads) {
  if (params.shape.dtype != DType::bf16) return cpu::kernels_avx512().variant_forward_scratch(params, threads);
  return forward_bytes<bf16, VariantSteps<bf16>>(params, threads);
}

void variant_forward(const VariantForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  if (params.shape.dtype != DType::bf16) return cpu::kernels_avx512().variant_forward(params, scratch, parallel);
  run_forward<bf16, VariantSteps<bf16>>(params, scratch, parallel);
}

}  // namespace

const cpu::Kernels& cpu::kernels_avx512_bf16() {
  static const Kernels kernels = [] {
    Kernels others = kernels_avx512();
    others.name = "avx512_bf16";
    others.forward_scratch = gru_fused::forward_scratch;
    others.forward = gru_fused::forward;
    others.variant_forward_scratch = gru_fused::variant_forward_scratch;
    others.variant_forward = gru_fused::variant_forward;
    return others;
  }();
  return kernels;
}

}  // namespace gru_fused
