#define GRU_FUSED_VECTOR_BYTES 32
#include "isa.h"

const gru_fused::cpu::Kernels& gru_fused::cpu::kernels_avx2() {
  static constexpr Kernels kernels = kernels_named("avx2");
  return kernels;
}
