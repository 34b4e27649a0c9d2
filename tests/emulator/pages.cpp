#include "pages.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "sanitizers.h"

namespace emulator {
namespace {

std::map<size_t, std::vector<char*>>& kept() {
  static auto* pages = new std::map<size_t, std::vector<char*>>;  // outlives every launch
  return *pages;
}

}  // namespace

char* take_pages(size_t bytes) {
  std::vector<char*>& same_size = kept()[bytes];
  if (!same_size.empty()) {
    char* pages = same_size.back();
    same_size.pop_back();
    return pages;
  }
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) {
    std::perror("emulator: no memory for a stack or a block's shared memory");
    std::abort();
  }
  return static_cast<char*>(pages);
}

void give_pages(char* pages, size_t bytes) {
  // ThreadSanitizer remembers who touched an address until it is unmapped. Blocks that run one after the other are
  // not ordered for it (on the device they run at once), so reused memory would look like a race between them.
  if (thread_sanitizer) {
    munmap(pages, bytes);
  } else {
    unpoison(pages, bytes);
    kept()[bytes].push_back(pages);
  }
}

}  // namespace emulator
