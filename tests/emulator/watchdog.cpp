// A thread that computes for ever without calling the emulator can't be interrupted by a scheduler that runs on the
// same OS thread. Another OS thread watches, says which one it is and ends the process, so that a test never hangs.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "threads.h"

extern uint3 threadIdx, blockIdx;

namespace emulator {
namespace {

std::atomic<bool> running = false;

void watch() {
  uint64_t seen = 0;
  std::clock_t since = 0;
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const uint64_t switches = std::atomic_ref(stats().switches).load(std::memory_order_relaxed);
    // The process's time, which stands still under a debugger.
    if (!running || switches != seen) {
      seen = switches;
      since = std::clock();
    } else if (std::clock() - since > static_cast<std::clock_t>(options().endless_seconds) * CLOCKS_PER_SEC) {
      std::fprintf(
          stderr, "emulator: block (%u,%u,%u), thread (%u,%u,%u) has run for %u s without waiting for anything\n",
          blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, options().endless_seconds);
      std::abort();
    }
  }
}

}  // namespace

void watch_launch(bool begins) {
  static const bool watched = (std::thread(watch).detach(), true);
  running = begins && watched;
}

}  // namespace emulator
