// Kernels with one fault each. test_emulator.py says what must notice it.

#include "selftest.h"

namespace {

// Runs the kernel and compares out with expected(i).
template <class Expected, class Kernel, class... Arguments>
Outcome run(const Shape& shape, size_t count, Expected expected, Kernel* kernel, Arguments... arguments) {
  std::vector<int> out(count, -1);
  Outcome outcome{launch(shape, kernel, out.data(), arguments...)};
  for (size_t i = 0; i < count; ++i) outcome.expect(out[i], static_cast<int>(expected(static_cast<int>(i))));
  return outcome;
}

Outcome run(const Shape& shape, void (*kernel)(int*)) {
  std::vector<int> out(1024);
  return {launch(shape, kernel, out.data())};
}

// ---- Threads that wait for ever

__global__ void exits_before_the_barrier(int*) {
  if (blockIdx.x == 2 && threadIdx.x == 7) return;
  __syncthreads();
}

__global__ void waits_for_no_one(int* out) { wait_for(reinterpret_cast<unsigned*>(out), 1); }

__global__ void meets_while_it_polls(int* out) {  // gets on for ever, and nowhere
  while (load_acquire(reinterpret_cast<unsigned*>(out)) == 0) __syncthreads();
}

__global__ void waits_for_a_later_block(int* out) {
  auto* flag = reinterpret_cast<unsigned*>(out);
  if (blockIdx.x == 0) wait_for(flag, 1);
  if (blockIdx.x == 1 && threadIdx.x == 0) add_release(flag);
}

__global__ void too_few_bytes(int*) {
  SHARED(uint64_t, barrier, 1);
  const unsigned t = threadIdx.x;
  if (t == 0) {
    emulator::mbarrier_init(barrier, 1);
    emulator::mbarrier_arrive_expect_tx(barrier, 32 * 4);
  }
  __syncthreads();
  if (t < 31) emulator::mbarrier_complete_tx(barrier, 4);
  wait_for(barrier, 0);
}

__global__ void loops_for_ever(int* out) {
  const volatile int* flag = out;
  while (*flag == 0) {
  }
}

// ---- Calls that are wrong in themselves

__global__ void traps(int*) {
  if (blockIdx.x == 1 && threadIdx.x == 9) __trap();
  __syncthreads();
}

__global__ void different_collectives(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
  } else {
    out[threadIdx.x] = static_cast<int>(__ballot_sync(~0u, 1));
  }
}

__global__ void lane_outside_its_mask(int* out) { out[threadIdx.x] = __shfl_sync(0xffffu, 1, 1); }

__global__ void shuffle_from_outside(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1, 16);
}

__global__ void cluster_arrives_twice(int*) {
  emulator::cluster_arrive();
  emulator::cluster_arrive();
}

__global__ void rank_outside_the_cluster(int* out) {
  SHARED(int, box, 32);
  out[threadIdx.x] = *of_rank(box, 2);
}

__global__ void mbarrier_without_init(int*) {
  SHARED(uint64_t, barrier, 1);
  emulator::mbarrier_arrive(barrier);
}

__global__ void mbarrier_too_many_arrivals(int*) {
  SHARED(uint64_t, barrier, 1);
  if (threadIdx.x != 0) return;
  emulator::mbarrier_init(barrier, 1);
  emulator::mbarrier_arrive_expect_tx(barrier, 4);
  emulator::mbarrier_arrive(barrier);
}

__global__ void different_counts(int*) { emulator::barrier_sync(1, threadIdx.x < 32 ? 96 : 64, "bar.sync"); }

__global__ void too_much_static_shared(int*) {
  SHARED(int, box, 13 * 1024);
  static_cast<void>(box);
}

__global__ void async_store_misaligned(int*) {
  SHARED(char, box, 64);
  SHARED(uint64_t, barrier, 1);
  const int value = 1;
  emulator::store_async(box + 2, &value, 4, barrier);
}

