// The table of an instruction set whose products take pairs of bfloat16 from memory: the AVX-512 kernels, with the
// forward of bfloat16 in place of theirs.
#pragma once

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

cpu::Kernels kernels_of_pairs(const char* name) {
  cpu::Kernels kernels = cpu::kernels_avx512();
  kernels.name = name;
  kernels.forward_scratch = forward_scratch;
  kernels.forward = forward;
  kernels.variant_forward_scratch = variant_forward_scratch;
  kernels.variant_forward = variant_forward;
  return kernels;
}

}  // namespace
}  // namespace gru_fused
