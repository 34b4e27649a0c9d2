// The runtime's host half: what a launcher may ask for, and which launches are refused.

#include <cstring>

#include "selftest.h"

namespace {

__global__ void nothing() {}
__global__ void nothing_else() {}

Outcome refused(int compute_capability, const Shape& shape) {
  emulator::options().device = emulator::device_model(compute_capability);
  Outcome outcome{launch(shape, nothing)};
  outcome.expect(cudaPeekAtLastError(), outcome.status);
  outcome.expect(cudaGetLastError(), outcome.status);
  outcome.expect(cudaGetLastError(), cudaSuccess);
  return outcome;
}

void allow(int dynamic_shared, bool nonportable) {
  cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_shared);
  cudaFuncSetAttribute(nothing, cudaFuncAttributeNonPortableClusterSizeAllowed, nonportable);
}

// What is granted to one kernel is not granted to another, and the largest that is allowed does run.
Outcome granted() {
  Outcome outcome;
  emulator::options().device = emulator::device_model(90);
  allow(227 << 10, true);
  outcome.expect(launch({16, 32, 16, 227 << 10}, nothing), cudaSuccess);
  outcome.expect(launch({1, 32, 1, 227 << 10}, nothing_else), cudaErrorInvalidValue);
  outcome.expect(launch({16, 32, 16}, nothing_else), cudaErrorInvalidClusterSize);
  outcome.expect(launch({264, 32, 1, 100 << 10, true}, nothing), cudaSuccess);
  outcome.expect(launch({15 * 8, 32, 8, 200 << 10, true}, nothing), cudaSuccess);
  outcome.expect(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
                 cudaErrorInvalidValue);
  return outcome;
}

Outcome queries() {
  Outcome outcome;
  emulator::options().device = emulator::device_model(90);
  const auto attribute = [](cudaDeviceAttr which) {
    int value = -1;
    cudaDeviceGetAttribute(&value, which, 0);
    return value;
  };
  outcome.expect(attribute(cudaDevAttrMultiProcessorCount), 132);
  outcome.expect(attribute(cudaDevAttrComputeCapabilityMajor), 9);
  outcome.expect(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), 227 << 10);
  outcome.expect(attribute(cudaDevAttrClusterLaunch), 1);
  int value = 0;
  outcome.expect(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 1), cudaErrorInvalidDevice);
  cudaGetLastError();

  allow(227 << 10, true);
  const auto blocks = [](int threads, size_t shared) {
    int count = -1;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, nothing, threads, shared);
    return count;
  };
  emulator::options().registers_per_thread = 32;
  outcome.expect(blocks(1024, 0), 2);         // 2048 threads
  outcome.expect(blocks(32, 0), 32);          // 32 blocks
  outcome.expect(blocks(256, 100 << 10), 2);  // 228 KiB, of which each block costs one more
  outcome.expect(blocks(256, 114 << 10), 1);
  emulator::options().registers_per_thread = 128;
  outcome.expect(blocks(256, 0), 2);   // 65536 registers
  outcome.expect(blocks(1024, 0), 1);  // nvcc spills rather than ask for more than there are

  const auto clusters = [](unsigned size, size_t shared) {
    int count = -1;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = size;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    const cudaLaunchConfig_t config{size, 256, shared, nullptr, &cluster, 1};
    cudaOccupancyMaxActiveClusters(&count, nothing, &config);
    return count;
  };
  outcome.expect(clusters(8, 200 << 10), 15);
  outcome.expect(clusters(16, 200 << 10), 7);
  outcome.expect(clusters(8, 100 << 10), 31);  // two blocks on an SM: 4 x 4 + 3 x 4 + 3 clusters
  return outcome;
}

Outcome memory() {
  Outcome outcome;
  void* pointer = nullptr;
  outcome.expect(cudaMalloc(&pointer, 16), cudaSuccess);
  auto* numbers = static_cast<float*>(pointer);
  outcome.expect(numbers[0] == numbers[0], false);  // fresh memory is NaN
  const float four[] = {1, 2, 3, 4};
  cudaMemcpyAsync(numbers, four, 16, cudaMemcpyHostToDevice);
  outcome.expect(numbers[3], 4.0f);
  cudaMemsetAsync(numbers, 0, 8);
  outcome.expect(numbers[1] + numbers[2], 3.0f);
  cudaFree(pointer);
  outcome.expect(std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument"), 0);
  outcome.expect(std::strcmp(cudaGetErrorName(cudaErrorNotSupported), "cudaErrorNotSupported"), 0);
  return outcome;
}

}  // namespace

void add_launcher(std::map<std::string, Case>& cases) {
  cases["granted"] = granted;
  cases["queries"] = queries;
  cases["memory"] = memory;

  cases["refused_threads"] = [] { return refused(90, {1, 1025}); };
  cases["refused_empty_grid"] = [] { return refused(90, {0, 32}); };
  cases["refused_shared_not_asked_for"] = [] { return refused(90, {1, 32, 1, (48 << 10) + 1}); };
  cases["refused_shared_above_what_was_asked_for"] = [] {
    allow(64 << 10, false);
    return refused(90, {1, 32, 1, (64 << 10) + 1});
  };
  cases["refused_cluster_not_portable"] = [] { return refused(90, {16, 32, 16}); };
  cases["refused_cluster_too_large"] = [] {
    allow(0, true);
    return refused(90, {32, 32, 32});
  };
  cases["refused_grid_of_broken_clusters"] = [] { return refused(90, {6, 32, 4}); };
  cases["refused_cluster_before_sm_90"] = [] { return refused(80, {8, 32, 8}); };
  cases["refused_cooperative_blocks"] = [] {
    allow(200 << 10, false);
    return refused(90, {133, 32, 1, 200 << 10, true});
  };
  cases["refused_cooperative_clusters"] = [] {
    allow(200 << 10, false);
    return refused(90, {16 * 8, 32, 8, 200 << 10, true});
  };
}
