// Threads that share the hidden units of one share of the batch and meet after every step.
//
// Nothing here depends on how many come: a caller that runs its pieces one after the other (inside another parallel
// region, say) or has no second core free makes a team of one, which does all the work. What a thread computes does not
// depend on the others, so the results are the same to the last bit.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "other_work.h"
#include "panels.h"

namespace gru_fused {
namespace {

class Team {
 public:
  using Clock = cpu::OtherWork::Clock;
  using Time = cpu::OtherWork::Time;

  // The calling thread's rank in the team, from 0 on, or -1 if the team began without it. The first one waits a moment
  // for the others, up to `wanted` in all.
  int join(int wanted) {
    const uint32_t before = joined_.fetch_add(1, std::memory_order_acq_rel);
    if (before & kClosed) return -1;
    if (before == 0) {
      const Time begin = Clock::now();
      if (!cpu::other_work().expected(begin))
        while (joined_.load(std::memory_order_relaxed) < uint32_t(wanted) &&
               Clock::now() < begin + cpu::OtherWork::kPatience)
          pause();
      size_.store(int(joined_.fetch_or(kClosed, std::memory_order_acq_rel)), std::memory_order_release);
    } else {
      wait([&] { return size_.load(std::memory_order_acquire) != 0; });
    }
    return int(before);
  }

  int size() const { return size_.load(std::memory_order_relaxed); }

  // Returns when all have called it as often as the caller has, which has worked since `begun`. `even`: what they did
  // takes equally long; who takes twice as long then has lost the core to other work.
  void meet(bool even, Time begun) {
    const int size = this->size();
    const uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
    } else {
      const Time done = Clock::now();
      wait([&] { return round_.load(std::memory_order_acquire) != round; });
      const Time met = Clock::now();
      if (even) cpu::other_work().was_late(met, (met - done) - (done - begun));
    }
  }

 private:
  static constexpr uint32_t kClosed = 1u << 31;
  // About what a step's parts differ by; then the core is left to whoever is waited for, who may need it.
  static constexpr int kSpins = 200;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  template <class Ready>
  static void wait(const Ready& ready) {
    for (int i = 0; i < kSpins; ++i) {
      if (ready()) return;
      pause();
    }
    while (!ready()) std::this_thread::yield();
  }

  std::atomic<uint32_t> joined_{0};
  std::atomic<int> size_{0};
  alignas(64) std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
};

// One thread of a team.
class Member {
 public:
  // Of a plan's team of `most`; one alone meets nobody and reads no clock, which a short step would notice.
  Member(Team* team, int most) : team_(team) {
    if (most == 1) return;
    rank_ = team->join(most);
    size_ = team->size();
    begun_ = Team::Clock::now();
  }

  bool joined() const { return rank_ >= 0; }
  // Its part of `count` things.
  Range part(int64_t count) const { return {count * rank_ / size_, count * (rank_ + 1) / size_}; }

  void meet_after_step() { meet(true); }
  void meet_after_chunk() { meet(false); }

 private:
  void meet(bool even) {
    if (size_ == 1) return;
    team_->meet(even, begun_);
    begun_ = Team::Clock::now();
  }

  Team* team_;
  int rank_ = 0, size_ = 1;
  Team::Time begun_;  // what it does now
};

}  // namespace
}  // namespace gru_fused
