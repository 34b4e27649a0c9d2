// Which kernels this machine gets, decided once.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace gru_fused::cpu {
namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

const Kernels* choose() {
  const char* wanted = std::getenv("GRU_FUSED_CPU");
  const auto fits = [&](const Kernels& kernels) { return !wanted || std::strcmp(wanted, kernels.name) == 0; };
#if defined(__x86_64__)
  if (has_avx512() && __builtin_cpu_supports("avx512bf16") && fits(kernels_avx512_bf16()))
    return &kernels_avx512_bf16();
  if (has_avx512() && fits(kernels_avx512())) return &kernels_avx512();
  if (has_avx2() && fits(kernels_avx2())) return &kernels_avx2();
#endif
  return fits(kernels_base()) ? &kernels_base() : nullptr;
}

}  // namespace

const Kernels* select_kernels() {
  static const Kernels* const chosen = choose();
  return chosen;
}

}  // namespace gru_fused::cpu
