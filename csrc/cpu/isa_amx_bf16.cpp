// The AVX-512 kernels with the forward of bfloat16, and the backward of its plain cell from saved gates, in the tiles
// of AMX.
#define GRU_FUSED_VECTOR_BYTES 64
#define GRU_FUSED_BF16_PAIRS 1
#define GRU_FUSED_TILES 1
#include "backward_steps.h"
#include "isa_bf16.h"

namespace gru_fused {
namespace {

using TileBackwardSteps = PlainBackwardSteps<bf16>;

bool in_tiles(const BackwardParams& params, int64_t threads) {
  return params.shape.dtype == DType::bf16 && !params.recompute() && TileBackwardSteps::plan(params, threads).packed;
}

size_t backward_scratch(const BackwardParams& params, int64_t threads) {
  if (!in_tiles(params, threads)) return cpu::kernels_avx512().backward_scratch(params, threads);
  return backward_bytes<bf16, TileBackwardSteps>(params, threads);
}

void backward(const BackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  if (!in_tiles(params, parallel.threads)) return cpu::kernels_avx512().backward(params, scratch, parallel);
  run_backward<bf16, TileBackwardSteps>(params, scratch, parallel);
}

}  // namespace
}  // namespace gru_fused

const gru_fused::cpu::Kernels& gru_fused::cpu::kernels_amx_bf16() {
  static const Kernels kernels = [] {
    Kernels kernels = kernels_of_pairs("amx_bf16");
    kernels.backward_scratch = gru_fused::backward_scratch;
    kernels.backward = gru_fused::backward;
    return kernels;
  }();
  return kernels;
}
