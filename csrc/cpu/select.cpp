// Which kernels this machine gets, decided once.
#include <cstdlib>
#include <cstring>

#include "core.h"
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace gru_fused::cpu {
namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_pairs() { return __builtin_cpu_supports("avx512bf16"); }
// Linux lends the tiles to a process that asks for them; oneDNN within torch does so too.
bool has_amx() {
#if defined(__linux__)
  constexpr unsigned tiles = 1u << 24, bf16 = 1u << 22;  // of leaf 7
  constexpr int request = 0x1023, tile_data = 18;        // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (tiles | bf16)) != (tiles | bf16)) return false;
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}
#endif

const Kernels* choose() {
  const char* wanted = std::getenv("GRU_FUSED_CPU");
  const auto fits = [&](const Kernels& kernels) { return !wanted || std::strcmp(wanted, kernels.name) == 0; };
#if defined(__x86_64__)
  if (fits(kernels_amx_bf16()) && has_avx512() && has_pairs() && has_amx()) return &kernels_amx_bf16();
  // Without its tiles Golden Cove multiplies pairs at half the rate of float32.
  const bool slow_pairs = !wanted && core() == Core::golden_cove;
  if (has_avx512() && has_pairs() && !slow_pairs && fits(kernels_avx512_bf16())) return &kernels_avx512_bf16();
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