__global__ void async_store_after_exit(int*) {
  SHARED(int, box, 32);
  SHARED(uint64_t, barrier, 1);
  if (threadIdx.x == 0) emulator::mbarrier_init(barrier, 32);
  cluster_sync();
  const int value = 1;
  if (blockIdx.x == 0) emulator::store_async(of_rank(box + threadIdx.x, 1), &value, 4, of_rank(barrier, 1));
}

// ---- Missing synchronisation

template <bool block_wide>
__global__ void no_barrier(int* out) {
  SHARED(int, box, 64);
  const unsigned t = threadIdx.x;
  box[t] = static_cast<int>(t);
  out[t] = box[block_wide ? t ^ 32 : t ^ 1];
}

// All lanes meet, but a shuffle orders no memory.
__global__ void shuffle_is_no_barrier(int* out) {
  SHARED(int, box, 32);
  const unsigned t = threadIdx.x;
  box[t] = static_cast<int>(t);
  const int zero = __shfl_xor_sync(~0u, 0, 1);
  out[t] = zero + box[t ^ 1];
}

// A barrier before the loop's first read, and none between a step's reads and the next one's writes.
__global__ void one_buffer(int* out, int steps) {
  SHARED(int, box, 64);
  const unsigned t = threadIdx.x;
  int value = static_cast<int>(t);
  for (int step = 0; step < steps; ++step) {
    box[t] = value;
    __syncthreads();
    value = box[t ^ 32];
  }
  out[t] = value;
}

__global__ void no_mbarrier_wait(int* out) {
  SHARED(int, box, 32);
  SHARED(uint64_t, barrier, 1);
  const unsigned t = threadIdx.x, peer = 1 - emulator::cluster_rank();
  if (t == 0) {
    emulator::mbarrier_init(barrier, 1);
    emulator::mbarrier_arrive_expect_tx(barrier, 32 * 4);
  }
  cluster_sync();
  const int value = static_cast<int>(t);
  emulator::store_async(of_rank(box + t, peer), &value, 4, of_rank(barrier, peer));
  emulator::cluster_arrive_relaxed();
  emulator::cluster_wait();
  out[blockIdx.x * 32 + t] = box[t];
  wait_for(barrier, 0);
  cluster_sync();
}

__global__ void no_copy_wait(int* out, const int* in) {
  SHARED(int, box, 32 * 4);
  const unsigned t = threadIdx.x;
  emulator::copy_async(box + t * 4, in + t * 4, 16, 16);
  emulator::copy_async_commit();
  __syncthreads();
  out[t] = box[t * 4];
  emulator::copy_async_wait(0);
}

__global__ void relaxed_flag(int* out, unsigned* flag) {
  if (blockIdx.x == 0) {
    out[threadIdx.x] = 5;
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(flag, 1u);
  } else {
    if (threadIdx.x == 0) wait_for(flag, 1);
    __syncthreads();
    out[32 + threadIdx.x] = out[threadIdx.x];
  }
}

__global__ void peer_before_its_start(int*) {
  SHARED(int, box, 32);
  of_rank(box, 1 - emulator::cluster_rank())[threadIdx.x] = 1;
  cluster_sync();
}

__global__ void peer_after_its_exit(int*) {
  SHARED(int, box, 32);
  cluster_sync();
  if (blockIdx.x == 1) return;
  __syncthreads();
  of_rank(box, 1)[threadIdx.x] = 1;
}

__global__ void blocks_share_an_output(int* out) { out[threadIdx.x] = static_cast<int>(blockIdx.x); }

// ---- Out of bounds

__global__ void past_dynamic_shared(int* out) {
  const auto* box = static_cast<int*>(emulator::dynamic_shared());
  out[threadIdx.x] = box[threadIdx.x + 1];
}

__global__ void past_static_shared(int* out) {
  SHARED(int, box, 32);
  SHARED(int, other, 32);
  other[threadIdx.x] = 1;
  box[threadIdx.x + (blockIdx.x == 3)] = 1;
  out[threadIdx.x] = other[threadIdx.x];
}

__global__ void past_a_peers_shared(int*) {
  SHARED(int, box, 32);
  cluster_sync();
  of_rank(box, 1)[threadIdx.x + 1] = 1;
  cluster_sync();
}

