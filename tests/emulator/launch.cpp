// A launch: blocks are made, run and buried. A cooperative grid is resident as a whole; of any other grid one cluster
// at a time, so that a block that waits for a block of another cluster is found out.

#include <algorithm>
#include <mutex>
#include <random>

#include "launch_checks.h"
#include "sanitizers.h"
#include "threads.h"

namespace emulator {

Options& options() {
  static Options all;
  return all;
}

Stats& stats() {
  static Stats all{};
  return all;
}

static std::string launch_error;
const std::string& last_error() { return launch_error; }

namespace {

char finished_key;  // for ThreadSanitizer: the host goes on after all threads

void add_block(Grid& grid, uint3 index, Cluster& cluster) {
  const unsigned threads = static_cast<unsigned>(volume(grid.block_size));
  Block& block = *grid.blocks.emplace_back(std::make_unique<Block>());
  block.grid = &grid;
  block.cluster = &cluster;
  block.index = index;
  block.rank = static_cast<unsigned>(cluster.blocks.size());
  block.alive = threads;
  cluster.blocks.push_back(&block);
  cluster.alive += threads;
  take_shared(block);
  block.warps = std::vector<Warp>((threads + 31) / 32);
  block.threads = std::vector<Thread>(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Thread& thread = block.threads[i];
    const dim3& size = grid.block_size;
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.number = i;
    thread.lane = i % 32;
    thread.block = &block;
    thread.warp = &block.warps[i / 32];
    thread.warp->lanes[thread.lane] = &thread;
    thread.warp->alive |= 1u << thread.lane;
  }
}

void add_cluster(Grid& grid, const dim3& first) {
  Cluster& cluster = *grid.clusters.emplace_back(std::make_unique<Cluster>());
  for (unsigned z = 0; z < grid.cluster_size.z; ++z) {
    for (unsigned y = 0; y < grid.cluster_size.y; ++y) {
      for (unsigned x = 0; x < grid.cluster_size.x; ++x) {
        add_block(grid, {first.x + x, first.y + y, first.z + z}, cluster);
      }
    }
  }
}

void bury_blocks(Grid& grid) {
  for (const auto& block : grid.blocks) {
    for (Thread& thread : block->threads) thread.fiber.bury(&finished_key, thread.unwatched > 0);
    give_shared(*block);
  }
  grid.blocks.clear();
  grid.clusters.clear();
  grid.stores.clear();
}

std::vector<dim3> clusters_in_order(const LaunchShape& shape) {
  std::vector<dim3> clusters;
  for (unsigned z = 0; z < shape.grid.z; z += shape.cluster.z) {
    for (unsigned y = 0; y < shape.grid.y; y += shape.cluster.y) {
      for (unsigned x = 0; x < shape.grid.x; x += shape.cluster.x) clusters.emplace_back(x, y, z);
    }
  }
  if (options().order == Order::Lifo) std::reverse(clusters.begin(), clusters.end());
  if (options().order == Order::Random) {
    std::shuffle(clusters.begin(), clusters.end(), std::mt19937_64(options().seed));
  }
  return clusters;
}

bool run_grid(const LaunchShape& shape, const std::function<void()>& body) {
  Grid grid;
  grid.size = shape.grid;
  grid.block_size = shape.block;
  grid.cluster_size = shape.cluster;
  grid.dynamic_shared = shape.dynamic_shared;
  grid.body = &body;
  Unwatched unwatched;
  bool succeeded = true;
  const std::vector<dim3> clusters = clusters_in_order(shape);
  for (size_t i = 0; i < clusters.size() && succeeded; ++i) {
    add_cluster(grid, clusters[i]);
    if (shape.cooperative && i + 1 < clusters.size()) continue;
    succeeded = run_resident(grid);
    bury_blocks(grid);
  }
  acquire(&finished_key);
  return succeeded;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body) {
  // Backward passes may come from another of torch's threads; launches share the scheduler.
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  ++stats().launches;
  launch_error.clear();
  const LaunchShape shape(config);
  if (const cudaError_t error = check_launch(shape, kernel, launch_error)) return record(error);
  watch_launch(true);
  const bool succeeded = run_grid(shape, body);
  watch_launch(false);
  if (succeeded) return cudaSuccess;
  launch_error = failure();
  return record(cudaErrorLaunchFailure);
}

}  // namespace emulator
