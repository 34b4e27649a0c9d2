// Warp collectives: lanes that name each other in a mask meet, and the last to come does the work for all.

#include <bit>

#include "sanitizers.h"
#include "threads.h"

namespace emulator {
namespace {

// Two lanes that wait for each other in different collectives never meet. A lane that waits elsewhere for others only
// may still come.
Collective* find(Warp& warp, uint32_t mask, Combine* combine, const char* what) {
  Collective* found = nullptr;
  for (const auto& pending : warp.pending) {
    if (pending->mask == mask && pending->combine == combine) {
      found = pending.get();
    } else if (const uint32_t stuck = pending->arrived & mask; stuck != 0 && pending->mask >> lane() & 1) {
      fail("lanes of one warp are in different collectives: lane %u in %s (mask %08x), lane %d in %s (mask %08x)",
           lane(), what, mask, std::countr_zero(stuck), pending->what, pending->mask);
    }
  }
  return found;
}

void finish(Warp& warp, Collective* collective) {
  Unwatched unwatched;  // lanes read and write each other's variables here
  collective->combine(collective->in, collective->out, collective->arrived, collective->function);
  for (uint32_t others = collective->arrived; others != 0; others &= others - 1) {
    Thread* thread = warp.lanes[std::countr_zero(others)];
    if (thread != current) make_ready(thread);
  }
  std::erase_if(warp.pending, [&](const auto& pending) { return pending.get() == collective; });
}

WarpOrder& order_of(Warp& warp, uint32_t mask) {
  for (const auto& order : warp.orders) {
    if (order->mask == mask) return *order;
  }
  Unwatched unwatched;
  WarpOrder& order = *warp.orders.emplace_back(std::make_unique<WarpOrder>());
  order.mask = mask;
  return order;
}

}  // namespace

unsigned lane() { return current->lane; }

void run_collective(uint32_t mask, const void* in, void* out, Combine* combine, const void* function,
                    const char* what) {
  const unsigned mine = current->lane;
  Warp& warp = *current->warp;
  ++stats().collectives;
  if (!(mask >> mine & 1)) fail("%s: lane %u is not in its own mask %08x", what, mine, mask);
  Collective* collective = find(warp, mask, combine, what);
  if (!collective) {
    Unwatched unwatched;
    collective = warp.pending.emplace_back(std::make_unique<Collective>()).get();
    collective->mask = mask;
    collective->combine = combine;
    collective->what = what;
  }
  collective->arrived |= 1u << mine;
  collective->in[mine] = in;
  collective->out[mine] = out;
  collective->function = function;
  if (collective->arrived == (mask & warp.alive)) {
    finish(warp, collective);
  } else {
    wait_here(what);
  }
}

void warp_sync(uint32_t mask) {
  WarpOrder& order = order_of(*current->warp, mask);
  void* key = &order.keys[order.phase & 1];
  release(key);
  WarpOrder* const mine = &order;
  char result;
  Combine* const next_phase = [](const void* const* in, void* const*, uint32_t lanes, const void*) {
    ++(*static_cast<WarpOrder* const*>(in[std::countr_zero(lanes)]))->phase;
  };
  run_collective(mask, &mine, &result, next_phase, nullptr, "__syncwarp");
  acquire(key);
}

// A collective waits for the lanes that have not exited.
void leave_warp(Thread& thread) {
  Warp& warp = *thread.warp;
  warp.alive &= ~(1u << thread.lane);
  for (size_t i = 0; i < warp.pending.size();) {
    Collective* collective = warp.pending[i].get();
    if (collective->arrived == (collective->mask & warp.alive)) {
      finish(warp, collective);
    } else {
      ++i;
    }
  }
}

}  // namespace emulator
