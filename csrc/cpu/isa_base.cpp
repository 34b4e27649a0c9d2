#define GRU_FUSED_VECTOR_BYTES 16
#include "isa.h"

const gru_fused::cpu::Kernels& gru_fused::cpu::kernels_base() {
  static constexpr Kernels kernels = kernels_named("base");
  return kernels;
}
