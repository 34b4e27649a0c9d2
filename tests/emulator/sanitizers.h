// What the sanitizers must be told about fibers, shared memory and synchronisation. Nothing in an ordinary build.
//
// Under ThreadSanitizer the emulator's own files are compiled without instrumentation, but with
// GRU_FUSED_EMULATOR_TSAN: their bookkeeping is no part of the program under test, and every order between threads
// must be one that the device would give as well.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define EMULATOR_ASAN 0
#endif

#if defined(GRU_FUSED_EMULATOR_TSAN) || defined(__SANITIZE_THREAD__)
#define EMULATOR_TSAN 1
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read_range(void* address, unsigned long size);
void __tsan_write_range(void* address, unsigned long size);
void __tsan_func_entry(void* return_address);
void __tsan_func_exit();
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#else
#define EMULATOR_TSAN 0
#endif

namespace emulator {

inline constexpr bool address_sanitizer = EMULATOR_ASAN, thread_sanitizer = EMULATOR_TSAN;

#if EMULATOR_ASAN
inline void poison(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
#endif

#if EMULATOR_TSAN
// What came before release(key) in one thread happens before what follows a later acquire(key) in another.
inline void release(void* key) { __tsan_release(key); }
inline void acquire(void* key) { __tsan_acquire(key); }
inline void note_read(const void* p, size_t bytes) { __tsan_read_range(const_cast<void*>(p), bytes); }
inline void note_write(void* p, size_t bytes) { __tsan_write_range(p, bytes); }
// So that a report of what follows names the kernel's line and not only the emulator's.
class Frame {
 public:
  explicit Frame(void* return_address) { __tsan_func_entry(return_address); }
  ~Frame() { __tsan_func_exit(); }
};
inline void ignore_accesses(bool on) {
  (on ? AnnotateIgnoreReadsBegin : AnnotateIgnoreReadsEnd)(__FILE__, __LINE__);
  (on ? AnnotateIgnoreWritesBegin : AnnotateIgnoreWritesEnd)(__FILE__, __LINE__);
}
#else
inline void release(void*) {}
inline void acquire(void*) {}
inline void note_read(const void*, size_t) {}
inline void note_write(void*, size_t) {}
class Frame {
 public:
  explicit Frame(void*) {}
};
inline void ignore_accesses(bool) {}
#endif

}  // namespace emulator
