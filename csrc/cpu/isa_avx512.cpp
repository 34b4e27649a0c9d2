#define GRU_FUSED_VECTOR_BYTES 64
#include "isa.h"

const gru_fused::cpu::Kernels& gru_fused::cpu::kernels_avx512() {
  static constexpr Kernels kernels = kernels_named("avx512");
  return kernels;
}
