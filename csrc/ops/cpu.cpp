// The ops on the CPU.
#include <tuple>

#include "../cpu/kernels.h"
#include "layer.h"

namespace gru_fused::ops {
namespace {

const cpu::Kernels& kernels() {
  const cpu::Kernels* chosen = cpu::select_kernels();
  check(chosen,
        "the environment variable GRU_FUSED_CPU names kernels that this machine can't run or that do not "
        "exist; expected base, avx2 or avx512");
  return *chosen;
}

// torch's own threads, so that torch.set_num_threads, nesting and forking behave as users know them.
cpu::Parallel torch_parallel() {
  return {[](int64_t count, void (*body)(const void*, int64_t), const void* context) {
            torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) body(context, i);
            });
          },
          int64_t(torch::stable::get_num_threads())};
}

template <class Call, class Scratch, class Run>
void launch(const Call& call, const Scratch& scratch_bytes, const Run& run) {
  const cpu::Parallel parallel = torch_parallel();
  const int64_t bytes = int64_t(scratch_bytes(call.params.shape, parallel.threads));
  const Tensor scratch = torch::stable::empty({bytes}, ScalarType::Byte);
  run(call.params, scratch.data_ptr(), parallel);
}

std::tuple<Tensor, Tensor> gru_forward(Tensor x, Tensor hx, std::vector<Tensor> weights, bool bias,
                                       OptionalTensor batch_sizes) {
  const ForwardCall call(x, hx, Weights(weights, bias), batch_sizes, false);
  launch(call, kernels().forward_scratch, kernels().forward);
  return {call.output, call.h_n};
}

std::tuple<Tensor, Tensor, Tensor> gru_forward_train(Tensor x, Tensor hx, std::vector<Tensor> weights, bool bias,
                                                     OptionalTensor batch_sizes) {
  const ForwardCall call(x, hx, Weights(weights, bias), batch_sizes, true);
  launch(call, kernels().forward_scratch, kernels().forward);
  return {call.output, call.h_n, call.gates};
}

std::vector<Tensor> gru_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor x, Tensor hx,
                                 Tensor output, Tensor gates, std::vector<Tensor> weights, bool bias,
                                 OptionalTensor batch_sizes, bool need_x, bool need_weights) {
  const Weights all(weights, bias);
  const BackwardCall call(grad_output, grad_h_n, x, hx, output, gates, all, batch_sizes, need_weights);
  launch(call, kernels().backward_scratch, kernels().backward);
  std::vector<Tensor> grads{call.grad_hx(all)};
  if (need_x) grads.push_back(call.grad_x(x, all));
  if (need_weights)
    for (Tensor& grad : call.grad_weights(x, all)) grads.push_back(std::move(grad));
  return grads;
}

std::string cpu_capability() { return kernels().name; }

}  // namespace
}  // namespace gru_fused::ops

STABLE_TORCH_LIBRARY_IMPL(gru_fused, CPU, m) {
  m.impl("gru_forward", TORCH_BOX(&gru_fused::ops::gru_forward));
  m.impl("gru_forward_train", TORCH_BOX(&gru_fused::ops::gru_forward_train));
  m.impl("gru_backward", TORCH_BOX(&gru_fused::ops::gru_backward));
}

STABLE_TORCH_LIBRARY_IMPL(gru_fused, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&gru_fused::ops::cpu_capability));
}
