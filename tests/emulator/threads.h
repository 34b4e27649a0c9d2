// The running launch: its grid, clusters, blocks, warps and threads, and what they wait at.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"
#include "include/vector_types.h"

namespace emulator {

struct Thread;

struct Barrier {
  unsigned arrived = 0;
  unsigned expected = 0;  // in this phase; 0 while nobody has come
  uint64_t phase = 0;
  std::vector<Thread*> waiting;
  char keys[2];  // for ThreadSanitizer, by turns: a thread may be in the next phase before all have left this one

  void* key() { return &keys[phase & 1]; }
};

// A warp collective that some lanes have come to and others have not.
struct Collective {
  uint32_t mask;
  Combine* combine;
  const char* what;
  uint32_t arrived = 0;
  const void* in[32];
  void* out[32];
  const void* function;
};

// What __syncwarp orders, for ThreadSanitizer; by turns as in a Barrier.
struct WarpOrder {
  uint32_t mask;
  uint64_t phase = 0;
  char keys[2];
};

struct Warp {
  uint32_t alive = 0;  // lanes that have not exited
  Thread* lanes[32] = {};
  std::vector<std::unique_ptr<WarpOrder>> orders;
  std::vector<std::unique_ptr<Collective>> pending;
};

struct AsyncCopy {
  void* target;
  const void* source;
  unsigned bytes, source_bytes;
};

struct Block;

struct Thread {
  Fiber fiber;
  uint3 index{};
  unsigned number = 0;  // in its block
  unsigned lane = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  bool exited = false;
  int unwatched = 0;                   // depth, see Unwatched
  const char* waits_at = nullptr;      // for reports
  bool arrived_at_cluster = false;     // and has not waited yet
  uint64_t cluster_phase = 0;          // that it arrived in
  std::vector<AsyncCopy> open_copies;  // cp.async of the group not committed yet
  std::deque<std::vector<AsyncCopy>> copies;
};

struct Grid;
struct Cluster;

struct Block {
  Grid* grid = nullptr;
  Cluster* cluster = nullptr;
  uint3 index{};
  unsigned rank = 0;   // in its cluster
  unsigned alive = 0;  // threads
  bool started = false;
  char* shared = nullptr;
  char start_key, exit_key;  // for ThreadSanitizer
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  Barrier barriers[16];
};

struct Cluster {
  std::vector<Block*> blocks;
  Barrier barrier;
  unsigned alive = 0;                 // threads
  unsigned exited_after_arrival = 0;  // in this phase: they are among the arrived
};

struct StaticShared {
  const void* key;
  size_t offset, bytes;
};

struct AsyncStore {
  Block* from;
  unsigned thread;
  void* target;
  char value[16];
  unsigned bytes;
  uint64_t* barrier;
};

struct Grid {
  dim3 size, block_size, cluster_size;
  size_t dynamic_shared = 0;
  size_t shared_capacity = 0;  // of each block, with the static variables that may turn up
  size_t shared_used = 0;
  std::vector<StaticShared> static_shared;
  std::deque<AsyncStore> stores;               // on their way
  std::vector<std::unique_ptr<Block>> blocks;  // the resident ones
  std::vector<std::unique_ptr<Cluster>> clusters;
  const std::function<void()>* body = nullptr;
};

extern Thread* current;  // null while the host or the scheduler runs

// While one lives, ThreadSanitizer does not watch this thread. It sees the emulator's calls of malloc, free and memmove
// even though it is not compiled into them, and containers that all threads share would look like races.
class Unwatched {
 public:
  Unwatched();
  ~Unwatched();
  Unwatched(const Unwatched&) = delete;
};

// scheduler.cpp
void wait_here(const char* what);  // until someone calls make_ready
void make_ready(Thread* thread);
void make_ready(std::vector<Thread*>& threads);  // and empties the list
bool run_resident(Grid& grid);                   // until all have exited; false if the launch failed
void fail_launch(const std::string& text);
std::string place(const Block& block);

// At a thread's exit, each for what it keeps
void leave_warp(Thread& thread);     // warp.cpp
void leave_cluster(Thread& thread);  // barriers.cpp

// shared_memory.cpp
void take_shared(Block& block);
void open_shared(Block& block);   // when its first thread starts
void close_shared(Block& block);  // when its last thread has exited
void give_shared(Block& block);
bool is_shared(const Block& block, const void* p);
bool written_after_exit(const Block& block);
// The running block of this thread's cluster that it belongs to; if there is none the launch fails.
Block& owner_of_shared(const void* p, const char* what);

const std::string& failure();
void note_progress();  // some thread got on: no livelock

// async.cpp
void land_store(Grid& grid, const AsyncStore& store);

// watchdog.cpp
void watch_launch(bool begins);  // or ends

}  // namespace emulator
