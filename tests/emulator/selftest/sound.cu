// Kernels with nothing wrong: right under every order, and no sanitizer may find fault with them.

#include <chrono>

#include "selftest.h"

namespace {

__global__ void shuffles(int* out) {
  const int lane = threadIdx.x, square = lane * lane;
  int* mine = out + lane * 8;
  mine[0] = __shfl_sync(~0u, square, 31 - lane);  // each lane another source
  mine[1] = __shfl_sync(~0u, square, 7, 16);
  mine[2] = __shfl_xor_sync(~0u, square, 5);
  mine[3] = __shfl_xor_sync(~0u, square, 8, 8);  // into a later group: its own
  mine[4] = __shfl_down_sync(~0u, square, 3, 8);
  mine[5] = __shfl_up_sync(~0u, square, 1);
  if (lane < 16) {  // the halves go their own ways and meet separately
    mine[6] = __shfl_xor_sync(0x0000ffffu, square, 1);
  } else {
    mine[6] = __shfl_sync(0xffff0000u, square, 20);
  }
  mine[7] = static_cast<int>(__shfl_sync(~0u, static_cast<double>(square), 3));
}

Outcome check_shuffles() {
  std::vector<int> out(32 * 8, -1);
  Outcome outcome{launch({}, shuffles, out.data())};
  const auto square = [](int i) { return i * i; };
  for (int lane = 0; lane < 32; ++lane) {
    const int expected[] = {square(31 - lane),
                            square(lane / 16 * 16 + 7),
                            square(lane ^ 5),
                            square(lane % 16 < 8 ? lane : lane - 8),
                            square(lane % 8 < 5 ? lane + 3 : lane),
                            square(lane > 0 ? lane - 1 : 0),
                            square(lane < 16 ? lane ^ 1 : 20),
                            9};
    for (int i = 0; i < 8; ++i) outcome.expect(out[lane * 8 + i], expected[i]);
  }
  return outcome;
}

// 41 threads: a warp of 9 lanes, of which one leaves early; a collective does without those that are not there.
__global__ void votes(unsigned* out) {
  const unsigned t = threadIdx.x;
  if (t == 40) return;
  out[t * 4] = __ballot_sync(~0u, t % 3 == 0);
  out[t * 4 + 1] = __any_sync(~0u, t == 3);
  out[t * 4 + 2] = __all_sync(~0u, t < 32);
  out[t * 4 + 3] = __shfl_sync(~0u, t, 7);
}

Outcome check_votes() {
  std::vector<unsigned> out(40 * 4, 99);
  Outcome outcome{launch({1, 41}, votes, out.data())};
  for (unsigned t = 0; t < 40; ++t) {
    const unsigned expected[] = {t < 32 ? 0x49249249u : 0x92u, t < 32, t < 32, t < 32 ? 7u : 39u};
    for (int i = 0; i < 4; ++i) outcome.expect(out[t * 4 + i], expected[i]);
  }
  return outcome;
}

struct Fragments {
  float d[4];
  uint32_t a[4], b[2];
  double more[7];
};

__global__ void collective(double* out) {
  Fragments mine = {};
  mine.d[3] = static_cast<float>(threadIdx.x);
  mine.more[6] = 1.0;
  out[threadIdx.x] = emulator::warp_collective<Fragments, double>(
      ~0u, mine,
      [](const Fragments(&in)[32], double (&results)[32], uint32_t) {
        double sum = 0;
        for (const Fragments& one : in) sum += one.d[3] + one.more[6];
        for (int lane = 0; lane < 32; ++lane) results[lane] = sum + lane;
      },
      "a sum");
}

Outcome check_collective() {
  static_assert(sizeof(Fragments) == 96);
  std::vector<double> out(64, 0.0);
  Outcome outcome{launch({1, 64}, collective, out.data())};
  for (int t = 0; t < 64; ++t) outcome.expect(out[t], t % 32 + (t < 32 ? 496.0 : 1520.0) + 32.0);
  return outcome;
}

__global__ void syncwarp(int* out) {
  SHARED(int, box, 64);
  const unsigned t = threadIdx.x;
  for (int step = 0; step < 4; ++step) {
    box[t] = static_cast<int>(t) + step;
    __syncwarp();
    out[t] = box[t ^ 1];
    __syncwarp();
  }
  if (t % 32 < 8) {
    box[t] = 100;
    __syncwarp(0xff);
    out[t] += box[t ^ 7];
  }
}

Outcome check_syncwarp() {
  std::vector<int> out(64);
  Outcome outcome{launch({1, 64}, syncwarp, out.data())};
  for (int t = 0; t < 64; ++t) outcome.expect(out[t], (t ^ 1) + 3 + (t % 32 < 8 ? 100 : 0));
  return outcome;
}

__global__ void shared_is_fresh(int* out) {
  auto* dynamic = static_cast<uint32_t*>(emulator::dynamic_shared());
  SHARED(uint32_t, a, 64);
  SHARED(uint32_t, b, 64);
  const unsigned t = threadIdx.x;
  const bool fresh = dynamic[t] == ~0u && a[t] == ~0u && b[t] == ~0u;
  __syncthreads();
  dynamic[t] = a[t] = blockIdx.x;
  b[t] = t;
  __syncthreads();
  const unsigned other = 63 - t;
  out[blockIdx.x * 64 + t] = fresh && dynamic[other] == blockIdx.x && a[other] == blockIdx.x && b[other] == other;
}

Outcome check_shared(bool cooperative) {
  std::vector<int> out(5 * 64);
  Outcome outcome{launch({5, 64, 1, 256, cooperative}, shared_is_fresh, out.data())};
  for (int one : out) outcome.expect(one, 1);
  return outcome;
}

__global__ void indices(unsigned* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  const unsigned expected_rank = blockIdx.x % 2 + blockIdx.y % 3 * 2;
  out[block * threads + thread] += emulator::cluster_rank() == expected_rank && emulator::cluster_size() == 6;
}

Outcome check_indices() {
  std::vector<unsigned> out(4 * 3 * 2 * 24);
  Outcome outcome{launch({dim3(4, 3, 2), dim3(2, 3, 4), dim3(2, 3, 1)}, indices, out.data())};
  for (unsigned one : out) outcome.expect(one, 1u);
  return outcome;
}

__global__ void distributed_shared(int* out) {
  SHARED(int, box, 32);
  const unsigned rank = emulator::cluster_rank(), size = emulator::cluster_size(), t = threadIdx.x;
  cluster_sync();  // the peers have started
  of_rank(box, (rank + 1) % size)[t] = static_cast<int>(blockIdx.x * 100 + t);
  emulator::cluster_arrive();
  const int meanwhile = static_cast<int>(t);
  emulator::cluster_wait();
  out[blockIdx.x * 32 + t] = box[t] + of_rank(box, (rank + 2) % size)[t] + meanwhile;
  cluster_sync();  // a peer may still be reading
}

Outcome check_distributed_shared() {
  std::vector<int> out(8 * 32);
  Outcome outcome{launch({8, 32, 4}, distributed_shared, out.data())};
  for (int block = 0; block < 8; ++block) {
    const auto left = [&](int steps) { return block / 4 * 4 + (block + steps) % 4; };
    for (int t = 0; t < 32; ++t) outcome.expect(out[block * 32 + t], (left(3) + left(1)) * 100 + 3 * t);
  }
  return outcome;
}

// A thread that has exited counts as arrived at the cluster's barrier.
__global__ void cluster_exit(int* out) {
  if (threadIdx.x == 5 || blockIdx.x == 1) return;
  cluster_sync();
  cluster_sync();
  atomicAdd(out, 1);
}

Outcome check_cluster_exit() {
  int count = 0;
  Outcome outcome{launch({4, 32, 4}, cluster_exit, &count)};
  outcome.expect(count, 3 * 31);
  return outcome;
}

// Every block tells every other a number, step after step, through double-buffered shared memory.
__global__ void async_exchange(int* out, int steps) {
  SHARED(int, box, 2 * 4 * 32);
  SHARED(uint64_t, full, 2);
  const unsigned rank = emulator::cluster_rank(), size = emulator::cluster_size(), t = threadIdx.x;
  if (t == 0) {
    emulator::mbarrier_init(&full[0], 1);
    emulator::mbarrier_init(&full[1], 1);
  }
  cluster_sync();
  int value = static_cast<int>(rank * 32 + t);
  for (int step = 0; step < steps; ++step) {
    const unsigned half = step & 1;
    for (unsigned peer = 0; peer < size; ++peer) {
      emulator::store_async(of_rank(box + (half * 4 + rank) * 32 + t, peer), &value, 4, of_rank(full + half, peer));
    }
    // Often after the first bytes have come: a phase's count of bytes may be below zero for a while.
    if (t == 0) emulator::mbarrier_arrive_expect_tx(&full[half], size * 32 * 4);
    wait_for(&full[half], step >> 1 & 1);
    value = 1;
    for (unsigned peer = 0; peer < size; ++peer) value += box[(half * 4 + peer) * 32 + t];
  }
  out[rank * 32 + t] = value;
  cluster_sync();
}

Outcome check_async_exchange() {
  constexpr int steps = 5;
  std::vector<int> out(4 * 32);
  Outcome outcome{launch({4, 32, 4}, async_exchange, out.data(), steps)};
  for (int t = 0; t < 32; ++t) {
    int value[4] = {t, 32 + t, 64 + t, 96 + t};
    for (int step = 0; step < steps; ++step) {
      const int sum = 1 + value[0] + value[1] + value[2] + value[3];
      for (int& one : value) one = sum;
    }
    for (int rank = 0; rank < 4; ++rank) outcome.expect(out[rank * 32 + t], value[rank]);
  }
  return outcome;
}

__global__ void async_copy(const int* in, int* out, int steps) {
  SHARED(int, box, 2 * 32 * 4);
  const unsigned t = threadIdx.x;
  const auto fetch = [&](int step) {
    // The last step's are cut to half and filled up with zeros.
    if (step < steps) {
      emulator::copy_async(box + (step % 2 * 32 + t) * 4, in + (step * 32 + t) * 4, 16, step + 1 < steps ? 16 : 8);
    }
    emulator::copy_async_commit();
  };
  int sum = 0;
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    fetch(step + 1);
    emulator::copy_async_wait(1);
    __syncthreads();
    const int* other = box + (step % 2 * 32 + (t ^ 1)) * 4;
    sum += other[0] + other[3];
    __syncthreads();
  }
  out[t] = sum;
}

