// Shared memory: one arena a block, the dynamic part first. It begins as NaN and ends with its block.

#include <algorithm>
#include <cstring>

#include "pages.h"
#include "sanitizers.h"
#include "threads.h"

namespace emulator {
namespace {

constexpr size_t static_capacity = 48 << 10;
constexpr size_t redzone = address_sanitizer ? 64 : 0;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

bool untouched(const Block& block) {
  const size_t bytes = block.grid->shared_capacity;
  return block.shared[0] == '\xff' && std::memcmp(block.shared, block.shared + 1, bytes - 1) == 0;
}

void fill(Block& block) {
  Unwatched unwatched;
  std::memset(block.shared, 0xff, block.grid->shared_capacity);
}

}  // namespace

// Before its block starts and after it exits, an arena is poisoned (AddressSanitizer), written by a thread that peers
// are not ordered with (ThreadSanitizer), and must stay as it was filled (in every other build).

void take_shared(Block& block) {
  Grid& grid = *block.grid;
  if (grid.shared_capacity == 0) {
    grid.shared_used = round_up(grid.dynamic_shared, 16) + redzone;
    grid.shared_capacity = round_up(grid.shared_used + static_capacity + 64 * redzone, 4096);
  }
  block.shared = take_pages(grid.shared_capacity);
  fill(block);
  poison(block.shared, grid.shared_capacity);
}

void open_shared(Block& block) {
  const Grid& grid = *block.grid;
  note_write(block.shared, grid.shared_capacity);
  if (!address_sanitizer && !untouched(block)) fail("this block's shared memory was written before it started");
  unpoison(block.shared, grid.dynamic_shared);
  for (const StaticShared& variable : grid.static_shared) unpoison(block.shared + variable.offset, variable.bytes);
}

void close_shared(Block& block) {
  note_write(block.shared, block.grid->shared_capacity);
  if (!address_sanitizer) fill(block);
  poison(block.shared, block.grid->shared_capacity);
}

bool written_after_exit(const Block& block) { return !address_sanitizer && !untouched(block); }

void give_shared(Block& block) {
  if (block.shared) give_pages(block.shared, block.grid->shared_capacity);
  block.shared = nullptr;
}

bool is_shared(const Block& block, const void* p) {
  return p >= block.shared && p < block.shared + block.grid->shared_capacity;
}

Block& owner_of_shared(const void* p, const char* what) {
  for (Block* block : current->block->cluster->blocks) {
    if (!is_shared(*block, p)) continue;
    if (!block->started) fail("%s: in shared memory of %s, which has not started", what, place(*block).c_str());
    if (block->alive == 0) fail("%s: in shared memory of %s, which has exited", what, place(*block).c_str());
    return *block;
  }
  fail("%s: not in the cluster's shared memory", what);
}

void* dynamic_shared() { return current->block->shared; }

void* static_shared(const void* key, size_t bytes, size_t align) {
  Block& block = *current->block;
  Grid& grid = *block.grid;
  for (const StaticShared& variable : grid.static_shared) {
    if (variable.key == key) return block.shared + variable.offset;
  }
  size_t total = bytes;
  for (const StaticShared& variable : grid.static_shared) total += variable.bytes;
  const size_t offset = round_up(grid.shared_used, std::max(align, size_t{16}));
  if (total > static_capacity || offset + bytes + redzone > grid.shared_capacity) {
    fail("static shared memory: %zu bytes, and a block has %zu", total, static_capacity);
  }
  grid.shared_used = round_up(offset + bytes, 16) + redzone;
  {
    Unwatched unwatched;
    grid.static_shared.push_back({key, offset, bytes});
  }
  for (const auto& one : grid.blocks) {
    if (one->started && one->alive > 0) unpoison(one->shared + offset, bytes);
  }
  return block.shared + offset;
}

void* map_shared_rank(const void* mine, unsigned rank) {
  const Block& block = *current->block;
  if (!is_shared(block, mine)) fail("mapa: the address is not in this block's shared memory");
  if (rank >= block.cluster->blocks.size()) fail("mapa: rank %u of a cluster of %u", rank, cluster_size());
  return block.cluster->blocks[rank]->shared + (static_cast<const char*>(mine) - block.shared);
}

}  // namespace emulator
