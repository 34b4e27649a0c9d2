// What a CUDA device would run, in words: in every build, as the plan needs no CUDA.
#include "../cuda/plan.h"
#include "tensors.h"

namespace gru_fused::ops {
namespace {

cuda::Arithmetic arithmetic_of(const std::string& name) {
  const std::pair<const char*, cuda::Arithmetic> known[] = {{"float32", cuda::Arithmetic::f32},
                                                            {"float64", cuda::Arithmetic::f64},
                                                            {"tf32", cuda::Arithmetic::tf32},
                                                            {"bfloat16", cuda::Arithmetic::bf16},
                                                            {"float16", cuda::Arithmetic::f16}};
  for (const auto& [text, arithmetic] : known)
    if (name == text) return arithmetic;
  fail("arithmetic: expected float32, float64, tf32, bfloat16 or float16, got ", name);
}

std::string cuda_plan(int64_t arch, int64_t sms, int64_t shared_bytes, std::string arithmetic, int64_t batch,
                      int64_t hidden, bool bidirectional, bool backward, bool variant, int64_t steps) {
  const cuda::Device device = cuda::make_device(int(arch), int(sms), shared_bytes, true);
  const cuda::Problem problem{
      arithmetic_of(arithmetic), batch, hidden, bidirectional ? 2 : 1, backward, variant, steps};
  return cuda::describe(device, problem, cuda::make_plan(device, problem));
}

}  // namespace
}  // namespace gru_fused::ops

STABLE_TORCH_LIBRARY_IMPL(gru_fused, CompositeExplicitAutograd, m) {
  m.impl("cuda_plan", TORCH_BOX(&gru_fused::ops::cuda_plan));
}
