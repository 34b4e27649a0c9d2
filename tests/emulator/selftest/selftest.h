// Kernels that show what the emulator promises. test_emulator.py runs them by name.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#define SHARED(T, name, count) \
  static char name##_key;      \
  T* name = static_cast<T*>(emulator::static_shared(&name##_key, sizeof(T) * (count), alignof(T)))

struct Shape {
  dim3 grid = 1, block = 32, cluster = 1;
  size_t dynamic_shared = 0;
  bool cooperative = false;
};

template <class... Parameters, class... Arguments>
cudaError_t launch(const Shape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = shape.cluster.x;
  attributes[0].val.clusterDim.y = shape.cluster.y;
  attributes[0].val.clusterDim.z = shape.cluster.z;
  attributes[1].id = cudaLaunchAttributeCooperative;
  attributes[1].val.cooperative = shape.cooperative;
  cudaLaunchConfig_t config{shape.grid, shape.block, shape.dynamic_shared, nullptr, attributes, 2};
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// What a case found: the launch's status, and how many of its numbers are wrong.
struct Outcome {
  cudaError_t status = cudaSuccess;
  int wrong = 0, checked = 0;

  template <class T>
  void expect(T got, T expected) {
    ++checked;
    wrong += got != expected;
  }
};

using Case = std::function<Outcome()>;
void add_sound(std::map<std::string, Case>& cases);
void add_faulty(std::map<std::string, Case>& cases);
void add_launcher(std::map<std::string, Case>& cases);

inline unsigned load_acquire(unsigned* p) { return std::atomic_ref(*p).load(std::memory_order_acquire); }
inline void add_release(unsigned* p) { std::atomic_ref(*p).fetch_add(1, std::memory_order_release); }
inline void wait_for(unsigned* flag, unsigned value) {
  while (load_acquire(flag) < value) emulator::yield("a flag");
}
inline void cluster_sync() {
  emulator::cluster_arrive();
  emulator::cluster_wait();
}
inline void wait_for(uint64_t* barrier, unsigned parity) {
  while (!emulator::mbarrier_try_wait(barrier, parity)) {
  }
}
template <class T>
T* of_rank(T* mine, unsigned rank) {
  return static_cast<T*>(emulator::map_shared_rank(mine, rank));
}
