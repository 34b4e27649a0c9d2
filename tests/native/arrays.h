// What the programs that check the CPU kernels share: threads and scratch memory.
#pragma once

#include <barrier>
#include <thread>

#include "../../csrc/cpu/kernels.h"
#include "matrix.h"

namespace {

// Every piece of work on its own thread. They begin together, so that teams find their members; but for that, nothing
// orders them but the end of the call.
cpu::Parallel threads(int64_t count) {
  return {[](int64_t pieces, cpu::Parallel::Body body, const void* context) {
            std::barrier start(pieces);
            std::vector<std::thread> running;
            for (int64_t i = 0; i < pieces; ++i)
              running.emplace_back([=, &start] {
                start.arrive_and_wait();
                body(context, i);
              });
            for (std::thread& thread : running) thread.join();
          },
          count};
}

// As inside another parallel region: one piece after the other, whatever was asked for.
cpu::Parallel one_by_one(int64_t count) {
  return {[](int64_t pieces, cpu::Parallel::Body body, const void* context) {
            for (int64_t i = 0; i < pieces; ++i) body(context, i);
          },
          count};
}

// Runs a kernel with scratch memory full of NaN in every type.
template <class Params, class ScratchBytes, class Run>
void launch(const Params& params, ScratchBytes scratch_bytes, Run run, int64_t thread_count) {
  const size_t bytes = (scratch_bytes(params, thread_count) + 63) / 64 * 64;
  void* const memory = std::memset(std::aligned_alloc(64, bytes), 0xff, bytes);
  run(params, memory, pick(0, 3) ? threads(thread_count) : one_by_one(thread_count));
  std::free(memory);
}

const cpu::Kernels& kernels_of(const std::string& name) {
  return name == "base"       ? cpu::kernels_base()
         : name == "avx2"     ? cpu::kernels_avx2()
         : name == "avx512"   ? cpu::kernels_avx512()
         : name == "amx_bf16" ? cpu::kernels_amx_bf16()
                              : cpu::kernels_avx512_bf16();
}

// `CHECK NAME CASES`: runs that many cases of the named kernels, and exits with 1 if one is wrong.
int check_cases(char** arguments, bool (*run_case)(const cpu::Kernels&, int64_t)) {
  const cpu::Kernels& kernels = kernels_of(arguments[1]);
  const int64_t cases = std::atoll(arguments[2]);
  int64_t wrong = 0;
  for (int64_t i = 0; i < cases; ++i) wrong += !run_case(kernels, i);
  std::printf("%s: %lld cases, %lld wrong\n", kernels.name, (long long)cases, (long long)wrong);
  return wrong ? 1 : 0;
}

}  // namespace
