// The AVX-512 kernels with the forward of bfloat16 in AVX512_BF16.
#define GRU_FUSED_VECTOR_BYTES 64
#define GRU_FUSED_BF16_PAIRS 1
#include "isa_bf16.h"

const gru_fused::cpu::Kernels& gru_fused::cpu::kernels_avx512_bf16() {
  static const Kernels kernels = kernels_of_pairs("avx512_bf16");
  return kernels;
}
