#include "other_work.h"

#include <algorithm>

namespace gru_fused::cpu {

bool OtherWork::expected(Time now) const {
  return now.time_since_epoch().count() < until_.load(std::memory_order_relaxed);
}

void OtherWork::was_late(Time now, Duration by) {
  if (by <= kPatience) return;
  const Duration before(pause_.load(std::memory_order_relaxed));
  const bool same_attempt = expected(now);  // another was late, too
  const Duration pause = std::min<Duration>(std::max(by, same_attempt ? before : 2 * before), kLongest);
  pause_.store(pause.count(), std::memory_order_relaxed);
  until_.store((now + pause).time_since_epoch().count(), std::memory_order_relaxed);
}

void OtherWork::was_in_time(Time now, Duration worked) {
  if (expected(now)) return;  // one was late after all
  const Duration before(pause_.load(std::memory_order_relaxed));
  if (before.count() > 0)
    pause_.store(std::max(before - kForgiven * worked, Duration(0)).count(), std::memory_order_relaxed);
}

bool Streak::goes_on(Clock::time_point now) {
  const Clock::duration::rep time = now.time_since_epoch().count();
  const Clock::duration since(time - last_.exchange(time, std::memory_order_relaxed));
  const int before = since < kGap ? count_.load(std::memory_order_relaxed) : 0;
  count_.store(std::min(before + 1, kCalls), std::memory_order_relaxed);
  return before == kCalls;
}

OtherWork& other_work() {
  static OtherWork one;
  return one;
}

Streak& streak() {
  static Streak one;
  return one;
}

}  // namespace gru_fused::cpu
