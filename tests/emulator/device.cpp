// The device model: how much of a kernel is resident at once, and which launches are refused.
//
// Which error a launch is refused with was read in the toolkit's documentation and not tried on a device.

#include <algorithm>
#include <map>

#include "launch_checks.h"

namespace emulator {
namespace {

constexpr unsigned max_threads_per_block = 1024;
constexpr size_t reserved_shared = 1024;  // the driver's, in every block
constexpr size_t portable_cluster = 8;

}  // namespace

DeviceModel device_model(int compute_capability) {
  constexpr size_t KiB = 1024;
  // How many SMs of a GPC work differs between two H100; these give the 15 clusters of 8 that were measured on one.
  const std::vector<unsigned> hopper{18, 18, 18, 18, 16, 16, 16, 12};
  switch (compute_capability) {
    case 80:
      return {"A100", 8, 0, 108, 163 * KiB, 164 * KiB, 2048, 32, 65536, 0, {}};
    case 100:
      return {"B200", 10, 0, 148, 227 * KiB, 228 * KiB, 2048, 32, 65536, 16, std::vector<unsigned>(8, 18)};
    case 120:
      return {"RTX 5090", 12, 0, 170, 99 * KiB, 100 * KiB, 1536, 24, 65536, 8, std::vector<unsigned>(10, 17)};
    default:
      return {"H100", 9, 0, 132, 227 * KiB, 228 * KiB, 2048, 32, 65536, 16, hopper};
  }
}

KernelAttributes& attributes_of(const void* kernel) {
  static std::map<const void*, KernelAttributes> all;
  return all[kernel];
}

LaunchShape::LaunchShape(const cudaLaunchConfig_t& config)
    : grid(config.gridDim), block(config.blockDim), dynamic_shared(config.dynamicSmemBytes), cooperative(false) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative) cooperative = attribute.val.cooperative != 0;
    if (attribute.id == cudaLaunchAttributeClusterDimension) {
      cluster = dim3(attribute.val.clusterDim.x, attribute.val.clusterDim.y, attribute.val.clusterDim.z);
    }
  }
}

unsigned resident_blocks_per_sm(size_t threads, size_t dynamic_shared) {
  const DeviceModel& device = options().device;
  if (threads == 0 || threads > max_threads_per_block || dynamic_shared > device.shared_per_block) return 0;
  const size_t warps = (threads + 31) / 32;
  // With __launch_bounds__ nvcc spills rather than exceed what one block can have.
  const size_t registers = std::min<size_t>(options().registers_per_thread, device.registers_per_sm / (warps * 32));
  return static_cast<unsigned>(std::min(
      {device.threads_per_sm / (warps * 32), static_cast<size_t>(device.blocks_per_sm),
       device.registers_per_sm / (registers * warps * 32), device.shared_per_sm / (dynamic_shared + reserved_shared)}));
}

unsigned resident_clusters(size_t cluster, size_t threads, size_t dynamic_shared) {
  const unsigned per_sm = resident_blocks_per_sm(threads, dynamic_shared);
  if (cluster <= 1) return per_sm * options().device.sm_count;
  unsigned clusters = 0;
  for (const unsigned sms : options().device.gpc_sm_count) clusters += static_cast<unsigned>(sms * per_sm / cluster);
  return clusters;
}

cudaError_t check_launch(const LaunchShape& shape, const void* kernel, std::string& why) {
  const DeviceModel& device = options().device;
  const KernelAttributes& attributes = attributes_of(kernel);
  const size_t threads = volume(shape.block), cluster = volume(shape.cluster);
  const auto refuse = [&](cudaError_t error, const std::string& text) {
    why = text;
    return error;
  };
  if (volume(shape.grid) == 0 || threads == 0 || cluster == 0) {
    return refuse(cudaErrorInvalidConfiguration, "an empty grid, block or cluster");
  }
  if (shape.grid.y > 65535 || shape.grid.z > 65535 || shape.grid.x > 0x7fffffff) {
    return refuse(cudaErrorInvalidConfiguration, "a grid that is too large in one of its axes");
  }
  if (threads > max_threads_per_block || shape.block.z > 64) {
    return refuse(cudaErrorInvalidConfiguration, std::to_string(threads) + " threads in a block, at most 1024");
  }
  if (shape.dynamic_shared > static_cast<size_t>(attributes.max_dynamic_shared)) {
    return refuse(cudaErrorInvalidValue, std::to_string(shape.dynamic_shared) + " bytes of dynamic shared memory, " +
                                             std::to_string(attributes.max_dynamic_shared) +
                                             " asked for with cudaFuncSetAttribute");
  }
  if (cluster > 1) {
    if (device.max_cluster == 0) return refuse(cudaErrorNotSupported, device.name + " has no clusters");
    const size_t most = attributes.nonportable_cluster ? device.max_cluster : portable_cluster;
    if (cluster > most) {
      return refuse(cudaErrorInvalidClusterSize,
                    "a cluster of " + std::to_string(cluster) + " blocks, at most " + std::to_string(most) +
                        (attributes.nonportable_cluster ? "" : " if it is to be portable"));
    }
    if (shape.grid.x % shape.cluster.x || shape.grid.y % shape.cluster.y || shape.grid.z % shape.cluster.z) {
      return refuse(cudaErrorInvalidClusterSize, "the grid is no multiple of the cluster");
    }
  }
  const unsigned resident = resident_clusters(cluster, threads, shape.dynamic_shared);
  if (resident == 0) return refuse(cudaErrorLaunchOutOfResources, "not one cluster fits on " + device.name);
  if (shape.cooperative && volume(shape.grid) / cluster > resident) {
    return refuse(cudaErrorCooperativeLaunchTooLarge,
                  std::to_string(volume(shape.grid) / cluster) + (cluster > 1 ? " clusters" : " blocks") +
                      " are to be resident at once, and " + std::to_string(resident) + " fit on " + device.name);
  }
  return cudaSuccess;
}

}  // namespace emulator
