// Which thread runs next, and what is said when none can.

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "sanitizers.h"
#include "threads.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

Thread* current = nullptr;

namespace {

int host_unwatched = 0;

struct Scheduler {
  std::deque<Thread*> ready;
  std::vector<Thread*> polling;  // run when nothing else can, so that a spin-wait starves nobody
  std::mt19937_64 random;
  unsigned idle_rounds = 0;  // rounds in which the polling threads did nothing but poll
  bool progress = false;     // since the latest round began
  bool failed = false;
  std::string error;

  bool draw(unsigned one_in) { return options().order == Order::Random && random() % one_in == 0; }

  template <class T>
  T take(std::deque<T>& from) {
    if (options().order == Order::Random) std::swap(from[random() % from.size()], from.back());
    T taken = options().order == Order::Fifo ? from.front() : from.back();
    options().order == Order::Fifo ? from.pop_front() : from.pop_back();
    return taken;
  }

  void land_one(Grid& grid) {
    progress = true;
    land_store(grid, take(grid.stores));
  }

  void poll_again() {
    idle_rounds = progress ? 0 : idle_rounds + 1;
    progress = false;
    ready.insert(ready.end(), polling.begin(), polling.end());
    polling.clear();
  }

  // Null if no thread can get on.
  Thread* next(Grid& grid) {
    if (!grid.stores.empty() && draw(8)) land_one(grid);
    if (!polling.empty() && draw(64)) poll_again();
    while (ready.empty()) {
      const bool look_early = !polling.empty() && draw(16);
      if (!grid.stores.empty() && !look_early) {
        land_one(grid);
      } else if (!polling.empty() && idle_rounds < options().livelock_rounds) {
        poll_again();
      } else {
        return nullptr;
      }
    }
    return take(ready);
  }
} scheduler;

void start_block(Block& block) {
  if (block.started) {
    acquire(&block.start_key);
    return;
  }
  block.started = true;
  open_shared(block);
  release(&block.start_key);
}

void exit_thread(Thread& thread) {
  Block& block = *thread.block;
  thread.exited = true;
  leave_warp(thread);
  leave_cluster(thread);
  release(&block.exit_key);
  if (--block.alive == 0) {
    acquire(&block.exit_key);
    close_shared(block);
  }
  scheduler.progress = true;
}

void thread_main() {
  Thread& thread = *current;
  thread.fiber.entered();
  start_block(*thread.block);
  (*thread.block->grid->body)();
  exit_thread(thread);
  thread.fiber.suspend(true);
  std::abort();
}

void resume(Thread& thread) {
  Block& block = *thread.block;
  current = &thread;
  threadIdx = thread.index;
  blockIdx = block.index;
  ++stats().switches;
  thread.fiber.resume();
  current = nullptr;
}

}  // namespace

void wait_here(const char* what) {
  Thread& thread = *current;
  scheduler.progress = true;
  thread.waits_at = what;
  thread.fiber.suspend();
  thread.waits_at = nullptr;
}

void yield(const char* what) {
  Thread& thread = *current;
  thread.waits_at = what;
  {
    Unwatched unwatched;
    scheduler.polling.push_back(&thread);
  }
  thread.fiber.suspend();
  thread.waits_at = nullptr;
}

Unwatched::Unwatched() {
  int& depth = current ? current->unwatched : host_unwatched;
  if (depth++ == 0) ignore_accesses(true);
}

Unwatched::~Unwatched() {
  int& depth = current ? current->unwatched : host_unwatched;
  if (--depth == 0) ignore_accesses(false);
}

void make_ready(Thread* thread) {
  Unwatched unwatched;
  scheduler.ready.push_back(thread);
}

void make_ready(std::vector<Thread*>& threads) {
  Unwatched unwatched;
  for (Thread* thread : threads) make_ready(thread);
  threads.clear();
}

void fail_launch(const std::string& text) {
  if (!scheduler.failed) scheduler.error = text;  // what follows from a first failure would only hide it
  scheduler.failed = true;
}

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (!current) {
    std::fprintf(stderr, "emulator: %s, called outside a kernel\n", text);
    std::abort();
  }
  Unwatched unwatched;  // and stays so, as this thread is never resumed
  fail_launch(place(*current->block) + ", thread " + std::to_string(current->number) + ": " + text);
  current->fiber.suspend(true);
  std::abort();
}

std::string place(const Block& block) {
  const uint3 i = block.index;
  const dim3& grid = block.grid->size;
  if (grid.y == 1 && grid.z == 1) return "block " + std::to_string(i.x);
  return "block (" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

// "block 2: 31 threads wait at __syncthreads, 1 exited; block 3: ..."
static std::string waiting_report(const Grid& grid) {
  constexpr int most = 8;
  std::string report;
  int told = 0;
  for (const auto& block : grid.blocks) {
    if (block->alive == 0) continue;
    if (++told > most) continue;
    std::map<std::string, unsigned> places;
    for (const Thread& thread : block->threads) {
      if (!thread.exited) ++places[thread.waits_at ? thread.waits_at : "nothing"];
    }
    report += (told == 1 ? "" : "; ") + place(*block) + ":";
    const char* separator = " ";
    for (const auto& [what, count] : places) {
      report += separator + std::to_string(count) + (count == 1 ? " thread waits at " : " threads wait at ") + what;
      separator = ", ";
    }
    if (const size_t exited = block->threads.size() - block->alive) report += ", " + std::to_string(exited) + " exited";
  }
  if (told > most) report += "; and " + std::to_string(told - most) + " blocks more";
  return report;
}

bool run_resident(Grid& grid) {
  scheduler.ready.clear();
  scheduler.polling.clear();
  scheduler.random.seed(options().seed);
  scheduler.idle_rounds = 0;
  scheduler.progress = scheduler.failed = false;
  blockDim = grid.block_size;
  gridDim = grid.size;
  unsigned alive_blocks = 0;
  for (const auto& block : grid.blocks) {
    ++alive_blocks;
    for (Thread& thread : block->threads) {
      thread.fiber.prepare(thread_main);
      if (thread_sanitizer) thread.fiber.set_name(place(*block) + " thread " + std::to_string(thread.number));
      make_ready(&thread);
    }
  }
  const uint64_t switches_end = stats().switches + options().max_switches;
  while (alive_blocks > 0 && !scheduler.failed) {
    Thread* thread = scheduler.next(grid);
    if (scheduler.failed) break;
    if (!thread) {
      fail_launch((scheduler.polling.empty() ? "deadlock: " : "livelock: ") + waiting_report(grid));
    } else if (stats().switches >= switches_end) {
      fail_launch("livelock: " + std::to_string(options().max_switches) + " switches; " + waiting_report(grid));
    } else {
      resume(*thread);
      alive_blocks -= thread->exited && thread->block->alive == 0;
    }
  }
  // A store may land later than its sender exits, but not later than its target.
  while (!scheduler.failed && !grid.stores.empty()) scheduler.land_one(grid);
  for (const auto& block : grid.blocks) {
    for (const Thread& thread : block->threads) {
      if (thread.fiber.overflowed()) fail_launch(place(*block) + ": a thread's stack overflowed");
    }
    if (!scheduler.failed && written_after_exit(*block)) {
      fail_launch(place(*block) + ": its shared memory was written after it had exited");
    }
  }
  return !scheduler.failed;
}

const std::string& failure() { return scheduler.error; }

void note_progress() { scheduler.progress = true; }

}  // namespace emulator
