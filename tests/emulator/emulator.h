// A small CUDA that runs on the CPU: what kernels and tests call. README.md says what is modelled and what is not.
//
// Each CUDA thread is a fiber, and all of them share one OS thread: a fiber runs until it has to wait, and the
// scheduler then picks the next one in an order that a test chooses. A launch therefore does the same every time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace emulator {

// ---- How launches run

enum class Order { Fifo, Lifo, Random };

struct DeviceModel {
  std::string name;
  int capability_major, capability_minor;
  unsigned sm_count;
  size_t shared_per_block;  // the most that a kernel can opt in to
  size_t shared_per_sm;
  unsigned threads_per_sm;
  unsigned blocks_per_sm;
  unsigned registers_per_sm;
  unsigned max_cluster;                // blocks; 0: the device has no clusters
  std::vector<unsigned> gpc_sm_count;  // a cluster lies within one GPC
};
DeviceModel device_model(int compute_capability);  // 80, 90, 100, 120

struct Options {
  Order order = Order::Fifo;
  uint64_t seed = 1;                 // of Order::Random
  bool late_stores = true;           // st.async and cp.async land as late as they may; else at once
  unsigned livelock_rounds = 10000;  // so often all threads poll in vain before it is a livelock
  uint64_t max_switches = 200'000'000;
  unsigned endless_seconds = 60;        // of one thread's run without a wait: then the process is ended
  unsigned registers_per_thread = 128;  // what nvcc is assumed to give a kernel, for occupancy
  DeviceModel device = device_model(90);
};
Options& options();

struct Stats {
  uint64_t launches, switches, barriers, collectives, async_stores;
};
Stats& stats();

const std::string& last_error();  // of the latest launch; empty if it succeeded

// ---- What a running thread may call

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));  // ends the launch
void yield(const char* what);  // one poll that failed, of a wait for global memory
unsigned lane();

// `threads` threads of the block meet; id 0 is __syncthreads'.
void barrier_sync(unsigned id, unsigned threads, const char* what);
void barrier_arrive(unsigned id, unsigned threads, const char* what);

unsigned cluster_rank();
unsigned cluster_size();
void cluster_arrive();
void cluster_arrive_relaxed();  // orders no memory
void cluster_wait();

void* dynamic_shared();
void* static_shared(const void* key, size_t bytes, size_t align);  // at the same offset in every block
void* map_shared_rank(const void* mine, unsigned rank);

// An mbarrier's state lies in its 8 bytes. All but init and try_wait take a peer's as well.
void mbarrier_init(uint64_t* barrier, unsigned count);
void mbarrier_arrive(uint64_t* barrier);
void mbarrier_arrive_expect_tx(uint64_t* barrier, unsigned bytes);
void mbarrier_complete_tx(uint64_t* barrier, unsigned bytes);
bool mbarrier_try_wait(uint64_t* barrier, unsigned parity);  // lets others run before it says no

// st.async: `bytes` (4, 8 or 16) of `value` land at `target` and then complete on `barrier`, both in one block.
void store_async(void* target, const void* value, unsigned bytes, uint64_t* barrier);

// cp.async: the first `source_bytes` are copied, the others become zero.
void copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes);
void copy_async_commit();
void copy_async_wait(unsigned pending_groups);

// ---- Warp collectives

void warp_sync(uint32_t mask);

using Combine = void(const void* const* in, void* const* out, uint32_t lanes, const void* function);
void run_collective(uint32_t mask, const void* in, void* out, Combine* combine, const void* function, const char* what);

// Every lane of `mask` brings `mine`; the last to come runs combine(const In (&in)[32], Out (&out)[32], lanes), and
// each takes its out. Like the shuffles it orders no memory. `lanes` is `mask` without the lanes that have exited.
template <class In, class Out, class F>
Out warp_collective(uint32_t mask, const In& mine, F combine, const char* what) {
  static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  Combine* const erased = [](const void* const* in, void* const* out, uint32_t lanes, const void* function) {
    In all_in[32] = {};
    Out all_out[32] = {};
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) all_in[lane] = *static_cast<const In*>(in[lane]);
    }
    (*static_cast<const F*>(function))(all_in, all_out, lanes);
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) *static_cast<Out*>(out[lane]) = all_out[lane];
    }
  };
  Out result;
  run_collective(mask, &mine, &result, erased, &combine, what);
  return result;
}

}  // namespace emulator
