// A fiber: a stack of its own and the place where it goes on.
#pragma once

#include <string>

namespace emulator {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber();

  // Gives it a stack on which `entry`, which must not return, begins at the first resume().
  void prepare(void (*entry)());

  void set_name(const std::string& name);  // for ThreadSanitizer's reports

  // Called by the scheduler: runs the fiber until it suspends itself.
  void resume();

  // Called by the fiber's own entry, first of all.
  void entered();

  // Called by the running fiber. After the last suspension it is never resumed.
  void suspend(bool last = false);

  // Called by the scheduler for a fiber that will not be resumed: all that it did is ordered before what follows
  // acquire(key).
  void bury(void* key, bool unwatched);

  bool overflowed() const;

 private:
  void* resume_point_ = nullptr;
  char* stack_ = nullptr;
  bool started_ = false;
  void* asan_stack_ = nullptr;
  void* tsan_fiber_ = nullptr;
};

}  // namespace emulator
