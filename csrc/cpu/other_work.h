// Whether other work has this process's cores, so that a call had better stay on its own thread.
//
// A shared call ends when its last thread has come and gone, and a thread whose core is taken comes a slice of the
// scheduler later: milliseconds. Nobody tells who else runs; so each thread that is late tells, and then calls stay
// alone for a while: for as long as it was late, twice as long if the attempt after that fails too, and so on. Shared
// calls that nobody is late for take a multiple of their own time off what the next pause begins with.
#pragma once

#include <atomic>
#include <chrono>

namespace gru_fused::cpu {

class OtherWork {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;
  using Duration = Clock::duration;

  // A thread that is waited for no longer than this is in time: waking one takes some 50 us.
  static constexpr std::chrono::microseconds kPatience{100};
  // One attempt that fails costs about 10 ms.
  static constexpr std::chrono::milliseconds kLongest{250};
  // Threads that come a little late every now and then still win.
  static constexpr int kForgiven = 8;

  bool expected(Time now) const;
  void was_late(Time now, Duration by);
  void was_in_time(Time now, Duration worked);

 private:
  // Several threads may tell at once. What is lost then is an opinion on the length of a pause.
  std::atomic<Duration::rep> until_{Time::min().time_since_epoch().count()}, pause_{0};
};

// The one of this process: its threads share the cores.
OtherWork& other_work();

// Whether brief calls come one right after the other, so that the threads that would share them are still awake: to
// wake them takes about as long as they would save, and longer if other work has their cores.
class Streak {
 public:
  using Time = OtherWork::Time;

  // From one's beginning to the next one's; a brief call takes up to about half of it.
  static constexpr std::chrono::milliseconds kGap{2};
  // The layers of one call come right after each other, too.
  static constexpr int kCalls = 16;

  // A brief call begins: whether enough others did just before it.
  bool goes_on(Time now);

 private:
  Time last_ = Time::min();
  int count_ = 0;
};

// The one of the calling thread, which has a pool of its own.
Streak& streak();

}  // namespace gru_fused::cpu
