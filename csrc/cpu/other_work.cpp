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

bool Streak::goes_on(Time now) {
  const int before = now < last_ + kGap ? count_ : 0;
  last_ = now;
  count_ = std::min(before + 1, kCalls);
  return before == kCalls;
}

OtherWork& other_work() {
  static OtherWork one;
  return one;
}

Streak& streak() {
  static thread_local Streak one;
  return one;
}

}  // namespace gru_fused::cpu
