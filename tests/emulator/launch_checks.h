// What the device model has to say about a launch.
#pragma once

#include <string>

#include "emulator.h"
#include "include/cuda_runtime_api.h"

namespace emulator {

struct KernelAttributes {
  int max_dynamic_shared = 48 << 10;
  bool nonportable_cluster = false;
};
KernelAttributes& attributes_of(const void* kernel);

struct LaunchShape {
  dim3 grid, block, cluster;
  size_t dynamic_shared;
  bool cooperative;

  explicit LaunchShape(const cudaLaunchConfig_t& config);
};

inline size_t volume(const dim3& size) { return static_cast<size_t>(size.x) * size.y * size.z; }

unsigned resident_blocks_per_sm(size_t threads, size_t dynamic_shared);
unsigned resident_clusters(size_t cluster, size_t threads, size_t dynamic_shared);

// cudaSuccess, or what the launch is refused with; `why` then says it in words.
cudaError_t check_launch(const LaunchShape& shape, const void* kernel, std::string& why);

cudaError_t record(cudaError_t error);  // for cudaGetLastError

}  // namespace emulator