Outcome check_async_copy() {
  constexpr int steps = 5;
  alignas(16) static int in[steps * 32 * 4];
  for (int i = 0; i < steps * 32 * 4; ++i) in[i] = i;
  std::vector<int> out(32);
  Outcome outcome{launch({}, async_copy, static_cast<const int*>(in), out.data(), steps)};
  for (int t = 0; t < 32; ++t) {
    int sum = 0;
    for (int step = 0; step < steps; ++step) {
      const int first = (step * 32 + (t ^ 1)) * 4;
      sum += first + (step + 1 < steps ? first + 3 : 0);
    }
    outcome.expect(out[t], sum);
  }
  return outcome;
}

__global__ void named_barriers(int* out) {
  SHARED(int, box, 64);
  const unsigned t = threadIdx.x;
  if (t < 64) {
    box[t] = static_cast<int>(t);
    emulator::barrier_arrive(1, 128, "bar.arrive");
  } else {
    emulator::barrier_sync(1, 128, "bar.sync");
    out[t - 64] = box[127 - t];
  }
}

Outcome check_named_barriers() {
  std::vector<int> out(64);
  Outcome outcome{launch({1, 128}, named_barriers, out.data())};
  for (int t = 0; t < 64; ++t) outcome.expect(out[t], 63 - t);
  return outcome;
}

