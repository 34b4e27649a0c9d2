// mbarrier, st.async and cp.async.

#include <algorithm>
#include <cstring>
#include <utility>

#include "sanitizers.h"
#include "threads.h"

namespace emulator {
namespace {

// A phase is over when nothing is pending, neither arrivals nor bytes. The bytes may come before they are expected,
// hence the sign.
struct Mbarrier {
  uint64_t count : 20;
  uint64_t pending : 20;
  uint64_t phase : 1;
  uint64_t invalid : 1;  // set in fresh shared memory, which is all ones
  int64_t bytes : 22;
};
static_assert(sizeof(Mbarrier) == sizeof(uint64_t));

constexpr unsigned most = (1u << 20) - 1;

Mbarrier load(const uint64_t* barrier, const char* what) {
  note_read(barrier, sizeof *barrier);  // a race with an init that is not ordered before
  Mbarrier state;
  __builtin_memcpy(&state, barrier, sizeof state);
  if (state.invalid) fail("%s: the mbarrier was not initialised", what);
  return state;
}

void store(uint64_t* barrier, const Mbarrier& state) { __builtin_memcpy(barrier, &state, sizeof state); }

// For ThreadSanitizer, by turns: a thread may be in the next phase before all have seen the end of this one.
void* key_of(uint64_t* barrier, unsigned phase) { return reinterpret_cast<char*>(barrier) + phase; }

// Null, or what is wrong.
const char* update(Mbarrier& state, unsigned arrivals, int64_t bytes) {
  if (arrivals > state.pending) return "more arrivals than the mbarrier counts in a phase";
  if (state.bytes + bytes > most || state.bytes + bytes < -static_cast<int64_t>(most)) return "too many bytes pending";
  state.pending -= arrivals;
  state.bytes += bytes;
  if (state.pending == 0 && state.bytes == 0) {
    state.phase ^= 1;
    state.pending = state.count;
  }
  return nullptr;
}

void arrive(uint64_t* barrier, unsigned arrivals, int64_t bytes, const char* what) {
  owner_of_shared(barrier, what);
  Mbarrier state = load(barrier, what);
  release(key_of(barrier, state.phase));
  if (const char* wrong = update(state, arrivals, bytes)) fail("%s: %s", what, wrong);
  store(barrier, state);
}

void copy(const AsyncCopy& one) {
  note_read(one.source, one.source_bytes);
  note_write(one.target, one.bytes);
  Unwatched unwatched;
  std::memcpy(one.target, one.source, one.source_bytes);
  std::memset(static_cast<char*>(one.target) + one.source_bytes, 0, one.bytes - one.source_bytes);
}

}  // namespace

void mbarrier_init(uint64_t* barrier, unsigned count) {
  const Frame frame(__builtin_return_address(0));
  if (&owner_of_shared(barrier, "mbarrier.init") != current->block) fail("mbarrier.init: of a peer's mbarrier");
  if (reinterpret_cast<uintptr_t>(barrier) % 8 != 0) fail("mbarrier.init: the address is not aligned to 8");
  if (count == 0 || count > most) fail("mbarrier.init: a count of %u", count);
  note_write(barrier, sizeof *barrier);
  store(barrier, {count, count, 0, 0, 0});
}

void mbarrier_arrive(uint64_t* barrier) {
  const Frame frame(__builtin_return_address(0));
  arrive(barrier, 1, 0, "mbarrier.arrive");
}

void mbarrier_arrive_expect_tx(uint64_t* barrier, unsigned bytes) {
  const Frame frame(__builtin_return_address(0));
  arrive(barrier, 1, bytes, "mbarrier.arrive.expect_tx");
}

void mbarrier_complete_tx(uint64_t* barrier, unsigned bytes) {
  const Frame frame(__builtin_return_address(0));
  arrive(barrier, 0, -static_cast<int64_t>(bytes), "mbarrier.complete_tx");
}

bool mbarrier_try_wait(uint64_t* barrier, unsigned parity) {
  const Frame frame(__builtin_return_address(0));
  if (&owner_of_shared(barrier, "mbarrier.try_wait") != current->block) fail("mbarrier.try_wait: at a peer's mbarrier");
  if (parity > 1) fail("mbarrier.try_wait: a parity of %u", parity);
  if (load(barrier, "mbarrier.try_wait").phase == parity) yield("mbarrier.try_wait");
  if (load(barrier, "mbarrier.try_wait").phase == parity) return false;
  acquire(key_of(barrier, parity));
  note_progress();
  return true;
}

void store_async(void* target, const void* value, unsigned bytes, uint64_t* barrier) {
  const Frame frame(__builtin_return_address(0));
  const char* what = "st.async";
  const Block& owner = owner_of_shared(target, what);
  if (&owner != &owner_of_shared(barrier, what)) fail("st.async: the target and the mbarrier are not in one block");
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("st.async: %u bytes", bytes);
  if (reinterpret_cast<uintptr_t>(target) % bytes != 0) fail("st.async: the target is not aligned to %u", bytes);
  ++stats().async_stores;
  // For ThreadSanitizer it happens here and now: it has no notion of a store without a thread, and what is ordered
  // before the issue or after the barrier's phase comes out right.
  note_write(target, bytes);
  release(key_of(barrier, load(barrier, what).phase));

  AsyncStore store{current->block, current->number, target, {}, bytes, barrier};
  __builtin_memcpy(store.value, value, bytes);
  Unwatched unwatched;
  Grid& grid = *current->block->grid;
  if (options().late_stores) {
    grid.stores.push_back(store);
  } else {
    land_store(grid, store);
  }
}

void land_store(Grid& grid, const AsyncStore& landing) {
  const std::string sender = place(*landing.from) + ", thread " + std::to_string(landing.thread);
  for (const auto& block : grid.blocks) {
    if (!is_shared(*block, landing.target)) continue;
    if (block->alive == 0)
      return fail_launch(sender + ": its st.async lands in " + place(*block) + ", which has exited");
  }
  Mbarrier state;
  __builtin_memcpy(&state, landing.barrier, sizeof state);
  if (const char* wrong = update(state, 0, -static_cast<int64_t>(landing.bytes))) {
    return fail_launch(sender + ": st.async: " + wrong);
  }
  __builtin_memcpy(landing.target, landing.value, landing.bytes);
  store(landing.barrier, state);
}

void copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes) {
  const Frame frame(__builtin_return_address(0));
  if (!is_shared(*current->block, shared)) fail("cp.async: the target is not in this block's shared memory");
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async: %u bytes", bytes);
  if (source_bytes > bytes) fail("cp.async: %u bytes of %u", source_bytes, bytes);
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes != 0) {
    fail("cp.async: an address is not aligned to %u", bytes);
  }
  const AsyncCopy one{shared, global, bytes, source_bytes};
  note_read(global, source_bytes);  // from here until the wait, both may happen at any time
  note_write(shared, bytes);
  if (options().late_stores) {
    Unwatched unwatched;
    current->open_copies.push_back(one);
  } else {
    copy(one);
  }
}

void copy_async_commit() {
  Unwatched unwatched;
  current->copies.push_back(std::exchange(current->open_copies, {}));
}

void copy_async_wait(unsigned pending_groups) {
  const Frame frame(__builtin_return_address(0));
  std::deque<std::vector<AsyncCopy>>& groups = current->copies;
  while (groups.size() > pending_groups) {
    for (const AsyncCopy& one : groups.front()) copy(one);
    Unwatched unwatched;
    groups.pop_front();
  }
}

}  // namespace emulator
