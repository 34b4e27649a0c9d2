// The CPU kernels as the ops see them: no torch header, no exception, no allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../variant_params.h"

namespace gru_fused::cpu {

// Runs body(context, i) for every i in [0, count), in parallel where the caller can.
struct Parallel {
  using Body = void (*)(const void* context, int64_t i);
  void (*run)(int64_t count, Body body, const void* context);
  int64_t threads;
};

// The kernels of one instruction set.
struct Kernels {
  const char* name;
  // Bytes of scratch memory, aligned to 64, that a call needs.
  size_t (*forward_scratch)(const ForwardParams&, int64_t threads);
  size_t (*backward_scratch)(const BackwardParams&, int64_t threads);
  void (*forward)(const ForwardParams&, void* scratch, const Parallel&);
  void (*backward)(const BackwardParams&, void* scratch, const Parallel&);
  // Variants of the cell.
  size_t (*variant_forward_scratch)(const VariantForwardParams&, int64_t threads);
  size_t (*variant_backward_scratch)(const VariantBackwardParams&, int64_t threads);
  void (*variant_forward)(const VariantForwardParams&, void* scratch, const Parallel&);
  void (*variant_backward)(const VariantBackwardParams&, void* scratch, const Parallel&);
  // The second order.
  size_t (*tangent_scratch)(const TangentParams&, int64_t threads);
  size_t (*tangent_backward_scratch)(const TangentBackwardParams&, int64_t threads);
  void (*tangent)(const TangentParams&, void* scratch, const Parallel&);
  void (*tangent_backward)(const TangentBackwardParams&, void* scratch, const Parallel&);
};

const Kernels& kernels_base();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512_bf16();
const Kernels& kernels_amx_bf16();

// The best kernels that this machine runs, or those that the environment variable GRU_FUSED_CPU names
// (base, avx2, avx512, avx512_bf16, amx_bf16). Returns null if that name is not known or the machine can't run it.
const Kernels* select_kernels();

}  // namespace gru_fused::cpu
