// The ops on the CPU.
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <memory>
#include <tuple>

#include "../cpu/kernels.h"
#include "../cpu/other_work.h"
#include "direct.h"
#include "entry.h"
#include "tangent.h"
#include "variant_entry.h"

namespace gru_fused::ops {
namespace {

const cpu::Kernels& kernels() {
  const cpu::Kernels* chosen = cpu::select_kernels();
  check(chosen,
        "the environment variable GRU_FUSED_CPU names kernels that this machine can't run or that do not "
        "exist; expected base, avx2, avx512, avx512_bf16 or amx_bf16");
  return *chosen;
}

// torch's own threads, so that torch.set_num_threads, nesting and forking behave as users know them.
cpu::Parallel torch_parallel() {
  return {[](int64_t count, void (*body)(const void*, int64_t), const void* context) {
            using Clock = cpu::OtherWork::Clock;
            const Clock::time_point called = Clock::now();
            Clock::time_point own_done = called;  // the first part, which is this thread's
            torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              const Clock::time_point came = Clock::now();
              cpu::other_work().was_late(came, came - called);
              for (int64_t i = begin; i < end; ++i) body(context, i);
              if (begin == 0) own_done = Clock::now();
            });
            const Clock::time_point done = Clock::now();
            cpu::other_work().was_late(done, (done - own_done) - (own_done - called));
            cpu::other_work().was_in_time(done, done - called);
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
    learn();
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
  static constexpr size_t kLargePage = size_t(2) << 20, kKept = size_t(64) << 20, kLearned = size_t(16) << 20;
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    size_t bytes = 0;
  };
  // glibc gives large blocks pages of their own, which go back to the system with every free and come new, one fault
  // each, with every call, until it has seen a block of such a size freed. Gradients of weights are such blocks.
  static void learn() {
    static const bool learned = [] {
      void* volatile block = std::malloc(kLearned);  // volatile: or the compiler leaves the pair out
      std::free(block);
      return true;
    }();
    (void)learned;
  }
  static Block& block() {
    static thread_local Block mine;
    return mine;
  }

  Block& kept_;
};

template <class Call, class ScratchBytes, class Run>
void launch(const Call& call, const ScratchBytes& scratch_bytes, const Run& run) {
  const cpu::Parallel parallel = torch_parallel();
  const Scratch scratch(scratch_bytes(call.params, parallel.threads));
  run(call.params, scratch.data(), parallel);
}

std::tuple<Tensor, Tensor, Tensor> gru_tangent(Tensor given_t, Tensor hx_t, Tensor hx, Tensor output, Tensor gates,
                                               std::vector<Tensor> w_hh, OptionalTensor batch_sizes) {
  const TangentCall call(given_t, hx_t, hx, output, gates, w_hh, batch_sizes);
  launch(call, kernels().tangent_scratch, kernels().tangent);
  return {call.output_t, call.h_n_t, call.gates_t};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gru_tangent_backward(OptionalTensor grad_output, OptionalTensor grad_h_n,
                                                                OptionalTensor grad_output_t, OptionalTensor grad_h_n_t,
                                                                Tensor hx, Tensor output, Tensor gates, Tensor hx_t,
                                                                Tensor output_t, Tensor gates_t,
                                                                std::vector<Tensor> w_hh, std::vector<Tensor> w_hh_t,
                                                                OptionalTensor batch_sizes) {
  const TangentBackwardCall call(grad_output, grad_h_n, grad_output_t, grad_h_n_t, hx, output, gates, hx_t, output_t,
                                 gates_t, w_hh, w_hh_t, batch_sizes);
  launch(call, kernels().tangent_backward_scratch, kernels().tangent_backward);
  return {call.grad_hx, call.grad_hx_t, call.gate_grads, call.gate_grads_t};
}

std::string cpu_capability() { return kernels().name; }

}  // namespace

void forward_on_cpu(const ForwardParams& params) {
  const cpu::Parallel parallel = torch_parallel();
  const Scratch scratch(kernels().forward_scratch(params, parallel.threads));
  kernels().forward(params, scratch.data(), parallel);
}

struct Cpu {
  static void forward(const ForwardCall& call, const Tensor&, const Weights&, bool) { forward_on_cpu(call.params); }
  static void backward(const BackwardCall& call, const Tensor&, const Weights&, bool) {
    launch(call, kernels().backward_scratch, kernels().backward);
  }
  static void variant_forward(const VariantForwardCall& call, const Tensor&, const VariantWeights&, bool) {
    launch(call, kernels().variant_forward_scratch, kernels().variant_forward);
  }
  static void variant_backward(const VariantBackwardCall& call, const Tensor&, const VariantWeights&, bool) {
    launch(call, kernels().variant_backward_scratch, kernels().variant_backward);
  }
};

}  // namespace gru_fused::ops

STABLE_TORCH_LIBRARY_IMPL(gru_fused, CPU, m) {
  GRU_FUSED_REGISTER(m, gru_fused::ops::Cpu);
  GRU_FUSED_REGISTER_VARIANT(m, gru_fused::ops::Cpu);
  m.impl("gru_tangent", TORCH_BOX(&gru_fused::ops::gru_tangent));
  m.impl("gru_tangent_backward", TORCH_BOX(&gru_fused::ops::gru_tangent_backward));
}

STABLE_TORCH_LIBRARY_IMPL(gru_fused, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&gru_fused::ops::cpu_capability));
}
