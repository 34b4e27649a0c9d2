// The ops on the CPU.
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <memory>
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

// Scratch memory, kept by each thread that calls an op for its next call: new pages cost more than a small layer's
// arithmetic. A block beyond kKept goes back at once.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : kept_(block()) {
    if (bytes <= kept_.bytes) return;
    kept_ = Block();  // gives the old one back first
    const size_t alignment = bytes < kLargePage ? 64 : kLargePage;
    kept_.bytes = (bytes + alignment - 1) / alignment * alignment;
    kept_.data.reset(std::aligned_alloc(alignment, kept_.bytes));
    if (!kept_.data) {
      kept_ = Block();
      fail("out of memory: a call needs ", bytes, " bytes of scratch memory");
    }
#ifdef __linux__
    // Fewer, larger pages: the weights are read along and across. Only a hint.
    if (kept_.bytes >= kLargePage) madvise(kept_.data.get(), kept_.bytes, MADV_HUGEPAGE);
#endif
  }
  ~Scratch() {
    if (kept_.bytes > kKept) kept_ = Block();
  }
  Scratch(const Scratch&) = delete;
  void* data() const { return kept_.data.get(); }

 private:
  static constexpr size_t kLargePage = size_t(2) << 20, kKept = size_t(64) << 20;
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    size_t bytes = 0;
  };
  static Block& block() {
    static thread_local Block mine;
    return mine;
  }

  Block& kept_;
};

template <class Call, class ScratchBytes, class Run>
void launch(const Call& call, const ScratchBytes& scratch_bytes, const Run& run) {
  const cpu::Parallel parallel = torch_parallel();
  const Scratch scratch(scratch_bytes(call.params.shape, parallel.threads));
  run(call.params, scratch.data(), parallel);
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
  return {call.output, call.h_n, *call.gates};
}

std::vector<Tensor> gru_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor x, Tensor hx,
                                 Tensor output, Tensor gates, std::vector<Tensor> weights, bool bias,
                                 OptionalTensor batch_sizes, bool need_x, bool need_weights) {
  const BackwardCall call(grad_output, grad_h_n, x, hx, output, gates, Weights(weights, bias), batch_sizes, need_x,
                          need_weights);
  launch(call, kernels().backward_scratch, kernels().backward);
  std::vector<Tensor> grads{call.grad_hx};
  if (need_x) grads.push_back(call.layer.sum_directions(*call.grad_x));
  grads.insert(grads.end(), call.grad_weights.begin(), call.grad_weights.end());
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