__global__ void past_the_output(int* out) { out[threadIdx.x + (threadIdx.x == 31)] = 1; }

}  // namespace

void add_faulty(std::map<std::string, Case>& cases) {
  const Shape cluster{2, 32, 2};
  cases["exits_before_the_barrier"] = [] { return run({4, 32, 1, 0, true}, exits_before_the_barrier); };
  cases["waits_for_no_one"] = [] { return run({}, waits_for_no_one); };
  cases["meets_while_it_polls"] = [] {
    emulator::options().max_switches = 100'000;
    return run({}, meets_while_it_polls);
  };
  cases["waits_for_a_later_block"] = [] { return run({2}, waits_for_a_later_block); };
  cases["waits_for_a_later_block_cooperative"] = [] { return run({2, 32, 1, 0, true}, waits_for_a_later_block); };
  cases["too_few_bytes"] = [] { return run({}, too_few_bytes); };

  cases["loops_for_ever"] = [] {
    emulator::options().endless_seconds = 1;
    return run({}, loops_for_ever);
  };

  cases["traps"] = [] { return run({3}, traps); };
  cases["different_collectives"] = [] { return run({}, different_collectives); };
  cases["lane_outside_its_mask"] = [] { return run({}, lane_outside_its_mask); };
  cases["shuffle_from_outside"] = [] { return run({}, shuffle_from_outside); };
  cases["cluster_arrives_twice"] = [=] { return run(cluster, cluster_arrives_twice); };
  cases["rank_outside_the_cluster"] = [=] { return run(cluster, rank_outside_the_cluster); };
  cases["mbarrier_without_init"] = [] { return run({}, mbarrier_without_init); };
  cases["mbarrier_too_many_arrivals"] = [] { return run({}, mbarrier_too_many_arrivals); };
  cases["different_counts"] = [] { return run({1, 64}, different_counts); };
  cases["too_much_static_shared"] = [] { return run({}, too_much_static_shared); };
  cases["async_store_misaligned"] = [] { return run({}, async_store_misaligned); };
  cases["async_store_after_exit"] = [=] { return run(cluster, async_store_after_exit); };

  cases["no_syncthreads"] = [] { return run({1, 64}, 64, [](int i) { return i ^ 32; }, no_barrier<true>); };
  cases["no_syncwarp"] = [] { return run({1, 64}, 64, [](int i) { return i ^ 1; }, no_barrier<false>); };
  cases["shuffle_is_no_barrier"] = [] { return run({}, 32, [](int i) { return i ^ 1; }, shuffle_is_no_barrier); };
  cases["one_buffer"] = [] { return run({1, 64}, 64, [](int i) { return i; }, one_buffer, 4); };
  cases["no_mbarrier_wait"] = [=] { return run(cluster, 64, [](int i) { return i % 32; }, no_mbarrier_wait); };
  cases["no_copy_wait"] = [] {
    alignas(16) static int in[32 * 4];
    for (int i = 0; i < 32 * 4; ++i) in[i] = i;
    return run({}, 32, [](int i) { return i * 4; }, no_copy_wait, static_cast<const int*>(in));
  };
  cases["relaxed_flag"] = [] {
    unsigned flag = 0;
    return run({2, 32, 1, 0, true}, 64, [](int) { return 5; }, relaxed_flag, &flag);
  };
  cases["peer_before_its_start"] = [=] { return run(cluster, peer_before_its_start); };
  cases["peer_after_its_exit"] = [=] { return run(cluster, peer_after_its_exit); };
  cases["blocks_share_an_output"] = [] { return run({2}, blocks_share_an_output); };

  cases["past_dynamic_shared"] = [] { return run({1, 32, 1, 128}, past_dynamic_shared); };
  cases["past_static_shared"] = [] { return run({4}, past_static_shared); };
  cases["past_a_peers_shared"] = [=] { return run(cluster, past_a_peers_shared); };
  cases["past_the_output"] = [] { return run({}, 32, [](int) { return 1; }, past_the_output); };
}
