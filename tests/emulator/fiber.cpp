#include "fiber.h"

#include <cstdint>
#include <cstdlib>

#include "pages.h"
#include "sanitizers.h"

#if !defined(__x86_64__) || defined(GRU_FUSED_EMULATOR_UCONTEXT)
#include <ucontext.h>
#define EMULATOR_UCONTEXT 1
#else
#define EMULATOR_UCONTEXT 0
#endif

namespace emulator {
namespace {

constexpr size_t stack_bytes = address_sanitizer || thread_sanitizer ? 256 << 10 : 64 << 10;
constexpr uint64_t stack_end_mark = 0x656e64206f662073;

// The scheduler's side of the switches. It runs on whichever stack called the launch.
void* scheduler_point = nullptr;
[[maybe_unused]] const void* scheduler_stack = nullptr;
[[maybe_unused]] size_t scheduler_stack_bytes = 0;
[[maybe_unused]] void* scheduler_tsan = nullptr;

#if EMULATOR_UCONTEXT

void switch_stack(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}

void* first_frame(char* stack, size_t bytes, void (*entry)()) {
  auto* context = new (stack + 64) ucontext_t;  // beneath all frames, above the end mark
  getcontext(context);
  const size_t below = 64 + sizeof(ucontext_t);
  context->uc_stack.ss_sp = stack + below;
  context->uc_stack.ss_size = bytes - below;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

#else

// Saves what a called function must keep, leaves the stack pointer in *save and takes up `load` where it left off.
// A switch costs some ns; swapcontext's system calls for the signal mask cost 100 times that.
extern "C" void gru_fused_emulator_switch_stack(void** save, void* load);
asm(R"(
  .text
  .type gru_fused_emulator_switch_stack, @function
gru_fused_emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size gru_fused_emulator_switch_stack, . - gru_fused_emulator_switch_stack
)");

void switch_stack(void** save, void* load) { gru_fused_emulator_switch_stack(save, load); }

void* first_frame(char* stack, size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;  // where entry would return to; it also puts the stack where a call would have left it
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  return top;
}

#endif

}  // namespace

Fiber::~Fiber() {
#if EMULATOR_TSAN
  if (tsan_fiber_) __tsan_destroy_fiber(tsan_fiber_);
#endif
  if (stack_) give_pages(stack_, stack_bytes);
}

void Fiber::prepare(void (*entry)()) {
  static unsigned prepared = 0;
  stack_ = take_pages(stack_bytes);
  *reinterpret_cast<uint64_t*>(stack_) = stack_end_mark;
  // Stacks whose tops all lay at the same offset would share a few sets of the cache and throw each other out.
  const size_t colour = prepared++ % 61 * 64;
  resume_point_ = first_frame(stack_, stack_bytes - colour, entry);
#if EMULATOR_TSAN
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

void Fiber::set_name([[maybe_unused]] const std::string& name) {
#if EMULATOR_TSAN
  __tsan_set_fiber_name(tsan_fiber_, name.c_str());
#endif
}

void Fiber::resume() {
#if EMULATOR_ASAN
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, stack_, stack_bytes);
#endif
#if EMULATOR_TSAN
  // What the host did before the launch is ordered before each thread's start, and nothing else is by a switch.
  scheduler_tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_fiber_, started_ ? __tsan_switch_to_fiber_no_sync : 0);
#endif
  started_ = true;
  switch_stack(&scheduler_point, resume_point_);
#if EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#if EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Fiber::suspend([[maybe_unused]] bool last) {
#if EMULATOR_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &asan_stack_, scheduler_stack, scheduler_stack_bytes);
#endif
#if EMULATOR_TSAN
  __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  switch_stack(&resume_point_, scheduler_point);
#if EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(asan_stack_, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Fiber::bury([[maybe_unused]] void* key, [[maybe_unused]] bool unwatched) {
#if EMULATOR_TSAN
  void* scheduler = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_fiber_, __tsan_switch_to_fiber_no_sync);
  if (unwatched) ignore_accesses(false);  // no thread may end with its accesses ignored
  release(key);
  __tsan_switch_to_fiber(scheduler, __tsan_switch_to_fiber_no_sync);
#endif
}

bool Fiber::overflowed() const { return *reinterpret_cast<const uint64_t*>(stack_) != stack_end_mark; }

}  // namespace emulator