__global__ void grid_barrier(int* values, unsigned* arrived, int steps) {
  const unsigned mine = blockIdx.x * blockDim.x + threadIdx.x, all = gridDim.x * blockDim.x;
  for (int step = 0; step < steps; ++step) {
    const int next = values[step % 2 * all + (mine + 1) % all];
    values[(step + 1) % 2 * all + mine] = next;
    __syncthreads();
    if (threadIdx.x == 0) {
      add_release(arrived);
      wait_for(arrived, gridDim.x * static_cast<unsigned>(step + 1));
    }
    __syncthreads();
  }
}

Outcome check_grid_barrier() {
  constexpr int all = 6 * 32, steps = 4;
  std::vector<int> values(2 * all);
  for (int i = 0; i < all; ++i) values[i] = i;
  unsigned arrived = 0;
  Outcome outcome{launch({6, 32, 1, 0, true}, grid_barrier, values.data(), &arrived, steps)};
  for (int i = 0; i < all; ++i) outcome.expect(values[i], (i + steps) % all);
  return outcome;
}

__global__ void turns(int* turn, int* out) { out[atomicAdd(turn, 1)] = static_cast<int>(threadIdx.x); }

Outcome show_turns() {
  int turn = 0, out[8];
  Outcome outcome{launch({1, 8}, turns, &turn, +out)};
  for (int one : out) std::printf("%d", one);
  std::printf("\n");
  return outcome;
}

__global__ void many_barriers(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    __syncthreads();
    if (round % 10 == 9) cluster_sync();
  }
}

Outcome check_speed() {
  Outcome outcome{launch({8, 256, 8}, many_barriers, 50)};
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) outcome.status = launch({8, 256, 8}, many_barriers, 50);
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
  std::printf("%.2f ms a launch\n", taken.count() / 20);
  return outcome;
}

}  // namespace

void add_sound(std::map<std::string, Case>& cases) {
  cases["shuffles"] = check_shuffles;
  cases["votes"] = check_votes;
  cases["collective"] = check_collective;
  cases["syncwarp"] = check_syncwarp;
  cases["shared"] = [] { return check_shared(false); };
  cases["shared_resident"] = [] { return check_shared(true); };
  cases["indices"] = check_indices;
  cases["distributed_shared"] = check_distributed_shared;
  cases["cluster_exit"] = check_cluster_exit;
  cases["async_exchange"] = check_async_exchange;
  cases["async_copy"] = check_async_copy;
  cases["named_barriers"] = check_named_barriers;
  cases["grid_barrier"] = check_grid_barrier;
  cases["turns"] = show_turns;
  cases["speed"] = check_speed;
}
