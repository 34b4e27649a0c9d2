// Barriers of a block and of a cluster.

#include "sanitizers.h"
#include "threads.h"

namespace emulator {
namespace {

void park(Barrier& barrier, const char* what) {
  {
    Unwatched unwatched;
    barrier.waiting.push_back(current);
  }
  wait_here(what);
}

void next_phase(Barrier& barrier) {
  barrier.arrived = barrier.expected = 0;
  ++barrier.phase;
  make_ready(barrier.waiting);
}

// The barrier that the thread now counts at. True if it was the last: then the phase is over.
bool arrive(unsigned id, unsigned threads, const char* what) {
  Block& block = *current->block;
  if (id >= std::size(block.barriers)) fail("%s: there is no barrier %u", what, id);
  if (threads == 0 || (id != 0 && threads % 32 != 0)) fail("%s: %u threads are no whole warps", what, threads);
  Barrier& barrier = block.barriers[id];
  if (barrier.expected != 0 && barrier.expected != threads) {
    fail("%s: %u threads are to meet at barrier %u, but others expect %u", what, threads, id, barrier.expected);
  }
  ++stats().barriers;
  barrier.expected = threads;
  release(barrier.key());
  return ++barrier.arrived == threads;
}

void check_cluster_phase(Cluster& cluster) {
  Barrier& barrier = cluster.barrier;
  if (barrier.arrived == 0 || barrier.arrived - cluster.exited_after_arrival < cluster.alive) return;
  cluster.exited_after_arrival = 0;
  next_phase(barrier);
}

void arrive_at_cluster(bool orders_memory) {
  Thread& thread = *current;
  Barrier& barrier = thread.block->cluster->barrier;
  if (thread.arrived_at_cluster) fail("barrier.cluster.arrive: the second without a wait");
  ++stats().barriers;
  thread.arrived_at_cluster = true;
  thread.cluster_phase = barrier.phase;
  if (orders_memory) release(barrier.key());
  ++barrier.arrived;
  check_cluster_phase(*thread.block->cluster);
}

}  // namespace

void barrier_sync(unsigned id, unsigned threads, const char* what) {
  const bool last = arrive(id, threads, what);
  Barrier& barrier = current->block->barriers[id];
  void* key = barrier.key();
  if (last) {
    next_phase(barrier);
  } else {
    park(barrier, what);
  }
  acquire(key);
}

void barrier_arrive(unsigned id, unsigned threads, const char* what) {
  if (arrive(id, threads, what)) next_phase(current->block->barriers[id]);
}

unsigned cluster_rank() { return current->block->rank; }
unsigned cluster_size() { return static_cast<unsigned>(current->block->cluster->blocks.size()); }

void cluster_arrive() { arrive_at_cluster(true); }
void cluster_arrive_relaxed() { arrive_at_cluster(false); }

void cluster_wait() {
  Thread& thread = *current;
  Barrier& barrier = thread.block->cluster->barrier;
  if (!thread.arrived_at_cluster) fail("barrier.cluster.wait: without an arrive");
  if (barrier.phase == thread.cluster_phase) {
    park(barrier, "barrier.cluster.wait");
  }
  thread.arrived_at_cluster = false;
  acquire(&barrier.keys[thread.cluster_phase & 1]);
}

// Threads that have exited count as arrived, as PTX has it.
void leave_cluster(Thread& thread) {
  Cluster& cluster = *thread.block->cluster;
  --cluster.alive;
  if (thread.arrived_at_cluster && thread.cluster_phase == cluster.barrier.phase) ++cluster.exited_after_arrival;
  check_cluster_phase(cluster);
}

}  // namespace emulator
